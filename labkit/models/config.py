"""Reading a configuration whatever its architecture calls things."""

from __future__ import annotations

from typing import Any


def first_number(config: Any, *names: str) -> int | None:
    """The first of these fields that holds a positive whole number."""
    values = (getattr(config, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def context_length(config: Any) -> int | None:
    """The number of positions a model was built for; None where the architecture has no such limit."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return first_number(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def input_device(model: Any) -> Any:
    """The device a model's inputs go to, also where accelerate keeps some weights elsewhere until they are needed."""
    device = model.get_input_embeddings().weight.device
    if device.type != "meta":
        return device
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None) or getattr(model, "_hf_hook", None)
    import torch

    return torch.device(getattr(hook, "execution_device", None) or "cpu")
