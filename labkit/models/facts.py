"""The facts about a loaded model that its card shows, as (label, text) pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.models.config import KEY_VALUE_HEADS, LAYERS, QUERY_HEADS, by_layer, context_length, first_number
from labkit.models.memory import human_bytes, model_memory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def lab_facts(
    model: PreTrainedModel, *, name: str, licence: str | None, notes: tuple[str, ...]
) -> list[tuple[str, str]]:
    """Family, sizes, heads and groups, dtype, device, bytes, cache bytes per token, licence."""
    config = model.config.get_text_config()
    memory = model_memory(model, tokens=1, batch=1)
    sizes = [
        ("layers", first_number(config, *LAYERS)),
        ("d_model", first_number(config, "hidden_size", "n_embd", "d_model")),
        ("tokens in the vocabulary", first_number(config, "vocab_size")),
        ("positions", context_length(config)),
    ]
    cache = memory.kv_bytes_per_token
    dtype = str(model.dtype).removeprefix("torch.")
    pairs = [
        ("model", name),
        ("family", str(config.model_type)),
        ("parameters", f"{memory.parameters:,}"),
        ("sizes", ", ".join(f"{value:,} {label}" for label, value in sizes if value)),
        ("heads", _heads(config)),
        ("dtype, device", f"{dtype} on {_devices(model)}"),
        (
            "weights",
            human_bytes(memory.weight_bytes) + (f", stored as {memory.dtype}" if memory.dtype != dtype else ""),
        ),
        ("cache per token", _per_token(cache)),
        ("licence", licence or "not stated in its files"),
    ]
    return [(label, text) for label, text in pairs if text] + [("note", note) for note in notes]


def _per_token(cache: int | None) -> str:
    if cache is None:
        return "not known for this architecture"
    return human_bytes(cache) if cache else "none: its state does not grow with the text"


def _heads(config: PreTrainedConfig) -> str:
    """Query heads and key-value heads, once where all layers have the same, otherwise for each kind of layer."""
    queries = by_layer(config, *QUERY_HEADS)
    shared = by_layer(config, *KEY_VALUE_HEADS)
    kinds: dict[str, list[int]] = {}
    for layer, (heads, groups) in enumerate(zip(queries, shared, strict=True)):
        if heads:
            kinds.setdefault(_of_a_layer(heads, groups or heads), []).append(layer)
    if not kinds:
        heads = first_number(config, *QUERY_HEADS)
        return _of_a_layer(heads, first_number(config, *KEY_VALUE_HEADS) or heads) if heads else ""
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{text} in {_layers(layers)}" for text, layers in kinds.items())


def _of_a_layer(heads: int, groups: int) -> str:
    if groups == heads:
        return f"{heads} query heads, each with its own keys and values"
    return f"{heads} query heads sharing {groups} key-value head{'s' if groups > 1 else ''}"


def _layers(layers: list[int]) -> str:
    """Layers by number where they are few, otherwise their count."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {', '.join(map(str, layers))}" if len(layers) <= 6 else f"{len(layers)} layers"


def _devices(model: PreTrainedModel) -> str:
    spread = getattr(model, "hf_device_map", None)
    names = sorted({str(d) for d in spread.values()}) if spread else [str(model.device)]
    return " and ".join(names)
