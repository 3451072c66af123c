"""What a model takes in each format, counted exactly and before anything is loaded or quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.models.config import CHOSEN, EXPERTS, first_number
from labkit.models.memory import human_bytes, named_config, part, skeleton
from labkit.quantization import formats
from labkit.quantization.grids import Format, GroupSize
from labkit.quantization.weights import parameters_of, shape_of
from labkit.results import Result

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.models.memory import Countable

FORMATS = ("int8", "q8_0", "int4", "q4_0", "nf4", "int3", "int2", "ternary")
HALF_BYTES = 2  # of a weight in 16 bits
STEP = 256  # groups, or weights of a group, by which what is stored grows evenly


@dataclass(frozen=True, eq=False, repr=False)
class Sizes(Result):
    """A row for each format; `sizes` tells the columns.

    parameters: of the model, tied ones once.  original_bytes: in 16 bits.  quantizable: the share of the parameters that the
    matrices of the layers have.  model: its name.  notes: which matrices a format does not fit.
    """

    parameters: int
    original_bytes: int
    quantizable: float
    model: str
    notes: tuple[str, ...]

    def _title(self) -> str:
        return (
            f"{self.model}: {human_bytes(self.original_bytes)} in 16 bits; {self.quantizable:.1%} of its weights are in the "
            "matrices of its layers"
        )

    def _remarks(self) -> Sequence[str]:
        return self.notes


def sizes(
    what: Countable,
    format: str | Format | Sequence[str | Format] = FORMATS,
    *,
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    head: str | Format | None = None,
) -> Sizes:
    """Bytes of a model in each format, scales, zero points and all that stays in 16 bits included.

    what: a published name ("llama-2-7b"), a configuration, a folder or a model, as for `lk.memory`; nothing is loaded.
    format, group_size, symmetric, head: as of `quantize`; several formats give a row each.
    Columns: format; bits_per_weight, of what is quantized; size_bytes; saved, the share of the bytes in 16 bits; quantized,
    the share of the weights; bytes_per_token, that one token of one text reads: all of them but an embedding that is only
    looked up, and of a mixture's experts those it goes to. The KV cache comes on top (`lk.memory`).
    """
    import pandas as pd

    wanted = [format] if isinstance(format, str | Format) else list(format)
    if not wanted:
        checks.refuse("format", format, "at least one")
    if head is not None:
        formats.of(head, argument="head")
    name, config = named_config(what)
    model = skeleton(config)
    share = chosen_share(model.config.get_text_config())
    shapes = list(shapes_of(model))
    parameters = sum(p.numel() for p in model.parameters())
    rows, notes = [], []
    for one in wanted:
        packed = read = quantized = 0
        odd: dict[str, int] = {}
        for shape, which in shapes:
            weights = shape.numel()
            asked = head if which in ("head", "tied", "embedding") else one if which in ("layer", "experts") else None
            found = None if asked is None else formats.fitted(asked, tuple(shape), group_size, symmetric)
            if isinstance(found, str):
                odd[found] = odd.get(found, 0) + 1
            size = packed_bytes(found, tuple(shape)) if isinstance(found, Format) else HALF_BYTES * weights
            packed += size
            quantized += weights * isinstance(found, Format)
            if which != "embedding":
                read += round(size * share) if which == "experts" else size
        in_formats = packed - HALF_BYTES * (parameters - quantized)
        label = formats.of(one, group_size=group_size, symmetric=symmetric)
        rows.append(
            {
                "format": label.name,
                "bits_per_weight": 8 * in_formats / quantized if quantized else float("nan"),
                "size_bytes": packed,
                "saved": 1 - packed / (HALF_BYTES * parameters),
                "quantized": quantized / parameters,
                "bytes_per_token": read,
            }
        )
        notes += [
            f"{label.name}: {count} matri{'x stays' if count == 1 else 'ces stay'} in 16 bits, since {why}"
            for why, count in odd.items()
        ]
    layers = sum(shape.numel() for shape, which in shapes if which in ("layer", "experts"))
    return Sizes(
        pd.DataFrame(rows),
        parameters=parameters,
        original_bytes=HALF_BYTES * parameters,
        quantizable=layers / parameters,
        model=name,
        notes=tuple(notes),
    )


def packed_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes that a matrix of this shape takes in a format, by packing zeros: those of a large one follow from smaller ones."""
    columns, rows = shape[-1], torch.Size(shape[:-1]).numel()
    size = format.size(columns, rows)
    step = STEP if format.grid.code_count != 3 else 5 * STEP  # five ternary codes share a byte

    def of_groups(groups: int) -> int:
        return _grown(lambda wide: _bytes_of_zeros(format, groups, wide), size, step)

    return _grown(of_groups, rows * columns // size, step)


def _grown(count: Callable[[int], int], n: int, step: int) -> int:
    """count(n), where what is stored grows by the same for every `step` more, whatever a grid packs together."""
    if n < 3 * step:
        return count(n)
    first, second = (count(times * step + n % step) for times in (1, 2))
    return first + (n // step - 1) * (second - first)


@lru_cache(maxsize=4096)
def _bytes_of_zeros(format: Format, groups: int, size: int) -> int:
    return format.pack(torch.zeros(groups, size, dtype=torch.float32)).size_bytes


def shapes_of(model: PreTrainedModel) -> Iterator[tuple[torch.Size, str]]:
    """Each parameter's shape (..., outputs, inputs), tied ones once, and what it is: layer, experts, head, tied, embedding or
    other."""
    return ((shape, which) for _, shape, which in named_shapes(model))


def named_shapes(model: PreTrainedModel) -> Iterator[tuple[str, torch.Size, str]]:
    """The same with each parameter's name before it, of tied ones the first."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    seen: set[int] = set()
    for path, module in model.named_modules():
        kind = part(path, type(module).__name__)
        matrices = {} if kind in ("router", "norms") or "." not in path else dict(parameters_of(module))
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            whole = f"{path}.{name}" if path else name
            if module is embedding:
                tied = head is not None and head._parameters.get("weight") is parameter
                yield whole, parameter.shape, "tied" if tied else "embedding"
            elif module is head:
                yield whole, parameter.shape, "head" if name == "weight" else "other"
            elif name in matrices:
                shape = shape_of(module, name)
                turned = torch.Size((*shape[:-2], shape[-1], shape[-2])) if matrices[name] else shape
                yield whole, turned, "experts" if kind == "experts" else "layer"
            else:
                yield whole, parameter.shape, "other"


def chosen_share(config: PreTrainedConfig) -> float:
    """Of a mixture's experts, the share that a token goes to; 1 for a model without."""
    return share_of(first_number(config, *CHOSEN), first_number(config, *EXPERTS))


def share_of(chosen: object, experts: object) -> float:
    """The same from both numbers; 1 where one is missing."""
    return chosen / experts if isinstance(chosen, int) and isinstance(experts, int) and experts and chosen else 1.0
