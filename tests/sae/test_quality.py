"""What an autoencoder leaves unexplained and what it costs, against the same figures by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dictionaries import folder, hooks, make_lab
from planted import detectors, memory, mirror, rows
from torch import Tensor
from torch.nn.functional import cross_entropy

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, Quality, evaluate, untrained

KINDS = {"one": rows(3, 100), "two": rows(4, 80, seed=1, tokens=range(3, 40))}
EVERY = [row for kind in KINDS.values() for row in kind]


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return make_lab()


@pytest.fixture(scope="module")
def random_sae(tmp_path_factory: pytest.TempPathFactory) -> SAE:
    """Random weights; a tenth or so of the tokens are out of its measure."""
    return lk.sae.load(
        folder(tmp_path_factory.mktemp("random"), "topk", measured={"typical_norm": 20.0, "outlier": 1.45})
    )


@pytest.fixture(scope="module")
def measured(lab: lk.Lab, random_sae: SAE) -> Quality:
    return evaluate(lab, random_sae, KINDS, progress=False)


def counted(lab: lk.Lab, sae: SAE, texts: list[list[int]]) -> Tensor:
    """The residuals that count, from whole traces: not the first, not those of a norm out of measure."""
    found = torch.cat([lab.trace(row, keep="residual").residual(sae.layer)[1:] for row in texts]).double()
    if sae.typical_norm is None or sae.outlier is None:
        return found
    return found[found.norm(dim=-1) <= sae.outlier * sae.typical_norm]


def row(quality: Quality, way: str, kind: str = "all") -> pd.Series:
    table = quality.table
    return table[(table["way"] == way) & (table["kind"] == kind)].iloc[0]


def loss_by_hand(lab: lk.Lab, sae: SAE, texts: list[list[int]], tell: Callable[[Tensor], Tensor] | None) -> float:
    """Nats a token when every vector that counts is told anew, by a hook of our own."""

    def change(_module: Any, args: Any, keywords: Any) -> Any:
        hidden = (args[0] if args else keywords["hidden_states"]).clone()
        vectors = hidden[0, 1:]
        usual = torch.ones(len(vectors), dtype=torch.bool)
        if sae.typical_norm is not None and sae.outlier is not None:
            usual = vectors.norm(dim=-1) <= sae.outlier * sae.typical_norm
        assert tell is not None
        vectors[usual] = tell(vectors[usual])
        return ((hidden, *args[1:]), keywords) if args else (args, keywords | {"hidden_states": hidden})

    losses = []
    handle = tell and lab.model.model.layers[sae.layer].register_forward_pre_hook(change, with_kwargs=True)
    try:
        for text in texts:
            ids = torch.tensor([text])
            with torch.no_grad():
                logits = lab.model(input_ids=ids, use_cache=False).logits[0].double()
            losses.append(cross_entropy(logits[:-1], ids[0, 1:], reduction="none"))
    finally:
        if handle:
            handle.remove()
    return float(torch.cat(losses).mean())


# by hand ---------------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_left_out_of_every_figure(lab: lk.Lab, random_sae: SAE, measured: Quality) -> None:
    x = counted(lab, random_sae, EVERY)
    tokens = sum(map(len, EVERY))
    assert measured.tokens == len(x)
    assert measured.left_out == tokens - len(x) > len(EVERY) + 10  # more than the first of each text
    for kind, texts in KINDS.items():
        assert row(measured, "sae", kind)["tokens"] == len(counted(lab, random_sae, texts))


@pytest.mark.parametrize("kind", ["one", "two", "all"])
def test_unexplained_is_the_share_of_the_variance_around_the_common_mean(
    lab: lk.Lab, random_sae: SAE, measured: Quality, kind: str
) -> None:
    everything = counted(lab, random_sae, EVERY)
    mean = everything.mean(0)
    x = everything if kind == "all" else counted(lab, random_sae, KINDS[kind])
    spread = (x - mean).square().sum()

    def left(told: Tensor) -> float:
        return float((x - told).square().sum() / spread)

    def told(sae: SAE) -> Tensor:
        before = (x - sae.decoder_bias.double()) @ sae.encoder.double() + sae.encoder_bias.double()
        values, indices = before.topk(sae.k or 0, dim=-1)
        dense = torch.zeros_like(before).scatter_(-1, indices, values.relu())
        return dense @ sae.decoder.double() + sae.decoder_bias.double()

    assert row(measured, "sae", kind)["unexplained"] == pytest.approx(left(told(random_sae)), rel=1e-4)
    assert row(measured, "untrained", kind)["unexplained"] == pytest.approx(left(told(untrained(random_sae))), rel=1e-4)
    assert row(measured, "mean", kind)["unexplained"] == pytest.approx(1, rel=1e-5)
    assert row(measured, "zero", kind)["unexplained"] == pytest.approx(left(torch.zeros_like(x)), rel=1e-5)


def test_principal_components_are_those_of_a_singular_value_decomposition(
    lab: lk.Lab, random_sae: SAE, measured: Quality
) -> None:
    x = counted(lab, random_sae, EVERY).numpy()
    at_work = random_sae.encode(torch.from_numpy(x).float()) > 0
    assert measured.components == round(float(at_work.sum(-1).float().mean()))
    assert 0 < measured.components < 32
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    wanted = singular[measured.components :].sum() / singular.sum()
    assert row(measured, "principal components")["unexplained"] == pytest.approx(wanted, rel=1e-4)


def test_at_work_and_dead_are_counted(lab: lk.Lab, random_sae: SAE, measured: Quality) -> None:
    for kind in ("one", "two", "all"):
        x = counted(lab, random_sae, EVERY if kind == "all" else KINDS[kind]).float()
        at_work = random_sae.encode(x) > 0
        assert row(measured, "sae", kind)["l0"] == pytest.approx(float(at_work.sum(-1).float().mean()))
    dead = 1 - float((random_sae.encode(counted(lab, random_sae, EVERY).float()) > 0).any(0).float().mean())
    assert measured.dead == pytest.approx(dead)
    assert measured.table[measured.table["way"] != "sae"]["l0"].isna().all()


def test_only_features_on_counted_tokens_are_alive(lab: lk.Lab) -> None:
    texts = [[7, *row[1:]] for row in rows(3, 100, tokens=range(10, 30))]  # token 7 is never but the first
    found = evaluate(lab, detectors(lab), texts, against=(), losses=False)
    assert found.dead == pytest.approx(80 / 100)
    assert found.components == 1
    assert row(found, "sae")["l0"] == 1


@pytest.mark.parametrize("way", ["sae", "principal components", "untrained", "mean", "zero"])
def test_the_loss_is_that_of_a_model_given_what_is_told(
    lab: lk.Lab, random_sae: SAE, measured: Quality, way: str
) -> None:
    x = counted(lab, random_sae, EVERY).float()
    mean = x.mean(0)
    directions = torch.from_numpy(np.linalg.svd((x - mean).numpy())[2][: measured.components])
    tell = {
        "sae": random_sae.reconstruct,
        "untrained": untrained(random_sae).reconstruct,
        "principal components": lambda v: mean + (v - mean) @ directions.T @ directions,
        "mean": lambda v: mean.expand_as(v),
        "zero": torch.zeros_like,
    }
    for kind, texts in {**KINDS, "all": EVERY}.items():
        found = row(measured, way, kind)
        own, spliced = (loss_by_hand(lab, random_sae, texts, t) for t in (None, tell[way]))
        assert found["loss"] == pytest.approx(own, abs=1e-4)
        assert found["loss_spliced"] == pytest.approx(spliced, abs=2e-3)  # float32 through a model of large weights
        assert found["increase"] == pytest.approx(found["loss_spliced"] - found["loss"])
        assert abs(found["increase"]) > 0.01  # of a random model it may be a gain
        of_mean = row(measured, "mean", kind)["increase"]
        assert found["loss_recovered"] == pytest.approx(1 - found["increase"] / of_mean, abs=1e-9)


def test_the_mean_recovers_nothing(measured: Quality) -> None:
    table = measured.table
    assert (table[table["way"] == "mean"]["loss_recovered"] == 0).all()
    assert list(table["way"].unique()) == ["sae", "principal components", "untrained", "mean", "zero"]
    assert list(table["kind"].unique()) == ["one", "two", "all"]


# how sure -------------------------------------------------------------------------------------------------------------


ENOUGH = {  # long texts and short ones, so that a mean of texts is no mean of tokens
    "one": [*rows(4, 20), *rows(3, 120, seed=2)],
    "two": [*rows(3, 15, seed=1, tokens=range(3, 40)), *rows(4, 90, seed=3, tokens=range(3, 40))],
}


@pytest.fixture(scope="module")
def many(lab: lk.Lab, random_sae: SAE) -> Quality:
    return evaluate(lab, random_sae, ENOUGH, progress=False)


def test_the_increase_lies_within_its_interval(many: Quality) -> None:
    for _, line in many.table.iterrows():
        assert line["low"] <= line["increase"] <= line["high"]
        assert line["low"] < line["high"]


@pytest.mark.parametrize("way", ["sae", "zero"])
@pytest.mark.parametrize("kind", ["one", "two", "all"])
def test_the_interval_is_that_of_texts_drawn_again_and_again(
    lab: lk.Lab, random_sae: SAE, many: Quality, way: str, kind: str
) -> None:
    """Within each kind, by a loop of its own: whole texts, and of all drawn tokens the mean."""
    tell = random_sae.reconstruct if way == "sae" else torch.zeros_like
    costs = {
        name: [
            (len(text) - 1, loss_by_hand(lab, random_sae, [text], tell) - loss_by_hand(lab, random_sae, [text], None))
            for text in texts
        ]
        for name, texts in ENOUGH.items()
        if kind in (name, "all")
    }
    draw, means = np.random.default_rng(5), []
    for _ in range(2_000):
        drawn = [texts[i] for texts in costs.values() for i in draw.integers(len(texts), size=len(texts))]
        means.append(sum(n * cost for n, cost in drawn) / sum(n for n, _ in drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    found = row(many, way, kind)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_from_fewer_than_five_texts_of_a_kind_there_is_no_interval(
    lab: lk.Lab, random_sae: SAE, measured: Quality
) -> None:
    assert measured.table[["low", "high"]].isna().all(axis=None)
    mixed = evaluate(
        lab, random_sae, {"one": rows(5, 60), "two": rows(4, 90, seed=1)}, against=("zero",), progress=False
    )
    for way in ("sae", "zero"):
        assert math.isfinite(row(mixed, way, "one")["low"])
        assert math.isfinite(row(mixed, way, "one")["high"])
        for kind in ("two", "all"):  # of all kinds together one has too few
            assert math.isnan(row(mixed, way, kind)["low"])
            assert math.isnan(row(mixed, way, kind)["high"])
            assert math.isfinite(row(mixed, way, kind)["increase"])


# the ends of the scale -------------------------------------------------------------------------------------------------


def test_one_that_says_everything_again_leaves_nothing_and_costs_nothing(lab: lk.Lab) -> None:
    found = evaluate(lab, mirror(), KINDS, progress=False)
    own = row(found, "sae")
    assert own["unexplained"] < 1e-12
    assert own["increase"] == pytest.approx(0, abs=1e-5)
    assert own["loss_recovered"] == pytest.approx(1, abs=1e-5)
    assert "untrained" not in set(found.table["way"])  # there is none of this kind
    assert found.left_out == len(EVERY)  # without a measure of norms only the first


def test_an_untrained_one_is_far_from_one_that_knows(lab: lk.Lab) -> None:
    found = evaluate(lab, memory(lab), KINDS, progress=False)
    assert row(found, "sae")["unexplained"] < 1e-9
    assert row(found, "sae")["increase"] == pytest.approx(0, abs=1e-3)
    assert row(found, "untrained")["unexplained"] > 0.5
    assert abs(row(found, "untrained")["increase"]) > 0.1
    assert "100.0% of the loss recovered" in repr(found)


def test_untrained_has_the_sizes_and_not_the_knowledge(random_sae: SAE) -> None:
    one, same, other = untrained(random_sae), untrained(random_sae), untrained(random_sae, seed=1)
    assert one.decoder.shape == random_sae.decoder.shape
    assert one.k == random_sae.k
    assert torch.equal(one.decoder, same.decoder)
    assert not torch.equal(one.decoder, other.decoder)
    torch.testing.assert_close(one.decoder.norm(dim=-1), torch.ones(len(random_sae)))
    assert torch.equal(one.encoder, one.decoder.T)
    assert torch.equal(one.decoder_bias, random_sae.decoder_bias)  # where activations lie is no knowledge of features
    with pytest.raises(BadInput, match="Only a topk"):
        untrained(mirror())
    with pytest.raises(BadInput, match=r"This takes an autoencoder, such as lk\.sae\.load\(\), and 'x' is none"):
        untrained("x")  # type: ignore[arg-type]


def test_untrained_has_nothing_of_the_trained_ones_files(lab: lk.Lab, tmp_path: Path) -> None:
    """Neither its index, whose examples would be passed off as its own, nor sae-lens's copy of its weights."""
    sae = lk.sae.load(folder(tmp_path))
    lk.sae.index(lab, sae, rows(12, 90)).save(tmp_path / "index.safetensors")
    _ = sae.sae
    for one in (untrained(sae), untrained(replace(sae, _library=sae.sae))):
        assert one.folder is None
        assert torch.equal(one.decoder_bias, sae.decoder_bias)
        with pytest.raises(BadInput, match=r"untrained, like .* came without an index"):
            lk.sae.dashboard(lab, one[3])
        torch.testing.assert_close(one.sae.W_dec.detach(), one.decoder)
        assert one.fingerprint != sae.fingerprint
        x = counted(lab, sae, EVERY).float()[:20]
        torch.testing.assert_close(one.sae.encode(x).detach(), one.encode(x), rtol=1e-5, atol=1e-5)
    assert len(lk.sae.dashboard(lab, sae[3]).examples) > 0


def test_no_feature_at_work_means_no_principal_component(lab: lk.Lab) -> None:
    silent = replace(detectors(lab), encoder_bias=torch.full((100,), -1e9))
    found = evaluate(lab, silent, KINDS, against=("principal components",), losses=False)
    assert found.components == 0
    assert row(found, "principal components")["unexplained"] == pytest.approx(1, rel=1e-5)
    assert found.dead == 1


# how it is asked -------------------------------------------------------------------------------------------------------


def test_a_list_of_texts_is_one_kind(lab: lk.Lab, random_sae: SAE, measured: Quality) -> None:
    found = evaluate(lab, random_sae, EVERY, losses=False)
    assert list(found.table["kind"].unique()) == ["texts", "all"]
    assert row(found, "sae", "texts")["unexplained"] == pytest.approx(row(measured, "sae")["unexplained"])


def test_without_losses_nothing_is_edited(
    lab: lk.Lab, random_sae: SAE, measured: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a pass that was not asked for")

    monkeypatch.setattr(lk.Lab, "edit", never)
    monkeypatch.setattr(lk.Lab, "trace", never)
    found = evaluate(lab, random_sae, KINDS, losses=False)
    for column in ("loss", "loss_spliced", "increase", "low", "high", "loss_recovered"):
        assert found.table[column].isna().all()
    assert "nan" not in repr(found)
    assert "nats" not in repr(found)
    assert f"% unexplained, {found.tokens:,} tokens)" in repr(found)
    pd.testing.assert_series_equal(found.table["unexplained"], measured.table["unexplained"])


def test_without_the_mean_nothing_is_said_of_recovery(lab: lk.Lab, random_sae: SAE) -> None:
    found = evaluate(lab, random_sae, KINDS, against=("zero",), progress=False)
    assert set(found.table["way"]) == {"sae", "zero"}
    assert found.table["loss_recovered"].isna().all()
    assert found.table["increase"].notna().all()
    assert math.isnan(row(found, "sae")["loss_recovered"])
    assert "nan" not in repr(found)
    assert "recovered" not in repr(found).splitlines()[0]
    assert " nats, " in repr(found)


def test_the_model_is_as_before(lab: lk.Lab, random_sae: SAE) -> None:
    before, installed = lab.trace(EVERY[0]).logits, hooks(lab.model)
    evaluate(lab, random_sae, KINDS, progress=False)
    assert torch.equal(lab.trace(EVERY[0]).logits, before)
    assert hooks(lab.model) == installed


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"one": KINDS["one"], "short": rows(2, 100)}, "short has 1.. tokens to count, too few .* at least 200"),
        (rows(1, 128), "texts has 1.. tokens"),
        ([], "texts has 0 tokens"),
        ("one long text" * 200, "texts are to be a list of texts"),
        ({"one": "a text"}, "texts of kind 'one' are to be a list of texts"),
        (rows(1, 300)[0], "texts are to be a list of texts"),
        ({"all": KINDS["one"]}, "No kind of text can be called 'all'"),
        ({}, "no text"),
        ({"none": []}, "none has 0 tokens"),
    ],
)
def test_too_little_text_is_refused(lab: lk.Lab, random_sae: SAE, texts: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        evaluate(lab, random_sae, texts, progress=False)


def test_a_way_there_is_not_is_refused(lab: lk.Lab, random_sae: SAE) -> None:
    with pytest.raises(BadInput, match="no way called 'median' to compare with; there are principal components, untr"):
        evaluate(lab, random_sae, KINDS, against=("mean", "median"))


def test_another_models_autoencoder_is_refused(lab: lk.Lab, tmp_path: Path) -> None:
    other = lk.sae.load(folder(tmp_path, model="another"))
    with pytest.raises(BadInput, match="was trained on another"):
        evaluate(lab, other, KINDS)
    for what, shown in (("x", "'x'"), (other[3], "a Feature"), (None, "a NoneType")):
        with pytest.raises(
            BadInput, match=rf"This takes an autoencoder, such as lk\.sae\.load\(\), and {shown} is none"
        ):
            evaluate(lab, what, KINDS)
