"""The GGUF file that holds a model's own weights, and whether the model still has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from labkit.models.reuse import state_of

if TYPE_CHECKING:
    import torch


def remember(model: torch.nn.Module, file: Path) -> None:
    """Note the file that a model was just opened from, or that its source is."""
    _FILES[model] = file, state_of(model)


def gguf_of(model: torch.nn.Module) -> Path | None:
    """The file of a model as it is; None where it has none, or was changed since: trained, converted, extended, hooked."""
    file, state = _FILES.get(model, (None, 0))
    return file if file is not None and state == state_of(model) else None


_FILES: WeakKeyDictionary[torch.nn.Module, tuple[Path, int]] = WeakKeyDictionary()
