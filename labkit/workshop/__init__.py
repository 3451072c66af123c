"""The `labkit` command and what a workshop needs around the notebooks."""
