"""What the map can show of each head: the measures of the text, and those that are handed in as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from labkit import checks
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


def measure_facts(name: str, even: Mapping[str, float], *, given: bool = False) -> MeasureFacts:
    """What the page says of a measure of this text, or of one that was given: of labkit.attention's where `even` has it."""
    known = MEASURES[name] if not given or (name in MEASURES and name in even) else None
    title = known.title if known else name
    return {
        "name": f"given:{name}" if given else name,
        "title": f"{title} (given)" if given else title,
        "unit": known.unit if known else "",
        "text": known.sentence if known else "",
        "uniform": checks.as_number(even.get(name)),
    }


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
    return values.tobytes(), [measure_facts(name, even, given=True) for name in names]
