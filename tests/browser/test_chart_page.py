"""A chart's exported page in a real browser: the picture, and what is said where it is pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import labkit as lk

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_chart_says_its_numbers_where_it_is_pointed_at(open_page: Any, tmp_path: Path) -> None:
    parts = [("embedding", None, None, 0.5), ("mlp", 0, None, -1.25), ("head", 1, 2, 2.125)]
    frame = pd.DataFrame(parts, columns=["component", "layer", "head", "contribution"])
    chart = lk.views.attribution(frame.astype({"layer": "Int64", "head": "Int64"}), title=HOSTILE)
    page = open_page(chart.to_html(tmp_path / "chart.html"))
    assert page.locator("svg").get_attribute("role") == "img"
    assert page.title() == HOSTILE
    assert page.locator("img").count() == 0
    said = page.locator("#said")
    assert not said.is_visible()
    page.locator("svg > rect", has_text="layer 1 head 2").hover()
    assert said.inner_text() == "layer 1 head 2: +2.1250 logits"
    box, inside = said.bounding_box(), page.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= inside["width"]
    page.mouse.move(2, 2)
    assert not said.is_visible()
    page.locator("summary").click()
    assert page.locator("tbody tr").count() == 3
    assert page.locator("tbody tr").nth(2).inner_text().split("\t") == ["head", "1", "2", "2.125"]
