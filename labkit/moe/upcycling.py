"""From a dense model to a mixture of experts that computes the same: sparse upcycling.

Every expert begins as a copy of the dense feed-forward part and the weights of the chosen ones sum to 1, so whichever
experts a router chooses, the layer's output is the dense one's. Komatsuzaki et al. 2022, "Sparse Upcycling: Training
Mixture-of-Experts from Dense Checkpoints".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.memory import memory
from labkit.trace.building import check_room, empty_model, refuse_odd_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from labkit.trace.lab_like import BuiltLab, LabLike

Made = TypeVar("Made", bound="BuiltLab")
ROUTER_STD = 0.02
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class _Target:
    """The mixture a dense family becomes. fields: those of its configuration that say so, given (config, experts, top_k).

    refuse: a sentence's middle about what this configuration has and the mixture's class has no place for, or None.
    """

    model_type: str
    fields: Callable[[PreTrainedConfig, int, int], dict[str, object]]
    refuse: Callable[[PreTrainedConfig], str | None]


def _mixtral(config: PreTrainedConfig, experts: int, top_k: int) -> dict[str, object]:
    window = getattr(config, "sliding_window", None)
    return {"num_local_experts": experts, "num_experts_per_tok": top_k, "sliding_window": window}


def _qwen(config: PreTrainedConfig, experts: int, top_k: int) -> dict[str, object]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": config.intermediate_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen2_moe(config: PreTrainedConfig, experts: int, top_k: int) -> dict[str, object]:
    # the class always has a shared expert: one as narrow as can be, whose weights are zero
    return _qwen(config, experts, top_k) | {"shared_expert_intermediate_size": 1, "qkv_bias": True}


def _qwen3_moe(config: PreTrainedConfig, experts: int, top_k: int) -> dict[str, object]:
    slides = "sliding_attention" in config.layer_types
    return _qwen(config, experts, top_k) | {"use_sliding_window": slides}


def _llama_refuses(config: PreTrainedConfig) -> str | None:
    biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    return f"it has biases ({', '.join(biases)}), and Mixtral has none" if biases else None


def _qwen3_refuses(config: PreTrainedConfig) -> str | None:
    mixed = len(set(config.layer_types)) > 1
    return "some of its layers have a window and some none, and Qwen3-MoE has one rule for all" if mixed else None


TARGETS = {
    "llama": _Target("mixtral", _mixtral, _llama_refuses),
    "mistral": _Target("mixtral", _mixtral, lambda _: None),
    "qwen2": _Target("qwen2_moe", _qwen2_moe, lambda _: None),
    "qwen3": _Target("qwen3_moe", _qwen3_moe, _qwen3_refuses),
}


def upcycle(lab: Made, experts: int = 8, top_k: int = 2, seed: int = 0, noise: float = 0.0) -> Made:
    """A new Lab with a mixture of experts made from a dense model, which computes the same until it is trained.

    lab: with a dense model of the families llama, mistral (they become Mixtral), qwen2 (Qwen2-MoE, its shared expert
        one unit wide and zero) or qwen3 (Qwen3-MoE). It is not changed, and shares no weights with the new one.
    experts: in each layer, every one a copy of its MLP.  top_k: how many are chosen for a token, with weights that sum
        to 1.  seed: of the routers, normal with a standard deviation of 0.02, and of the noise.
    noise: standard deviation of what is added to each weight of each expert, as a share of the standard deviation of
        its matrix. With 0 the logits are the dense model's, up to rounding (1e-5 in float32; in 16 bits the weights of
        the chosen experts sum to 1 only to that precision). Trained on, equal experts come apart by themselves, since
        each is trained on the tokens that its router sends it.
    Tied embeddings, biases, windows, rotary scaling, the generation settings and the tokenizer are kept.
    Raises Unavailable for other families, mixtures, and models that are quantized, spread over devices or changed;
    NotEnoughMemory where the mixture would not fit beside the dense model; BadInput for numbers that can't be used.
    Komatsuzaki et al. 2022.
    """
    experts, top_k = checks.whole("experts", experts, 1), checks.whole("top_k", top_k, 1)
    noise = checks.number("noise", noise, 0, wanted="a fraction of the weights' standard deviation, 0 or more")
    generator = torch.Generator().manual_seed(checks.seed(seed))

    def fill(parts: LayerParts) -> None:
        _copy_into(parts.gate_up, parts.dense_gate_up, noise, generator)
        _copy_into(parts.down, parts.dense_down, noise, generator)
        parts.router.copy_(torch.randn(parts.router.shape, generator=generator) * ROUTER_STD)

    return assembled(
        lab,
        experts,
        top_k,
        fill,
        name=f"{lab.name}, {experts} experts",
        note=f"upcycled: every expert began as a copy of the MLP of {lab.name}",
    )


@dataclass(frozen=True)
class LayerParts:
    """Weights of one layer of a mixture under construction, to be filled in place, and the dense model's own.

    gate_up: (experts, 2 · d_mlp, d_model), the rows of the gate first.  down: (experts, d_model, d_mlp).
    router: (experts, d_model).  dense_gate_up, dense_down: of the dense MLP, without the experts.
    """

    layer: int
    gate_up: torch.Tensor
    down: torch.Tensor
    router: torch.Tensor
    dense_gate_up: torch.Tensor
    dense_down: torch.Tensor


def assembled(lab: Made, experts: int, top_k: int, fill: Callable[[LayerParts], None], *, name: str, note: str) -> Made:
    """A new lab with a mixture in place of each MLP of a dense model, all else copied. `upcycle` tells of the families.

    fill: called for each layer, fills its experts and its router.  name, note: of the new lab.
    Raises as `upcycle`, before `fill` is called.
    """
    if top_k > experts:
        raise BadInput(f"top_k={top_k} of {experts} experts can't be chosen; give at most {experts}.")
    target = _target(lab)
    dense, config = lab.model, _config(lab, target, experts, top_k)
    _check_memory(lab, config)
    with lab.turn(), torch.no_grad():
        model = empty_model(config, dense)
        held = dict(model.named_parameters(remove_duplicate=False))
        state = dense.state_dict()
        _check_names(lab, held, state)
        for parameter, tensor in state.items():
            if parameter in held:
                held[parameter].copy_(tensor)
        for layer in range(config.num_hidden_layers):
            part = f"model.layers.{layer}.mlp."
            gate, up, down = (state[f"{part}{matrix}.weight"] for matrix in MLP)
            fill(
                LayerParts(
                    layer,
                    held[f"{part}experts.gate_up_proj"],
                    held[f"{part}experts.down_proj"],
                    held[f"{part}gate.weight"],
                    torch.cat([gate, up]),
                    down,
                )
            )
            for parameter, weight in held.items():
                if parameter.startswith((f"{part}shared_expert.", f"{part}shared_expert_gate.")):
                    weight.zero_()
    model.generation_config = copy.deepcopy(dense.generation_config)
    return type(lab)(model.eval(), lab.tokenizer, name=name, licence=lab.licence, notes=(*lab.notes, note))


def check_upcyclable(lab: LabLike) -> None:
    """Raise Unavailable for a model that no mixture can be made from, as `upcycle` says."""
    _target(lab)


def _target(lab: LabLike) -> _Target:
    if any(layer.router is not None for layer in lab.anatomy.layers):
        raise Unavailable(
            f"{lab.name} is a mixture of experts already; upcycle a dense model, such as lk.load() brings."
        )
    target = TARGETS.get(lab.family)
    if target is None:
        raise Unavailable(
            f"labkit can't upcycle the family {lab.family!r}; load a dense model of {', '.join(list(TARGETS)[:-1])} or "
            f"{list(TARGETS)[-1]}."
        )
    if reason := target.refuse(lab.config):
        raise Unavailable(f"{lab.name} can't be upcycled: {reason}; load another model.")
    refuse_odd_weights(lab, "upcycled")
    return target


def _config(lab: LabLike, target: _Target, experts: int, top_k: int) -> PreTrainedConfig:
    """The mixture's configuration: every field the two classes share, and those that are the mixture's own."""
    from transformers import CONFIG_MAPPING

    kind: type[PreTrainedConfig] = CONFIG_MAPPING[target.model_type]
    given = lab.config.to_dict()
    known = set(kind().to_dict()) - {"model_type", "architectures", "transformers_version", "_name_or_path"}
    fields = {name: value for name, value in given.items() if name in known}
    return kind(**copy.deepcopy(fields | target.fields(lab.config, experts, top_k)))


def _check_memory(lab: LabLike, config: PreTrainedConfig) -> None:
    check_room(
        lab,
        memory(config, tokens=1, dtype=lab.dtype).weight_bytes,
        f"{lab.name} with {config.num_experts} experts in every layer",
        "take fewer experts, or load the model with dtype='bfloat16'",
    )


def _check_names(lab: LabLike, held: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Every weight of the dense model has a place, and every place a weight: else the model is not what it says."""
    copied = {name for name in state if not (".mlp." in name and name.split(".")[-2] in MLP)}
    places = {name for name in held if ".mlp." not in name}
    if odd := sorted(copied ^ places):
        raise Unavailable(
            f"{lab.name} does not have the weights of a plain {lab.family} ({odd[0]}); merge its adapter, or load it anew."
        )


def _copy_into(place: torch.Tensor, weight: torch.Tensor, noise: float, generator: torch.Generator) -> None:
    """Fill (experts, out, in) with copies of (out, in), each with its own noise."""
    place.copy_(weight.expand_as(place))
    if noise:
        scale = noise * float(weight.float().std())
        for expert in place:
            expert.add_((torch.randn(expert.shape, generator=generator) * scale).to(expert))
