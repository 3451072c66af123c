"""What a model computes, read with plain hooks on modules known by their names in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

STACKS = ("layers", "h", "blocks", "layer", "block")
NEURONS = (  # the MLP's last projection, by its name within a layer
    *("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2", "ffn.down_proj", "ffn.w2", "feed_forward.value"),
    *("mlp.fc2", "output.dense"),
)
HEADS = (  # what is given the heads' outputs
    *(
        "self_attn.attn_sub_norm",
        "self_attn.o_proj",
        "attn.c_proj",
        "attention.dense",
        "self_attn.out_proj",
        "self_attention.dense",
    ),
    *("attn.out_proj", "norm_attn_norm.attn.out_proj", "attention.output.dense"),
)


@dataclass
class Seen:
    """By instrument and layer, tensors within the graph where they were asked for with grad. logits: (T, vocabulary)."""

    tensors: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def __getitem__(self, key: tuple[str, int]) -> torch.Tensor:
        tensor = self.logits if key[0] == "logits" else self.tensors[key]
        return tensor.reshape(-1, tensor.shape[-1])

    def gradients(self, scalar: torch.Tensor, wanted: Sequence[tuple[str, int]]) -> list[torch.Tensor]:
        given = [self.logits if name == "logits" else self.tensors[name, layer] for name, layer in wanted]
        found = torch.autograd.grad(scalar, given, allow_unused=True)
        return [
            (torch.zeros_like(x) if g is None else g).reshape(-1, x.shape[-1])
            for x, g in zip(given, found, strict=True)
        ]


def stack_of(model: Any) -> list[nn.Module]:
    """The modules of the layers, once for each use."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        m for n, m in model.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) == count and n.rpartition(".")[2] in STACKS
    ]  # fmt: skip
    return list(lists[0])


def written_by_hand(model: Any, ids: Sequence[int], *, grad: bool = False) -> Seen:
    """One forward pass with hooks of this test's own."""
    seen, handles, layers = Seen(), [], stack_of(model)
    at = [-1]

    def note(name: str, layer: int, tensor: torch.Tensor) -> torch.Tensor:
        live = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_(grad)
        seen.tensors[name, layer] = live
        return live.clone()

    def enter(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        at[0] += 1
        if args:
            return (note("residual", at[0], args[0]), *args[1:]), keywords
        return args, {**keywords, "hidden_states": note("residual", at[0], keywords["hidden_states"])}

    def leave(_module: nn.Module, _args: Any, output: Any) -> Any:
        if at[0] < len(layers) - 1:
            return None
        tensor = output[0] if isinstance(output, tuple) else output
        new = note("residual", len(layers), tensor)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def given(name: str) -> Any:
        return lambda _module, args: (note(name, at[0], args[0]), *args[1:])

    for layer in dict.fromkeys(layers):
        handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(layer.register_forward_hook(leave))
        named = dict(layer.named_modules())
        for kind, names in (("mlp_neurons", NEURONS), ("head_output", HEADS)):
            found = next((named[n] for n in names if n in named), None)
            if found is not None:
                handles.append(found.register_forward_pre_hook(given(kind)))
    handles.append(
        model.get_input_embeddings().register_forward_hook(lambda _m, _a, output: note("embedding", 0, output))
    )
    try:
        with torch.enable_grad() if grad else torch.no_grad():
            logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
            seen.logits = logits.float()
    finally:
        for handle in handles:
            handle.remove()
    return seen
