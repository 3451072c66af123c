"""A lab written as a GGUF file: float or packed, its matrices in formats of their own, read back with equal values."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models import gguf_metadata, gguf_writing
from labkit.models.gguf_metadata import Piece
from labkit.models.gguf_writing import FileTensor
from labkit.models.resolve import say
from labkit.quantization import formats
from labkit.quantization.gguf_blocks import Q8Zero, TypeZero, gguf_bytes
from labkit.quantization.gguf_contents import contents_of_file
from labkit.quantization.grids import Format, Packed
from labkit.quantization.integers import Absmax
from labkit.quantization.inventory import Contents
from labkit.quantization.layers import PackedModule, PackedWeight, effective
from labkit.quantization.quantizing import Plan, module_name, planned
from labkit.quantization.weights import Matrix, matrices
from labkit.trace.building import is_quantized, refuse_adapters, refuse_odd_weights
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    import numpy as np

    from labkit.trace.lab_like import BuiltLab

_LOG = logging.getLogger("labkit")
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCK_FORMATS = tuple(name for name in formats.NAMES if name.startswith("q") or name == "mxfp4")
# formats of labkit whose values are those of a GGUF block with the same scale and shifted codes
_SAME_VALUES = {2: "q4_0", 3: "q4_0", 4: "q4_0", 5: "q5_0", 6: "q8_0", 8: "q8_0"}


def write_gguf(
    lab: BuiltLab,
    path: str | os.PathLike[str],
    format: str | Format | Mapping[str, str | Format | None] | None = None,
    *,
    head: str | Format | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Contents:
    """Write a lab as a GGUF file, which `lk.load(path)` opens with equal values and llama.cpp runs. Returns its contents.

    lab: of a family whose tensors are known by name and order: llama, mistral (without a
        window; read back as the Llama that it computes as), qwen2, qwen3, qwen3_moe.
    path: ends in .gguf.
    format: of the matrices of the layers: "q4_0", "q8_0", ..., "f16", "bf16", "f32", or a table {matrix: format} as
        `quantize` takes it and `mix` makes it. None writes what the lab holds: float tensors in their own type, what labkit
        packed in GGUF's blocks bit for bit, and other packed formats in blocks of the same values where there are any
        (symmetric integers in groups of 32, 64, ... with 16-bit scales) and in float32 where not, which is said.
    head: a format for the embedding and the output head; None leaves them as they are.
    name: of the model, as the file tells other programs (general.name), the lab's by default; a lab opened from the file
        is called after the file, and its notes tell this name.
    Rows that a format's blocks don't divide stay as they are: the contents say so. Norms and biases are written in float32.
    llama.cpp rounds activations to 8 bits where weights are quantized, so its probabilities are near those here, not equal.
    The file appears whole or not at all, and only once its settings and its vocabulary have been read back as they were.
    Raises Unavailable for a family, a setting or a tokenizer that a GGUF file can't hold here, and for a lab that another
        library quantized; BadInput for a format that GGUF doesn't have, or a path that is there already; NotEnoughDisk.
    """
    check_lab(lab)
    file = gguf_writing.checked_path(path, overwrite=overwrite)
    gguf_metadata.architecture_of(lab.config)
    refuse_adapters(lab, "written as GGUF")
    packed = any(isinstance(module, PackedModule) for module in lab.model.modules())
    if is_quantized(lab.model) and not packed:
        raise Unavailable(f"{lab.name} was quantized by another library; write the lab it was made of, with a format.")
    if not packed:
        refuse_odd_weights(lab, "written as GGUF")
    elif format is not None or head is not None:
        raise BadInput(f"{lab.name} is quantized already: write it with format=None, as it is, or write the original.")
    plan = _planned(lab, format, head)
    with lab.turn(), torch.no_grad():
        sources = _sources(lab, plan.formats)
        shapes = {name: tuple(source.shape) for name, source in sources.items()}
        pieces = list(gguf_metadata.pieces(lab.config, shapes))
        tensors: dict[FileTensor, Piece] = {}
        for piece in pieces:
            source = sources[piece.parameter]
            shape = source.shape if piece.rows is None else (*source.shape[:-2], len(piece.rows), source.shape[-1])
            tensors[FileTensor(piece.name, tuple(shape), source.ggml_type)] = piece
        _say_what_grew(lab, sources)

        def data() -> Iterator[np.ndarray]:
            for piece in tensors.values():
                yield sources[piece.parameter].rows(piece.rows)

        gguf_writing.write(
            file,
            tensors,
            data(),
            config=lab.config,
            tokenizer=lab.tokenizer,
            name=name or lab.name,
            licence=lab.licence,
        )
    _LOG.info("wrote %s as %s", lab.name, file)
    return _with_reasons(contents_of_file(file), plan, tensors)


def _with_reasons(found: Contents, plan: Plan, tensors: Mapping[FileTensor, Piece]) -> Contents:
    """Why a tensor stayed as it was, though a format was asked for."""
    reasons = {parameter_name(plan.matrices[name]): why for name, why in plan.kept.items()}
    why = {tensor.name: reasons.get(piece.parameter, "") for tensor, piece in tensors.items()}
    return dataclasses.replace(found, table=found.table.assign(why=found.table["module"].map(why)))


def parameter_name(matrix: Matrix) -> str:
    """The path of the parameter that a matrix is."""
    return f"{module_name(matrix)}.{matrix.parameter}"


def _planned(lab: BuiltLab, format: object, head: object) -> Plan:
    """Which matrix becomes what. A float type is a format of its name that fits rows of any length."""
    there = matrices(lab)
    table: dict[str, object] = {}
    if isinstance(format, Mapping):
        table = dict(format)
    elif format is not None:
        table = {each.name: format for each in there.values() if each.part == "layer"}
    if head is not None:
        table |= {each.name: head for each in there.values() if each.part != "layer"}
    return planned(lab, {pattern: _checked(wanted) for pattern, wanted in table.items()}) if table else Plan(there, {})


def _checked(wanted: object) -> Format | None:
    known = (*FLOATS, *BLOCK_FORMATS)
    name = wanted.name if isinstance(wanted, Format) else wanted
    if wanted is None:
        return None
    if name not in known:
        raise BadInput(
            f"format {checks.shown(name)} is none that GGUF has{checks.near(name, known)}; give one of {', '.join(known)}."
        )
    return Format(name, formats.of("int8").grid, "channel") if name in FLOATS else formats.of(name)


@dataclass(frozen=True)
class _Source:
    """A parameter of the model, and what it becomes in the file."""

    ggml_type: str
    shape: torch.Size
    values: torch.Tensor | None = None  # a float parameter, to be written as ggml_type or packed
    format: Format | None = None
    packed: PackedWeight | None = None

    def rows(self, which: torch.Tensor | None) -> np.ndarray:
        """What is written: float32, float16, or bytes."""
        if self.packed is not None:
            found = _in_blocks(self.packed)
            if found is not None:
                return _picked(found[1], which).cpu().contiguous().numpy()
            values = effective(self.packed.packed, self.packed.column_factors)
        else:
            assert self.values is not None
            values = self.values.detach()
        values = _picked(values, which).cpu()
        if self.format is not None:
            return gguf_bytes(self.format.pack(values.float())).contiguous().numpy()
        if self.ggml_type == "BF16":
            return values.bfloat16().contiguous().view(torch.uint8).numpy()
        written = values.to(FLOATS[self.ggml_type.lower()]).contiguous()
        if not written.isfinite().all():
            raise BadInput(
                f"A weight of shape {tuple(self.shape)} has values that {self.ggml_type} can't hold; write an undamaged model, "
                'or give format="f32".'
            )
        return written.numpy()


def _picked(values: torch.Tensor, which: torch.Tensor | None) -> torch.Tensor:
    return values if which is None else values.index_select(-2, which.to(values.device))


def _sources(lab: BuiltLab, kinds: Mapping[str, Format]) -> dict[str, _Source]:
    """By the name of a parameter; what is tied once, under its first name."""
    of_parameter: dict[str, Format] = {}
    for name, matrix in matrices(lab).items():
        if name in kinds:
            of_parameter[parameter_name(matrix)] = kinds[name]
    found: dict[str, _Source] = {}
    seen: set[int] = set()
    for path, module in lab.model.named_modules():
        if isinstance(module, PackedWeight):
            continue
        own = {f"{path}.{name}": value for name, value in module.named_parameters(recurse=False)}
        for name, value in own.items():
            if id(value) not in seen:
                found[name] = _from_float(value, of_parameter.get(name))
                seen.add(id(value))
        if isinstance(module, PackedModule):
            for parameter in module.packed_parameters:
                weight = module.packed_weight(parameter)
                if id(weight) not in seen:
                    blocks = _in_blocks(weight)
                    kind = blocks[0] if blocks is not None else "F32"
                    found[f"{path}.{parameter}"] = _Source(kind, weight.packed.shape, packed=weight)
                    seen.add(id(weight))
    return found


def _from_float(value: torch.Tensor, kind: Format | None) -> _Source:
    if kind is not None:
        return _Source(kind.name.upper(), value.shape, value, None if kind.name in FLOATS else kind)
    if value.dim() < 2:
        return _Source("F32", value.shape, value)
    own = next((name for name, dtype in FLOATS.items() if dtype == value.dtype), "f32")
    return _Source(own.upper(), value.shape, value)


def _in_blocks(weight: PackedWeight) -> tuple[str, torch.Tensor] | None:
    """(GGUF's type, the bytes of each row) where blocks of GGUF hold exactly these values; else None."""
    if weight.column_factors is not None:  # blocks have no place for it
        return None
    packed = weight.packed
    if packed.format.name in BLOCK_FORMATS and "blocks" in packed.stored:
        return packed.format.name.upper(), gguf_bytes(packed)
    grid, columns = packed.format.grid, packed.shape[-1]
    size = packed.format.size(columns, packed.shape.numel() // columns)
    if not isinstance(grid, Absmax) or size % 32 or columns % 32 or grid.bits not in _SAME_VALUES:
        return None
    codes, parameters = packed.codes()
    scale = parameters["scale"]
    if not torch.equal(scale.half().float(), scale):
        return None
    target = formats.of(_SAME_VALUES[grid.bits])
    middle = 127 if isinstance(target.grid, Q8Zero) else target.grid.middle if isinstance(target.grid, TypeZero) else 0
    shifted = (codes.short() - grid.largest + middle).to(torch.uint8).view(-1, 32)
    blocks = {"scale": scale.repeat_interleave(size // 32, 0)}
    same = Packed(target, packed.shape, target.grid.store(shifted, blocks))
    return target.name.upper(), gguf_bytes(same)


def _say_what_grew(lab: BuiltLab, sources: Mapping[str, _Source]) -> None:
    grown = [source for source in sources.values() if source.packed is not None and source.ggml_type == "F32"]
    if grown:
        names = checks.listed(dict.fromkeys(source.packed.format.name for source in grown if source.packed is not None))
        say(
            f"{lab.name}: GGUF has no blocks that hold the values of {names}, so {len(grown)} tensors are written in "
            "float32: their values are kept, their bytes are not saved."
        )
