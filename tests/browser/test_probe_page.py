"""The chart of probes in a real browser: its lines are drawn, and say their numbers where they are pointed at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from generations import HOSTILE

import labkit as lk

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


def measured(layers: int) -> pd.DataFrame:
    rows = range(layers)
    accuracy = [0.5 + 0.45 * i / max(1, layers - 1) for i in rows]
    return pd.DataFrame(
        {
            "layer": list(rows),
            "accuracy": accuracy,
            "low": [value - 0.05 for value in accuracy],
            "high": [min(1.0, value + 0.05) for value in accuracy],
            "control": [0.52] * layers,
            "token_alone": [0.7] * layers,
            "chance": [0.5] * layers,
            "selectivity": [value - 0.52 for value in accuracy],
        }
    )


@pytest.mark.parametrize("layers", [1, 3, 48])
def test_a_layer_says_its_accuracy_beside_what_it_is_held_against(open_page: Open, tmp_path: Path, layers: int) -> None:
    chart = lk.views.probe(measured(layers))
    page = open_page(chart.to_html(tmp_path / "probe.html"))
    words = page.locator("svg").first.text_content()
    for name in ("probe, 95 %", "control task", "token alone", "most frequent class", "held-out accuracy", "layer"):
        assert name in words
    layer, accuracy = layers - 1, 0.5 if layers == 1 else 0.95
    point = page.locator("svg circle, svg path, svg rect").filter(has_text=f"layer {layer}: {accuracy:.3f} right").first
    point.hover()
    said = page.locator("#said").inner_text()
    assert f"layer {layer}: {accuracy:.3f} right" in said
    assert "95 % from" in said
    assert "above the control task" in said
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("summary").click()
    assert page.locator("tbody tr").count() == layers


def test_the_title_of_a_page_is_text(open_page: Open, tmp_path: Path) -> None:
    page = open_page(lk.views.probe(measured(4), title="".join(HOSTILE)).to_html(tmp_path / "hostile.html"), width=420)
    assert page.evaluate("window.broken") is None
    assert page.locator("body img, body svg script").count() == 0


def test_axe_finds_nothing_in_it(open_page: Open, violations: Callable[[Any], list[Any]], tmp_path: Path) -> None:
    assert violations(open_page(lk.views.probe(measured(4)).to_html(tmp_path / "axe.html"))) == []
