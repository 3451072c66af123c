"""One case to plan for: a model, its precision, length and batch, and the hardware."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from labkit.landscape import placing, rooflines
from labkit.landscape.footprints import Footprint, footprint
from labkit.landscape.machines import Hardware
from labkit.landscape.rooflines import Phase, Rates
from labkit.landscape.structures import Structure

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """See `plan` for the fields."""

    structure: Structure
    hardware: Hardware
    precision: str
    cache_precision: str
    tokens: int
    batch: int
    split: str = "layers"
    chunk: int | None = None
    head: str | None = None

    @cached_property
    def footprint(self) -> Footprint:
        return footprint(
            self.structure,
            precision=self.precision,
            cache_precision=self.cache_precision,
            tokens=self.tokens,
            batch=self.batch,
            chunk=self.chunk,
            head=self.head,
        )

    @property
    def undealt(self) -> str | None:
        """Why the layers can't be spread over the cards, None where they can: each card takes as many heads as the others."""
        if self.split != "tensor":
            return None
        heads, shared, cards = self.structure.heads, self.structure.shared, self.hardware.count
        if heads and heads % cards:
            return f"{heads} heads can't be dealt evenly to {cards} cards"
        if shared and shared % cards and cards % shared:
            return f"{shared} key-value heads can't be dealt evenly to {cards} cards"
        return None

    @property
    def copies(self) -> int:
        """How often each part of the cache is there: with more cards than key-value heads, several cards need the same ones."""
        if self.split != "tensor" or not self.structure.shared:
            return 1
        return max(1, self.hardware.count // self.structure.shared)

    @property
    def cache_bytes(self) -> int:
        """Over all devices."""
        return self.copies * self.footprint.cache_bytes

    @property
    def total_bytes(self) -> int:
        """Over all devices: each that works has working memory of its own."""
        own = self.footprint
        if self.split == "tensor":
            return self.hardware.count * self._bytes_of_one()
        return own.weight_bytes + own.cache_bytes + self.hardware.count * own.working

    def _bytes_of_one(self) -> int:
        """Of each card, the layers' matrices, the head and the cache dealt evenly, all else on every card."""
        own, cards = self.footprint, self.hardware.count
        dealt = sum(
            own.weights[w.name] for w in self.structure.weights if w.which in ("layer", "experts", "head", "tied")
        )
        return own.weight_bytes - dealt + -(-(dealt + self.cache_bytes) // cards) + own.working

    def fits(self) -> bool:
        """Quickly, without a device map: one card filled after another, or all evenly."""
        device = self.hardware.device
        if self.split == "tensor":
            return self.undealt is None and self._bytes_of_one() <= device.usable_bytes
        return placing.packs(self.structure, self.footprint, self.hardware.count, device.usable_bytes)

    def rates(self, bandwidth: float, compute: float) -> Rates:
        return Rates.at(self.hardware, self.precision, compute, bandwidth)

    def phases(self, bandwidth: float, compute: float, cards: int, away: int = 0) -> dict[str, Phase]:
        """Reading the prompts and making the last token; none where the model's operations can't be told."""
        if self.structure.flops is None:
            return {}
        rates = self.rates(bandwidth, compute)
        own = self.footprint
        read = replace(own, cache=tuple(self.copies * size for size in own.cache)) if own.cache else own
        prefill = rooflines.prefill(
            self.structure, read, rates, precision=self.precision, tokens=self.tokens, batch=self.batch,
            chunk=self.chunk, split=self.split, cards=cards, away=away,
        )  # fmt: skip
        token = rooflines.token(
            self.structure, read, rates, precision=self.precision, tokens=self.tokens, batch=self.batch,
            split=self.split, cards=cards, away=away,
        )  # fmt: skip
        return {"prefill": prefill, "token": token}
