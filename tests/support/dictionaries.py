"""Tiny random sparse autoencoders as folders in sae-lens's format, and tiny models for them to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, UNUSUAL, Tokens, build
from safetensors.torch import save_file

import labkit as lk

WIDTH, FEATURES, K = 32, 80, 8
PLAIN = ("topk", "jumprelu", "standard")


def weights(kind: str, *, d_in: int = WIDTH, features: int = FEATURES, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights; each detector looks roughly along its own direction, as a trained one does."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    directions = torch.nn.functional.normalize(random(features, d_in), dim=-1)
    found = {
        "W_enc": (directions.T + 0.1 * random(d_in, features)).contiguous(),
        "b_enc": 0.2 * random(features),
        "W_dec": directions * (0.8 + 0.4 * torch.rand(features, 1, generator=generator)),
        "b_dec": 0.5 * random(d_in),
    }
    if kind == "jumprelu":
        found["threshold"] = 0.2 + torch.rand(features, generator=generator)
    return found


def config(
    kind: str, *, d_in: int = WIDTH, features: int = FEATURES, layer: int = 1, model: str | None
) -> dict[str, Any]:
    """What sae-lens 6 writes for one, up to what is of no use here."""
    metadata = {"sae_lens_version": "6.54.12", "model_name": model, "hook_name": f"blocks.{layer}.hook_resid_pre"}
    return {
        "architecture": kind,
        "d_in": d_in,
        "d_sae": features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    } | ({"k": K} if kind == "topk" else {})


def folder(
    path: Path,
    kind: str = "topk",
    *,
    layer: int = 1,
    model: str | None = None,
    d_in: int = WIDTH,
    features: int = FEATURES,
    measured: dict[str, float] | None = None,
    changed: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write an autoencoder by hand.

    layer: it reads what enters this. model: its model's name; without one it goes with every lab. measured: typical_norm
    and outlier. changed: entries of cfg.json that are to be otherwise. tensors: instead of random weights.
    """
    path.mkdir(parents=True, exist_ok=True)
    settings = config(kind, d_in=d_in, features=features, layer=layer, model=model)
    if measured is not None:
        settings["metadata"]["labkit"] = measured
    (path / "cfg.json").write_text(json.dumps(settings | (changed or {})), encoding="utf-8")
    save_file(tensors or weights(kind, d_in=d_in, features=features), path / "sae_weights.safetensors")
    return path


def library_folder(path: Path, kind: str, **settings: Any) -> Path:
    """Written by sae-lens's own save_model, with random weights: any of its kinds."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = get_sae_class(kind)
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_post")  # the same place as blocks.1.hook_resid_pre
    sae = sae_class(config_class(d_in=WIDTH, d_sae=FEATURES, metadata=metadata, **settings))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    sae.save_model(path)
    return path


def make_lab(family: str = "llama2", *, dtype: torch.dtype = torch.float32) -> lk.Lab:
    """A tiny random model, 32 numbers a token, whose residual stream is large enough that features are active."""
    return lk.Lab(build((FAMILIES | UNUSUAL)[family]).to(dtype), Tokens(), name=family)


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
