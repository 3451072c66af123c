"""Reading a configuration whatever its architecture calls things."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_query_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")


def field(config: object, name: str) -> object:
    """A field, or None: where there is none, and where layers differ in it and the configuration won't name one."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers has an error of its own for a field that differs between layers
        return None


EXPERTS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
)  # of a layer, in the families' names
CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k")  # of them for a token


def first_number(config: object, *names: str) -> int | None:
    """The first of these fields that holds a positive whole number; None where layers differ in it."""
    values = (field(config, name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def by_layer(config: object, *names: str) -> tuple[int | None, ...]:
    """The first of these fields for each layer, also where layers differ in it; None where a layer has none."""
    layers = first_number(config, *LAYERS) or 0
    of_layers = field(config, "per_layer_config")
    single = first_number(config, *names)
    found: list[int | None] = []
    for layer in range(layers):
        value: object = None
        for name in names:
            listed = field(config, f"{name}_per_layer")
            listed = listed if isinstance(listed, list | tuple) else field(config, name)
            if isinstance(listed, list | tuple) and len(listed) == layers:
                value = listed[layer]
                break
        if value is None and single is None and of_layers is not None:
            value = first_number(_at(of_layers, layer), *names)
        number = value if value is not None else single
        found.append(number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None)
    return tuple(found)


def _at(layers: object, layer: int) -> object:
    try:
        return layers[layer]  # type: ignore[index] # a list or a table, as transformers has it
    except Exception:  # no such layer, or no such way of asking
        return None


def context_length(config: object) -> int | None:
    """The number of positions a model was built for; None where the architecture has no such limit."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return first_number(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def input_device(model: PreTrainedModel) -> torch.device:
    """The device a model's inputs go to, also where accelerate keeps some weights elsewhere until they are needed."""
    import torch

    embedding = model.get_input_embeddings()
    held = next(itertools.chain(embedding.parameters(), embedding.buffers()), None)
    if held is not None and held.device.type != "meta":
        return held.device
    hook = getattr(embedding, "_hf_hook", None) or getattr(model, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or "cpu")
