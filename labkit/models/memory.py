"""How many bytes a model needs: its weights, and its key-value cache at a number of tokens.

Nothing is derived from rules of thumb. The architecture is built from its configuration on torch's meta device (shapes
without storage) and its parameters are counted; then two tokens are passed through it, still without storage, and what
transformers' own cache holds is read off. So grouped heads, sliding windows, latent attention and recurrent states
are counted as the installed transformers handles them.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from labkit import checks
from labkit.errors import BadInput, ModelNotFound
from labkit.markup import escaped, html_table
from labkit.models import catalog, published, shipped
from labkit.models.config import CHOSEN, EXPERTS, KEY_VALUE_HEADS, absurdity, by_layer, context_length, first_number
from labkit.models.files import Json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Countable: TypeAlias = "str | Path | Mapping[str, object] | PreTrainedConfig | torch.nn.Module"

PARTS = (
    "embeddings",
    "attention",
    "state space",
    "mlp",
    "shared experts",
    "experts",
    "router",
    "norms",
    "unembedding",
    "other",
)

_BITS = {
    "float64": 64,
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "int8": 8,
    "int4": 4,
}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}
_HALF_PRECISION_BYTES = 2

REMOTE = {  # families that transformers has only as code fetched with the weights
    "qwen": "it is counted as the 'qwen2' of the same arithmetic, memory('qwen-7b').",
    "kimi_k2": "it is DeepSeek-V3's architecture: give its fields as 'deepseek_v3', or memory('kimi-k2').",
    "kimi_k3": "no architecture of transformers computes the same; of Kimi there are kimi-k2 and kimi-linear-48b-a3b.",
    "crystalcoder": "no architecture of transformers computes the same; of LLM360 there are amber and k2-65b.",
}


@dataclass(frozen=True, repr=False)
class Memory:
    """Bytes of a model's weights and of its key-value cache.

    parameters: elements, tied weights once.  parts: the same elements by part (keys from PARTS, empty parts left out).
    active_parameters: elements one token passes through. Of the routed experts only the chosen share counts; shared
        experts and embeddings count whole. Equal to parameters in a dense model.
    weight_bytes: parameters and stored buffers at dtype.
    kv_cache_bytes: what transformers' cache holds after a forward pass over tokens tokens of each of batch sequences;
        None when it can't be told, and notes say why. Recurrent states are included.
    kv_bytes_per_token: bytes one more token adds to one sequence while no sliding window is full.
    latent_cache_bytes: with latent attention, what the architecture itself needs to keep
        (kv_lora_rank + qk_rope_head_dim elements for a token and layer); None for other architectures.
    dtype, cache_dtype: names such as "bfloat16".  notes: what a reader should know of these numbers.
    Working memory (activations, logits, the framework itself) is not included.
    """

    name: str
    parameters: int
    active_parameters: int
    parts: dict[str, int]
    weight_bytes: int
    kv_cache_bytes: int | None
    kv_bytes_per_token: int | None
    latent_cache_bytes: int | None
    tokens: int
    batch: int
    dtype: str
    cache_dtype: str
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Weights and cache; the weights alone where the cache is not known."""
        return self.weight_bytes + (self.kv_cache_bytes or 0)

    def _rows(self) -> list[tuple[str, str]]:
        """Label and value, in the order shown."""
        active = "" if self.active_parameters == self.parameters else f", {self.active_parameters:,} active for a token"
        rows = [("parameters", f"{self.parameters:,}{active}")]
        rows += [(f"  {part}", f"{count:,} ({count / self.parameters:.1%})") for part, count in self.parts.items()]
        rows.append((f"weights in {self.dtype}", human_bytes(self.weight_bytes)))
        sequences = f"{self.batch} sequence{'s' if self.batch != 1 else ''} of {self.tokens:,} tokens"
        label = f"KV cache in {self.cache_dtype}, {sequences}"
        if self.kv_cache_bytes is None or self.kv_bytes_per_token is None:
            rows.append((label, "not known"))
        else:
            per_token = f", {human_bytes(self.kv_bytes_per_token)} for each token" if self.kv_bytes_per_token else ""
            rows.append((label, human_bytes(self.kv_cache_bytes) + per_token))
        if self.latent_cache_bytes is not None and self.latent_cache_bytes != self.kv_cache_bytes:
            rows.append(("  as latents alone", human_bytes(self.latent_cache_bytes)))
        rows.append(("total", human_bytes(self.total_bytes)))
        return rows

    def __str__(self) -> str:
        return as_lines(self.name, self._rows(), self.notes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escaped(note)}</li>" for note in self.notes)
        rows = html_table(self._rows(), caption=f"Memory of {self.name}", labelled=True, right=[1])
        return f"<div>{rows}{f'<ul>{notes}</ul>' if notes else ''}</div>"


def as_lines(name: str, rows: Sequence[tuple[str, str]], notes: Sequence[str]) -> str:
    """A table of labels and values as text, the name above it and the notes below."""
    width = max(len(label) for label, _ in rows)
    lines = [name, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    return "\n".join(lines + [f"  note: {note}" for note in notes])


def human_bytes(size_bytes: int) -> str:
    """A number of bytes in B, KiB, MiB or GiB (powers of 1,024) with three or so digits."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB" if size >= 10 else f"{size:.2f} GiB"


def memory(
    name_or_config: Countable,
    *,
    tokens: int = 8192,
    batch: int = 1,
    dtype: str | torch.dtype = "bfloat16",
    cache_dtype: str | torch.dtype | None = None,
) -> Memory:
    """Bytes a model needs, before it is loaded or even fetched. Nothing is downloaded and no weight is allocated.

    name_or_config: a published name or hub id (labkit.models.published.names()), a transformers configuration, a dict
        with model_type, a folder with a config.json, or a model.
    tokens: the length of each sequence held in the cache.  batch: the number of sequences.
    dtype: of the weights, a name or a torch dtype. "int8" and "int4" count plain bits for each weight, without the
        scales and the unquantized layers of a real format, which come to a few per cent.
    cache_dtype: of the cache; None takes that of the weights, or bfloat16 (2 bytes) where they are 8 bits or fewer.
    Raises ModelNotFound for a name that is not known, BadInput for anything that can't be counted.
    """
    tokens, batch = checks.whole("tokens", tokens, 0), checks.whole("batch", batch, 1)
    name, config = named_config(name_or_config)
    weights = _dtype_name(dtype)
    cache = _cache_dtype_name(weights, cache_dtype)
    architecture = _architecture(ConfigKey(fingerprint(config), config))
    stored = architecture.parameters + architecture.buffer_elements
    return _memory(name, architecture, tokens, batch, math.ceil(stored * _BITS[weights] / 8), weights, cache)


def model_memory(model: PreTrainedModel, *, tokens: int = 8192, batch: int = 1) -> Memory:
    """Bytes a loaded model holds in weights, as stored, and its cache would hold at tokens and batch.

    model: a transformers causal language model. Quantized weights count with their scales, tied tensors once. The cache
    has the model's dtype. Raises BadInput where model has no configuration.
    """
    tokens, batch = checks.whole("tokens", tokens, 0), checks.whole("batch", batch, 1)
    name, config = named_config(model)
    try:
        architecture = _architecture(ConfigKey(fingerprint(config), config))
    except BadInput as error:  # a class of the user's own: its weights are here to be counted
        architecture = _describe(model, config, None, (f"The cache is not known: {error}",))
    tensors = _stored_tensors(model)
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        label = str(tensor.dtype).removeprefix("torch.")
        by_dtype[label] = by_dtype.get(label, 0) + tensor.numel() * tensor.element_size()
    total = sum(by_dtype.values())
    # A few float32 scales beside 16-bit weights are not worth a name.
    main = [label for label, size in sorted(by_dtype.items(), key=lambda item: -item[1]) if size >= total / 100]
    packed = _packed_elements(model)
    held = sum(parameter.numel() for parameter in model.parameters()) + packed
    countable = packed or all(tensor.is_floating_point() for tensor in tensors)
    if countable and held != architecture.parameters:
        architecture = architecture.with_parameters(held)
    cache = _cache_dtype_name(_dtype_name(model.dtype), None)
    return _memory(name, architecture, tokens, batch, total, " + ".join(main) or "no weights", cache)


def what_fits(
    name_or_config: Countable, free_bytes: int, *, tokens: int = 2048, batch: int = 1, parameters: int | None = None
) -> list[str]:
    """What would fit in free_bytes with a cache of tokens and batch: this model's dtypes, then published models.

    parameters: the count of a model whose configuration is not at hand; name_or_config is then its name, and where
        that is not a published one, its weights are held against free_bytes without a cache.
    Returns short phrases such as "llama-2-7b in int4 (4.14 GiB)", this model's first from wide to narrow, then up to
    three of the largest published models in bfloat16. Empty when nothing fits.
    Raises ModelNotFound for a name that is not known when parameters is not given.
    """

    def phrase(name: str, dtype: str, size: int) -> list[str]:
        return [f"{name} in {dtype} ({human_bytes(size)})"] if size <= free_bytes else []

    name, phrases = str(name_or_config), []
    by_count = parameters is not None and isinstance(name_or_config, str) and published.get(name) is None
    for dtype in ("float32", "bfloat16", "int8", "int4"):
        if by_count and parameters is not None:
            phrases += phrase(name, dtype, math.ceil(parameters * _BITS[dtype] / 8))
        else:
            own = memory(name_or_config, tokens=tokens, batch=batch, dtype=dtype)
            name = own.name
            phrases += phrase(name, dtype, own.total_bytes)
    entries = [entry for known in published.names() if (entry := published.get(known)) and entry.name != name]
    others: list[str] = []
    for entry in sorted(entries, key=lambda entry: entry.parameters, reverse=True):
        if entry.parameters * _HALF_PRECISION_BYTES <= free_bytes and len(others) < 3:
            others += phrase(entry.name, "bfloat16", memory(entry.name, tokens=tokens, batch=batch).total_bytes)
    return phrases + others


# ---------------------------------------------------------------------------------------------- what was asked about


def _dtype_name(dtype: str | torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.").lower()
    name = _SHORT.get(name, name)
    if name not in _BITS:
        raise BadInput(f"dtype {dtype!r} is not known here; use one of {', '.join(_BITS)}.")
    return name


def _cache_dtype_name(weights: str, cache_dtype: str | torch.dtype | None) -> str:
    if cache_dtype is None:
        return weights if _BITS[weights] >= 8 * _HALF_PRECISION_BYTES else "bfloat16"
    return _dtype_name(cache_dtype)


def named_config(what: Countable) -> tuple[str, PreTrainedConfig]:
    """The name to show and the transformers configuration."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(what, PretrainedConfig):
        return _shown(what.name_or_path or what.model_type), what
    if isinstance(what, dict):
        return str(what.get("_name_or_path") or what.get("model_type")), _config_from_fields(what)
    if isinstance(what, str | Path):
        ours = catalog.find(str(what))
        entry = published.get(ours.published if ours else str(what))
        if entry is not None:
            return entry.name, _config_from_fields(entry.config)
        own = shipped.find(str(what))
        folder = own.path if own else Path(what).expanduser()
        if (folder / "config.json").is_file():
            try:
                return folder.resolve().name, AutoConfig.from_pretrained(folder, local_files_only=True)
            except Exception as error:  # each configuration class fails in its own way
                raise BadInput(
                    f"{folder / 'config.json'} can't be read as a transformers configuration; fetch or mend it: {_reason(error)}"
                ) from error
        raise ModelNotFound(_not_found(str(what)))
    config = getattr(what, "config", None)
    if isinstance(config, PretrainedConfig):
        return _shown(getattr(what, "name_or_path", "") or config.name_or_path or config.model_type), config
    raise BadInput(
        f"memory() can't count {type(what).__name__!r}: give a published name, a configuration, a folder or a model."
    )


def _shown(name: str) -> str:
    """A name fit to show: a hub id whole, of a path its last part."""
    path = Path(name)
    return path.name if path.is_absolute() or len(path.parts) > 2 else name


def _config_from_fields(fields: Json) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig

    fields = copy.deepcopy(fields)
    model_type = fields.pop("model_type", None)
    if not model_type:
        raise BadInput("The configuration has no model_type; add one, such as {'model_type': 'llama', ...}.")
    if model_type in REMOTE:
        raise BadInput(
            f"model_type {model_type!r} is code of the publisher's own, which is not run here: {REMOTE[model_type]}"
        )
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "a newer transformers may know it: pip install -U transformers."
        )
        raise BadInput(f"model_type {model_type!r} is not known to the installed transformers: {hint}")
    try:
        with quiet():
            return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # configuration classes check and compute as they are made, each in its own way
        raise BadInput(
            f"A {model_type!r} configuration can't be made of these fields; correct what it names: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What an outside library said, on one line and not at any length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"


def _not_found(name: str) -> str:
    known = {**{name: name for name in shipped.MODELS}, **published.keys()}
    near = dict.fromkeys(known[key] for key in difflib.get_close_matches(name.strip().lower(), known, n=5, cutoff=0.55))
    hint = (
        f"did you mean {', '.join(list(near)[:3])}?"
        if near
        else "gpt2, llama-2-7b and qwen3-8b are some; labkit.models.published.names() lists all."
    )
    return (
        f"No published model {name!r} and no folder of that name with a config.json: {hint} "
        "Any other model is counted from its configuration: memory(AutoConfig.from_pretrained(name))."
    )


# ------------------------------------------------------------------------------------------------- the architecture


@dataclass(frozen=True)
class LayerCache:
    """What one layer's cache holds for one sequence.

    growing, fixed: elements in the cache's dtype; growing is for each token, up to limit tokens.
    growing_bytes, fixed_bytes: bytes held in a dtype of their own, whatever the cache's (float32 states).
    state: elements of a recurrent state that is a matrix, whatever their dtype; they are in fixed or fixed_bytes too.
    """

    growing: int = 0
    fixed: int = 0
    growing_bytes: int = 0
    fixed_bytes: int = 0
    limit: int | None = None
    state: int = 0

    def size_bytes(self, tokens: int, itemsize: float) -> float:
        held = tokens if self.limit is None else min(tokens, self.limit)
        # States exist once a token has been seen.
        fixed = self.fixed * itemsize + self.fixed_bytes if tokens else 0
        return held * (self.growing * itemsize + self.growing_bytes) + fixed


@dataclass(frozen=True)
class _Architecture:
    """What a configuration fixes, whatever the dtype, the tokens and the batch. layers is None where not known."""

    parameters: int
    active_parameters: int
    buffer_elements: int
    parts: dict[str, int]
    layers: tuple[LayerCache, ...] | None
    latent_elements: int | None
    positions: int | None
    notes: tuple[str, ...]

    def with_parameters(self, parameters: int) -> _Architecture:
        """The same, for a model that holds more or fewer parameters than its configuration says (adapters, edits)."""
        extra = parameters - self.parameters
        difference = f"{abs(extra):,} parameters {'more' if extra > 0 else 'fewer'} than its configuration describes"
        parts = {**self.parts, "other": self.parts.get("other", 0) + extra}
        note = f"The model holds {difference}; they are counted under other."
        active = self.active_parameters + extra
        return replace(self, parameters=parameters, active_parameters=active, parts=parts, notes=(*self.notes, note))


@dataclass(frozen=True)
class ConfigKey:
    """A configuration as a key for caching: equal when its fields are."""

    text: str
    config: PreTrainedConfig = field(compare=False, hash=False)


def fingerprint(config: PreTrainedConfig) -> str:
    fields = config.to_dict()
    return json.dumps([type(config).__name__, fields], sort_keys=True, default=str)


def _memory(
    name: str, architecture: _Architecture, tokens: int, batch: int, weight_bytes: int, dtype: str, cache_dtype: str
) -> Memory:
    itemsize = _BITS[cache_dtype] / 8
    cache_bytes = per_token = None
    if architecture.layers is not None:
        cache_bytes = math.ceil(batch * sum(layer.size_bytes(tokens, itemsize) for layer in architecture.layers))
        per_token = math.ceil(sum(layer.growing * itemsize + layer.growing_bytes for layer in architecture.layers))
    latent = None
    if architecture.latent_elements is not None:
        latent = math.ceil(batch * tokens * architecture.latent_elements * itemsize)
    notes = architecture.notes
    if architecture.positions is not None and tokens > architecture.positions:
        notes += (f"{tokens:,} tokens are more than the {architecture.positions:,} positions the model was made for.",)
    return Memory(
        name=name,
        parameters=architecture.parameters,
        active_parameters=architecture.active_parameters,
        parts=dict(architecture.parts),
        weight_bytes=weight_bytes,
        kv_cache_bytes=cache_bytes,
        kv_bytes_per_token=per_token,
        latent_cache_bytes=latent,
        tokens=tokens,
        batch=batch,
        dtype=dtype,
        cache_dtype=cache_dtype,
        notes=notes,
    )


@lru_cache(maxsize=128)
def _architecture(key: ConfigKey) -> _Architecture:
    model = skeleton(key.config)
    layers, notes = measure_cache(model, text_config(key.config))
    return _describe(model, key.config, layers, notes)


def _describe(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    layers: tuple[LayerCache, ...] | None,
    cache_notes: tuple[str, ...],
) -> _Architecture:
    text = text_config(config)
    parts = _count_parts(model)
    active, notes = _active_parameters(text, parts)
    rank, rotary = getattr(text, "kv_lora_rank", None), getattr(text, "qk_rope_head_dim", None)
    return _Architecture(
        parameters=sum(parts.values()),
        active_parameters=active,
        buffer_elements=sum(tensor.numel() for tensor in _persistent_buffers(model)),
        parts=parts,
        layers=layers,
        latent_elements=_latent_elements(text, layers) if rank and rotary else None,
        positions=context_length(text),
        notes=notes + cache_notes,
    )


def _latent_elements(config: PreTrainedConfig, layers: tuple[LayerCache, ...] | None) -> int:
    """Elements of a token in the layers with latent attention: in a hybrid, those whose cache grows."""
    held = config.num_hidden_layers if layers is None else sum(1 for layer in layers if layer.growing)
    latents: int = (config.kv_lora_rank + config.qk_rope_head_dim) * held
    return latents


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language model's part of a configuration that has several."""
    return config.get_text_config(decoder=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers' warnings (kernels that are missing, token ids) say nothing about sizes."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model on the meta device: shapes and dtypes (bfloat16) without storage."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BadInput(
            f"{config.model_type!r} is no causal language model; give the configuration of one, such as 'llama'."
        )
    if (wrong := absurdity(text_config(config))) is not None:
        raise BadInput(
            f"No model can be built from this {config.model_type!r} configuration: {wrong}. Correct that field."
        )
    config = copy.deepcopy(config)
    try:
        # Eager attention is the one implementation every family has; batched experts need no token counts from the
        # device, which the meta device can't give.
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, attn_implementation="eager", experts_implementation="batched_mm"
            )
    except Exception as error:  # sizes that don't fit together fail wherever the family first uses them
        raise BadInput(
            f"No model can be built from this {config.model_type!r} configuration; correct what it names: {_reason(error)}"
        ) from error
    skeletal: PreTrainedModel = model.eval()
    return skeletal


def _count_parts(model: PreTrainedModel) -> dict[str, int]:
    """Elements by part, in the order of PARTS. A tensor that several modules share counts where it is met first."""
    import torch

    counts = dict.fromkeys(PARTS, 0)
    unembedding = model.get_output_embeddings()
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, torch.nn.Embedding):
                name = "embeddings"
            elif module is unembedding:
                name = "unembedding"
            else:
                name = part(path, type(module).__name__)
            counts[name] += parameter.numel()
    return {name: count for name, count in counts.items() if count}


def part(path: str, kind: str) -> str:
    """The part a module belongs to, by the names transformers gives modules (path) and classes (kind)."""
    names = path.split(".")
    where = set(names)
    if "norm" in kind.lower():
        return "norms"
    if "router" in kind.lower() or "router" in where or names[-1] in {"gate", "shared_expert_gate"}:
        return "router"
    if where & {"shared_experts", "shared_expert", "shared_mlp"}:
        return "shared experts"
    if "experts" in where or "experts" in kind.lower():
        return "experts"
    if where & {"self_attn", "attn", "attention", "self_attention"}:
        return "attention"
    if where & {"mixer", "mamba", "linear_attn", "ssm", "conv", "temporal_block", "mlstm_layer"}:
        return "state space"
    if where & {"mlp", "mlp_block", "ffn", "feed_forward", "fc1", "fc2", "block_sparse_moe", "moe"}:
        return "mlp"
    return "other"


def _active_parameters(config: PreTrainedConfig, parts: dict[str, int]) -> tuple[int, tuple[str, ...]]:
    total = sum(parts.values())
    routed = parts.get("experts", 0)
    if not routed:
        return total, ()
    experts = first_number(config, *EXPERTS)
    chosen = first_number(config, *CHOSEN)
    if not experts or not chosen:
        return total, ("The configuration does not say how many experts a token uses: all are counted as active.",)
    return total - routed + routed * chosen // experts, ()


def _persistent_buffers(model: PreTrainedModel) -> list[torch.Tensor]:
    """Buffers that a checkpoint stores, such as a router's correction bias."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, tensor in module._buffers.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                found[id(tensor)] = tensor
    return list(found.values())


# -------------------------------------------------------------------------------------------------------- the cache


def measure_cache(
    model: PreTrainedModel, config: PreTrainedConfig
) -> tuple[tuple[LayerCache, ...] | None, tuple[str, ...]]:
    """What each layer's cache holds, read off after two tokens; None, and the reason, where that can't be done."""
    import torch

    # Some families look for padding among the ids to warn of it; ids without values can't be looked at.
    model.config.pad_token_id = None
    try:
        with quiet(), torch.no_grad():
            output = model(input_ids=torch.zeros((1, 2), dtype=torch.long, device="meta"), use_cache=True)
    except Exception as error:  # any family's forward may need real numbers; sizes of the weights still stand
        return None, (f"The cache can't be measured for {config.model_type}: {_reason(error)}",)
    cache = getattr(output, "past_key_values", None)
    cache = cache if cache is not None else getattr(output, "cache_params", None)
    layers = getattr(cache, "layers", None)
    if layers is None and (kept := _own_caches(model, cache)) is not None:
        return kept
    if layers is None:
        states = getattr(output, "state", None)
        if isinstance(states, list | tuple) and all(isinstance(state, torch.Tensor) for state in states):
            layer = _sum_layer(model.dtype, 2, None, [], list(states))
            return (layer,), (_RECURRENT,)
        return None, (
            f"{config.model_type} hands back no cache that transformers keeps by layer: its size is not known.",
        )
    measured: list[LayerCache] = []
    heads: set[int] = set()
    windows: list[int] = []
    for layer in layers:
        keys = getattr(layer, "keys", None)
        window = int(layer.sliding_window) if getattr(layer, "is_sliding", False) else None
        if keys is not None:
            heads.add(keys.shape[1])
            windows += [window] if window else []
        growing, fixed, strange = _layer_tensors(layer)
        if strange:
            kind = type(layer).__name__
            return None, (f"The cache layer {kind} holds {', '.join(strange)}, whose growth is not known here.",)
        # transformers keeps the last window - 1 tokens: the next one brings the window's last place itself.
        limit = window - 1 if window and window > 1 else None
        held = keys.shape[-2] if keys is not None else 2
        matrices = [state for state in _tensors(getattr(layer, "recurrent_states", None)) if state.dim() > 2]
        measured.append(
            replace(
                _sum_layer(model.dtype, held, limit, growing, fixed), state=sum(state.numel() for state in matrices)
            )
        )
    return tuple(measured), _cache_notes(config, measured, heads, windows)


def _own_caches(model: PreTrainedModel, cache: object) -> tuple[tuple[LayerCache, ...], tuple[str, ...]] | None:
    """The caches of families that have a way of their own; None where this is none of them."""
    import torch
    from transformers import DynamicCache

    states = getattr(cache, "rnn_state", None)
    if isinstance(states, dict):  # xlstm: for each layer a matrix, a vector and a number of each head
        each = [_tensors(states[layer]) for layer in states]
        layers = tuple(
            replace(_sum_layer(model.dtype, 1, None, [], held), state=sum(t.numel() for t in held if t.dim() > 3))
            for held in each
        )
        return layers, (_RECURRENT,)
    blocks = [block for block in model.modules() if hasattr(block, "conv1d_state") and hasattr(block, "rg_lru")]
    if not blocks:
        return None
    # recurrentgemma: states lie in the modules, and keys and values in a cache that its forward does not hand back
    attention = DynamicCache(config=model.config)
    with quiet(), torch.no_grad():
        ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
        model(input_ids=ids, use_cache=True, past_key_values=attention)
    found: list[LayerCache] = []
    windows: list[int] = []
    for layer in attention.layers:
        growing, _, _ = _layer_tensors(layer)
        if growing:
            window = int(model.config.attention_window_size)
            windows.append(window)
            limit = window - 1 if getattr(layer, "is_sliding", False) else None
            found.append(_sum_layer(model.dtype, growing[0].shape[-2], limit, growing, []))
    for block in blocks:
        states = _tensors([block.conv1d_state, getattr(block.rg_lru, "recurrent_states", None)])
        found.append(_sum_layer(model.dtype, 1, None, [], states))
    return tuple(found), _cache_notes(model.config, found, set(), windows if any(f.limit for f in found) else [])


_RECURRENT = "The state is recurrent: its size does not grow with the tokens."


def _layer_tensors(layer: object) -> tuple[list[torch.Tensor], list[torch.Tensor], list[str]]:
    """Tensors of a cache layer that grow with the tokens, that don't, and the names of those of an unknown kind."""
    growing: list[torch.Tensor] = []
    fixed: list[torch.Tensor] = []
    strange: list[str] = []
    for name, value in vars(layer).items():
        tensors = _tensors(value)
        if not tensors or name == "_sliding_window_tensor":
            continue
        if name in {"keys", "values", "indexer_keys"}:
            growing += tensors
        elif name in {"conv_states", "recurrent_states"}:
            fixed += tensors
        else:
            strange.append(name)
    return growing, fixed, strange


def cache_bytes(cache: object) -> int:
    """Bytes of what a run's cache holds: keys, values and states of all layers."""
    held = getattr(cache, "layers", None)
    layers = [vars(layer) for layer in held] if held is not None else [{"states": cache}]
    tensors = [
        tensor
        for layer in layers
        for name, value in layer.items()
        if name != "_sliding_window_tensor"
        for tensor in _tensors(value)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(value: object) -> list[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _sum_layer(
    dtype: torch.dtype, held: int, limit: int | None, growing: list[torch.Tensor], fixed: list[torch.Tensor]
) -> LayerCache:
    """Sizes of a layer that holds `held` tokens. Tensors of another dtype than the model's keep theirs."""

    def elements(tensors: list[torch.Tensor]) -> int:
        return sum(tensor.numel() for tensor in tensors if tensor.dtype == dtype)

    def other_bytes(tensors: list[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.dtype != dtype)

    return LayerCache(
        growing=elements(growing) // held,
        growing_bytes=other_bytes(growing) // held,
        fixed=elements(fixed),
        fixed_bytes=other_bytes(fixed),
        limit=limit,
    )


def _cache_notes(
    config: PreTrainedConfig, layers: list[LayerCache], heads: set[int], windows: list[int]
) -> tuple[str, ...]:
    notes = []
    for window in sorted(set(windows)):
        count = windows.count(window)
        notes.append(f"{count} of {len(layers)} layers keep {window - 1:,} tokens at most (a window of {window:,}).")
    shared = max((heads for heads in by_layer(config, *KEY_VALUE_HEADS) if heads), default=None)
    kept = max(heads, default=0)
    # Falcon's configuration names heads it does not have when one key and value serve all queries.
    if shared and kept > shared and getattr(config, "kv_lora_rank", None) is None:
        notes.append(
            f"transformers keeps the {shared} key-value heads repeated to {kept}: "
            f"{kept / shared:g} times what the architecture needs."
        )
    rank, rotary = getattr(config, "kv_lora_rank", None), getattr(config, "qk_rope_head_dim", None)
    if rank and rotary and layers:
        latent = rank + rotary
        kept_elements = max(layer.growing for layer in layers)
        if kept_elements == latent:
            notes.append("Latent attention: transformers keeps the latents themselves.")
        else:
            notes.append(
                "Latent attention: transformers keeps expanded keys and values, "
                f"{kept_elements / latent:.3g} times the latents."
            )
    if layers and not any(layer.growing or layer.growing_bytes for layer in layers):
        notes.append(_RECURRENT)
    elif any((layer.fixed or layer.fixed_bytes) for layer in layers):
        notes.append("Some layers keep a recurrent state, which does not grow with the tokens.")
    return tuple(notes)


# -------------------------------------------------------------------------------------------------- a loaded model


def _stored_tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    """The tensors that hold a model's weights, as state_dict saves them, opened to plain ones, each storage once."""
    found: dict[tuple[object, ...], torch.Tensor] = {}
    for value in (value for module in model.modules() for value in own_state(module).values()):
        for tensor in _tensors(value):
            for plain in plain_tensors(tensor):
                found.setdefault(tensor_identity(plain), plain)
    return list(found.values())


def _packed_elements(model: PreTrainedModel) -> int:
    """Weights that modules hold in another form than as parameters, and say so by the shape of what they stand for."""
    import torch

    shapes = (getattr(module, "stored_shape", None) for module in model.modules())
    return sum(shape.numel() for shape in shapes if isinstance(shape, torch.Size))


def own_state(module: torch.nn.Module) -> dict[str, object]:
    """What a module saves of itself, without the modules inside it; the tensors themselves.

    Of bitsandbytes' 4-bit weights it is put together here: on some CPUs its own saving turns the packed weights back for
    good, with coarser scales or wrong ones (0.50).
    """
    packed = {name: value for name, value in module._parameters.items() if hasattr(value, "quant_state")}
    if not packed:
        saved: dict[str, object] = {}
        module._save_to_state_dict(saved, "", keep_vars=True)
        return saved
    found: dict[str, object] = {name: value for name, value in module._parameters.items() if value is not None}
    for name, value in packed.items():
        state = getattr(value, "quant_state", None)
        for part, inside in ((f"{name}.", state), (f"{name}.nested_", getattr(state, "state2", None))):
            found |= {f"{part}{key}": each for key, each in getattr(inside, "__dict__", {}).items() if _tensors(each)}
    return found


def plain_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors inside a tensor subclass that packs others (torchao's); a plain tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    names, _ = flatten()
    return [plain for name in names for plain in plain_tensors(getattr(tensor, name))]


def tensor_identity(tensor: torch.Tensor) -> tuple[object, ...]:
    # Tensors without storage (meta, offloaded) all have the address 0: told apart as objects.
    address = 0 if tensor.device.type == "meta" or tensor.is_quantized else tensor.data_ptr()
    return (str(tensor.device), address, tensor.numel()) if address else (id(tensor),)
