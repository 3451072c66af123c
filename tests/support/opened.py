"""A notebook of the series in a real JupyterLab: opened, run, and its cells at hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jupyterlab
import pytest


@dataclass
class Opened:
    """A notebook after Run All. left: requests that left the machine. progress: the learner's file."""

    page: Any
    cells: list[dict[str, Any]]
    progress: Path
    left: list[str] = field(default_factory=list)

    def place(self, beginning: str) -> int:
        """Which cell begins with this."""
        (found,) = [i for i, cell in enumerate(self.cells) if cell["source"].startswith(beginning)]
        return found

    def output(self, place: int) -> str:
        """A cell's outputs as text, now."""
        outputs = self.page.evaluate(jupyterlab.CELLS)[place]["outputs"]
        return "\n".join(o["text"] if "text" in o else o.get("data", {}).get("text/plain", "") for o in outputs)

    def run(self, place: int) -> str:
        """Run one cell; what came out."""
        count = f"{jupyterlab.CONTENT}.model.cells.get(i).executionCount"
        before = self.page.evaluate(f"i => {count}", place)
        jupyterlab.run_cell(self.page, place)
        changed = f"([i, before]) => {count} !== null && {count} !== before"
        self.page.wait_for_function(changed, arg=[place, before])
        jupyterlab.wait_for_kernel(self.page)
        return self.output(place)

    def write(self, place: int, source: str) -> None:
        """Type into a cell, through the model that the editor shows."""
        self.page.evaluate(
            f"([i, text]) => {jupyterlab.CONTENT}.model.cells.get(i).sharedModel.setSource(text)", [place, source]
        )


def opened(chromium: Any, source: Path, folder: Path, scratch: Path, *, height: int = 18500) -> Iterator[Opened]:
    """Run all of a notebook. The page is tall, so that no cell is left undrawn."""
    shutil.copy(source, folder)
    progress = scratch / "progress.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_PROGRESS", str(progress))
        # on a busy machine, threads that wait for one another are ten times slower
        patch.setenv("OMP_NUM_THREADS", "1")
        with jupyterlab.server(folder, scratch) as address:
            context = chromium.new_context(viewport={"width": 1200, "height": height})
            page = context.new_page()
            left: list[str] = []
            page.on("request", lambda r: None if _here(r.url) else left.append(r.url))
            jupyterlab.open_notebook(page, address, source.name)
            yield Opened(page, jupyterlab.run_all(page), progress, left)
            context.close()


def _here(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in {"file", "data", "blob", "about", "attachment"} or parts.hostname in {
        "127.0.0.1",
        "localhost",
    }


def whole(notebook: Opened, *, pictures: int = 2) -> None:
    """Every cell ran, once and in order, without an error; every picture is there; nothing was fetched."""
    assert jupyterlab.errors(notebook.cells) == []
    code = [cell for cell in notebook.cells if cell["type"] == "code"]
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1))
    assert notebook.page.locator(".jp-RenderedHTMLCommon img").count() >= pictures
    broken = "() => [...document.querySelectorAll('.jp-RenderedMarkdown img')].filter(i => !i.naturalWidth).length"
    assert notebook.page.evaluate(broken) == 0
    assert notebook.left == []


def checks(notebook: Opened) -> list[str]:
    """What the checks said, the first line of each."""
    found = [i for i, cell in enumerate(notebook.cells) if "lk.check(" in cell["source"] and cell["type"] == "code"]
    return [notebook.output(i).splitlines()[0].split(":")[0] for i in found]
