"""GPTQ and the other ways to choose codes: against brute force, never worse than rounding, on text that was not calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import families
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.quantization import calibration, formats, quantizing
from labkit.quantization.calibration import Activations
from labkit.quantization.gptq import choose, gptq
from labkit.quantization.half_quadratic import half_quadratic
from labkit.quantization.integers import MinMax
from labkit.quantization.scaling import scaled

FORMATS = ("int4", "int3", "nf4", "nf4_single", "mxfp4", "q4_0", "q4_1", "fp8_e4m3", "ternary")


def inputs_of(columns: int, tokens: int = 800, seed: int = 0) -> Activations:
    """Of correlated columns of very different size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.rand(columns, generator=generator) ** 2
    given = torch.randn(tokens, columns, generator=generator) @ mix
    return Activations(given.T @ given / tokens, given.abs().mean(0), tokens)


def weight_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def error(weight: torch.Tensor, unpacked: torch.Tensor, inputs: Activations) -> float:
    return float(inputs.error(unpacked - weight).sum())


@cache
def tokens(seed: int = 0, texts: int = 30) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 100, (50,), generator=generator).tolist() for _ in range(texts)]


def lab_of(family: str) -> lk.Lab:
    return lk.Lab(families.build(families.FAMILIES[family]), families.Tokens(), name=family)  # type: ignore[arg-type]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("settings", [{"group_size": 4, "symmetric": False}, {"group_size": "channel"}])
def test_codes_are_those_of_brute_force_in_the_same_order(settings: dict[str, Any], act_order: bool) -> None:
    weight, inputs = weight_of(5, 12), inputs_of(12)
    format = formats.of("int3", scale_dtype=torch.float32, **settings)
    parameters = format.grid.fit(format.blocks(weight))
    codes, _ = choose(weight, inputs, format, parameters, act_order=act_order, damping=0.01)
    hessian = inputs.gram.double() + 0.01 * inputs.gram.double().diagonal().mean() * torch.eye(12, dtype=torch.float64)
    order = hessian.diagonal().argsort(descending=True).tolist() if act_order else list(range(12))
    left, size = weight.double().clone(), 4 if settings["group_size"] == 4 else 12
    fixed = {name: value.view(5, -1, 1) for name, value in parameters.items()}
    for number, column in enumerate(order):
        group = column // size
        if not act_order and column % size == 0 and size == 4:  # fitted to what the weights have become
            grid = format.grid.fit(left[:, column : column + size].float())
        elif act_order or size == 12:
            grid = {name: value[:, group] for name, value in fixed.items()}
        code = format.grid.encode(left[:, [column]].float(), grid)
        assert torch.equal(code[:, 0], codes[:, column])
        change = format.grid.decode(code, grid)[:, 0].double() - left[:, column]
        left[:, column] += change
        rest = order[number + 1 :]
        if rest:  # the change of the rest that makes the smallest output error of all, by solving for it
            inside = hessian[rest][:, rest]
            left[:, rest] -= change[:, None] * torch.linalg.solve(inside, hessian[rest, column])


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_the_output_error_is_below_that_of_rounding_on_every_column_grid(name: str, act_order: bool) -> None:
    weight, inputs = weight_of(24, 128), inputs_of(128)
    format = formats.of(name)
    plain = format.pack(weight)
    packed = gptq(weight, [inputs], format, act_order=act_order)
    assert packed.size_bytes == plain.size_bytes
    assert packed.shape == weight.shape
    assert error(weight, packed.unpack(), inputs) < 0.95 * error(weight, plain.unpack(), inputs)
    rows = inputs.error(packed.unpack() - weight) <= inputs.error(plain.unpack() - weight) + 1e-9
    assert rows.all()


def test_experts_are_fitted_each_to_its_own_tokens_and_rounded_where_there_are_few() -> None:
    weight, format = weight_of(3, 8, 64), formats.of("int3")
    seen = [inputs_of(64, seed=1), inputs_of(64, tokens=20, seed=2), inputs_of(64, seed=3)]
    packed, plain = gptq(weight, seen, format).unpack(), format.pack(weight).unpack()
    assert torch.equal(packed[1], plain[1])
    for expert in (0, 2):
        assert error(weight[expert], packed[expert], seen[expert]) < error(weight[expert], plain[expert], seen[expert])
        alone = gptq(weight[expert], [seen[expert]], format).unpack()
        torch.testing.assert_close(packed[expert], alone)


def test_inputs_that_are_all_zero_and_columns_that_never_come_do_no_harm() -> None:
    weight, format = weight_of(8, 64), formats.of("int4")
    nothing = Activations(torch.zeros(64, 64), torch.zeros(64), 1000)
    assert torch.equal(gptq(weight, [nothing], format).unpack(), format.pack(weight).unpack())
    some = inputs_of(64)
    gram = some.gram.clone()
    gram[:32], gram[:, :32] = 0, 0
    packed = gptq(weight, [Activations(gram, some.mean_abs, some.tokens)], format).unpack()
    assert bool(packed.isfinite().all())
    assert float((packed - weight)[:, :32].abs().max()) <= float(weight.abs().max()) / 7


def test_scaled_columns_and_moved_offsets_lower_the_error_they_go_by() -> None:
    weight, format = weight_of(16, 64), formats.of("int3", symmetric=False)
    inputs = inputs_of(64)
    packed, factors = scaled(weight, [inputs], format)
    assert factors is not None
    assert factors.dtype is torch.float16
    plain = format.pack(weight).unpack()
    assert error(weight, packed.unpack() * factors.float(), inputs) < 0.97 * error(weight, plain, inputs)
    moved = half_quadratic(weight, format)
    assert isinstance(moved.format.grid, MinMax)
    minmax = formats.Format("int3", MinMax(3, torch.float16), 64).pack(weight).unpack()
    loss = [((each - weight).abs() ** 0.7).mean() for each in (moved.unpack(), minmax)]
    assert loss[0] < 0.97 * loss[1]


# whole models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("family", ["llama3", "gpt2", "mixtral", "gpt_oss", "jetmoe", "qwen2_moe", "falcon_grouped"])
def test_families_are_calibrated_and_nothing_is_shared_or_left_behind(family: str, method: str) -> None:
    lab = lab_of(family)
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    small = lk.quantization.quantize(lab, "int4", method=method, calibration=tokens(), progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lab.model.state_dict().items())
    assert not any(module._forward_pre_hooks for model in (lab.model, small.model) for module in model.modules())
    ours = {t.untyped_storage().data_ptr() for t in lab.model.state_dict().values()}
    assert not ours & {t.untyped_storage().data_ptr() for t in small.model.state_dict().values()}
    contents = lk.quantization.contents(small)
    plain = lk.quantization.quantize(lab, "int4", progress=False)
    assert lk.quantization.contents(plain).table["quantized"].sum() == contents.table["quantized"].sum()
    assert contents.method == method
    assert contents.size_bytes == small.memory().weight_bytes
    assert any("calibrated on 1," in note and "tokens in rows of" in note for note in small.notes)
    assert not torch.equal(*(each.trace(tokens()[0], keep="logits").logits for each in (small, plain)))


def test_every_layer_sees_what_the_quantized_layers_before_make_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of("llama3")
    seen: dict[int, Activations] = {}

    def spy(weight: torch.Tensor, inputs: Any, format: Any) -> Any:
        seen[len(seen)] = inputs[0]
        return gptq(weight, inputs, format)

    monkeypatch.setattr("labkit.quantization.methods.gptq", spy)
    small = lk.quantization.quantize(lab, "int2", method="gptq", calibration=tokens(), progress=False)
    rows = calibration.windows(lab, tokens())
    by_hand = torch.cat([small.trace(row, keep=("residual",)).residual(1) for row in rows])
    entered = small.model.model.layers[1].input_layernorm(by_hand)
    expected = entered.T @ entered / len(entered)
    torch.testing.assert_close(seen[7].gram, expected, rtol=1e-3, atol=1e-4)  # q_proj of layer 1
    assert seen[7].tokens == len(entered)


def test_on_a_real_model_gptq_is_better_on_text_it_was_not_calibrated_on() -> None:
    lab = lk.load("labkit-dense")
    train, held_out = lk.quantization.texts(6), lk.quantization.texts(1, skip=20)
    found: dict[str, float] = {}
    for method in ("rtn", "gptq", "hqq"):
        given = train if method == "gptq" else None
        small = lk.quantization.quantize(lab, "int3", method=method, calibration=given, progress=False)
        found[method] = _divergence(lab, small, [some[0] for some in held_out.values()])
    assert 0 < found["gptq"] < 0.7 * found["rtn"]
    assert found["hqq"] < found["rtn"]


def _divergence(lab: lk.Lab, small: lk.Lab, texts: list[str]) -> float:
    """Mean KL divergence from the original, nats a token."""
    parts = []
    for text in texts:
        ids = list(lab.tokenizer(text).input_ids)[:128]
        one, other = (each.trace(ids, keep="logits").logits.log_softmax(-1) for each in (lab, small))
        parts.append((one.exp() * (one - other)).sum(-1))
    return float(torch.cat(parts).mean())


def test_every_matrix_of_a_real_model_has_no_larger_output_error_than_rounded() -> None:
    lab = lk.load("labkit-dense")
    texts = lk.quantization.texts(2)
    for name, matrix in lk.quantization.matrices(lab).items():
        if matrix.layer == 2:
            seen = lk.quantization.activations(lab, name, texts)
            errors = [
                lk.quantization.matrix(lab, name, "int4", method=method, calibration=seen).output_error
                for method in ("rtn", "gptq", "awq")
            ]
            assert errors[0] is not None
            assert all(each is not None and 0 < each <= errors[0] for each in errors[1:])


def test_an_interrupt_leaves_the_original_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of("llama3")
    logits = lab.trace(tokens()[0], keep="logits").logits
    calls = iter(range(100))

    def stop(*arguments: Any) -> Any:
        if next(calls) == 9:  # in layer 1
            raise KeyboardInterrupt
        return gptq(*arguments)

    monkeypatch.setattr("labkit.quantization.methods.gptq", stop)
    with pytest.raises(KeyboardInterrupt):
        lk.quantization.quantize(lab, "int4", method="gptq", calibration=tokens(), progress=False)
    assert not any(module._forward_pre_hooks for module in lab.model.modules())
    assert torch.equal(lab.trace(tokens()[0], keep="logits").logits, logits)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "gptq"}, "needs text to go by"),
    ({"method": "gptq", "calibration": tokens(texts=3)}, "has 150 tokens, too few"),
    ({"method": "gptq", "calibration": "a text"}, "list of texts"),
    ({"method": "hqq", "symmetric": True}, "symmetric=False"),
    ({"method": "hqq", "format": "nf4"}, "its own rule"),
    ({"method": "awq", "format": "int8", "group_size": "tensor", "calibration": tokens()}, "give groups or channels"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_methods_and_settings_that_dont_go_together_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lk.quantization.quantize(lab_of("llama3"), **({"format": "int4", "progress": False} | arguments))


def test_grids_that_code_whole_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.quantization.integers.Absmax.by_column", False)
    with pytest.raises(BadInput, match="column by column"):
        lk.quantization.quantize(lab_of("llama3"), "int4", method="gptq", calibration=tokens())


def test_models_that_cant_be_given_rows_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing.running, "answers_in_lists", lambda _: quantizing.running.Lists(False, False))
    with pytest.raises(Unavailable, match="can't be calibrated"):
        lk.quantization.quantize(lab_of("llama3"), "int4", method="gptq", calibration=tokens())


# one matrix -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense() -> Iterator[lk.Lab]:
    return lab_of("mixtral")


def test_one_matrix_is_what_the_whole_model_would_have(dense: lk.Lab) -> None:
    name = "model.layers.1.mlp.experts.down_proj"
    one = lk.quantization.matrix(dense, name, "int4")
    small = lk.quantization.quantize(dense, "int4", progress=False)
    assert torch.equal(one.unpacked, lk.quantization.matrices(small)[name].weight)
    assert one.weight_error == pytest.approx(float((one.unpacked - one.weight).norm() / one.weight.norm()))
    assert one.output_error is None
    assert one.codes.shape == one.weight.shape == (4, 32, 48)
    assert torch.equal(one.error, one.unpacked - one.weight)
    assert one.format.group_size == 48
    assert one.bits_per_weight == pytest.approx(8 * one.size_bytes / one.weight.numel())


def test_one_matrix_tells_its_output_error_on_text(dense: lk.Lab) -> None:
    name = "model.layers.1.self_attn.q_proj"
    seen = lk.quantization.activations(dense, name, tokens())
    rows = calibration.windows(dense, tokens())
    entered = torch.cat([dense.trace(row, keep=("residual",)).residual(1) for row in rows])
    entered = dense.model.model.layers[1].input_layernorm(entered).detach()
    for method in ("rtn", "gptq"):
        one = lk.quantization.matrix(dense, name, "int3", method=method, calibration=seen)
        outputs, changed = entered @ one.weight.T, entered @ one.unpacked.T
        expected = float((changed - outputs).norm() / outputs.norm())
        assert one.output_error == pytest.approx(expected, rel=1e-3)
    again = lk.quantization.matrix(dense, name, "int3", method="gptq", calibration=tokens())
    assert again.output_error == pytest.approx(one.output_error)
    with pytest.raises(lk.BadInput, match="give those of this matrix"):
        lk.quantization.matrix(dense, "model.layers.1.mlp.experts.down_proj", "int3", calibration=seen)


MATRIX_BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "model.layers.1.self_attn.q_prj"}, "did you mean 'model.layers.1.self_attn.q_proj'"),
    ({"group_size": 24}, "rows of 32 can't be cut"),
    ({"method": "gptq"}, "needs text"),
    ({"calibration": inputs_of(5)}, "have 5 inputs"),
]


@pytest.mark.parametrize(("arguments", "said"), MATRIX_BAD, ids=[str(number) for number in range(len(MATRIX_BAD))])
def test_what_cant_be_asked_of_one_matrix_is_refused(dense: lk.Lab, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lk.quantization.matrix(dense, **({"name": "model.layers.1.self_attn.q_proj"} | arguments))
