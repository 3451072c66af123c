"""The autoencoder that comes with labkit: the one of its record, as sae-lens reads it, and as good as its card says."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import labkit as lk
from labkit.errors import BadModelFile
from labkit.recipes import sae as recipe
from labkit.recipes import texts
from labkit.sae import SAE, Index, loading

FOLDER = recipe.FOLDER
FILES = ["README.md", "SHA256.json", "cfg.json", "index.safetensors", "quality.json", "sae_weights.safetensors"]


@pytest.fixture(scope="module")
def shipped() -> SAE:
    return lk.sae.load()


@pytest.fixture(scope="module")
def record() -> list[dict[str, Any]]:
    return [json.loads(line) for line in recipe.RECORD.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads((FOLDER / "quality.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.load(FOLDER / "index.safetensors")


def stream(sae: SAE, count: int = 200) -> Tensor:
    """Vectors like the residual stream's: the mean, some features, and a rest."""
    draw = torch.Generator().manual_seed(1)
    amounts = 20 * torch.rand(count, len(sae), generator=draw) * (torch.rand(count, len(sae), generator=draw) < 0.006)
    return sae.decoder_bias + amounts @ sae.decoder + torch.randn(count, sae.d_in, generator=draw)


# files -----------------------------------------------------------------------------------------------------------------


def test_the_files_are_these_and_small() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == FILES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 15_000_000


def test_the_checksums_are_those_of_the_files() -> None:
    sums = json.loads((FOLDER / "SHA256.json").read_text("utf-8"))
    assert sorted(sums) == [name for name in FILES if name not in ("README.md", "SHA256.json")]
    for name, sum_ in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sum_, name


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "index.safetensors", "cfg.json", "quality.json"])
def test_a_damaged_copy_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / loading.SHIPPED)
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    assert lk.sae.load().folder == copy
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BadModelFile, match=rf"is damaged \({name}\); install labkit again"):
        lk.sae.load()
    (copy / name).unlink()
    with pytest.raises(BadModelFile, match=r"is damaged .*; install labkit again"):
        lk.sae.load()


# the autoencoder -------------------------------------------------------------------------------------------------------


def test_it_is_what_the_recipe_says(shipped: SAE) -> None:
    assert (shipped.name, shipped.model, shipped.layer) == ("labkit-sae", recipe.MODEL, recipe.LAYER)
    assert (len(shipped), shipped.d_in) == (recipe.SETTINGS.features, 576)
    assert (shipped.architecture, shipped.k) == ("topk", recipe.SETTINGS.k)
    assert shipped.outlier == recipe.OUTLIER
    assert shipped.typical_norm is not None
    assert 50 < shipped.typical_norm < 500


def test_rows_of_the_decoder_have_length_one(shipped: SAE) -> None:
    torch.testing.assert_close(shipped.decoder.norm(dim=-1), torch.ones(len(shipped)), rtol=0, atol=1e-2)


def test_sae_lens_reads_the_same(shipped: SAE, sae_lens: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = sae_lens.SAE.load_from_disk(FOLDER, dtype="float32")
    x = stream(shipped)
    with torch.no_grad():
        wanted, told = library.encode(x).to_dense() if library.encode(x).is_sparse else library.encode(x), library(x)
        decoded = library.decode(wanted)
    found = shipped.encode(x)
    largest = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * largest)
    assert int((found > 0).sum(-1).max()) <= recipe.SETTINGS.k
    scale = float(told.abs().max())
    torch.testing.assert_close(shipped.reconstruct(x), told, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(shipped.decode(found), decoded, rtol=1e-5, atol=1e-5 * scale)


# its record ------------------------------------------------------------------------------------------------------------


def test_the_record_is_of_a_whole_run(record: list[dict[str, Any]]) -> None:
    first, last = record[0], record[-1]
    settings = recipe.SETTINGS
    for name in ("features", "k", "tokens", "batch", "learning_rate", "warm_up", "decay", "dead_after", "seed"):
        assert first[name] == getattr(settings, name), name
    assert settings.steps - 50 < last["step"] <= settings.steps  # every fiftieth step is written down
    assert last["tokens"] == last["step"] * settings.batch > 5_000_000
    assert [line["step"] for line in record] == [0, *range(1, 11), *range(50, settings.steps + 1, 50)]
    assert last["unexplained"] < 0.3 < record[1]["unexplained"]
    assert last["dead"] < 0.01 * settings.features
    assert last["learning_rate"] < 0.02 * settings.learning_rate


# its index -------------------------------------------------------------------------------------------------------------


def test_the_index_is_of_the_harvest(index: Index, record: list[dict[str, Any]]) -> None:
    k, features = recipe.SETTINGS.k, recipe.SETTINGS.features
    assert index.tokens == record[0]["rows"]
    assert index.kinds == texts.KINDS
    for tokens, kind in zip(index.kind_tokens, texts.KINDS, strict=True):
        assert 0.9 * recipe.TOKENS[kind] * 0.5 < tokens <= recipe.TOKENS[kind]
    assert len(index.counts) == features
    total = int(index.counts.astype(np.int64).sum())
    assert 0.999 * k * index.tokens <= total <= k * index.tokens  # of k chosen nearly all are above zero
    assert (index.counts > 0).mean() > 0.99
    assert index.counts.max() < index.tokens
    np.testing.assert_array_equal(index.histogram.sum(1), index.counts)
    np.testing.assert_array_equal(index.largest > 0, index.counts > 0)


def test_the_index_is_this_autoencoders(index: Index, shipped: SAE) -> None:
    assert index.of == shipped.fingerprint


def test_its_examples_are_in_order(index: Index) -> None:
    there = index.values > 0
    assert there[:, 0].sum() == (index.counts > 0).sum()
    np.testing.assert_array_equal(index.values[:, 0], index.largest)
    assert (np.diff(index.values[:, : lk.sae.indexing.TOP], axis=1) <= 0).all()
    at_peak = np.take_along_axis(index.activations, index.peaks[..., None].astype(int), axis=2)[..., 0]
    assert (at_peak[there] == 255).all()
    ids = np.take_along_axis(index.ids, index.peaks[..., None].astype(int), axis=2)[..., 0]
    assert ids[there].max() < 49_152  # the model's vocabulary
    assert (index.ids[~there] == index.nothing).all()


# its card --------------------------------------------------------------------------------------------------------------


def test_the_card_is_that_of_the_record_and_the_measures(shipped: SAE) -> None:
    card = recipe.card()
    assert (FOLDER / "README.md").read_text("utf-8") == card
    assert "{" not in card
    assert "nan" not in card
    for name in recipe.NAMES.values():
        assert name in card


def test_it_is_better_than_what_it_is_set_beside(measured: dict[str, Any]) -> None:
    left = {row["way"]: row["unexplained"] for row in measured["unexplained"] if row["kind"] == "all"}
    cost = {row["way"]: row["increase"] for row in measured["losses"] if row["kind"] == "all"}
    assert set(left) == set(cost) == set(recipe.NAMES)
    assert left["sae"] < 0.5 * left["untrained"]
    assert left["sae"] < left["mean"] == 1
    assert cost["sae"] < 0.5 * min(cost["untrained"], cost["mean"], cost["zero"])
    assert measured["left_out"] >= 260  # the first token of each passage, at least
    assert 0 <= measured["dead"] < 0.5


@pytest.fixture(scope="module")
def precise() -> Iterator[lk.Lab]:
    """The default model in float32, as the card's figures are."""
    lab = lk.load(dtype="float32", device="cpu", fresh=True)
    yield lab
    lab.close()


@pytest.mark.real_model
def test_the_figures_of_the_card_are_found_again_on_some_passages(
    precise: lk.Lab, shipped: SAE, measured: dict[str, Any]
) -> None:
    """On six passages of each kind of 40 to 60, without the losses.

    unexplained is a ratio of sums over tokens, and passages of a kind are alike in it: among samples of six of each kind
    it strays by some hundredths of its value. A wrong scale, layer, precision or centre shifts it by much more.
    """
    some = lk.sae.evaluate(precise, shipped, lk.moe.texts(6), against=("untrained",), losses=False)
    told = {(row["way"], row["kind"]): row["unexplained"] for row in measured["unexplained"]}
    for way in ("sae", "untrained"):
        (found,) = some.table[(some.table["way"] == way) & (some.table["kind"] == "all")]["unexplained"]
        assert found == pytest.approx(told[way, "all"], rel=0.1), way
    assert some.dead >= measured["dead"]  # it only falls with more text
    at_work = some.table[(some.table["way"] == "sae") & (some.table["kind"] == "all")]["l0"].iloc[0]
    assert at_work == pytest.approx(shipped.k, rel=0.01)


@pytest.mark.real_model
def test_the_index_says_what_the_model_does(precise: lk.Lab, shipped: SAE, index: Index) -> None:
    """At the peaks of the strongest examples, read again from their windows alone, the features are at work.

    A window begins in the middle of a piece, so that values differ; the strongest activations stand out all the same.
    """
    features = np.random.default_rng(0).choice(np.flatnonzero(index.counts > 100), 60, replace=False)
    windows = [row[row != index.nothing].tolist() for row in index.ids[features, 0]]
    again = []
    for feature, found in zip(features, lk.sae.features(precise, shipped, windows), strict=True):
        peak = int(index.peaks[feature, 0])
        if found.defined[peak]:  # a window's first token is none, and some second ones are out of measure
            again.append(float(found.of(int(feature))[peak]) / index.values[feature, 0])
    assert len(again) > 50
    assert np.mean(np.array(again) > 0.25) > 0.8
    assert np.median(again) == pytest.approx(1, abs=0.3)
