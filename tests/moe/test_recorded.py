"""What comes with labkit for the room of mixtures: texts, choices along the training, measured effects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labkit as lk
from labkit.models import texts as shipped
from labkit.models.shipped import ASSETS
from labkit.moe import recorded as files
from labkit.recipes.moe import CHECKPOINTS, STEPS


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.load("labkit-moe", dtype="float32", device="cpu")


def test_texts_are_of_five_kinds_and_parts_share_nothing() -> None:
    first, second = lk.moe.texts(15), lk.moe.texts(15, skip=15)
    assert list(first) == list(shipped.KINDS)
    assert all(len(of_kind) == 15 for part in (first, second) for of_kind in part.values())
    for kind in first:
        assert not set(first[kind]) & set(second[kind])
        every = lk.moe.passages(kind)
        assert len({p.text for p in every}) == len(every)
    assert sum(len(t) for t in lk.moe.texts()["chinese"]) > 20_000
    assert "中" in "".join(lk.moe.texts(5)["chinese"]) or "人" in "".join(lk.moe.texts(5)["chinese"])


def test_every_source_has_its_licence_on_the_page() -> None:
    page = (ASSETS / "texts" / "README.md").read_text("utf-8")
    named = {
        "State of the Union",
        "Moby-Dick",
        "Wikipedia",
        "Factbook",
        "Python",
        "Metamath",
        "Song",
        "Yuan",
        "LibreOffice",
    }
    sources = {p.source for kind in shipped.KINDS for p in lk.moe.passages(kind)}
    for source in sources:
        assert any(word in source for word in named if word in page), source


@pytest.mark.parametrize(("documents", "skip"), [(10, 1000), (1000, 0), (None, 40), (21, 20)])
def test_more_texts_than_there_are(documents: int | None, skip: int) -> None:
    with pytest.raises(lk.BadInput, match=r"40 of prose, 40 of encyclopaedia, 60 of python, .* at most 40"):
        lk.moe.texts(documents, skip=skip)


def test_all_texts_after_some() -> None:
    assert {kind: len(some) for kind, some in lk.moe.texts(skip=39).items()}["python"] == 21
    assert all(len(some) == 20 for some in lk.moe.texts(20, skip=20).values())


@pytest.mark.parametrize(("documents", "skip"), [(0, 0), (-1, 0), (3, -1), (2.5, 0), (3, "1"), (True, 0)])
def test_what_texts_cannot_give(documents: Any, skip: Any) -> None:
    with pytest.raises(lk.BadInput, match="asks for no text"):
        lk.moe.texts(documents, skip=skip)


def test_a_kind_that_is_not_there() -> None:
    with pytest.raises(lk.BadInput, match="there are prose, encyclopaedia, python, mathematics, chinese"):
        lk.moe.passages("poetry")


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    monkeypatch.setattr(files, "ASSETS", tmp_path)
    shipped.passages.cache_clear()
    try:
        for read in (lambda: lk.moe.passages("prose"), lk.moe.checkpoints, lk.moe.recorded_effects):
            with pytest.raises(lk.BadModelFile, match="install labkit again"):
                read()
    finally:
        shipped.passages.cache_clear()


def test_the_last_recorded_choices_are_the_shipped_models(lab: lk.Lab) -> None:
    """Recomputed on those of the sample's tokens that lie in the first passages: the same experts, but for near ties."""
    recorded = lk.moe.checkpoints()
    assert list(recorded) == list(CHECKPOINTS)
    last = recorded[STEPS]
    assert last.shape == (1000, 6, 4)
    ids = [lab.tokenizer(p.text).input_ids for kind in shipped.KINDS for p in lk.moe.passages(kind)]
    total = sum(map(len, ids))
    wanted = np.linspace(0, total - 1, 1000).round().astype(int)
    first = ids[:6]
    inside = wanted[wanted < sum(map(len, first))]
    now = np.concatenate([lab.trace(i, keep="routes").routes.experts.numpy() for i in first])[inside]
    same = [
        len(set(a) & set(b)) / 4
        for one, two in zip(now, last[: len(inside)], strict=True)
        for a, b in zip(one, two, strict=True)
    ]
    assert len(inside) > 10
    assert np.mean(same) > 0.99  # half precision moves a near tie now and then


def test_the_recorded_effects_are_what_is_measured(lab: lk.Lab) -> None:
    table = lk.moe.recorded_effects()
    assert len(table) == 6 * 32 * 5
    some = {kind: [text[:600] for text in of_kind] for kind, of_kind in lk.moe.texts(12).items()}
    now = lk.moe.effects(lab, some, [(5, 1)], draws=10, progress=False).set_index("kind")["loss_change"]
    then = table[(table["layer"] == 5) & (table["expert"] == 1)].set_index("kind")["loss_change"]
    for kind in shipped.KINDS:
        assert now[kind] == pytest.approx(then[kind], abs=2e-4), kind


def test_the_card_says_what_the_record_says(lab: lk.Lab) -> None:
    """The card's losses are the record's, and the record's are those of the shipped model on a sample."""
    card = (ASSETS / "labkit-moe" / "README.md").read_text("utf-8")
    folder = Path(lk.__file__).parent / "recipes" / "records"
    last = [json.loads(line) for line in (folder / "moe-fine.jsonl").read_text("utf-8").splitlines()][-1]
    assert last["step"] == STEPS
    for kind, loss in last["held_out"].items():
        assert re.search(rf"^\| {kind} \| {loss:.3f} ", card, re.MULTILINE), kind
    assert f"{sum(p.numel() for p in lab.model.parameters()):,} in all" in card
    assert f"{lk.moe.costs(lab).active_parameters:,} active on a token" in card
    kind = "mathematics"
    ids = [lab.tokenizer(p.text).input_ids for p in lk.moe.passages(kind)]
    losses = np.concatenate([lab.trace(i, keep="logits").loss[1:].numpy() for i in ids])
    assert losses.mean() == pytest.approx(last["held_out"][kind], abs=2e-3)  # shipped in half precision
