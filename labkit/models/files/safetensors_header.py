"""The header of a safetensors file, every number in it compared with the file's size.

https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from labkit.models.files.common import open_file, parse_json, refuse, refuse_kind, shown

_U64 = struct.Struct("<Q")
MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit
_MAX_RANK = 32
SAFETENSORS_BITS: dict[str, int] = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says about itself, compared with its size.

    tensors: name -> (dtype as the format spells it, shape, bytes).  metadata: the file's own texts.
    """

    path: Path
    tensors: dict[str, tuple[str, tuple[int, ...], int]]
    metadata: dict[str, str]
    file_bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers the file holds in all."""
        return sum(math.prod(shape) for _, shape, _ in self.tensors.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(n_bytes for _, _, n_bytes in self.tensors.values())


def read_safetensors_header(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """The header of a safetensors file, every number in it compared with the file's size.

    Raises ModelNotFound when there is no such file, BadModelFile when it is damaged, cut off or something else.
    """
    file = Path(path)
    with open_file(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        head = handle.read(64)
        if len(head) < 8:
            refuse(file, f"ends after {size:,} bytes, before a safetensors header begins")
        (length,) = _U64.unpack_from(head)
        if length < 2 or length > size - 8 or length > MAX_HEADER_BYTES:
            refuse_kind(file, head, "a safetensors file")
            refuse(
                file,
                f"announces a header of {length:,} bytes in a file of {size:,} (at most {MAX_HEADER_BYTES:,})",
                at=0,
            )
        handle.seek(8)
        text = handle.read(length)
    entries = parse_json(file, text, "header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse(file, "has a __metadata__ that is not a table of texts")
    spans = [_safetensors_entry(file, name, entry) for name, entry in entries.items()]
    end = 0
    for name, _, _, start, stop in sorted(spans, key=lambda span: (span[3], span[4])):
        if start != end:
            what = "over the tensor before it" if start < end else f"{start - end:,} bytes after the tensor before it"
            refuse(file, f"puts tensor {shown(name)} {what}", at=8 + length + start)
        end = stop
    if 8 + length + end != size:
        refuse(file, f"has {size - 8 - length:,} bytes of data where its tensors take {end:,}: cut off or damaged")
    tensors = {name: (dtype, shape, stop - start) for name, dtype, shape, start, stop in spans}
    return SafetensorsHeader(file, tensors, metadata, size)


def _safetensors_entry(file: Path, name: str, entry: object) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, dtype, shape, and where the bytes start and stop in the data."""
    label = shown(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse(file, f"doesn't describe tensor {label} by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
        refuse(file, f"gives tensor {label} the unknown dtype {shown(str(dtype))}")
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        refuse(file, f"gives tensor {label} a shape that is no list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(file, f"gives tensor {label} data_offsets that are no start and stop")
    bits = math.prod(shape) * SAFETENSORS_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        refuse(file, f"gives tensor {label} {offsets[1] - offsets[0]:,} bytes where its shape needs {-(-bits // 8):,}")
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
