"""Heads switched off: batched runs against one at a time, interrupts, threads, and what can't be used."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import UNUSUAL, Tokens, build
from induction_model import induction_lab

import labkit as lk
from labkit.attention import AblationEffect, HalfLoss, ablation, ablations, effects, knockout, repeated
from labkit.trace import interface, running

IDS = [5, 99, 17, 230, 42, 8, 61]


@pytest.fixture(autouse=True)
def nothing_is_left(tiny_lab: lk.Lab) -> Iterator[None]:
    """After each test the model is as it was."""
    for parameter in tiny_lab.model.parameters():  # weights large enough that everything matters
        if parameter.dim() > 1:
            with torch.random.fork_rng():
                torch.manual_seed(parameter.numel())
                parameter.data.normal_(0, 0.3)
    before = tiny_lab.trace(IDS).logits
    yield
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_lab.model.modules())
    assert not interface._LISTENERS
    assert tiny_lab._turns._owner is None
    assert torch.equal(tiny_lab.trace(IDS).logits, before)


def alone(lab: lk.Lab, heads: list[tuple[int, int]], value: Any = 0.0, ids: list[int] = IDS) -> torch.Tensor:
    with lab.edit(*(lk.ablate_head(i, h, value=value) for i, h in heads)):
        return lab.trace(ids, keep="logits").loss


# effects --------------------------------------------------------------------------------------------------------------


def test_a_model_that_looks_both_ways_has_no_loss_to_compare() -> None:
    lab = lk.Lab(build(UNUSUAL["llama_both_ways"]), Tokens())
    with pytest.raises(lk.Unavailable, match="no predictions of the next"):
        effects(lab, [5, 99, 17, 42, 8], progress=False)
    with pytest.raises(lk.Unavailable, match="no predictions of the next"):
        ablation(lab, [5, 99, 17, 42, 8])([(0, 1)])


@pytest.mark.parametrize("size", [1, 15, 40, 10_000])
def test_effects_are_the_loop_one_at_a_time(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", size)
    frame = effects(tiny_lab, IDS, progress=False)
    assert list(frame.columns) == ["layer", "head", "loss", "loss_change"]
    assert list(zip(frame["layer"], frame["head"], strict=True)) == [(i, h) for i in range(2) for h in range(4)]
    baseline = float(tiny_lab.trace(IDS).loss[1:].mean())
    assert frame.attrs == {
        "baseline": pytest.approx(baseline, abs=1e-5),
        "complete": True,
        "heads": 8,
        "model": "tiny",
        "value": 0.0,
        "loss_from": 1,
    }
    for row in frame.to_dict("records"):
        expected = float(alone(tiny_lab, [(row["layer"], row["head"])])[1:].mean())
        assert row["loss"] == pytest.approx(expected, abs=1e-5)
        assert row["loss_change"] == pytest.approx(expected - baseline, abs=1e-5)
    assert frame["loss_change"].abs().max() > 0.01


def test_means_parts_of_a_text_and_chosen_heads(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(IDS, keep=("logits", "head_output"))
    frame = effects(tiny_lab, trace, [(1, 2), (0, 0), (1, 2)], value="mean", loss_from=3, progress=False)
    assert frame["layer"].tolist() == [1, 0]
    for row in frame.to_dict("records"):
        mean = trace.head_output(row["layer"], row["head"]).mean(0)
        expected = alone(tiny_lab, [(row["layer"], row["head"])], mean)[3:].mean()
        assert row["loss"] == pytest.approx(float(expected), abs=1e-5)
    number = effects(tiny_lab, IDS, [(1, 2)], value=0.5, progress=False)
    assert number["loss"][0] == pytest.approx(float(alone(tiny_lab, [(1, 2)], 0.5)[1:].mean()), abs=1e-5)
    assert number.attrs["value"] == 0.5
    assert len(effects(tiny_lab, IDS, [], progress=False)) == 0


def interrupting(monkeypatch: pytest.MonkeyPatch, after: int, error: type[BaseException]) -> None:
    """Raise at the n-th loss that is read."""
    real, left = ablations.token_loss, [after]

    def counted(logits: Any, ids: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error("mine")
        return real(logits, ids)

    monkeypatch.setattr(ablations, "token_loss", counted)


def test_an_interrupt_keeps_what_is_done(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", 14)
    whole = effects(tiny_lab, IDS, progress=False)
    with monkeypatch.context() as patch:
        interrupting(patch, 1 + 5, KeyboardInterrupt)
        part = effects(tiny_lab, IDS, progress=False)
    assert part.equals(whole[:5])
    assert part.attrs == whole.attrs | {"complete": False}


def test_an_interrupt_within_a_pass_keeps_what_is_done(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """While hooks are on the model."""
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", 14)
    real, left = ablations._sites, [2]

    def sites(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            return real(*arguments)

        def stop(_whole: Any, _view: Any) -> None:
            raise KeyboardInterrupt

        return [site._replace(change=stop) for site in real(*arguments)]

    monkeypatch.setattr(ablations, "_sites", sites)
    part = effects(tiny_lab, IDS, progress=False)
    assert len(part) == 4
    assert part.attrs["complete"] is False
    assert part.attrs["heads"] == 8


def test_before_anything_is_done_there_is_nothing_to_keep(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting(monkeypatch, 0, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        effects(tiny_lab, IDS, progress=False)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_another_exception_passes_through(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    interrupting(monkeypatch, after, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        effects(tiny_lab, IDS, progress=False)


def test_an_interrupted_knockout_says_nothing(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting(monkeypatch, 3, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        knockout(tiny_lab, [(0, 1)], length=5, draws=4)


def test_the_user_s_edits_hold_around_it(tiny_lab: lk.Lab) -> None:
    both = float(alone(tiny_lab, [(0, 1), (1, 3)])[1:].mean())
    with tiny_lab.edit(lk.ablate_head(0, 1)):
        frame = effects(tiny_lab, IDS, [(1, 3), (0, 1)], progress=False)
    assert frame["loss"][0] == pytest.approx(both, abs=1e-5)
    assert frame["loss_change"][1] == pytest.approx(0, abs=1e-6)


def test_progress_is_shown_unless_told_not_to(tiny_lab: lk.Lab, capsys: pytest.CaptureFixture[str]) -> None:
    effects(tiny_lab, IDS, progress=False)
    knockout(tiny_lab, [(0, 1)], length=5, draws=2)
    assert capsys.readouterr().err == ""
    effects(tiny_lab, IDS)
    assert "ablating heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"heads": [(2, 0)]}, r"no head \(2, 0\) in tiny: it has layers 0 to 1 and heads 0 to 3"),
        ({"heads": [(0, 4)]}, r"no head \(0, 4\)"),
        ({"heads": [(0, -1)]}, r"no head \(0, -1\)"),
        ({"heads": [0, 1]}, "0 is none"),
        ({"heads": [(0, 1, 2)]}, r"\(0, 1, 2\) is none"),
        ({"heads": [(0, True)]}, "is none"),
        ({"heads": "01"}, "no list of them"),
        ({"value": "median"}, "value='median'"),
        ({"value": math.nan}, "value=nan"),
        ({"value": True}, "value=True"),
        ({"loss_from": 0}, "predicted from 1 to 6"),
        ({"loss_from": 7}, "loss_from=7"),
        ({"what": [5]}, "has no loss"),
        ({"what": ["a", "b"]}, "one text"),
        ({"what": ""}, "empty"),
    ],
)
def test_effects_refuses(tiny_lab: lk.Lab, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        effects(tiny_lab, **({"what": IDS, "progress": False} | arguments))


def test_a_model_without_editable_heads_says_why(tiny_lab: lk.Lab) -> None:
    tiny_lab.anatomy.support["head_output"] = "it has none; look at `residual` instead"
    with pytest.raises(lk.Unavailable, match="can't be switched off: it has none"):
        effects(tiny_lab, IDS, progress=False)
    with pytest.raises(lk.Unavailable, match="look at `residual`"):
        ablation(tiny_lab, IDS)([(0, 1)])


# ablation, for views --------------------------------------------------------------------------------------------------


def test_an_ablation_is_two_passes_compared(tiny_lab: lk.Lab) -> None:
    take = ablation(tiny_lab, IDS)
    effect = take([(0, 1), (1, 3), (0, 1)])
    assert isinstance(effect, AblationEffect)
    before = tiny_lab.trace(IDS)
    with tiny_lab.edit(lk.ablate_heads([(0, 1), (1, 3)])):
        after = tiny_lab.trace(IDS)
    assert effect.heads == ((0, 1), (1, 3))
    assert effect.loss_before == float(before.loss[1:].mean())
    assert effect.loss_after == float(after.loss[1:].mean())
    assert math.isnan(effect.loss_change[0])
    assert effect.loss_change[1:] == tuple((after.loss - before.loss)[1:].tolist())
    p, q = before.logits[-1].softmax(-1), after.logits[-1].softmax(-1)
    expected = {int(i) for x in (p, q) for i in x.topk(5).indices}
    assert {(b, a) for _, b, a in effect.next} == {(float(p[i]), float(q[i])) for i in expected}
    assert [max(b, a) for _, b, a in effect.next] == sorted((max(b, a) for _, b, a in effect.next), reverse=True)
    assert effect.next[0][0] == tiny_lab.token_text(max(expected, key=lambda i: max(float(p[i]), float(q[i]))))
    with pytest.raises(dataclasses.FrozenInstanceError):
        effect.loss_before = 0.0  # type: ignore[misc]


def test_both_predictions_are_of_one_turn(tiny_lab: lk.Lab) -> None:
    """A baseline kept from a call inside somebody's edit would be another model's."""
    take = ablation(tiny_lab, tiny_lab.trace(IDS))
    assert take.ids == IDS
    assert take.tokens == tiny_lab.trace(IDS).tokens
    passes: list[int] = []
    handle = tiny_lab.model.register_forward_pre_hook(lambda *_: passes.append(1))
    take([(0, 1)])
    assert len(passes) == 2
    take([(0, 2)])
    assert len(passes) == 4
    handle.remove()
    with tiny_lab.edit(lk.ablate_head(0, 0)):
        inside = take([(0, 1)])
    outside = take([(0, 1)])
    assert inside is not None
    assert outside is not None
    assert outside.loss_before == pytest.approx(float(tiny_lab.trace(IDS).loss[1:].mean()), abs=1e-6)
    assert inside.loss_before != pytest.approx(outside.loss_before, abs=1e-6)


def test_a_thread_that_waits_for_its_turn_holds_up_nobody(tiny_lab: lk.Lab) -> None:
    take, found = ablation(tiny_lab, IDS), []
    worker = threading.Thread(target=lambda: found.append(take([(0, 1)])), daemon=True)
    with tiny_lab.edit(lk.ablate_head(0, 0)):
        worker.start()
        time.sleep(0.1)
        assert take([(0, 2)]) is not None
        assert found == []
    worker.join(20)
    assert len(found) == 1


def test_a_text_of_one_token_has_no_loss(tiny_lab: lk.Lab) -> None:
    effect = ablation(tiny_lab, [5])([(0, 1)])
    assert effect is not None
    assert effect.loss_before is None
    assert effect.loss_after is None
    assert np.isnan(effect.loss_change).tolist() == [True]


def test_it_can_be_stopped(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    take, stop = ablation(tiny_lab, IDS), threading.Event()
    real = take._predictions

    def stopping() -> Any:
        stop.set()
        return real()

    monkeypatch.setattr(take, "_predictions", stopping)
    assert take([(0, 1)], stop=stop) is None  # between the two passes
    monkeypatch.undo()
    assert take([(0, 1)], stop=stop) is None
    stop.clear()
    stopped, fresh = take([(0, 1)], stop=stop), ablation(tiny_lab, IDS)([(0, 1)])
    assert stopped is not None
    assert fresh is not None
    assert stopped.next == fresh.next
    assert stopped.loss_change[1:] == fresh.loss_change[1:]


def test_many_threads_get_what_one_would(tiny_lab: lk.Lab) -> None:
    take = ablation(tiny_lab, IDS)
    heads = [(i, h) for i in range(2) for h in range(4)]
    expected = [ablation(tiny_lab, IDS)([head]) for head in heads]
    found: dict[tuple[int, int], Any] = {}
    threads = [threading.Thread(target=lambda h=head: found.__setitem__(h, take([h]))) for head in heads]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for head, one in zip(heads, expected, strict=True):
        assert one is not None
        assert found[head].loss_after == one.loss_after
        assert found[head].next == one.next


@pytest.mark.parametrize("heads", [[], [(9, 0)], [(0, 9)], [(0,)], "x", None, 3])
def test_ablation_refuses(tiny_lab: lk.Lab, heads: Any) -> None:
    with pytest.raises(lk.BadInput):
        ablation(tiny_lab, IDS)(heads)
    with pytest.raises(lk.BadInput, match="one text"):
        ablation(tiny_lab, ["a", "b"])


# knockout -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_layers", [False, True])
def test_a_knockout_is_the_loop_over_its_draws(tiny_lab: lk.Lab, same_layers: bool) -> None:
    chosen = [(1, 3), (0, 1)]
    result = knockout(tiny_lab, chosen, length=6, draws=5, seed=2, same_layers=same_layers)
    ids = repeated(tiny_lab, 6, seed=2)
    assert result.heads == ((0, 1), (1, 3))
    assert len(result.drawn) == 5
    plain = tiny_lab.trace(ids).loss
    for half, tokens in ((result.first, slice(1, 6)), (result.second, slice(7, 12))):
        assert half.intact == pytest.approx(float(plain[tokens].mean()), abs=1e-5)
        assert half.without == pytest.approx(float(alone(tiny_lab, chosen, ids=ids)[tokens].mean()), abs=1e-5)
        for draw, loss in zip(result.drawn, half.others, strict=True):
            assert loss == pytest.approx(float(alone(tiny_lab, list(draw), ids=ids)[tokens].mean()), abs=1e-5)
    for draw in result.drawn:
        assert len(set(draw)) == 2
        assert not set(draw) & set(chosen)
        if same_layers:
            assert sorted(layer for layer, _ in draw) == [0, 1]
    assert len(set(result.drawn)) > 1
    assert result == knockout(tiny_lab, chosen, length=6, draws=5, seed=2, same_layers=same_layers)
    assert result.drawn != knockout(tiny_lab, chosen, length=6, draws=5, seed=3, same_layers=same_layers).drawn


def test_a_knockout_shows_its_losses_beside_those_of_others(tiny_lab: lk.Lab) -> None:
    result = knockout(tiny_lab, [(1, 3), (0, 1)], length=6, draws=5)
    first, second = result.table.to_dict("records")
    for row, half in ((first, result.first), (second, result.second)):
        assert row["intact"] == half.intact
        assert row["without"] == half.without
        assert row["others, mean"] == pytest.approx(sum(half.others) / 5)
        assert row["others, highest"] == max(half.others)
        assert row["share as high"] == half.share
    for shown in (repr(result), result._repr_html_()):
        assert "without heads 0.1, 1.3" in shown
        assert f"{result.second.without:.3f}" in shown
        assert "5 draws of as many others" in shown
    assert knockout(tiny_lab, [(0, 1)], length=4, draws=0).table["others, mean"].isna().all()


def test_draws_can_come_from_anywhere(tiny_lab: lk.Lab) -> None:
    drawn = knockout(tiny_lab, [(0, 0)], length=4, draws=80).drawn
    assert {head for draw in drawn for head in draw} == {(i, h) for i in range(2) for h in range(4)} - {(0, 0)}


def test_the_share_counts_draws_that_hurt_as_much() -> None:
    assert HalfLoss(1.0, 3.0, (2.0, 3.0, 4.0, 1.0)).share == 0.5
    assert math.isnan(HalfLoss(1.0, 3.0, ()).share)


def test_knockout_refuses(tiny_lab: lk.Lab) -> None:
    layer = [(0, h) for h in range(4)]
    for arguments, said in (
        ({"heads": []}, "no head to switch off"),
        ({"heads": [(5, 0)]}, r"no head \(5, 0\)"),
        ({"heads": [(0, 0)], "draws": -1}, "draws=-1"),
        ({"heads": [(0, 0)], "length": 1}, "length=1"),
        ({"heads": layer, "same_layers": True}, "0 other heads in layer 0 to draw 4 from"),
        ({"heads": [*layer, (1, 0)]}, "3 other heads in the model to draw 5 from"),
    ):
        with pytest.raises(lk.BadInput, match=said):
            knockout(tiny_lab, **({"length": 4, "draws": 2} | arguments))  # type: ignore[arg-type]
    everything = [*layer, (1, 0)]
    assert knockout(tiny_lab, everything, length=4, draws=0).second.others == ()


def test_what_begins_a_text_is_in_neither_half() -> None:
    lab = induction_lab()
    result = knockout(lab, [(1, 0)], length=8, draws=0)
    ids = repeated(lab, 8)
    loss = lab.trace(ids).loss
    assert result.second.intact == pytest.approx(float(loss[9:16].mean()), abs=1e-6)
    assert result.first.intact == pytest.approx(float(loss[1:8].mean()), abs=1e-6)
