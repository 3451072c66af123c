"""The header of a GGUF file, every number in it compared with the bytes that are really there.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from labkit.models.files.common import Json, open_file, refuse, refuse_kind, shown

# ggml's type numbers: name, weights in a block, bytes of a block.  Numbers that are missing were withdrawn.
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

_SCALARS: dict[int, tuple[str, str]] = {  # value type: name, struct format
    0: ("uint8", "<B"),
    1: ("int8", "<b"),
    2: ("uint16", "<H"),
    3: ("int16", "<h"),
    4: ("uint32", "<I"),
    5: ("int32", "<i"),
    6: ("float32", "<f"),
    7: ("bool", "<B"),
    10: ("uint64", "<Q"),
    11: ("int64", "<q"),
    12: ("float64", "<d"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64, _ARRAY_HEAD = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQ")

_MAX_DIMENSIONS = 4  # ggml's own limit
_MAX_NAME_BYTES = 255  # of a tensor; ggml allows 63, patched builds more
_MAX_KEY_BYTES = 65_535  # the format's limit
_MAX_TEXT_BYTES = 16 << 20  # of a single text, such as a chat template
_MAX_ARRAY_DEPTH = 3
_MAX_ENTRIES, _MAX_TENSORS = 1 << 16, 1 << 18
_MAX_ELEMENTS = 1 << 22  # texts and kept values in all: the largest vocabulary with its merges has a fifth of it
_KEPT_ELEMENTS = 1024  # arrays up to here are kept as values: head counts per layer are, vocabularies are not
_MIN_ENTRY_BYTES = 8 + 1 + 4 + 1  # key length, a key of one byte, value type, a value of one byte
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, name, dimensions, one size, type, offset


@dataclass(frozen=True)
class ArraySummary:
    """A metadata array too long to keep. offset: of its first element, in bytes from the start of the file."""

    element_type: str
    length: int
    offset: int

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file.

    shape: slowest dimension first, as torch has it (the file has it the other way round).
    offset: of the data, in bytes from the start of the file.  n_bytes: as stored, without padding.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: str
    offset: int
    n_bytes: int

    @property
    def elements(self) -> int:
        """How many weights the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself, compared with its size.

    metadata: scalars and texts as values, short arrays as tuples, long ones as ArraySummary.
    data_start: where the tensor data begin, in bytes from the start of the file.
    """

    path: Path
    version: int
    alignment: int
    metadata: Json
    tensors: tuple[GgufTensor, ...]
    data_start: int
    file_bytes: int

    @property
    def architecture(self) -> str | None:
        """The architecture's name in llama.cpp ("llama", "qwen2", ...), or None if the file doesn't say."""
        name = self.metadata.get("general.architecture")
        return name if isinstance(name, str) else None

    @property
    def parameters(self) -> int:
        """How many weights the file holds in all."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored, without padding."""
        return sum(tensor.n_bytes for tensor in self.tensors)


def read_gguf_header(path: str | os.PathLike[str]) -> GgufHeader:
    """The header of a GGUF file (version 2 or 3, little endian), every number in it compared with the file's size.

    Raises ModelNotFound when there is no such file, and BadModelFile, with the place in bytes, when it is damaged,
    cut off, or not a GGUF file.
    """
    file = Path(path)
    with open_file(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size < 24:
            refuse_kind(file, handle.read(24), "a GGUF file")
            refuse(file, f"ends after {size:,} bytes, before the 24 bytes of a GGUF header are complete")
        with mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ) as data:
            return _GgufReader(file, data, size).header()


class _GgufReader:
    """A position in a mapped file that can't leave it."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0
        self.elements = 0  # of arrays, so far

    def bad(self, what: str, at: int | None = None) -> NoReturn:
        refuse(self.path, what, at=self.at if at is None else at)

    def take(self, n_bytes: int, what: str) -> int:
        """Step over n_bytes; gives where they start."""
        start = self.at
        if n_bytes > self.size - start:
            self.bad(f"has {self.size - start:,} bytes left where {what} needs {n_bytes:,}: it is cut off or damaged")
        self.at = start + n_bytes
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.take(8, what))[0])

    def text(self, what: str, limit: int) -> str:
        start = self.at
        length = self.u64(f"the length of {what}")
        if length > limit:
            self.bad(f"gives {what} {length:,} bytes where {limit:,} are the most", start)
        body = self.take(length, what)
        try:
            return self.data[body : body + length].decode("utf-8")
        except UnicodeDecodeError:
            self.bad(f"has {what} that is not UTF-8 text", body)

    def header(self) -> GgufHeader:
        self._magic()
        version = self._version()
        n_tensors = self._count("tensors", _MIN_TENSOR_BYTES, _MAX_TENSORS)
        n_entries = self._count("metadata entries", _MIN_ENTRY_BYTES, _MAX_ENTRIES)
        metadata = self._metadata(n_entries)
        alignment = self._alignment(metadata)
        # The metadata have used bytes up since the count was read.
        if n_tensors * _MIN_TENSOR_BYTES > self.size - self.at:
            self.bad(f"has {self.size - self.at:,} bytes left where {n_tensors:,} tensors are to be described")
        table = [self._tensor_info() for _ in range(n_tensors)]
        start = -(-self.at // alignment) * alignment
        tensors = self._place(table, start, alignment)
        return GgufHeader(self.path, version, alignment, metadata, tensors, start, self.size)

    def _magic(self) -> None:
        if self.data[:4] != b"GGUF":
            refuse_kind(self.path, self.data[:64], "a GGUF file")
            self.bad(f"starts with {self.data[:4]!r} where a GGUF file has b'GGUF'", 0)
        self.take(4, "the magic")

    def _version(self) -> int:
        version = self.u32("the version")
        if version in (2, 3):
            return version
        if version in (2 << 24, 3 << 24):
            refuse(
                self.path,
                "is a big-endian GGUF file, which can't be read here",
                remedy="fetch the little-endian file of this model",
            )
        if version == 1:
            refuse(self.path, "is a GGUF file of version 1, from 2023", remedy="fetch a newer conversion of this model")
        self.bad(f"says GGUF version {version:,} where 2 and 3 are known", 4)

    def _count(self, what: str, least_bytes: int, limit: int) -> int:
        start = self.at
        count = self.u64(f"the number of {what}")
        if count > (self.size - self.at) // least_bytes:
            self.bad(f"announces {count:,} {what}, more than its {self.size:,} bytes can hold", start)
        if count > limit:
            self.bad(f"announces {count:,} {what} where {limit:,} are the most", start)
        return count

    def _spend(self, elements: int, key: str) -> None:
        """Count elements that cost time or memory each; a header has a limit of them in all."""
        self.elements += elements
        if self.elements > _MAX_ELEMENTS:
            self.bad(f"has more than {_MAX_ELEMENTS:,} array elements by the array {key}")

    def _metadata(self, n_entries: int) -> Json:
        metadata: Json = {}
        for _ in range(n_entries):
            start = self.at
            key = self.text("a metadata key", _MAX_KEY_BYTES)
            if not key or key in metadata:
                self.bad(f"has the metadata key {shown(key)} twice" if key else "has an empty metadata key", start)
            metadata[key] = self._value(self.u32("a value type"), shown(key))
        return metadata

    def _value(self, type_number: int, key: str) -> object:
        if type_number == _STRING:
            return self.text(f"the text {key}", _MAX_TEXT_BYTES)
        if type_number == _ARRAY:
            return self._array(key, depth=1)
        if type_number not in _SCALARS:
            self.bad(f"gives {key} the unknown value type {type_number:,}", self.at - 4)
        _, code = _SCALARS[type_number]
        start = self.take(struct.calcsize(code), key)
        (value,) = struct.unpack_from(code, self.data, start)
        if type_number != _BOOL:
            return value
        if value > 1:
            self.bad(f"gives the boolean {key} the value {value}", start)
        return bool(value)

    def _array(self, key: str, depth: int) -> tuple[object, ...] | ArraySummary:
        start = self.at
        type_number, length = _ARRAY_HEAD.unpack_from(self.data, self.take(12, f"the array {key}"))
        first = self.at
        if type_number == _STRING:
            return self._strings(key, length)
        if type_number == _ARRAY:
            return self._nested(key, length, depth)
        if type_number not in _SCALARS:
            self.bad(f"gives the array {key} the unknown element type {type_number:,}", start)
        name, code = _SCALARS[type_number]
        self.take(length * struct.calcsize(code), f"the array {key} of {length:,} {name}")
        if length > _KEPT_ELEMENTS:
            return ArraySummary(name, length, first)
        self._spend(length, key)
        values = struct.unpack_from(f"<{length}{code[1]}", self.data, first)
        if type_number != _BOOL:
            return values
        if any(value > 1 for value in values):
            self.bad(f"has a boolean that is neither 0 nor 1 in the array {key}", first)
        return tuple(map(bool, values))

    def _nested(self, key: str, length: int, depth: int) -> tuple[object, ...]:
        start = self.at
        if depth >= _MAX_ARRAY_DEPTH:
            self.bad(f"nests the array {key} deeper than {_MAX_ARRAY_DEPTH} levels", start)
        if length > min(_KEPT_ELEMENTS, (self.size - start) // 12):
            self.bad(f"announces {length:,} arrays inside {key}, more than fit", start)
        self._spend(length, key)
        return tuple(self._array(key, depth + 1) for _ in range(length))

    def _strings(self, key: str, length: int) -> tuple[str, ...] | ArraySummary:
        """Walk an array of texts: a vocabulary has a hundred thousand, so the loop works on local names."""
        first = at = self.at
        if length > (self.size - at) // 8:
            self.bad(f"announces {length:,} texts in the array {key}, more than its {self.size:,} bytes can hold", at)
        self._spend(length, key)
        data, size, unpack, kept = self.data, self.size, _U64.unpack_from, length <= _KEPT_ELEMENTS
        values: list[str] = []
        for index in range(length):
            end_of_length = at + 8
            if end_of_length > size:
                self.bad(f"is cut off in text {index:,} of the array {key}", at)
            (n_bytes,) = unpack(data, at)
            if n_bytes > size - end_of_length:
                self.bad(f"gives text {index:,} of {key} {n_bytes:,} bytes where {size - end_of_length:,} are left", at)
            if n_bytes > _MAX_TEXT_BYTES:
                self.bad(f"gives text {index:,} of {key} {n_bytes:,} bytes where {_MAX_TEXT_BYTES:,} are the most", at)
            at = end_of_length + n_bytes
            try:
                value = data[end_of_length:at].decode("utf-8")
            except UnicodeDecodeError:
                self.bad(f"has no UTF-8 text where text {index:,} of {key} is announced", end_of_length)
            if kept:
                values.append(value)
        self.at = at
        return tuple(values) if kept else ArraySummary("string", length, first)

    def _alignment(self, metadata: Json) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            self.bad(f"has general.alignment = {str(alignment)[:40]!s} where a power of two from 8 on is needed")
        return alignment

    def _tensor_info(self) -> tuple[int, str, tuple[int, ...], int, int]:
        """Where it stands in the table, name, shape (slowest first), type number, offset in the data."""
        start = self.at
        name = self.text("a tensor's name", _MAX_NAME_BYTES)
        if not name:
            self.bad("has a tensor without a name", start)
        n_dimensions = self.u32(f"tensor {shown(name)}")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            self.bad(f"gives tensor {shown(name)} {n_dimensions:,} dimensions where 1 to 4 are known", start)
        sizes = struct.unpack_from(
            f"<{n_dimensions}Q", self.data, self.take(8 * n_dimensions, f"the shape of {shown(name)}")
        )
        type_number = self.u32(f"the type of {shown(name)}")
        return start, name, sizes[::-1], type_number, self.u64(f"the offset of {shown(name)}")

    def _place(
        self, table: list[tuple[int, str, tuple[int, ...], int, int]], data_start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        """Each tensor with its bytes: inside the file, one after the other, nothing between them but padding."""
        tensors: dict[str, GgufTensor] = {}
        where: dict[str, int] = {}
        for at, name, shape, type_number, offset in table:
            if name in tensors:
                self.bad(f"has the tensor {shown(name)} twice", at)
            if type_number not in GGML_TYPES:
                self.bad(f"gives tensor {shown(name)} the unknown type {type_number:,}", at)
            type_name, block, block_bytes = GGML_TYPES[type_number]
            if 0 in shape:
                self.bad(f"gives tensor {shown(name)} the empty shape {shape}", at)
            if shape[-1] % block:
                self.bad(f"has rows of {shape[-1]:,} in {shown(name)}, not a multiple of {type_name}'s {block}", at)
            n_bytes = math.prod(shape) // block * block_bytes
            if offset % alignment:
                self.bad(f"puts tensor {shown(name)} at {offset:,}, not a multiple of {alignment}", at)
            if data_start + offset + n_bytes > self.size:
                missing = data_start + offset + n_bytes - self.size
                self.bad(f"is {missing:,} bytes short of the end of tensor {shown(name)}: cut off or damaged", at)
            tensors[name] = GgufTensor(name, shape, type_name, data_start + offset, n_bytes)
            where[name] = at
        # A wrong type or size that still fits the file shows up as an overlap or as a hole.
        end, last = data_start, None
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < end and last is not None:
                self.bad(f"puts tensor {shown(tensor.name)} over tensor {shown(last)}", where[tensor.name])
            if tensor.offset - end >= alignment:
                self.bad(
                    f"leaves {tensor.offset - end:,} unused bytes before tensor {shown(tensor.name)}",
                    where[tensor.name],
                )
            end, last = tensor.offset + tensor.n_bytes, tensor.name
        # With its padding or without: anything else, and bytes have been lost or slipped in among the weights.
        if tensors and self.size not in (end, -(-end // alignment) * alignment):
            self.bad(f"has {self.size - end:,} bytes after its last tensor that no tensor uses", end)
        return tuple(tensors.values())


def read_gguf_strings(header: GgufHeader, key: str) -> list[str]:
    """The texts of one metadata array, such as "tokenizer.ggml.tokens", read again from the file.

    Raises KeyError when the header has no such array of texts, BadModelFile when the file has changed meanwhile.
    """
    entry = header.metadata[key]
    if isinstance(entry, tuple) and all(isinstance(value, str) for value in entry):
        return list(entry)
    if not isinstance(entry, ArraySummary) or entry.element_type != "string":
        raise KeyError(key)
    with open_file(header.path) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _GgufReader(header.path, data, len(data))
        reader.at = entry.offset
        return [reader.text(f"a text of {shown(key)}", _MAX_TEXT_BYTES) for _ in range(entry.length)]
