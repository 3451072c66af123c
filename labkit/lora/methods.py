"""The ways to tune a model that `finetune` knows: which weights are trained, and how they begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    names = [name for name in dict.fromkeys(path.rpartition(".")[2] for path in there) if name not in targets]
    if not names:
        return None
    return (
        f"all-linear leaves out {checks.listed(names)}: gates of a single number, or what peft takes for fused experts."
    )


def in_some_layers(targets: Sequence[str], there: Mapping[str, tuple[int, int]]) -> str | None:
    """A sentence on names that only some layers have; None where each has them all. there: from `linear_maps`."""
    layers = {layer for path in there if (layer := _layer(path)) is not None}
    told = []
    for name in targets:
        within = {_layer(path) for path in there if path == name or path.endswith(f".{name}")} & layers
        if 0 < len(within) < len(layers):
            told.append(f"{name} in {len(within)} of {len(layers)} layers")
    return f"Not every layer has what is tuned: there is {checks.listed(told)}." if told else None


def _layer(path: str) -> str | None:
    return next((part for part in path.split(".") if part.isdigit()), None)


def taken_for_experts(model: nn.Module, there: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """The names of matrices that peft would take for the fused experts of a mixture, which an adapter here can't be of.

    In some families peft reads "gate_proj" as what the experts' matrices were called in transformers 4, also where a dense
    layer or a shared expert has one of that name, and trains the experts instead. Found by asking it.
    """
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # another version, which converts nothing
        return ()
    names = dict.fromkeys(name.rpartition(".")[2] for name in there)

    def is_taken(name: str) -> bool:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # it wants the experts' other matrices too
            return True
        return bool(config.target_parameters)

    return tuple(name for name in names if is_taken(name))


def found(
    targets: Targets, rank: int, there: Mapping[str, tuple[int, int]], fused: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of matrices to be tuned, such as ("q_proj", "v_proj"), once they are known to be there.

    targets: names of modules, or ends of their paths ("self_attn.q_proj"); "all-linear" for all of the layers that give more
    than one number, without `fused`.
    there: from `linear_maps`; fused: from `taken_for_experts`. Raises BadInput for names that are
    not there and for a rank over a matrix's width.
    """
    if targets == ALL_LINEAR:
        # a gate that gives a single number has no rank to speak of
        names = list(dict.fromkeys(name.rpartition(".")[2] for name, shape in there.items() if min(shape) > 1))
        names = [name for name in names if name not in fused]
    else:
        wanted = "names of matrices such as ('q_proj', 'v_proj'), or 'all-linear'"
        given = [targets] if isinstance(targets, str) else checks.series("targets", targets, wanted)
        names = [str(name) for name in dict.fromkeys(given)]
    if not names:
        checks.refuse("targets", targets, "at least one matrix, such as ('q_proj', 'v_proj')")
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in there))
    for name in names:
        matched = chosen([name], there)
        if not matched:
            raise BadInput(
                f"targets names {checks.shown(name)}, and there is no such linear map in the layers"
                f"{checks.near(name, [*kinds, *there])}; there are {checks.listed(kinds)}."
            )
        if name.rpartition(".")[2] in fused:
            raise BadInput(
                f"targets names {name}, and peft takes it for the fused experts in models of this family, which can't be tuned "
                "so; leave it out, or use method='full'."
            )
        narrow = min(min(shape) for shape in matched)
        if rank > narrow:
            raise BadInput(
                f"rank={rank} is more than the width of {name} ({narrow}), and such an adapter could be any matrix; give at "
                f"most {narrow}, or method='full'."
            )
    return tuple(names)
