"""An adapter merged into the weights of a copy of its base, and the test that this was done.

Public tools have lost merges without a word: into packed weights, into the shared tensor of a tied embedding, into weights
that rounding leaves as they were, twice. So the logits of the merged model are compared with those of base and adapter, and
with the base's own, each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from labkit.errors import BadInput, Unavailable
from labkit.lora.adapters import MERGED
from labkit.lora.low_rank import LowRank, dense_weight
from labkit.quantization.unpacking import unpacked
from labkit.quantization.weights import is_conv1d
from labkit.trace import running
from labkit.trace.building import check_room, is_quantized, refuse_added, refuse_odd_weights
from labkit.trace.copying import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from labkit.lora.adapters import Adapter
    from labkit.trace.lab_like import BuiltLab

__all__ = ["Logits", "add_to_weights", "merged_copy", "untie", "untied_note"]

Made = TypeVar("Made", bound="BuiltLab")
EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}  # of the largest logit
ROUNDED = 0.25  # in 16 bits: of what the adapter changes, the most that rounding may take
PROBES = (
    "The quick brown fox jumps over the lazy dog, and then it asks: why is the sky blue?",
    'def add(a, b):\n    return a + b\n\nOn 7 March 1998, 1,234 people came. {"name": ',
)
TOKENS = 48  # of each text that is tried


def merged_copy(adapter: Adapter[Made], *, scale: float, dtype: torch.dtype | None, progress: bool) -> Made:
    """A new lab with scale · ΔW in its weights; `Adapter.merge` says the rest."""
    lab = adapter.lab
    refuse_added(lab, "copied")
    packed = is_quantized(lab.model)
    if packed and dtype is None:
        raise Unavailable(
            f"{lab.name} is quantized, and its grid would round the adapter away: use adapter.on(), merge into a float copy of "
            "what is packed with adapter.merge(dtype='float32'), or merge into the lab that was quantized."
        )
    if not packed:
        refuse_odd_weights(lab, "merged with an adapter")
    kind = dtype or lab.dtype
    count = sum(parameter.numel() for parameter in lab.model.parameters())
    check_room(lab, count * kind.itemsize, f"{lab.name}, merged", "close another lab, or use adapter.on() instead")
    with lab.turn(), torch.no_grad():
        model = unpacked(lab.model, kind) if packed else copied(lab.model)
        nn.Module.to(model, kind)
        untied = add_to_weights(model, adapter.low_ranks, adapter.replaced, running.language_model(lab.model), scale)
        running.take_over_answers(model, lab.model)
    test = _tested(adapter, model, scale)
    notes = [f"{MERGED}{adapter.name}" + (f" at scale {scale:g}" if scale != 1 else ""), test.sentence()]
    if packed:
        notes.append(f"merged into a float copy of what is packed in {lab.name}, in {str(kind).removeprefix('torch.')}")
    if untied:
        notes.append(untied_note(untied))
    if progress:
        print("\n".join(notes))
    return type(lab)(
        model, lab.tokenizer, name=f"{lab.name} + {adapter.name}", licence=lab.licence, notes=(*lab.notes, *notes)
    )


def add_to_weights(
    model: PreTrainedModel,
    low_ranks: Mapping[str, LowRank],
    replaced: Mapping[str, torch.Tensor],
    base: PreTrainedModel,
    scale: float,
) -> list[str]:
    """Add scale · ΔW to a model's own weights, in place. base: the model whose weights ΔW belongs to (DoRA, `replaced`).

    A tensor that is shared with another module is taken apart first: the adapter changes one of them. Returns the names of
    modules whose tensor was. The sum is made in float64 and rounded once.
    """
    untied = []
    for name, low_rank in low_ranks.items():
        module = model.get_submodule(name)
        untied += [name] if untie(model, f"{name}.weight") else []
        weight = module._parameters["weight"]
        assert weight is not None
        source = dense_weight(base.get_submodule(name)) if low_rank.magnitude is not None else None
        delta = scale * low_rank.delta(source).to(weight.device)
        delta = delta.T if is_conv1d(module) or isinstance(module, nn.Embedding) else delta
        weight.data = (weight.double() + delta).to(weight.dtype)
        if low_rank.bias is not None:
            _add_bias(name, module, scale * low_rank.scaling * low_rank.bias)
    for name, value in replaced.items():
        module_name, _, parameter = name.rpartition(".")
        module = model.get_submodule(module_name)
        untied += [module_name] if untie(model, name) else []
        weight, own = module._parameters[parameter], base.get_submodule(module_name)._parameters[parameter]
        assert weight is not None
        assert own is not None
        if scale == 1 and weight.dtype == value.dtype and torch.equal(weight, own):
            weight.data = value.to(weight.device).clone()
        else:
            change = value.double().to(weight.device) - own.double().to(weight.device)
            weight.data = (weight.double() + scale * change).to(weight.dtype)
    return untied


def untie(model: PreTrainedModel, name: str) -> bool:
    """Give a module a parameter of its own, by its name, where it is shared; whether it was."""
    module_name, _, parameter = name.rpartition(".")
    module = model.get_submodule(module_name)
    shared = module._parameters[parameter]
    assert shared is not None
    holders = sum(value is shared for part in model.modules() for value in part._parameters.values())
    if holders == 1:
        return False
    module._parameters[parameter] = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False  # else the next load would tie them again, and lose the change
    return True


def untied_note(modules: Sequence[str]) -> str:
    """What is said of modules that got a tensor of their own."""
    return f"{' and '.join(modules)} no longer share{'s' if len(modules) == 1 else ''} a tensor with another part"


def _add_bias(name: str, module: nn.Module, change: torch.Tensor) -> None:
    bias = module._parameters.get("bias")
    if bias is None:
        raise Unavailable(f"The adapter has a bias for {name}, which has no place for one; use adapter.on() instead.")
    bias.data = (bias.double() + change.to(bias.device).double()).to(bias.dtype)


# the test -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logits:
    """What the test of a merge found, as shares of the largest logit of base and adapter.

    error: how far the merged model's logits are from theirs, at most; allowed: how far they may be.
    change: how far theirs are from the base's own.  dtype: of the merged weights.
    """

    error: float
    allowed: float
    change: float
    dtype: torch.dtype

    def sentence(self) -> str:
        return (
            f"tested: the logits are those of base and adapter to {self.error:.1e} of the largest one (allowed "
            f"{self.allowed:.0e}), and differ from the base's by {self.change:.1e}"
        )


def _tested(adapter: Adapter[Made], model: PreTrainedModel, scale: float) -> Logits:
    """Compare the merged model with base and adapter, and with the base. Raises where the merge was lost or is wrong."""
    lab = adapter.lab
    rows = _probes(lab)
    base = _logits(lab.model, rows, lab)
    with adapter.on(scale):
        tuned = _logits(lab.model, rows, lab)
    after = _logits(model, rows, lab)
    largest = float(tuned.abs().max())
    change, error = (float((tuned - other).abs().max()) / largest for other in (base, after))
    dtype = model.dtype
    both = EXACT.get(dtype, 0.0) if lab.dtype in EXACT else 0.0
    allowed = both or ROUNDED * change
    found = Logits(error, allowed, change, dtype)
    if change == 0:
        raise BadInput(
            f"{adapter.name} changes nothing at scale {scale:g}: the logits with it are those without, so there is nothing to "
            "merge; train it first."
        )
    if not error <= allowed:
        remedy = "merge with dtype='float32'" if dtype not in EXACT else "use adapter.on() instead"
        raise Unavailable(
            f"The merge of {adapter.name} failed its test: the logits differ from those of base and adapter by {error:.1e} of "
            f"the largest one, and {allowed:.1e} is allowed where the adapter changes them by {change:.1e}; {remedy}."
        )
    if both and change <= error:
        raise Unavailable(
            f"{adapter.name} changes the logits by no more than rounding does ({change:.1e} of the largest one), so a merge "
            "of it can't be told from the base; use adapter.on(), or train it further."
        )
    return found


def _probes(lab: BuiltLab) -> list[list[int]]:
    """Token ids to compare logits on: of two texts where the tokenizer reads them, and some spread over the vocabulary."""
    rows = running.embedding_rows(lab.model)
    most = min(TOKENS, lab.context or TOKENS)
    found = [[(7 + 131 * i) % rows for i in range(min(most, 24))]]
    for text in PROBES:
        try:
            ids = list(lab.tokenizer(text)["input_ids"])[:most]
        except (TypeError, ValueError, KeyError):
            continue
        if ids and all(isinstance(i, int) and 0 <= i < rows for i in ids):
            found.append(ids)
    return found


def _logits(model: PreTrainedModel, rows: list[list[int]], lab: BuiltLab) -> torch.Tensor:
    with lab.turn():
        return torch.cat([running.forward(model, [ids]).all_logits[0].double().cpu() for ids in rows])
