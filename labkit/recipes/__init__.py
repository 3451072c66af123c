"""The scripts that made what labkit ships, and the records of their runs; run by hand, never by a notebook.

`python -m labkit.recipes.texts` gathers the texts, `python -m labkit.recipes.moe` trains the mixture of experts.
"""
