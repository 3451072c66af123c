"""Decoding: prompts in, recorded generations out."""
