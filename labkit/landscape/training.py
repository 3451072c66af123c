"""What training takes on each card, and how long a step is: model state, activations, and the ways to divide them.

Formulas and their sources. Model state and ZeRO's stages: Rajbhandari et al. 2020 (1910.02054), section 3 and 5; FSDP's
FULL_SHARD is stage 3, SHARD_GRAD_OP stage 2. Activations: counted as transformers' layers keep them (below), divided over
tensor-parallel cards as in Korthikanti et al. 2022 (2205.05198), table 2. Pipelines: one forward, one backward in turn, with
a bubble of (p - 1) / m, Narayanan et al. 2021 (2104.04473), section 2.2. Operations: three times those of a forward pass, four
times with recomputation; without the attention's share that is 6 for each parameter and token, Kaplan et al. 2020 (2001.08361).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.landscape.footprints import PLAIN
from labkit.landscape.machines import Hardware, described
from labkit.landscape.structures import Structure, Weight
from labkit.models.memory import human_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

UTILISATION = (
    0.4  # of the operations a second; Llama 3 reports 0.38 to 0.43 (2407.21783, table 4), PaLM 0.46 (2204.02311)
)
NETWORK = 25e9  # bytes a second and card between machines: 200 Gbit/s
IN_ONE_MACHINE = 8  # cards
WRITTEN_OUT = ("gelu_new", "gelu_fast", "gelu_python", "gelu_accurate", "quick_gelu")
MOMENTS = {"adamw": 8, "adamw8bit": 2, "momentum": 4, "sgd": 0}  # bytes of optimiser state for a parameter
STEP_BYTES = 4  # torch's AdamW keeps a counter for each tensor

__all__ = ["Training", "Usage", "activation_bytes", "usage"]


@dataclass(frozen=True)
class Training:
    """How a model is trained, all of its weights. `batch` and `tokens` of `lk.plan` are those of a step over all cards.

    optimizer: "adamw" (two moments in float32), "adamw8bit" (two in 8 bits), "momentum" or "sgd".
    master: with 16-bit weights, a copy of them in float32 is kept for the optimiser, as mixed precision does.
    checkpointing: a layer keeps its input alone and is run again in the backward pass.
    zero: the stage of ZeRO, 0 to 3: optimiser state, gradients, weights divided over the data-parallel cards.
    tensor, pipeline: over how many cards a layer and the stack of layers are divided; the rest are data-parallel.
    sequence: with tensor, the parts between are divided along the text too.
    micro: sequences at a time on each data-parallel replica; None for all of its share (with a pipeline one).
    dataset_tokens: of the whole training, for its time.  utilisation: of the operations a second, repeated ones included.
    network: bytes a second and card, beyond eight cards.
    """

    optimizer: str = "adamw"
    master: bool = True
    checkpointing: bool = False
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    micro: int | None = None
    dataset_tokens: float | None = None
    utilisation: float = UTILISATION
    network: float = field(default=NETWORK, repr=False)

    def __post_init__(self) -> None:
        checks.one_of("optimizer", self.optimizer, MOMENTS)
        for name in ("master", "checkpointing", "sequence"):
            checks.flag(name, getattr(self, name))
        checks.whole("zero", self.zero, 0, 3)
        for name in ("tensor", "pipeline"):
            checks.whole(name, getattr(self, name), 1)
        if self.micro is not None:
            checks.whole("micro", self.micro, 1)
        if self.dataset_tokens is not None:
            checks.number("dataset_tokens", self.dataset_tokens, above=0)
        checks.number("utilisation", self.utilisation, most=1, above=0)
        checks.number("network", self.network, above=0)


@dataclass(frozen=True)
class Usage:
    """Bytes on the fullest card, by part, and what a step takes.

    parts: weights, gradients, optimizer, activations, logits, and with ZeRO 3 the layer that is gathered.
    data: data-parallel replicas.  flops: of a step over all cards, with what is run again.
    compute: seconds of a step, the pipeline's bubble included; None where operations a second are not stated.
    exchange: seconds that gradients, weights and activations travel, of a card.  seconds: of a step.
    hours: of the whole training, where dataset_tokens is given.
    """

    parts: Mapping[str, int]
    data: int
    flops: int
    compute: float | None
    exchange: float
    seconds: float | None
    hours: float | None

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())


def usage(
    structure: Structure, hardware: Hardware, precision: str, tokens: int, batch: int, training: Training
) -> Usage:
    """What a step of `batch` sequences of `tokens` tokens takes. precision: "float32", "bfloat16" or "float16".

    Raises BadInput where the cards don't divide so, Unavailable where operations or layers can't be told.
    """
    how, count = training, hardware.count
    if structure.flops is None or not structure.layers:
        raise Unavailable(f"Training can't be planned: {structure.notes[-1] if structure.notes else 'no layers found'}")
    together = how.tensor * how.pipeline
    if count % together:
        checks.refuse("tensor * pipeline", together, f"what divides the {count} cards of {hardware.name}")
    if structure.heads and structure.heads % how.tensor:
        checks.refuse("tensor", how.tensor, f"what divides the {structure.heads} heads of a layer")
    data = count // together
    if batch % data:
        checks.refuse("batch", batch, f"a multiple of the {data} data-parallel replicas")
    if how.pipeline > len(structure.layers):
        checks.refuse("pipeline", how.pipeline, f"at most the {len(structure.layers)} layers")
    share = batch // data
    micro = min(share, how.micro or (1 if how.pipeline > 1 else share))
    size = PLAIN[precision]
    held, tensors, largest = _held(structure, how)
    moments = MOMENTS[how.optimizer] + (4 if how.master and size == 2 else 0)
    over = [data if how.zero >= stage else 1 for stage in (1, 2, 3)]
    parts = {
        "weights": size * held // over[2],
        "gradients": size * held // over[1],
        "optimizer": (moments * held + (STEP_BYTES * tensors if how.optimizer.startswith("adam") else 0)) // over[0],
        "activations": micro * tokens * _activations(structure, size, how),
        "logits": micro * tokens * structure.vocabulary * (size + 8 if size == 2 else 8) // how.tensor,
    }
    if how.zero == 3 and data > 1:
        parts["gathered layer"] = size * largest // how.tensor
    forward = batch * structure.flops.forward(tokens)
    flops = (4 if how.checkpointing else 3) * forward
    peak = hardware.device.peak(precision)
    bubble = 1 + (how.pipeline - 1) / -(-share // micro)
    compute = None if peak is None else flops / (count * peak[0] * how.utilisation) * bubble
    exchange = _exchange(structure, hardware, how, size, tokens, share, data, held)
    seconds = None if compute is None else max(compute, exchange)
    steps = None if how.dataset_tokens is None else how.dataset_tokens / (batch * tokens)
    hours = None if steps is None or seconds is None else steps * seconds / 3600
    return Usage({k: v for k, v in parts.items() if v}, data, flops, compute, exchange, seconds, hours)


def _held(structure: Structure, how: Training) -> tuple[int, int, int]:
    """(parameters on the fullest card, their tensors, those of the largest layer), before ZeRO divides them."""
    layers = [0] * len(structure.layers)
    ends: dict[str, int] = {}
    tensors = 0
    for weight in structure.weights:
        if weight.kept:
            continue
        tensors += 1
        if weight.layer is None:
            place = "last" if weight.which == "head" or weight.part == "norms" else "first"
            ends[place] = ends.get(place, 0) + weight.elements
        else:
            layers[weight.layer] += weight.elements
    per = -(-len(layers) // how.pipeline)
    stages = [sum(layers[i : i + per]) for i in range(0, len(layers), per)]
    stages[0] += ends.get("first", 0)
    stages[-1] += ends.get("last", 0)
    return -(-max(stages) // how.tensor), -(-tensors // how.pipeline), max(layers)


def activation_bytes(structure: Structure, precision: str) -> int:
    """Bytes that autograd keeps of one token for the backward pass, without recomputation and without the logits.

    Of a layer as transformers computes it, with H the width of all query heads: queries, keys and values (repeated to the query
    heads), the output and its copy in the order of tokens; of a gated MLP gate, activation, up and product, of another what
    goes into the activation and what comes out; of each norm its input (in float32), the normed one and the product.
    """
    return _activations(structure, PLAIN[precision], Training())


def _activations(structure: Structure, size: int, how: Training) -> int:
    """Of one token on the fullest card: with a pipeline of p stages the first holds p micro-batches of its L / p layers."""
    kept = [_of_layer(structure, layer, size) for layer in range(len(structure.layers))]
    divided = [
        (inner + (norms if how.sequence else 0)) // how.tensor + (0 if how.sequence else norms) for inner, norms in kept
    ]
    last = _norm_bytes(structure.width, size, is_layer_norm=False)
    if how.checkpointing:
        inputs = len(kept) * structure.width * size // (how.tensor if how.sequence else 1)
        return inputs + max(divided)
    return sum(divided) + last // (how.tensor if how.sequence else 1)


def _of_layer(structure: Structure, layer: int, size: int) -> tuple[int, int]:
    """Bytes of one token in one layer: (of attention and MLP, of norms)."""
    own = [w for w in structure.weights if w.layer == layer and not w.kept]
    attention = [w for w in own if w.part in ("attention", "state space") and len(w.shape) >= 2]
    mlp = [w for w in own if w.which in ("layer", "experts") and w.part not in ("attention", "state space")]
    pairs = structure.flops.attention if structure.flops else ()
    heads = (
        pairs[layer].each // 4
        if len(pairs) == len(structure.layers)
        else max((w.shape[-1] for w in attention), default=0)
    )
    inner = size * (5 * heads if attention else 0)
    inner += size * sum(_of_mlp(w, mlp, structure.chosen or 1) for w in mlp)
    if structure.activation in WRITTEN_OUT and mlp:  # operation by operation, each keeping its own
        inner += size * 3 * max(w.shape[-1] for w in mlp)
    norms = [w for w in own if w.part == "norms" and w.name.endswith("weight")]
    biased = {w.name.rpartition(".")[0] for w in own if w.name.endswith("bias")}
    bytes_of_norms = 0
    for norm in norms:
        is_layer_norm = norm.name.rpartition(".")[0] in biased
        keys = min((w.shape[-2] for w in attention), default=heads)
        of_a_head = keys if "k_norm" in norm.name else heads  # of each head by itself, where the norm is small
        width = norm.elements if norm.elements >= structure.width else of_a_head
        bytes_of_norms += _norm_bytes(width, size, is_layer_norm=is_layer_norm)
    return inner, bytes_of_norms


def _of_mlp(weight: Weight, mlp: list[Weight], chosen: int) -> int:
    """Elements kept around one matrix of an MLP: what comes out of it, and what its activation makes of that."""
    outputs, inputs = weight.shape[-2], weight.shape[-1]
    widest = max(w.shape[-1] for w in mlp)  # what goes into the last matrix
    times = chosen if weight.which == "experts" and len(weight.shape) == 3 else 1
    if inputs == widest:  # the last matrix: its input is the product, its output the residual stream's
        return times * inputs
    if outputs == 2 * widest:  # gate and up in one
        return times * 3 * widest
    gated = sum(w.shape[-2] == widest for w in mlp if w.shape[-1] != widest) > 1
    return round(times * outputs * (1.5 if gated else 1))  # of two, one has an activation whose output is kept


def _norm_bytes(width: int, size: int, *, is_layer_norm: bool) -> int:
    return 2 * size * width if is_layer_norm else (4 + 2 * size) * width


def _exchange(
    structure: Structure, hardware: Hardware, how: Training, size: int, tokens: int, share: int, data: int, held: int
) -> float:
    """Seconds that a card sends in a step: gradients (and with stage 3 weights, twice) around a ring, and with tensor
    parallelism four sums over the cards in each layer."""
    link = hardware.device.link or hardware.device.host or how.network
    far = min(link, how.network) if hardware.count > IN_ONE_MACHINE else link
    sent = 0.0
    if data > 1:
        sent += (3 if how.zero == 3 else 2) * size * held * (data - 1) / data / far
    if how.tensor > 1:
        near = link if how.tensor <= IN_ONE_MACHINE else far
        layers = -(-len(structure.layers) // how.pipeline)
        message = share * tokens * structure.width * size
        sent += 4 * layers * 2 * message * (how.tensor - 1) / how.tensor / near
    return sent


# what makes it fit -------------------------------------------------------------------------------------------------------


def ways(
    structure: Structure, hardware: Hardware, precision: str, tokens: int, batch: int, training: Training
) -> Iterator[tuple[dict[str, object], str, int]]:
    """Changes after which a step fits, the cheapest first: (arguments, words, bytes on a card)."""

    def tried(how: Training, machine: Hardware = hardware) -> int | None:
        try:
            found = usage(structure, machine, precision, tokens, batch, how).total_bytes
        except BadInput:  # the cards don't divide so
            return None
        return found if found <= machine.device.usable_bytes else None

    data = hardware.count // (training.tensor * training.pipeline)
    steps = [
        (replace(training, zero=stage), f"ZeRO stage {stage}") for stage in range(training.zero + 1, 4) if data > 1
    ]
    if training.micro != 1 and training.pipeline == 1:
        steps.append((replace(training, micro=1), "one sequence at a time, gradients added up (micro=1)"))
    if not training.checkpointing:
        steps.append((replace(training, checkpointing=True), "checkpointing"))
        steps.append((replace(training, checkpointing=True, micro=1), "checkpointing and one sequence at a time"))
        if data > 1:
            steps.append(
                (
                    replace(training, checkpointing=True, micro=1, zero=3),
                    "checkpointing, one sequence at a time, ZeRO stage 3",
                )
            )
    for how, words in steps:
        if (size := tried(how)) is not None:
            yield {"training": how}, f"{words} ({human_bytes(size)} a card)", size
            return
    most = replace(training, checkpointing=True, micro=1, zero=3)
    count = hardware.count
    while count < 4096:
        count *= 2
        machine = hardware.of(count)
        whole = -(-batch // count) * count
        try:
            found = usage(structure, machine, precision, tokens, whole, most).total_bytes
        except BadInput:  # the cards don't divide so
            continue
        if found <= machine.device.usable_bytes:
            change: dict[str, object] = {"hardware": machine.name, "training": most}
            if whole != batch:
                change["batch"] = whole
            yield change, f"{machine.name} with checkpointing and ZeRO stage 3 ({human_bytes(found)} a card)", found
            return


def assumptions(structure: Structure, hardware: Hardware, training: Training, data: int) -> tuple[str, ...]:
    device = hardware.device
    said = [
        f"{described(device)} ({device.source}, {device.taken}); {device.usable:.0%} of the memory is usable.",
        f"{data} data-parallel x {training.tensor} tensor x {training.pipeline} pipeline; bytes are those of the fullest card.",
        f"Reached are {training.utilisation:.0%} of the operations a second, those repeated for checkpointing included; "
        "exchanges run beside the computing.",
        "Attention without a matrix of scores, and no dropout; fragmentation and the libraries' buffers come on top.",
    ]
    if hardware.count > IN_ONE_MACHINE:
        said.append(f"Beyond {IN_ONE_MACHINE} cards a network gives {training.network / 1e9:.3g} GB/s a card.")
    if structure.experts:
        said.append("All experts are kept on every card that has their layer: no expert parallelism.")
    return tuple(said)
