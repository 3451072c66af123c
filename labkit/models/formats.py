"""Model files, checked before any library opens them.

A reader here believes nothing a file says about itself: every count, length and offset is compared with the bytes that
are really there before it is used. So a damaged or hostile file costs milliseconds and one clear sentence, never an
endless loop or a huge allocation. Only headers are read; weights are not touched, so a weight, or a name or number that
is wrong yet plausible, is found by the checksum alone.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Safetensors: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NoReturn

from labkit.errors import BadModelFile, ModelNotFound

FETCH_AGAIN = "fetch the file again"

# ------------------------------------------------------------------------------------------------- GGUF: the header

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
    metadata: dict[str, Any]
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
    def float32_bytes(self) -> int:
        """Bytes of all weights once unpacked to float32."""
        return 4 * self.parameters

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
    with _opened(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size < 24:
            _refuse_kind(file, handle.read(24), "a GGUF file")
            _bad(file, f"ends after {size:,} bytes, before the 24 bytes of a GGUF header are complete")
        with mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ) as data:
            return _GgufReader(file, data, size).header()


def _bad(path: Path, what: str, *, at: int | None = None, remedy: str = FETCH_AGAIN) -> NoReturn:
    """Raise BadModelFile: which file, what is wrong, where, and what to do."""
    place = "" if at is None else f" at byte {at:,}"
    raise BadModelFile(f"{_shown(path.name)}{place} {what}; {remedy}.")


def _shown(name: str) -> str:
    """A name out of a file as it may stand in a message: on one line, escaped, not too long."""
    return repr(name if len(name) <= 60 else name[:57] + "...")


class _GgufReader:
    """A position in a mapped file that can't leave it."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0
        self.elements = 0  # of arrays, so far

    def bad(self, what: str, at: int | None = None) -> NoReturn:
        _bad(self.path, what, at=self.at if at is None else at)

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
            _refuse_kind(self.path, self.data[:64], "a GGUF file")
            self.bad(f"starts with {self.data[:4]!r} where a GGUF file has b'GGUF'", 0)
        self.take(4, "the magic")

    def _version(self) -> int:
        version = self.u32("the version")
        if version in (2, 3):
            return version
        if version in (2 << 24, 3 << 24):
            _bad(
                self.path,
                "is a big-endian GGUF file, which can't be read here",
                remedy="fetch the little-endian file of this model",
            )
        if version == 1:
            _bad(self.path, "is a GGUF file of version 1, from 2023", remedy="fetch a newer conversion of this model")
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

    def _metadata(self, n_entries: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            start = self.at
            key = self.text("a metadata key", _MAX_KEY_BYTES)
            if not key or key in metadata:
                self.bad(f"has the metadata key {_shown(key)} twice" if key else "has an empty metadata key", start)
            metadata[key] = self._value(self.u32("a value type"), _shown(key))
        return metadata

    def _value(self, type_number: int, key: str) -> Any:
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

    def _array(self, key: str, depth: int) -> tuple[Any, ...] | ArraySummary:
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

    def _nested(self, key: str, length: int, depth: int) -> tuple[Any, ...]:
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

    def _alignment(self, metadata: dict[str, Any]) -> int:
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
        n_dimensions = self.u32(f"tensor {_shown(name)}")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            self.bad(f"gives tensor {_shown(name)} {n_dimensions:,} dimensions where 1 to 4 are known", start)
        sizes = struct.unpack_from(
            f"<{n_dimensions}Q", self.data, self.take(8 * n_dimensions, f"the shape of {_shown(name)}")
        )
        type_number = self.u32(f"the type of {_shown(name)}")
        return start, name, sizes[::-1], type_number, self.u64(f"the offset of {_shown(name)}")

    def _place(
        self, table: list[tuple[int, str, tuple[int, ...], int, int]], data_start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        """Each tensor with its bytes: inside the file, one after the other, nothing between them but padding."""
        tensors: dict[str, GgufTensor] = {}
        where: dict[str, int] = {}
        for at, name, shape, type_number, offset in table:
            if name in tensors:
                self.bad(f"has the tensor {_shown(name)} twice", at)
            if type_number not in GGML_TYPES:
                self.bad(f"gives tensor {_shown(name)} the unknown type {type_number:,}", at)
            type_name, block, block_bytes = GGML_TYPES[type_number]
            if 0 in shape:
                self.bad(f"gives tensor {_shown(name)} the empty shape {shape}", at)
            if shape[-1] % block:
                self.bad(f"has rows of {shape[-1]:,} in {_shown(name)}, not a multiple of {type_name}'s {block}", at)
            n_bytes = math.prod(shape) // block * block_bytes
            if offset % alignment:
                self.bad(f"puts tensor {_shown(name)} at {offset:,}, not a multiple of {alignment}", at)
            if data_start + offset + n_bytes > self.size:
                missing = data_start + offset + n_bytes - self.size
                self.bad(f"is {missing:,} bytes short of the end of tensor {_shown(name)}: cut off or damaged", at)
            tensors[name] = GgufTensor(name, shape, type_name, data_start + offset, n_bytes)
            where[name] = at
        # A wrong type or size that still fits the file shows up as an overlap or as a hole.
        end, last = data_start, None
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < end and last is not None:
                self.bad(f"puts tensor {_shown(tensor.name)} over tensor {_shown(last)}", where[tensor.name])
            if tensor.offset - end >= alignment:
                self.bad(
                    f"leaves {tensor.offset - end:,} unused bytes before tensor {_shown(tensor.name)}",
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
    with _opened(header.path) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _GgufReader(header.path, data, len(data))
        reader.at = entry.offset
        return [reader.text(f"a text of {_shown(key)}", _MAX_TEXT_BYTES) for _ in range(entry.length)]


# -------------------------------------------------------------------------------------- GGUF: does it make one model

# Dense decoders whose every block holds the same tensors, with head_count heads of one size.
_PLAIN = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "starcoder2", "granite"}
)
_PLAIN_TOP = frozenset({"token_embd", "output", "output_norm", "rope_freqs", "rope_factors_long", "rope_factors_short"})
_PLAIN_BLOCK = frozenset(
    {
        *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"),
        *("attn_rot_embd", "post_attention_norm", "rope_freqs"),
        *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm"),
        *("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
    }
)
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)")
_PARAMETER = re.compile(r"(.+)\.(?:weight|bias)")
_OLD_EXPERT = re.compile(r"(ffn_(?:gate|up|down))\.\d+")
_MAX_CONTEXT = 1 << 27


def check_gguf_architecture(header: GgufHeader) -> None:
    """Do the metadata and the tensors' shapes describe one and the same model?

    So that nothing builds a model of the size a damaged header names. Checks what every decoder has (blocks, width,
    heads, vocabulary) and, for the plain dense ones, that every block holds the same known tensors in the right shapes.
    Raises BadModelFile.
    """
    _ArchitectureCheck(header).run()


class _ArchitectureCheck:
    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.shapes = {tensor.name: tensor.shape for tensor in header.tensors}
        self.blocks: dict[int, set[str]] = {}
        self.architecture = header.architecture or ""

    def bad(self, what: str, remedy: str = FETCH_AGAIN) -> NoReturn:
        _bad(self.header.path, what, remedy=remedy)

    def run(self) -> None:
        self._kind()
        self._block_count()
        self.width = self._positive("embedding_length")
        self._numbers()
        self._vocabulary()
        self._heads()
        self._feed_forward()
        if self.architecture in _PLAIN:
            self._plain_names()

    def _kind(self) -> None:
        metadata = self.header.metadata
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", self.architecture):
            self.bad("has no usable general.architecture, so nothing says which model it is")
        if (parts := metadata.get("split.count", 0)) not in (0, 1):
            self.bad(
                f"is one of {str(parts)[:20]} parts of a model", "join the parts with `llama-gguf-split --merge` first"
            )
        if (kind := metadata.get("general.type", "model")) != "model":
            self.bad(f"holds {_shown(str(kind))} where a whole model is needed", "load the model's own file")
        if not self.shapes:
            self.bad("holds no tensors")

    def key(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def get(self, key: str) -> Any:
        return self.header.metadata.get(self.key(key))

    def _positive(self, key: str, limit: int = 1 << 31) -> int:
        value = self.get(key)
        if type(value) is not int or not 0 < value < limit:
            self.bad(f"has {self.architecture}.{key} = {_brief(value)} where a positive whole number is needed")
        return value

    def _per_layer(self, key: str, least: int) -> int | None:
        """A whole number, or one a layer; None where layers differ (the values are still checked)."""
        value = self.get(key)
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(value) != len(self.blocks):
            self.bad(f"has {len(value):,} values of {self.architecture}.{key} for {len(self.blocks):,} layers")
        for one in values:
            if type(one) is not int or not least <= one < 1 << 31:
                self.bad(f"has {self.architecture}.{key} = {_brief(one)} where a positive whole number is needed")
        return values[0] if len(set(values)) == 1 else None

    def _block_count(self) -> None:
        for name in self.shapes:
            if match := _BLOCK.fullmatch(name):
                self.blocks.setdefault(int(match[1]), set()).add(match[2])
        announced = self._positive("block_count")
        if sorted(self.blocks) != list(range(len(self.blocks))):
            missing = next(index for index in range(len(self.blocks)) if index not in self.blocks)
            self.bad(f"holds tensors of layer {max(self.blocks):,} but none of layer {missing:,}")
        if announced != len(self.blocks):
            self.bad(f"announces {announced:,} layers and holds the tensors of {len(self.blocks):,}")

    def _numbers(self) -> None:
        # Without these a loader falls back on its own, and the model is silently another.
        epsilons = {self.key("attention.layer_norm_rms_epsilon"), self.key("attention.layer_norm_epsilon")}
        if self.architecture in _PLAIN and not epsilons & set(self.header.metadata):
            self.bad(f"has no {min(epsilons, key=len)}")
        if self.get("context_length") is not None or self.architecture in _PLAIN:
            self._positive("context_length", _MAX_CONTEXT)
        for key, limit in (
            ("attention.layer_norm_rms_epsilon", 1.0),
            ("attention.layer_norm_epsilon", 1.0),
            ("rope.freq_base", 1e12),
        ):
            value = self.get(key)
            if value is not None and not (isinstance(value, int | float) and 0 < value < limit):
                self.bad(
                    f"has {self.architecture}.{key} = {_brief(value)} where a number from 0 to {limit:g} is needed"
                )

    def _vocabulary(self) -> None:
        metadata, shape = self.header.metadata, self.shapes.get("token_embd.weight")
        if shape is None or len(shape) != 2:
            self.bad("has no embedding matrix (token_embd.weight)")
        rows, width = shape
        if width != self.width:
            self.bad(f"has an embedding of width {width:,} where embedding_length is {self.width:,}")
        if (announced := self.get("vocab_size")) not in (None, rows):
            self.bad(f"has {self.architecture}.vocab_size = {_brief(announced)} and {rows:,} rows in the embedding")
        if (output := self.shapes.get("output.weight")) not in (None, shape):
            self.bad(f"has an output matrix of shape {output} where {shape} is needed")
        for name in ("tokens", "scores", "token_type"):
            values = metadata.get(f"tokenizer.ggml.{name}")
            if values is not None and not (isinstance(values, tuple | ArraySummary) and len(values) == rows):
                length = f"{len(values):,}" if isinstance(values, tuple | ArraySummary) else "no list of"
                self.bad(f"has {length} tokenizer.ggml.{name} for {rows:,} rows of the embedding")
        for key, value in metadata.items():
            if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key) and not (type(value) is int and 0 <= value < rows):
                self.bad(f"has {_shown(key)} = {_brief(value)} with a vocabulary of {rows:,}")

    def _heads(self) -> None:
        projections = {
            index: [self.shapes.get(f"blk.{index}.attn_{part}.weight") for part in "qkv"] for index in self.blocks
        }
        if not any(q for q, _, _ in projections.values()) and self.get("attention.head_count") in (None, 0):
            return  # no attention by that name: a state space model, say
        heads = self._per_layer("attention.head_count", least=0 if self.architecture not in _PLAIN else 1)
        kv_heads = heads
        if self.get("attention.head_count_kv") is not None:
            kv_heads = self._per_layer("attention.head_count_kv", least=0 if self.architecture not in _PLAIN else 1)
        if not heads or not kv_heads:
            return
        if heads % kv_heads:
            self.bad(f"has {heads:,} query heads that can't share {kv_heads:,} key-value heads evenly")
        for index, (q, k, v) in projections.items():
            for name, shape, n in (("attn_q", q, heads), ("attn_k", k, kv_heads), ("attn_v", v, kv_heads)):
                if shape is not None and (len(shape) != 2 or shape[0] % n):
                    self.bad(f"has blk.{index}.{name} of shape {shape}, which {n:,} heads can't share")
        if self.architecture in _PLAIN:
            self._head_size(heads, kv_heads, projections)

    def _head_size(self, heads: int, kv_heads: int, projections: dict[int, list[tuple[int, ...] | None]]) -> None:
        """One head size throughout: loaders take it from whichever key they know."""
        if self.get("attention.key_length") is not None:
            size = self._positive("attention.key_length")
        elif self.width % heads:
            self.bad(f"has a width of {self.width:,} that {heads:,} heads can't share")
        else:
            size = self.width // heads
        for index, shapes in projections.items():
            wanted = ((heads, self.width), (kv_heads, self.width), (kv_heads, self.width))
            for part, shape, (n, width) in zip("qkv", shapes, wanted, strict=True):
                if shape is not None and shape != (n * size, width):
                    self.bad(
                        f"has blk.{index}.attn_{part} of shape {shape} where {n:,} heads of {_brief(size)} over "
                        f"{width:,} are announced"
                    )
        rotary = self.get("rope.dimension_count")
        if rotary is not None and (type(rotary) is not int or not 0 < rotary <= size or rotary % 2):
            self.bad(f"has rope.dimension_count = {_brief(rotary)} with heads of {size:,}")
        if self.architecture in ("llama", "mistral") and rotary not in (None, size):
            self.bad(f"has rope.dimension_count = {_brief(rotary)} with heads of {size:,}")

    def _feed_forward(self) -> None:
        dense = {index: self.shapes.get(f"blk.{index}.ffn_up.weight") for index in self.blocks}
        if self.get("feed_forward_length") is not None or any(dense.values()):
            inner = self._per_layer("feed_forward_length", least=0 if self.architecture not in _PLAIN else 1)
            for index, shape in dense.items():
                # Gate and up may be fused, so twice the length is right too.
                if shape is not None and inner and shape not in ((inner, self.width), (2 * inner, self.width)):
                    self.bad(f"has blk.{index}.ffn_up of shape {shape} where {(inner, self.width)} is announced")
        experts, used = self.get("expert_count") or 0, self.get("expert_used_count") or 0
        stacked = {name: shape for name, shape in self.shapes.items() if re.search(r"\.ffn_\w+_exps\.weight$", name)}
        if stacked or experts:
            if type(experts) is not int or type(used) is not int or not 0 < used <= experts:
                self.bad(f"announces {_brief(experts)} experts of which {_brief(used)} are used")
            for name, shape in stacked.items():
                if len(shape) != 3 or shape[0] != experts:
                    self.bad(f"has {_shown(name)} of shape {shape} for {experts:,} experts")

    def _plain_names(self) -> None:
        """A renamed tensor would be ignored, and the weight it holds left random: so every name must be known."""
        for name in self.shapes:
            block = _BLOCK.fullmatch(name)
            stem = _PARAMETER.fullmatch(block[2] if block else name)
            base = _OLD_EXPERT.sub(r"\1", stem[1]) if stem else ""
            if base not in (_PLAIN_BLOCK if block else _PLAIN_TOP):
                self.bad(f"holds a tensor {_shown(name)} that no {self.architecture} model has")
        first = self.blocks[0]
        for index, names in self.blocks.items():
            if names != first:
                odd = min(names ^ first)
                holder, other = (index, 0) if odd in names else (0, index)
                self.bad(f"has {_shown(odd)} in layer {holder:,} and not in layer {other:,}")
        # OLMo 2 normalizes after, not before.
        needed = ["attn_output"] if self.architecture == "olmo2" else ["attn_output", "attn_norm", "ffn_norm"]
        if "attn_qkv.weight" not in first:
            needed += ["attn_q", "attn_k", "attn_v"]
        if "ffn_gate_inp.weight" not in first:  # a router: the experts' names are many
            needed += ["ffn_up", "ffn_down"]
        for wanted in needed:
            if f"{wanted}.weight" not in first:
                self.bad(f"has no {wanted}.weight in its layers")
        for name, shape in self.shapes.items():
            if name.endswith((".attn_norm.weight", ".ffn_norm.weight", "output_norm.weight")) and shape != (
                self.width,
            ):
                self.bad(f"has {_shown(name)} of shape {shape} where ({self.width},) is needed")
        if "output_norm.weight" not in self.shapes:
            self.bad("has no final norm (output_norm.weight)")


_TOKENIZER_MODELS = ("gpt2", "llama", "t5", "gemma4")  # those transformers builds from a GGUF file


def check_gguf_tokenizer(header: GgufHeader) -> None:
    """Can a tokenizer be built: a known kind, one text a token and none twice, merges of tokens into tokens?

    Reads the vocabulary from the file again. Raises BadModelFile.
    """
    metadata, path = header.metadata, header.path
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _TOKENIZER_MODELS:
        _bad(
            path,
            f"names {_brief(kind)} as its tokenizer where {', '.join(_TOKENIZER_MODELS)} can be built",
            remedy="fetch the file again, or load the model from its folder of safetensors",
        )
    tokens = _texts(header, "tokenizer.ggml.tokens")
    vocabulary = set(tokens)
    if not tokens or len(vocabulary) != len(tokens):
        seen: set[str] = set()
        twice = next((token for token in tokens if token in seen or seen.add(token)), None)  # type: ignore[func-returns-value]
        _bad(path, "has an empty vocabulary" if twice is None else f"has the token {_shown(twice)} twice")
    if "tokenizer.ggml.merges" in metadata:
        for index, merge in enumerate(_texts(header, "tokenizer.ggml.merges")):
            parts = merge.split(" ")
            if len(parts) != 2:
                _bad(path, f"has a merge {index:,}, {_shown(merge)}, that is no pair of tokens")
            for token in (*parts, parts[0] + parts[1]):
                if token not in vocabulary:
                    _bad(path, f"has a merge {index:,}, {_shown(merge)}, whose {_shown(token)} is no token")
    elif kind == "gpt2":
        _bad(path, "has a tokenizer of byte pairs without merges (tokenizer.ggml.merges)")
    elif not isinstance(metadata.get("tokenizer.ggml.scores"), tuple | ArraySummary):
        _bad(path, "has neither merges nor scores for its tokens")


def _texts(header: GgufHeader, key: str) -> list[str]:
    try:
        return read_gguf_strings(header, key)
    except KeyError:
        _bad(header.path, f"has no list of texts {key}, so it has no tokenizer")


def _brief(value: object) -> str:
    """A metadata value as it may stand in a message."""
    if value is None:
        return "nothing"
    if type(value) is int:
        return f"{value:,}"
    return _shown(str(value)) if not isinstance(value, float) else f"{value:g}"


# ------------------------------------------------------------------------------------------------------ safetensors

_MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit
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
    with _opened(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        head = handle.read(64)
        if len(head) < 8:
            _bad(file, f"ends after {size:,} bytes, before a safetensors header begins")
        (length,) = _U64.unpack_from(head)
        if length < 2 or length > size - 8 or length > _MAX_HEADER_BYTES:
            _refuse_kind(file, head, "a safetensors file")
            _bad(
                file,
                f"announces a header of {length:,} bytes in a file of {size:,} (at most {_MAX_HEADER_BYTES:,})",
                at=0,
            )
        handle.seek(8)
        text = handle.read(length)
    entries = _json_object(file, text, "header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _bad(file, "has a __metadata__ that is not a table of texts")
    spans = [_safetensors_entry(file, name, entry) for name, entry in entries.items()]
    end = 0
    for name, _, _, start, stop in sorted(spans, key=lambda span: (span[3], span[4])):
        if start != end:
            what = "over the tensor before it" if start < end else f"{start - end:,} bytes after the tensor before it"
            _bad(file, f"puts tensor {_shown(name)} {what}", at=8 + length + start)
        end = stop
    if 8 + length + end != size:
        _bad(file, f"has {size - 8 - length:,} bytes of data where its tensors take {end:,}: cut off or damaged")
    tensors = {name: (dtype, shape, stop - start) for name, dtype, shape, start, stop in spans}
    return SafetensorsHeader(file, tensors, metadata, size)


def _safetensors_entry(file: Path, name: str, entry: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, dtype, shape, and where the bytes start and stop in the data."""
    shown = _shown(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _bad(file, f"doesn't describe tensor {shown} by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
        _bad(file, f"gives tensor {shown} the unknown dtype {_shown(str(dtype))}")
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        _bad(file, f"gives tensor {shown} a shape that is no list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _bad(file, f"gives tensor {shown} data_offsets that are no start and stop")
    bits = math.prod(shape) * SAFETENSORS_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        _bad(file, f"gives tensor {shown} {offsets[1] - offsets[0]:,} bytes where its shape needs {-(-bits // 8):,}")
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


# ------------------------------------------------------------------------------------------------------ the folder

_MAX_CONFIG_BYTES = 16 << 20
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZERS = (
    *(("tokenizer.json",), ("tokenizer.model",), ("spiece.model",), ("sentencepiece.bpe.model",)),
    *(("vocab.json", "merges.txt"), ("vocab.txt",), ("tekken.json",)),
)


@dataclass(frozen=True)
class FolderFacts:
    """A model folder in Hugging Face's layout, as its files describe it.

    config: config.json.  weight_files: relative to path.  weight_bytes: as stored.
    parameters: numbers stored, packed ones counted as they are stored; None for pickled weights.
    dtypes: as safetensors spells them; empty for pickled weights.
    needs_remote_code: the folder brings Python code of its own (auto_map).  licence: from README.md, if it says.
    """

    path: Path
    config: dict[str, Any]
    model_type: str
    weight_files: tuple[str, ...]
    weight_bytes: int
    parameters: int | None
    dtypes: frozenset[str]
    has_tokenizer: bool
    needs_remote_code: bool
    pickled: bool
    licence: str | None


def check_folder(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> FolderFacts:
    """Is this folder a whole model that can be opened without running anything?

    Pickled weights can run any code when they are opened, so they need allow_pickle=True.
    Raises ModelNotFound when there is no such folder, BadModelFile when something in it is missing, damaged or refused.
    """
    folder = Path(path)
    if not folder.exists():
        raise ModelNotFound(f"There is no folder {_shown(str(folder))}; check the path.")
    if not folder.is_dir():
        _bad(folder, "is a file where a model folder is needed", remedy="give the folder it lies in")
    config = _config(folder)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        _bad(
            folder / "config.json",
            "doesn't say which model this is (model_type)",
            remedy="fetch config.json again, or add the model_type its authors name",
        )
    files = _safetensors_files(folder)
    headers = [read_safetensors_header(folder / name) for name in files]
    if headers:
        _check_config_sizes(folder, config, headers)
    else:
        files = _pickled_files(folder, allow_pickle)
    tokenizer_config = folder / "tokenizer_config.json"
    remote = "auto_map" in config or (
        tokenizer_config.is_file() and "auto_map" in _json_file(tokenizer_config, _MAX_CONFIG_BYTES)
    )
    return FolderFacts(
        path=folder,
        config=config,
        model_type=model_type,
        weight_files=tuple(files),
        weight_bytes=sum(h.weight_bytes for h in headers) or sum((folder / name).stat().st_size for name in files),
        parameters=sum(header.parameters for header in headers) if headers else None,
        dtypes=frozenset(dtype for header in headers for dtype, _, _ in header.tensors.values()),
        has_tokenizer=any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS),
        needs_remote_code=remote,
        pickled=not headers,
        licence=_licence(folder / "README.md"),
    )


def _config(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if config.is_file():
        return _json_file(config, _MAX_CONFIG_BYTES)
    if (folder / "adapter_config.json").is_file():
        _bad(folder, "holds an adapter, not a whole model", remedy="load the model it was trained on first")
    if gguf := sorted(file.name for file in folder.glob("*.gguf")):
        _bad(folder, "holds a GGUF file and no config.json", remedy=f"load the file itself: {_shown(gguf[0])}")
    _bad(
        folder,
        "has no config.json, so it is no model folder",
        remedy="give the folder that holds config.json, or fetch the model again",
    )


def _safetensors_files(folder: Path) -> list[str]:
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (folder / "model.safetensors.index.json").is_file():
        return []
    by_shard = _shards(folder, folder / "model.safetensors.index.json")
    for shard, names in by_shard.items():
        held = read_safetensors_header(folder / shard).tensors
        if absent := [name for name in names if name not in held]:
            _bad(
                folder / shard,
                f"lacks {len(absent):,} of the weights the index places there, such as {_shown(absent[0])}",
            )
    return sorted(by_shard)


def _shards(folder: Path, index: Path) -> dict[str, list[str]]:
    """Which weights the index places in which file; every file exists and lies in the folder."""
    weight_map = _json_file(index, _MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _bad(index, "has no weight_map, so nothing says which shard holds what")
    by_shard: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _stays_inside(shard):
            _bad(index, f"places weight {_shown(name)} in {_shown(str(shard))}, outside of the folder")
        by_shard.setdefault(shard, []).append(name)
    for shard in by_shard:
        if not (folder / shard).is_file():
            _bad(folder, f"lacks the shard {_shown(shard)} that {index.name} names", remedy="fetch that file")
    return by_shard


def _stays_inside(name: str) -> bool:
    """A relative path that names a file below the folder, on any system."""
    if not name or "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        return False
    return ".." not in PurePosixPath(name).parts and len(os.fsencode(name)) <= 255


def _pickled_files(folder: Path, allow_pickle: bool) -> list[str]:
    pickled = sorted(
        file.name for file in folder.iterdir() if file.suffix in _PICKLED and file.name != "training_args.bin"
    )
    if not pickled:
        if gguf := sorted(file.name for file in folder.glob("*.gguf")):
            _bad(folder, "holds its weights as GGUF", remedy=f"load the file itself: {_shown(gguf[0])}")
        _bad(
            folder, "has a config.json and no weights", remedy="fetch model.safetensors, or its shards and their index"
        )
    if not allow_pickle:
        _bad(
            folder,
            f"holds its weights only as a pickle ({_shown(pickled[0])}), which can run any code when it is opened",
            remedy="convert it to safetensors, or pass allow_pickle=True if you trust whoever made it",
        )
    if (folder / "pytorch_model.bin").is_file():
        return ["pytorch_model.bin"]
    if (folder / "pytorch_model.bin.index.json").is_file():
        return sorted(_shards(folder, folder / "pytorch_model.bin.index.json"))
    _bad(
        folder,
        f"holds {_shown(pickled[0])}, a pickle under a name that transformers doesn't open",
        remedy="load it with torch and save the model with save_pretrained",
    )


def _check_config_sizes(folder: Path, config: dict[str, Any], headers: list[SafetensorsHeader]) -> None:
    """The sizes in the config must be seen in the weights: a wrong zero must not build a model of terabytes."""
    sizes = {size for header in headers for _, shape, _ in header.tensors.values() for size in shape}
    n_tensors = sum(len(header.tensors) for header in headers)
    for key in ("hidden_size", "vocab_size", "num_hidden_layers"):
        if key not in config:
            continue
        value = config[key]
        if type(value) is not int or value <= 0:
            _bad(folder / "config.json", f"has {key} = {_brief(value)} where a positive whole number is needed")
        if (value > n_tensors) if key == "num_hidden_layers" else (value not in sizes):
            _bad(
                folder / "config.json",
                f"has {key} = {value:,}, which doesn't fit the weights beside it",
                remedy="fetch config.json and the weights of the same model again",
            )


def _licence(readme: Path) -> str | None:
    """The licence in a model card's front matter: its name where it has one of its own."""
    if not readme.is_file():
        return None
    with _opened(readme) as handle:
        lines = handle.read(1 << 16).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if match := re.fullmatch(r"(license|license_name):\s*(?:-\s*)?(.+?)\s*", line):
            found[match[1]] = match[2].strip("\"'[]")
    licence = found.get("license")
    return found.get("license_name", licence) if licence == "other" else licence


# --------------------------------------------------------------------------------------------------- shared by all


def sha256(path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits. progress is called with (bytes done, bytes in all) as it goes.

    Raises ModelNotFound when there is no such file.
    """
    file = Path(path)
    done, digest = 0, hashlib.sha256()
    with _opened(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        while chunk := handle.read(4 << 20):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, size)
    return digest.hexdigest()


def _opened(path: Path) -> BinaryIO:
    """The file, open for reading, once it is known to be one: a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ModelNotFound(f"There is no file {_shown(str(path))}; check the path.") from error
    if stat.S_ISDIR(mode):
        _bad(path, "is a folder where a file is needed", remedy="give the path of the file in it")
    if not stat.S_ISREG(mode):
        _bad(path, "is a device or a pipe where a file is needed", remedy="save it as a file first")
    try:
        return path.open("rb")
    except OSError as error:
        _bad(path, f"can't be read ({error.strerror})", remedy="check that you may read it")


def _refuse_kind(path: Path, head: bytes, wanted: str) -> None:
    """Name the frequent mix-ups; returns when it is none of them."""
    if head.startswith(b"version https://git-lfs"):
        _bad(path, "is a Git LFS pointer, not the file itself", remedy="run `git lfs pull` where it was cloned")
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        _bad(path, f"is a web page, not {wanted}", remedy="fetch the file by its direct address")
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        _bad(path, f"is a zip archive or a pickle, not {wanted}", remedy="unpack it, or convert it to safetensors")
    if head.startswith(b"GGUF") and wanted != "a GGUF file":
        _bad(path, f"is a GGUF file, not {wanted}", remedy="give it a name that ends in .gguf")


def _json_file(path: Path, limit: int) -> dict[str, Any]:
    with _opened(path) as handle:
        if (size := os.fstat(handle.fileno()).st_size) > limit:
            _bad(path, f"has {size:,} bytes where {limit:,} are the most")
        return _json_object(path, handle.read(limit + 1), "text")


def _json_object(path: Path, text: bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            _bad(path, f"has the entry {_shown(twice)} twice")
        return entries

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        _bad(path, f"has a {what} that is not JSON")
    if not isinstance(value, dict):
        _bad(path, f"has a {what} that is no JSON object")
    return value
