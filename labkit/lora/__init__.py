"""LoRA: teach a model something, watch it learn, see what it forgets, take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.lora.adapters import Adapter as Adapter
    from labkit.lora.adapters import load as load
    from labkit.lora.adapters import taken as taken
    from labkit.lora.answers import ExactMatch as ExactMatch
    from labkit.lora.answers import Gain as Gain
    from labkit.lora.answers import exact_match as exact_match
    from labkit.lora.answers import gain as gain
    from labkit.lora.costs import Cost as Cost
    from labkit.lora.costs import cost as cost
    from labkit.lora.finetuning import finetune as finetune
    from labkit.lora.forgetting import Forgotten as Forgotten
    from labkit.lora.forgetting import forgotten as forgotten
    from labkit.lora.interfering import Interference as Interference
    from labkit.lora.interfering import interference as interference
    from labkit.lora.masks import Mask as Mask
    from labkit.lora.masks import Masked as Masked
    from labkit.lora.masks import Prepared as Prepared
    from labkit.lora.masks import mask as mask
    from labkit.lora.masks import prepared as prepared
    from labkit.lora.merges import merged as merged
    from labkit.lora.mixtures import Mixture as Mixture
    from labkit.lora.mixtures import mixture as mixture
    from labkit.lora.records import recorded as recorded
    from labkit.lora.runs import Run as Run
    from labkit.lora.runs import Step as Step
    from labkit.lora.runs import current_run as current_run
    from labkit.lora.samples import Sample as Sample
    from labkit.lora.samples import read as read
    from labkit.lora.tasks import Task as Task
    from labkit.lora.weight_changes import Intruders as Intruders
    from labkit.lora.weight_changes import Updates as Updates
    from labkit.lora.weight_changes import intruders as intruders
    from labkit.lora.weight_changes import updates as updates

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "adapters": ("Adapter", "load", "taken"),
    "answers": ("ExactMatch", "Gain", "exact_match", "gain"),
    "costs": ("Cost", "cost"),
    "finetuning": ("finetune",),
    "forgetting": ("Forgotten", "forgotten"),
    "interfering": ("Interference", "interference"),
    "masks": ("Mask", "Masked", "Prepared", "mask", "prepared"),
    "merges": ("merged",),
    "mixtures": ("Mixture", "mixture"),
    "records": ("recorded",),
    "runs": ("Run", "Step", "current_run"),
    "samples": ("Sample", "read"),
    "tasks": ("Task",),
    "weight_changes": ("Intruders", "Updates", "intruders", "updates"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES, modules=("tasks",))
