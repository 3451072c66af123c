"""What is read far back: loss by position, windows and sinks, needles, attention over distance, the rotation by hand, costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.context import haystacks, long_texts
from labkit.context.long_losses import by_position
from labkit.context.records import RECORD

ALL = FAMILIES | UNUSUAL
TEXT = [(7 * i + 3) % 100 for i in range(40)]


def lab_of(family: str, **more: Any) -> lk.Lab:
    row = ALL[family]
    return lk.Lab(build(replace(row, fields=row.fields | more)), Tokens(), name=family)


@pytest.fixture(scope="module")
def squeeze() -> lk.Lab:
    return lk.load("labkit-squeeze")


# the rotation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama3", "qwen3", "gpt_neox", "phi3", "gemma3", "glm"])
def test_the_rotation_by_hand_is_the_models(family: str) -> None:
    if family not in ALL:
        pytest.skip("no such family here")
    lab = lab_of(family)
    trace = lab.trace(TEXT, keep="attention")
    for layer in (0, 1):
        found = lk.context.rotation(lab, TEXT, layer)
        assert found.difference < 1e-5
        assert torch.equal(found.queries, trace.queries(layer))
        assert not torch.allclose(found.queries, found.queries_before, atol=1e-3)
        assert torch.allclose(found.queries[:, 0], found.queries_before[:, 0], atol=1e-6)  # position 0 is not turned
        assert found["weight"].sum() == pytest.approx(1, abs=1e-5)
    assert "forward" not in {name for module in lab.model.modules() for name in vars(module)}


def test_queries_before_the_rotation_are_the_projections() -> None:
    lab = lab_of("llama3")
    found = lk.context.rotation(lab, TEXT, 1)
    layer = lab.model.model.layers[1]
    with torch.no_grad():
        entering = layer.input_layernorm(lab.trace(TEXT, keep="residual").residual(1))
        queries = layer.self_attn.q_proj(entering).view(len(TEXT), 4, 8).transpose(0, 1)
    assert torch.allclose(found.queries_before, queries, atol=1e-5)


def test_a_model_without_rotation_has_none_to_show() -> None:
    with pytest.raises(lk.Unavailable, match="no rotary positions"):
        lk.context.rotation(lab_of("gpt2"), TEXT)
    with pytest.raises(lk.BadInput, match="layer"):
        lk.context.rotation(lab_of("llama3"), TEXT, 9)


# windows and sinks ----------------------------------------------------------------------------------------------------


def by_hand(lab: lk.Lab, window: int, sinks: int) -> torch.Tensor:
    """The logits of the same model given that mask."""
    place = torch.arange(len(TEXT))
    distance = place[:, None] - place[None, :]
    sees = (distance >= 0) & ((distance < window) | (place[None, :] < sinks))
    with torch.no_grad():
        logits: torch.Tensor = lab.model(torch.tensor([TEXT]), attention_mask=sees[None, None]).logits[0]
    return logits


@pytest.mark.parametrize("family", ["llama3", "gpt2", "mixtral", "qwen3"])
@pytest.mark.parametrize(("window", "sinks"), [(5, 0), (6, 2), (1, 1), (100, 3)])
def test_a_window_is_the_model_with_that_mask(family: str, window: int, sinks: int) -> None:
    lab = lab_of(family)
    plain = lab.trace(TEXT, keep="logits").logits
    with lab.edit(lk.context.windowed(window, sinks=sinks)):
        trace = lab.trace(TEXT)
        both = lab.trace([TEXT, TEXT[:17]], keep="logits")
        written = lab.generate([TEXT, TEXT[:9]], max_new_tokens=5)
    assert torch.allclose(trace.logits, by_hand(lab, window, sinks), atol=1e-5)
    assert torch.allclose(both[0].logits, trace.logits, atol=1e-5)
    assert torch.allclose(both[1].logits, trace.logits[:17], atol=1e-5)
    pattern = trace.attention(1, 0)
    place = torch.arange(len(TEXT))
    outside = (place[:, None] - place[None, :] >= window) & (place[None, :] >= sinks)
    assert float(pattern[outside].abs().sum()) == 0
    assert torch.allclose(pattern.sum(-1), torch.ones(len(TEXT)), atol=1e-5)
    # step by step, with a cache, is the same as one pass
    for one, prompt in zip(written, (TEXT, TEXT[:9]), strict=True):
        whole = prompt + one.ids
        with lab.edit(lk.context.windowed(window, sinks=sinks)):
            logits = lab.trace(whole, keep="logits").logits[len(prompt) - 1 : -1]
        assert one.ids == logits.argmax(-1).tolist()
        assert torch.allclose(
            torch.tensor(one.logprobs),
            logits.log_softmax(-1).gather(1, torch.tensor(one.ids)[:, None])[:, 0],
            atol=1e-4,
        )
    assert torch.equal(lab.trace(TEXT, keep="logits").logits, plain)


def test_windows_are_refused_where_they_would_be_wrong() -> None:
    for family, sinks, why in (("mistral", 2, "sinks=0"), ("bloom", 0, "can't be given a window")):
        lab = lab_of(family)
        with pytest.raises(lk.Unavailable, match=why), lab.edit(lk.context.windowed(4, sinks=sinks)):
            pass
    for bad in (0, -1, 1.5, True):
        with pytest.raises(lk.BadInput):
            lk.context.windowed(bad)  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput):
        lk.context.windowed(4, sinks=-1)


def test_streaming_counts_what_is_kept(squeeze: lk.Lab) -> None:
    found = lk.context.streaming(squeeze, window=28, sinks=4, tokens=160, documents=3, progress=False)
    table = found.set_index("kept")
    assert list(table.index) == ["all", "window", "window and sinks"]
    assert table.loc["window", "cache_bytes"] * 5 == table.loc["all", "cache_bytes"]
    assert table.loc["all", "change"] == 0
    assert (table["low"] <= table["loss"]).all()
    ids = lk.context.long_documents(squeeze, 160, 3)
    with squeeze.edit(lk.context.windowed(28, sinks=4)):
        losses = [squeeze.trace(one, keep="logits").loss[33:].mean() for one in ids]
    assert table.loc["window and sinks", "loss"] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)
    with pytest.raises(lk.BadInput, match="leaves nothing out"):
        lk.context.streaming(squeeze, window=200, tokens=100, progress=False)


# loss by position -----------------------------------------------------------------------------------------------------


def test_loss_by_position_is_that_of_whole_passes(squeeze: lk.Lab) -> None:
    found = lk.context.loss_by_position(
        squeeze, kinds=("default", "yarn"), factor=2, trained=512, documents=3, bins=4, progress=False
    )
    ids = lk.context.long_documents(squeeze, 1024, 3)
    far = lk.context.scaled(squeeze, "yarn", factor=2)
    losses = torch.stack([far.trace(one, keep="logits").loss[1:] for one in ids])
    rows = found[found["kind"] == "yarn"]
    assert rows["position_from"].tolist() == [0, 256, 512, 768]
    assert rows["tokens"].tolist() == [765, 768, 768, 768]
    for row, part in zip(rows.to_dict("records"), (losses[:, :255], *losses[:, 255:].split(256, 1)), strict=True):
        assert row["loss"] == pytest.approx(float(part.mean()), abs=1e-4)
        assert row["low"] <= row["loss"] <= row["high"]
    assert (found["unigram"] > found["loss"] + 1).all()
    assert (found[found["kind"] == "default"]["change"] == 0).all()
    assert squeeze.context == 512


def test_bins_hold_their_own_positions() -> None:
    nats = np.tile(np.arange(1, 8, dtype=float), (3, 1))  # of token i: i
    found = by_position({"yarn": nats}, nats, model="m", trained=4, factor=2, bins=4)
    assert found["loss"].tolist() == [1.0, 2.5, 4.5, 6.5]
    assert found["change"].isna().all()


def test_what_does_not_fit_is_said_before(squeeze: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "free_bytes", lambda _device: 100_000_000)
    for ask in (
        lambda: lk.context.loss_by_position(squeeze, factor=400, progress=False),
        lambda: long_texts.check_room(squeeze, 10**6),
    ):
        with pytest.raises(lk.NotEnoughMemory, match="would fit"):
            ask()


def test_bad_documents_and_ways_are_refused(squeeze: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="document 1 has"):
        lk.context.loss_by_position(squeeze, [list(range(600)), [1, 2]], factor=1, kinds=("default",), progress=False)
    with pytest.raises(lk.BadInput):
        lk.context.loss_by_position(squeeze, kinds=("yarn", "yarn"), progress=False)
    with pytest.raises(lk.BadInput, match="no more"):
        lk.context.long_documents(squeeze, 60_000, 50)
    with pytest.raises(lk.Unavailable, match="no rotary"):
        lk.context.loss_by_position(lab_of("gpt2"), progress=False)
    for bad in (-5, 0, 1.5):
        with pytest.raises(lk.BadInput):
            lk.context.long_documents(squeeze, bad)  # type: ignore[arg-type]


def test_the_record_is_what_the_recipe_measures(squeeze: lk.Lab) -> None:
    found = lk.context.recorded("labkit-squeeze", bins=4)
    ids = lk.context.long_documents(squeeze, 1024, 20)[:1]
    live = lk.context.loss_by_position(squeeze, ids, kinds=("yarn",), trained=256, bins=16, progress=False)
    import json

    line = next(
        row for row in map(json.loads, RECORD.open()) if row["kind"] == "yarn" and row["model"] == "labkit-squeeze"
    )
    assert live["loss"].tolist() == pytest.approx(line["loss"], abs=2e-4)
    assert found.documents == 20
    last = found[found["position_from"] == 768].set_index("kind")
    assert last.loc["yarn", "change_high"] < 0  # YaRN helps far beyond the trained length
    assert last.loc["yarn", "loss"] < last.loc["linear", "loss"]
    with pytest.raises(lk.BadInput, match="did you mean"):
        lk.context.recorded("labkit-squeez")


# needles, distance, costs ---------------------------------------------------------------------------------------------


def test_needles_are_found_by_a_model_that_copies(squeeze: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = lk.context.needles(squeeze, (64, 96), (0, 1), trials=4, progress=False)
    assert found["length"].tolist() == [64, 64, 96, 96]
    assert found.chance == 0.1
    assert set(found.without) == {64, 96}
    assert (found["low"] <= found["found"]).all()
    assert (found["found"] <= found["high"]).all()
    seen: list[list[int]] = []

    def looks(_lab: lk.Lab, ids: list[int], candidates: list[int]) -> int:
        """A reader that knows where to look: right where the needle stands."""
        seen.append(ids)
        needle = [*haystacks._ids(squeeze, haystacks.NEEDLE.partition("{}")[0]), candidates[0]]
        return 1 if any(ids[i : i + len(needle)] == needle for i in range(len(ids))) else 2

    monkeypatch.setattr(haystacks, "_rank", looks)
    found = lk.context.needles(squeeze, 64, (0, 0.5, 1), trials=2, progress=False)
    assert {len(ids) for ids in seen} == {64}
    assert found["found"].tolist() == [1, 1, 1]
    assert found.without == {64: 0}


def test_a_needle_that_does_not_fit_is_refused(squeeze: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="do not fit"):
        lk.context.needles(squeeze, 10, progress=False)
    with pytest.raises(lk.BadInput, match="positions"):
        lk.context.needles(squeeze, 4096, progress=False)
    for bad in ((), (1.5,), ("deep",)):
        with pytest.raises(lk.BadInput):
            lk.context.needles(squeeze, 64, bad, progress=False)  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput):
        lk.context.needles(squeeze, -64, progress=False)


def test_attention_over_distance_adds_up() -> None:
    lab = lab_of("llama3")
    trace = lab.trace(TEXT, keep="attention")
    found = lk.context.attention_over_distance(trace)
    shares = found.groupby(["layer", "head"])["share"].sum()
    assert np.allclose(shares, 1, atol=1e-5)
    assert np.allclose(found.groupby(["layer", "head"])["even"].sum(), 1, atol=1e-5)
    pattern = trace.attention(1, 2)
    row = found[(found["layer"] == 1) & (found["head"] == 2) & (found["distance_from"] == 4)].iloc[0]
    by_loop = [float(pattern[i, i - d]) for d in (4, 5, 6, 7) for i in range(d + 1, len(TEXT))]
    assert row["attention"] == pytest.approx(np.mean(by_loop), abs=1e-6)
    with lab.edit(lk.context.windowed(4)):
        near = lk.context.attention_over_distance(lab.trace(TEXT, keep="attention"), first_apart=False)
    assert near[near["distance_from"] >= 4]["share"].sum() == 0
    with pytest.raises(lk.BadInput):
        lk.context.attention_over_distance(lab.trace([5], keep="attention"))


def test_costs_are_those_of_a_real_cache() -> None:
    lab = lab_of("llama3")
    found = lk.context.long_costs(lab, (16, 64), repeats=1)
    assert found["cache_bytes"].tolist() == found["computed_bytes"].tolist()
    assert found["cache_bytes"].tolist() == [16 * 256, 64 * 256]
    with pytest.raises(lk.BadInput, match="context holds"):
        lk.context.long_costs(lab, 128)
    with pytest.raises(lk.BadInput):
        lk.context.long_costs(lab, -3)
