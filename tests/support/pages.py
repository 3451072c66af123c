"""The code in the pages of docs/, for the tests that run it."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str = "python") -> list[str]:
    """The code blocks of a language in a page, in order; of "" those that name none."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for named, code in found if named.strip() == language]


def file(page: str, name: str) -> str:
    """The block whose first line is a comment of nothing but a file's name, "# labkit/repeats/__init__.py"."""
    (found,) = [
        code for language in ("python", "toml", "") for code in blocks(page, language) if code.startswith(f"# {name}\n")
    ]
    return found


def changed(page: str, name: str, text: str) -> str:
    """A file's text with the lines put in that the page's diff of it adds, each after the line that stands before it."""
    (diff,) = [code for code in blocks(page, "diff") if code.startswith(f"--- {name}\n")]
    lines = text.splitlines()
    after = ""
    for line in diff.splitlines()[1:]:
        if line.startswith("+"):
            lines.insert(lines.index(after) + 1, line[1:])
        after = line[1:]
    return "\n".join(lines) + "\n"
