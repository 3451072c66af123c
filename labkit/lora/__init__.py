"""LoRA: teach a model something, watch it learn, see what it forgets, take it back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.lora.adapters import Adapter as Adapter
    from labkit.lora.adapters import load as load
    from labkit.lora.adapters import taken as taken

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES: dict[str, tuple[str, ...]] = {
    "adapters": ("Adapter", "load", "taken"),
}
_HOMES = {name: f"labkit.lora.{module}" for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
