"""The notebooks: in step with their source, small, clean. That they run is nbval's part (`make test`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_each_notebook_follows_from_its_source() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_set_up_cell_is_the_same_in_all(path: Path) -> None:
    def set_up(p: Path) -> str:
        return next(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == "code")

    assert set_up(path) == set_up(NOTEBOOKS[0])
    assert "lk.setup()" in set_up(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
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
