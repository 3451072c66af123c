"""How long a step takes at least, and what bounds it: operations against bytes (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.landscape.footprints import Footprint, itemsize
from labkit.landscape.machines import Hardware
from labkit.landscape.structures import Structure

LATENCY = 10e-6  # seconds for each exchange between cards, however small it is
BANDWIDTH_UTILISATION = 0.6  # of a card's bandwidth while tokens are made
COMPUTE_UTILISATION = 0.5  # of its operations while a prompt is read
SPLITS = ("layers", "tensor")

__all__ = ["Phase", "Rates", "prefill", "token"]


@dataclass(frozen=True)
class Rates:
    """What the hardware gives: operations and bytes a second at the utilisation assumed, and the peaks.

    operations: None where the vendor states none.
    """

    hardware: Hardware
    operations: float | None
    bandwidth: float
    peak_operations: float | None
    peak_bandwidth: float
    of: str

    @classmethod
    def at(cls, hardware: Hardware, precision: str, compute: float, bandwidth: float) -> Rates:
        device = hardware.device
        found = device.peak(precision if precision in ("float32", "float16") else "bfloat16")
        peak, of = found or (None, "")
        return cls(
            hardware, None if peak is None else peak * compute, device.bandwidth * bandwidth, peak, device.bandwidth, of
        )


@dataclass(frozen=True)
class Phase:
    """One step. flops, moved: operations and bytes read or written, over all cards; exchanged: bytes between cards or from the
    host, of one card.

    compute, memory, exchange: seconds that each takes by itself; compute is None where operations a second are not stated.
    """

    name: str
    flops: int
    moved: int
    exchanged: int
    compute: float | None
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        """Computing and reading overlap, exchanging does not."""
        return max(self.compute or 0.0, self.memory) + self.exchange

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.moved

    @property
    def bound(self) -> str:
        parts = {"compute": self.compute or 0.0, "bandwidth": self.memory, "interconnect": self.exchange}
        return max(parts, key=parts.__getitem__)


def token(
    described: Structure,
    footprint: Footprint,
    rates: Rates,
    *,
    precision: str,
    tokens: int,
    batch: int,
    split: str,
    cards: int,
    away: int = 0,
) -> Phase:
    """The step that makes the last of `tokens` tokens of each of batch sequences: all weights and the whole cache are read.

    cards: that have a part of the model.  away: bytes of weights in the host's memory, fetched for each step.
    """
    assert described.flops is not None
    flops = batch * described.flops.at(tokens - 1)
    moved = read_bytes(described, footprint, batch) + footprint.cache_bytes
    message = batch * described.width * itemsize(precision)
    return _phase("token", described, rates, flops, moved, message, split, cards, away)


def prefill(
    described: Structure,
    footprint: Footprint,
    rates: Rates,
    *,
    precision: str,
    tokens: int,
    batch: int,
    chunk: int | None,
    split: str,
    cards: int,
    away: int = 0,
) -> Phase:
    """Reading prompts of `tokens` tokens: the weights are read once for each piece, the cache is written.

    Activations between the layers are not counted as bytes moved: a fused kernel keeps most of them on the chip.
    """
    assert described.flops is not None
    pieces = -(-tokens // min(chunk or tokens, tokens))
    flops = batch * described.flops.forward(tokens, logits=1)
    moved = pieces * read_bytes(described, footprint, batch * tokens // pieces) + footprint.cache_bytes
    message = batch * tokens * described.width * itemsize(precision)
    return _phase("prefill", described, rates, flops, moved, message, split, cards, pieces * away)


def _phase(
    name: str,
    described: Structure,
    rates: Rates,
    flops: int,
    moved: int,
    message: int,
    split: str,
    cards: int,
    away: int,
) -> Phase:
    """message: bytes of the residual stream of all tokens of the step."""
    device = rates.hardware.device
    at_once = cards if split == "tensor" else 1
    link = device.link or device.host
    exchanged, exchange = 0, 0.0
    if cards > 1 and link:
        if split == "tensor":  # two sums over the cards in each layer, in a ring
            exchanges = 2 * len(described.layers)
            exchanged = int(exchanges * 2 * message * (cards - 1) / cards)
        else:  # handed on from card to card
            exchanges = cards - 1
            exchanged = exchanges * message
        exchange = exchanged / link + exchanges * LATENCY
    if away and device.host:
        exchanged += away
        exchange += away / device.host
    compute = None if rates.operations is None else flops / (rates.operations * at_once)
    return Phase(name, flops, moved, exchanged, compute, moved / (rates.bandwidth * at_once), exchange)


def read_bytes(described: Structure, footprint: Footprint, tokens: int) -> int:
    """Bytes of weights that a pass over so many tokens reads: an embedding's rows, and the experts that some token goes to.

    Of n tokens with k of E experts each, 1 - (1 - k/E)^n of the experts are wanted by one at least, were they chosen evenly.
    """
    share = 1.0
    if described.experts and described.chosen:
        share = 1 - (1 - described.chosen / described.experts) ** tokens
    read = 0.0
    for weight in described.weights:
        size = footprint.weights[weight.name]
        if weight.which == "embedding":
            read += min(size, size * tokens / weight.shape[0])
        else:
            read += size * share if weight.which == "experts" else size
    return round(read)
