"""Each grid gives what a library gives on the same tensor."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from labkit.quantization import formats
from labkit.quantization.gguf_blocks import gguf_bytes
from labkit.quantization.grids import Format
from labkit.quantization.integers import Absmax, ZeroPoint

Quantize = Callable[[torch.Tensor, GGMLQuantizationType], np.ndarray]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(24, 768, generator=generator)
    powers = 2.0 ** torch.randint(-14, 9, (24, 768), generator=generator).float()
    return {
        "as weights are": 0.05 * normal,
        "in half precision": normal.half().float(),
        "heavy tails": 0.02 * normal / torch.rand(24, 768, generator=generator).clamp(min=0.02),
        "whole numbers": normal.mul(4).round(),
        "powers of two": powers * normal.sign(),
        "just below powers of two": torch.nextafter(powers, torch.zeros(())),
        "rows of many sizes": normal * torch.logspace(-7, 3, 24)[:, None],
        "groups of zeros": torch.where(torch.arange(768) % 128 < 64, 0.0, normal),
    }


TENSORS = tensors()
every_tensor = pytest.mark.parametrize("weight", TENSORS.values(), ids=TENSORS)


# integers -------------------------------------------------------------------------------------------------------------


@every_tensor
@pytest.mark.parametrize("bits", [4, 8])
def test_integers_equal_torchs_fake_quantization(weight: torch.Tensor, bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    for grid, low, high in ((Absmax(bits), -largest, largest), (ZeroPoint(bits), 0, 2**bits - 1)):
        packed = Format("test", grid, "channel").pack(weight)
        parameters = packed.codes()[1]
        scale, zero = parameters["scale"][:, 0], parameters.get("zero", torch.zeros(24, 1))[:, 0].int()
        assert torch.equal(torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, low, high), packed.unpack())
        whole = Format("test", grid, "tensor").pack(weight)
        parameters = whole.codes()[1]
        scale, zero = parameters["scale"][0], parameters.get("zero", torch.zeros(1, 1))[0].int()
        theirs = torch.fake_quantize_per_tensor_affine(weight, scale, zero, low, high)
        tie = ((weight / scale).frac().abs() - 0.5).abs() < 1e-4  # by tensor torch adds the zero before it rounds
        assert torch.equal(theirs[~tie], whole.unpack()[~tie])
        assert torch.equal(theirs, whole.unpack()) or isinstance(grid, ZeroPoint)


TORCHAO = """
import torch
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

given, found = torch.load(input()), {}
for name, weight in given.items():
    block = (1, weight.shape[1])
    limits = {"quant_min": -127, "quant_max": 127}
    scale, zero = choose_qparams_affine(weight, MappingType.SYMMETRIC, block, torch.int8, eps=1e-30, **limits)
    found[name] = scale, quantize_affine(weight, block, scale, zero, torch.int8, **limits)
torch.save(found, input())
"""


def test_int8_equals_torchaos_symmetric_quantization(tmp_path: Path) -> None:
    apart = Path(sys.prefix, "torchao")  # a process that imports it has transformers print what it could not load
    if not apart.is_dir():
        pytest.skip("torchao is not installed beside this environment")
    torch.save(TENSORS, tmp_path / "given")
    subprocess.run(
        [sys.executable, "-c", TORCHAO],
        input=f"{tmp_path / 'given'}\n{tmp_path / 'found'}\n",
        env=os.environ | {"PYTHONPATH": str(apart)},
        text=True,
        check=True,
    )
    for name, (scale, codes) in torch.load(tmp_path / "found").items():
        ours, parameters = Format("test", Absmax(8), "channel").pack(TENSORS[name]).codes()
        assert torch.equal(parameters["scale"][:, 0], scale)
        assert torch.equal(ours.short() - 127, codes.short())


# NF4 ------------------------------------------------------------------------------------------------------------------


@every_tensor
@pytest.mark.parametrize("size", [64, 128])
def test_nf4_equals_bitsandbytes(weight: torch.Tensor, size: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(weight, blocksize=size, quant_type="nf4")
    packed = formats.of("nf4_single", group_size=size).pack(weight)
    assert torch.equal(packed.stored["codes"], codes[:, 0])
    assert torch.equal(packed.stored["absmax"][:, 0], state.absmax)
    assert torch.equal(packed.unpack(), functional.dequantize_4bit(codes, state))


@every_tensor
@pytest.mark.parametrize("size", [64, 128])
def test_nf4_with_double_quantization_equals_bitsandbytes(weight: torch.Tensor, size: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(weight, blocksize=size, compress_statistics=True, quant_type="nf4")
    packed = formats.of("nf4", group_size=size).pack(weight)
    stored = packed.stored
    assert torch.equal(stored["codes"], codes[:, 0])
    assert torch.equal(stored["nested_absmax"][:, 0], state.state2.absmax)
    assert torch.equal(stored["offset"][0, 0], state.offset)
    centred = formats.of("nf4_single", group_size=size).pack(weight).stored["absmax"][:, 0] - state.offset
    # the kernel for float32 looks scales up at 16 bits; that for float64 compares with every value
    plain, _ = torch.ops.bitsandbytes.quantize_blockwise(centred.double(), state.state2.code, 256)
    assert torch.equal(stored["absmax"][:, 0], plain)
    nested = state.state2.absmax.repeat_interleave(256)[: len(centred)]
    off = (plain != state.absmax) & (nested > 0)
    levels = state.state2.code
    theirs, ours = levels[state.absmax.long()], levels[plain.long()]
    middle = (theirs + ours) / 2
    assert off.float().mean() < 0.1
    assert ((centred / nested - middle)[off].abs() < 2**-15).all()
    state.absmax = plain
    assert torch.equal(packed.unpack(), functional.dequantize_4bit(codes, state))


# GGUF -----------------------------------------------------------------------------------------------------------------


@every_tensor
@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"])
def test_bytes_equal_those_of_the_gguf_package(name: str, weight: torch.Tensor) -> None:
    kind = GGMLQuantizationType[name.upper()]
    packed = formats.of(name).pack(weight)
    theirs = quants.quantize(weight.numpy(), kind)
    assert np.array_equal(gguf_bytes(packed).numpy(), theirs)
    assert np.array_equal(packed.unpack().numpy(), quants.dequantize(theirs, kind))


@every_tensor
@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_k_quants_are_read_as_the_gguf_package_reads_them(name: str, weight: torch.Tensor) -> None:
    kind = GGMLQuantizationType[name.upper()]
    packed = formats.of(name).pack(weight)
    stored = gguf_bytes(packed).numpy()
    assert stored.shape == (24, 768 // 256 * GGML_QUANT_SIZES[kind][1])
    assert np.array_equal(packed.unpack().numpy(), quants.dequantize(stored, kind))


@pytest.fixture(scope="module")
def ggml() -> Quantize:
    """ggml's own `ggml_quantize_chunk`, out of the library that xllamacpp brings."""
    package = pytest.importorskip("xllamacpp")
    libraries = list(Path(package.__file__).parent.glob("*.so"))
    library = ctypes.CDLL(str(libraries[0])) if libraries else None
    if not hasattr(library, "ggml_quantize_chunk"):
        pytest.skip("this xllamacpp does not show ggml_quantize_chunk")
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(weight: torch.Tensor, kind: GGMLQuantizationType) -> np.ndarray:
        rows, columns = weight.shape
        block, size = GGML_QUANT_SIZES[kind]
        given = np.ascontiguousarray(weight.numpy())
        found = np.zeros((rows, columns // block * size), np.uint8)
        assert function(int(kind), given.ctypes.data, found.ctypes.data, 0, rows, columns, None) == found.nbytes
        return found

    return quantize


@every_tensor
@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_k_quants_are_those_of_ggml(name: str, weight: torch.Tensor, ggml: Quantize) -> None:
    kind = GGMLQuantizationType[name.upper()]
    packed = formats.of(name).pack(weight)
    theirs = ggml(weight, kind)
    values = torch.from_numpy(quants.dequantize(theirs, kind))
    same = (packed.unpack() == values).view(24, 3, 256).all(2)
    assert same.float().mean() > 0.85  # sums in another order decide otherwise between candidates equally good
    error, reference = (packed.unpack() - weight).norm(), (values - weight).norm()
    assert error == pytest.approx(float(reference), rel=2e-3)


@every_tensor
@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q8_0"])
def test_bytes_equal_those_of_ggml(name: str, weight: torch.Tensor, ggml: Quantize) -> None:
    theirs = ggml(weight, GGMLQuantizationType[name.upper()])
    assert (gguf_bytes(formats.of(name).pack(weight)).numpy() != theirs).mean() < 1e-3  # fused operations in C


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_k_quants_read_what_ggml_wrote(name: str, ggml: Quantize) -> None:
    kind = GGMLQuantizationType[name.upper()]
    theirs = ggml(TENSORS["heavy tails"], kind)
    grid = formats.of(name).grid
    codes, parameters = grid.restore({"blocks": torch.from_numpy(theirs).view(72, -1)}, 72, 256)
    assert np.array_equal(grid.decode(codes, parameters).view(24, 768).numpy(), quants.dequantize(theirs, kind))
    assert torch.equal(grid.encode(TENSORS["heavy tails"].view(72, 256), parameters), codes)


# floats and ternary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_fp8_equals_torchs_cast(name: str, dtype: torch.dtype) -> None:
    grid, one = formats.of(name).grid, {"scale": torch.ones(1, 1)}
    every = torch.arange(256, dtype=torch.uint8)
    floats = every.view(dtype).float()
    every, floats = every[floats.isfinite()], floats[floats.isfinite()]
    assert torch.equal(grid.decode(every[None], one)[0], floats)
    assert torch.equal(grid.encode(floats[None], one)[0], every)
    assert torch.equal(grid.levels(one), floats.unique())
    middles = (floats.unique()[1:] + floats.unique()[:-1]) / 2
    spread = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-7, 2, 20_000)
    largest = float(floats.max())
    values = torch.cat([middles, middles * (1 + 1e-6), middles * (1 - 1e-6), spread]).clamp(-largest, largest)
    assert torch.equal(grid.encode(values[None], one)[0], values.to(dtype).view(torch.uint8))


@every_tensor
def test_ternary_equals_transformers(weight: torch.Tensor) -> None:
    from transformers.integrations.bitnet import WeightQuant

    packed = formats.of("ternary").pack(weight)
    theirs = WeightQuant.apply(weight)
    scale = packed.stored["scale"]
    tie = ((weight / scale).abs() - 0.5).abs() < 1e-5
    assert torch.equal((theirs / scale).round()[~tie], (packed.unpack() / scale)[~tie])
    torch.testing.assert_close(packed.unpack()[~tie], theirs[~tie], rtol=1e-5, atol=0)
