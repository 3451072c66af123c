"""The exercises of the series, one module a notebook."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from typing import Any

from labkit.errors import BadInput
from labkit.teaching.exercises.definition import Case, Exercise, Mistake
from labkit.views.visible import shorten, visible

__all__ = ["Case", "Exercise", "Mistake", "all_exercises", "find"]

_TOPICS = ("first_look", "attention", "moe", "sae")


@cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise by its id, in the order of the notebooks."""
    modules = [import_module(f"labkit.teaching.exercises.{topic}") for topic in _TOPICS]
    return {exercise.id: exercise for module in modules for exercise in module.EXERCISES}


def find(id: Any) -> Exercise:
    """The exercise of an id. Raises BadInput, with the nearest ids, where there is none."""
    known = all_exercises()
    if isinstance(id, str) and id in known:
        return known[id]
    asked = shorten(visible(repr(id)), 80)
    names = {name.partition(".")[2]: name for name in known}
    text = id if isinstance(id, str) else ""
    near = difflib.get_close_matches(text, known, 3, 0.5)
    near += [names[name] for name in difflib.get_close_matches(text, names, 3, 0.5) if names[name] not in near]
    there = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
    raise BadInput(f"There is no exercise {asked}; {there}")
