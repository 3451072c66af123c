"""One ES module from a view's files, and one style sheet: a widget is handed one text of each, and so is an exported page.

A view names its entry, and what that imports is found from there by path, so that node, `tsc` and a watcher see the same
files. Joined, each file keeps a scope of its own: names in different files can't meet.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from labkit.views.kit.reload import Joined

VIEWS = Path(__file__).resolve().parents[1]
KIT = Path(__file__).resolve().parent

_IMPORT = re.compile(r'^import\s+\{([^}]*)\}\s+from\s+"(\.{1,2}/[^"]+)";\n', re.MULTILINE)
_ANY_IMPORT = re.compile(r"^import\b.*", re.MULTILINE)
_DECLARED = re.compile(r"^export ((?:async )?function\*?|const|class) ([\w$]+)", re.MULTILINE)
_ANY_EXPORT = re.compile(r"^export\b.*", re.MULTILINE)


def module_files(*entries: str | Path) -> list[Path]:
    """The files of one module: the entries, given by their paths from labkit/views or in full, and all they import, each
    once and after those that it imports. Raises ValueError where files import one another in a circle, or in a way that
    can't be joined: all but `import { a, b as c } from "./file.js";`.
    """
    found: list[Path] = []
    under_way: list[Path] = []

    def take(path: Path) -> None:
        if path in found:
            return
        if path in under_way:
            raise ValueError(f"{path.name} imports itself, by way of {', '.join(p.name for p in under_way)}.")
        under_way.append(path)
        text = path.read_text("utf-8")
        if left := _ANY_IMPORT.search(_IMPORT.sub("", text)):
            raise ValueError(f'{path.name}: "{left[0]}" can\'t be joined; write import {{ name }} from "./file.js";')
        for _, source in _IMPORT.findall(text):
            take(_at(path.parent, source))
        found.append(under_way.pop())

    for entry in entries:
        take(_at(VIEWS, entry))
    return found


def module(*entries: str | Path) -> str:
    """One ES module: the last entry with its default export, and before it whatever is imported.

    Raises ValueError as `module_files` does, and for an export that can't be joined: all but the default one and
    `export` before a function, const or class.
    """
    return Joined.of(lambda: _joined(*entries), lambda: module_files(*entries))


def _joined(*entries: str | Path) -> str:
    files = module_files(*entries)
    last = _at(VIEWS, entries[-1])
    files = [path for path in files if path != last] + [last]
    names = {path: f"$file{i}" for i, path in enumerate(files)}
    return "\n".join(_scoped(path, names, entry=path == last) for path in files)


def style(*files: str | Path) -> str:
    """The shared theme and the kit's own sheet, followed by the view's."""
    sheets = [KIT / "theme.css", KIT / "kit.css", *(_at(VIEWS, name) for name in files)]
    paths = list(dict.fromkeys(sheets))
    return Joined.of(lambda: "\n".join(path.read_text("utf-8") for path in paths), lambda: paths)


def _at(folder: Path, name: str | Path) -> Path:
    return Path(os.path.realpath(folder / name))


def _scoped(path: Path, names: dict[Path, str], *, entry: bool) -> str:
    """A file with its imports taken from the files before it, and its exports handed on; the entry keeps its default."""

    def bound(match: re.Match[str]) -> str:
        wanted = re.sub(r"\s+as\s+", ": ", " ".join(match[1].split()).strip().rstrip(","))
        return f"const {{ {wanted} }} = {names[_at(path.parent, match[2])]};\n"

    text = _IMPORT.sub(bound, path.read_text("utf-8"))
    exported = [name for _, name in _DECLARED.findall(text)]
    text = _DECLARED.sub(r"\1 \2", text)
    for left in _ANY_EXPORT.findall(text):
        if not (entry and left.startswith("export default ")):
            raise ValueError(f'{path.name}: "{left}" can\'t be joined; write export before a function, const or class.')
    if entry:
        return text
    return f"const {names[path]} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();\n"
