"""What each grid's docstring states: how far a weight may move, whether zero is exact, whether quantizing again changes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import BadInput
from labkit.quantization import formats
from labkit.quantization.grids import Blocks, Format, Grid, Parameters
from labkit.quantization.integers import Absmax, MinMax, ZeroPoint
from labkit.quantization.normal_float import NF4, normal_levels
from labkit.quantization.packing import pack_bits, pack_trits, unpack_bits, unpack_trits

KINDS = ("normal", "heavy", "whole", "sparse", "outlier", "constant", "zeros", "positive", "group of zeros")
FULL_FLOAT16 = 6.2e-5  # smaller numbers have fewer bits in float16
SLACK = 1e-5  # of float32 arithmetic, in steps

INTEGERS = [Absmax(bits) for bits in (2, 3, 4, 5, 6, 8)] + [ZeroPoint(bits) for bits in (2, 3, 4, 8)]
NEAREST = [*INTEGERS, MinMax(3), MinMax(4), NF4(double=False)]
NEAREST += [formats.of(name).grid for name in ("fp8_e4m3", "fp8_e5m2", "mxfp4", "ternary")]
ZERO_IS_EXACT = [name for name in formats.NAMES if name not in ("q4_1", "q5_1", "q4_k")]
IDEMPOTENT = ["int8", "int4", "int2", "nf4_single", "fp8_e4m3", "fp8_e5m2", "mxfp4", "q4_0", "q5_0", "q8_0"]


def names(grid: object) -> str:
    return str(grid)


@st.composite
def weights(draw: st.DrawFn, columns: int = 256, rows: int = 3) -> torch.Tensor:
    """A matrix of some kind and magnitude."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    magnitude = 10.0 ** draw(st.integers(-3, 2))
    normal = torch.randn(rows, columns, generator=generator)
    kind = draw(st.sampled_from(KINDS))
    made = {
        "normal": normal,
        "heavy": normal / torch.randn(rows, columns, generator=generator).abs().clamp(min=1e-2),
        "whole": normal.mul(4).round(),
        "sparse": torch.where(normal > 1.5, normal, 0.0),
        "outlier": torch.where(torch.arange(columns) == 7, 300.0, normal),
        "constant": normal[:, :1].expand(-1, columns),
        "zeros": torch.zeros(rows, columns),
        "positive": normal.abs() + 1,
        "group of zeros": torch.where(torch.arange(columns) < columns // 2, 0.0, normal),
    }
    return (made[kind] * magnitude).contiguous()


def rounded(grid: Grid, blocks: Blocks) -> tuple[Blocks, Parameters]:
    parameters = grid.fit(blocks)
    return grid.decode(grid.encode(blocks, parameters), parameters), parameters


# how far a weight moves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", NEAREST, ids=names)
@given(blocks=weights(64))
@settings(max_examples=25)
def test_a_weight_goes_to_the_nearest_value_of_its_group(grid: Grid, blocks: Blocks) -> None:
    values, parameters = rounded(grid, blocks)
    for group, (before, after) in enumerate(zip(blocks, values, strict=True)):
        levels = grid.levels(parameters, group)
        nearest = (before[:, None] - levels).abs().min(1).values
        assert (levels.diff() > 0).all()
        assert torch.isin(after, levels).all()
        torch.testing.assert_close((before - after).abs(), nearest, rtol=1e-4, atol=SLACK * float(levels.abs().max()))


@pytest.mark.parametrize("grid", [*INTEGERS, MinMax(4)], ids=names)
@given(blocks=weights(64))
@settings(max_examples=25)
def test_integers_move_a_weight_by_half_a_step_at_most(grid: Grid, blocks: Blocks) -> None:
    values, parameters = rounded(grid, blocks)
    slack = 1e-6 * blocks.abs().amax(1, keepdim=True)
    assert ((values - blocks).abs() <= 0.5 * parameters["scale"] * (1 + SLACK) + slack).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(blocks=weights(64))
@settings(max_examples=25)
def test_a_float16_scale_keeps_the_half_step(bits: int, blocks: Blocks) -> None:
    values, parameters = rounded(Absmax(bits, torch.float16), blocks)
    moved = (values - blocks).abs()
    assert torch.where(parameters["scale"] > FULL_FLOAT16, moved <= parameters["scale"] * (0.5 + 1e-3), True).all()


@given(blocks=weights(64))
@settings(max_examples=25)
def test_nf4_moves_a_weight_by_the_stated_share_of_its_largest(blocks: Blocks) -> None:
    values, parameters = rounded(NF4(double=False), blocks)
    assert float(normal_levels().diff().max() / 2) == pytest.approx(0.152, abs=5e-4)
    assert ((values - blocks).abs() <= 0.15191 * parameters["absmax"]).all()
    largest = blocks.abs() == blocks.abs().amax(1, keepdim=True)
    assert torch.equal(values[largest], blocks[largest])


@pytest.mark.parametrize(("name", "mantissa", "smallest"), [("fp8_e4m3", 3, 2.0**-9), ("fp8_e5m2", 2, 2.0**-16)])
@given(blocks=weights(64))
@settings(max_examples=25)
def test_fp8_moves_a_weight_by_a_share_of_itself(name: str, mantissa: int, smallest: float, blocks: Blocks) -> None:
    values, parameters = rounded(formats.of(name).grid, blocks)
    allowed = torch.maximum(blocks.abs() * 2.0 ** -(mantissa + 1), smallest / 2 * parameters["scale"])
    assert ((values - blocks).abs() <= allowed * (1 + 1e-4)).all()


@given(blocks=weights(32))
@settings(max_examples=25)
def test_mxfp4_cuts_the_largest_by_a_quarter_at_most(blocks: Blocks) -> None:
    grid = formats.of("mxfp4").grid
    values, parameters = rounded(grid, blocks)
    unit = torch.exp2(parameters["exponent"].float() - 127)
    cut = blocks.abs() > 6 * unit
    assert torch.equal(values[cut].abs(), (6 * unit).expand_as(values)[cut])
    assert ((values - blocks).abs() <= torch.maximum(blocks.abs(), unit) * 0.2501).all()


@given(blocks=weights(64))
@settings(max_examples=25)
def test_ternary_moves_by_half_a_scale_what_it_does_not_cut(blocks: Blocks) -> None:
    values, parameters = rounded(formats.of("ternary").grid, blocks)
    within = blocks.abs() <= 1.5 * parameters["scale"]
    assert ((values - blocks).abs() <= 0.5 * parameters["scale"] * (1 + SLACK))[within].all()
    assert values.unique().numel() <= 3 * len(blocks)


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0", "q4_1", "q5_1"])
@given(blocks=weights(32))
@settings(max_examples=25)
def test_gguf_blocks_move_a_weight_as_stated(name: str, blocks: Blocks) -> None:
    grid = formats.of(name).grid
    values, parameters = rounded(grid, blocks)
    exact = torch.where(parameters["inverse"] != 0, 1 / parameters["inverse"], 0)
    steps = torch.full_like(blocks, 0.5)
    if name in ("q4_0", "q5_0"):  # the other sign's end is a step short
        steps[blocks.sign() == exact.sign()] = 1.0
    lost = (exact - parameters["scale"]).abs() * 2**grid.bits  # what float16 takes from scale and minimum
    lost = lost + (parameters.get("exact_minimum", exact) - parameters.get("minimum", exact)).abs()
    slack = 1e-6 * blocks.abs().amax(1, keepdim=True)
    assert ((values - blocks).abs() <= steps * exact.abs() * (1 + 1e-4) + lost + slack).all()


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
@given(blocks=weights(256))
@settings(max_examples=25)
def test_k_quants_move_what_lies_in_a_sub_blocks_range_by_half_a_step(name: str, blocks: Blocks) -> None:
    grid = formats.of(name).grid
    parameters = grid.fit(blocks)
    codes = grid.encode(blocks, parameters)
    values = grid.decode(codes, parameters)
    step = (grid.decode(codes * 0 + 1, parameters) - grid.decode(codes * 0, parameters)).abs()
    inside = (codes > 0) & (codes < grid.code_count - 1)
    assert ((values - blocks).abs() <= step * (0.5 + 1e-3))[inside].all()
    levels = grid.levels(parameters, 1)
    assert torch.isin(values[1], levels).all()


# zero, and quantizing again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZERO_IS_EXACT)
@given(weight=weights())
@settings(max_examples=10)
def test_zero_stays_zero(name: str, weight: torch.Tensor) -> None:
    weight = torch.where(torch.arange(256) % 5 == 0, 0.0, weight)
    assert (formats.of(name).pack(weight).unpack()[weight == 0] == 0).all()


@given(weight=weights())
@settings(max_examples=10)
def test_zero_stays_zero_with_a_zero_point(weight: torch.Tensor) -> None:
    weight = torch.where(torch.arange(256) % 5 == 0, 0.0, weight + 1)
    assert (formats.of("int4", symmetric=False).pack(weight).unpack()[weight == 0] == 0).all()


@pytest.mark.parametrize("name", formats.NAMES)
def test_zeros_stay_zeros(name: str) -> None:
    packed = formats.of(name).pack(torch.zeros(4, 256))
    assert (packed.unpack() == 0).all()


@pytest.mark.parametrize("name", IDEMPOTENT)
@given(weight=weights())
@settings(max_examples=25)
def test_quantizing_again_changes_nothing(name: str, weight: torch.Tensor) -> None:
    format = formats.of(name)
    kinds = [format]
    if isinstance(format.grid, Absmax):
        kinds = [
            replace(format, grid=replace(format.grid, scale_dtype=each)) for each in (torch.float16, torch.float32)
        ]
    for each in kinds:
        packed = each.pack(weight)
        once = packed.unpack()
        again = each.blocks(each.pack(once).unpack())
        if isinstance(each.grid, Absmax) and each.grid.scale_dtype == torch.float16:
            full = (packed.stored["scale"] == 0) | (packed.stored["scale"] > FULL_FLOAT16)
            again = torch.where(full, again, each.blocks(once))
        assert torch.equal(again, each.blocks(once))


def test_ternary_and_double_quantization_are_not_idempotent() -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    for name in ("ternary", "nf4"):
        once = formats.of(name).pack(weight).unpack()
        assert not torch.equal(formats.of(name).pack(once).unpack(), once)


# groups that are no ordinary ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", formats.NAMES)
@pytest.mark.parametrize("value", [0.37, -2.0, 0.01])
def test_a_constant_group(name: str, value: float) -> None:
    values = formats.of(name).pack(torch.full((2, 256), value)).unpack()
    assert values.isfinite().all()
    assert ((values / value - 1).abs() < 0.26).all()  # MXFP4 cuts up to a quarter
    if name not in ("mxfp4", "fp8_e4m3", "fp8_e5m2"):
        assert ((values / value - 1).abs() < 0.01).all()


def test_one_outlier_costs_its_own_group_alone() -> None:
    weight = 0.01 * torch.randn(1, 256, generator=torch.Generator().manual_seed(1))
    weight[0, 3] = 100.0
    for name in ("int4", "nf4_single", "q4_0", "q4_1", "mxfp4"):
        format = formats.of(name) if name != "int4" else formats.of(name, group_size=32)
        values = format.pack(weight).unpack()
        size = int(format.group_size)
        assert values[0, 3] == pytest.approx(100, rel=0.3)
        assert values[0, :size].unique().numel() <= 2
        assert values[0, size:].unique().numel() > 12


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", formats.NAMES)
def test_damaged_weights_are_refused_by_name(name: str, value: float) -> None:
    weight = torch.ones(2, 256)
    weight[1, 5] = value
    with pytest.raises(BadInput, match=r"^layers\.0\.q_proj holds NaN or infinite weights, .*\.$"):
        formats.of(name).pack(weight, "layers.0.q_proj")


@pytest.mark.parametrize(("name", "columns"), [("int4", 96), ("nf4", 100), ("q4_0", 48), ("mxfp4", 16), ("q6_k", 576)])
def test_rows_that_groups_do_not_divide_are_refused(name: str, columns: int) -> None:
    format = formats.of(name)
    assert not format.fits((3, columns))
    with pytest.raises(BadInput, match=rf"shape \(3, {columns}\).*groups of {format.group_size}"):
        format.pack(torch.ones(3, columns))
    assert format.fits((3, 768))


def test_nothing_and_a_single_number_have_no_groups() -> None:
    for shape in ((0, 64), (4, 0), ()):
        assert not formats.of("int8").fits(shape)
        with pytest.raises(BadInput, match="can't be cut"):
            formats.of("int8").pack(torch.zeros(shape))


@pytest.mark.parametrize("name", ["int8", "q4_0", "q4_1", "q8_0", "q6_k", "q4_k"])
def test_a_scale_too_large_for_float16_is_refused_and_float32_takes_it(name: str) -> None:
    weight = torch.linspace(-1e9, 1e9, 256)[None]
    format = formats.of("int8", group_size=64) if name == "int8" else formats.of(name)
    with pytest.raises(BadInput, match="which float16 can't hold"):
        format.pack(weight)
    wide = formats.of("int8", group_size=64, scale_dtype=torch.float32).pack(weight)
    torch.testing.assert_close(wide.unpack(), weight, rtol=0, atol=1e9 / 250)


# stored and read back -------------------------------------------------------------------------------------------------

BITS = {"int8": 8 + 32 / 256, "int4": 4.25, "int3": 3.25, "nf4_single": 4.5, "fp8_e4m3": 8.125, "mxfp4": 4.25}
BITS |= {"q4_0": 4.5, "q4_1": 5, "q5_0": 5.5, "q5_1": 6, "q8_0": 8.5, "q4_k": 4.5, "q6_k": 6.5625}


@pytest.mark.parametrize("name", formats.NAMES)
@given(weight=weights())
@settings(max_examples=8)
def test_what_is_stored_is_read_back(name: str, weight: torch.Tensor) -> None:
    format = formats.of(name)
    check_stored(format, weight)
    if name in BITS:
        assert format.pack(weight).bits_per_weight == pytest.approx(BITS[name])


@given(weight=weights(), bits=st.sampled_from([2, 3, 4, 5, 6, 8]))
@settings(max_examples=12)
def test_what_is_stored_with_a_zero_is_read_back(weight: torch.Tensor, bits: int) -> None:
    check_stored(formats.of(f"int{bits}", symmetric=False), weight)
    check_stored(Format("float zero", MinMax(bits, torch.bfloat16), 32), weight)


def check_stored(format: Format, weight: torch.Tensor) -> None:
    blocks = format.blocks(weight)
    parameters = format.grid.fit(blocks)
    codes = format.grid.encode(blocks, parameters)
    packed = format.pack(weight)
    assert torch.equal(packed.codes()[0], codes)
    assert torch.equal(packed.unpack(), format.grid.decode(codes, parameters).view_as(weight))
    assert int(codes.max()) < 2**format.grid.bits
    again = format.packed(*packed.codes(), packed.shape)
    assert all(torch.equal(tensor, again.stored[key]) for key, tensor in packed.stored.items())


@pytest.mark.parametrize("name", formats.NAMES)
def test_a_single_column_has_the_codes_it_has_in_its_group(name: str) -> None:
    format = formats.of(name)
    blocks = format.blocks(torch.randn(6, 256, generator=torch.Generator().manual_seed(2)))
    parameters = format.grid.fit(blocks)
    codes = format.grid.encode(blocks, parameters)
    assert format.grid.by_column == (name not in ("q4_k", "q6_k"))
    if not format.grid.by_column:
        return
    column = format.grid.encode(blocks[:, 5:6], parameters)
    assert torch.equal(column, codes[:, 5:6])
    assert torch.equal(format.grid.decode(column, parameters), format.grid.decode(codes, parameters)[:, 5:6])


@pytest.mark.parametrize("name", formats.NAMES)
def test_groups_are_fitted_alone_where_the_grid_says_so(name: str) -> None:
    grid = formats.of(name).grid
    blocks = torch.randn(6, 256, generator=torch.Generator().manual_seed(3)) * torch.arange(1, 7)[:, None]
    whole, part = grid.fit(blocks), grid.fit(blocks[:2])
    alone = all(torch.equal(whole[key][:2], each) for key, each in part.items())
    assert alone == grid.independent == (name != "nf4")


def test_several_matrices_of_one_shape_are_packed_together() -> None:
    experts = torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(4))
    for name in ("int4", "int8", "nf4_single", "q8_0", "fp8_e4m3"):
        together = formats.of(name).pack(experts).unpack()
        assert torch.equal(together[1], formats.of(name).pack(experts[1]).unpack())


@given(st.lists(st.integers(0, 255), max_size=40), st.integers(1, 8))
def test_codes_are_packed_into_the_bytes_they_need(codes: list[int], bits: int) -> None:
    wanted = torch.tensor([code % 2**bits for code in codes], dtype=torch.uint8)
    packed = pack_bits(wanted, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, len(codes)), wanted)
    trits = wanted % 3
    assert len(pack_trits(trits)) == -(-len(codes) // 5)
    assert torch.equal(unpack_trits(pack_trits(trits), len(codes)), trits)
