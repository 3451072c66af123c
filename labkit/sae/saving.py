"""An autoencoder as a folder in sae-lens's format."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import BadInput

if TYPE_CHECKING:
    from labkit.sae.dictionary import SAE

__all__ = ["CONFIG", "WEIGHTS", "save"]

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def save(sae: SAE, folder: Path) -> None:
    """Write cfg.json and sae_weights.safetensors, float32. The folder is there whole or not at all.

    Raises BadInput where there is one already.
    """
    from safetensors.torch import save_file

    if folder.exists():
        raise BadInput(f"{folder.name} is there already; give another name, or remove it first.")
    weights = {
        "W_enc": sae.encoder,
        "b_enc": sae.encoder_bias,
        "W_dec": sae.decoder,
        "b_dec": sae.decoder_bias,
    } | ({} if sae.threshold is None else {"threshold": sae.threshold})
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file({name: value.detach().float().contiguous() for name, value in weights.items()}, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(_settings(sae), indent=1) + "\n", "utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _settings(sae: SAE) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "sae_lens_version": version("sae-lens"),  # without it the library takes the folder for one of before 6.0
        "model_name": sae.model,
        "hook_name": f"blocks.{sae.layer}.hook_resid_pre",
    }
    if sae.typical_norm is not None and sae.outlier is not None:
        metadata["labkit"] = {"typical_norm": sae.typical_norm, "outlier": sae.outlier}
    if sae.centred:
        metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    return {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": len(sae),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtracts_bias,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    } | ({} if sae.k is None else {"k": sae.k})
