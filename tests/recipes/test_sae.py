"""The recipe of the shipped autoencoder, run at a tiny size from texts to card."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from dictionaries import hooks, make_lab
from planted import rows

import labkit as lk
from labkit.recipes import sae as recipe
from labkit.recipes import texts
from labkit.sae import Index
from labkit.trace import running

LENGTH, TOKENS_OF_A_KIND, WIDTH = 32, 2_000, 16
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "because",
    "it",
    "was",
    "tired",
    "dog",
    "ran",
    "after",
    "and",
    "up",
    "tree",
    "where",
    "other",
    "were",
]


def tiny_lab(**_: Any) -> lk.Lab:
    """A model of sixteen layers under the default's name, made anew each time: harvesting makes it bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = fuzz.tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lk.Lab(LlamaForCausalLM(config).eval(), tokenizer, name=recipe.MODEL)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder prepared and harvested, beside one to ship to; everything of a size that takes seconds."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "LENGTH", LENGTH)
        patch.setattr(recipe, "PIECES_A_FILE", 64)
        patch.setattr(recipe, "TOKENS", dict.fromkeys(texts.KINDS, TOKENS_OF_A_KIND))
        settings = replace(recipe.SETTINGS, features=40, k=4, tokens=560 * 64, batch=64, warm_up=640, dead_after=6_400)
        patch.setattr(recipe, "SETTINGS", settings)
        patch.setattr(recipe, "FOLDER", work / "shipped")
        patch.setattr(recipe, "RECORD", work / "shipped-record.jsonl")
        patch.setattr(lk, "load", tiny_lab)
        draw = np.random.default_rng(0)
        for number, kind in enumerate(texts.KINDS):
            path = work / "texts" / "train" / f"{kind}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            documents = [
                {"title": str(i), "source": "made up", "text": " ".join(draw.choice(WORDS[number : number + 12], 130))}
                for i in range(30)
            ]
            path.write_text("".join(json.dumps(d) + "\n" for d in documents), "utf-8")
        recipe.main(["prepare", str(work)])
        recipe.main(["harvest", str(work)])
        yield work


# activations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_activations_are_the_residual_of_a_trace(layer: int) -> None:
    lab = make_lab()
    given = rows(3, 20)
    running.answers_in_lists(lab.model)
    ran = []
    handle = lab.model.model.layers[layer].register_forward_hook(lambda *_: ran.append(1))
    found = recipe.activations(lab.model, torch.tensor(given), layer)
    assert ran == []  # no layer further than needed
    handle.remove()
    for row, x in zip(given, found, strict=True):
        torch.testing.assert_close(x, lab.trace(row, keep="residual").residual(layer), rtol=1e-5, atol=1e-5)
    assert hooks(lab.model) == 0


def test_no_hook_is_left_where_the_model_fails() -> None:
    lab = make_lab()
    with pytest.raises(lk.LabError):
        recipe.activations(lab.model, torch.tensor([[1_000]]), 1)
    assert hooks(lab.model) == 0


def test_the_first_and_the_outliers_are_left_out() -> None:
    x = torch.ones(3, 6, 4)
    x[:, 0] = 5_000  # does not count for the median either
    x[0, 3] *= 9.9
    x[1, 4] *= 10.1
    x[2, 5] *= float("inf")
    mask = recipe.kept(x)
    assert mask.tolist() == [[False, *[True] * 5], [False, True, True, True, False, True], [False, *[True] * 4, False]]
    x[:, 0] = 0.01
    assert not recipe.kept(x)[:, 0].any()
    assert torch.equal(recipe.kept(x), recipe.kept(x.bfloat16()))


# what is read ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered() -> recipe.Activations:
    """103 rows in three files, each row its own number."""
    every = np.repeat(np.arange(103, dtype=np.float16)[:, None], 3, axis=1)
    return recipe.Activations([every[:40], every[40:41], every[41:]])


def test_rows_come_in_the_order_asked_for_from_whatever_file(numbered: recipe.Activations) -> None:
    assert len(numbered) == 103
    places = np.array([102, 0, 40, 39, 41, 40])
    found = numbered.rows(places)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == places.tolist()
    assert found.shape == (6, 3)


def test_a_pass_reads_every_row_once_and_the_next_in_another_order(numbered: recipe.Activations) -> None:
    each = 103 // 10
    passes = [
        [i for step in range(turn * each, (turn + 1) * each) for i in numbered.batch(step, 10)[:, 0].tolist()]
        for turn in range(3)
    ]
    for of_pass in passes:
        assert len(set(of_pass)) == len(of_pass) == 100  # three are left over, others each time
        assert of_pass != sorted(of_pass)
    assert passes[0] != passes[1] != passes[2]
    assert len({frozenset(of_pass) for of_pass in passes}) > 1


def test_a_batch_is_a_function_of_the_step_alone(numbered: recipe.Activations) -> None:
    forwards = {step: numbered.batch(step, 10) for step in range(25)}
    for step in (24, 3, 11, 10, 9, 0):
        assert torch.equal(numbered.batch(step, 10), forwards[step])
        assert torch.equal(recipe.Activations(numbered.files).batch(step, 10), forwards[step])


# from texts to a card --------------------------------------------------------------------------------------------------


def test_pieces_are_whole_texts_in_a_row(work: Path) -> None:
    pieces, kinds = np.load(work / "pieces.npy"), np.load(work / "kinds.npy")
    of_kind = TOKENS_OF_A_KIND // LENGTH
    assert pieces.shape == (5 * of_kind, LENGTH)
    assert np.bincount(kinds).tolist() == [of_kind] * 5
    assert np.any(np.diff(kinds.astype(int)) < 0)  # mixed
    tokenizer = tiny_lab().tokenizer
    between = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for number, kind in enumerate(texts.KINDS):
        written = [d["text"] for d in texts.load(work / "texts", "train", kind)]
        for piece in pieces[kinds == number]:
            for part in tokenizer.decode(piece).split("<|endoftext|>"):
                assert any(part in text for text in written)
    assert (pieces == between).any()


def test_what_was_harvested_is_what_the_model_computes(work: Path) -> None:
    pieces = np.load(work / "pieces.npy")
    files = sorted((work / "activations").glob("*.npy"))
    data = recipe.Activations.load(work)
    assert len(data.files) == len(files) // 2 == -(-len(pieces) // 64)
    masks = np.concatenate([np.load(path) for path in files if path.stem.endswith("-kept")])
    assert masks.shape == pieces.shape
    assert len(data) == masks.sum()
    assert not masks[:, 0].any()
    model = tiny_lab().model.bfloat16()
    last = pieces[64 * (len(data.files) - 1) :].astype(np.int64)
    with torch.no_grad():
        x = recipe.activations(model, torch.from_numpy(last[:16]))
    wanted = x[torch.from_numpy(masks[-len(last) :][:16])].half()
    np.testing.assert_array_equal(data.files[-1][: len(wanted)], wanted.numpy())


def test_harvesting_goes_on_where_it_was(work: Path) -> None:
    path = work / "activations" / "001.npy"
    before, other = np.load(path), (work / "activations" / "000.npy").stat().st_mtime_ns
    path.unlink()
    recipe.harvest(work)
    np.testing.assert_array_equal(np.load(path), before)
    assert (work / "activations" / "000.npy").stat().st_mtime_ns == other
    assert not list((work / "activations").glob("*.part"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "per_second"} for line in found]


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """Trained once without interruption, kept as `whole`; then as if killed after the line of step 550, and taken up twice."""
    recipe.main(["train", str(work)])
    for name in ("trained", "record.jsonl", "checkpoint"):
        (work / name).rename(work / f"whole-{name}")
    shutil.copytree(work / "whole-checkpoint", work / "checkpoint")  # of step 500
    shutil.copy(work / "whole-record.jsonl", work / "record.jsonl")
    recipe.main(["train", "--stop-after", "505", str(work)])
    assert lines_of(work / "record.jsonl")[-1]["step"] == 500
    assert not (work / "trained").exists()
    recipe.main(["train", str(work)])
    return work


def test_a_run_taken_up_again_is_the_run_not_interrupted(trained: Path) -> None:
    from safetensors.torch import load_file

    whole = load_file(trained / "whole-trained" / "sae_weights.safetensors")
    again = load_file(trained / "trained" / "sae_weights.safetensors")
    assert set(whole) == set(again) >= {"W_enc", "b_enc", "W_dec", "b_dec"}
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
    record = lines_of(trained / "record.jsonl")
    assert record == lines_of(trained / "whole-record.jsonl")
    assert [line["step"] for line in record] == [0, *range(1, 11), *range(50, 551, 50), 560]
    assert record[0]["features"] == 40
    assert record[0]["rows"] == len(recipe.Activations.load(trained))
    assert record[-1]["unexplained"] < 0.5 * record[1]["unexplained"]
    assert not (trained / "checkpoint.part").exists()


@pytest.fixture(scope="module")
def shipped(trained: Path) -> Path:
    """Packed, indexed and measured."""
    with pytest.MonkeyPatch.context() as patch:
        held_out = {kind: rows(6, 60, seed=i, tokens=range(3, 300)) for i, kind in enumerate(texts.KINDS)}
        patch.setattr(lk.moe, "texts", lambda n=None: {k: v[:n] for k, v in held_out.items()}, raising=False)
        passages = {kind: [SimpleNamespace(text=each) for each in some] for kind, some in held_out.items()}
        patch.setattr(lk.moe, "passages", passages.__getitem__, raising=False)
        # the first passage of each kind is said to stand in the training's documents too
        patch.setattr(texts, "shared", lambda _: {kind: [(0.9, ""), *[(0.05, "")] * 5] for kind in texts.KINDS})
        patch.setattr(recipe, "LOSS_DOCUMENTS", 5)
        for what in ("pack", "index", "measure"):
            recipe.main([what, str(trained)])
        return trained / "shipped"


def test_what_is_packed_is_what_was_trained(shipped: Path, trained: Path) -> None:
    from safetensors.torch import load_file

    packed = lk.sae.load(shipped)
    weights = load_file(trained / "trained" / "sae_weights.safetensors")
    assert packed.architecture == "topk"  # and not one that sae-lens would have to scale for
    assert (packed.k, packed.layer, packed.model, packed.outlier) == (4, 15, recipe.MODEL, 10)
    norms = torch.from_numpy(np.concatenate(recipe.Activations.load(trained).files)).float().norm(dim=-1)
    assert packed.typical_norm == pytest.approx(float(norms.median()), rel=0.02)
    torch.testing.assert_close(packed.decoder, weights["W_dec"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(packed.encoder, weights["W_enc"], rtol=1e-3, atol=1e-3)
    sample = recipe.Activations.load(trained).batch(0, 500)
    left = (sample - packed.reconstruct(sample)).square().sum() / (sample - sample.mean(0)).square().sum()
    assert float(left) == pytest.approx(lines_of(trained / "record.jsonl")[-1]["unexplained"], rel=0.3)
    assert (trained / "shipped-record.jsonl").read_text() == (trained / "record.jsonl").read_text()


def test_the_index_is_of_all_that_was_harvested(shipped: Path, trained: Path) -> None:
    packed, found = lk.sae.load(shipped), Index.load(shipped / "index.safetensors")
    data = recipe.Activations.load(trained)
    assert found.tokens == len(data)
    assert found.kinds == texts.KINDS
    at_work = np.concatenate([packed.encode(torch.from_numpy(np.array(f)).float()).numpy() for f in data.files])
    np.testing.assert_array_equal(found.counts, (at_work > 0).sum(0))
    np.testing.assert_allclose(found.largest, at_work.max(0), rtol=1e-3)
    pieces, masks = np.load(trained / "pieces.npy"), []
    for number in range(len(data.files)):
        masks.append(np.load(trained / "activations" / f"{number:03d}-kept.npy"))
    place = np.argwhere(np.concatenate(masks))
    for feature in np.flatnonzero(found.counts)[:10]:
        peak = found.ids[feature, 0, found.peaks[feature, 0]]
        heights = at_work[:, feature]
        strongest = np.flatnonzero(heights >= 0.999 * heights.max())  # alike in half precision
        assert peak in {pieces[tuple(place[i])] for i in strongest}


def test_the_card_and_the_checksums_are_written(shipped: Path) -> None:
    import hashlib

    card = (shipped / "README.md").read_text("utf-8")
    assert card == recipe.card()
    assert "{" not in card
    measured = json.loads((shipped / "quality.json").read_text("utf-8"))
    ways = {row["way"] for row in measured["losses"]}
    assert ways == set(recipe.NAMES)
    for kind in (*texts.KINDS, "all"):
        (own,) = (r for r in measured["unexplained"] if (r["way"], r["kind"]) == ("sae", kind))
        (apart,) = (r for r in measured["apart"] if r["kind"] == kind)
        assert 0 < apart["tokens"] < own["tokens"]
        assert f"| {kind} | {own['tokens']:,} | {own['unexplained']:.3f} | {apart['unexplained']:.3f} |" in card
    by_kind = [r for r in measured["losses"] if r["way"] == "sae" and r["kind"] != "all"]
    assert f"{np.mean([r['increase'] for r in by_kind]):+.3f}" in card.split("mean of the kinds")[1].split("\n")[0]
    assert all(r["low"] <= r["increase"] <= r["high"] for r in by_kind)
    assert f"{560 * 64:,} in 560 steps" in card
    assert all(name in card for name in recipe.NAMES.values())
    assert measured["passages"] == 5
    sums = json.loads((shipped / "SHA256.json").read_text("utf-8"))
    assert set(sums) == {"cfg.json", "sae_weights.safetensors", "index.safetensors", "quality.json"}
    for name, sum_ in sums.items():
        assert hashlib.sha256((shipped / name).read_bytes()).hexdigest() == sum_


def test_numbers_are_rounded_and_those_that_are_none_left_out() -> None:
    given = {"a": [1.234567, float("nan"), {"b": float("inf"), "c": 3}], "d": "text"}
    assert recipe._rounded(given) == {"a": [1.23457, None, {"b": None, "c": 3}], "d": "text"}
