"""Pages in a real Chromium, with nothing outside to talk to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def local(url: str) -> bool:
    """Whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in {"file", "data", "blob", "about"} or parts.hostname in {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser. Without one the test is skipped, or fails where LABKIT_REQUIRE_BROWSER=1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if path is None or sync_playwright is None:
        missing = "none of " + ", ".join(names) + " is on the PATH" if path is None else "playwright is not installed"
        if os.environ.get("LABKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(f"LABKIT_REQUIRE_BROWSER=1, but {missing}")
        pytest.skip(f"needs Chromium: {missing}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file: open_page(path, width=1100, dark=False). Any request that leaves, and any error, fails the test."""
    contexts: list[Any] = []
    outside: list[str] = []
    errors: list[str] = []

    def opened(path: Path, *, width: int = 1100, dark: bool = False) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: None if local(request.url) else outside.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(Path(path).resolve().as_uri())
        if page.locator("#labkit-state").count():  # an exported view: it unpacks its bytes before it draws itself
            page.locator("#labkit-view .lk-view").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert outside == [], "requests left the machine"
    assert errors == [], "the page reported errors"


@pytest.fixture
def violations() -> Callable[[Any], list[Any]]:
    """What axe-core finds wrong with a page: violations(page). The test is skipped where LABKIT_AXE names no axe.min.js."""
    axe = os.environ.get("LABKIT_AXE", "")
    if not Path(axe).is_file():
        pytest.skip("LABKIT_AXE names no axe.min.js to check accessibility with")

    def found(page: Any) -> list[Any]:
        page.add_script_tag(path=axe)
        script = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))"
        return list(page.evaluate(script))

    return found
