"""The exercises of the series: each module of this folder that has EXERCISES holds those of one notebook."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module

from labkit.errors import BadInput
from labkit.markup import shorten, visible
from labkit.teaching.exercises.definition import Case, Exercise, Mistake
from labkit.teaching.series import RENAMED, place

__all__ = ["Case", "Exercise", "Mistake", "all_exercises", "find"]


@cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise by its id, in the order of the notebooks."""
    names = sorted((module.name for module in pkgutil.iter_modules(__path__)), key=place)
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return {exercise.id: exercise for module in modules for exercise in getattr(module, "EXERCISES", ())}


def find(id: object) -> Exercise:
    """The exercise of an id. Raises BadInput, with the nearest ids, where there is none."""
    known = all_exercises()
    if isinstance(id, str) and RENAMED.get(id, id) in known:
        return known[RENAMED.get(id, id)]
    asked = shorten(visible(repr(id)), 80)
    names = {name.partition(".")[2]: name for name in known}
    text = id if isinstance(id, str) else ""
    near = difflib.get_close_matches(text, known, 3, 0.5)
    near += [names[name] for name in difflib.get_close_matches(text, names, 3, 0.5) if names[name] not in near]
    there = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
    raise BadInput(f"There is no exercise {asked}; {there}")
