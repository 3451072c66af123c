"""labkit: see into language models.

Nothing heavy is imported before it is used: each public name is fetched when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labkit import attention as attention
    from labkit import circuits as circuits
    from labkit import context as context
    from labkit import generation as generation
    from labkit import landscape as landscape
    from labkit import lora as lora
    from labkit import moe as moe
    from labkit import quantization as quantization
    from labkit import sae as sae
    from labkit import tokenization as tokenization
    from labkit import views as views
    from labkit.circuits.lens_reading import lens as lens
    from labkit.circuits.swaps import swap as swap
    from labkit.circuits.two_models import compare as compare
    from labkit.errors import BadInput as BadInput
    from labkit.errors import BadModelFile as BadModelFile
    from labkit.errors import DownloadFailed as DownloadFailed
    from labkit.errors import LabClosed as LabClosed
    from labkit.errors import LabError as LabError
    from labkit.errors import ModelNotFound as ModelNotFound
    from labkit.errors import NotEnoughDisk as NotEnoughDisk
    from labkit.errors import NotEnoughMemory as NotEnoughMemory
    from labkit.errors import Unavailable as Unavailable
    from labkit.generation.forms import Grammar as Grammar
    from labkit.generation.record import Generation as Generation
    from labkit.generation.speculation import Draft as Draft
    from labkit.generation.speculation import Speculation as Speculation
    from labkit.lab import Lab as Lab
    from labkit.lab import load as load
    from labkit.landscape.planning import plan as plan
    from labkit.models.hardware import free_bytes as free_bytes
    from labkit.models.licences import Licence as Licence
    from labkit.models.licences import licence as licence
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
    from labkit.tokenization.splitting import tokens as tokens
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

# module -> its names
_NAMES = {
    "circuits.lens_reading": ("lens",),
    "circuits.swaps": ("swap",),
    "circuits.two_models": ("compare",),
    "errors": (
        "BadInput",
        "BadModelFile",
        "DownloadFailed",
        "LabClosed",
        "LabError",
        "ModelNotFound",
        "NotEnoughDisk",
        "NotEnoughMemory",
        "Unavailable",
    ),
    "generation.forms": ("Grammar",),
    "generation.record": ("Generation",),
    "generation.speculation": ("Draft", "Speculation"),
    "lab": ("Lab", "load"),
    "landscape.planning": ("plan",),
    "models.hardware": ("free_bytes",),
    "models.licences": ("Licence", "licence"),
    "models.memory": ("Memory", "memory"),
    "sae.interventions": ("clamp", "steer"),
    "teaching.card": ("exercise",),
    "teaching.checking": ("check",),
    "teaching.claims": ("claim",),
    "teaching.prediction": ("predict",),
    "teaching.progress": ("progress",),
    "teaching.reset": ("reset",),
    "tokenization.splitting": ("tokens",),
    "trace.edits": ("Edit", "ablate_head", "ablate_heads", "patch"),
    "trace.lens": ("lens_logits", "logit_attribution", "logit_lens"),
    "trace.patching": ("patching",),
    "trace.record": ("Trace",),
    "workshop.setup": ("setup",),
}
_ROOMS = (
    "attention",
    "circuits",
    "context",
    "generation",
    "landscape",
    "lora",
    "moe",
    "quantization",
    "recurrent",
    "sae",
    "tokenization",
    "views",
)

__getattr__, __dir__, _lazy = lazy_names(__name__, _NAMES, modules=_ROOMS)
__all__ = ["__version__", *_lazy]
