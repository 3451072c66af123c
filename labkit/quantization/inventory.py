"""What a model really holds: each weight with the type and the bytes it is stored in, and why some are as they were.

Names of formats promise little: files called alike differ in which tensors they leave in 16 bits, and a library may leave
a part alone without a word, such as the fused experts of a mixture. So everything here is read off the tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit import checks
from labkit.errors import Unavailable
from labkit.models.convert import opened_from
from labkit.models.memory import human_bytes, own_state, plain_tensors, tensor_identity
from labkit.quantization.layers import PackedModule, PackedWeight
from labkit.quantization.torch_products import PackedProduct
from labkit.quantization.weights import Matrix, matrices
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab
from labkit.trace.overlaps import Seen

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

COLUMNS = ("module", "layer", "matrix", "type", "weights", "bytes", "bits_per_weight", "quantized", "why")
FEW = 0.05  # of the weights of the layers; with more of them unquantized, there is a warning


@dataclass(frozen=True)
class Record:
    """What `quantize` did, kept with the model it made.

    method: such as "rtn".  formats: the name of each packed matrix's format.  kept: why a matrix that was asked for stayed
    as it is.  remarks: by matrix, what else is to be said of it, such as a method that fell back to another.
    seen: the texts that codes or formats were chosen by, each with what was done on it, such as "was calibrated on".
    """

    method: str
    formats: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    seen: tuple[tuple[str, Seen], ...] = ()


def put_record(model: PreTrainedModel, record: Record) -> None:
    """Keep with a model what `quantize` did to it. It can't be saved as a transformers folder any more."""
    model.labkit_quantization = record  # type: ignore[assignment]
    model.save_pretrained = refuse_saving  # type: ignore[method-assign]


def refuse_saving(*_args: object, **_named: object) -> None:
    """In place of `save_pretrained`: transformers would write files that it can't read back."""
    raise Unavailable(
        "A model that labkit quantized can't be saved with save_pretrained, since transformers knows no such format; write "
        "it as a GGUF file, or save the original and quantize it again."
    )


def record_of(lab: LabLike) -> Record | None:
    """What `quantize` did to a lab's model; None for a model that it did not make."""
    found = getattr(running.language_model(lab.model), "labkit_quantization", None)
    return found if isinstance(found, Record) else None


@dataclass(frozen=True, eq=False, repr=False)
class Contents(Result):
    """Each stored weight of a model; `contents` tells the columns of its table.

    size_bytes: of all weights, tied ones once.  share_quantized: of all weights, those stored in fewer bits than 16.
    bits_per_weight: on average, with scales.  method: how `quantize` made it; None where something else did.
    warnings: where a setting did nothing, or not what its name says.  model: its name.
    """

    size_bytes: int
    share_quantized: float
    bits_per_weight: float
    method: str | None
    warnings: tuple[str, ...]
    model: str

    def _title(self) -> str:
        how = f" by {self.method}" if self.method else ""
        return (
            f"{self.model}: {human_bytes(self.size_bytes)}, {self.bits_per_weight:.3g} bits a weight, "
            f"{self.share_quantized:.1%} of the weights quantized{how}"
        )

    def _remarks(self) -> Sequence[str]:
        return tuple(f"WARNING: {each}" for each in self.warnings)


def contents(lab: LabLike | str | os.PathLike[str]) -> Contents:
    """What a lab's weights are really stored in, read off the tensors: whatever quantized it, or nothing.

    lab: or the path of a GGUF file, whose header tells type and bytes of each tensor; module is then its name in the file.

    Returns a row for each weight: module, its name; layer; matrix (as `matrices` calls it, "" for what is none); type, such
    as "int4, groups of 64", "bfloat16", or what another library stores; weights, how many; bytes, with scales and all else
    that belongs to it (0 where it is tied to a row above); bits_per_weight; quantized; why (for a matrix that was asked
    for and is as it was, or was packed otherwise than asked).
    """
    import pandas as pd

    if isinstance(lab, str | os.PathLike):
        from labkit.quantization.gguf_contents import contents_of_file

        return contents_of_file(lab)
    check_lab(lab)
    record = record_of(lab)
    known = {(id(each.module), each.parameter): each for each in matrices(lab).values()}
    layer_of: dict[int, int] = {}
    for index, layer in enumerate(lab.anatomy.layers):
        for part in layer.module.modules():
            layer_of.setdefault(id(part), index)
    seen: dict[tuple[object, ...], str] = {}
    rows: list[dict[str, object]] = []
    for name, module in running.language_model(lab.model).named_modules():
        for stored in _stored(name, module):
            matrix = known.get((id(module), stored.parameter))
            why = _why(matrix, record)
            new = [tensor for tensor in stored.tensors if tensor_identity(tensor) not in seen]
            if stored.tensors and not new:
                why = f"tied to {seen[tensor_identity(stored.tensors[0])]}"
            seen |= {tensor_identity(tensor): stored.name for tensor in new}
            size = sum(tensor.numel() * tensor.element_size() for tensor in new)
            rows.append(
                {
                    "module": stored.name,
                    "layer": layer_of.get(id(module)),
                    "matrix": matrix.matrix if matrix else name.rpartition(".")[2] if stored.quantized else "",
                    "type": stored.type,
                    "weights": stored.weights if new else 0,
                    "bytes": size,
                    "bits_per_weight": 8 * size / stored.weights if new and stored.weights else float("nan"),
                    "quantized": stored.quantized,
                    "why": why,
                }
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"layer": "Int64"})
    size, weights = int(table["bytes"].sum()), int(table["weights"].sum())
    share = float(table.loc[table["quantized"], "weights"].sum() / weights) if weights else 0.0
    return Contents(
        table,
        size_bytes=size,
        share_quantized=share,
        bits_per_weight=8 * size / weights if weights else float("nan"),
        method=None if record is None else record.method,
        warnings=tuple(_warnings(lab, table, record)),
        model=lab.name,
    )


def packed_type(model: PreTrainedModel) -> str | None:
    """What most quantized weights of a model are stored as, as `contents` says it; None where it can't be read off."""
    weights: dict[str, int] = {}
    for name, module in running.language_model(model).named_modules():
        for stored in _stored(name, module):
            if stored.quantized:
                weights[stored.type] = weights.get(stored.type, 0) + stored.weights
    return max(weights, key=weights.__getitem__, default=None)


@dataclass(frozen=True)
class _Stored:
    """A weight as it stands in memory. parameter: its name in its module.  tensors: the plain ones that hold it."""

    name: str
    parameter: str
    type: str
    weights: int
    quantized: bool
    tensors: tuple[torch.Tensor, ...]


def _stored(path: str, module: nn.Module) -> list[_Stored]:
    """The weights a module itself holds, with what belongs to them."""
    if isinstance(module, PackedWeight):
        return []  # told with the module whose weight it is
    prefix = f"{path}." if path else ""
    found: list[_Stored] = []
    if isinstance(module, PackedModule):
        for name, packed in module.packed.items():
            kind = packed.format.described()
            tensors = tuple(module.packed_weight(name).buffers())
            found.append(_Stored(f"{prefix}{name}", name, kind, packed.shape.numel(), True, tensors))
    if isinstance(module, PackedProduct):
        size = module.in_features * module.out_features
        found.append(_Stored(f"{prefix}weight", "weight", module.packed_type, size, True, module.packed_tensors))
        held = {} if module.bias is None else {"bias": module.bias}
        return found + [
            _Stored(f"{prefix}{name}", name, _type_of(t), t.numel(), False, (t,)) for name, t in held.items()
        ]
    held = {name: value for name, value in own_state(module).items() if isinstance(value, torch.Tensor)}
    for name, value in held.items():
        if _belongs(name, held) is not None:
            continue
        beside = [other for key, other in held.items() if _belongs(key, held) == name]
        plain = tuple(tensor for each in (value, *beside) for tensor in plain_tensors(each))
        quantized = not value.is_floating_point() or len(plain) > 1 or plain[0].element_size() < 2
        found.append(_Stored(f"{prefix}{name}", name, _type_of(value), _elements(value), quantized, plain))
    return found


def _belongs(name: str, held: Mapping[str, object]) -> str | None:
    """The weight that a tensor belongs to, as bitsandbytes keeps scales beside it."""
    owner = name.partition(".")[0]
    if owner != name and owner in held:
        return owner
    return "weight" if name in ("SCB", "weight_format") and "weight" in held else None


def _elements(weight: torch.Tensor) -> int:
    shape = getattr(getattr(weight, "quant_state", None), "shape", None)
    return int(torch.Size(shape).numel()) if shape is not None else weight.numel()


def _type_of(weight: torch.Tensor) -> str:
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return f"{state.quant_type}, groups of {state.blocksize}"
    if hasattr(weight, "__tensor_flatten__"):
        inside = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in plain_tensors(weight))
        return f"{type(weight).__name__} ({' + '.join(inside)})"
    return str(weight.dtype).removeprefix("torch.")


def _why(matrix: Matrix | None, record: Record | None) -> str:
    if matrix is None or record is None:
        return ""
    return record.kept.get(matrix.name) or record.remarks.get(matrix.name, "")


def _warnings(lab: LabLike, table: pd.DataFrame, record: Record | None) -> list[str]:
    said: list[str] = []
    if (file := opened_from(lab.model)) is not None:
        said.append(
            f"opened from {file.name}, whose tensors were dequantized: contents({str(file)!r}) tells their types."
        )
    of_layers = table[table["layer"].notna() & (table["weights"] > 0)]
    plain = of_layers[~of_layers["quantized"]]
    claims = record is not None or getattr(lab.model, "is_quantized", False)
    if claims and len(plain) and plain["weights"].sum() > FEW * of_layers["weights"].sum():
        by_name = plain.groupby(plain["module"].map(_short))["weights"].sum().sort_values(ascending=False)
        names = checks.listed(by_name.index[by_name > FEW * by_name.sum()])
        share = plain["weights"].sum() / of_layers["weights"].sum()
        said.append(f"{share:.0%} of the layers' weights are not quantized, {names} above all.")
    return said


def _short(module: str) -> str:
    """A weight's name without its layer: "q_proj", "experts.down_proj"."""
    parts = module.removesuffix(".weight").split(".")
    return parts[-1] if module.endswith(".weight") else ".".join(parts[-2:])
