"""Derivatives of a scalar of the logits: what is refused, what is left as it was, and where they begin."""

from __future__ import annotations

import math
from pathlib import Path

import fuzz
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.trace import interface

IDS = [5, 17, 33, 8, 91, 42, 17]


def score(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 11]


@pytest.fixture
def lab() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")


def direct(lab: lk.Lab, layer: int, ids: list[int] = IDS) -> torch.Tensor:
    """The derivative by what enters a layer, by autograd and one hook."""
    kept: list[torch.Tensor] = []

    def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(args[0].detach().clone().requires_grad_())
        return (kept[0], *args[1:])

    handle = lab.model.model.layers[layer].register_forward_pre_hook(hook)
    with torch.enable_grad():
        logits = lab.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        (found,) = torch.autograd.grad(score(logits.float()), kept[0])
    handle.remove()
    return found[0]


def test_frozen_weights_and_others_give_the_same(lab: lk.Lab) -> None:
    free = lab.trace(IDS, keep="residual", gradients=score).gradient("residual", 1)
    for parameter in lab.model.parameters():
        parameter.requires_grad_(False)
    frozen = lab.trace(IDS, keep="residual", gradients=score)
    assert torch.equal(frozen.gradient("residual", 1), free)
    torch.testing.assert_close(free, direct(lab, 1), atol=1e-6, rtol=1e-5)
    assert not any(p.requires_grad for p in lab.model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_mode_the_caller_is_in(lab: lk.Lab, mode: type[torch.no_grad] | type[torch.inference_mode]) -> None:
    expected = direct(lab, 0)
    with mode():
        trace = lab.trace(IDS, keep="residual", gradients=score)
    torch.testing.assert_close(trace.gradient("residual", 0), expected, atol=1e-6, rtol=1e-5)
    assert not trace.gradient("residual", 0).requires_grad


def test_weights_made_under_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = build(FAMILIES["llama3"])
        model = type(model)(model.config).eval()
    with pytest.raises(lk.Unavailable, match="inference_mode"):
        lk.Lab(model, Tokens(), name="inferred").trace(IDS, keep="residual", gradients=score)


def test_a_model_left_in_training_with_checkpointing(lab: lk.Lab) -> None:
    expected = direct(lab, 1)
    lab.model.gradient_checkpointing_enable()
    lab.model.train()
    got = lab.trace(IDS, keep=("residual", "mlp_neurons"), gradients=score)
    torch.testing.assert_close(got.gradient("residual", 1), expected, atol=1e-6, rtol=1e-5)
    assert all(m.training for m in lab.model.modules())


def test_tokens_after_and_layers_not_reached_have_zero(lab: lk.Lab) -> None:
    trace = lab.trace(IDS, keep=("residual", "attention", "embedding"), gradients=lambda logits: logits[2, 7])
    assert trace.gradient("residual", 0)[3:].abs().max() == 0
    assert trace.gradient("residual", 0)[:3].abs().min(0).values.any()
    assert trace.gradient("queries", 1)[:, 3:].abs().max() == 0
    assert trace.gradient("keys", 1).shape == trace.keys(1).shape
    assert trace.gradient("embedding").shape == trace.embedding.shape


def test_under_an_edit_it_is_by_the_value_after_it(lab: lk.Lab) -> None:
    """A value that was put there no longer depends on what was before; a function's result does, by its slope."""
    plain = lab.trace(IDS, keep="residual", gradients=score)
    with lab.edit(lk.patch("residual[1]", lambda x: x * 3)):
        tripled = lab.trace(IDS, keep="residual", gradients=score)
    with lab.edit(lk.patch("residual[1]", plain.residual(1) * 3)):
        put = lab.trace(IDS, keep=("residual", "embedding"), gradients=score)
    torch.testing.assert_close(put.gradient("residual", 1), tripled.gradient("residual", 1))
    assert put.gradient("embedding").abs().max() == 0
    assert put.gradient("residual", 0).abs().max() == 0
    with lab.edit(lk.patch("residual[1]", lambda x: x * 3), lk.patch("residual[2]", 0.0)):
        gone = lab.trace(IDS, keep="residual", gradients=score)
    assert gone.gradient("residual", 1).abs().max() == 0
    assert gone.gradient("residual", 2).abs().max() > 0
    before = plain.residual(1).clone().requires_grad_()
    (outer,) = torch.autograd.grad(_after(lab, before * 3), before)
    torch.testing.assert_close(tripled.gradient("residual", 1) * 3, outer, atol=1e-5, rtol=1e-4)


def _after(lab: lk.Lab, x: torch.Tensor) -> torch.Tensor:
    """The score when x enters layer 1."""

    def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (x[None], *args[1:])

    handle = lab.model.model.layers[1].register_forward_pre_hook(hook)
    try:
        return score(lab.model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0])
    finally:
        handle.remove()


def test_a_multiplier_of_the_residual_stream_is_in_it() -> None:
    """granite adds 0.5 times what its parts put out; the instrument is what was added, and so is the derivative by it."""
    lab = lk.Lab(build(FAMILIES["granitemoe"]), Tokens(), name="granite")
    trace = lab.trace(IDS, keep=("residual", "attention_output", "mlp_output"), gradients=score)
    last = trace.layers
    torch.testing.assert_close(trace.gradient("mlp_output", last - 1), trace.gradient("residual", last))
    with lab.edit(lk.patch("mlp_output[0] @ 2", 0.7)):
        edited = lab.trace(IDS, keep=("residual", "mlp_output"), gradients=score)
    torch.testing.assert_close(edited.gradient("mlp_output", 0), edited.gradient("residual", 1), atol=1e-5, rtol=1e-4)


def test_bfloat16_and_float16() -> None:
    exact = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="a").trace(IDS, keep="residual", gradients=score)
    lab = lk.Lab(build(FAMILIES["llama3"]).bfloat16(), Tokens(), name="b")
    got = lab.trace(IDS, keep="residual", gradients=score).gradient("residual", 2)
    assert got.dtype is torch.bfloat16
    wanted = exact.gradient("residual", 2)
    assert float((got.float() - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda logits: logits[-1], "one number"),
        (lambda logits: 3.0, "returned a float"),
        (lambda logits: torch.tensor(3.0), "does not depend"),
        (lambda logits: logits[-1, 7].detach(), "does not depend"),
        (lambda logits: logits[-1, 7] * math.nan, "finite"),
        (7, "a function of the logits"),
    ],
)
def test_what_is_no_scalar_is_told(lab: lk.Lab, function: object, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lab.trace(IDS, keep="residual", gradients=function)  # type: ignore[arg-type]
    assert not interface._LISTENERS


def test_what_no_derivative_is_taken_by(lab: lk.Lab) -> None:
    with pytest.raises(lk.Unavailable, match="can only be seen; use one of logits"):
        lab.trace(IDS, gradients=score).gradient("attention", 0)
    with pytest.raises(lk.Unavailable, match=r"gradients=fn"):
        lab.trace(IDS).gradient("logits")
    with pytest.raises(lk.Unavailable, match=r"keep=\('residual'"):
        lab.trace(IDS, gradients=score).gradient("residual", 0)
    with pytest.raises(lk.BadInput, match="no layer 9"):
        lab.trace(IDS, keep="mlp_output", gradients=score).gradient("mlp_output", 9)
    moe = lk.Lab(build(FAMILIES["mixtral"]), Tokens(), name="mixtral")
    with pytest.raises(lk.BadInput, match="nothing a derivative can be taken by"):
        moe.trace(IDS, keep="routes", gradients=score)


def test_an_error_of_the_function_leaves_nothing_behind(lab: lk.Lab) -> None:
    def broken(_logits: torch.Tensor) -> torch.Tensor:
        raise KeyError("the user's own")

    before = [(*m._forward_hooks, *m._forward_pre_hooks) for m in lab.model.modules()]
    with pytest.raises(KeyError, match="the user's own"):
        lab.trace(IDS, keep="residual", gradients=broken)
    assert [(*m._forward_hooks, *m._forward_pre_hooks) for m in lab.model.modules()] == before
    assert all(p.grad is None for p in lab.model.parameters())


def test_each_text_has_its_own(lab: lk.Lab, tmp_path: Path) -> None:
    calls: list[int] = []

    def of_length(logits: torch.Tensor) -> torch.Tensor:
        calls.append(len(logits))
        return logits[-1].logsumexp(-1)

    texts = [IDS, IDS[:3], [9, 8]]
    traces = lab.trace(texts, keep=("residual", "values"), gradients=of_length)
    assert sorted(calls) == [2, 3, 7]
    for ids, trace in zip(texts, traces, strict=True):
        alone = lab.trace(ids, keep=("residual", "values"), gradients=of_length)
        assert trace.scalar == pytest.approx(alone.scalar, abs=1e-4)
        torch.testing.assert_close(trace.gradient("values", 0), alone.gradient("values", 0), atol=1e-5, rtol=1e-4)
        opened = lk.Trace.load(trace.save(tmp_path / "t.safetensors"))
        assert torch.equal(opened.gradient("residual", 1), trace.gradient("residual", 1))
        assert opened.scalar == trace.scalar
        held = trace.gradient("residual", 1)
        assert held.untyped_storage().nbytes() == held.numel() * held.element_size(), "no memory of the batch"


@pytest.fixture
def words() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model(), fuzz.tiny_tokenizer(), name="tiny")


def test_attribution_by_gradient_adds_up_where_all_is_linear(words: lk.Lab) -> None:
    """By what leaves the last layer, through a norm whose scale is the same after scaling: its product with itself is 0."""
    trace = words.trace("abc and abc again", keep="residual", gradients=lambda logits: logits[-1].max())
    last = trace.layers
    product = (trace.gradient("residual", last) * trace.residual(last)).sum()
    assert abs(float(product)) < 1e-3, "an RMSNorm does not see the length of what it is given"
