"""What a KV cache takes, and what it saves: sizes measured on real ones, and times with and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.memory import Memory, cache_bytes, model_memory
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

LENGTHS = (64, 256, 1024)


@dataclass(frozen=True, eq=False, repr=False)
class CacheSizes(Result):
    """Bytes of a KV cache by length; `cache_sizes` tells the columns of the table.

    model, family, dtype: whose, and of what numbers.  notes: what `lab.memory` says of this cache.
    """

    model: str
    family: str
    dtype: str
    notes: tuple[str, ...]

    def _title(self) -> str:
        return f"The KV cache of {self.model} ({self.family}, {self.dtype}), measured and computed"

    def _remarks(self) -> Sequence[str]:
        return self.notes


def cache_sizes(lab: LabLike, tokens: Sequence[int] = LENGTHS, *, batch: int = 1) -> CacheSizes:
    """What a cache takes at several lengths, read off real ones and computed from the configuration.

    tokens: of each text.  batch: how many texts of that length.
    Returns a row for each length: tokens, batch, measured_bytes (of the keys, values and states that a run left),
    computed_bytes (`lab.memory`; missing where it is not known), ratio (measured by computed), bytes_per_token (measured, of
    one text) and latent_bytes (what latent attention could do with; missing elsewhere).
    Raises BadInput for a length that the model has no room for, Unavailable for a model that generates without a cache.
    """
    import pandas as pd

    check_lab(lab)
    batch = checks.whole("batch", batch, 1)
    rows: list[dict[str, object]] = []
    told: Memory | None = None
    for count in lengths(lab, tokens):
        with lab.turn():
            measured = cache_bytes(read_cache(lab, count, batch).cache)
            told = model_memory(lab.model, tokens=count, batch=batch)
        computed = told.kv_cache_bytes
        rows.append(
            {
                "tokens": count,
                "batch": batch,
                "measured_bytes": measured,
                "computed_bytes": computed,
                "ratio": measured / computed if computed else float("nan"),
                "bytes_per_token": measured / (count * batch),
                "latent_bytes": told.latent_cache_bytes,
            }
        )
    assert told is not None
    table = pd.DataFrame(rows).astype({"computed_bytes": "Int64", "latent_bytes": "Int64"})
    dtype = str(lab.dtype).removeprefix("torch.")
    return CacheSizes(table, lab.name, lab.family, dtype, told.notes)


@dataclass(frozen=True, eq=False, repr=False)
class CacheTimes(Result):
    """Seconds of a token with a cache and without; `cache_times` tells the columns of the table."""

    model: str
    repeats: int

    def _title(self) -> str:
        return f"A new token of {self.model} with its cache and without, medians of {self.repeats}"


def cache_times(lab: LabLike, tokens: Sequence[int] = (64, 256), *, repeats: int = 5) -> CacheTimes:
    """How long the next token takes when keys and values of the text before are there, and when they are not.

    tokens: of the text before.  repeats: passes of each kind, by turns.
    Returns a row for each length: tokens, with_seconds (a pass over the newest token), without_seconds (a pass over the
    whole text), ratio (without by with), all medians.
    Raises as `cache_sizes` does; Unavailable also for a model that does not go on from what was kept.
    """
    import pandas as pd

    check_lab(lab)
    repeats = checks.whole("repeats", repeats, 1)
    rows: list[dict[str, object]] = []
    for count in lengths(lab, tokens):
        with lab.turn():
            read = read_cache(lab, count, 1)
            if not read.kept or not running.goes_on(lab.model):
                why = read.why or "it does not go on from keys and values that were kept"
                raise Unavailable(f"The times of {lab.name} can't be compared: {why}.")
            past, text = read.kept[0], _text(lab, count + 1)

            shares = {"with_seconds": [past], "without_seconds": []}
            taken: dict[str, list[float]] = {kind: [] for kind in shares}
            for _ in range(repeats + 1):  # the first is not counted
                for kind, pasts in shares.items():
                    began = time.perf_counter()
                    _run(lab, [text], running.Sharing(pasts))
                    taken[kind].append(time.perf_counter() - began)
        medians = {kind: statistics.median(each[1:]) for kind, each in taken.items()}
        rows.append({"tokens": count, **medians, "ratio": medians["without_seconds"] / medians["with_seconds"]})
    return CacheTimes(pd.DataFrame(rows), lab.name, repeats)


def lengths(lab: LabLike, tokens: object) -> list[int]:
    """Numbers of tokens, checked: one or several, each with room for another token."""
    given = [tokens] if checks.as_whole(tokens) is not None else checks.series("tokens", tokens, "numbers of tokens")
    found = [checks.whole("tokens", each, 1) for each in given]
    if not found:
        checks.refuse("tokens", tokens, "at least one number of tokens")
    room = running.room(lab.model)
    if room is not None and max(found) >= room:
        raise BadInput(f"The model's context holds {room:,} tokens, the next one included; give lengths below that.")
    return found


def _text(lab: LabLike, count: int) -> list[int]:
    rows = running.embedding_rows(lab.model)
    return [(7919 * i + 3) % rows for i in range(count)]


def read_cache(lab: LabLike, count: int, batch: int = 1) -> running.Sharing:
    """What a run over texts of so many tokens leaves, its cache above all. The caller has the lab's turn.

    Raises Unavailable for a model that generates without one.
    """
    sharing = running.Sharing(keep=True)
    _run(lab, [_text(lab, count)] * batch, sharing)
    if sharing.cache is None:
        raise Unavailable(f"{lab.name} has no cache to measure: {sharing.why}.")
    return sharing


def _run(lab: LabLike, rows: list[list[int]], sharing: running.Sharing | None) -> None:
    running.generate(
        lab.model,
        rows,
        GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=True),
        processors=lambda _padding: LogitsProcessorList(),
        criteria=StoppingCriteriaList(),
        sharing=sharing,
    )
