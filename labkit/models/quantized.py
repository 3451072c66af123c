"""What a library that was asked to quantize a model left as it was, read off the tensors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from labkit.models.memory import human_bytes, plain_tensors

if TYPE_CHECKING:
    import torch

_ROWS, _COLUMNS = 32, 64  # the blocks of bitsandbytes' product for bfloat16 on a CPU
FEW = 0.05  # of the weights between embedding and output head; with more of them untouched, it is said aloud


def left_alone(model: torch.nn.Module) -> str | None:
    """A sentence on the weights that were not quantized; None where hardly any were left.

    Embedding, output head, norms and biases are left out: nobody expects them to be quantized.
    """
    ends = [getattr(model, name, lambda: None)() for name in ("get_input_embeddings", "get_output_embeddings")]
    expected = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    plain: Counter[str] = Counter()
    packed = size = 0
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if any(not value.is_floating_point() for _, value in own) and hasattr(module, "in_features"):
            packed += int(module.in_features) * int(module.out_features)
            continue
        for name, value in module.named_parameters(recurse=False):
            if id(value) in expected or value.dim() < 2:
                continue
            if len(plain_tensors(value)) > 1 or value.element_size() < 2:
                packed += value.numel()
            else:
                plain[".".join([*path.split("."), name][-2:])] += value.numel()
                size += value.numel() * value.element_size()
    share = plain.total() / max(1, plain.total() + packed)
    if share <= FEW:
        return None
    largest = [name for name, count in plain.most_common() if count > FEW * plain.total()]
    return (
        f"the quantization did nothing to {share:.0%} of the weights between embedding and output head "
        f"({', '.join(largest)}: {human_bytes(size)}): such libraries replace linear maps (nn.Linear) "
        "and pass over fused experts and what they are told to skip; lk.quantization.quantize packs those too"
    )


def takes_odd_shapes(model: torch.nn.Module) -> None:
    """Have bitsandbytes compute matrices that are not made of its whole blocks another way: its fast one would raise (0.50)."""
    for module in model.modules():
        if not getattr(module, "support_avx512bf16_for_cpu", False):
            continue
        state = getattr(module.weight, "quant_state", None)
        if state is not None and (state.shape[0] % _ROWS or state.shape[1] % _COLUMNS):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
