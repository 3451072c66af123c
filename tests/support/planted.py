"""Autoencoders whose truth is known: at layer 0, where the residual is the token's embedding, feature j is token j."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from labkit.sae import SAE

ABOVE = 0.8  # of a token's own embedding; no two embeddings of the tiny models are so much alike


def detectors(lab: Any, *, height: float = 2.0, **fields: Any) -> SAE:
    """Feature j is at work on token j and nowhere else, with activation `height`; its direction is token j's embedding."""
    embeddings = lab.model.get_input_embeddings().weight.detach().float().clone()
    per_unit = height / (1 - ABOVE)
    given: dict[str, Any] = {
        "name": "detectors",
        "model": None,
        "layer": 0,
        "architecture": "standard",
        "encoder": (per_unit * embeddings / embeddings.square().sum(-1, keepdim=True).clamp(min=1e-12)).T.contiguous(),
        "encoder_bias": torch.full((len(embeddings),), -ABOVE * per_unit),
        "decoder": embeddings / embeddings.norm(dim=-1, keepdim=True).clamp(min=1e-6),
        "decoder_bias": torch.zeros(embeddings.shape[1]),
    }
    return SAE(**(given | fields))


def memory(lab: Any, **fields: Any) -> SAE:
    """Knows every token's embedding by heart: one feature at work on a token, and what it says is all there is."""
    embeddings = lab.model.get_input_embeddings().weight.detach().float().clone()
    given: dict[str, Any] = {
        "name": "memory",
        "model": None,
        "layer": 0,
        "architecture": "topk",
        "k": 1,
        "encoder": (embeddings / embeddings.square().sum(-1, keepdim=True).clamp(min=1e-12)).T.contiguous(),
        "encoder_bias": torch.zeros(len(embeddings)),
        "decoder": embeddings,
        "decoder_bias": torch.zeros(embeddings.shape[1]),
    }
    return SAE(**(given | fields))


def mirror(d_in: int = 32, *, layer: int = 1, **fields: Any) -> SAE:
    """Says every vector again exactly: a feature for each number's positive and each number's negative part."""
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    given: dict[str, Any] = {
        "name": "mirror",
        "model": None,
        "layer": layer,
        "architecture": "standard",
        "encoder": both.T.contiguous(),
        "encoder_bias": torch.zeros(2 * d_in),
        "decoder": both,
        "decoder_bias": torch.zeros(d_in),
    }
    return SAE(**(given | fields))


def rows(count: int, length: int, *, seed: int = 0, tokens: Sequence[int] = range(3, 100)) -> list[list[int]]:
    """Texts of random token ids."""
    draw = torch.Generator().manual_seed(seed)
    return [[tokens[i] for i in torch.randint(len(tokens), (length,), generator=draw).tolist()] for _ in range(count)]
