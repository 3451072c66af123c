"""labkit: see into language models."""
