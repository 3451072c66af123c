"""The tuned lens: its reading by hand, what training brings on text held out and what it leaves alone, its files."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits import TunedLens, fit_tuned_lens, load_lens

RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(3, 60, 14).tolist() for _ in range(40)]
QUICK: dict[str, Any] = {"progress": False, "tokens": 12, "learning_rate": 0.02}


def make_lab(name: str = "llama3", **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    layers = {"n_layer": 3} if name == "gpt2" else {"num_hidden_layers": 3}
    return lk.Lab(build(dataclasses.replace(family, fields={**family.fields, **layers, **fields})), Tokens(), name=name)


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return make_lab()


@pytest.fixture(scope="module")
def tuned(lab: lk.Lab) -> TunedLens:
    return fit_tuned_lens(lab, TEXTS, steps=250, **QUICK)


def traced(lab: lk.Lab, ids: list[int] = TEXTS[0]) -> lk.Trace:
    return lab.trace(ids, keep=("residual", "logits"))


def untrained(lab: lk.Lab) -> TunedLens:
    """As training begins."""
    width, layers = int(lab.config.hidden_size), len(lab.anatomy.layers)
    maps = {layer: torch.eye(width) for layer in range(layers)}
    return TunedLens(maps, 1, lab.name, layers, biases={layer: torch.zeros(width) for layer in maps})


# reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama3", "gpt2", "gemma2"])
def test_before_training_it_is_the_logit_lens_exactly(family: str) -> None:
    lab = make_lab(family)
    trace = traced(lab)
    read = lk.lens(lab, trace, "tuned", lens=untrained(lab))
    assert read.layers == (0, 1, 2, 3)
    assert read.rows().table.equals(lk.lens(lab, trace, "logit").rows().table)


def test_it_reads_softmax_of_unembedding_of_norm_of_the_map_of_a_state(lab: lk.Lab, tuned: TunedLens) -> None:
    trace = traced(lab)
    read = lk.lens(lab, trace, kind="tuned", lens=tuned)
    for layer in (0, 2):
        h = trace.residual(layer)[7].double() @ tuned.jacobians[layer].double().T + tuned.biases[layer].double()
        h = h / (h.pow(2).mean() + lab.config.rms_norm_eps).sqrt() * lab.model.model.norm.weight.double()
        wanted = (lab.model.lm_head.weight.double() @ h).softmax(-1).detach()
        torch.testing.assert_close(read.distribution(layer, 7).double(), wanted, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(read.logits(3), trace.logits, atol=1e-5, rtol=1e-5)
    assert "tuned lens of llama3" in repr(read)


# training -------------------------------------------------------------------------------------------------------------


def test_a_first_step_goes_down_the_gradient_of_the_divergence() -> None:
    """The slope is by autograd, in float64, of the formula written out."""
    lab = make_lab("gpt2")  # whose norm is computed in the model's own precision
    lab.model.double()
    texts = [[*TEXTS[0][:-1], i] for i in range(3, 11)]
    found = fit_tuned_lens(lab, texts, steps=1, tokens=99, learning_rate=0.01, progress=False)
    norm, head = lab.model.transformer.ln_f, lab.model.lm_head
    agree = []
    for one in texts:
        trace = traced(lab, one)
        likely = trace.logits[1:].double().softmax(-1)
        matrix, bias = torch.eye(32).double().requires_grad_(), torch.zeros(32).double().requires_grad_()
        logs = head(norm(trace.residual(1)[1:] @ matrix.T + bias)).log_softmax(-1)
        loss = (likely * (likely.log() - logs)).sum(-1).mean()
        slopes = torch.autograd.grad(loss, [matrix, bias])
        wanted = [
            -0.01 * slope / (slope.abs() + 1e-8) for slope in slopes
        ]  # Adam's first step, its epsilon beside a small slope
        off = [found.jacobians[1] - torch.eye(32) - wanted[0], found.biases[1] - wanted[1]]
        agree.append(max(float(each.abs().max()) for each in off) < 2e-5)
    assert any(agree), "of the text that the step was made on"
    assert found.jacobians[1].dtype is torch.float64


def test_on_texts_held_out_it_is_nearer_than_the_logit_lens_and_than_maps_of_other_layers(tuned: TunedLens) -> None:
    quality = tuned.quality
    assert quality is not None
    assert quality["layer"].tolist() == [0, 1, 2]
    assert (quality["kl"] < 0.7 * quality["logit"]).all()
    assert (quality["kl"] < quality["other_layer"]).all()
    assert (quality["kl"] < quality["constant"])[1:].all(), "layer 0 holds single tokens"
    assert quality["kl"].is_monotonic_decreasing


def test_the_map_of_another_layer_is_of_another_one_where_there_are_two() -> None:
    quality = fit_tuned_lens(make_lab(num_hidden_layers=2), TEXTS, steps=40, **QUICK).quality
    assert quality is not None
    assert (quality["other_layer"] - quality["kl"]).abs().min() > 1e-3


def test_quality_is_of_texts_that_no_step_read_and_the_rate_falls_to_nothing(
    lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labkit.circuits import tuned_fitting

    read: list[list[int]] = []
    judged: list[list[int]] = []
    rates: list[float] = []
    seen, quality, step = tuned_fitting._seen, tuned_fitting._quality, tuned_fitting._Training.step

    def seeing(lab: Any, ids: list[int], *given: Any) -> Any:
        read.append(ids)
        return seen(lab, ids, *given)

    def judging(lab: Any, texts: list[list[int]], *given: Any) -> Any:
        judged.extend(texts)
        return quality(lab, texts, *given)

    def stepping(self: Any, *given: Any) -> None:
        step(self, *given)
        rates.append(self.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(tuned_fitting, "_seen", seeing)
    monkeypatch.setattr(tuned_fitting, "_quality", judging)
    monkeypatch.setattr(tuned_fitting._Training, "step", stepping)
    fit_tuned_lens(lab, TEXTS, steps=40, **QUICK)
    learnt = {tuple(ids) for ids in read[:40]}
    assert (len(learnt), len(judged)) == (30, 10)
    assert not learnt.intersection(map(tuple, judged))
    assert rates == pytest.approx([0.02 * (1 - n / 40) for n in range(1, 41)])


def test_on_a_layer_that_has_nothing_to_do_with_the_prediction_it_is_no_better_than_a_constant() -> None:
    """The null: where what is read was put in at random, text after text, nothing can be foretold from it on other texts."""
    lab = make_lab()
    draw = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=draw)

    with lab.edit(lk.patch("residual[1]", noise)):  # layers 1 and 2 see noise, and the prediction follows from it
        blind = fit_tuned_lens(lab, TEXTS, steps=120, **QUICK).quality
    assert blind is not None
    assert blind["kl"][0] > 0.98 * blind["constant"][0], "layer 0 knows nothing of the noise to come"
    assert blind["kl"][2] < 0.8 * blind["constant"][2], "which later layers have seen"


def test_training_leaves_the_model_alone_and_is_the_same_twice(lab: lk.Lab, tuned: TunedLens) -> None:
    assert all(weight.grad is None for weight in lab.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())
    one, two = (fit_tuned_lens(lab, TEXTS, steps=3, **QUICK) for _ in range(2))
    assert all(torch.equal(one.jacobians[layer], two.jacobians[layer]) for layer in range(3))


def test_an_interrupt_or_a_stop_keeps_what_was_trained(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.circuits import tuned_fitting

    real, count = tuned_fitting._Training.step, [0]

    def interrupted(self: Any, *given: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(tuned_fitting._Training, "step", interrupted)
    assert fit_tuned_lens(lab, TEXTS, steps=9, **QUICK).notes == ("the training was ended after 3 of 9 steps",)
    stop = threading.Event()
    stop.set()
    with pytest.raises(lk.BadInput, match="before its first step"):
        fit_tuned_lens(lab, TEXTS, steps=9, stop=stop, **QUICK)


# files, and what is refused -------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_reads_the_same(lab: lk.Lab, tuned: TunedLens, tmp_path: Path) -> None:
    again = load_lens(tuned.save(tmp_path / "lens.safetensors"))
    assert isinstance(again, TunedLens)
    assert (again.prompts, again.layers, again.model, again.base) == (tuned.prompts, 3, "llama3", tuned.base)
    trace = traced(lab)
    reads = [lk.lens(lab, trace, "tuned", lens=one) for one in (tuned, again)]
    assert torch.equal(reads[0].logits(1), reads[1].logits(1))
    with pytest.raises(lk.BadInput, match=r"saved as NAME\.safetensors"):
        tuned.save(tmp_path / "lens.pt")
    other = make_lab()
    with torch.no_grad():
        for layer in other.model.model.layers:
            layer.mlp.down_proj.weight.mul_(2)
    with pytest.raises(lk.BadInput, match="other weights in its layers"):
        lk.lens(other, traced(other), "tuned", lens=again)
    assert "TunedLens(llama3: 3 of 3 layers, width 32, 30 prompts)" in repr(again)


def test_a_swap_goes_through_its_map(lab: lk.Lab, tuned: TunedLens) -> None:
    read = lk.lens(lab, traced(lab), "tuned", lens=tuned)
    plain = lab.trace(TEXTS[0]).logits
    with lab.edit(lk.swap(read, 5, 17, layers=1)):
        assert not torch.allclose(lab.trace(TEXTS[0]).logits, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("texts", "change", "said"),
    [
        (TEXTS[:7], {}, "7 different texts of 4 tokens or more are too few .* give 8"),
        (TEXTS[:4] * 5, {}, "4 different texts"),
        (TEXTS, {"steps": 0}, "steps=0"),
        (TEXTS, {"learning_rate": 0}, "learning_rate=0"),
        (TEXTS, {"tokens": 0}, "tokens=0"),
    ],
)
def test_bad_input(lab: lk.Lab, texts: Any, change: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        fit_tuned_lens(lab, texts, **(QUICK | change))


def test_the_kinds_of_lenses_are_not_taken_for_each_other(lab: lk.Lab, tuned: TunedLens) -> None:
    jacobian = lk.circuits.JacobianLens({1: torch.eye(32), 2: torch.eye(32)}, 1, lab.name, 3)
    with pytest.raises(lk.BadInput, match="a Jacobian lens and no tuned one"):
        lk.lens(lab, traced(lab), "tuned", lens=jacobian)
    with pytest.raises(lk.BadInput, match='a tuned lens; read with it as kind="tuned"'):
        lk.lens(lab, traced(lab), lens=tuned)
    with pytest.raises(lk.Unavailable, match="fit_tuned_lens"):
        lk.lens(lab, traced(lab), "tuned")
    with pytest.raises(lk.BadInput, match="has a bias"):
        TunedLens({1: torch.eye(4)}, 1, "x", 3)
    both = make_lab(is_causal=False)
    with pytest.raises(lk.Unavailable, match="looks at later tokens too"):
        fit_tuned_lens(both, TEXTS, **QUICK)
