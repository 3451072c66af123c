"""A model with its rotary positions stretched: for the length of a `with`, or as a lab of its own over the same weights.

transformers' own rotary module is built anew from a changed configuration, so that what runs is what a model loaded with that
configuration runs. In an edit the model's own module hands its calls on to the new one and the configuration's limit of
positions is raised; afterwards both are as they were.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from labkit import checks
from labkit.context.rotary import (
    KINDS,
    Frequencies,
    from_parameters,
    kinds_of_layers,
    no_rotary,
    ntk_base,
    text_config,
    turned_channels,
)
from labkit.errors import BadInput, Unavailable
from labkit.models.config import context_length
from labkit.trace import running
from labkit.trace.copying import copied
from labkit.trace.edits import ModelEdit
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.trace.lab_like import BuiltLab, LabLike

Made = TypeVar("Made", bound="BuiltLab")
SCALINGS = ("default", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope")
FULL, SLIDING = "full_attention", "sliding_attention"
MOST_TIMES, MOST_POSITIONS = 1e6, 10**9
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Scaling:
    """How positions are stretched. kind: of `SCALINGS`.  factor: how many times the trained length.

    trained: that length; None for the configuration's.  more: further parameters, as transformers names them.
    """

    kind: str
    factor: float
    trained: int | None
    more: Mapping[str, object]

    def config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The text configuration that says so, of one that has no scaling yet. Raises Unavailable where it can't be."""
        given = getattr(config, "rope_parameters", None)
        if not isinstance(given, Mapping) or not given:
            raise Unavailable(no_rotary(config))
        kinds = kinds_of_layers(config)
        if kinds and not set(kinds) <= {FULL, SLIDING}:
            raise Unavailable(
                f"{config.model_type} has rotary positions of its own for layers of kinds {checks.listed(kinds)}, and which "
                "of them a longer text needs stretched is not known; take another model."
            )
        new = copy.deepcopy(config)
        limit = context_length(config)
        trained = self.trained or limit
        if limit is None or trained is None:
            raise Unavailable(
                f"{config.model_type} names no number of positions; give trained=, the length it was trained with."
            )
        # a layer with a window never looks farther than it was trained to, so its positions stay as they are
        new.rope_parameters = (
            {kind: self._one(own, config, trained) if kind == FULL else dict(own) for kind, own in given.items()}
            if kinds
            else self._one(given, config, trained)
        )
        if getattr(new, "head_dim", 0) is None:  # transformers' YaRN and dynamic NTK ask for it and don't work it out
            new.head_dim = new.hidden_size // new.num_attention_heads
        reach = int(trained * self.factor)
        for name in LIMITS:
            if isinstance(getattr(new, name, None), int):
                # dynamic NTK counts from this very field; it needs no other limit to be right
                setattr(new, name, trained if self.kind == "dynamic" else max(reach, trained))
                break
        return new

    def _one(self, own: object, config: PreTrainedConfig, trained: int) -> dict[str, object]:
        assert isinstance(own, Mapping)
        had = str(own.get("rope_type", "default"))
        if had not in ("default", "proportional") or (had == "proportional" and self.kind != "linear"):
            if self.kind == "default":
                return dict(own)
            raise Unavailable(
                f"This {config.model_type} was trained with positions stretched already ({had}), and a second scaling on top "
                'would be another model; take kind="default" to leave them as they are.'
            )
        if not isinstance(own.get("rope_theta"), int | float):
            raise Unavailable(no_rotary(config))
        pairs = turned_channels(config, own)[0] // 2
        for name in ("short_factor", "long_factor"):
            given = self.more.get(name)
            if isinstance(given, list) and len(given) != pairs:
                raise BadInput(
                    f"{name} has {len(given)} numbers, and a head of this {config.model_type} has {pairs} pairs."
                )
        new: dict[str, object] = dict(own)
        if self.kind == "ntk":
            turned, _ = turned_channels(config, own)
            new["rope_theta"] = ntk_base(float(own["rope_theta"]), self.factor, turned)
        elif self.kind != "default":
            new |= {"rope_type": had if had == "proportional" else self.kind, "factor": float(self.factor)}
            if self.kind in ("yarn", "llama3", "longrope"):
                new["original_max_position_embeddings"] = trained
            if self.kind == "llama3":
                new |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        return {**new, **self.more}

    def frequencies(self, what: object, *, tokens: int | None = None) -> Frequencies:
        """The frequencies that this scaling gives a Lab or a configuration (of its layers with full attention)."""
        new = self.config(text_config(what))
        given = new.rope_parameters
        if kinds := kinds_of_layers(new):
            given = given[FULL] if FULL in kinds else given[kinds[0]]
        return from_parameters(given, new, tokens=tokens)


_MORE = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor", "attention_factor"),
}


def scaling(kind: str, factor: float, trained: int | None = None, **more: object) -> Scaling:
    """A scaling, its arguments checked. See `positions`."""
    kind = checks.one_of("kind", kind, SCALINGS)
    factor = checks.number("factor", factor, 1.0, MOST_TIMES)
    trained = None if trained is None else checks.whole("trained", trained, 2, MOST_POSITIONS)
    known = _MORE.get(kind, ())
    for name, value in more.items():
        if name not in known:
            there = f"there {'is' if len(known) == 1 else 'are'} {checks.listed(known)}" if known else "it has none"
            raise BadInput(f"{name}={checks.shown(value)} is no parameter of {kind!r}; {there}.")
    if kind == "longrope" and not {"short_factor", "long_factor"} <= set(more):
        raise BadInput(
            "longrope was searched for each model: give short_factor= and long_factor=, a number for each pair."
        )
    return Scaling(kind, factor, trained, {name: _checked(name, value) for name, value in _in_order(more).items()})


def _checked(name: str, value: object) -> object:
    """A parameter of a scaling as transformers takes it, which checks none of them."""
    if name == "truncate":
        return checks.flag(name, value)
    if name in ("short_factor", "long_factor"):
        return [checks.number(name, each, above=0) for each in checks.series(name, value, "a number for each pair")]
    return checks.number(name, value, above=0)


def _in_order(more: Mapping[str, object]) -> Mapping[str, object]:
    """The same, after a look at the ends of ramps: between equal ones there would be a division by zero."""
    for low, high, otherwise in (
        ("beta_slow", "beta_fast", (1.0, 32.0)),
        ("low_freq_factor", "high_freq_factor", (1.0, 4.0)),
    ):
        if low in more or high in more:
            ends = [
                checks.number(name, more.get(name, own), above=0)
                for name, own in zip((low, high), otherwise, strict=True)
            ]
            if ends[0] >= ends[1]:
                raise BadInput(
                    f"{low}={ends[0]:g} and {high}={ends[1]:g} leave no ramp between; {high} is the larger one."
                )
    return more


def positions(kind: str = "yarn", factor: float = 4.0, *, trained: int | None = None, **more: object) -> ModelEdit:
    """An edit that stretches a model's rotary positions: `with lab.edit(lk.context.positions("yarn", factor=4)): ...`.

    kind: "default" leaves them as they are and only lets texts be longer; "linear" is position interpolation; "ntk" a larger
        base, the same at every length (NTK-aware); "dynamic" one that grows with the text; "yarn"; "llama3"; "longrope".
    factor: how many times the trained length texts may have.  trained: that length, where it is not the configuration's limit.
    more: further parameters of a kind, as transformers names them (beta_fast, beta_slow, attention_factor, truncate; ...).
    Traces, generation and caches hold to it; inside, `lab.context` is the new length. Layers with a sliding window that have
    positions of their own (Gemma 3) keep them. `lab.edit` raises Unavailable for a model without rotary positions, or whose
    positions are stretched already; a "dynamic" or "longrope" text that grows over a change of its frequencies while a cache
    holds keys of the old ones is refused in that run.
    """
    wanted = scaling(kind, factor, trained, **more)

    def check(lab: LabLike) -> None:
        _check_not_stretched(rotary_modules(running.language_model(lab.model)), wanted.kind)
        wanted.config(lab.config)

    return ModelEdit((f"positions, {kind} by {factor:g}",), lambda model: _stretched(model, wanted), check)


def scaled(lab: Made, kind: str = "yarn", factor: float = 4.0, *, trained: int | None = None, **more: object) -> Made:
    """A lab over the same weights whose configuration says that its positions are stretched; the original is untouched.

    Arguments and errors: as of `positions`. Weights are shared, so that none is there twice: train neither of the two.
    """
    check_lab(lab)
    wanted = scaling(kind, factor, trained, **more)
    if kind == "dynamic":
        raise Unavailable(
            'A lab can\'t be made with "dynamic": its base changes with each token, and keys in a cache have another one; '
            'take "ntk", which keeps one base, or the edit lk.context.positions("dynamic").'
        )
    with lab.turn():
        inner = running.language_model(lab.model)
        modules = rotary_modules(inner)
        _check_not_stretched(modules, kind)
        config = wanted.config(lab.config)
        same = {tensor: tensor for tensor in [*inner.parameters(), *inner.buffers()]}
        model = copied(inner, instead=same)
        own = model.config.get_text_config()
        for name, value in vars(config).items():
            if name in ("rope_parameters", "head_dim", *LIMITS):
                setattr(own, name, value)
        for path in modules:
            parent = model.get_submodule(path.rpartition(".")[0])
            new = _built(modules[path], own)
            if kind != "default":
                vars(new)[_STRETCHED] = f"{kind}, {factor:g} times"
            setattr(parent, path.rpartition(".")[2], new)
    note = f"positions: {kind}, {factor:g} times {trained or context_length(lab.config):,}"
    return type(lab)(
        model, lab.tokenizer, name=f"{lab.name}, {kind} ×{factor:g}", licence=lab.licence, notes=(*lab.notes, note)
    )


_STRETCHED = "stretched_by_labkit"  # on a rotary module: what a configuration does not tell of NTK-aware scaling


def _check_not_stretched(modules: Mapping[str, nn.Module], kind: str) -> None:
    """Raise Unavailable where an edit has stretched the positions, or they are those of a lab made by `scaled`."""
    for module in modules.values():
        if "forward" in vars(module):
            raise Unavailable(
                "The positions are changed by an edit already, and another scaling would take its place; leave that edit first."
            )
        if kind != "default" and (how := vars(module).get(_STRETCHED)):
            raise Unavailable(
                f"This lab's positions are stretched already ({how}), and a second scaling on top would be another model; "
                "take the lab that it was made from."
            )


# the modules ----------------------------------------------------------------------------------------------------------


def rotary_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules that give a model's rotary angles, by their paths.

    Raises Unavailable for a model without them, or one that turns its queries in code of its own.
    """
    config = model.config.get_text_config()
    found = {path: module for path, module in model.named_modules() if _is_rotary(module)}
    given = getattr(config, "rope_parameters", None)
    if not found or not isinstance(given, Mapping) or not given:
        raise Unavailable(no_rotary(config))
    if getattr(config, "alibi", False) is True:
        raise Unavailable(f"This {config.model_type} has ALiBi in place of rotary positions, and needs no stretching.")
    return found


def _is_rotary(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]
    return bool(names) and not list(module.children()) and hasattr(module, "config") and hasattr(module, "rope_type")


def _built(module: nn.Module, config: PreTrainedConfig) -> nn.Module:
    """A rotary module of the same class from another configuration, on the same device."""
    buffer = next(module.buffers())
    new: nn.Module = type(module)(config)
    return new.to(buffer.device)


@contextlib.contextmanager
def _stretched(model: PreTrainedModel, wanted: Scaling) -> Iterator[None]:
    """While inside, the model's rotary modules hand their calls on, and it takes as many positions as were asked for."""
    inner = running.language_model(model)
    config = inner.config.get_text_config()
    modules = rotary_modules(inner)
    _check_not_stretched(modules, wanted.kind)
    new = wanted.config(config)
    limit = next(name for name in LIMITS if isinstance(getattr(config, name, None), int))
    reach = max(int((wanted.trained or getattr(config, limit)) * wanted.factor), 2)
    before = getattr(config, limit)
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, config, limit, before)
        setattr(config, limit, reach)
        if wanted.kind in ("dynamic", "longrope"):
            stack.enter_context(running.turned_by_length(inner, wanted.trained or before))
        for module in modules.values():
            stack.enter_context(handing_on(module, _guarded(_built(module, new), wanted, new)))
        yield


@contextlib.contextmanager
def handing_on(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """While inside, another function stands in for a module's forward."""
    before = vars(module).get("forward")
    try:
        vars(module)["forward"] = forward
        yield
    finally:
        if before is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = before


def _guarded(module: nn.Module, wanted: Scaling, config: PreTrainedConfig) -> Callable[..., object]:
    """A rotary module's forward that refuses to go on where keys in a cache were turned by other frequencies."""
    if wanted.kind not in ("dynamic", "longrope"):
        return module.forward
    trained = wanted.trained or context_length(config) or 0

    def forward(x: torch.Tensor, position_ids: torch.Tensor, *rest: object, **named: object) -> object:
        first, last = int(position_ids.min()), int(position_ids.max()) + 1
        changes = last > trained and (first <= trained if wanted.kind == "longrope" else True)
        if first > 0 and changes:
            raise Unavailable(
                f"With {wanted.kind!r} positions a text of {last:,} tokens has other frequencies than the keys its cache holds; "
                'read it in one pass (lab.trace), or take "ntk" or "yarn", whose frequencies stay.'
            )
        # transformers keeps the frequencies of the longest text so far for shorter ones too; a new module has seen none
        own = _built(module, config) if wanted.kind == "dynamic" and last > trained else module
        return own(x, position_ids, *rest, **named)

    return forward


__all__ = ["KINDS", "SCALINGS", "Scaling", "handing_on", "positions", "rotary_modules", "scaled", "scaling"]
