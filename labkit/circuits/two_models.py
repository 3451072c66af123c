"""Two models side by side: any measure on both, with the difference and what it is worth.

The same documents are drawn again for both models at once (a paired bootstrap): what makes one text harder than another
makes it so for both, and falls out of the difference.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from labkit import checks
from labkit.circuits.repeats import kinds_without_repeats
from labkit.errors import BadInput
from labkit.models.texts import texts as shipped_texts
from labkit.models.tokens import token_bytes, token_strings
from labkit.quantization.comparing import different_tokens
from labkit.quantization.intervals import LEAST_DOCUMENTS
from labkit.results import Result, as_table
from labkit.statistics import interval, resampled
from labkit.trace.documents import Documents
from labkit.trace.input import as_kinds
from labkit.trace.lab_like import LabLike, check_lab

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 1_000
READY = ("loss", "bits_per_byte", "entropy", "accuracy")
PER_TOKEN = ("loss", "entropy", "accuracy")
UNITS = {"loss": "nats a token", "bits_per_byte": "bits a byte", "entropy": "nats a token", "accuracy": "of the tokens"}
VALUE = "value"

Key = tuple[object, ...]
Measure = Callable[[LabLike, object], object]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """A measure on two models; `compare` tells the columns of the table.

    measure: its name.  unit: of a ready one.  model, other: their names.  documents: how many were counted.
    draws, seed: of the intervals.
    """

    measure: str
    unit: str
    model: str
    other: str
    documents: int
    draws: int
    seed: int
    notes: tuple[str, ...]

    def _title(self) -> str:
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.measure}{unit}: {self.other} beside {self.model}, on {self.documents} documents"

    def _remarks(self) -> Sequence[str]:
        return self.notes


def compare(
    lab: LabLike,
    other: object,
    measure: str | Measure = "loss",
    texts: object = None,
    *,
    together: bool = False,
    comparable: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Measure two models on the same texts: what each gives, the difference, and where 95 % of it lies.

    lab: a Lab.  other: another Lab (instruct beside base, quantized, pruned); an adapter, which is put on the lab for the
        length of its turn (`adapter` or `adapter.on(0.5)`); or an edit that is not on yet (`lab.edit(lk.ablate_head(5, 3))`).
    measure: "loss" (nats a token), "accuracy" (share of tokens that are the model's first choice), "entropy" (nats, of the next
        token's distribution), "bits_per_byte" (the loss over the bytes of the same tokens); or a function of (lab, text) that
        gives a number, a vector (as long for each text), or a Result or DataFrame (as many rows for each text, told apart by
        its columns of whole numbers and words).
    texts: a list, or kind -> a list; those that come with labkit when None. A text that stands there twice counts once.
    together: the measure is a function of (lab, texts), the list of all texts: it gives one number for each, of which the mean
        is taken with its interval; or anything of the above once, which is shown without an interval.
    comparable: a measure of one's own says that it means the same under two tokenizers.
    Returns a row for each number that the measure gives, and of several kinds of text for each kind and "all": kind, the
    measure's own columns (of a vector: index), value, other, difference (other − value), low, high (95 % of the difference,
    documents drawn again within their kinds, the same for both; NaN where a kind has fewer than 5), documents. Ready measures
    weigh every token (of bits_per_byte, byte) alike, those of one's own every text. Where a vector or a table has NaN for a text
    (a first token has no loss), the text is left out of that row, for both models. A model beside itself differs by exactly 0.
    Raises BadInput where the tokenizers differ and the measure is of tokens, for texts that can't be used, and for a measure
    that gives anything else. An exception in the measure passes through.
    """
    import pandas as pd

    check_lab(lab)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    together, comparable = checks.flag("together", together), checks.flag("comparable", comparable)
    if not callable(measure):
        measure = checks.one_of("measure", measure, READY, problem="is no measure that comes with labkit")
        if together:
            checks.refuse("together", together, "it only with a measure of your own")
    kinds = as_kinds(shipped_texts() if texts is None else texts)
    for kind, some in kinds.items():
        if not some:
            raise BadInput(f"There is no text of kind {kind!r}; give some, or leave the kind out.")
    if not kinds:
        raise BadInput("There is no text to compare on; give a list of texts.")
    kinds, repeated = kinds_without_repeats(lab, kinds)
    second, name = _second(lab, other)
    _check_tokens(lab, other, measure, comparable, kinds)
    flat = [text for some in kinds.values() for text in some]
    kind_of = np.repeat(np.arange(len(kinds)), [len(some) for some in kinds.values()])

    def of(one: LabLike) -> _Found:
        if isinstance(measure, str):
            return _ready(one, kinds, measure)
        return _own(measure, one, flat, together)

    first = of(lab)
    with second as changed:
        beside = of(changed)
    if first.keys != beside.keys or first.counted.shape != beside.counted.shape:
        raise BadInput(
            f"The measure gives {len(first.keys)} numbers for {lab.name} and {len(beside.keys)} for {name}, or other rows, so "
            "they can't be set side by side; let it give the same rows for both."
        )
    first, beside = _both_known(first, beside)
    if not first.once:  # a document of one token has none to predict, and is none of those that are drawn again
        there = np.any((first.counted > 0) | (beside.counted > 0), axis=1)
        first, beside, kind_of = first.of(there), beside.of(there), kind_of[there]
        for number, kind in enumerate(kinds):
            if not (kind_of == number).any():
                raise BadInput(
                    f"No text of kind {kind!r} has a token to predict; give longer ones, or leave the kind out."
                )
    rows = _rows(first, beside, tuple(kinds), kind_of, draws, seed)
    few = int(np.bincount(kind_of).min()) < LEAST_DOCUMENTS or first.once
    why = (
        "the measure gives one result for all texts together"
        if first.once
        else "documents of a kind are too few; give 5"
    )
    return Comparison(
        pd.DataFrame(rows),
        measure=measure if isinstance(measure, str) else getattr(measure, "__name__", type(measure).__name__),
        unit=UNITS.get(measure, "") if isinstance(measure, str) else "",
        model=lab.name,
        other=name,
        documents=len(flat) if first.once else len(kind_of),
        draws=draws,
        seed=seed,
        notes=(
            *((f"no interval, since {why}",) if few else ()),
            *_narrow(rows),
            *repeated,
            *_missing(first),
        ),
    )


def _narrow(rows: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """What is to be known where every text differs by the same: drawing them again then shows no spread, whatever it is."""
    same = [cast("int", row["documents"]) for row in rows if row["difference"] and row["low"] == row["high"]]
    if not same:
        return ()
    return (
        "an interval without a width says that all texts drawn differ by the same, and not that others would, too: there were "
        f"{min(same)}",
    )


# the two models -------------------------------------------------------------------------------------------------------


def _second(lab: LabLike, other: object) -> tuple[contextlib.AbstractContextManager[LabLike], str]:
    """The other model for the length of a `with`, and its name."""
    if hasattr(other, "turn") and hasattr(other, "tokenizer"):
        found = cast("LabLike", other)
        return contextlib.nullcontext(found), found.name if found is not lab else f"{found.name} itself"
    on = getattr(other, "on", None)
    if callable(on):
        base = getattr(other, "lab", lab)
        if base is not lab and getattr(base, "model", None) is not lab.model:
            raise BadInput(f"This adapter is of another lab than {lab.name}; compare with the lab it was trained on.")
        return _inside(lab, on()), f"{lab.name} with {getattr(other, 'name', None) or 'the adapter'}"
    if hasattr(other, "__enter__") and hasattr(other, "__exit__"):
        return _inside(lab, cast("contextlib.AbstractContextManager[object]", other)), f"{lab.name}, changed"
    raise BadInput(
        f"compare sets a Lab, an adapter, or an edit such as lab.edit(...) beside {lab.name}, and this is none of them: "
        f"{checks.shown(other)}."
    )


@contextlib.contextmanager
def _inside(lab: LabLike, change: contextlib.AbstractContextManager[object]) -> Iterator[LabLike]:
    with change:
        yield lab


def _check_tokens(
    lab: LabLike, other: object, measure: object, comparable: bool, kinds: dict[str, list[object]]
) -> None:
    """Raise BadInput where a measure would count another thing for each of the two models."""
    if not hasattr(other, "tokenizer") or not (odd := different_tokens(lab, cast("LabLike", other))):
        return
    differ = f"The tokenizers of {lab.name} and {getattr(other, 'name', 'the other')} differ in {odd:,} entries"
    if isinstance(measure, str) and measure in PER_TOKEN:
        raise BadInput(
            f"{differ}, so a token of one is no token of the other and {measure} a token can't be compared; take "
            'measure="bits_per_byte".'
        )
    if not isinstance(measure, str) and not comparable:
        raise BadInput(
            f"{differ}; say comparable=True if your measure means the same for both (it counts no tokens), or take "
            'measure="bits_per_byte".'
        )
    if any(not isinstance(text, str) for some in kinds.values() for text in some):
        raise BadInput(f"{differ}, so token ids and messages mean another text to each; give plain texts.")


# what they give -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """What a measure gives: sums over counted; value = sum of sums / sum of counted.

    keys: (column, value) pairs by which rows are told apart, one tuple a row.  sums: (documents, rows).  counted: (documents,
    rows), 0 where a document has none, whose sum is 0 then.
    once: whether it was measured for all texts together, as the only document.
    """

    keys: list[Key]
    sums: np.ndarray
    counted: np.ndarray
    once: bool = False

    def of(self, documents: np.ndarray) -> _Found:
        """The same of some documents, (documents,) bool."""
        return replace(self, sums=self.sums[documents], counted=self.counted[documents])


def _ready(lab: LabLike, kinds: dict[str, list[object]], measure: str) -> _Found:
    documents = Documents(lab, kinds)
    counted = documents.tokens.astype(np.float64)
    with lab.turn(), torch.no_grad():
        by_loss = measure in ("loss", "bits_per_byte")
        sums = documents.losses(lab) if by_loss else _by_logits(lab, documents, measure)
    if measure == "bits_per_byte":
        sums = sums / math.log(2)
        counted = np.array([_bytes(lab, ids) for ids in documents.ids], dtype=np.float64)
    return _Found([()], sums[:, None], counted[:, None])


def _by_logits(lab: LabLike, documents: Documents, measure: str) -> np.ndarray:
    """(documents,) summed over the counted tokens, each predicted from the tokens before it."""
    sums = np.zeros(len(documents.ids))
    for number, (group, wanted) in enumerate(documents.batches):
        output = documents.run(lab, number)
        for row, document in enumerate(group):
            places = wanted[row, 1:].nonzero().flatten()
            logs = output.all_logits[row, places].float().log_softmax(-1)
            if measure == "entropy":
                sums[document] = float(torch.special.entr(logs.exp()).sum(-1).double().sum())
            else:
                sums[document] = int((logs.argmax(-1) == output.ids[row, places + 1]).sum())
    return sums


def _bytes(lab: LabLike, ids: np.ndarray) -> int:
    """How many bytes of text the tokens with a loss stand for: all but the first and special ones."""
    special = set(getattr(lab.tokenizer, "all_special_ids", None) or ())
    counted = [int(token) for token in ids[1:] if int(token) not in special]
    return sum(len(token_bytes(text)) for text in token_strings(lab.tokenizer, counted))


def _own(measure: Measure, lab: LabLike, texts: list[object], together: bool) -> _Found:
    if together:
        given = measure(lab, texts)
        entries = _entries(given)
        keys = list(entries)
        if len(keys) == len(texts) and keys == [(("index", i),) for i in range(len(texts))]:
            return _counted([()], np.array([[value] for value in entries.values()]))
        return _counted(keys, np.array([list(entries.values())]), once=True)
    found = [_entries(measure(lab, text)) for text in texts]
    keys = list(found[0])
    for number, entries in enumerate(found):
        if list(entries) != keys:
            raise BadInput(
                f"The measure gives {len(entries)} numbers for text {number} and {len(keys)} for text 0, or other rows; let it "
                "give the same for each text, such as means, or measure all texts at once with together=True."
            )
    return _counted(keys, np.array([list(entries.values()) for entries in found]))


def _counted(keys: list[Key], values: np.ndarray, once: bool = False) -> _Found:
    """Of values, (documents, rows), those that are there. Raises BadInput for infinity."""
    if np.isinf(values).any():
        raise BadInput("The measure gave infinity; let it give finite numbers, or NaN where there is none.")
    there = ~np.isnan(values)
    return _Found(keys, np.where(there, values, 0.0), there.astype(np.float64), once)


def _both_known(first: _Found, second: _Found) -> tuple[_Found, _Found]:
    """Without what only one of the two has."""
    alone = (first.counted > 0) != (second.counted > 0)
    first, second = (
        replace(one, sums=np.where(alone, 0.0, one.sums), counted=np.where(alone, 0.0, one.counted))
        for one in (first, second)
    )
    return first, second


def _missing(found: _Found) -> tuple[str, ...]:
    """What is to be known where a measure has no number for some text."""
    left = int((found.counted == 0).any(1).sum())
    if not left:
        return ()
    return (f"{left} text{'s have' if left > 1 else ' has'} no number (NaN) in some rows, and no part in them",)


def _entries(given: object) -> dict[Key, float]:
    """The numbers a measure gave, by what tells them apart."""
    import pandas as pd

    table = as_table(given)
    if isinstance(table, pd.DataFrame):
        return _of_table(table)
    number = checks.as_number(given)
    if number is not None:
        return {(): number}
    try:
        vector = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given, dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.empty((0, 0))
    if vector.ndim == 0:
        raise BadInput(f"The measure gave {checks.shown(given)}; let it give a finite number.")
    if vector.ndim != 1 or not len(vector):
        shape = f" of shape {tuple(given.shape)}" if hasattr(given, "shape") else ""
        raise BadInput(
            f"The measure gave a {type(given).__name__}{shape}; let it give a number, a vector, or a table with numbers."
        )
    return {(("index", i),): float(value) for i, value in enumerate(vector)}


def _of_table(table: pd.DataFrame) -> dict[Key, float]:
    values = [name for name in table.columns if table[name].dtype.kind == "f"]
    names = [name for name in table.columns if name not in values]
    if not values:
        raise BadInput("The measure's table has no column of numbers with decimals to compare; give one.")
    found: dict[Key, float] = {}
    for _, row in table.iterrows():
        own = tuple((str(name), row[name]) for name in names)
        for value in values:
            found[(*own, ("column", str(value)))] = float(row[value])
    if len(found) < len(table) * len(values):
        raise BadInput(
            "Rows of the measure's table can't be told apart by their whole numbers and words; add such a column."
        )
    return found


# side by side ---------------------------------------------------------------------------------------------------------


def _interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % of (draws, rows), without draws that hold no text with a number."""
    ends = [interval(column[~np.isnan(column)]) for column in samples.T]
    return np.array([float(low) for low, _ in ends]), np.array([float(high) for _, high in ends])


def _rows(
    first: _Found, second: _Found, kinds: tuple[str, ...], kind_of: np.ndarray, draws: int, seed: int
) -> list[dict[str, object]]:
    if first.once:
        kinds, kind_of = (next(iter(kinds)) if len(kinds) == 1 else "all",), np.zeros(1, np.int64)
    weights = resampled(kind_of, draws, np.random.default_rng(seed))
    groups = [(kind, kind_of == number) for number, kind in enumerate(kinds)]
    groups += [("all", np.ones(len(kind_of), bool))] if len(kinds) > 1 else []
    rows = []
    for kind, members in groups:
        known = (first.counted > 0) | (second.counted > 0)  # (documents, rows)
        there = [known[members & (kind_of == kind)].sum(0) for kind in np.unique(kind_of[members])]
        enough = np.min(there, axis=0) >= LEAST_DOCUMENTS
        with np.errstate(invalid="ignore", divide="ignore"):
            values = [one.sums[members].sum(0) / one.counted[members].sum(0) for one in (first, second)]
            drawn = weights[:, members]
            samples = [drawn @ one.sums[members] / (drawn @ one.counted[members]) for one in (first, second)]
        low, high = (np.where(enough, end, np.nan) for end in _interval(samples[1] - samples[0]))
        for number, key in enumerate(first.keys):
            row: dict[str, object] = {"kind": kind} if len(kinds) > 1 else {}
            row |= {str(name): value for name, value in cast("tuple[tuple[str, object], ...]", key)}
            row |= {
                VALUE: float(values[0][number]),
                "other": float(values[1][number]),
                "difference": float(values[1][number] - values[0][number]),
                "low": float(low[number]),
                "high": float(high[number]),
                "documents": int(known[members][:, number].sum()),
            }
            rows.append(row)
    return rows
