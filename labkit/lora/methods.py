"""The ways to tune a model that `finetune` knows: which weights are trained, and how they begin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization.weights import is_conv1d

if TYPE_CHECKING:
    from peft import LoraConfig

Targets = str | Sequence[str]
ALL_LINEAR = "all-linear"
_ITERATIONS = 4  # of PiSSA's singular vectors: an exact decomposition takes many times as long


@dataclass(frozen=True)
class Method:
    """title: with its paper.  fields: of peft's LoraConfig beside rank, alpha, targets and dropout; None trains all weights.

    quantized: the base is packed to 4 bits.  residual: the frozen weights give up what the adapter begins with.
    """

    title: str
    fields: Mapping[str, str | bool] | None = field(default_factory=dict)
    quantized: bool = False
    residual: bool = False

    @property
    def is_full(self) -> bool:
        return self.fields is None


METHODS: Mapping[str, Method] = {
    "lora": Method("LoRA (Hu et al. 2021)"),
    "rslora": Method("rank-stabilized LoRA (Kalajdzievski 2023)", {"use_rslora": True}),
    "dora": Method("DoRA (Liu et al. 2024)", {"use_dora": True}),
    "pissa": Method("PiSSA (Meng et al. 2024)", {"init_lora_weights": f"pissa_niter_{_ITERATIONS}"}, residual=True),
    "qlora": Method("QLoRA (Dettmers et al. 2023)", quantized=True),
    "full": Method("all weights", None),
}


def lora_config(method: str, rank: int, alpha: float, targets: Sequence[str], dropout: float) -> LoraConfig:
    """peft's configuration of a method that trains an adapter. targets: as `found` gives them."""
    from peft import LoraConfig

    fields = METHODS[method].fields
    assert fields is not None
    options: dict[str, Any] = {"lora_alpha": alpha, **fields}  # which may be a fraction
    return LoraConfig(
        r=rank,
        target_modules=list(targets),
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
        **options,
    )


def linear_maps(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each matrix of the layers that an adapter can be put beside, by the path of its module.

    The output head is left out: TRL multiplies with its weight directly, so that an adapter on it would never be trained.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear) and _is_a_map(module):
            found[name] = (module.out_features, module.in_features)
        elif is_conv1d(module):
            inputs, outputs = module.weight.shape
            found[name] = (int(outputs), int(inputs))
    return found


def _is_a_map(module: nn.Linear) -> bool:
    """Whether a module gives a vector for each vector. Some families derive their routers from nn.Linear, and these give
    several things, so that nothing can be added to their output.
    """
    kind = type(module)
    if kind.forward is nn.Linear.forward or not kind.__module__.startswith("transformers.models."):
        return True
    try:
        with torch.no_grad():
            found = kind.forward(module, module.weight.new_zeros(1, 2, module.in_features))
    except Exception:  # of whatever kind: it wants something else than vectors
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, 2, module.out_features)


def chosen(names: Sequence[str], there: Mapping[str, tuple[int, int]]) -> list[tuple[int, int]]:
    """The shapes of the matrices that are meant by names, or ends of their paths. there: from `linear_maps`."""
    return [shape for path, shape in there.items() if any(path == name or path.endswith(f".{name}") for name in names)]


def left_out(targets: Sequence[str], there: Mapping[str, tuple[int, int]]) -> str | None:
    """A sentence on what "all-linear" became, without some names; None where it has them all. there: from `linear_maps`."""
    names = [name for name in dict.fromkeys(_short(path) for path in there) if name not in targets]
    if not names:
        return None
    return f"all-linear leaves out {checks.listed(names)}, narrower than the rank or not to be had with peft in this family."


def in_some_layers(targets: Sequence[str], there: Mapping[str, tuple[int, int]]) -> str | None:
    """A sentence on names that only some layers have; None where each has them all. there: from `linear_maps`."""
    layers = {layer for path in there if (layer := _layer(path)) is not None}
    told = []
    for name in targets:
        within = {_layer(path) for path in there if path == name or path.endswith(f".{name}")} & layers
        if 0 < len(within) < len(layers):
            told.append(f"{name} in {len(within)} of {len(layers)} layers")
    return f"Not every layer has what is tuned: there is {checks.listed(told)}." if told else None


def _short(path: str) -> str:
    """What a matrix is called in every layer: "q_proj"; one of a list by its place there too, "projections.0"."""
    parts = path.split(".")
    begin = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()), 0)
    return ".".join(parts[begin:])


def _layer(path: str) -> str | None:
    return next((part for part in path.split(".") if part.isdigit()), None)


def refused_by_peft(model: nn.Module, there: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The names of matrices that peft puts no adapter beside in models of this family, each with the reason. Found by asking it.

    In some families peft reads "gate_proj" as what the experts' matrices were called in transformers 4, also where a dense
    layer or a shared expert has one of that name, and trains the fused experts instead. Mamba multiplies with the weight of
    its "out_proj" directly, so that an adapter would not be seen.
    """
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    convert: Callable[..., object] | None = None
    with contextlib.suppress(ImportError):  # another version, which converts nothing
        from peft.utils import transformers_weight_conversion

        convert = transformers_weight_conversion.convert_peft_config_for_transformers
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    found: dict[str, str] = {}
    for name in dict.fromkeys(_short(path) for path in there):
        config = LoraConfig(target_modules=[name])
        try:
            if check is not None:
                check(config, model, name)
        except ValueError:
            found[name] = "the model multiplies with its weight directly"
        try:
            if convert is not None:
                convert(config, model=model, conversions=None)
            taken = bool(config.target_parameters)
        except ValueError:  # it wants the experts' other matrices too
            taken = True
        if taken:
            found[name] = "it takes the name for that of fused experts"
    return found


def found(
    targets: Targets, rank: int, there: Mapping[str, tuple[int, int]], refused: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """The names of matrices to be tuned, such as ("q_proj", "v_proj"), once they are known to be there.

    targets: names of modules, or ends of their paths ("self_attn.q_proj"); "all-linear" for all of the layers that are at least
    as wide as the rank, without `refused`.
    there: from `linear_maps`; refused: from `refused_by_peft`. Raises BadInput for names that are not there or refused, and
    for a rank over a matrix's width.
    """
    if targets == ALL_LINEAR:
        widths: dict[str, int] = {}
        for path, shape in there.items():
            name = _short(path)
            widths[name] = min(widths.get(name, min(shape)), *shape)
        names = [name for name, width in widths.items() if max(rank, 2) <= width and name not in refused]
        if widths and not names:
            raise BadInput(
                f"rank={rank} is more than the width of every matrix of the layers that can be tuned; give a lower one."
            )
    else:
        wanted = "names of matrices such as ('q_proj', 'v_proj'), or 'all-linear'"
        given = [targets] if isinstance(targets, str) else checks.series("targets", targets, wanted)
        names = [str(name) for name in dict.fromkeys(given)]
    if not names:
        checks.refuse("targets", targets, "at least one matrix, such as ('q_proj', 'v_proj')")
    kinds = list(dict.fromkeys(_short(path) for path in there))
    for name in names:
        matched = chosen([name], there)
        if not matched:
            raise BadInput(
                f"targets names {checks.shown(name)}, and there is no such linear map in the layers"
                f"{checks.near(name, [*kinds, *there])}; there are {checks.listed(kinds)}."
            )
        if why := refused.get(_short(name)):
            raise BadInput(
                f"targets names {name}, and peft puts no adapter beside it in models of this family, as {why}; leave it out, or "
                "use method='full'."
            )
        narrow = min(min(shape) for shape in matched)
        if rank > narrow:
            raise BadInput(
                f"rank={rank} is more than the width of {name} ({narrow}), and such an adapter could be any matrix; give at "
                f"most {narrow}, or method='full'."
            )
    return tuple(names)
