"""The notebooks as tests need them: their builder as a module, and one section run by itself."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]


def builder() -> Any:
    """notebooks/build.py, which is a script, as a module."""
    name = "labkit_notebook_builder"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / "build.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def alone(notebook: Any, section: Any) -> Any:
    """A notebook of the set-up and one section's code: what a learner has who begins there."""
    only = nbformat.v4.new_notebook(metadata=copy.deepcopy(notebook.metadata))
    only.cells = copy.deepcopy([*builder().set_up(notebook), *section.code])
    return only


def run_alone(notebook: Any, section: Any, folder: Path) -> None:
    """Run it in a kernel of its own. Raises nbclient's CellExecutionError with the cell that fails."""
    builder().execute(alone(notebook, section), folder)
