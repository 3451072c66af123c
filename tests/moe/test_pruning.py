"""Fewer experts: which are kept, that a smaller model is the edited one, and what it costs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, Family, Tokens, build
from hand_mixture import documents, hand_lab, texts

import labkit as lk
from labkit.moe import pruning
from labkit.moe.ablations import effects
from labkit.moe.measures import load
from labkit.moe.pruning import Pruning, damage, prune
from labkit.moe.routing import collect
from labkit.trace import building

IDS = list(range(3, 33))
ALONE = {"deepseek_v3": {"n_group": 1, "topk_group": 1}}
NORMALISED = {
    "qwen2_moe": {"norm_topk_prob": True},
    "olmoe": {"norm_topk_prob": True},
    "qwen3_moe": {"norm_topk_prob": True},
}


def tiny(name: str, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    return lk.Lab(build(Family(family.model_type, family.fields | fields)), Tokens(), name=name)


def experts_of(lab: lk.Lab) -> int:
    return next(layer.router.experts_count for layer in lab.anatomy.layers if layer.router is not None)


# which are kept -------------------------------------------------------------------------------------------------------


def test_usage_keeps_what_is_chosen_and_effect_what_is_needed() -> None:
    """The filler's expert takes most tokens and writes nothing: usage keeps it first, effect drops it."""
    lab, given = hand_lab(), texts()
    by_usage = prune(lab, 3, by="usage", texts=given, progress=False)
    by_effect = prune(lab, 3, by="effect", texts=given, progress=False)
    assert isinstance(by_usage, Pruning)
    assert 3 in by_usage.kept[1]
    assert 0 in by_usage.kept[1]
    assert by_effect.kept[1] == (0, 1, 2)
    assert (by_usage.by, by_usage.keep, by_usage.experts) == ("usage", 3, 5)
    usage = by_usage.scores[1]
    assert usage[3] > usage[0] > max(usage[1], usage[2]) > usage[4] == 0
    assert usage.sum() == pytest.approx(1)
    assert by_effect.scores[1][0] > by_effect.scores[1][1] > 0


def test_kinds_count_the_same_however_long() -> None:
    lab = hand_lab()
    given = {"alpha": documents("alpha", 30), "beta": documents("beta", 2)}
    whole = prune(lab, 2, texts=given, progress=False).scores[1]
    each = [prune(lab, 2, texts={k: v}, progress=False).scores[1] for k, v in given.items()]
    np.testing.assert_allclose(whole, np.mean(each, axis=0))
    listed = prune(lab, 2, texts=[*given["alpha"], *given["beta"]], progress=False).scores[1]
    assert listed[0] > 2 * whole[0] * 0.9  # as a list all documents are of one kind


def test_random_is_by_seed() -> None:
    lab = tiny("qwen3_moe", num_experts=16)
    one, same, other = (prune(lab, 4, by="random", seed=seed) for seed in (0, 0, 1))
    assert one.kept == same.kept
    assert one.kept != other.kept
    assert one.kept[0] != one.kept[1]
    assert all(len(kept) == 4 and list(kept) == sorted(kept) for kept in one.kept.values())
    larger = prune(lab, 8, by="random", seed=0)
    assert all(set(one.kept[layer]) <= set(larger.kept[layer]) for layer in one.kept)


def test_scores_of_ones_own() -> None:
    lab, given = hand_lab(), texts()
    values = {0: [5.0, 4, 3, 2, 1], 1: np.arange(5)}
    by_layer = prune(lab, 2, scores=values)
    assert dict(by_layer.kept) == {0: (0, 1), 1: (3, 4)}
    assert by_layer.by == "scores"
    by_pair = prune(lab, 2, scores={(layer, e): v for layer, row in values.items() for e, v in enumerate(row)})
    assert by_pair.kept == by_layer.kept
    frame = effects(lab, given, how="forbid", progress=False)
    assert prune(lab, 3, scores=frame).kept == prune(lab, 3, by="effect", texts=given, progress=False).kept
    listed = [*given["alpha"], *given["beta"]]
    routes = collect(lab, {"all": listed}, progress=False)
    assert prune(lab, 3, scores=load(routes)).kept[1] == prune(lab, 3, texts=listed, progress=False).kept[1]
    assert prune(lab, 2, scores={0: [1.0] * 5, 1: [1.0] * 5}).kept[0] == (0, 1)  # alike: in their order


def test_the_edit_forbids_the_others_and_is_undone() -> None:
    lab = tiny("mixtral")
    found = prune(lab, 3, scores={0: [0, 3, 2, 1], 1: [3, 0, 2, 1]})
    assert found.forbidden == {0: (0,), 1: (1,)}
    before = lab.trace(IDS).logits
    with lab.edit(found.edit):
        routes = lab.trace(IDS, keep="routes").routes
    assert 0 not in routes.experts[:, 0]
    assert 1 not in routes.experts[:, 1]
    assert torch.equal(lab.trace(IDS).logits, before)
    everything = prune(lab, 4, by="random")
    assert everything.forbidden == {0: (), 1: ()}
    with lab.edit(everything.edit):
        assert torch.equal(lab.trace(IDS).logits, before)


# a smaller model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("fewer", [0, 1, 2])
def test_the_smaller_model_is_the_edited_one(name: str, fewer: int, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    lab = tiny(name, **ALONE.get(name, {}), **NORMALISED.get(name, {}))
    with torch.no_grad():  # biases too
        for tensor in lab.model.state_dict().values():
            if tensor.dim() == 1 and tensor.shape[0] == experts_of(lab):
                tensor.add_(torch.randn_like(tensor) * 0.2)
    keep = experts_of(lab) - fewer
    found = prune(lab, keep, by="random", seed=3)
    before = lab.trace(IDS, keep="logits").logits
    with lab.edit(found.edit):
        edited = lab.trace(IDS, keep="logits").logits
    smaller = found.lab()
    logits = smaller.trace(IDS, keep="logits").logits
    torch.testing.assert_close(logits, edited, rtol=1e-5, atol=1e-5 * float(edited.abs().max()))
    assert fewer == 0 or float((edited - before).abs().max()) > 0.01
    assert torch.equal(lab.trace(IDS, keep="logits").logits, before)
    assert experts_of(smaller) == keep
    experts = [sum(p.numel() for n, p in x.model.named_parameters() if ".experts." in n) for x in (smaller, lab)]
    assert experts[0] * experts_of(lab) == experts[1] * keep
    assert smaller.name == f"{name}, {keep} of {experts_of(lab)} experts"
    assert not smaller.model.training
    assert not {p.data_ptr() for p in smaller.model.parameters()} & {p.data_ptr() for p in lab.model.parameters()}
    smaller.model.save_pretrained(tmp_path)
    again = lk.Lab(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), Tokens())
    assert torch.equal(again.trace(IDS, keep="logits").logits, logits)


def test_generation_settings_and_experts_of_their_own_layers() -> None:
    lab = hand_lab()
    lab.licence = "MIT"
    lab.model.generation_config.temperature = 0.3
    found = prune(lab, 2, scores={0: [0, 0, 0, 1, 2], 1: [2, 1, 0, 0, 0]})
    smaller = found.lab()
    for layer, kept in found.kept.items():
        one, other = lab.model.model.layers[layer].mlp, smaller.model.model.layers[layer].mlp
        assert torch.equal(one.gate.weight[list(kept)], other.gate.weight)
        assert torch.equal(one.experts.down_proj[list(kept)], other.experts.down_proj)
    assert smaller.model.generation_config.temperature == 0.3
    assert smaller.licence == "MIT"
    assert smaller.tokenizer is lab.tokenizer
    assert prune(smaller, 1, by="random").lab().config.num_experts == 1


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe"])
def test_shares_among_all_experts_cannot_be_had_from_fewer(name: str) -> None:
    lab = tiny(name, norm_topk_prob=False)
    found = prune(lab, 3, by="random")
    with pytest.raises(lk.Unavailable, match="renormalised=True"):
        found.lab()
    smaller = found.lab(renormalised=True)
    with lab.edit(found.edit):
        edited = lab.trace(IDS, keep="routes").routes
    routes = smaller.trace(IDS, keep="routes").routes
    kept = torch.tensor(found.kept[0])
    assert torch.equal(kept[routes.experts[:, 0]].sort(-1).values, edited.experts[:, 0].sort(-1).values)
    assert bool((routes.weights[:, 0].sum(-1) > edited.weights[:, 0].sum(-1)).all())
    assert experts_of(prune(lab, 4, by="random").lab()) == 4  # with all experts nothing changes


def test_what_cannot_be_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lk.Unavailable, match="groups"):
        prune(tiny("deepseek_v3"), experts_of(tiny("deepseek_v3")) - 1, by="random").lab()
    lab = tiny("mixtral")
    found = prune(lab, 3, by="random")
    monkeypatch.setattr(building, "free_bytes", lambda _: 1000)
    with pytest.raises(lk.NotEnoughMemory, match=r"pruning\.edit"):
        found.lab()
    monkeypatch.undo()
    lab.model.model.layers[0].register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(lk.Unavailable, match="extra"):
        found.lab()


# what can't be used ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 5, 0, -1, 2.0, True, None])
def test_no_fewer_than_are_chosen(keep: Any) -> None:
    with pytest.raises(lk.BadInput, match="2 of 4 experts are chosen for each token; keep 2 to 4"):
        prune(tiny("mixtral"), keep, by="random")


def test_what_cannot_be_ranked() -> None:
    lab = hand_lab()
    with pytest.raises(lk.Unavailable, match="labkit-moe"):
        prune(tiny("qwen3"), 2)
    with pytest.raises(lk.BadInput, match="needs texts"):
        prune(lab, 2)
    with pytest.raises(lk.BadInput, match="usage"):
        prune(lab, 2, by="luck")
    with pytest.raises(lk.BadInput, match="seed=-1"):
        prune(lab, 2, by="random", seed=-1)
    with pytest.raises(lk.BadInput, match="list of texts"):
        prune(lab, 2, texts="a text")
    good = {0: [1.0] * 5, 1: [1.0] * 5}
    for scores, message in (
        ({0: [1.0] * 5}, "Expert 0 of layer 1 has no score"),
        (good | {2: [1.0] * 5}, "no .layer, expert. .2, 0"),
        ({0: [1.0] * 6, 1: [1.0] * 5}, "no .layer, expert. .0, 5"),
        (good | {1: [1, 2, float("nan"), 4, 5]}, "Expert 2 of layer 1"),
        ({0: 3.0}, "can't be used"),
        ([1, 2], "scores are"),
        (pd.DataFrame({"layer": [0], "expert": [0]}), "columns"),
    ):
        with pytest.raises(lk.BadInput, match=message):
            prune(lab, 2, scores=scores)


# damage ---------------------------------------------------------------------------------------------------------------


def test_damage_of_the_mixture_written_by_hand() -> None:
    lab = hand_lab()
    frame = damage(lab, texts(seed=1), keeps=[5, 3, 1], rank_on=texts(), draws=4, progress=False)
    assert list(frame.columns) == ["by", "keep", "kind", "loss_change", "low", "high", "note"]
    assert len(frame) == 3 * 3 * 3
    change = frame.set_index(["by", "keep", "kind"])["loss_change"].sort_index()
    assert (change.xs(5, level="keep") == 0).all()
    assert (
        change["effect", 3].abs() < 1e-6
    ).all()  # the filler's tokens now go to others, which write nothing for them
    assert change["usage", 3, "beta"] > 0.1
    assert abs(change["effect", 1, "alpha"]) < 1e-6  # expert 0 alone
    assert change["effect", 1, "beta"] > 0.3
    for (way, keep), rows in frame.groupby(["by", "keep"]):
        alone = rows.set_index("kind")["loss_change"]
        assert alone["all"] == pytest.approx((alone["alpha"] + alone["beta"]) / 2), (way, keep)
    assert (frame["low"] <= frame["loss_change"] + 1e-12).all()
    assert (frame["loss_change"] <= frame["high"] + 1e-12).all()
    assert frame.attrs["complete"] is True
    assert frame.attrs["baseline"].keys() == {"alpha", "beta"}


def test_damage_is_the_loss_under_the_edit() -> None:
    lab = tiny("qwen3_moe")
    rng = np.random.default_rng(0)
    given = {"one": [rng.integers(3, 100, n).tolist() for n in (12, 30, 20)]}
    frame = damage(lab, given, keeps=[3], by="random", draws=2, least_documents=1, least_tokens=1, progress=False)
    changes = []
    for seed in (0, 1):
        with lab.edit(prune(lab, 3, by="random", seed=seed).edit):
            after = torch.cat([lab.trace(ids, keep="logits").loss for ids in given["one"]])
        before = torch.cat([lab.trace(ids, keep="logits").loss for ids in given["one"]])
        changes.append(float((after - before).nanmean()))
    assert frame["loss_change"][0] == pytest.approx(np.mean(changes), abs=1e-5)
    again = damage(lab, given, keeps=[3], by="random", draws=2, least_documents=1, least_tokens=1, progress=False)
    assert frame.equals(again)


def test_the_interval_of_random_holds_its_draws() -> None:
    """One document again and again: what is left of the interval is what the draws differ by."""
    lab = hand_lab()
    given = {"alpha": documents("alpha", 1) * 12}
    frame = damage(lab, given, keeps=[2], by=("effect", "random"), rank_on=texts(seed=1), draws=8, progress=False)
    rows = frame[frame["kind"] == "alpha"].set_index("by")
    assert rows["high"]["effect"] == pytest.approx(rows["low"]["effect"])
    draws = []
    for seed in range(8):
        kept = prune(lab, 2, by="random", seed=seed)
        draws.append(0 in kept.kept[1])
    assert 0 < sum(draws) < 8
    assert rows["low"]["random"] == pytest.approx(0, abs=1e-6)
    assert rows["high"]["random"] > rows["loss_change"]["random"] > 0.05


def test_the_sizes_when_none_are_given() -> None:
    lab = tiny("qwen3_moe", num_experts=32, num_experts_per_tok=4)
    given = {"one": [IDS] * 2}
    frame = damage(lab, given, by="random", draws=1, least_documents=1, least_tokens=1, progress=False)
    assert list(dict.fromkeys(frame["keep"])) == [32, 24, 16, 12, 8, 4]


def test_documents_to_rank_on_are_others() -> None:
    lab = hand_lab()
    given, others = texts(seed=1), texts(seed=2)
    with pytest.raises(lk.BadInput, match="needs rank_on"):
        damage(lab, given)
    with pytest.raises(lk.BadInput, match="24 of the documents"):
        damage(lab, given, rank_on=given)
    with pytest.raises(lk.BadInput, match="1 of the documents"):
        damage(lab, given, rank_on={"x": [*others["alpha"], given["beta"][3]]})
    assert len(damage(lab, given, keeps=[2], by="random", draws=1, progress=False))  # which needs no ranking


def test_kinds_with_too_few_documents() -> None:
    lab = hand_lab()
    given = {"alpha": documents("alpha", 12, 1), "beta": documents("beta", 2, 1)}
    frame = damage(lab, given, keeps=[1], by="effect", rank_on=texts(), progress=False).set_index("kind")
    assert "too few" in frame["note"]["beta"]
    assert np.isnan(frame["loss_change"]["beta"])
    assert frame["loss_change"]["all"] == frame["loss_change"]["alpha"]
    none = damage(lab, {"beta": given["beta"]}, keeps=[1], by="random", progress=False).set_index("kind")
    assert none["note"]["all"] == "no kind has enough documents"
    assert none["loss_change"].isna().all()


def test_an_interrupt_keeps_the_sizes_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, real, calls = hand_lab(), pruning._rows, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pruning, "_rows", interrupted)
    frame = damage(lab, texts(seed=1), keeps=[3, 2], rank_on=texts(), progress=False)
    assert frame.attrs["complete"] is False
    assert list(frame["by"].unique()) == ["usage"]
    assert len(frame) == 2 * 3
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())
    stop = threading.Event()
    stop.set()
    assert len(damage(lab, texts(seed=1), rank_on=texts(), progress=False, stop=stop)) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"keeps": []},
        {"keeps": 3},
        {"keeps": [9]},
        {"by": []},
        {"by": "luck"},
        {"draws": 0},
        {"keeps": "12"},
        {"seed": -1},
    ],
)
def test_what_damage_cannot_use(arguments: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput):
        damage(hand_lab(), texts(seed=1), **({"rank_on": texts()} | arguments))


def test_scores_of_ones_own_beside_the_others() -> None:
    """The best and the worst ranking by hand: what is measured lies between them, and a name of labkit's own is refused."""
    lab = hand_lab()
    scores = effects(lab, texts(), least_documents=1, least_tokens=1, progress=False)
    worst = scores.assign(loss_change=-scores["loss_change"])
    given = {"mine": scores, "backwards": worst}
    frame = damage(lab, texts(seed=1), keeps=[3, 1], by=(), scores=given, progress=False)
    assert list(dict.fromkeys(frame["by"])) == ["mine", "backwards"]
    change = frame[frame["kind"] == "all"].set_index(["by", "keep"])["loss_change"]
    assert change["mine", 3] < change["backwards", 3]
    beside = damage(lab, texts(seed=1), keeps=[3], by="random", scores={"mine": scores}, progress=False)
    assert list(dict.fromkeys(beside["by"])) == ["random", "mine"]
    with pytest.raises(lk.BadInput, match="labkit measures itself"):
        damage(lab, texts(seed=1), keeps=[3], by=(), scores={"usage": scores}, progress=False)
