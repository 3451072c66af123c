"""Tune a model on a task, in the background, with TRL's SFTTrainer: what can't go well is refused before it begins."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.lora import checkpoints, methods
from labkit.lora.costs import check_memory
from labkit.lora.forgetting import Measuring, TextRows
from labkit.lora.masks import Mask, Part, Prepared, prepared
from labkit.lora.methods import METHODS, Targets
from labkit.lora.runs import Run, check_free
from labkit.lora.samples import Sample
from labkit.lora.settings import Settings, checked
from labkit.lora.tuning import Plan, TunableLab, Tuning
from labkit.lora.twins import float32_copy, twin
from labkit.quantization.bases import base_of
from labkit.quantization.quantizing import quantize
from labkit.quantization.torch_products import PackedProduct
from labkit.trace import running
from labkit.trace.building import is_quantized, refuse_adapters, refuse_odd_weights
from labkit.trace.lab_like import check_lab
from labkit.trace.turns import changed_here

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["finetune"]

Made = TypeVar("Made", bound=TunableLab)
MEASURES = 6  # of a run, unless told otherwise
WATCHED = 16  # held-out samples that are measured while it runs, unless told otherwise
_STARTING = threading.Lock()


def finetune(
    lab: Made,
    data: object,
    *,
    rank: int = 16,
    alpha: float = 32,
    targets: Targets = ("q_proj", "v_proj"),
    dropout: float = 0.1,
    neftune: float | None = None,
    steps: int = 60,
    method: str = "lora",
    learning_rate: float = 2e-3,
    schedule: str = "linear",
    optimizer: str = "adamw",
    warmup: int = 0,
    batch: int = 8,
    held_out: object = None,
    general: object = None,
    prompt: object = None,
    measure_every: int | None = None,
    measure_samples: int = WATCHED,
    until_loss: float | None = None,
    new_tokens: int = 24,
    folder: str | os.PathLike[str] | None = None,
    save_every: int = 5,
    resume: bool = False,
    packing: bool | str = False,
    max_tokens: int | None = None,
    columns: Mapping[str, str] | None = None,
    template: Mapping[str, object] | None = None,
    compute: str = "float32",
    seed: int = 0,
) -> Run[Made]:
    """Teach a model a task in the background; returns the Run at once. The lab can be used meanwhile, and is never changed.

    data: prompts with completions, conversations, or plain texts (which is continued pre-training), as `read` takes them.
        `mask(lab, data)` shows what of it carries loss; what can't be trained on rightly is refused.
    rank, alpha, targets, dropout: of the adapter: ΔW = alpha / rank · B A beside each matrix whose name is given, or beside all
        with targets="all-linear".
    method: "lora" (Hu et al. 2021), "rslora" (Kalajdzievski 2023), "dora" (Liu et al. 2024), "pissa" (Meng et al. 2024; not of
        weights in 16 bits), "qlora" (Dettmers et al. 2023: the frozen weights in nf4 with double quantization), or "full" for
        all weights, which want about a tenth of the learning rate; then rank, alpha, targets and dropout are not used, and
        `run.lab` is what comes of it. Of a lab in 16 bits, in which small updates would be rounded away, a float32 copy is
        trained, and `run.lab` is in float32.
    neftune: size of the noise on embeddings (Jain et al. 2023: 5 to 15), or None.
    steps, batch: updates, and samples in each. learning_rate, warmup: warmup steps from nothing up to it; schedule: from there
        "linear" or "cosine" to nothing, "constant", or "schedule_free" (Defazio et al. 2024, by the package schedulefree).
        optimizer: "adamw", "sgd", or "sophia" (Liu et al. 2023, with the Gauss-Newton-Bartlett estimate of the curvature every
        ten steps, which takes another pass forward and back). Gradients are clipped to a norm of 1.
    held_out: samples of the same form that are not trained on, or the share of `data` that is kept out for that.
    general: texts on which forgetting is measured, the first 96 tokens of each; None for the shipped ones, False for none.
    prompt: what the model is asked each time it is measured, answered in `new_tokens` tokens at most; by default the first
        held-out prompt, else the first of the data; False for nothing.
    measure_every: steps between two measurements; by default six to a run. Each also takes time.
    measure_samples: how many of the held-out samples are measured on each time, from the first; the history's held_out and kl
        are of these.
    until_loss: the loss on those held-out samples at which the run ends, before its last step: looked at each time they are
        measured, so that with measure_every=1 it ends at the first step that reaches it. Two methods can be compared at the
        same loss that way; then schedule="constant" keeps the schedule out of it. `run.reached` tells whether it came to that.
    folder: for checkpoints, every `save_every` steps; with resume=True the run goes on from the last one there, as it would
        have, whatever ended it.
    packing, max_tokens, columns, template: as `mask` takes them.
    compute: the dtype of the products, "float32" or "bfloat16" (autocast: faster on many processors, less exact).
    The same seed gives the same result on a CPU, whatever else is drawn meanwhile.
    Raises BadInput for what can't be trained on or with, Unavailable while another run is under way or for a model that can't
    be tuned, NotEnoughMemory.
    """
    check_lab(lab)
    with _STARTING:  # of two at once, one is refused
        check_free()
        settings = checked(
            method=method,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            neftune=neftune,
            steps=steps,
            learning_rate=learning_rate,
            schedule=schedule,
            optimizer=optimizer,
            warmup=warmup,
            batch=batch,
            packing=packing is not False,
            compute=compute,
            seed=seed,
        )
        every = (
            max(1, round(steps / MEASURES))
            if measure_every is None
            else checks.whole("measure_every", measure_every, 1)
        )
        new_tokens, save_every = checks.whole("new_tokens", new_tokens, 1), checks.whole("save_every", save_every, 1)
        measure_samples = checks.whole("measure_samples", measure_samples, 1)
        goal = None if until_loss is None else checks.number("until_loss", until_loss, above=0)
        if goal is not None and held_out is None:
            raise BadInput("until_loss is the loss on held-out samples; give some, or a share such as held_out=0.1.")
        place = _folder(folder, resume)
        _check_model(lab, settings)
        if not METHODS[settings.method].is_full:
            inner = running.language_model(lab.model)
            there = methods.linear_maps(inner)
            refused = methods.refused_by_peft(inner, there)
            settings = replace(settings, targets=methods.found(targets, settings.rank, there, refused))
        ready = prepared(
            lab,
            data,
            held_out,
            general=general,
            max_tokens=max_tokens,
            packing=packing,
            columns=columns,
            template=template,
            seed=settings.seed,
        )
        identity: dict[str, object] = {
            "base": base_of(lab).as_text(),
            "data": _fingerprint(ready, "train"),
            "held_out": _fingerprint(ready, "held_out"),
            "general": _fingerprint(ready, "general"),
            "measure_samples": measure_samples,
            "until_loss": goal,
            **settings.as_dict(),
        }
        longest = max(len(each.ids) for each in ready.train.samples)
        check_memory(lab, settings, ready.train.row_tokens or longest)
        start = _checkpoint(place, identity) if resume and place is not None else None
        trained = _trained(lab, settings)
        plan = Plan(
            data=ready,
            measuring=_measuring(trained, ready, measure_samples),
            every=every,
            prompt=_prompt(prompt, ready),
            new_tokens=new_tokens,
            folder=place,
            save_every=save_every,
            identity=identity,
            template=template,
            prompt_template=_prompt_template(prompt, ready, template),
            until_loss=goal,
        )
        run = Run(
            lab,
            settings,
            Tuning(trained, settings, plan, start),
            title=f"{lab.name}, {settings.method}",
            notes=_notes(lab, settings, ready, targets),
        ).start()
    count = settings.steps - run.step
    print(
        f"Training {count} step{'s' * (count != 1)} in the background: lk.views.training(run) shows how it goes, run.wait() "
        "waits, run.stop() ends it with what it has learnt.",
        *run.notes,
    )
    return run


def _check_model(lab: TunableLab, settings: Settings) -> None:
    """Raise where a model can't be tuned."""
    from transformers import PreTrainedTokenizerBase

    refuse_adapters(lab, "tuned")
    if changed_here(lab.model):
        raise Unavailable(
            f"{lab.name} has edits on, and a tuning would be of the model without them; leave the `with lab.edit(...)` block."
        )
    if not isinstance(lab.tokenizer, PreTrainedTokenizerBase):
        raise Unavailable(f"TRL needs a transformers tokenizer, and that of {lab.name} is none; load the model's own.")
    if not is_quantized(lab.model):
        refuse_odd_weights(lab, "tuned")
        if METHODS[settings.method].residual and (half := _half(lab.model)):
            raise Unavailable(
                f"{lab.name} is in {half}, in which the weights less what {settings.method} takes out of them would be rounded, "
                "and the adapter would not be one of this model; load it with dtype='float32', or use method='lora'."
            )
    elif METHODS[settings.method].is_full or METHODS[settings.method].residual:
        raise Unavailable(
            f"{lab.name} is quantized, and method={settings.method!r} changes the weights themselves; use method='qlora', "
            "or load the model without a quantization."
        )
    elif why := _no_gradient(lab.model):
        raise Unavailable(f"{lab.name} can't be tuned: {why}; quantize it with backend='labkit'.")


def _half(model: nn.Module) -> str | None:
    """The dtype of weights that have 16 bits; None where there are none."""
    found = (weight.dtype for weight in model.parameters() if weight.is_floating_point() and weight.dtype.itemsize < 4)
    return next((str(dtype).removeprefix("torch.") for dtype in found), None)


def _no_gradient(model: nn.Module) -> str | None:
    """Why no gradient gets through a quantized model; None where it does."""
    products = {type(module).__name__ for module in model.modules() if isinstance(module, PackedProduct)}
    if products:
        return f"torch has no gradient for its packed products ({', '.join(sorted(products))})"
    if any(_packs_again(module) for module in model.modules()):
        return "bitsandbytes has no gradient for the form in which it computes bfloat16 on this processor"
    return None


def _packs_again(module: nn.Module) -> bool:
    """Whether bitsandbytes puts the weight into another form at the first pass without a gradient, or has done so."""
    weight = getattr(module, "weight", None)
    done = getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False)
    will = getattr(module, "support_avx512bf16_for_cpu", False) and weight is not None and weight.device.type == "cpu"
    return bool(done or will)


def _trained(lab: Made, settings: Settings) -> Made:
    """The lab whose weights the run begins with, another one where the method wants them otherwise."""
    if METHODS[settings.method].quantized:
        return _packed(lab)
    return float32_copy(lab) if METHODS[settings.method].is_full and _half(lab.model) else lab


def _packed(lab: Made) -> Made:
    """The lab with its linear maps in nf4 with double quantization; as it is where it is quantized already.

    By bitsandbytes where it is there, since its products don't unpack to memory, else, and in bfloat16 on a CPU, by labkit.
    """
    if is_quantized(lab.model):
        return lab
    there = importlib.util.find_spec("bitsandbytes") is not None
    again = lab.dtype == torch.bfloat16 and lab.device.type == "cpu"  # see `_packs_again`
    return quantize(lab, "nf4", backend="bitsandbytes" if there and not again else "labkit", progress=False)


def _folder(folder: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    if folder is None:
        if resume:
            raise BadInput("resume=True goes on from the checkpoints of a folder; give folder=.")
        return None
    place = Path(folder).expanduser()
    if place.exists() and not place.is_dir():
        raise BadInput(f"folder={os.fspath(folder)!r} is a file; give a folder.")
    if not resume and checkpoints.there(place):
        raise BadInput(
            f"There are checkpoints of a run in {os.fspath(folder)!r}; go on from them with resume=True, or give another folder."
        )
    return place


def _checkpoint(place: Path, identity: Mapping[str, object]) -> checkpoints.Checkpoint | None:
    found = checkpoints.latest(place)
    if found is not None:
        checkpoints.check_same(place, found.identity, identity)
    return found


def _fingerprint(ready: Prepared, part: Part) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(ready.rows(part)).encode()).hexdigest()


def _measuring(lab: TunableLab, ready: Prepared, samples: int) -> Measuring:
    """What is measured against a bare twin of the lab's model, which is made only where there is something to measure."""
    if ready.held_out is None and ready.general is None:
        return Measuring()
    base = twin(lab)
    return Measuring(base, _watched(base, ready.held_out, samples), _watched(base, ready.general, None))


def _watched(model: PreTrainedModel, mask: Mask | None, most: int | None) -> TextRows | None:
    """The rows of a mask that are measured on."""
    if mask is None:
        return None
    some = mask.samples[:most]
    return TextRows(model, [each.ids for each in some], [each.learns for each in some])


def _prompt(prompt: object, ready: Prepared) -> object:
    """What the model is asked while it learns: None for nothing."""
    if prompt is False:
        return None
    if prompt is not None:
        return prompt
    sample = _shown(ready)
    if sample.kind == "text":
        return None
    if sample.kind == "prompt":
        return sample.prompt
    messages = sample.messages
    last = max(i for i, message in enumerate(messages) if message.get("role") == "assistant")
    return cast("object", [dict(message) for message in messages[:last]] or None)


def _prompt_template(
    prompt: object, ready: Prepared, template: Mapping[str, object] | None
) -> Mapping[str, object] | None:
    """The chat template's arguments for that prompt: the run's, with the tools of the sample that it is taken from."""
    tools = _shown(ready).tools if prompt is None else ()
    return {**(template or {}), "tools": list(tools)} if tools else template


def _shown(ready: Prepared) -> Sample:
    """The sample whose prompt is asked, unless another is given."""
    return (ready.train if ready.held_out is None else ready.held_out).samples[0].sample


def _notes(lab: TunableLab, settings: Settings, ready: Prepared, targets: Targets) -> tuple[str, ...]:
    """What to bear in mind of a run, in sentences."""
    found = []
    there = methods.linear_maps(running.language_model(lab.model)) if settings.targets else {}
    about = methods.left_out if targets == methods.ALL_LINEAR else methods.in_some_layers
    if said := about(settings.targets, there):
        found.append(said)
    if ready.held_out is None:
        found.append(
            "Nothing is held out, so held_out and kl are not measured; for them give samples, or a share such as held_out=0.1."
        )
    if METHODS[settings.method].is_full and (half := _half(lab.model)):
        found.append(
            f"A float32 copy of the weights is trained, since in {half} small updates would be rounded away; run.lab is in "
            "float32 too."
        )
    return tuple(found)
