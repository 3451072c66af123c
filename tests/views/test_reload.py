"""Hot reload while a view is being written: an open view follows its files."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.views.base import View, module, style
from labkit.views.kit import reload

SECONDS = 10.0  # for what takes under one; a test that waits so long has failed


def until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + SECONDS
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def saved(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))  # whatever a file system's clock can tell apart


def kind(folder: Path) -> type[View]:
    (folder / "words.js").write_text('export const word = "one";\n', "utf-8")
    entry = 'import { word } from "./words.js";\nexport default { render({ el }) { el.textContent = word; } };\n'
    (folder / "view.js").write_text(entry, "utf-8")
    (folder / "view.css").write_text(".lk-toy { color: red; }\n", "utf-8")
    texts = {"_esm": module(folder / "view.js"), "_css": style(folder / "view.css")}
    return type("Toy", (View,), texts)


def test_an_open_view_follows_each_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANYWIDGET_HMR", "1")
    toys = kind(tmp_path)
    toy: Any = toys()
    assert '"one"' in toy._esm
    assert until(lambda: all(times is not None for _, times in reload._FOLLOWED[toy].values()))
    sent: list[str] = []
    toy.observe(lambda change: sent.append(change["name"]), names=["_esm", "_css"])
    saved(tmp_path / "words.js", 'export const word = "two";\n')  # what the entry imports, not the entry
    assert until(lambda: '"two"' in toy._esm)
    saved(tmp_path / "view.css", ".lk-toy { color: green; }\n")
    assert until(lambda: "green" in toy._css)
    assert sent == ["_esm", "_css"], "what did not change is not sent"
    with caplog.at_level(logging.WARNING, logger="labkit"):
        saved(tmp_path / "words.js", 'import everything from "./nowhere.js";\n')
        assert until(lambda: "can't be joined" in caplog.text)
    assert '"two"' in toy._esm
    saved(tmp_path / "words.js", 'export const word = "three";\n')
    assert until(lambda: '"three"' in toy._esm)
    late: Any = toys()
    assert until(lambda: '"three"' in late._esm), "a view made later begins with the files as they are"
    for each in (toy, late):
        each.close()
    assert until(lambda: reload._thread is None), "nothing is left behind"


def test_nothing_is_watched_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYWIDGET_HMR", raising=False)
    toy: Any = kind(tmp_path)()
    assert toy not in reload._FOLLOWED
    saved(tmp_path / "words.js", 'export const word = "two";\n')
    assert '"one"' in toy._esm
    toy.close()
