"""A GGUF file written and, before it gets its name, read again: what it says must be what the model and its tokenizer are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import checks
from labkit.errors import BadInput, NotEnoughDisk, Unavailable
from labkit.models import convert, files, gguf_settings
from labkit.models.gguf_metadata import ARCHITECTURES, Value, architecture_of, settings, vocabularies
from labkit.models.memory import human_bytes
from labkit.models.texts import KINDS, passages

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# fields of a configuration that change nothing of what is computed from its weights
_NEUTRAL = frozenset(
    {
        *("transformers_version", "_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "use_cache", "return_dict"),
        *("initializer_range", "attention_dropout", "pretraining_tp", "max_window_layers", "router_aux_loss_coef"),
        *("output_attentions", "output_hidden_states", "output_router_logits", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "id2label", "label2id", "problem_type", "quantization_config", "task_specific_params"),
        *("head_dim", "use_sliding_window", "layer_types"),  # these three where they say the same otherwise
    }
)
_PROBES = (
    "The year 1984, 3.14159 and 2 000 000:\n\n\tdef f(x):\n\t\treturn x**2  # it's 'quoted'   here",
    "  two spaces before, three after   ",
    "Ünïcödé, ẞ, ﬁ, 中文字, 日本語のテキスト, العربية, 😀👍🏽, ½ and ²",
    "I'LL SAY WE'VE DONE IT; they're don't_snake_case CamelCase HTTPServer\r\n\r\n...!!! -> <= != && ||",
)


@dataclass(frozen=True)
class FileTensor:
    """A tensor as it will stand in a file. shape: of the weights, slowest first.  ggml_type: "F32", "Q4_0", ..."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str

    @property
    def n_bytes(self) -> int:
        number, size = next((block, size) for name, block, size in files.GGML_TYPES.values() if name == self.ggml_type)
        elements = 1
        for each in self.shape:
            elements *= each
        return elements // number * size


def write(
    path: Path,
    tensors: Mapping[FileTensor, object],
    data: Iterator[np.ndarray],
    *,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    licence: str | None,
) -> None:
    """Write a file under a name of its own, read its settings and tokenizer again, and only then give it its name.

    data: the bytes or float32 values of each tensor, in the order of `tensors`, made as they are written.
    Raises Unavailable where what is read back is not what was to be said, NotEnoughDisk, BadInput for a bad path.
    """
    said = settings(config, name=name, licence=licence)
    said |= _vocabulary(tokenizer, config, said)
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = sum(each.n_bytes for each in tensors), shutil.disk_usage(path.parent).free
    if needed * 1.05 > free:
        raise NotEnoughDisk(
            f"{path.name} takes {human_bytes(needed)} and {human_bytes(free)} are free in {path.parent}; free some "
            "space, or write it elsewhere."
        )
    # a folder of its own: transformers looks for further files beside the one it opens
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        made = Path(folder) / path.name
        _put(made, config, said, list(tensors), data)
        _check(made, config)
        made.replace(path)


def _put(
    path: Path,
    config: PreTrainedConfig,
    said: Mapping[str, Value],
    tensors: Sequence[FileTensor],
    data: Iterator[np.ndarray],
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture_of(config))
    try:
        for key, value in said.items():
            _add(writer, key, value)
        for each in tensors:
            kind = gguf.GGMLQuantizationType[each.ggml_type]
            stored = gguf.quant_shape_to_byte_shape(each.shape, kind) if _is_packed(each) else each.shape
            writer.add_tensor_info(each.name, stored, _numpy_type(each), each.n_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for each, values in zip(tensors, data, strict=True):
            if values.nbytes != each.n_bytes:
                raise ValueError(f"{each.name}: {values.nbytes} bytes where {each.n_bytes} were announced")
            writer.write_tensor_data(values)
    finally:
        writer.close()


def _is_packed(tensor: FileTensor) -> bool:
    return tensor.ggml_type not in ("F32", "F16")


def _numpy_type(tensor: FileTensor) -> Any:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16}.get(tensor.ggml_type, np.uint8))


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, said: Mapping[str, Value]
) -> dict[str, Value]:
    """The metadata of the tokenizer from which the same one is read again. Raises Unavailable where there are none."""
    import numpy as np

    # only what a tokenizer is read from, with one tensor, since a file must have one
    with tempfile.TemporaryDirectory() as folder:
        for number, vocabulary in enumerate(vocabularies(tokenizer, config.vocab_size)):
            probe = Path(folder) / f"{number}.gguf"
            one = FileTensor("token_embd.weight", (1, 1), "F32")
            _put(probe, config, vocabulary, [one], iter([np.zeros((1, 1), np.float32)]))
            differs = _differs(tokenizer, convert.read_tokenizer(files.read_gguf_header(probe))[0])
            if differs is None:
                return vocabulary
    raise Unavailable(
        f"The tokenizer ({type(tokenizer).__name__}, {architecture_of(config)}) can't be written into a GGUF file: read "
        f"again, it makes other tokens of {differs!r}; use llama.cpp's own converter on the model's folder."
    )


def _differs(tokenizer: PreTrainedTokenizerBase, read: PreTrainedTokenizerBase) -> str | None:
    """The start of a text that two tokenizers make different ids of."""
    shipped = [passages(kind)[0].text[:2000] for kind in KINDS]
    special = " and ".join(tokenizer.all_special_tokens)
    for text in (*_PROBES, *shipped, special, f"x{special.replace(' and ', '')}y"):
        for whole in (True, False):
            mine, theirs = (each(text, add_special_tokens=whole, verbose=False) for each in (tokenizer, read))
            if mine.input_ids != theirs.input_ids:
                return text[:40]
    template = getattr(tokenizer, "chat_template", None)
    return None if template == read.chat_template or not template else "its chat template"


def _check(path: Path, config: PreTrainedConfig) -> None:
    """The file again, as it will be opened. Raises Unavailable where its settings come out otherwise."""
    header = files.read_gguf_header(path)
    files.check_gguf_architecture(header)
    files.check_gguf_tokenizer(header)
    gguf_settings.check_opened_by_transformers(header)
    read, notes = convert.read_config(header)
    wanted, found = config.to_dict(), read.to_dict()
    if ARCHITECTURES[str(config.model_type)] == read.model_type:
        wanted["model_type"] = read.model_type
    different = [
        f"{key} = {found.get(key)!r} where it is {value!r}"
        for key, value in wanted.items()
        if key not in _NEUTRAL and not _equal(value, found.get(key, getattr(type(read)(), key, None)))
    ]
    different += [
        f"{key} = {now!r} where it is {was!r}"
        for key, was, now in zip(("head size", "windows"), _derived(config), _derived(read), strict=True)
        if was != now
    ]
    if different or notes:
        raise Unavailable(
            f"A GGUF file can't say all of this model's settings ({'; '.join([*different, *notes])}); keep it as a folder "
            "of safetensors."
        )


def _equal(wanted: object, found: object) -> bool:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(_equal(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, float) and isinstance(found, int | float):
        return abs(wanted - found) <= 1e-6 * abs(wanted)  # the file has float32
    return wanted == found


def _derived(config: PreTrainedConfig) -> tuple[int, bool]:
    """(size of a head, whether any layer attends to a window alone)."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return int(head), bool(window) if kinds is None else any(kind != "full_attention" for kind in kinds)


def checked_path(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """The path of a file to be written. Raises BadInput for one that is there already, or names no GGUF file."""
    if not isinstance(path, str | os.PathLike):
        checks.refuse("path", path, "the path of a file that ends in .gguf")
    file = Path(path).expanduser()
    if file.suffix != ".gguf":
        raise BadInput(f"path={os.fspath(path)!r} does not end in .gguf, by which lk.load knows such a file; let it.")
    if file.is_dir() or (file.exists() and not overwrite):
        raise BadInput(f"{file} is there already; give another path, or overwrite=True.")
    return file
