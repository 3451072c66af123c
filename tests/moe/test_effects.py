"""Experts taken away one at a time: against the plain loop, on a mixture written by hand, and when it ends early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, Family, Tokens, build
from hand_mixture import CYCLES, FILLER, documents, hand_lab, texts

import labkit as lk
from labkit.moe import ablations as module
from labkit.moe.edits import drop, forbid
from labkit.moe.routing import collect
from labkit.statistics import permuted_within
from labkit.trace import resuming, running

effects, own_domain = module.effects, module.own_domain
LENGTHS = (9, 14, 14, 21, 6, 30)


def tiny(name: str, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    return lk.Lab(build(Family(family.model_type, family.fields | fields)), Tokens(), name=name)


def some_texts(kinds: tuple[str, ...] = ("one", "two")) -> dict[str, list[list[int]]]:
    rng = np.random.default_rng(0)
    return {kind: [rng.integers(3, 100, n).tolist() for n in LENGTHS] for kind in kinds}


def nothing_left(lab: lk.Lab) -> bool:
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())
    return not hooks and not any("forward" in vars(m) for m in lab.model.modules()) and lab._turns._owner is None


@pytest.fixture
def by_hand() -> Iterator[lk.Lab]:
    lab = hand_lab()
    yield lab
    assert nothing_left(lab)


# against the loop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "granitemoe", "gpt_oss"])
@pytest.mark.parametrize("how", ["drop", "forbid"])
def test_effects_are_the_loop_one_document_at_a_time(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", 50)
    lab, given = tiny(name), some_texts()
    frame = effects(lab, given, how=how, least_documents=1, least_tokens=1, progress=False)
    routers = [layer.router for layer in lab.anatomy.layers if layer.router is not None]
    every = [(router.layer, expert) for router in routers for expert in range(router.experts_count)]
    assert list(dict.fromkeys(zip(frame["layer"], frame["expert"], strict=True))) == every
    for row in frame.itertuples():
        edit = (drop if how == "drop" else forbid)(row.expert, row.layer)
        changes = []
        for ids in given[row.kind]:
            before = lab.trace(ids, keep="logits").loss
            with lab.edit(edit):
                changes.append(lab.trace(ids, keep="logits").loss - before)
        assert row.loss_change == pytest.approx(float(torch.cat(changes).nanmean()), abs=1e-4)
        assert row.tokens == sum(LENGTHS) - len(LENGTHS)
        assert row.documents == len(LENGTHS)
        assert row.low <= row.loss_change <= row.high
    assert frame["loss_change"].abs().max() > 0.01
    assert frame.attrs["complete"] is True
    assert frame.attrs["experts"] == len(every)
    losses = [lab.trace(ids, keep="logits").loss for ids in given["one"]]
    assert frame.attrs["baseline"]["one"] == pytest.approx(float(torch.cat(losses).nanmean()), abs=1e-4)
    assert nothing_left(lab)


@pytest.mark.parametrize("name", ["mixtral", "granitemoe", "gpt_oss"])
def test_layers_before_the_expert_are_run_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, given = tiny(name, num_hidden_layers=3), some_texts()
    runs = []
    running.answers_in_lists(lab.model)  # tried once, before the runs are counted
    lab.anatomy.layers[0].attention_module.register_forward_hook(lambda *_: runs.append(1))
    options: dict[str, Any] = {"least_documents": 1, "least_tokens": 1, "progress": False, "draws": 50}
    stored = effects(lab, given, **options)
    with_storing = len(runs)
    monkeypatch.setattr(resuming, "STORED_BYTES", 0)
    whole = effects(lab, given, **options)
    assert with_storing < (len(runs) - with_storing) * 0.6
    pd.testing.assert_frame_equal(stored.table, whole.table, atol=1e-5)


def test_a_layer_that_hands_on_more_than_its_output_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What enters layer 1 depends on something layer 0 leaves beside its output: then the model has to be run whole."""
    lab, given = tiny("qwen3_moe"), some_texts()
    left: dict[str, float] = {}

    def leave(_module: Any, _args: Any, _output: Any) -> None:
        left["scale"] = 3.0

    def take(_module: Any, args: Any) -> Any:
        return (args[0] * left.pop("scale", 1.0)), *args[1:]

    first, second = lab.anatomy.layers[0].module, lab.anatomy.layers[1].module
    first.mlp.register_forward_hook(leave)
    second.register_forward_pre_hook(take)
    frame = effects(lab, given, [(1, 2)], least_documents=1, least_tokens=1, progress=False)
    before = [lab.trace(ids, keep="logits").loss for ids in given["one"]]
    with lab.edit(drop(2, 1)):
        after = [lab.trace(ids, keep="logits").loss for ids in given["one"]]
    expected = float((torch.cat(after) - torch.cat(before)).nanmean())
    assert frame["loss_change"][0] == pytest.approx(expected, abs=1e-4)


# the mixture written by hand ------------------------------------------------------------------------------------------


def test_each_expert_hurts_what_it_carries(by_hand: lk.Lab) -> None:
    frame = effects(by_hand, texts(), how="drop", progress=False)
    change = frame.set_index(["layer", "expert", "kind"])["loss_change"]
    for expert in range(5):
        assert change[0, expert, "alpha"] == change[0, expert, "beta"] == 0
    assert change[1, 0, "alpha"] > 0.3
    assert abs(change[1, 0, "beta"]) < 1e-6
    for expert in (1, 2):
        assert change[1, expert, "beta"] > 0.1
        assert abs(change[1, expert, "alpha"]) < 1e-6
    for expert in (3, 4):
        assert abs(change[1, expert]).max() < 1e-6
    assert frame.attrs["baseline"].keys() == CYCLES.keys()


def test_the_own_domain_is_hurt_most(by_hand: lk.Lab) -> None:
    from labkit.moe.measures import specialisation

    frame = effects(by_hand, texts(), progress=False)
    found = own_domain(frame, specialisation(collect(by_hand, texts(seed=1), progress=False)))
    table = found.experts.set_index("expert")
    assert list(table.index) == [0, 1, 2]  # the others change nothing
    assert found.left_out == 7
    assert found.agreement == 1.0
    assert found.chance == 0.5
    assert list(table["hurt"]) == list(table["kind"]) == ["alpha", "beta", "beta"]
    assert found.correlation > 0.7
    assert found.correlation_within > 0.8
    assert "100.0% of 3 experts" in repr(found)


def test_a_list_of_documents_is_of_one_kind(by_hand: lk.Lab) -> None:
    listed = effects(by_hand, documents("alpha", 12), [(1, 0)], progress=False)
    named = effects(by_hand, {"alpha": documents("alpha", 12)}, [(1, 0)], progress=False)
    assert listed["kind"].tolist() == ["texts"]
    assert listed["loss_change"].tolist() == named["loss_change"].tolist()
    with pytest.raises(lk.BadInput, match="list of texts"):
        effects(by_hand, "a text", progress=False)


def test_special_tokens_are_not_counted(by_hand: lk.Lab) -> None:
    given = {"alpha": documents("alpha", 12)}
    plain = effects(by_hand, given, [(1, 0)], progress=False)
    by_hand.tokenizer.all_special_ids = list(FILLER)
    without = effects(by_hand, given, [(1, 0)], least_tokens=1, progress=False)
    kept = sum(i not in FILLER for ids in given["alpha"] for i in ids[1:])
    assert without["tokens"].tolist() == [kept]
    assert without["loss_change"][0] > plain["loss_change"][0]


def test_intervals_come_from_documents(by_hand: lk.Lab) -> None:
    given = {"same": [documents("alpha", 1)[0]] * 20, "different": documents("alpha", 10) + documents("beta", 10)}
    frame = effects(by_hand, given, [(1, 0)], progress=False).set_index("kind")
    width = frame["high"] - frame["low"]
    assert width["same"] == pytest.approx(0, abs=1e-9)
    assert width["different"] > 0.1
    again = effects(by_hand, given, [(1, 0)], progress=False).set_index("kind")
    assert frame.equals(again)
    other = effects(by_hand, given, [(1, 0)], progress=False, seed=1).set_index("kind")
    assert other["low"]["different"] != frame["low"]["different"]


def test_too_few_documents_give_a_reason_and_no_number(by_hand: lk.Lab) -> None:
    frame = effects(by_hand, {"alpha": documents("alpha", 12), "beta": documents("beta", 3)}, [(1, 0)], progress=False)
    alpha, beta = frame.to_dict("records")
    assert alpha["note"] == ""
    assert alpha["loss_change"] > 0.3
    assert "3 documents with" in beta["note"]
    assert "too few" in beta["note"]
    one = effects(by_hand, {"alpha": documents("alpha", 1)}, [(1, 0)], progress=False)
    assert one["note"][0].startswith("1 document with ")
    assert " is too few; give 10 with 200" in one["note"][0]
    assert np.isnan([beta["loss_change"], beta["low"], beta["high"]]).all()


# ending early, and what can't be used ---------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_was_done(by_hand: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = module._without, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*arguments)

    whole = effects(by_hand, texts(), progress=False)
    monkeypatch.setattr(module, "_without", interrupted)
    frame = effects(by_hand, texts(), progress=False)
    assert frame.attrs["complete"] is False
    assert frame.attrs["experts"] == 10
    assert len(frame) == 6 * 2
    pd.testing.assert_frame_equal(frame.table, whole.table[:12])


def test_progress_is_that_of_all_rooms(by_hand: lk.Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert effects(by_hand, texts(), progress=True).complete is True
    assert "experts: 100%" in capsys.readouterr().err


def test_an_interrupt_within_a_pass_leaves_the_model_as_it_was(by_hand: lk.Lab) -> None:
    before = by_hand.trace([1, 2, 3]).logits
    passes = []

    def interrupt(_module: Any, _args: Any) -> None:
        passes.append(1)
        if len(passes) == 12:
            raise KeyboardInterrupt

    handle = by_hand.model.lm_head.register_forward_pre_hook(interrupt)
    frame = effects(by_hand, texts(), progress=False)
    handle.remove()
    assert frame.attrs["complete"] is False
    assert nothing_left(by_hand)
    assert torch.equal(by_hand.trace([1, 2, 3]).logits, before)


def test_stop_ends_early(by_hand: lk.Lab) -> None:
    stop = threading.Event()
    stop.set()
    frame = effects(by_hand, texts(), progress=False, stop=stop)
    assert len(frame) == 0
    assert list(frame.columns)[:3] == ["layer", "expert", "kind"]
    assert frame.attrs["complete"] is False


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ([(2, 0)], "these have: 0, 1"),
        ([(1, 5)], "there are 0 to 4"),
        ([(1, -1)], "there are 0 to 4"),
        ([(1,)], "two whole numbers"),
        ("1", "pairs"),
        ({1: 2}, "pairs"),
        ([(1, True)], "two whole numbers"),
    ],
)
def test_experts_that_are_not_there(by_hand: lk.Lab, experts: Any, message: str) -> None:
    with pytest.raises(lk.BadInput, match=message):
        effects(by_hand, texts(), experts, progress=False)


def test_what_else_cannot_be_used(by_hand: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="drop"):
        effects(by_hand, texts(), how="remove")
    with pytest.raises(lk.BadInput, match="seed=-1"):
        effects(by_hand, texts(), seed=-1)
    with pytest.raises(lk.BadInput, match="seed=-1"):
        own_domain(*tables(1.0), seed=-1)
    with pytest.raises(lk.BadInput, match="no token with a loss"):
        effects(by_hand, {"short": [[1], [2]]})
    with pytest.raises(lk.BadInput, match="no token 99"):
        effects(by_hand, {"far": [[1, 99]]})
    with pytest.raises(lk.Unavailable, match="labkit-moe"):
        effects(tiny("qwen3"), some_texts())
    with pytest.raises(lk.BadInput, match="Lab"):
        effects(by_hand.model, texts())


# own_domain -----------------------------------------------------------------------------------------------------------


def tables(strength: float, seed: int = 0, experts: int = 16, layers: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects that are `strength` times the specialisation, and noise; kinds and experts of different size besides."""
    rng = np.random.default_rng(seed)
    kinds = ("a", "b", "c", "d")
    rows: list[dict[str, Any]] = []
    for layer in range(layers):
        for expert in range(experts):
            share = rng.dirichlet([0.5] * 4)
            change = strength * share + rng.normal(size=4) * 0.1 + np.array([0, 0, 0, 0.05])
            rows += [
                {"layer": layer, "expert": expert, "kind": k, "share": s, "loss_change": c}
                for k, s, c in zip(kinds, share, change, strict=True)
            ]
    frame = pd.DataFrame(rows)
    return frame.drop(columns="share"), frame.drop(columns="loss_change")


def test_a_strong_relation_is_found_and_none_is_not() -> None:
    strong = own_domain(*tables(2.0))
    assert strong.agreement > 0.75
    assert strong.agreement_p == strong.p == strong.p_within == 1 / 1000
    assert strong.correlation > 0.8
    assert len(strong.experts) == 48
    none = [own_domain(*tables(0.0, seed), permutations=199) for seed in range(40)]
    for p in ([x.p for x in none], [x.p_within for x in none], [x.agreement_p for x in none]):
        assert 0.3 < np.mean(p) < 0.75  # about even, so that few are small by chance
        assert sum(one <= 0.05 for one in p) <= 6


def test_correlation_is_spearmans() -> None:
    effect, share = tables(0.5)
    found = own_domain(effect, share, permutations=1)
    both = effect.merge(share)
    c, s = (both[v] - both.groupby("kind")[v].transform("mean") for v in ("loss_change", "share"))
    assert found.correlation == pytest.approx(c.rank().corr(s.rank()))
    rows = [both["layer"], both["expert"]]
    c, s = (x - x.groupby(rows).transform("mean") for x in (c, s))
    assert found.correlation_within == pytest.approx(c.round(12).rank().corr(s.round(12).rank()), abs=1e-6)


def test_being_used_much_by_all_kinds_is_no_domain() -> None:
    """An expert's size alone makes the first correlation, and not the one within experts."""
    rng = np.random.default_rng(0)
    rows = []
    for expert in range(40):
        size = rng.exponential()
        rows += [
            {
                "layer": 0,
                "expert": expert,
                "kind": k,
                "share": size + rng.normal() * 0.05,
                "loss_change": size + rng.normal() * 0.05,
            }
            for k in "abc"
        ]
    frame = pd.DataFrame(rows)
    found = own_domain(frame.drop(columns="share"), frame.drop(columns="loss_change"))
    assert found.correlation > 0.9
    assert found.p < 0.01
    assert abs(found.correlation_within) < 0.3
    assert found.p_within > 0.01


def test_what_cannot_be_correlated_has_no_p() -> None:
    """Used alike by all experts, by each kind its own share, which rounding makes no order of."""
    effect, share = tables(1.0)
    found = own_domain(effect, share.assign(share=share["kind"].map({"a": 0.1, "b": 0.3, "c": 0.7, "d": 0.9})))
    assert np.isnan([found.correlation, found.p, found.correlation_within, found.p_within]).all()
    assert "p = 0.001" not in repr(found)
    assert 0 < found.agreement_p <= 1


def test_permutations_stay_within_layers() -> None:
    layer = np.array([0, 0, 0, 1, 1, 2])
    rng = np.random.default_rng(0)
    orders = np.array([permuted_within(layer, rng) for _ in range(200)])
    assert (layer[orders] == layer).all()
    assert len(np.unique(orders, axis=0)) == 12


def test_kinds_without_numbers_are_left_out() -> None:
    effect, share = tables(2.0)
    effect.loc[effect["kind"] == "b", "loss_change"] = np.nan
    found = own_domain(effect, share)
    assert found.kinds == ("a", "c", "d")
    assert found.chance == pytest.approx(1 / 3)
    effect.loc[effect["kind"] != "a", "loss_change"] = np.nan
    with pytest.raises(lk.BadInput, match="two kinds"):
        own_domain(effect, share)
    with pytest.raises(lk.BadInput, match="share"):
        own_domain(effect, effect)
