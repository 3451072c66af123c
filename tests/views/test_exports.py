"""Every public view and chart as a page, a picture and numbers, and what a notebook without a kernel keeps of it."""

from __future__ import annotations

import csv
import io
import re
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fuzz
import nbformat
import numpy as np
import pandas as pd
import pytest
from circuits_by_hand import TOKENS as CIRCUIT_TOKENS
from circuits_by_hand import found, random_circuit
from featured import dashboard, dictionary, random_featured
from generations import speculated, story, throughput_table
from lenses_by_hand import HandLens
from nbconvert import HTMLExporter
from PIL import Image
from routed import random_routed
from steered import FEATURES, PROMPT, SECONDS, Writer
from traces import patterned, random_patterns
from tuned import AdapterWriter, HandRun, hand_mask

import labkit as lk
from labkit.attention import MEASURES  # noqa: F401 - the room is there before the views are
from labkit.results import as_table
from labkit.views.adapter_view import AdapterView
from labkit.views.chart import Chart
from labkit.views.chat_view import ChatView
from labkit.views.exports import Exports
from labkit.views.sampling_view import TemperatureView
from labkit.views.steering_view import SteeringView

HOSTILE = "<img src=x onerror=alert(1)>\u202e"
TOKENS = ["The", " cat", "\n", " sat", HOSTILE, " on", " 春", " mat"]
PICTURES = {"svg", "img"}
TEXT = ("teaching: prediction",)  # a question, which is no picture of anything
WIDGET = "application/vnd.jupyter.widget-view+json"


class Page(HTMLParser):
    """What a browser makes of a page: the elements, and what any of them would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            asks = name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
            if (asks and not (value or "").startswith("data:")) or re.search(r"url\(|@import", value or ""):
                self.fetched.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), f"{tag} {name}={value}"


def lens_table() -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "position": position,
            "token": token,
            "top_token": TOKENS[(position + layer) % len(TOKENS)],
            "top_id": (position + layer) % len(TOKENS),
            "top_probability": 0.1 + 0.1 * layer + 0.01 * position,
            "next_token": TOKENS[(position + 1) % len(TOKENS)],
            "rank": layer,
            "logprob": -1.5 - layer,
            "kl": 0.25 * layer,
        }
        for layer in range(4)
        for position, token in enumerate(TOKENS)
    ]
    return pd.DataFrame(rows)


def attribution_table() -> pd.DataFrame:
    parts = [("embedding", None, None, 0.5), ("mlp", 0, None, -1.25), ("head", 1, 2, 2.125), ("mlp", 1, None, 0.0)]
    frame = pd.DataFrame(parts, columns=["component", "layer", "head", "contribution"])
    return frame.astype({"layer": "Int64", "head": "Int64"})


def patching_table() -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "position": position,
            "token": token,
            "corrupted_token": token if position else "A",
            "value": 2.0 * layer,
            "effect": (layer - 1) * (position + 1) / 16,
        }
        for layer in range(3)
        for position, token in enumerate(TOKENS)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs = {"at": "residual", "runs": len(rows)}
    return frame


def specialisation_table() -> pd.DataFrame:
    rows = [
        {"layer": layer, "kind": kind, "expert": e, "share": s, "low": s - 0.05, "high": s + 0.05, "uniform": 0.5}
        for layer in range(2)
        for kind, shares in (("a", (0.9, 0.55, 0.5, 0.1)), (HOSTILE, (0.2, 0.5, 0.98, 0.8)))
        for e, s in enumerate(shares)
    ]
    return pd.DataFrame(rows).assign(untrained_low=0.3, untrained_high=0.7)


def damage_table() -> pd.DataFrame:
    rows = [
        {"by": by, "keep": keep, "kind": kind, "loss_change": (8 - keep) * slope}
        for by, slope in (("usage", 0.1), ("random", 0.5))
        for keep in (8, 4, 2)
        for kind in ("a", HOSTILE, "all")
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame.loss_change - 0.1, high=frame.loss_change + 0.2)


def doses_table() -> pd.DataFrame:
    rows = [
        {
            "direction": name,
            "strength": float(strength),
            "share": share,
            "low": max(0.0, share - 0.1),
            "high": share + 0.2,
            "loss": 1.25 + strength / 100,
            "loss_low": 1.0 + strength / 100,
            "loss_high": 1.5 + strength / 100,
            "broken": 0.5 if strength == 80 else 0.0,
            "example": HOSTILE,
        }
        for name, shares in (("feature", (0.0, 0.25, 0.5)), ("random", (0.0, 0.0, 0.125)))
        for strength, share in zip((0, 40, 80), shares, strict=True)
    ]
    return pd.DataFrame(rows)


def a_chat() -> ChatView:
    view = ChatView(lambda messages, **settings: story(), name=HOSTILE)
    view.say(HOSTILE)
    assert view.wait(SECONDS)
    return view


def a_temperature() -> TemperatureView:
    view = TemperatureView(
        lambda prompt, **settings: story(),
        PROMPT,
        next_logits=lambda prompt: np.linspace(0, 5, 40),
        token_text=lambda i: f" t{i}" if i % 5 else HOSTILE,
    )
    assert view.wait(SECONDS)
    return view


def a_steering() -> SteeringView:
    view = lk.views.steering(Writer(), FEATURES, prompt=PROMPT)
    assert view.wait(SECONDS)
    view.strengths = {1234: 10.0}
    assert view.wait(SECONDS)
    return view


def a_panel(chart: Any = "line") -> Any:
    def work(stop: Any) -> Any:
        for i in range(20):
            yield {
                "done": i + 1,
                "total": 20,
                "values": {HOSTILE: 2.0 / (i + 1), "b": float("nan") if i == 3 else i / 7},
            }

    panel = lk.views.live(work, title=f"Training {HOSTILE}", unit="nats", x="step", y="loss", chart=chart)
    assert panel.wait(SECONDS)
    return panel


def a_memory() -> Chart:
    sizes = [lk.memory(name, tokens=1000) for name in ("smollm2-135m", "smollm2-360m")]
    return lk.views.memory(sizes, free_bytes=600 * 2**20)


def a_prediction() -> Any:
    asked = lk.predict("attention.exports", f"How much? {HOSTILE}", low=0, high=100)
    asked.lock(40)
    return asked


def a_curve() -> Any:
    asked = lk.predict("attention.curved", "How does it grow?", "curve", x=(1, 2, 4), low=0, high=10)
    asked.lock([1.0, 2.5, 5.0])
    return asked.show([1.0, 3.0, 9.0])


def formats_table() -> pd.DataFrame:
    rows = [("int8", 8e6, 0.0, 1.0), (HOSTILE, 7e6, 0.015625, 0.95), ("int2", 6e6, 1.25, 0.4)]
    frame = pd.DataFrame(rows, columns=["format", "size_bytes", "kl", "top1"])
    return frame.assign(method="rtn", bits_per_weight=4.0, kl_low=frame.kl * 0.8, kl_high=frame.kl * 1.2)


def sensitivity_table() -> pd.DataFrame:
    rows = [
        {"layer": layer, "matrix": name, "kl": 0.125 * layer + i} for layer in range(3) for i, name in enumerate("qkv")
    ]
    return pd.DataFrame(rows).replace("v", HOSTILE)


def squeeze_table() -> pd.DataFrame:
    rows = [
        {"tokens": tokens, "format": name, "loss_change": x, "low": 0.9 * x, "high": 1.1 * x}
        for name, base in (("int4", 0.125), (HOSTILE, 0.5))
        for tokens, x in ((1e5, base), (1e6, 2 * base))
    ]
    return pd.DataFrame(rows)


def a_matrix() -> lk.quantization.Reconstruction:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    return lk.quantization.matrix(lab, "model.layers.0.self_attn.q_proj", "int4", group_size=16)


def a_quantization() -> Any:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    view = lk.views.quantization(lab, prompt=HOSTILE, tokens=6)
    assert view.wait(SECONDS)
    return view


def a_mix() -> Any:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name=f"tiny {HOSTILE}")
    rows = {kind: [[3 + (a + 7 * i * i) % 90 for i in range(20)]] for kind, a in (("one", 0), ("two", 9))}
    others = {kind: [[i + 1 for i in row] for row in some] for kind, some in rows.items()}
    size = lk.quantization.contents(lab).size_bytes
    found = lk.quantization.mix(
        lab, budget_bytes=size, texts=rows, measured_on=others, formats=("int8", "int2"), draws=20, progress=False
    )
    return lk.views.mix(found)


def updates_table() -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "matrix": name,
            "rank": 16,
            "norm": 0.5 + layer,
            "relative": 0.0625 * (layer + 1),
            "effective_rank": 9.5,
        }
        for name in ("q_proj", HOSTILE)
        for layer in range(3)
    ]
    return pd.DataFrame([*rows, rows[0] | {"layer": None}]).assign(null_effective_rank=14.5)


def runs_table() -> pd.DataFrame:
    rows = [
        {"rank": rank, "method": method, "seed": seed, "accuracy": 0.1 * i + 0.03125 * seed, "forgetting": 0.25 / rank}
        for method in ("lora", HOSTILE)
        for i, rank in enumerate((1, 4, 16, 64))
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def an_adapter() -> AdapterView:
    writer = AdapterWriter(tuned=("2025", HOSTILE, "-05"))
    view = AdapterView(writer, ["dates", HOSTILE], HOSTILE, values=[1.0, 0.5], limits=(-1.0, 2.0))
    assert view.wait(SECONDS)
    return view


def compare_table() -> pd.DataFrame:
    columns = {"kind": [HOSTILE], "value": [1.0], "other": [1.5], "difference": [0.5], "low": [0.25], "high": [0.75]}
    return pd.DataFrame({**columns, "documents": [9]})


def a_training() -> Any:
    run = HandRun(20, title=f"LoRA {HOSTILE}", prompt=HOSTILE)
    run.step(20)
    return lk.views.training(run)


def probes_table() -> pd.DataFrame:
    accuracy, low, high = [0.5, 0.75, 0.875], [0.4, 0.65, 0.8], [0.6, 0.85, 0.95]
    columns = {"layer": [0, 1, 2], "accuracy": accuracy, "low": low, "high": high}
    return pd.DataFrame(columns | {"control": [0.4, 0.45, 0.5], "token_alone": 0.6, "chance": 0.5})


def recall_table() -> pd.DataFrame:
    columns = {
        "kind": [HOSTILE, "state space"],
        "d_model": 16,
        "d_state": pd.array([None, 4], dtype="Int64"),
        "seed": 0,
        "pairs": 8,
    }
    columns |= {"seed": 0, "pairs": 8}
    numbers = {"accuracy": [0.875, 0.4375], "low": [0.8, 0.4], "high": [0.9, 0.5], "chance": 0.125, "among_read": 0.25}
    return pd.DataFrame(columns | numbers | {"state_bytes": [2_000, 500]})


def lengths_table() -> pd.DataFrame:
    columns = {"model": [HOSTILE, HOSTILE], "tokens": [64, 1024], "state_bytes": [4_096, 65_536]}
    return pd.DataFrame(
        columns | {"computed_bytes": [4_096, 65_536], "read_seconds": [0.5, 8.0], "step_seconds": [0.0625, 0.125]}
    )


def languages_table() -> pd.DataFrame:
    columns = {"tokenizer": [HOSTILE, HOSTILE, "bytes", "bytes"], "language": ["English", HOSTILE] * 2}
    numbers = {"relative": [1.0, 2.5, 1.0, 1.25], "low": [1.0, 2.0, 1.0, 1.0], "high": [1.0, 3.0, 1.0, 1.5]}
    return pd.DataFrame(columns | numbers | {"tokens": [40, 100, 160, 200], "bytes": [160, 200] * 2})


def positions_table() -> pd.DataFrame:
    columns = {
        "kind": ["default", "default", HOSTILE, HOSTILE],
        "position_from": [0, 64] * 2,
        "position_to": [63, 127] * 2,
    }
    numbers = {"loss": [3.0, 4.0, 3.0, 3.5], "low": [2.5, 3.5, 2.5, 3.0], "high": [3.5, 4.5, 3.5, 4.0]}
    return pd.DataFrame(columns | numbers | {"change": [0.0, 0.0, 0.0, -0.5], "unigram": 6.0})


def needles_table() -> pd.DataFrame:
    columns = {"length": [64, 128, 64, 128], "depth": [0.0, 0.0, 1.0, 1.0], "found": [1.0, 0.5, 0.75, 0.25]}
    return pd.DataFrame(columns | {"low": 0.125, "high": 1.0, "rank": 2.0, "trials": 4})


def distances_table() -> pd.DataFrame:
    columns = {"layer": [0, 0, 1, 1], "head": 0, "distance_from": [0, 1] * 2, "distance_to": [0, 1] * 2}
    return pd.DataFrame(columns | {"share": [0.75, 0.25, 0.375, 0.625], "even": 0.5})


def rotation_table() -> pd.DataFrame:
    columns = {"pair": [0, 1], "wavelength": [6.25, 625.0], "turns": [40.0, 0.4]}
    return pd.DataFrame(columns | {"query_size": [1.0, 2.0], "key_size": [0.5, 1.5], "weight": [0.25, 0.75]})


def windows_table() -> pd.DataFrame:
    columns = {"kept": ["all", HOSTILE, "window and sinks"], "loss": [3.0, 4.25, 3.125]}
    columns |= {"low": [2.5, 4.0, 2.5], "high": [3.5, 4.5, 3.75], "change": [0.0, 1.25, 0.125]}
    return pd.DataFrame(columns | {"cache_bytes": [4_096, 512, 512], "tokens_kept": [256, 32, 32]})


def plans() -> list[Any]:
    return [lk.plan("llama-2-7b", hardware="RTX4090-24GB", precision=bits) for bits in ("bfloat16", "int4")]


MAKERS: dict[str, Callable[[], Any]] = {
    "adapter": an_adapter,
    "attention": lambda: lk.views.attention(patterned(TOKENS, random_patterns(len(TOKENS)))),
    "attribution": lambda: lk.views.attribution(attribution_table()),
    "chat": a_chat,
    "circuit": lambda: lk.views.circuit(
        found(random_circuit([*CIRCUIT_TOKENS, HOSTILE], metric=HOSTILE, model=HOSTILE))
    ),
    "compare": lambda: lk.views.compare(compare_table()),
    "damage": lambda: lk.views.damage(damage_table()),
    "doses": lambda: lk.views.doses(doses_table(), concept="whales"),
    "drafts": lambda: lk.views.drafts(speculated()),
    "formats": lambda: lk.views.formats(formats_table()),
    "features": lambda: lk.views.features(random_featured(8)),
    "grid": lambda: lk.views.grid(a_matrix()),
    "lengths": lambda: lk.views.lengths(lengths_table()),
    "lens": lambda: lk.views.lens(lens_table()),
    "lens, grid": lambda: lk.views.lens(HandLens(TOKENS, kind=HOSTILE, words=[*TOKENS, HOSTILE])),
    "live": a_panel,
    "live, bars": lambda: a_panel("bars"),
    "mask": lambda: lk.views.mask(hand_mask(hostile=HOSTILE)),
    "mask, packed": lambda: lk.views.mask(hand_mask(packing=True)),
    "memory": a_memory,
    "mix": a_mix,
    "patching": lambda: lk.views.patching(patching_table()),
    "probe": lambda: lk.views.probe(probes_table()),
    "quantization": a_quantization,
    "recall": lambda: lk.views.recall(recall_table()),
    "routes": lambda: lk.views.routes(random_routed(12)),
    "runs": lambda: lk.views.runs(runs_table(), x="rank", y=("accuracy", "forgetting"), by="method"),
    "sensitivity": lambda: lk.views.sensitivity(sensitivity_table()),
    "specialisation": lambda: lk.views.specialisation(specialisation_table()),
    "squeeze": lambda: lk.views.squeeze(squeeze_table()),
    "steering": a_steering,
    "temperature": a_temperature,
    "throughput": lambda: lk.views.throughput(throughput_table()),
    "tokens": lambda: lk.views.tokens(story()),
    "training": a_training,
    "tree": lambda: lk.views.tree([story(), story(model=HOSTILE)]),
    "updates": lambda: lk.views.updates(updates_table()),
    "languages": lambda: lk.views.languages(languages_table()),
    "loss_by_position": lambda: lk.views.loss_by_position(positions_table()),
    "needles": lambda: lk.views.needles(needles_table()),
    "attention_over_distance": lambda: lk.views.attention_over_distance(distances_table()),
    "rotation": lambda: lk.views.rotation(rotation_table()),
    "streaming": lambda: lk.views.streaming(windows_table()),
    "footprint": lambda: lk.views.footprint(plans()),
    "roofline": lambda: lk.views.roofline(plans()),
    "explorer": lambda: lk.views.explorer("llama-2-7b", hardware="RTX4090-24GB", precision="int4"),
    "teaching: prediction": a_prediction,
    "teaching: result": a_curve,
}
NUMBERS = {  # a number that each of them shows, as its table has it: (column, value)
    "adapter": ("kl", 1.5),
    "attention": ("weight", 1.0),
    "attribution": ("contribution", 2.125),
    "compare": ("difference", 0.5),
    "damage": ("loss_change", 3.0),
    "doses": ("share", 0.125),
    "drafts": ("verify_seconds", 0.0625),
    "formats": ("kl", 0.015625),
    "lengths": ("step_seconds", 0.0625),
    "lens": ("top_probability", 0.47),
    "live": ("b", 19 / 7),
    "patching": ("effect", 0.5),
    "probe": ("accuracy", 0.875),
    "quantization": ("bits_per_weight", 4.5),
    "recall": ("accuracy", 0.4375),
    "runs": ("median", 0.13125),
    "sensitivity": ("kl", 1.25),
    "specialisation": ("share", 0.98),
    "squeeze": ("loss_change", 0.25),
    "steering": ("mean_loss", 3.25),
    "throughput": ("tokens_per_second", 96.5),
    "training": ("kl", 0.15),
    "updates": ("relative", 0.1875),
    "languages": ("relative", 2.5),
    "loss_by_position": ("loss", 3.5),
    "needles": ("found", 0.25),
    "attention_over_distance": ("share", 0.625),
    "rotation": ("key_size", 1.5),
    "streaming": ("loss", 4.25),
    "teaching: prediction": ("guess", 40),
    "teaching: result": ("result", 9.0),
}


@pytest.fixture(scope="module", autouse=True)
def own_progress(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_PROGRESS", str(tmp_path_factory.mktemp("progress") / "progress.json"))
        yield


@pytest.fixture(scope="module", params=list(MAKERS))
def shown(request: pytest.FixtureRequest) -> Any:
    view = MAKERS[request.param]()
    view.test_name = request.param
    yield view
    if hasattr(view, "close"):
        view.close()


def test_every_public_view_is_here() -> None:
    assert set(lk.views.__all__) <= set(MAKERS)


def test_a_page_that_asks_for_nothing(shown: Any, tmp_path: Path) -> None:
    page = shown.to_html(tmp_path / "view.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert Page(page).fetched == []
    assert not re.search(r"https?://|url\(|@import", page.replace("http://www.w3.org/2000/svg", ""))
    assert len(page) < 600_000


def test_a_picture_that_every_reader_takes(shown: Any, tmp_path: Path) -> None:
    source = shown.to_svg(tmp_path / "view.svg").read_text("utf-8")
    root = ElementTree.fromstring(source)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = [
        element
        for element in root.iter()
        if element.tag.rpartition("}")[2] in ("rect", "path", "circle", "text", "image")
    ]
    assert len(drawn) > 3
    assert Page(source).fetched == []
    assert "://" not in source.replace("http://www.w3.org/2000/svg", "")
    assert "\u202e" not in source
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert 200 < width <= 1200
    assert 60 < height < 4000
    for element in drawn:  # nothing stands outside of the paper
        x, y = float(element.get("x") or element.get("cx") or 0), float(element.get("y") or element.get("cy") or 0)
        assert -1 <= x <= width + 1, ElementTree.tostring(element)[:200]
        assert -1 <= y <= height + 1, ElementTree.tostring(element)[:200]


def test_the_same_picture_in_pixels(shown: Any, tmp_path: Path) -> None:
    root = ElementTree.fromstring(shown.to_svg(tmp_path / "view.svg").read_text("utf-8"))
    image = Image.open(shown.to_png(tmp_path / "view.png", scale=1))
    assert image.format == "PNG"
    assert image.size == (round(float(root.get("width", 0))), round(float(root.get("height", 0))))
    ink = (np.asarray(image.convert("L")) < 160).mean()
    assert 0.002 < ink < 0.6


def test_the_numbers(shown: Any, tmp_path: Path) -> None:
    text = shown.to_csv(tmp_path / "view.csv").read_text("utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == list(map(str, shown.table.columns))
    assert len(rows) == len(shown.table) + 1 > 1
    column, value = NUMBERS.get(shown.test_name, (None, None))
    if column:
        again = pd.read_csv(tmp_path / "view.csv")
        assert np.isclose(again[column].astype(float), value, rtol=1e-6).any()


def test_a_text_that_a_spreadsheet_would_run_is_marked_as_text(tmp_path: Path) -> None:
    class Shown(Exports):
        def _table(self) -> pd.DataFrame:
            tokens = ["=1+1", "+", "-", "@SUM(A1)", "\tx", "a=1", "'", None]
            return pd.DataFrame({"token": tokens, "=x": range(-4, 4), "logprob": [-0.5] * 8})

    rows = list(csv.reader(io.StringIO(Shown().to_csv(tmp_path / "tokens.csv").read_text("utf-8"))))
    assert rows[0] == ["token", "'=x", "logprob"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+", "'-", "'@SUM(A1)", "'\tx", "a=1", "'", ""]
    assert rows[1][1:] == ["-4", "-0.5"], "numbers stay numbers"


def test_what_a_saved_notebook_keeps(shown: Any) -> None:
    """And what nbconvert makes of it, with no kernel and no widget's state."""
    data, metadata = shown._repr_mimebundle_()
    kept = {kind: value for kind, value in data.items() if kind != WIDGET}
    picture = kept.get("image/svg+xml") or kept["text/html"]
    kept_there = Page(picture)
    wanted = {"strong"} if shown.test_name in TEXT else PICTURES
    assert kept_there.tags & wanted
    assert kept_there.fetched == []
    assert len(picture) < 20_000
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    cell = nbformat.v4.new_code_cell("view", outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    seen = Page(page[page.index("<body") :].partition("jp-Cell-outputWrapper")[2])
    assert seen.tags & wanted
    assert seen.fetched == []


@pytest.mark.parametrize("make", [a_steering, a_temperature])
def test_a_notebook_keeps_what_was_written_after_it_was_displayed(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell's output is made before there is a text; it is replaced once there is one, and after wait()."""
    told: list[tuple[dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr("labkit.views.base.display", lambda data, **how: told.append((data, how)))
    release = threading.Event()

    class Slow(Writer):
        def __call__(self, *given: Any) -> Any:
            release.wait(SECONDS)
            return super().__call__(*given)

    if make is a_steering:
        view: Any = lk.views.steering(Slow(), FEATURES, prompt=PROMPT)
    else:
        view = TemperatureView(
            lambda prompt, **settings: release.wait(SECONDS) and story(),
            PROMPT,
            next_logits=lambda prompt: np.linspace(0, 5, 40),
            token_text=str,
        )
    view._ipython_display_()
    assert len(told) == 1
    release.set()
    until = time.monotonic() + SECONDS
    while len(told) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert view.wait(SECONDS)
    (first, how), (last, again), *more = told
    assert more == [], "what is there already is not shown anew"
    assert again["display_id"] == how["display_id"]
    assert again["update"]
    assert len(last["text/html"]) > len(first["text/html"])
    assert "nothing written yet" not in last["text/plain"]
    if make is a_steering:
        view.strengths = {1234: 10.0}
        assert view.wait(SECONDS)
        assert "mean loss" in told[-1][0]["text/plain"].partition("steered")[2]
    view.close()


@pytest.mark.parametrize("name", ["attention", "features", "routes", "tokens"])
def test_a_view_takes_the_layout_that_every_widget_takes(name: str) -> None:
    first = MAKERS[name]()
    given = {"attention": "_traces", "features": "_found", "routes": "_traces", "tokens": "_generation"}[name]
    shown = getattr(first, given)
    view = type(first)(shown[0] if isinstance(shown, list | tuple) else shown, layout={"width": "50%"})
    assert view.layout.width == "50%"
    first.close()
    view.close()


# what single ones hold ------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_source() -> None:
    pattern = random_patterns(len(TOKENS))
    view = lk.views.attention(patterned(TOKENS, pattern), layer=1, head=2)
    table = view.table
    assert len(table) == len(TOKENS) * (len(TOKENS) + 1) // 2
    for row in table.itertuples():
        assert row.weight == pytest.approx(float(pattern[1][2][row.query, row.key]))
        assert (row.query_token, row.key_token) == (TOKENS[row.query], TOKENS[row.key])
    view.close()
    text = story()
    tokens = lk.views.tokens(text).table
    np.testing.assert_allclose(tokens.probability, np.exp(text.logprobs.double()))
    assert list(tokens["rank"]) == text.ranks.tolist()
    trace = random_routed(12)
    routes = lk.views.routes(trace).table
    assert len(routes) == trace.routes.experts.numel()
    one = routes[(routes.layer == 3) & (routes.position == 5)]
    assert sorted(one.expert) == sorted(trace.routes.experts[5, 3].tolist())
    np.testing.assert_allclose(one.weight.sum(), 1, rtol=1e-6)
    found = random_featured(8)
    features = lk.views.features(found).table
    assert len(features) == int(((found.values > 0) & (found.indices >= 0)).sum())
    for row in features.itertuples():
        assert row.activation == pytest.approx(float(found.of(row.feature)[row.position]))


def test_a_temperature_has_every_setting_and_its_own() -> None:
    view = a_temperature()
    table = view.table
    for setting, rows in table[~table.shown].groupby("temperature"):
        assert rows.probability.sum() == pytest.approx(1, abs=1e-5), setting
    own = table[table.shown & (table.id >= 0)]
    np.testing.assert_allclose(own.probability, view.distribution()[own.id], rtol=1e-5)
    view.close()


def test_what_has_no_numbers_says_so(tmp_path: Path) -> None:
    card = lk.exercise("attention.rotate")
    assert card.to_svg(tmp_path / "card.svg").stat().st_size > 500
    for view in (card, lk.views.features(dashboard(dictionary(), 3))):
        with pytest.raises(lk.Unavailable, match="to_svg"):
            view.to_csv(tmp_path / "no.csv")
        assert not (tmp_path / "no.csv").exists()


def test_a_png_without_pillow_says_what_would_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    chart = MAKERS["lens"]()
    with pytest.raises(lk.Unavailable, match=r"labkit\[pictures\]"):
        chart.to_png(tmp_path / "lens.png")
    assert not (tmp_path / "lens.png").exists()
    chart.to_svg(tmp_path / "lens.svg")


@pytest.mark.parametrize("write", ["to_html", "to_svg", "to_png", "to_csv"])
def test_a_file_that_cannot_be_written_says_so(write: str, tmp_path: Path) -> None:
    with pytest.raises(lk.BadInput, match=r"can't be written .*missing.*; give a file name in a folder that exists"):
        getattr(MAKERS["attribution"](), write)(tmp_path / "missing" / "file")


def test_a_scale_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lk.BadInput, match="scale=50"):
        MAKERS["attribution"]().to_png(tmp_path / "a.png", scale=50)


# the chart ------------------------------------------------------------------------------------------------------------


def test_a_chart_passes_on_what_is_plotlys() -> None:
    chart = MAKERS["attribution"]()
    assert chart.update_layout(title="Other <b>title</b>") is chart
    assert chart.layout.title.text == chart.figure.layout.title.text
    assert len(chart.data) == 1
    assert "update_layout" in dir(chart)
    assert repr(chart) == "Chart('Other title')"
    assert "Other " in chart._repr_mimebundle_()[0]["image/svg+xml"]
    with pytest.raises(AttributeError):
        chart.no_such_thing  # noqa: B018
    import copy
    import pickle

    assert copy.copy(chart).layout.title.text == chart.layout.title.text
    assert pickle.loads(pickle.dumps(chart)).table.equals(chart.table)


def test_a_chart_is_read_and_set_as_plotlys_figure_is() -> None:
    chart = a_memory()
    assert chart["layout"]["title"]["text"] == chart.figure.layout.title.text
    chart["layout"]["title"]["text"] = "By key"
    assert chart.figure.layout.title.text == "By key"
    chart["layout"] = {"title": {"text": "A layout by key"}}
    assert chart.figure.layout.title.text == "A layout by key"
    chart.layout = {"title": {"text": "Another layout"}}
    assert chart.figure.layout.title.text == "Another layout"
    assert "Another layout" in repr(chart)
    assert "layout" not in vars(chart), "or what is drawn would not be what was set"


def test_a_figure_with_another_trace_keeps_its_numbers(tmp_path: Path) -> None:
    chart = MAKERS["attribution"]()
    chart.figure.add_pie(values=[1, 2])
    data, _ = chart._repr_mimebundle_()
    assert "image/svg+xml" not in data
    assert "2.125" in data["text/html"]
    with pytest.raises(lk.Unavailable, match="pie"):
        chart.to_svg(tmp_path / "pie.svg")


def test_colab_draws_a_chart_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.io as pio

    monkeypatch.setattr("labkit.views.chart.in_colab", lambda: True)
    monkeypatch.setattr(pio.renderers, "default", "colab")
    data, _ = MAKERS["attribution"]()._repr_mimebundle_()
    assert "Plotly" in data["text/html"]


def test_marks_stand_where_the_numbers_say() -> None:
    chart = MAKERS["attribution"]()
    picture = chart._image()
    from labkit.views.drawing.scene import Box

    bars = [shape for shape in picture.shapes if isinstance(shape, Box)]
    values = as_table(chart.table).contribution.tolist()
    assert [bar.width / bars[2].width for bar in bars] == pytest.approx([abs(v) / 2.125 for v in values])
    zero = bars[0].x
    assert bars[1].x + bars[1].width == pytest.approx(zero), "what speaks against reaches from zero to the left"
    assert bars[2].hover == "layer 1 head 2: +2.1250 logits"


def test_colours_of_a_heat_map_are_those_of_its_scale() -> None:
    from labkit.views.drawing.scene import Raster

    chart = MAKERS["patching"]()
    cells = next(shape for shape in chart._image().shapes if isinstance(shape, Raster))
    assert cells.pixels.shape == (3, len(TOKENS), 4)
    assert cells.pixels[1, 0].tolist() == [0xF7, 0xF7, 0xF7, 255], "0 is the middle"
    assert cells.pixels[2, -1].tolist()[:3] == [0xD5, 0x5E, 0x00], "the largest effect"
    assert cells.pixels[0, -1].tolist()[:3] == [0x00, 0x72, 0xB2]
