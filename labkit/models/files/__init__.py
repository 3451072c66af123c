"""Model files, checked before any library opens them.

A reader here believes nothing a file says about itself: every count, length and offset is compared with the bytes that
are really there before it is used. So a damaged or hostile file costs milliseconds and one clear sentence, never an
endless loop or a huge allocation. Only headers are read; weights are not touched, so a weight, or a name or number that
is wrong yet plausible, is found by the checksum alone.
"""

from labkit.models.files.common import Json, sha256
from labkit.models.files.folder import FolderFacts, check_folder, read_config
from labkit.models.files.gguf_checks import check_gguf_architecture, check_gguf_tokenizer
from labkit.models.files.gguf_header import (
    GGML_TYPES,
    ArraySummary,
    GgufHeader,
    GgufTensor,
    read_gguf_header,
    read_gguf_strings,
)
from labkit.models.files.safetensors_header import SAFETENSORS_BITS, SafetensorsHeader, read_safetensors_header

__all__ = [
    "GGML_TYPES",
    "SAFETENSORS_BITS",
    "ArraySummary",
    "FolderFacts",
    "GgufHeader",
    "GgufTensor",
    "Json",
    "SafetensorsHeader",
    "check_folder",
    "check_gguf_architecture",
    "check_gguf_tokenizer",
    "read_config",
    "read_gguf_header",
    "read_gguf_strings",
    "read_safetensors_header",
    "sha256",
]
