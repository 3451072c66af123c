"""From a GGUF file to a transformers model, and to a folder that opens in a fraction of a second afterwards."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import BadModelFile
from labkit.models import files, gguf_settings
from labkit.models.files import GgufHeader, Json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("labkit")
_OPENED_FROM = "labkit_opened_from"


@dataclass(frozen=True)
class OpenedFile:
    """A GGUF file as a model. info: what transformers says of the weights.  notes: what it says and can't be had."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    info: Json
    notes: tuple[str, ...]


def open_gguf(path: Path, dtype: torch.dtype, **options: object) -> OpenedFile:
    """A GGUF file as a transformers model, its weights dequantized into `dtype`.

    Header, architecture and tokenizer are checked before any library sees the file. Raises BadModelFile when it is
    damaged or its parts make no one model, Unavailable when it is sound and can't be opened as what it says.
    """
    from transformers import AutoModelForCausalLM

    header = files.read_gguf_header(path)
    files.check_gguf_architecture(header)
    files.check_gguf_tokenizer(header)
    gguf_settings.check_opened_by_transformers(header)
    tokenizer, of_tokenizer = read_tokenizer(header)
    config, of_config = read_config(header)
    notes = of_config + of_tokenizer
    safe = _safe(path)
    opened: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, config=config, dtype=dtype, output_loading_info=True, **safe, **options
    )
    model, info = opened
    gguf_settings.check_rotary(model, config, path.name)
    ends = gguf_settings.end_tokens(header)
    if len(ends) > 1 and model.generation_config is not None:
        model.generation_config.eos_token_id = ends
    # transformers marks the model as quantized although its weights are plain tensors now; saving would be refused
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(attribute, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    vars(model)[_OPENED_FROM] = path
    for note in notes:
        log.warning("%s: %s", path.name, note)
    log.info("opened %s (%s) from GGUF in %s", path.name, header.architecture, dtype)
    return OpenedFile(model, tokenizer, info, notes)


def opened_from(model: torch.nn.Module) -> Path | None:
    """The GGUF file that a model was opened from, its weights dequantized; None for a model from elsewhere."""
    found = vars(model).get(_OPENED_FROM)
    return found if isinstance(found, Path) else None


def read_tokenizer(header: GgufHeader) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """The tokenizer of a GGUF file that has been checked, and notes of what can't be given to it."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(header.path.parent, **_safe(header.path))
    return tokenizer, gguf_settings.completed_tokenizer(header, tokenizer)


def read_config(header: GgufHeader) -> tuple[PreTrainedConfig, tuple[str, ...]]:
    """The configuration that a GGUF file stands for, and notes of what it says and can't be set. Raises Unavailable."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(header.path.parent, **_safe(header.path))
    return config, gguf_settings.configured(header, config)


def _safe(path: Path) -> Json:
    # said outright: left open, transformers would ask at the keyboard whether to run code that lies beside the file
    return {"local_files_only": True, "trust_remote_code": False, "gguf_file": path.name}


def gguf_to_folder(path: Path, folder: Path, *, name: str) -> dict[str, str]:
    """Write a GGUF model as a transformers folder in float32, in which the values of 4-bit grids are exact.

    Returns the versions it was made with.
    """
    with quietly():  # its three bars speak of shards and de-quantizing; the caller has said what is going on
        return _gguf_to_folder(path, folder, name)


def _gguf_to_folder(path: Path, folder: Path, name: str) -> dict[str, str]:
    import torch
    import transformers

    opened = open_gguf(path, torch.float32)
    model, tokenizer = opened.model, opened.tokenizer
    refuse_incomplete(opened.info, path.name)
    model.config._name_or_path = name
    if tokenizer.model_max_length > 1_000_000_000:  # "unknown" in transformers
        tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    log.info("converted %s into the folder %s", path.name, folder)
    return {"transformers": transformers.__version__, "torch": torch.__version__}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' own progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def refuse_incomplete(info: Json, name: str) -> None:
    """Raise BadModelFile when a model was opened with weights missing, which transformers fills with random numbers."""
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in info.get("mismatched_keys") or ())
    if missing or mismatched:
        what = (
            f"lacks {len(missing)} weights ({missing[0]}, ...)"
            if missing
            else f"has weights of another shape ({mismatched[0]})"
        )
        raise BadModelFile(f"{name} {what}, so the model would be partly random; fetch the file again.")
