"""What the map can show of each head: the measures of the text, and those that are handed in as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from labkit.attention import MEASURES
from labkit.errors import BadInput
from labkit.results import as_table

if TYPE_CHECKING:
    import pandas as pd

    from labkit.results import Result


class MeasureFacts(TypedDict):
    """What the page says of a measure. uniform: its value where all keys get the same weight, where that is known."""

    name: str
    title: str
    unit: str
    text: str
    uniform: float | None


def measure_facts(name: str) -> MeasureFacts:
    """What the page says of a measure of labkit.attention."""
    known = MEASURES[name]
    return {"name": name, "title": known.title, "unit": known.unit, "text": known.sentence, "uniform": None}


def handed_in(
    measures: pd.DataFrame | Result | None, layers: Sequence[int], heads: int
) -> tuple[bytes, list[MeasureFacts]]:
    """A table's columns of numbers, (measures, layers, heads) float32, and what the page says of each.

    Raises BadInput where the table has no columns layer and head.
    """
    if measures is None:
        return b"", []
    table = as_table(measures)
    if not {"layer", "head"} <= set(getattr(table, "columns", ())):
        raise BadInput("measures= takes a DataFrame with the columns layer and head, a row for each head.")
    numbers = table.select_dtypes("number")
    names = [name for name in numbers.columns if name not in ("layer", "head", "kv_head")]
    values = np.full((len(names), len(layers), heads), np.nan, "<f4")
    places = {layer: i for i, layer in enumerate(layers)}
    for row, (layer, head) in enumerate(zip(table["layer"], table["head"], strict=True)):
        if layer in places and 0 <= head < heads:
            values[:, places[layer], int(head)] = numbers[names].iloc[row]
    values[np.isinf(values)] = np.nan
    even = measures.attrs.get("uniform")
    even = even if isinstance(even, Mapping) else {}  # it says that the columns are the measures of labkit.attention
    facts: list[MeasureFacts] = []
    for name in names:
        known = MEASURES[name] if name in MEASURES and name in even else None
        facts.append({
            "name": f"given:{name}",
            "title": f"{known.title if known else name} (given)",
            "unit": known.unit if known else "",
            "text": known.sentence if known else "",
            "uniform": number_or_none(even.get(name)),
        })  # fmt: skip
    return values.tobytes(), facts


def number_or_none(value: float | None) -> float | None:
    """A number as JSON takes it: None for what is not known, not finite or NaN."""
    return None if value is None or not math.isfinite(value) else float(value)
