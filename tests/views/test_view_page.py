"""docs/adding_a_view.md: its view is built in a copy of the project and tested; tests/browser draws it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import view_page
from pages import blocks

MOST_LINES = 150


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return view_page.build(tmp_path_factory.mktemp("project"))


def test_the_page_s_view_is_whole_and_short() -> None:
    names = set(view_page.files())
    assert {Path(name).suffix for name in names} == {".py", ".js", ".css", ".mjs"}
    assert {name.split("/")[0] for name in names} == {"labkit", "tests"}
    code = [*view_page.files().values(), *blocks(view_page.PAGE, "diff")]
    # the line that names a file, and those that are empty, are none of its code
    assert sum(len([line for line in block.splitlines()[1:] if line.strip()]) for block in code) <= MOST_LINES


def test_its_python_works(copy: Path) -> None:
    assert "1 passed" in view_page.tested(copy, "tests/views/test_loss.py")


def test_its_python_is_clean(copy: Path) -> None:
    mine = [name for name in view_page.files() if name.endswith(".py")]
    view_page.asked(copy, sys.executable, "-m", "ruff", "check", *mine)
    view_page.asked(copy, sys.executable, "-m", "ruff", "format", "--check", *mine)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_its_arithmetic_works_in_node(copy: Path) -> None:
    assert "pass 1" in view_page.asked(copy, "node", "--test", "tests/views/loss.test.mjs")


def test_its_javascript_has_the_types_it_says(copy: Path) -> None:
    tsc = view_page.ROOT / ".venv/javascript/node_modules/typescript/bin/tsc"
    if not tsc.exists():
        pytest.skip("needs the tools of tests/javascript")
    strict = {
        "extends": str(view_page.ROOT / "tests/javascript/tsconfig.json"),
        "compilerOptions": {"strict": True},
        "include": [],
        "files": ["labkit/views/loss_view/loss.js"],
    }
    (copy / "tsconfig.json").write_text(json.dumps(strict), "utf-8")
    view_page.asked(copy, "node", str(tsc), "--project", "tsconfig.json")
