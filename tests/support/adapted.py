"""Adapters with random weights on tiny models, made by peft itself, so that they can be compared with it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from families import FAMILIES, UNUSUAL, Family, Tokens, build

import labkit as lk

IDS = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 12]
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"init_lora_weights": "olora"},
    "all linear": {"target_modules": "all-linear", "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "v_proj"]},
    "saved modules": {"modules_to_save": ["lm_head", "norm"]},
    "bias": {"bias": "lora_only"},
    "own bias": {"lora_bias": True},
}
FAMILY = {"bias": "qwen2", "own bias": "qwen2"}


def lab_of(family: str = "llama3", seed: int = 0, **fields: Any) -> lk.Lab:
    """A lab around a tiny random model. fields: of its configuration, beside the family's own."""
    own = (FAMILIES | UNUSUAL)[family]
    model = build(Family(own.model_type, own.fields | fields))
    if seed:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return lk.Lab(model, Tokens(), name=family)


def peft_of(lab: lk.Lab, *, seed: int = 1, size: float = 0.1, **config: Any) -> Any:
    """A peft model around a copy of a lab's, its adapter and what is trained beside it moved at random from where they begin."""
    import peft

    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | config
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(lab.model), peft.LoraConfig(**chosen))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * size)
    return model.eval()


def adapter_of(lab: lk.Lab, name: str = "tuned", **config: Any) -> Any:
    """An adapter for a lab, with random weights."""
    return lk.lora.taken(peft_of(lab, **config), lab, name)


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
