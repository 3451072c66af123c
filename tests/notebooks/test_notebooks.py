"""The notebooks: in step with their source, small, clean. That they run is nbval's part (`make test`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notebooks import ROOT, builder, run_alone

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "notebooks" / "solved").glob("*.ipynb"))


def name(path: Path) -> str:
    return f"solved-{path.stem}" if path.parent.name == "solved" else path.stem


def each_section() -> list[tuple[str, Path, int]]:
    """(name, notebook, number) of every section; of the solved version only those that are not the learner's again."""
    build = builder()
    found: list[tuple[str, Path, int]] = []
    seen: set[tuple[str, str]] = set()
    for path in NOTEBOOKS:
        for section in build.sections(nbformat.read(path, as_version=4)):
            code = "\n\n".join(cell.source for cell in section.code)
            if (path.stem, code) not in seen:
                seen.add((path.stem, code))
                found.append((f"{name(path)}-{section.number}", path, section.number))
    return found


def test_there_are_notebooks_of_both_kinds() -> None:
    learner = [path.name for path in NOTEBOOKS if path.parent.name != "solved"]
    assert learner
    assert learner == [path.name for path in NOTEBOOKS if path.parent.name == "solved"]


def test_each_notebook_follows_from_its_source() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_in_git_is_small_and_clean(path: Path) -> None:
    assert path.stat().st_size <= 150_000
    text = path.read_text(encoding="utf-8")
    assert "widget-state" not in text
    assert "widget-view" not in text
    assert "iopub.execute_input" not in text
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not [o for o in cell.outputs if o.output_type == "error"]
            assert "nbval-skip" not in cell.metadata.get("tags", [])
            assert "NBVAL_SKIP" not in cell.source


def test_the_learner_s_version_spoils_nothing() -> None:
    """What is in the solved version alone is in no cell of the learner's."""
    for path in (each for each in NOTEBOOKS if each.parent.name == "solved"):
        learner = nbformat.read(path.parent.parent / path.name, as_version=4)
        ids = {cell.id for cell in learner.cells}
        text = "\n".join(cell.source for cell in learner.cells)
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.id in ids or cell.source not in text
        assert "](../" not in learner.cells[0].source


@pytest.mark.real_model
@pytest.mark.parametrize(("path", "number"), [pytest.param(p, n, id=i) for i, p, n in each_section()])
def test_each_section_runs_alone_after_the_set_up(path: Path, number: int) -> None:
    notebook = nbformat.read(path, as_version=4)
    section = next(each for each in builder().sections(notebook) if each.number == number)
    run_alone(notebook, section, path.parent)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_set_up_cell_is_the_same_in_all(path: Path) -> None:
    def set_up(p: Path) -> str:
        return next(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == "code")

    assert set_up(path) == set_up(NOTEBOOKS[0])
    assert "lk.setup()" in set_up(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_set_up_cell_never_replaces_torch_or_numpy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Colab the installer is handed the versions that are there; a stand-in for pip sees what it is asked."""
    import importlib.util
    import types

    import numpy
    import torch

    source = next(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    switched_on = []
    colab = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace(enable_custom_widget_manager=lambda: switched_on.append(True))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "labkit" else real(name, *a))
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **keywords: asked.append(command))
    exec(compile(source, str(path), "exec"), {"__name__": "__main__"})
    (command,) = asked
    assert f"torch=={torch.__version__.split('+')[0]}" in command
    assert f"numpy=={numpy.__version__}" in command
    assert any(part.startswith("labkit @ git+https://") for part in command)
    assert "--upgrade" not in command
    assert "-U" not in command
    assert switched_on == [True]
