"""What the articles say a model needs, beside what it takes: the least number of cards at 16, 8 and 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit import checks
from labkit.errors import Unavailable
from labkit.landscape.cases import Case
from labkit.landscape.machines import Device, Hardware
from labkit.landscape.machines import hardware as _hardware
from labkit.landscape.structures import Structure, structure
from labkit.landscape.training import Training, usage
from labkit.models import published
from labkit.results import Result

MOST = 4096
# the model that each line of the articles' table can mean, and the A100 cards it states; of Mistral both that it may mean
STATED = (("llama-2-70b", 4), ("falcon-180b", 16), ("mistral-7b", 8), ("mixtral-8x7b", 8))
PRECISIONS = {"bits_16": "bfloat16", "bits_8": "int8", "bits_4": "int4"}

__all__ = ["Selection", "fewest_cards", "selection"]


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Result):
    """The articles' table beside the computed one; `selection` tells the columns. card: of which cards are counted."""

    card: str
    tokens: int
    batch: int

    def _title(self) -> str:
        return f"Cards ({self.card}) that are stated, and that it takes with {self.batch} x {self.tokens:,} tokens"

    def _remarks(self) -> Sequence[str]:
        return (
            "bits_16, bits_8, bits_4: to run. training: all weights, AdamW in mixed precision, ZeRO stage 3 and "
            "checkpointing, a sequence a card.",
        )


def selection(*, card: str | Device = "A100-80GB", tokens: int = 4096, batch: int = 1) -> Selection:
    """The least number of cards for the models of the articles' table, beside what that states.

    Columns: model; licence; parameters; stated; bits_16, bits_8, bits_4 (cards to run it); training (cards to train all of it).
    """
    import pandas as pd

    device = _hardware(card).device
    tokens, batch = checks.whole("tokens", tokens, 1), checks.whole("batch", batch, 1)
    rows = []
    for name, stated in STATED:
        entry, described = published.get(name), structure(name)[1]
        rows.append(
            {
                "model": name,
                "licence": entry.licence if entry else "",
                "parameters": described.parameters,
                "stated": stated,
                **{bits: fewest_cards(described, device, p, tokens, batch) for bits, p in PRECISIONS.items()},
                "training": fewest_to_train(described, device, tokens),
            }
        )
    return Selection(pd.DataFrame(rows), card=device.name, tokens=tokens, batch=batch)


def fewest_cards(described: Structure, device: Device, precision: str, tokens: int, batch: int) -> int:
    """The least number of cards that the model runs on, layer after layer."""
    cache = "float32" if precision == "float32" else "bfloat16"
    for count in range(1, MOST + 1):
        if Case(described, Hardware(device, count), precision, cache, tokens, batch).fits():
            return count
    raise Unavailable(f"{MOST} of {device.name} don't hold it: a layer is too large for one; choose a larger card.")


def fewest_to_train(described: Structure, device: Device, tokens: int) -> int:
    """The least number of cards that a step of one sequence each fits on, all weights trained."""
    how = Training(zero=3, checkpointing=True)
    for count in range(1, MOST + 1):
        used = usage(described, Hardware(device, count), "bfloat16", tokens, count, how)
        if used.total_bytes <= device.usable_bytes:
            return count
    raise Unavailable(f"{MOST} of {device.name} don't hold a step; choose a larger card.")
