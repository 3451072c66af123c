"""Opening a model: placement and memory first, then transformers, with every foreseeable failure told in a sentence."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from labkit import checks
from labkit.errors import BadInput, BadModelFile, LabError, NotEnoughMemory, Unavailable
from labkit.models import convert, files, hardware, kinds, memory, origin, quantized, resolve
from labkit.models.files import Json
from labkit.models.memory import human_bytes, what_fits
from labkit.models.quiet import quiet_libraries
from labkit.models.resolve import ModelPlace, say

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from labkit.models.sources import HubModel

_LOG = logging.getLogger("labkit")

DeviceMap: TypeAlias = "str | Mapping[str, int | str | torch.device] | None"

# Room for activations and a short cache beside the weights, as a share of the weights.
HEADROOM = 0.1
GGUF_HEADROOM = 1.0  # its weights stand in memory twice for a moment, dequantized and in the model


# Architectures that compute attention in code of their own. Under sdpa, falcon hands back wrong patterns and changes its
# logits when asked for them, and switching later only warns: so they are opened with the implementation that can be seen.
EAGER_ONLY = ("falcon", "bloom", "mpt")


@dataclass(frozen=True)
class Options:
    """How a model is to be opened; the fields are the arguments of lk.load."""

    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    device_map: DeviceMap = None
    quantization: QuantizationConfigMixin | None = None
    revision: str | None = None
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    token: str | bool | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class OpenedModel:
    """A model on its device, and what is known of where it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    licence: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Where the weights go. device_map is accelerate's and replaces device when set."""

    device: str
    dtype: torch.dtype
    device_map: DeviceMap
    note: str | None = None


def open_model(name: str | os.PathLike[str], options: Options) -> OpenedModel:
    """Find, check and open a model.

    Raises ModelNotFound, BadModelFile, DownloadFailed, NotEnoughMemory, NotEnoughDisk, BadInput or Unavailable.
    """

    if options.quantization is not None and not hasattr(options.quantization, "quant_method"):
        raise BadInput(
            f"quantization={options.quantization!r} is no transformers quantization configuration; pass one, such as "
            "transformers.BitsAndBytesConfig(load_in_4bit=True)."
        )

    kinds.check_attention(options.attn_implementation)
    quiet_libraries()

    def before_fetch(found: HubModel) -> None:
        on_disk = sum(found.weight_files.values())
        as_stored = on_disk if found.quantized or not found.parameters else None
        place_weights(found.repo_id, found.parameters or on_disk // 2, options, stored_bytes=as_stored)

    place = resolve.resolve(
        name,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
        remote_code=options.trust_remote_code,
        token=options.token,
        before_fetch=before_fetch,
    )
    if place.kind == "gguf":
        return _open_gguf(place, options)
    return _open_folder(place, options)


def place_weights(
    name: str,
    parameters: int,
    options: Options,
    *,
    stored_bytes: int | None = None,
    headroom: float = HEADROOM,
) -> Placement:
    """Decide device and dtype, and hold the bytes of the weights against what is free.

    stored_bytes: what an already quantized checkpoint takes as it is. headroom: room beside the weights, as a share of
    them. Raises NotEnoughMemory naming what would fit.
    """
    device = hardware.pick_device(options.device)
    dtype = hardware.pick_dtype(options.dtype, device)
    bits = _quantized_bits(options.quantization)
    if bits is not None:
        needed, how = parameters * bits // 8, f"{bits} bits"
    elif stored_bytes is not None:
        needed, how = stored_bytes, "its stored form"
    else:
        needed, how = parameters * dtype.itemsize, str(dtype).removeprefix("torch.")
    if options.device_map is not None:  # the user decides; accelerate checks and offloads
        return Placement(device, dtype, options.device_map)
    wanted = int(needed * (1 + headroom))
    free = hardware.free_bytes(device)
    if wanted <= free:
        return Placement(device, dtype, None)
    if options.device == "auto" and device == "cuda" and wanted <= free + hardware.free_bytes("cpu"):
        note = f"{needed / 2**30:.1f} GiB do not fit on the GPU: spread over GPU and CPU (device_map='auto'), which is slower"
        say(f"{name}: {note}.")
        return Placement(device, dtype, "auto", note)
    fits = what_fits(name, int(free / (1 + headroom)), tokens=1, parameters=parameters)
    raise NotEnoughMemory(
        f"{name} needs {human_bytes(wanted)} ({human_bytes(needed)} of weights in {how}, and room to open and run them), and "
        f"{human_bytes(free)} are free on {device}. "
        f"What would fit: {'; '.join(fits) if fits else 'nothing labkit knows; close other programs'}."
    )


def _open_folder(place: ModelPlace, options: Options) -> OpenedModel:
    import transformers

    opener = getattr(transformers, kinds.opened_with(place.path))
    facts = files.check_folder(place.path, allow_pickle=options.allow_pickle)
    if facts.needs_remote_code and not options.trust_remote_code and not _known_architecture(facts.config):
        raise BadModelFile(
            f"{place.name} brings its own Python code, which is not run unless asked for; "
            "pass trust_remote_code=True if you have read it and trust it."
        )
    # the tokenizer first: cheap, and its absence should not be learnt after gigabytes were read
    tokenizer = _tokenizer(place, facts.has_tokenizer, options)
    prequantized = "quantization_config" in facts.config
    parameters = facts.parameters or facts.weight_bytes // 2  # of pickled files only the size is known unopened
    as_stored = facts.weight_bytes if prequantized or facts.parameters is None else None
    placement = place_weights(place.name, parameters, options, stored_bytes=as_stored)
    with _told(place.name, options, facts.config), convert.quietly():
        opened: Any = opener.from_pretrained(
            place.path,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=None if options.allow_pickle else True,
            trust_remote_code=options.trust_remote_code,
            **_keywords(placement, options, facts.model_type),
        )
    model, info = opened
    convert.refuse_incomplete(info, place.name)
    return _finish(model, tokenizer, place, placement, place.licence or facts.licence, options)


def _open_gguf(place: ModelPlace, options: Options) -> OpenedModel:
    header = files.read_gguf_header(place.path)
    placement = place_weights(place.name, header.parameters, options, headroom=GGUF_HEADROOM)
    keywords = _keywords(placement, options, header.architecture)
    dtype = keywords.pop("dtype")
    with _told(place.name, options):
        opened = convert.open_gguf(place.path, dtype, **keywords)
    convert.refuse_incomplete(opened.info, place.name)
    model, tokenizer = opened.model, opened.tokenizer
    called = header.metadata.get("general.name")
    names = (
        (f"the file calls its model {checks.shown(called)}",)
        if isinstance(called, str) and called != place.name
        else ()
    )
    place = replace(place, notes=(*place.notes, *opened.notes, *names))
    if options.tokenizer is not None:
        tokenizer = _tokenizer(place, False, options)
    licence = header.metadata.get("general.license")
    return _finish(model, tokenizer, place, placement, licence if isinstance(licence, str) else None, options)


def _finish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    place: ModelPlace,
    placement: Placement,
    licence: str | None,
    options: Options,
) -> OpenedModel:
    if placement.device_map is None and options.quantization is None and not getattr(model, "is_quantized", False):
        whole: torch.nn.Module = model
        whole.to(placement.device)
    model.eval()
    spread = getattr(model, "hf_device_map", None)  # accelerate's: which part is where
    where = ", ".join(sorted({str(part) for part in spread.values()})) if spread else str(model.device)
    _LOG.info("opened %s (%s) in %s on %s", place.name, place.kind, model.dtype, where)
    notes = (*place.notes, *((placement.note,) if placement.note else ()))
    quantized.takes_odd_shapes(model)
    if options.quantization is None and place.kind in ("gguf", "prepared"):
        source = place.path if place.kind == "gguf" else next(place.path.glob("*.gguf"), None)
        if source is not None:
            origin.remember(model, source)
    if options.quantization is not None and (untouched := quantized.left_alone(model)) is not None:
        say(f"{place.name}: {untouched}.")
        notes = (*notes, untouched)
    return OpenedModel(model, tokenizer, place.name, licence, notes)


def _keywords(placement: Placement, options: Options, model_type: str | None = None) -> Json:
    keywords: Json = {"dtype": placement.dtype}
    if placement.device_map is not None:
        keywords["device_map"] = placement.device_map
    elif placement.device != "cpu":
        keywords["device_map"] = {"": placement.device}
    if options.quantization is not None:
        keywords["quantization_config"] = options.quantization
    implementation = options.attn_implementation or ("eager" if model_type in EAGER_ONLY else None)
    if implementation is not None:
        keywords["attn_implementation"] = implementation
    return keywords


def _tokenizer(place: ModelPlace, has_tokenizer: bool, options: Options) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    given = options.tokenizer
    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    if given is None and place.tokenizer is None and not has_tokenizer:
        raise BadModelFile(
            f"{place.name} has no tokenizer (tokenizer.json or tokenizer.model); pass tokenizer= a tokenizer, or the "
            "folder that holds it."
        )
    folder = Path(given) if given is not None else place.tokenizer or place.path
    if not folder.is_dir():
        raise BadInput(
            f"tokenizer={os.fspath(folder)!r} is no folder; pass a tokenizer object or the folder that holds one."
        )
    with _told(f"The tokenizer of {place.name}"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=options.trust_remote_code)


def _known_architecture(config: Json) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def _quantized_bits(quantization: QuantizationConfigMixin | None) -> int | None:
    """Bits per weight a quantization configuration asks for, where it says so."""
    if quantization is None:
        return None
    if getattr(quantization, "load_in_4bit", False):
        return 4
    if getattr(quantization, "load_in_8bit", False):
        return 8
    bits = getattr(quantization, "bits", None)
    return bits if isinstance(bits, int) else 8


@contextlib.contextmanager
def _told(name: str, options: Options | None = None, config: Json | None = None) -> Iterator[None]:
    """Turn what transformers raises on a file it can't open into one sentence with a remedy.

    The loaders of the library raise every kind of error on damaged files, and damage is what this guards against, so
    all of Exception is caught here; the original stays attached as the cause.
    """
    import torch

    try:
        yield
    except LabError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise NotEnoughMemory(
            f"Memory ran out while {name} was opened ({_first_line(error)}); close other programs or labs, or load it "
            "with dtype='bfloat16' or a quantization."
        ) from error
    except ImportError as error:
        raise Unavailable(f"{name} needs a package that is missing: {_first_line(error)}") from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise BadModelFile(
                f"{name} brings its own Python code, which is not run unless asked for; pass trust_remote_code=True if you "
                "have read it and trust it."
            ) from error
        if "does not recognize this architecture" in str(error):
            import transformers

            raise Unavailable(
                f"{name} is of an architecture that transformers {transformers.__version__} does not know; update "
                "transformers, or pass trust_remote_code=True if the model brings its own code and you trust it."
            ) from error
        if options is not None and (setting := _setting_named(error, options)) is not None:
            raise BadInput(
                f"{name} can't be opened with {setting} ({type(error).__name__}: {_first_line(error)}); use another "
                "value, or leave it out."
            ) from error
        if config is not None and (wrong := _unbuildable(config)) is not None:
            raise BadModelFile(f"The config.json of {name} can't be used: {wrong}") from error
        raise BadModelFile(
            f"{name} can't be opened ({type(error).__name__}: {_first_line(error)}); the file is damaged or not what its "
            "configuration says: fetch it again."
        ) from error


def _setting_named(error: BaseException, options: Options) -> str | None:
    """The setting that transformers complains of, where one was given and its words name it."""
    said = f"{type(error).__name__} {error}".lower()
    words = {
        "attn_implementation": ("attn_implementation", "attention implementation", "scaled_dot_product", "flash"),
        "device_map": ("device_map", "device map", "invalid device", "expected one of cpu"),
        "quantization": ("quantiz", "bitsandbytes", "bits"),
    }
    for name, parts in words.items():
        if getattr(options, name) is not None and any(part in said for part in parts):
            return f"{name}={getattr(options, name)!r}"[:80]
    return None


def _unbuildable(config: Json) -> str | None:
    """Why no model can be built of a configuration, where none can."""
    try:
        memory.skeleton(memory.named_config(config)[1])
    except BadInput as error:
        return None if "no causal language model" in str(error) else str(error)
    except LabError:
        return None
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:240]
