"""An autoencoder as a folder in sae-lens's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONFIG", "WEIGHTS", "write"]

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def write(folder: Path, settings: Mapping[str, object], weights: Mapping[str, Tensor]) -> None:
    """Write cfg.json and sae_weights.safetensors, float32. The folder is there whole or not at all.

    settings: as of sae-lens 6; its version is added to the metadata, without which it takes the folder for an older one.
    Raises BadInput where there is one already.
    """
    from safetensors.torch import save_file

    if folder.exists():
        raise BadInput(f"{folder.name} is there already; give another name, or remove it first.")
    metadata = settings.get("metadata")
    about = {"sae_lens_version": version("sae-lens"), **(metadata if isinstance(metadata, Mapping) else {})}
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file({name: value.detach().float().contiguous() for name, value in weights.items()}, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps({**settings, "metadata": about}, indent=1) + "\n", "utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
