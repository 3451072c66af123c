"""docs/adding_a_room.md: its room is built in a copy of the project, tested, and its imports checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks, changed, file

ROOT = Path(__file__).resolve().parents[1]
PAGE = "adding_a_room.md"
NEW = ("labkit/repeats/seen.py", "labkit/repeats/__init__.py", "tests/repeats/test_repeats.py")
REGISTERED = ("pyproject.toml", "labkit/__init__.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the page's room in it, and without what is large and of no use here."""
    folder = tmp_path_factory.mktemp("project")
    left_out = shutil.ignore_patterns("__pycache__", "assets", "node_modules")
    shutil.copytree(ROOT / "labkit", folder / "labkit", ignore=left_out)
    for name in ("support", "conftest.py"):
        (folder / "tests").mkdir(exist_ok=True)
        (folder / "tests" / name).symlink_to(ROOT / "tests" / name)
    for name in NEW:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(file(PAGE, name), encoding="utf-8")
    for name in REGISTERED:
        (folder / name).write_text(changed(PAGE, name, (ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def asked(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def imports_checked(folder: Path) -> subprocess.CompletedProcess[str]:
    return asked(folder, "-c", "from importlinter.cli import lint_imports_command as c; c(['--no-logo', '--no-cache'])")


def test_the_page_says_which_files_are_touched() -> None:
    assert {block.split("\n")[0].removeprefix("# ") for block in blocks(PAGE)} == set(NEW)
    assert {block.split("\n")[0].removeprefix("--- ") for block in blocks(PAGE, "diff")} == set(REGISTERED)


def test_the_room_s_own_tests_pass(copy: Path) -> None:
    done = asked(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/repeats")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_room_is_clean(copy: Path) -> None:
    done = asked(copy, "-m", "ruff", "check", "labkit/repeats", "tests/repeats", "labkit/__init__.py")
    assert done.returncode == 0, done.stdout
    done = asked(copy, "-m", "ruff", "format", "--check", "labkit/repeats", "tests/repeats")
    assert done.returncode == 0, done.stdout


def test_its_imports_are_held_downwards(copy: Path) -> None:
    done = imports_checked(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = copy / "labkit" / "repeats" / "seen.py"
    kept = seen.read_text(encoding="utf-8")
    try:
        seen.write_text(f"{kept}\n\nimport labkit.views\n", encoding="utf-8")
        done = imports_checked(copy)
        assert done.returncode != 0
        assert "labkit.repeats is not allowed to import labkit.views" in done.stdout
    finally:
        seen.write_text(kept, encoding="utf-8")
