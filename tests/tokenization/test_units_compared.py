"""Models of bytes, byte pairs and patches: each sees only what came before, costs the same, and is measured per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import labkit as lk
from labkit.tokenization import PatchModel, UnitModel, compare_units, compare_units_events, comparing, recorded_units

WORDS = ["a", "bb", "ccc", "dd", "e", "ff", "ggg", "hh", "i", "jj"]
TEXTS = [f"the cat {word} sat on the mat, and the {word} dog ran é " * 4 for word in WORDS]
SMALL = {"d_model": 16, "layers": 1, "vocabulary": 280, "context": 24, "batch": 4}


@pytest.fixture(scope="module")
def found() -> comparing.UnitComparison:
    return compare_units(TEXTS, **SMALL, steps=60, learning_rate=0.01, draws=200)


def test_no_model_sees_what_it_foretells() -> None:
    torch.manual_seed(0)
    ids = torch.randint(257, (2, 20))
    begins = torch.rand(2, 20) < 0.3
    for model in (UnitModel(257, 16, 2), PatchModel(257, 16, 2)):
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        own = (begins,) if isinstance(model, PatchModel) else ()
        with torch.no_grad():
            before = model(ids, *own)
            for place in (0, 7, 19):
                other, cuts = ids.clone(), begins.clone()
                other[:, place] = (other[:, place] + 1) % 257
                cuts[:, place:] = ~cuts[:, place:]  # where patches begin is told by what came before as well
                after = model(other, *((cuts,) if own else ()))
                assert torch.allclose(before[:, :place], after[:, :place], atol=1e-5)
                assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


def test_patches_are_pooled_and_read_once_they_have_ended() -> None:
    torch.manual_seed(1)
    model = PatchModel(257, 16, 1)
    ids, begins = torch.randint(257, (1, 6)), torch.tensor([[False, True, False, False, True, False]])
    with torch.no_grad():
        local = model.reading(model.embed(ids))
        pooled = torch.stack([local[0, :2].mean(0), local[0, 2:5].mean(0), local[0, 5:].mean(0)])[None]
        states = model.patch_norm(model.blocks(pooled))[0]
        seen = torch.stack([model.before, states[0], states[0], states[0], states[1], states[1]])[None]
        by_hand = model.norm(model.writing(local + seen)) @ model.embed.weight.T
    assert torch.allclose(model(ids, begins), by_hand, atol=1e-5)


def test_every_kind_costs_the_same_and_learns(found: comparing.UnitComparison) -> None:
    rows = found.table.set_index("kind")
    assert list(rows.index) == ["bytes", "pairs", "patches"]
    assert rows["flops"].to_numpy() == pytest.approx(rows.loc["bytes", "flops"], rel=0.05)
    assert rows.loc["bytes", "bits_per_byte"] < rows.loc["bytes", "unigram"]
    assert (rows["bits_per_byte"] < 0.8 * rows["untrained"]).all()
    assert rows.loc["bytes", "untrained"] == pytest.approx(math.log2(257), abs=0.3)
    assert (rows["low"] <= rows["bits_per_byte"]).all()
    assert (rows["high"] >= rows["bits_per_byte"]).all()
    assert rows.loc["bytes", "difference"] == rows.loc["bytes", "difference_high"] == 0
    assert rows.loc["pairs", "difference"] == pytest.approx(
        rows.loc["pairs", "bits_per_byte"] - rows.loc["bytes", "bits_per_byte"]
    )
    assert rows.loc["pairs", "unit_bytes"] > 1.2
    assert 2 < rows.loc["patches", "unit_bytes"] < 8
    assert "2 held-out documents" in repr(found)


@pytest.mark.parametrize("kind", comparing.KINDS)
def test_operations_are_those_that_torch_counts(kind: comparing.Kind) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    units = comparing._units(kind, TEXTS[:6], TEXTS[6:], 280)
    model = (PatchModel if kind == "patches" else UnitModel)(units.vocabulary, 16, 2)
    ids, begins = comparing._rows(units, 24, 4, torch.Generator().manual_seed(0))
    own = (begins[:, :-1],) if kind == "patches" else ()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids[:, :-1], *own).flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert comparing._flops(model, units, 24, 4) == counter.get_total_flops()


def test_bits_per_byte_are_those_of_each_byte_by_hand(found: comparing.UnitComparison) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    model = found.models["bytes"].eval()
    bits, size = 0.0, 0
    for number in order[:2]:
        ids = [256, *TEXTS[number].encode()]
        size += len(ids) - 1
        for at in range(1, len(ids)):
            start = (at - 1) // SMALL["context"] * SMALL["context"]
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:at]]))[0, -1].double()
            bits -= float(F.log_softmax(logits, -1)[ids[at]]) / math.log(2)
    assert found.table["bits_per_byte"][0] == pytest.approx(bits / size, rel=1e-5)


def test_the_null_is_the_frequency_of_units(found: comparing.UnitComparison) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    counts = np.ones(257)
    for number in order[2:]:
        counts += np.bincount(list(TEXTS[number].encode()), minlength=257)
    held = [byte for number in order[:2] for byte in TEXTS[number].encode()]
    assert found.table["unigram"][0] == pytest.approx(-np.log2(counts / counts.sum())[held].mean(), rel=1e-3)


def test_a_table_of_two_bytes_tells_where_the_next_is_open() -> None:
    text = torch.tensor([256, *("abcabcabd" * 50).encode()])
    entropies = comparing._bigram_entropies(text)
    a, b, c = (ord(letter) for letter in "abc")
    assert entropies[a, b] > 0.5  # c or d
    assert entropies[b, c] < 0.1
    assert torch.isfinite(entropies).all()


def test_events_stops_and_what_can_not_be_used() -> None:
    import threading

    events = list(compare_units_events(TEXTS, **SMALL, kinds=("bytes",), steps=2))
    assert any("bytes" in event["values"] for event in events)
    both = list(compare_units_events(TEXTS, **SMALL, kinds=("bytes", "pairs"), steps=3))
    assert not any("loss" in event["values"] for event in both), "its line would run back with each training"
    assert [event["done"] for event in both] == sorted(event["done"] for event in both)
    assert both[-1]["done"] == both[-1]["total"] == 6
    stop = threading.Event()
    stop.set()
    assert compare_units(TEXTS, **SMALL, steps=2, stop=stop).table.empty
    for bad in ({"d_model": 12}, {"kinds": ("words",)}, {"vocabulary": 100}, {"steps": 0}, {"texts": ["a"] * 3}):
        with pytest.raises(lk.BadInput):
            compare_units(**{"texts": TEXTS, **bad})


def test_the_record_is_of_equal_compute_and_above_its_null() -> None:
    rows = recorded_units().table.set_index("kind")
    assert list(rows.index) == ["bytes", "pairs", "patches"]
    assert (rows["high"] < rows["unigram"]).all()
    assert rows["flops"].max() < 1.02 * rows["flops"].min()
