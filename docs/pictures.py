"""Take the pictures of the README and the notebooks anew, from the views themselves, in a real browser.

    python docs/pictures.py      (or: make pictures)

Needs the default model, playwright and a Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import labkit as lk

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "docs" / "images" / "tokens.png"
NOTEBOOK = ROOT / "notebooks" / "source" / "01_first_look.png"  # goes into the notebook itself, so it has to be small


def main() -> None:
    browser_path = next(p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n)))
    lab = lk.load()
    generation = lab.generate("Why is the sky blue?", max_new_tokens=48)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page_file = lk.views.tokens(generation, prompt=False).to_html(Path(scratch) / "tokens.html")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for target, width, scale, last in ((README, 860, 1.5, ".lk-panel"), (NOTEBOOK, 700, 1.0, ".lk-scroll")):
            page = browser.new_page(viewport={"width": width, "height": 700}, device_scale_factor=scale)
            page.goto(page_file.as_uri())
            box = page.locator(last).bounding_box()
            assert box is not None
            height = box["y"] + box["height"] + 6
            page.screenshot(path=target, clip={"x": 0, "y": 0, "width": width, "height": height})
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
