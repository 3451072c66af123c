"""docs/adding_an_exercise.md: its exercise goes through the same tests as all others, and into a notebook."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import test_exercises
import torch
from pages import blocks

import labkit as lk
from labkit.teaching import exercises
from labkit.teaching.exercises import Exercise, all_exercises
from notebooks import builder

PAGE, ID = "adding_an_exercise.md", "first_look.entropy"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's code as a module, its exercise beside all others."""
    path = tmp_path / "from_the_page.py"
    path.write_text("\n\n".join(blocks(PAGE)), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("from_the_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "from_the_page", module)
    spec.loader.exec_module(module)
    known = all_exercises() | {exercise.id: exercise for exercise in module.EXERCISES}
    for place in (exercises, test_exercises):
        monkeypatch.setattr(place, "all_exercises", lambda: known)
    return module


def test_the_page_s_exercise_is_whole(page: ModuleType) -> None:
    (exercise,) = page.EXERCISES
    assert isinstance(exercise, Exercise)
    assert exercise.id == ID
    test_exercises.test_an_exercise_is_whole(ID)


def test_its_reference_passes_and_its_stub_stops_nothing(page: ModuleType) -> None:
    test_exercises.test_the_reference_passes_and_the_stub_stops_nothing(ID)


def test_each_of_its_mistakes_gets_its_message(page: ModuleType) -> None:
    (exercise,) = page.EXERCISES
    for mistake in exercise.mistakes:
        lk.progress(clear=ID)
        test_exercises.test_each_usual_mistake_gets_its_message(ID, mistake.wrong.__name__)


def test_its_reference_agrees_with_torch(page: ModuleType) -> None:
    p = torch.softmax(torch.randn(50, generator=torch.Generator().manual_seed(3)), 0)
    assert float(page.entropy(p)) == pytest.approx(float(torch.distributions.Categorical(p).entropy()), abs=1e-5)


def test_the_notebook_s_line_becomes_its_cells(page: ModuleType) -> None:
    build = builder()
    (source,) = blocks(PAGE, "")
    named = build.EXERCISE.match(source.splitlines()[1])
    assert named
    card, stub, solution, check = build.exercise_cells(named["id"], named["result"])
    assert card.source == f'lk.exercise("{ID}")'
    assert stub.source.endswith('"""\n    return ...')
    assert stub.source.startswith('def entropy(probabilities):\n    """How open a choice is, in nats.')
    assert "likely.log()" in solution.source
    assert check.source == f'checked = lk.check("{ID}", entropy)\nchecked'
