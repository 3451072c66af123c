"""What a long context costs: seconds and bytes, measured, beside what `lk.memory` computes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import checks
from labkit.context.long_texts import CHUNK, check_room, checked_lengths
from labkit.errors import BadInput
from labkit.generation.caches import read_cache
from labkit.models.memory import cache_bytes, model_memory
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike


@dataclass(frozen=True, eq=False, repr=False)
class LongCosts(Result):
    """Seconds and bytes by length; `long_costs` tells the columns of the table."""

    model: str
    repeats: int

    def _title(self) -> str:
        return f"What a long context costs with {self.model}, medians of {self.repeats}"


def long_costs(lab: LabLike, tokens: Sequence[int] | int = (128, 256, 512), *, repeats: int = 3) -> LongCosts:
    """The time to read a text and to write the token after it, and the bytes of its cache, by length.

    tokens: of the text.  repeats: how often each is read; medians are given.
    Returns a row for each length: tokens, read_seconds (the whole text, in chunks with a cache), read_tokens_per_second,
    next_seconds (one token more), cache_bytes (of a real cache), computed_bytes (`lk.memory`; missing where not known),
    weight_bytes (for comparison).
    Raises NotEnoughMemory before anything is run, Unavailable for a model without a cache, BadInput.
    """
    import pandas as pd

    check_lab(lab)
    sizes = checked_lengths("tokens", tokens)
    repeats = checks.whole("repeats", repeats, 1)
    room = running.room(lab.model)
    if room is not None and sizes[-1] >= room:
        raise BadInput(f"The model's context holds {room:,} tokens, the next one included; give lengths below that.")
    check_room(lab, sizes[-1])
    rows: list[dict[str, object]] = []
    vocabulary = running.embedding_rows(lab.model)
    for size in sizes:
        ids = [(7919 * i + 3) % vocabulary for i in range(size + 1)]
        reading, writing = [], []
        with lab.turn():
            for _ in range(repeats + 1):  # the first is not counted
                reader = running.reader(lab.model, size + 1)
                began = time.perf_counter()
                for start in range(0, size, CHUNK):
                    reader.read(ids[: min(start + CHUNK, size)])
                between = time.perf_counter()
                reader.read(ids)
                reading.append(between - began)
                writing.append(time.perf_counter() - between)
            measured = cache_bytes(read_cache(lab, size).cache)
            told = model_memory(lab.model, tokens=size)
        seconds = statistics.median(reading[1:])
        rows.append(
            {
                "tokens": size,
                "read_seconds": seconds,
                "read_tokens_per_second": size / seconds,
                "next_seconds": statistics.median(writing[1:]),
                "cache_bytes": measured,
                "computed_bytes": told.kv_cache_bytes,
                "weight_bytes": told.weight_bytes,
            }
        )
    return LongCosts(pd.DataFrame(rows).astype({"computed_bytes": "Int64"}), lab.name, repeats)
