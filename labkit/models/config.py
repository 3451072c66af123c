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


_SIZES = (  # whole numbers above zero wherever a configuration has them
    *LAYERS,
    *QUERY_HEADS,
    *KEY_VALUE_HEADS,
    *(
        "vocab_size",
        "hidden_size",
        "d_model",
        "n_embd",
        "head_dim",
        "v_head_dim",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
    ),
    *("kv_lora_rank", "q_lora_rank", "moe_intermediate_size", "state_size", "ssm_state_size", "mamba_d_state"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
    *("max_position_embeddings", "n_positions", "max_seq_len"),
)
_NOT_NEGATIVE = (
    *EXPERTS,
    *CHOSEN,
    "sliding_window",
    "attention_window_size",
    "attention_chunk_size",
    "num_kv_shared_layers",
)
_MOST_LAYERS, _LARGEST = 2_000, 10**8


def absurdity(config: object) -> str | None:
    """What no model can have in a configuration, in a few words: sizes below one, heads that don't divide; None if all is well.

    transformers builds many such models, and some it builds without end.
    """
    for name in (*_SIZES, *_NOT_NEGATIVE, "intermediate_size"):
        value = field(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least = 0 if name in _NOT_NEGATIVE or (name == "intermediate_size" and first_number(config, *EXPERTS)) else 1
        most = _MOST_LAYERS if name in LAYERS else None if name.startswith("max_") else _LARGEST
        if not isinstance(value, int) or value < least:
            return f"{name} is {value}, and has to be a whole number of {least} or more"
        if most is not None and value > most:
            return f"{name} is {value:,}, more than the {most:,} that labkit counts"
    heads, shared = first_number(config, *QUERY_HEADS), first_number(config, *KEY_VALUE_HEADS)
    if heads and shared and heads % shared:
        return f"{heads} query heads can't share {shared} key-value heads evenly"
    experts, chosen = first_number(config, *EXPERTS), first_number(config, *CHOSEN)
    if experts and chosen and chosen > experts:
        return f"{chosen} experts are chosen for a token, of {experts}"
    for name in CHOSEN:
        if experts and field(config, name) == 0:
            return f"{name} is 0, and a token of a mixture goes to at least one of {experts} experts"
    groups = first_number(config, "n_group")
    if experts and groups and experts % groups:
        return f"{experts} experts can't be dealt evenly to {groups} groups"
    kinds = field(config, "layer_types")
    if isinstance(kinds, list | tuple) and "sliding_attention" in kinds and field(config, "sliding_window") == 0:
        return "sliding_window is 0, through which no layer would see a token"
    return None


def input_device(model: PreTrainedModel) -> torch.device:
    """The device a model's inputs go to, also where accelerate keeps some weights elsewhere until they are needed."""
    import torch

    embedding = model.get_input_embeddings()
    held = next(itertools.chain(embedding.parameters(), embedding.buffers()), None)
    if held is not None and held.device.type != "meta":
        return held.device
    hook = getattr(embedding, "_hf_hook", None) or getattr(model, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or "cpu")
