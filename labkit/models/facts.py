"""The facts about a loaded model that its card shows, as (label, text) pairs."""

from __future__ import annotations

from typing import Any

from labkit.models.config import context_length, first_number
from labkit.models.memory import human_bytes, model_memory


def lab_facts(model: Any, *, name: str, licence: str | None, notes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Family, sizes, heads and groups, dtype, device, bytes, cache bytes per token, licence."""
    config = model.config.get_text_config()
    memory = model_memory(model, tokens=1, batch=1)
    sizes = [
        ("layers", first_number(config, "num_hidden_layers", "n_layer", "n_layers")),
        ("d_model", first_number(config, "hidden_size", "n_embd", "d_model")),
        ("tokens in the vocabulary", getattr(config, "vocab_size", None)),
        ("positions", context_length(config)),
    ]
    cache = memory.kv_bytes_per_token
    pairs = [
        ("model", name),
        ("family", str(config.model_type)),
        ("parameters", f"{memory.parameters:,}"),
        ("sizes", ", ".join(f"{value:,} {label}" for label, value in sizes if value)),
        ("heads", _heads(config)),
        ("dtype, device", f"{str(model.dtype).removeprefix('torch.')} on {_devices(model)}"),
        ("weights", human_bytes(memory.weight_bytes)),
        ("cache per token", _per_token(cache)),
        ("licence", licence or "not stated in its files"),
    ]
    return [(label, text) for label, text in pairs if text] + [("note", note) for note in notes]


def _per_token(cache: int | None) -> str:
    if cache is None:
        return "not known for this architecture"
    return human_bytes(cache) if cache else "none: its state does not grow with the text"


def _heads(config: Any) -> str:
    heads = first_number(config, "num_attention_heads", "n_head", "n_heads")
    if not heads:
        return ""
    groups = getattr(config, "num_key_value_heads", None) or heads
    if groups == heads:
        return f"{heads} query heads, each with its own keys and values"
    return f"{heads} query heads sharing {groups} key-value head{'s' if groups > 1 else ''}"


def _devices(model: Any) -> str:
    spread = getattr(model, "hf_device_map", None)
    names = sorted({str(d) for d in spread.values()}) if spread else [str(model.device)]
    return " and ".join(names)
