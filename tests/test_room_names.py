"""No module of a room is named like what the room offers, which it would hide once imported."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

ROOMS = (
    "attention",
    "circuits",
    "context",
    "generation",
    "landscape",
    "lora",
    "moe",
    "quantization",
    "sae",
    "tokenization",
    "trace",
)


@pytest.mark.parametrize("room", ROOMS)
def test_a_public_name_stays_what_it_is_when_every_module_is_imported(room: str) -> None:
    package = import_module(f"labkit.{room}")
    before = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"labkit.{room}.{module.name}")
    hidden = [name for name, was in before.items() if getattr(package, name) is not was]
    assert not hidden
    assert all(not isinstance(was, ModuleType) or was.__name__.startswith("labkit.") for was in before.values())
