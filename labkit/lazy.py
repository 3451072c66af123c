"""Public names of a package that are fetched when they are first asked for, so that importing it takes no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

Names = Mapping[str, Iterable[str]]


def lazy_names(
    package: str, names: Names, *, elsewhere: Names | None = None, modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's own attributes: `__getattr__, __dir__, __all__ = lazy_names(__name__, {"module": ("name",)})`.

    names: by the modules of the package that have them; none may be called like a module, which would stand in its place.
    elsewhere: by other modules, with their whole names.  modules: of the package, that are public themselves.
    """
    homes = {name: f"{package}.{module}" for module, own in names.items() for name in own}
    homes |= {name: module for module, own in (elsewhere or {}).items() for name in own}
    rooms = frozenset(modules)
    public = sorted({*homes, *rooms})

    def fetch(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package}.{name}")  # which puts it into the package
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return fetch, listed, public
