"""The view that docs/adding_a_view.md walks through, built in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pages import blocks, changed

ROOT = Path(__file__).resolve().parents[2]
PAGE = "adding_a_view.md"
REGISTERED = "labkit/views/__init__.py"


def files() -> dict[str, str]:
    """The page's files by name, which the first line of each block names in a comment."""
    found = [code for language in ("python", "js", "css") for code in blocks(PAGE, language)]
    return {re.search(r"[\w./]+\.\w+", code.split("\n")[0])[0]: code for code in found}  # type: ignore[index]


def build(folder: Path) -> Path:
    """The project with the page's view in it, and without what is large and of no use here."""
    left_out = shutil.ignore_patterns("__pycache__", "assets", "node_modules")
    shutil.copytree(ROOT / "labkit", folder / "labkit", ignore=left_out)
    for name in ("support", "conftest.py", "browser/conftest.py", "javascript"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tests" / name).symlink_to(ROOT / "tests" / name)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    for name, code in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code, "utf-8")
    (folder / REGISTERED).write_text(changed(PAGE, REGISTERED, (ROOT / REGISTERED).read_text("utf-8")), "utf-8")
    return folder


def asked(folder: Path, *command: str) -> str:
    """What a command says in the copy. Raises AssertionError, with all of it, where it fails."""
    done = subprocess.run(
        [*command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tested(folder: Path, path: str) -> str:
    return asked(folder, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path)
