"""Does it fit, where does each layer go, what bounds it, how long does it take: from configurations, before anything is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from labkit import checks
from labkit.errors import BadInput
from labkit.landscape import advising, placing, rooflines
from labkit.landscape.cases import Case
from labkit.landscape.footprints import CACHE_BITS, PLAIN, precision_name, refuse_unknown_cache
from labkit.landscape.machines import Device, Hardware, described
from labkit.landscape.machines import hardware as _hardware
from labkit.landscape.placing import DeviceMap
from labkit.landscape.rooflines import Phase
from labkit.landscape.structures import Structure, structure
from labkit.landscape.training import Training, assumptions, usage, ways
from labkit.models.memory import Countable, human_bytes
from labkit.results import Result

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import LabLike

USES = ("inference", "training")
MOST_TOKENS = 10**8
POINTS = ["phase", "flops", "bytes", "intensity", "attained", "ceiling", "seconds", "bound"]

__all__ = ["Plan", "plan"]


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Result):
    """What a model takes on some hardware, and what it gives; `plan` tells the rows of the table.

    fits: whether all has a place on the devices, without the host's memory.  bottleneck: "memory" where it does not fit; else
        what a token (in training a step) waits for: "bandwidth", "compute" or "interconnect".
    device_map: module to device, as `from_pretrained(device_map=...)` takes it; None where not all has a place, with
        split="tensor" (which has none), and in training.
    advice: sentences; where it doesn't fit, the first is the cheapest change that makes it fit, and `change` has its
        arguments, so that `lk.plan(model, **{**asked, **found.change})` fits; None where no single change does.
    total_bytes, usable_bytes: over all devices.  offloaded_bytes: of weights that stay in the host's memory.
    prefill_seconds, token_seconds: of the whole batch, at the utilisation assumed; None where the vendor states no operations
        a second (prefill), and in training.  tokens_per_second: of all sequences together.  step_seconds: of training.
    points: the operating points for a roofline: phase, flops, bytes, intensity (operations a byte), attained and ceiling
        (operations a second of each card at work), seconds, bound.
    assumptions: what the times and bytes rest on.
    """

    model: str
    hardware: Hardware
    precision: str
    cache_precision: str
    tokens: int
    batch: int
    use: str
    fits: bool
    bottleneck: str
    device_map: DeviceMap | None
    advice: tuple[str, ...]
    change: Mapping[str, object] | None
    total_bytes: int
    usable_bytes: int
    offloaded_bytes: int
    prefill_seconds: float | None
    token_seconds: float | None
    step_seconds: float | None
    tokens_per_second: float | None
    points: pd.DataFrame
    assumptions: tuple[str, ...]

    def _title(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        return (
            f"{self.model} in {self.precision} on {self.hardware.name}, {self.batch} x {self.tokens:,} tokens: {verdict}; "
            f"{human_bytes(self.total_bytes)} of {human_bytes(self.usable_bytes)}; bound by {self.bottleneck}"
        )

    def _remarks(self) -> Sequence[str]:
        said = []
        if self.token_seconds is not None and self.tokens_per_second is not None:
            first = "" if self.prefill_seconds is None else f"The prompts take {_time(self.prefill_seconds)}. "
            said.append(
                f"{first}A token of each sequence takes {_time(self.token_seconds)}: {self.tokens_per_second:,.4g} tokens a "
                "second together."
            )
        if self.step_seconds is not None:
            said.append(f"A step takes {_time(self.step_seconds)}: {self.tokens_per_second or 0:,.4g} tokens a second.")
        return (*said, *self.advice, *self.assumptions)


def plan(
    model: Countable | LabLike,
    *,
    hardware: str | Hardware | Device = "this",
    precision: str = "bfloat16",
    tokens: int = 4096,
    batch: int = 1,
    use: str = "inference",
    cache_precision: str | None = None,
    head: str | None = None,
    split: str = "layers",
    chunk: int | None = None,
    host_bytes: int = 0,
    bandwidth_utilisation: float = rooflines.BANDWIDTH_UTILISATION,
    compute_utilisation: float = rooflines.COMPUTE_UTILISATION,
    training: Training | None = None,
) -> Plan:
    """Whether a model fits some hardware, what bounds it, and how fast it is. Nothing is loaded or fetched.

    model: what `lk.memory` takes (a published name or hub id, a configuration or its fields, a folder, a model), or a Lab.
    hardware: by name, such as "4xA100-80GB" (`lk.landscape.devices()` lists them), a Hardware or Device, or "this":
        the machine at hand, whose bandwidth and operations are then measured once.
    precision: of the weights: "float32", "bfloat16", "float16", or a format of `lk.quantization` ("int8", "int4", "nf4",
        "q4_k", ...). A format is that of the layers' matrices, scales included; embedding, norms, routers and head stay in 16
        bits, the head and embedding unless `head` names a format for them.
    tokens, batch: of each sequence, prompt and answer together; how many sequences at once.
    use: "inference", or "training" of all weights in the way `training` says (`lk.landscape.Training`; tokens and batch are then
        those of a step over all cards, precision 16 bits or float32).
    cache_precision: of the KV cache: None (16 bits; float32 with float32), "int8", "int4" or "int2", in groups of 32 with scale
        and zero point.
    split: over several cards by "layers" (accelerate's device map: one card works at a time) or by "tensor" (each layer over
        all cards, as transformers' tp_plan). Heads have to divide by the cards; key-value heads that are fewer stand on several.
    chunk: tokens of a prompt that are read at a time (generate's prefill_chunk_size); None for all at once.
    host_bytes: of the host's memory to which layers may go for which no card has room.
    bandwidth_utilisation, compute_utilisation: shares of the peaks that are reached.
    Rows: quantized weights, weights, KV cache (or state), working memory; in training weights, gradients, optimizer,
        activations, logits and with ZeRO 3 the layer that is gathered, of the fullest card.
    Columns: part, bytes, share (of what is usable).
    Raises BadInput for arguments that can't be used and unknown hardware, with the names near; ModelNotFound; Unavailable where
    a model's cache or operations can't be told.
    """
    tokens = checks.whole("tokens", tokens, 1, MOST_TOKENS)
    batch = checks.whole("batch", batch, 1)
    use = checks.one_of("use", use, USES)
    split = checks.one_of("split", split, rooflines.SPLITS)
    precision = precision_name("precision", precision)
    machine = _hardware(hardware)
    chunk = None if chunk is None else checks.whole("chunk", chunk, 1)
    host_bytes = checks.whole("host_bytes", host_bytes, 0)
    if host_bytes and machine.device.host is None:
        raise BadInput(
            f"{machine.device.name} has one memory for all, and no other for layers to go to; give host_bytes=0."
        )
    shares = [
        checks.number(name, value, most=1, above=0)
        for name, value in (
            ("bandwidth_utilisation", bandwidth_utilisation),
            ("compute_utilisation", compute_utilisation),
        )
    ]
    if head is not None:
        head = precision_name("head", head)
        own = PLAIN.get(precision, 2)
        if PLAIN.get(head, own) != own:
            checks.refuse("head", head, f"a format, or None for the {8 * own} bits that the other weights have")
    if cache_precision is None:
        cache_precision = "float32" if precision == "float32" else "bfloat16"
    cache_precision = checks.one_of("cache_precision", cache_precision, CACHE_BITS)
    loaded = getattr(model, "model", model) if hasattr(model, "tokenizer") else model
    name, found = structure(cast("Countable", loaded))
    name = str(getattr(model, "name", name)) if hasattr(model, "tokenizer") else name
    if use == "training":
        if precision not in PLAIN:
            checks.refuse("precision", precision, "float32, bfloat16 or float16 to train in")
        if training is not None and not isinstance(training, Training):
            checks.refuse("training", training, "an lk.landscape.Training")
        return _training(name, found, machine, precision, tokens, batch, training or Training())
    if training is not None:
        raise BadInput('training=... belongs to use="training"; give that too, or leave it out.')
    refuse_unknown_cache(found, name)
    case = Case(found, machine, precision, cache_precision, tokens, batch, split, chunk, head)
    if (why := case.undealt) is not None:
        raise BadInput(f'{name} can\'t be split so: its {why}; take another number of cards, or split="layers".')
    return _inference(name, case, host_bytes, shares[0], shares[1])


def _inference(name: str, case: Case, host_bytes: int, bandwidth: float, compute: float) -> Plan:
    import pandas as pd

    machine, structure_, footprint = case.hardware, case.structure, case.footprint
    places, away = None, 0
    if case.split == "tensor":
        fits = case.fits()
    else:
        places = placing.device_map(structure_, footprint, machine.count, machine.device.usable_bytes, host_bytes)
        fits = places is not None and "cpu" not in places.values()
        if places is not None and not fits:
            away = placing.offloaded(structure_, footprint, places)
    runs = fits or places is not None
    cards = len({d for d in places.values() if d != "cpu"}) if places else machine.count
    phases = case.phases(bandwidth, compute, max(cards, 1), away)
    usable = machine.usable_bytes
    total = case.total_bytes
    rows = [
        (f"weights in {case.precision}", footprint.quantized),
        ("weights" if not footprint.quantized else "weights in 16 bits", footprint.unquantized),
        ("KV cache" if structure_.flops and structure_.flops.attention else "state", case.cache_bytes),
        ("working memory", total - footprint.weight_bytes - case.cache_bytes),
    ]
    table = pd.DataFrame([row for row in rows if row[1]], columns=["part", "bytes"])
    table["share"] = table["bytes"] / usable
    token = phases["token"] if phases else None
    prefill = phases["prefill"] if phases else None
    bottleneck = "memory" if not fits or token is None else token.bound
    sentences, change = advising.advice(name, case, fits)
    if away:
        sentences = (
            f"{human_bytes(away)} of weights stay in the host's memory and are fetched for every token "
            f"over {(machine.device.host or 0) / 1e9:.3g} GB/s.",
            *sentences,
        )
    return Plan(
        table,
        model=name,
        hardware=machine,
        precision=case.precision,
        cache_precision=case.cache_precision,
        tokens=case.tokens,
        batch=case.batch,
        use="inference",
        fits=fits,
        bottleneck=bottleneck,
        device_map=places,
        advice=sentences,
        change=change,
        total_bytes=total,
        usable_bytes=usable,
        offloaded_bytes=away,
        prefill_seconds=prefill.seconds if prefill and prefill.compute is not None and runs else None,
        token_seconds=token.seconds if token and runs else None,
        step_seconds=None,
        tokens_per_second=case.batch / token.seconds if token and runs else None,
        points=_points(phases, case, bandwidth, compute),
        assumptions=_assumptions(case, bandwidth, compute),
    )


def _training(
    name: str, found: Structure, machine: Hardware, precision: str, tokens: int, batch: int, how: Training
) -> Plan:
    import pandas as pd

    used = usage(found, machine, precision, tokens, batch, how)
    room = machine.device.usable_bytes
    fits = used.total_bytes <= room
    table = pd.DataFrame({"part": list(used.parts), "bytes": list(used.parts.values())})
    table["share"] = table["bytes"] / room
    change: dict[str, object] | None = {}
    said = [f"It fits with {human_bytes(room - used.total_bytes)} of a card to spare."]
    if not fits:
        change, words, _ = next(ways(found, machine, precision, tokens, batch, how), (None, "", 0))
        said = [
            f"The cheapest change: {words}." if words else f"No way known here makes {name} fit {machine.device.name}."
        ]
    if used.hours is not None:
        said.append(f"{how.dataset_tokens:,.4g} tokens take {used.hours:,.4g} hours.")
    waits = used.compute is not None and used.exchange > used.compute
    return Plan(
        table,
        model=name,
        hardware=machine,
        precision=precision,
        cache_precision=precision,
        tokens=tokens,
        batch=batch,
        use="training",
        fits=fits,
        bottleneck="memory" if not fits else "interconnect" if waits else "compute",
        device_map=None,
        advice=tuple(said),
        change=change,
        total_bytes=machine.count * used.total_bytes,
        usable_bytes=machine.usable_bytes,
        offloaded_bytes=0,
        prefill_seconds=None,
        token_seconds=None,
        step_seconds=used.seconds if fits else None,
        tokens_per_second=batch * tokens / used.seconds if fits and used.seconds else None,
        points=pd.DataFrame(columns=POINTS),
        assumptions=assumptions(found, machine, how, used.data),
    )


def _points(phases: Mapping[str, Phase], case: Case, bandwidth: float, compute: float) -> pd.DataFrame:
    import pandas as pd

    rates = case.rates(bandwidth, compute)
    nan = float("nan")
    at_once = case.hardware.count if case.split == "tensor" else 1
    rows = [
        (
            phase.name,
            phase.flops,
            phase.moved,
            phase.intensity,
            phase.flops / phase.seconds / at_once,
            min(rates.peak_operations or nan, phase.intensity * rates.peak_bandwidth),
            phase.seconds,
            phase.bound,
        )
        for phase in phases.values()
        if phase.compute is not None
        or phase.name == "token"  # a prompt waits for operations, of which nothing is known
    ]
    return pd.DataFrame(rows, columns=POINTS)


def _assumptions(case: Case, bandwidth: float, compute: float) -> tuple[str, ...]:
    device = case.hardware.device
    said = [
        f"{described(device)} ({device.source}, {device.taken}"
        f"{'' if device.confirmed else '; not confirmed by a public copy'}); {device.usable:.0%} of the memory is usable.",
        f"Reached are {bandwidth:.0%} of the bandwidth and {compute:.0%} of the operations, computing while reading; launching "
        "kernels, sampling and the program around it take no time here.",
    ]
    if case.precision not in ("float32", "bfloat16", "float16"):
        said.append(
            "Quantized weights are turned back to 16 bits on the way, so that products run at the speed of those."
        )
    if case.hardware.count > 1:
        how = (
            "Layers lie on one card after another, and one card works at a time"
            if case.split == "layers"
            else "Every layer is spread over all cards, with two sums over them in each"
        )
        link = device.link or device.host
        name = device.link_name or ("the link" if device.link else "the way over the host's memory")
        over = (
            f"{name} gives {link / 1e9:.4g} GB/s each way"
            if link
            else "no link is stated, and exchanging takes no time here"
        )
        said.append(f"{how}; {over}.")
    if case.copies > 1:
        said.append(f"Each key and value stands on {case.copies} cards, as there are fewer of their heads than cards.")
    if device.note:
        said.append(device.note.removeprefix("usable: "))
    positions = case.structure.positions
    if positions is not None and case.tokens > positions:
        said.append(f"{case.tokens:,} tokens are more than the {positions:,} positions the model was made for.")
    return (*said, *case.structure.notes)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"
