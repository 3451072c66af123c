"""Adapters added, subtracted and scaled, exactly: the ranks of a sum are those of its parts side by side.

ΔW = Σ cᵢ Bᵢ Aᵢ is [c₁B₁ … cₙBₙ] [A₁; …; Aₙ]. Ilharco et al. 2022, "Editing Models with Task Arithmetic".
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from labkit.errors import BadInput
from labkit.lora.low_rank import LowRank

if TYPE_CHECKING:
    from peft import LoraConfig

    from labkit.lora.adapters import Adapter
    from labkit.trace.lab_like import BuiltLab

__all__ = ["combined"]

Made = TypeVar("Made", bound="BuiltLab")


def combined(parts: Sequence[tuple[float, Adapter[Made]]], name: str) -> Adapter[Made]:
    """The adapter Σ factor · adapter, on the lab of the first. Its rank at each matrix is the sum of theirs.

    Raises BadInput for adapters of different models, and for what is no product of small matrices: DoRA's rescaled rows,
    whole modules and biases.
    """
    from labkit.lora.adapters import PREFIX, Adapter

    first = parts[0][1]
    for _, adapter in parts:
        _check(adapter)
        if adapter.base is not None and first.base is not None and (why := first.base.differs(adapter.base)):
            raise BadInput(f"{first.name} and {adapter.name} are of different models: the second's {why}.")
        if adapter.lab.model is not first.lab.model and (adapter.base is None or first.base is None):
            raise BadInput(
                f"{first.name} and {adapter.name} are on different labs, and not both know their base; load both for one lab."
            )
    sums: dict[str, LowRank] = {}
    for factor, adapter in parts:
        for module, low_rank in adapter.low_ranks.items():
            b = low_rank.b * (factor * low_rank.scaling)
            if module in sums:
                there = sums[module]
                if there.embedding != low_rank.embedding:
                    raise BadInput(f"{first.name} and {adapter.name} change {module} in different ways.")
                sums[module] = LowRank(
                    torch.cat([there.a, low_rank.a.to(there.a.dtype)]),
                    torch.cat([there.b, b.to(there.b.dtype)], 1),
                    1.0,
                    embedding=there.embedding,
                )
            else:
                sums[module] = LowRank(low_rank.a, b, 1.0, embedding=low_rank.embedding)
    tensors: dict[str, torch.Tensor] = {}
    for module, low_rank in sums.items():
        kind = "lora_embedding_" if low_rank.embedding else "lora_"
        end = "" if low_rank.embedding else ".weight"
        tensors[f"{PREFIX}{module}.{kind}A{end}"] = low_rank.a.contiguous()
        tensors[f"{PREFIX}{module}.{kind}B{end}"] = low_rank.b.contiguous()
    notes = dict.fromkeys(note for _, adapter in parts for note in adapter.notes)
    bases = [adapter.base for _, adapter in parts]
    base = None if None in bases else bases[0]
    return Adapter(first.lab, _config(first.config, sums), tensors, name, base, tuple(notes))


def _check(adapter: Adapter[Made]) -> None:
    odd = "DoRA rescales whole rows of the weights" if adapter.config.use_dora else ""
    if adapter.replaced:
        odd = f"it has a whole {next(iter(adapter.replaced))} of its own"
    if any(low_rank.bias is not None for low_rank in adapter.low_ranks.values()):
        odd = "it has biases"
    if odd:
        raise BadInput(
            f"{adapter.name} can't be calculated with, since {odd}, which no product of small matrices holds; use several at "
            "once with `with a.on(0.5), b.on(0.5):` instead."
        )


def _config(like: LoraConfig, sums: dict[str, LowRank]) -> LoraConfig:
    """peft's settings for these ranks, each with a scaling of 1: the factors are in B."""
    config = copy.deepcopy(like)
    ranks = {module: low_rank.rank for module, low_rank in sums.items()}
    most = Counter(ranks.values()).most_common(1)[0][0]
    own = {module: rank for module, rank in ranks.items() if rank != most}
    config.r = config.lora_alpha = most
    config.rank_pattern, config.alpha_pattern = dict(own), dict(own)
    config.use_rslora, config.bias, config.modules_to_save = False, "none", None
    config.target_modules, config.exclude_modules = list(ranks), None
    config.layers_to_transform = config.layers_pattern = None
    config.init_lora_weights = True
    return config
