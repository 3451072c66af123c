"""Attribution against finite differences, against exact patching where the model is linear, and its sum along the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adding_model import adding_lab
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits import attribution
from labkit.trace import interface
from labkit.trace.edits import patch

CLEAN, OTHER = [5, 17, 33, 8, 91, 42, 17], [5, 17, 34, 9, 90, 43, 18]
PLACES = {
    "residual": "residual",
    "attention": "attention_output",
    "mlp": "mlp_output",
    "mlp_neurons": "mlp_neurons",
    "embedding": "embedding",
    "head": "head_output",
}


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 40]


def make_lab(family: str = "llama3") -> lk.Lab:
    return lk.Lab(build(FAMILIES[family]), Tokens(), name=family)


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("at", list(PLACES))
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama3", "gemma2"])
def test_effects_are_finite_differences_in_float64(family: str, at: str) -> None:
    """A small step from the corrupted towards the clean activation, by an edit of its own.

    The last two have norms that compute in float32 whatever the model's dtype; there a step is larger than its rounding.
    """
    lab = make_lab(family)
    lab.model.double()
    found = attribution(lab, CLEAN, OTHER, metric, at=at)
    exact = family in ("gpt2", "gpt_neox")
    name, step, tolerance = PLACES[at], 1e-4 if exact else 3e-3, 1e-6 if exact else 2e-3
    keep = ("logits", name)
    clean, other = (lab.trace(ids, keep=keep) for ids in (CLEAN, OTHER))
    assert found.clean == pytest.approx(float(metric(clean.logits)), abs=1e-6)
    chosen = found.table.sort_values("effect", key=abs, ascending=False)
    for row in chosen.head(4).to_dict("records"):
        where = (
            "embedding"
            if at == "embedding"
            else f"{name}[{row['layer']}{', ' + str(row['head']) if at == 'head' else ''}]"
        )
        ends = [t.embedding if at == "embedding" else t.tensor(name, row["layer"]) for t in (clean, other)]
        difference = ends[0] - ends[1]
        if at == "head":
            difference = difference[row["head"]]
        else:
            where += f" @ {row['position']}"
            difference = difference[row["position"]]
        moved = []
        for sign in (1, -1):
            with lab.edit(patch(where, lambda x, d=sign * step * difference: x + d)):
                moved.append(logit_of(lab))
        slope = (moved[0] - moved[1]) / (2 * step) / (found.clean - found.corrupted)
        assert row["effect"] == pytest.approx(slope, rel=tolerance, abs=tolerance)
    assert chosen["effect"].abs().max() > 1e-3
    assert hooks(lab.model) == 0
    assert not interface._LISTENERS


def logit_of(lab: lk.Lab) -> float:
    """The metric of the corrupted text in float64: a Trace's logits are float32."""
    from labkit.trace import running

    logits = running.forward(lab.model, [OTHER]).all_logits[0]
    assert logits.dtype is torch.float64
    return float(metric(logits))


def test_where_the_model_is_linear_it_is_exact_patching() -> None:
    """What leaves the last layer's MLP is read by a norm whose scale is held, and by the unembedding: made linear here."""
    lab = make_lab("llama3")
    lab.model.model.norm = torch.nn.Identity()
    lab = lk.Lab(lab.model, Tokens(), name="linear at its end")
    for at in ("mlp", "mlp_neurons", "attention", "residual", "head"):
        exact = lk.patching(lab, CLEAN, OTHER, metric, at=at, progress=False)
        for steps in (None, 3):
            found = attribution(lab, CLEAN, OTHER, metric, at=at, steps=steps)
            assert list(found.table.columns) == list(exact.table.columns)
            both = found.table.merge(exact.table, on=[c for c in found.table if c not in ("value", "effect")])
            assert len(both) == len(exact)
            last = (
                both[both["layer"] >= (2 if at == "residual" else 1)]
                if at in ("mlp", "mlp_neurons", "residual")
                else both[:0]
            )
            torch.testing.assert_close(
                torch.tensor(last["effect_x"].to_numpy()),
                torch.tensor(last["effect_y"].to_numpy()),
                atol=1e-4,
                rtol=1e-4,
            )
            torch.testing.assert_close(
                torch.tensor(last["value_x"].to_numpy()), torch.tensor(last["value_y"].to_numpy()), atol=1e-4, rtol=1e-4
            )


def test_many_steps_sum_to_the_whole_difference() -> None:
    """Integrated gradients of all that enters the model (completeness, Sundararajan et al. 2017)."""
    lab = make_lab("gpt2")
    for at in ("embedding", "residual"):
        few, many = (attribution(lab, CLEAN, OTHER, metric, at=at, steps=steps).table for steps in (4, 400))
        sums = [float(t[t["layer"] == 0]["effect"].sum()) for t in (few, many)]
        assert sums[1] == pytest.approx(1, abs=2e-3)
    assert float(attribution(lab, CLEAN, OTHER, metric, at="embedding").table["effect"].sum()) != pytest.approx(
        1, abs=1e-2
    )


def test_positions_and_what_agrees_in_both_texts() -> None:
    lab = make_lab()
    found = attribution(lab, CLEAN, OTHER, metric, positions=[-1, 3])
    assert found["position"].tolist() == [6, 3] * 3
    whole = attribution(lab, CLEAN, OTHER, metric)
    assert (whole[whole["position"] < 2]["effect"] == 0).all()
    assert found.table.merge(whole.table, on=["layer", "position"]).eval("effect_x == effect_y").all()


def test_against_exact_patching() -> None:
    lab = adding_lab()
    five_or_four = [lab, "23=", "13=", lambda logits: logits[-1, 10] - logits[-1, 9]]
    exact = lk.patching(*five_or_four, at="head", progress=False)
    for steps in (None, 10):
        agreement = attribution(*five_or_four, at="head", steps=steps).against(exact)
        x, y = agreement["attribution"], agreement["exact"]
        assert agreement.pearson == pytest.approx(x.corr(y))
        assert agreement.spearman == pytest.approx(x.corr(y, method="spearman"))
        assert agreement.largest == pytest.approx((x - y).abs().max())
        assert f"Pearson {agreement.pearson:.3f}" in repr(agreement)
    assert agreement.pearson > 0.9
    assert len(agreement) == 8
    with pytest.raises(lk.BadInput, match="at='head'"):
        attribution(*five_or_four, at="head").against(lk.patching(*five_or_four, at="mlp", progress=False))
    others = lk.patching(lab, "22=", "13=", lambda logits: logits[-1, 8] * 2, at="head", progress=False)
    with pytest.raises(lk.BadInput, match="other texts"):
        attribution(*five_or_four, at="head").against(others)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"at": "heads"}, "did you mean 'head'"),
        ({"steps": 0}, "whole number from 1"),
        ({"corrupted": OTHER[:-1]}, r"clean text has 7 tokens and the corrupted one 6: .*\|.*equally many"),
        ({"corrupted": CLEAN}, "nothing to bring back"),
        ({"metric": 3}, "is to be a function"),
        ({"metric": lambda logits: float(logits[-1, 7])}, "no gradient goes through it"),
        ({"metric": lambda logits: logits[-1].argmax()}, "no gradient goes through it|nothing to bring back"),
        ({"metric": lambda logits: logits[-1, 7].detach()}, "no gradient goes through it"),
        ({"metric": lambda logits: logits[-1, 7].numpy()}, "no gradient goes through it"),
        ({"metric": lambda logits: logits[-1]}, r"returned a Tensor of shape \(\d+,\)"),
        ({"metric": lambda logits: logits[-1, 0] * float("nan")}, "clean text is nan"),
        ({"positions": []}, "names no token"),
        ({"lab": 3}, "takes a Lab"),
    ],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_bad_input(settings: dict[str, Any], said: str) -> None:
    lab = make_lab()
    arguments = {"lab": lab, "clean": CLEAN, "corrupted": OTHER, "metric": metric} | settings
    with pytest.raises(lk.BadInput, match=said):
        attribution(**arguments)
    assert hooks(lab.model) == 0


def test_what_a_model_does_not_have_and_a_closed_lab() -> None:
    with pytest.raises(lk.Unavailable, match="mlp_neurons can't be attributed to"):
        attribution(make_lab("mixtral"), CLEAN, OTHER, metric, at="mlp_neurons")
    lab = make_lab()
    lab.close()
    with pytest.raises(lk.LabError, match="closed"):
        attribution(lab, CLEAN, OTHER, metric)


def test_no_weight_is_touched_and_frozen_ones_do() -> None:
    lab = make_lab()
    free = attribution(lab, CLEAN, OTHER, metric, at="head", steps=3)
    for parameter in lab.model.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode():
        frozen = attribution(lab, CLEAN, OTHER, metric, at="head", steps=3)
    assert free.table.equals(frozen.table)
    assert all(parameter.grad is None for parameter in lab.model.parameters())
    with lab.edit(patch("mlp_output[*]", 0.0)):
        within = attribution(lab, CLEAN, OTHER, metric, at="mlp")
    assert (within["effect"] == 0).all()


@pytest.mark.real_model
def test_on_the_default_model_steps_come_near_exact_patching(default_lab: lk.Lab) -> None:
    """Who is given the drink: Mary or John. One gradient at the corrupted text misses what MLP 0 does at the name."""
    tokenizer = default_lab.tokenizer
    mary, john = (tokenizer(name)["input_ids"][-1] for name in (" Mary", " John"))
    clean, corrupted = (f"When Mary and John went to the store, {name} gave a drink to" for name in ("John", "Mary"))
    texts = (default_lab, clean, corrupted, lambda logits: logits[-1, mary] - logits[-1, john])
    exact = lk.patching(*texts, at="mlp", positions=[9, -1], progress=False)
    one, several = (
        attribution(*texts, at="mlp", positions=[9, -1], steps=steps).against(exact) for steps in (None, 10)
    )
    assert exact.clean > exact.corrupted
    assert several.pearson > 0.9
    assert several.pearson > one.pearson
