"""labkit: see into language models.

Nothing heavy is imported before it is used: each public name is fetched when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labkit import attention as attention
    from labkit import lora as lora
    from labkit import moe as moe
    from labkit import quantization as quantization
    from labkit import sae as sae
    from labkit import views as views
    from labkit.errors import BadInput as BadInput
    from labkit.errors import BadModelFile as BadModelFile
    from labkit.errors import DownloadFailed as DownloadFailed
    from labkit.errors import LabClosed as LabClosed
    from labkit.errors import LabError as LabError
    from labkit.errors import ModelNotFound as ModelNotFound
    from labkit.errors import NotEnoughDisk as NotEnoughDisk
    from labkit.errors import NotEnoughMemory as NotEnoughMemory
    from labkit.errors import Unavailable as Unavailable
    from labkit.generation.record import Generation as Generation
    from labkit.lab import Lab as Lab
    from labkit.lab import load as load
    from labkit.models.hardware import free_bytes as free_bytes
    from labkit.models.memory import Memory as Memory
    from labkit.models.memory import memory as memory
    from labkit.sae.interventions import clamp as clamp
    from labkit.sae.interventions import steer as steer
    from labkit.teaching.card import exercise as exercise
    from labkit.teaching.checking import check as check
    from labkit.teaching.claims import claim as claim
    from labkit.teaching.prediction import predict as predict
    from labkit.teaching.progress import progress as progress
    from labkit.teaching.reset import reset as reset
    from labkit.trace.edits import Edit as Edit
    from labkit.trace.edits import ablate_head as ablate_head
    from labkit.trace.edits import ablate_heads as ablate_heads
    from labkit.trace.edits import patch as patch
    from labkit.trace.lens import lens_logits as lens_logits
    from labkit.trace.lens import logit_attribution as logit_attribution
    from labkit.trace.lens import logit_lens as logit_lens
    from labkit.trace.patching import patching as patching
    from labkit.trace.record import Trace as Trace
    from labkit.workshop.setup import setup as setup

# public name -> (module, attribute), or (module, None) for a room
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "load": ("labkit.lab", "load"),
    "Lab": ("labkit.lab", "Lab"),
    "Generation": ("labkit.generation.record", "Generation"),
    "free_bytes": ("labkit.models.hardware", "free_bytes"),
    "memory": ("labkit.models.memory", "memory"),
    "Memory": ("labkit.models.memory", "Memory"),
    "setup": ("labkit.workshop.setup", "setup"),
    "Trace": ("labkit.trace.record", "Trace"),
    "Edit": ("labkit.trace.edits", "Edit"),
    "ablate_head": ("labkit.trace.edits", "ablate_head"),
    "ablate_heads": ("labkit.trace.edits", "ablate_heads"),
    "patch": ("labkit.trace.edits", "patch"),
    "patching": ("labkit.trace.patching", "patching"),
    "lens_logits": ("labkit.trace.lens", "lens_logits"),
    "logit_lens": ("labkit.trace.lens", "logit_lens"),
    "logit_attribution": ("labkit.trace.lens", "logit_attribution"),
    "attention": ("labkit.attention", None),
    "lora": ("labkit.lora", None),
    "moe": ("labkit.moe", None),
    "quantization": ("labkit.quantization", None),
    "sae": ("labkit.sae", None),
    "steer": ("labkit.sae.interventions", "steer"),
    "clamp": ("labkit.sae.interventions", "clamp"),
    "exercise": ("labkit.teaching.card", "exercise"),
    "check": ("labkit.teaching.checking", "check"),
    "predict": ("labkit.teaching.prediction", "predict"),
    "claim": ("labkit.teaching.claims", "claim"),
    "progress": ("labkit.teaching.progress", "progress"),
    "reset": ("labkit.teaching.reset", "reset"),
    "views": ("labkit.views", None),
    **{
        name: ("labkit.errors", name)
        for name in (
            "LabError",
            "Unavailable",
            "NotEnoughMemory",
            "NotEnoughDisk",
            "ModelNotFound",
            "DownloadFailed",
            "BadModelFile",
            "BadInput",
            "LabClosed",
        )
    },
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    try:
        module_name, attribute = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'labkit' has no attribute {name!r}") from None
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
