"""What a tuning takes: weights that are trained, and bytes of weights, gradients, optimiser state and activations.

Counted, not estimated: the model is built from its configuration on torch's meta device (shapes without storage), peft puts
its own matrices in, and what autograd keeps for the backward pass is seen by running the layers there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from labkit import checks
from labkit.errors import NotEnoughMemory
from labkit.lora import methods
from labkit.lora.methods import METHODS, Targets
from labkit.lora.process_state import kept_process_state
from labkit.lora.settings import DTYPES, OPTIMIZERS, SCHEDULES, Settings
from labkit.lora.trainers import seed_dropout
from labkit.models.config import first_number
from labkit.models.hardware import free_bytes
from labkit.models.memory import Countable, human_bytes, model_memory, named_config, skeleton
from labkit.results import Result
from labkit.trace.building import is_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.trace.lab_like import LabLike

__all__ = ["Cost", "check_memory", "cost"]

_BLOCK, _NESTED = 64, 256  # of bitsandbytes: weights that share a scale, and scales that share a scale of their own
_CODES = 4 * (16 + 256 + 1)  # its two tables of values and an offset, float32, kept for each matrix


@dataclass(frozen=True, eq=False, repr=False)
class Cost(Result):
    """What a tuning takes; `cost` tells the rows of the table.

    parameters: of the model; trainable: weights that are trained; share: the second over both together (of full tuning 1).
    total_bytes: of all rows that are known.  extra_bytes: without the weights that are there already.
    batch, tokens: of the step that was run.  notes: what could not be told, and why.
    """

    parameters: int
    trainable: int
    share: float
    total_bytes: int
    extra_bytes: int
    method: str
    model: str
    batch: int
    tokens: int
    notes: tuple[str, ...]

    def _title(self) -> str:
        return (
            f"{self.model}, {METHODS[self.method].title}: {self.trainable:,} of {self.parameters:,} weights trained "
            f"({self.share:.3%}), {human_bytes(self.total_bytes)} in all"
        )

    def _remarks(self) -> Sequence[str]:
        return self.notes


def cost(
    model: Countable | LabLike,
    *,
    rank: int = 16,
    targets: Targets = ("q_proj", "v_proj"),
    method: str = "lora",
    batch: int = 8,
    tokens: int = 64,
    dtype: str | None = None,
    schedule: str = "linear",
    optimizer: str = "adamw",
    dropout: float = 0.1,
) -> Cost:
    """What tuning a model takes, before any of it is there. Nothing is downloaded, and no weight is allocated.

    model: a published name or hub id ("llama-2-7b"), a transformers configuration or its fields, a folder with a config.json,
        a model, or a Lab.
    rank, targets, method, schedule, optimizer, dropout: as of `finetune`.
    batch, tokens: samples in a step, and tokens in each, padding included: what activations depend on.
    dtype: of the weights; None for that of a Lab or model, else float32; with "full" at least float32, in which `finetune`
        trains them. An adapter is trained in float32, as peft does.
    Rows: weights (frozen and trained; with "qlora" as bitsandbytes packs them, of a quantized Lab those that it has, buffers
        too), adapter, residual (with "pissa", frozen
        weights of its own), gradients, optimizer (AdamW's two moments and step count, or what schedulefree or Sophia keeps) and
        activations: all that autograd keeps of the layers for the backward pass. The logits are not among them: TRL's loss
        makes a few rows of them at a time. Columns: part, elements, bytes.
    Raises BadInput for what can't be counted, targets that are not there and a rank over a matrix's width; ModelNotFound.
    """
    rank, batch, tokens = (checks.whole(n, v, 1) for n, v in (("rank", rank), ("batch", batch), ("tokens", tokens)))
    method = checks.one_of("method", method, METHODS)
    schedule = checks.one_of("schedule", schedule, SCHEDULES)
    optimizer = checks.one_of("optimizer", optimizer, OPTIMIZERS)
    dropout = checks.fraction("dropout", dropout, one=False)
    loaded = getattr(model, "model", model) if hasattr(model, "tokenizer") else model
    name, config = named_config(cast("Countable", loaded))
    name = str(getattr(model, "name", name)) if hasattr(model, "tokenizer") else name
    if dtype is None:
        own = cast("torch.dtype", loaded.dtype) if isinstance(loaded, nn.Module) else torch.float32
        dtype = str(_trained_dtype(own, method)).removeprefix("torch.")
    kind = DTYPES[checks.one_of("dtype", dtype, DTYPES)]
    # of a quantized model the configuration does not tell what its weights take
    weights = (
        model_memory(cast("PreTrainedModel", loaded)).weight_bytes
        if isinstance(loaded, nn.Module) and is_quantized(loaded)
        else None
    )
    return _counted(name, config, kind, rank, targets, method, batch, tokens, schedule, optimizer, dropout, weights)


def _counted(
    name: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    rank: int,
    targets: Targets,
    method: str,
    batch: int,
    tokens: int,
    schedule: str,
    optimizer: str,
    dropout: float,
    weights: int | None = None,
) -> Cost:
    """weights: bytes of those that are there, of a model that is quantized already."""
    import pandas as pd

    body = _skeleton(config, dtype)
    parameters = sum(p.numel() for p in body.parameters())
    maps = methods.linear_maps(body)
    plain = sum(p.numel() * p.element_size() for p in body.parameters())
    kinds = METHODS[method]
    packed = _packed_change(maps, dtype) if kinds.quantized else 0
    if weights is not None:
        plain, packed = weights, 0
    model: nn.Module = body
    if kinds.is_full:
        trained = list(body.parameters())
        adapter = residual = 0
    else:
        names = methods.found(targets, rank, maps, methods.refused_by_peft(body, maps))
        model = _adapted(body, "lora" if kinds.residual else method, rank, names, dropout)
        trained = [p for p in model.parameters() if p.requires_grad]
        adapter = sum(p.numel() for p in trained)
        shapes = methods.chosen(names, maps) if kinds.residual else []
        residual = sum(outputs * inputs for outputs, inputs in shapes)
    notes: list[str] = []
    activations = None
    try:
        activations = fake_saved_bytes(model, batch, tokens)
    except Exception as error:  # any family's forward may need real numbers
        notes.append(f"Activations are not known: {type(error).__name__} while the layers were run without numbers.")
    count = sum(p.numel() for p in trained)
    gradients = sum(p.numel() * p.element_size() for p in trained)
    moments = 0 if optimizer == "sgd" else 2  # AdamW's, or Sophia's with its curvature
    state = moments * count
    steps = len(trained) if optimizer == "adamw" and schedule != "schedule_free" else 0
    rows = [
        ("weights", parameters, plain + packed),
        ("adapter", adapter, sum(p.numel() * p.element_size() for p in trained) if adapter else 0),
        ("residual", residual, residual * dtype.itemsize),
        ("gradients", count, gradients),
        ("optimizer", state + steps, moments * gradients + 4 * steps),
        *([] if activations is None else [("activations", activations[0], activations[1])]),
    ]
    table = pd.DataFrame(rows, columns=["part", "elements", "bytes"])
    table = table[(table["bytes"] > 0) | (table["part"] == "weights")].reset_index(drop=True)
    total = int(table["bytes"].sum())
    there = plain if not kinds.is_full and (not kinds.quantized or weights is not None) else 0
    return Cost(
        table,
        parameters=parameters,
        trainable=count,
        share=count / (parameters + adapter),
        total_bytes=total,
        extra_bytes=total - there,
        method=method,
        model=name,
        batch=batch,
        tokens=tokens,
        notes=tuple(notes),
    )


def check_memory(lab: LabLike, settings: Settings, tokens: int) -> None:
    """Raise NotEnoughMemory where a tuning takes more than is free on a lab's device, with settings that would fit.

    tokens: of the longest sample.
    """
    free = free_bytes(str(lab.device))
    if _plenty(lab, settings.batch * tokens, tokens) <= free:
        return
    dtype = next((name for name, kind in DTYPES.items() if kind == lab.dtype), "float32")
    own_bytes = sum(weight.numel() * 4 for weight in lab.model.parameters())

    def needed(**changes: str | int) -> int:
        it = replace(settings, **cast("dict[str, Any]", changes))
        targets = it.targets or ("all-linear" if not METHODS[it.method].is_full else ())
        packed = replace(it, method="lora") if METHODS[it.method].quantized and is_quantized(lab.model) else it
        kind = _trained_dtype(DTYPES[dtype], it.method)
        beside = own_bytes if kind != DTYPES[dtype] else 0  # the base that is measured against, in float32 too
        return beside + _counted(
            *named_config(lab.model), kind, it.rank, targets, packed.method, it.batch, tokens, it.schedule,
            it.optimizer, it.dropout,
        ).extra_bytes  # fmt: skip

    wanted = needed()
    if wanted <= free:
        return
    smaller: list[dict[str, str | int]] = [
        {"batch": size} for size in (settings.batch // 2, settings.batch // 4, 1) if 1 <= size < settings.batch
    ]
    ways = list(smaller)
    if METHODS[settings.method].is_full or METHODS[settings.method].residual:
        lora: dict[str, str | int] = {"method": "lora", "rank": min(8, settings.rank)}
        ways += [lora, *({**lora, **way} for way in smaller)]
    fitting = next((way for way in ways if needed(**way) <= free), None)
    remedy = "load a smaller model, or shorten the samples"
    if fitting is not None:
        remedy = f"{', '.join(f'{name}={value!r}' for name, value in fitting.items())} would fit"
    raise NotEnoughMemory(
        f"Tuning {lab.name} so takes {human_bytes(wanted)} beside the model that is there, and {human_bytes(free)} are free on "
        f"{lab.device}; {remedy}."
    )


def _trained_dtype(own: torch.dtype, method: str) -> torch.dtype:
    """Of the weights in a tuning of a model: full tuning of one in 16 bits is of a float32 copy."""
    return torch.float32 if METHODS[method].is_full and own.itemsize < 4 else own


def _plenty(lab: LabLike, tokens: int, longest: int) -> float:
    """Several times as many bytes as any tuning of a lab takes, so that nothing needs to be counted where those are free.

    tokens: of a batch.
    """
    config = lab.config
    width, layers, heads = (
        first_number(config, *names) or 0
        for names in (
            ("hidden_size", "n_embd", "d_model"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
        )
    )
    if not width or not layers:
        return math.inf
    weights = sum(weight.numel() * 4 for weight in lab.model.parameters())
    return 8 * weights + layers * tokens * 4 * (400 * width + 10 * heads * longest)


def _skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """On the meta device, with the attention that training uses."""
    model = skeleton(config)
    nn.Module.to(model, dtype)
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")
    return model


def _adapted(body: PreTrainedModel, method: str, rank: int, targets: Sequence[str], dropout: float) -> nn.Module:
    from peft import get_peft_model

    config = methods.lora_config(method, rank, rank, targets, dropout)
    with kept_process_state():
        return cast("nn.Module", get_peft_model(body, config))


def _packed_change(maps: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> int:
    """Bytes that packing the matrices of the layers to nf4 adds to the weights: below 0."""
    change = 0
    for outputs, inputs in maps.values():
        count = outputs * inputs
        if count % _BLOCK == 0:
            blocks = count // _BLOCK
            change += count // 2 + blocks + 4 * -(-blocks // _NESTED) + _CODES - count * dtype.itemsize
    return change


def fake_saved_bytes(model: nn.Module, batch: int, tokens: int) -> tuple[int, int]:
    """`saved_bytes` of a model on the meta device, as it would be on a CPU: torch's fake tensors choose its operations."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        made: dict[int, torch.Tensor] = {}  # what is tied stays so
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    fake = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
                    module._parameters[name] = cast("nn.Parameter", made.setdefault(id(weight), fake))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = made.setdefault(id(buffer), torch.empty(buffer.shape, dtype=buffer.dtype))
        return saved_bytes(model, batch, tokens)


def saved_bytes(model: nn.Module, batch: int, tokens: int) -> tuple[int, int]:
    """(elements, bytes) that autograd keeps of a model's layers for the backward pass of batch rows of tokens.

    Each storage once, and no weight.
    """
    body = cast("PreTrainedModel", getattr(model, "get_base_model", lambda: model)())
    seed_dropout(model, None)
    own = {_storage(value) for value in (*model.parameters(), *model.buffers())}
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        key = _storage(tensor)
        if key not in own:
            seen.setdefault(key, tensor)  # held on to, so that its place is not used again
        return tensor

    device = next(iter(model.parameters())).device
    ids = torch.zeros((batch, tokens), dtype=torch.long, device=device)
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0  # as samples of unlike lengths are padded
    was = model.training
    model.train()
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = body.base_model(ids, attention_mask=mask, use_cache=False)
    finally:
        model.train(was)
    storages = [tensor.untyped_storage().nbytes() for tensor in seen.values()]
    elements = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in seen.values())
    del output
    return elements, sum(storages)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
