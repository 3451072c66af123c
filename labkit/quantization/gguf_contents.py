"""What a GGUF file really holds, read from its header: the type and bytes of each tensor, and whether its name says so."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from labkit.models import files
from labkit.models.files import GgufHeader
from labkit.quantization.inventory import COLUMNS, Contents

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(?:weight|bias)")
_SAID = re.compile(r"(?<![A-Za-z0-9])(I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4|BF16|F16|F32)(?![A-Za-z0-9])", re.IGNORECASE)
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
MOST = 0.9  # of the weights in the type that the name says; with fewer the name misleads


def contents_of_file(path: str | os.PathLike[str]) -> Contents:
    """A row for each tensor of a GGUF file, as `contents` has them; module is the tensor's name in the file.

    Raises ModelNotFound, BadModelFile.
    """
    import pandas as pd

    header = files.read_gguf_header(Path(path).expanduser())
    rows: list[dict[str, object]] = []
    for tensor in header.tensors:
        block = _BLOCK.fullmatch(tensor.name)
        rows.append(
            {
                "module": tensor.name,
                "layer": int(block[1]) if block else None,
                "matrix": (block[2] if block else tensor.name.rpartition(".")[0]) if len(tensor.shape) > 1 else "",
                "type": tensor.ggml_type,
                "weights": tensor.elements,
                "bytes": tensor.n_bytes,
                "bits_per_weight": 8 * tensor.n_bytes / tensor.elements,
                "quantized": tensor.ggml_type not in _FLOATS,
                "why": "",
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"layer": "Int64"})
    weights = header.parameters
    quantized = int(table.loc[table["quantized"].astype(bool), "weights"].sum())
    return Contents(
        table,
        size_bytes=header.weight_bytes,
        share_quantized=quantized / weights,
        bits_per_weight=8 * header.weight_bytes / weights,
        method=None,
        warnings=_warnings(header),
        model=header.path.name,
    )


def _warnings(header: GgufHeader) -> tuple[str, ...]:
    """Where the file's name says another type than most of its weights have."""
    by_type: Counter[str] = Counter()
    for tensor in header.tensors:
        by_type[tensor.ggml_type] += tensor.elements
    told = [*_SAID.findall(header.path.stem)]
    if not told:
        return ()
    said = told[-1].upper()
    base = next((kind for kind in sorted(by_type, key=len, reverse=True) if f"{said}_".startswith(f"{kind}_")), None)
    share = by_type[base] / header.parameters if base else 0.0
    if share >= MOST:
        return ()
    held = ", ".join(f"{count / header.parameters:.0%} {kind}" for kind, count in by_type.most_common())
    return (f"the file's name says {said}; of its weights are {held}.",)
