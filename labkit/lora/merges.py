"""Tuned models merged into one of the same size: averages, task arithmetic, TIES, DARE and SLERP, from scratch.

Each is a few lines on one tensor of each model; `merged` runs them over all. Ilharco et al. 2022, "Editing Models with Task
Arithmetic"; Yadav et al. 2023, "TIES-Merging"; Yu et al. 2023, "Language Models are Super Mario" (DARE); Shoemake 1985 (SLERP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput
from labkit.lora.adapters import Adapter, by_name
from labkit.lora.merging import untie, untied_note
from labkit.lora.tuned_weights import taken_apart, tuned_weights
from labkit.trace import running
from labkit.trace.building import check_room, refuse_adapters, refuse_odd_weights
from labkit.trace.copying import copied
from labkit.trace.lab_like import BuiltLab, check_lab

__all__ = ["dare", "merged", "slerp", "ties", "trimmed"]

Made = TypeVar("Made", bound="BuiltLab")
Method = Literal["linear", "task_arithmetic", "ties", "dare", "dare_ties", "slerp"]
METHODS: tuple[Method, ...] = ("linear", "task_arithmetic", "ties", "dare", "dare_ties", "slerp")
PARALLEL = 0.9995  # cosine from which an arc is as good as a line


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """The share `density` of a change with the largest absolute values, at least one; the rest 0."""
    count = max(1, int(density * delta.numel()))
    if count >= delta.numel():
        return delta
    flat = delta.reshape(-1)
    kept = torch.zeros_like(flat)
    largest = flat.abs().argsort(descending=True)[:count]
    kept[largest] = flat[largest]
    return kept.reshape(delta.shape)


def dare(delta: torch.Tensor, density: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Each number of a change kept with probability `density`, and divided by it, so that its mean stays (Yu et al. 2023)."""
    kept = torch.bernoulli(torch.full(delta.shape, density, dtype=delta.dtype), generator=generator)
    return delta * kept.to(delta.device) / density


def ties(deltas: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """One change out of several, trimmed before: where they disagree about the sign, those of the heavier sign are averaged.

    deltas: of equal shape.  weights: of each. The sign of a number is that of the weighted sum; the average is over the changes
    that have it and are not 0 (Yadav et al. 2023, 3.2).
    """
    weighted = torch.stack([weight * delta for weight, delta in zip(weights, deltas, strict=True)])
    sign = torch.where(weighted.sum(0) >= 0, 1.0, -1.0).to(weighted)
    agrees = (weighted.sign() == sign).to(weighted)
    share = torch.tensor(list(weights)).to(weighted).view(-1, *[1] * (weighted.dim() - 1)) * agrees
    total = share.sum(0)
    return (weighted * agrees).sum(0) / torch.where(total == 0, torch.ones_like(total), total)


def slerp(t: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """From one tensor to another along the arc between their directions: t = 0 is the first, 1 the second.

    sin((1 − t) θ) / sin θ · first + sin(t θ) / sin θ · second, with θ the angle between them as long vectors; on the line between
    them where they are nearly parallel or opposite.
    """
    lengths = [
        x.norm() if float(x.norm()) > 1e-8 else torch.ones((), dtype=x.dtype, device=x.device) for x in (first, second)
    ]
    cosine = (first / lengths[0] * (second / lengths[1])).sum().clamp(-1, 1)
    if float(cosine.abs()) > PARALLEL:
        return (1 - t) * first + t * second
    angle = cosine.acos()
    return ((1 - t) * angle).sin() / angle.sin() * first + (t * angle).sin() / angle.sin() * second


def merged(
    lab: Made,
    sources: Mapping[str, Adapter[Any] | BuiltLab] | Sequence[Adapter[Any] | BuiltLab],
    method: Method = "ties",
    *,
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    t: float = 0.5,
    seed: int = 0,
) -> Made:
    """A new lab out of several tunings of one base, of the base's own size.

    lab: the base, unquantized; it is not changed.  sources: Adapters of it or Labs tuned from it, by name or in a list.
    method: "linear" averages the weights; "task_arithmetic" adds all changes to the base; "ties" trims each change to its
        largest numbers (`density` of each tensor) and averages those of the heavier sign; "dare" drops numbers at random
        (keeping `density`) and adds the rest; "dare_ties" drops at random and goes on as "ties"; "slerp" goes from the first of
        two to the second along the arc, by `t`.
    weights: what each source counts; 1 each by default.  seed: of DARE.
    Every tensor is merged by itself, in float64, and rounded once. What no source changes is the base's own, bit for bit.
    Tied ends stay tied unless a source has them apart; then the new lab has them apart too, and a note says so.
    Raises BadInput for fewer than two sources ("slerp": other than two) and what is no tuning of the base; Unavailable for
    quantized labs; NotEnoughMemory.
    """
    check_lab(lab)
    method = checks.one_of("method", method, METHODS)
    named = by_name("sources", sources, "adapters or labs")
    if len(named) < 2 or (method == "slerp" and len(named) != 2):
        raise BadInput(
            f"{method} merges {'two' if method == 'slerp' else 'two or more'} tunings, and {len(named)} were given."
        )
    density = checks.fraction("density", density, zero=False)
    t, seed = checks.number("t", t, 0, 1), checks.seed(seed)
    counts = [1.0] * len(named) if weights is None else [checks.number("weights", w) for w in weights]
    if len(counts) != len(named):
        raise BadInput(f"weights has {len(counts)} numbers for {len(named)} sources; give one for each.")
    if method in ("linear", "ties", "dare_ties") and not sum(counts):
        checks.refuse("weights", weights, "numbers that don't add up to 0, which is divided by")
    refuse_adapters(lab, "merged")
    refuse_odd_weights(lab, "merged")
    parts = [tuned_weights(lab, name, each) for name, each in named.items()]
    untied = taken_apart(parts)
    size = sum(value.nbytes for value in lab.model.parameters()) + sum(parts[0].own[name].nbytes for name in untied)
    check_room(lab, size, f"{lab.name}, merged", "close another lab")
    changed = {name for part in parts for name in part.changed()}
    generator = torch.Generator().manual_seed(seed)
    with lab.turn(), torch.no_grad():
        model = copied(lab.model)
        running.take_over_answers(model, lab.model)
        for name in untied:
            untie(running.language_model(model), name)
        held: dict[str, nn.Parameter] = dict(model.named_parameters())
        for name, parameter in held.items():
            if name not in changed:
                continue
            values = [part.weight(name).double() for part in parts]
            new = _tensor(method, parts[0].own[name].double(), values, counts, density, t, generator)
            parameter.copy_(new.to(parameter.dtype))
    if lost := changed - set(held) - {name for name, _ in lab.model.named_parameters(remove_duplicate=False)}:
        raise BadInput(
            f"{next(iter(lost))} is changed and is no parameter of {lab.name}; give tunings of its parameters."
        )
    notes = [*lab.notes, f"merged by {method}: {checks.listed(named)}"]
    if untied:
        notes.append(untied_note([name.rpartition(".")[0] for name in untied]))
    return type(lab)(model, lab.tokenizer, name=f"{lab.name}, {method}", licence=lab.licence, notes=tuple(notes))


def _tensor(
    method: Method,
    base: torch.Tensor,
    values: list[torch.Tensor],
    weights: list[float],
    density: float,
    t: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """One tensor of the merged model. base, values: of equal shape, float64."""
    if method == "slerp":
        return slerp(t, values[0], values[1])
    if method == "linear":
        return torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum(0) / sum(weights)
    deltas = [value - base for value in values]
    if method == "ties":
        return base + ties([trimmed(delta, density) for delta in deltas], weights)
    if method in ("dare", "dare_ties"):
        deltas = [dare(delta, density, generator) for delta in deltas]
    if method == "dare_ties":
        return base + ties(deltas, weights)
    return base + torch.stack([w * delta for w, delta in zip(weights, deltas, strict=True)]).sum(0)
