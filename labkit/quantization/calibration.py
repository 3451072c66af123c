"""What enters each matrix on calibration text: the second moments that GPTQ and activation-aware scaling go by.

A model is gone through once, layer by layer. As a layer is about to run, it is run with its weights as they are to see
what enters its matrices; then those are quantized, and the pass goes on with the quantized ones. So the inputs of a layer
are what the quantized layers before it make of the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.memory import human_bytes
from labkit.quantization.weights import Matrix, is_linear, matrices
from labkit.trace import running
from labkit.trace.building import check_room
from labkit.trace.input import as_ids, as_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

WINDOW = 256  # tokens of a row of calibration text
MOST_TOKENS = 8_192  # used of a calibration text; more change the choice of codes little
LEAST_TOKENS = 512
AT_ONCE = 6  # activations of an MLP's width that stand in memory side by side while a layer runs


@dataclass(frozen=True, eq=False)
class Activations:
    """What entered a matrix on calibration text.

    gram: (inputs, inputs) float32, the mean of xᵀx over the tokens: half the Hessian of the output's mean squared error.
    mean_abs: (inputs,) float32, the mean of |x|.  tokens: how many there were.
    """

    gram: torch.Tensor
    mean_abs: torch.Tensor
    tokens: int

    def error(self, change: torch.Tensor) -> torch.Tensor:
        """(outputs,) float64: each output's mean squared change when the matrix (outputs, inputs) is changed by this much."""
        exact = change.double()
        return ((exact @ self.gram.double()) * exact).sum(-1).clamp(min=0)


class _Sum:
    """Second moments while they are added up."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.gram = torch.zeros(columns, columns, dtype=torch.float32, device=device)
        self.absolute = torch.zeros(columns, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        self.gram += rows.T @ rows
        self.absolute += rows.abs().sum(0, dtype=torch.float64)
        self.tokens += len(rows)

    def mean(self) -> Activations:
        count = max(self.tokens, 1)
        return Activations(self.gram / count, (self.absolute / count).float(), self.tokens)


Collected = Mapping[str, Sequence[Activations]]  # by matrix: one, or one for each expert


# the text -------------------------------------------------------------------------------------------------------------


def windows(lab: LabLike, calibration: object, *, seed: int = 0, most: int = MOST_TOKENS) -> list[list[int]]:
    """Calibration text as rows of equal length: documents one after the other, cut, and drawn if there are too many.

    calibration: texts, or texts by kind. Rows are 256 tokens long, or as long as the context. Raises BadInput where the
    text is too short to tell anything, Unavailable for a model that can't be given several rows at once.
    """
    kinds = as_kinds(calibration)
    stream: list[int] = []
    for some in kinds.values():
        for text in some:
            stream += as_ids(lab.tokenizer, text, chat=False, context=None)
    if len(stream) < LEAST_TOKENS:
        raise BadInput(
            f"The calibration text has {len(stream):,} tokens, too few to tell which inputs matter; give at least "
            f"{LEAST_TOKENS} (such as lk.quantization.texts(10, skip=30), and measure on others)."
        )
    room = running.room(lab.model)
    length = WINDOW if room is None else min(WINDOW, room)
    rows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    if not running.answers_in_lists(lab.model).even:
        raise Unavailable(
            f"{lab.family} answers otherwise in a list of texts than alone, so it can't be calibrated; use method='rtn'."
        )
    wanted = max(1, most // length)
    if len(rows) > wanted:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:wanted].sort().values
        rows = [rows[i] for i in order.tolist()]
    return rows


def check_memory(lab: LabLike, rows: Sequence[Sequence[int]], there: Mapping[str, Matrix]) -> None:
    """Raise NotEnoughMemory where the activations of a layer, and the second moments of what enters it, would not fit."""
    widest = max(max(each.shape[-2:]) for each in there.values() if each.part == "layer")
    moments: dict[int | None, int] = {}
    for each in there.values():
        experts = each.shape[0] if len(each.shape) == 3 else 1
        moments[each.layer] = moments.get(each.layer, 0) + 4 * experts * each.shape[-1] ** 2
    needed = sum(map(len, rows)) * widest * 4 * AT_ONCE + max(moments.values())
    what = f"Calibrating {lab.name}, with {human_bytes(needed)} of activations and their moments,"
    check_room(lab, needed, what, "give less calibration text, or use method='rtn'")


# the inputs -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def collecting(wanted: Sequence[Matrix]) -> Iterator[Callable[[], Collected]]:
    """While inside, what enters these matrices' modules is added up; the function that is given returns it.

    Of fused experts, what is routed to each. Raises Unavailable for experts whose call can't be read.
    """
    sums = {
        each.name: [
            _Sum(each.shape[-1], each.weight.device) for _ in range(each.shape[0] if len(each.shape) == 3 else 1)
        ]
        for each in wanted
    }
    by_module: dict[nn.Module, dict[str, list[_Sum]]] = {}
    for each in wanted:
        by_module.setdefault(each.module, {})[each.parameter] = sums[each.name]

    def seen(module: nn.Module, args: tuple[object, ...], keywords: dict[str, object]) -> None:
        held = by_module[module]
        if is_linear(module):
            given = args[0] if args else next(iter(keywords.values()))
            assert isinstance(given, torch.Tensor)
            held["weight"][0].add(given)
        else:
            _experts(module, held, args, keywords)

    handles = [module.register_forward_pre_hook(seen, with_kwargs=True) for module in by_module]
    try:
        yield lambda: {name: [each.mean() for each in some] for name, some in sums.items()}
    finally:
        for handle in handles:
            handle.remove()


def _experts(
    module: nn.Module, held: Mapping[str, list[_Sum]], args: tuple[object, ...], keywords: dict[str, object]
) -> None:
    """What enters the matrices of each expert, from what the fused experts are called with."""
    given = [value for value in (*args, *keywords.values()) if isinstance(value, torch.Tensor | list)]
    if "weight" in held and len(given) == 2:  # rows in the order of the experts, and how many each has
        rows, counts = given
        assert isinstance(rows, torch.Tensor)
        parts = rows.split([int(count) for count in counts])
        for part, each in zip(parts, held["weight"], strict=True):
            each.add(part)
        return
    first = next((name for name in ("gate_up_proj", "up_proj") if hasattr(module, name)), None)
    known = first is not None and hasattr(module, "has_gate") and len(given) == 3
    if not known or not set(held) <= {first, "down_proj"}:
        raise Unavailable(
            f"labkit can't tell what enters each expert of {type(module).__name__}; use method='rtn', or leave the experts "
            "out with modules=."
        )
    hidden, chosen = given[0], given[1]
    assert isinstance(hidden, torch.Tensor)
    assert isinstance(chosen, torch.Tensor)
    assert first is not None
    hidden = hidden.reshape(-1, hidden.shape[-1])
    chosen = chosen.reshape(len(hidden), -1)
    count = len(next(iter(held.values())))
    weights: torch.Tensor = getattr(module, first)
    for expert in range(count):
        rows = hidden[(chosen == expert).any(1)]
        if not len(rows):
            continue
        if first in held:
            held[first][expert].add(rows)
        if "down_proj" in held:
            held["down_proj"][expert].add(_between(module, rows, weights, first, expert))


def _between(module: nn.Module, rows: torch.Tensor, weights: torch.Tensor, first: str, expert: int) -> torch.Tensor:
    """What an expert's second matrix is given."""
    weight = weights[expert]
    outputs = rows @ (weight if getattr(module, "is_transposed", False) else weight.transpose(0, 1))
    bias = getattr(module, f"{first}_bias", None)
    if bias is not None:
        outputs = outputs + bias[expert]
    activated: torch.Tensor = module._apply_gate(outputs) if module.has_gate else module.act_fn(outputs)  # type: ignore[operator]
    return activated


# through the layers ---------------------------------------------------------------------------------------------------


class _Done(Exception):
    """Every layer has been run; the rest of the pass is not needed."""


def layer_by_layer(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    layers: Sequence[nn.Module],
    run: Callable[[nn.Module, Callable[[], None]], None],
) -> None:
    """One pass over the rows. run(layer, again): called as a layer is about to run; again() runs it as it is then.

    A layer's module that is used several times is handed over at its first use.
    """
    todo = list(dict.fromkeys(layers))
    busy = False

    def before(layer: nn.Module, args: tuple[object, ...], keywords: dict[str, object]) -> None:
        nonlocal busy
        if busy or layer not in todo:
            return
        todo.remove(layer)

        def again() -> None:  # on copies: some layers write into what they are given
            layer(*map(_cloned, args), **{name: _cloned(value) for name, value in keywords.items()})

        busy = True
        try:
            run(layer, again)
        finally:
            busy = False
        if not todo:
            raise _Done

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in todo]
    try:
        running.forward(model, list(rows), logits="none")
    except _Done:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _cloned(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def activations(lab: LabLike, name: str, calibration: object, *, seed: int = 0) -> Activations:
    """What enters one matrix of a lab on calibration text, for `matrix(...)`; of fused experts, all experts' inputs together.

    name: as `matrices(lab)` has it.  calibration: texts, or texts by kind.
    Raises BadInput for a matrix that is not there and text that is too short.
    """
    there = matrices(lab)
    matrix = there.get(name)
    if matrix is None or matrix.layer is None:
        inside = [known for known, each in there.items() if each.layer is not None]
        raise BadInput(
            f"There is no matrix {checks.shown(name)} in the layers of {lab.name}{checks.near(name, inside)}; "
            "lk.quantization.matrices(lab) lists them."
        )
    rows = windows(lab, calibration, seed=seed)
    with lab.turn(), torch.no_grad(), collecting([matrix]) as collected:
        for group in running.groups(lab.model, list(map(len, rows))):  # rows were tried, so that no trial is counted
            part = [rows[i] for i in group]
            running.forward(lab.model, part, logits="none", upto=lab.anatomy.layers[matrix.layer].module, leaving=True)
        return together(collected()[name])


def together(parts: Sequence[Activations]) -> Activations:
    """Those of several experts as one."""
    tokens = sum(part.tokens for part in parts)
    share = [part.tokens / max(tokens, 1) for part in parts]
    gram = torch.stack([part.gram * weight for part, weight in zip(parts, share, strict=True)]).sum(0)
    mean = torch.stack([part.mean_abs * weight for part, weight in zip(parts, share, strict=True)]).sum(0)
    return Activations(gram, mean, tokens)
