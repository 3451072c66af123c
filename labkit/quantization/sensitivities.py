"""Where it hurts: what each matrix costs when it alone is quantized.

One matrix at a time is exchanged in the model itself, for the length of a pass and under the lab's turn, and only the layers
from its own on are run. What comes out is held against the model's own probabilities.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput
from labkit.models.texts import texts as shipped_texts
from labkit.quantization import formats
from labkit.quantization.comparing import Reference
from labkit.quantization.grids import Format, Packed
from labkit.quantization.intervals import few_remarks, interval_of, noise_remark
from labkit.quantization.quantizing import planned
from labkit.quantization.text_damage import rerun_noise
from labkit.quantization.weights import Matrix, matrices, weight_error
from labkit.results import Result
from labkit.trace.building import refuse_odd_weights
from labkit.trace.documents import Documents
from labkit.trace.lab_like import check_lab
from labkit.trace.resuming import Entering, entering

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import BuiltLab

TOKENS, DRAWS = 2_000, 1_000
LONGEST = 64  # tokens of a document, so that few tokens are still of six documents of each of five kinds
REFERENCE_BYTES = 2**30  # of the original's probabilities, held while matrix after matrix is tried

Given = str | Format
BITS = "a whole number from 2 to 6, or 8"


@dataclass(frozen=True, eq=False)
class Place:
    """What is quantized by itself: a matrix, or the embedding and the head where they are one tensor."""

    name: str
    layer: int | None
    matrix: str
    members: tuple[Matrix, ...]

    @property
    def weight(self) -> torch.Tensor:
        return self.members[0].weight

    @property
    def size_bytes(self) -> int:
        """As the model has it."""
        return self.weight.numel() * self.weight.element_size()


def places(lab: BuiltLab, head: bool) -> list[Place]:
    """The matrices of the layers, in their order; with `head` also the embedding and the output head."""
    found: list[Place] = []
    tied = tuple(each for each in matrices(lab).values() if each.tied)
    for matrix in matrices(lab).values():
        if matrix.part == "layer":
            found.append(Place(matrix.name, matrix.layer, matrix.matrix, (matrix,)))
        elif head and not (matrix.tied and matrix is not tied[0] and matrix.name != tied[0].name):
            found.append(Place(matrix.name, None, matrix.matrix, tied if matrix.tied else (matrix,)))
    return found


@contextlib.contextmanager
def exchanged(changes: Sequence[tuple[Place, torch.Tensor]]) -> Iterator[None]:
    """While inside, these places of the model have other weights, (..., outputs, inputs); the caller has the lab's turn."""
    held: list[tuple[Matrix, nn.Parameter | None]] = []
    try:
        for place, weight in changes:
            for matrix in place.members:
                before = matrix.module._parameters[matrix.parameter]
                assert before is not None
                value = (weight.transpose(-1, -2) if matrix.transposed else weight).to(before.dtype).contiguous()
                held.append((matrix, before))
                matrix.module._parameters[matrix.parameter] = nn.Parameter(value, requires_grad=False)
        yield
    finally:
        for matrix, before in reversed(held):
            matrix.module._parameters[matrix.parameter] = before


# the result -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity(Result):
    """What each matrix costs alone; `sensitivity` tells the columns of the table.

    layers: a row for each layer and format: layer, format, kl (the sum of its matrices' alone), rank (1 hurts most), z: how
        many standard deviations its log KL is from the mean of the other layers'. A layer is special where its z is: of 30
        layers that are alike, the largest is about 2.
    error_correlation: Spearman's, of weight_error with kl over the rows of the first format: how well the error of a matrix
        tells what it costs; error_p: the chance of such a correlation among matrices that have nothing to do with it.
    noise: mean KL of the model with itself when texts are run alone and again among others, with padding: the null.
    complete: False after an interrupt, when the table holds what was done.  formats: as they were asked for.
    """

    layers: pd.DataFrame
    error_correlation: float
    error_p: float
    noise: float
    complete: bool
    formats: tuple[str, ...]
    model: str
    tokens: int
    documents: int
    draws: int
    seed: int
    notes: tuple[str, ...]

    @property
    def heat(self) -> pd.DataFrame:
        """KL by layer (rows) and matrix (columns), for the first format: a heat map's numbers."""
        rows = self.table[(self.table["format"] == self.formats[0]) & self.table["layer"].notna()]
        wide = rows.pivot(index="layer", columns="matrix", values="kl")
        return wide[list(dict.fromkeys(rows["matrix"]))]

    def _title(self) -> str:
        cut = "" if self.complete else ", interrupted"
        return (
            f"Each matrix of {self.model} alone in {checks.listed(self.formats, 'or')}: {self.tokens:,} tokens of "
            f"{self.documents} documents{cut}"
        )

    def _remarks(self) -> Sequence[str]:
        lines = [
            noise_remark(self.noise),
            f"weight error tells the KL with a rank correlation of {self.error_correlation:.2f} (p = {self.error_p:.2g})",
        ]
        if len(self.layers):
            first = self.layers[self.layers["format"] == self.formats[0]]
            top = first.sort_values("kl", ascending=False).iloc[0]
            lines.append(f"layer {top['layer']:.0f} hurts most: KL {top['kl']:.3g}, z = {top['z']:.1f}")
        return (*lines, *self.notes)


def sensitivity(
    lab: BuiltLab,
    texts: object = None,
    *,
    bits: int | None = None,
    format: Given | Sequence[Given] = "int4",
    head: bool = False,
    tokens: int | None = TOKENS,
    longest: int | None = LONGEST,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """Quantize one matrix at a time by rounding to nearest, and measure what that alone costs.

    texts: kind -> documents, or a list; the texts that come with labkit when None.
    bits: 2 to 8, short for format="int4" and the like.  format: a name or a Format, or several, which are tried in turn.
    head: also the embedding and the output head, which have no layer.
    tokens: as in `damage`.  longest: take no more than so many tokens of a document, its first; None takes all.
    Returns a row for each format and matrix: name, layer, matrix, format, kl (nats a token; with kl_low and kl_high, 95 %,
    documents drawn again within their kinds, NaN where a kind has fewer than 5), noise (KL of the unchanged model with
    itself, run again otherwise: the null, as in the field), weight_error (root of the mean square of the change, over that
    of the weights), bytes, saved_bytes, bits_per_weight.
    An interrupt returns what is done, with complete False. The default model's weights lie on a 4-bit grid (`on_grid`),
    so its figures at 4 bits say little of other models.
    Raises BadInput for formats and texts that can't be used, Unavailable for a quantized or spread model.
    """
    check_lab(lab)
    checks.flag("progress", progress)
    refuse_odd_weights(lab, "tried with quantized matrices")
    wanted = formats_of(bits, format)
    most = None if tokens is None else checks.whole("tokens", tokens, 1)
    cut = None if longest is None else checks.whole("longest", longest, 2)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    documents = Documents(lab, shipped_texts() if texts is None else texts, most=most, longest=cut)
    found = alone(lab, documents, wanted, head=head, progress=progress)
    if not found.rows:
        if not found.complete:
            raise KeyboardInterrupt  # nothing was done that could be kept
        raise BadInput(
            f"No matrix of {lab.name} was measured, since {found.why}; give another format or smaller groups."
        )
    noise = rerun_noise(documents, lab)
    table = _table(found, documents, noise, draws, seed)
    names = tuple(dict.fromkeys(each.name for each in wanted))
    correlation, p = _correlation(table[table["format"] == names[0]])
    return Sensitivity(
        table,
        layers=_by_layer(table),
        error_correlation=correlation,
        error_p=p,
        noise=noise,
        complete=found.complete,
        formats=names,
        model=lab.name,
        tokens=int(documents.tokens.sum()),
        documents=len(documents.ids),
        draws=draws,
        seed=seed,
        notes=(*documents.cut, *few_remarks(documents), *found.notes),
    )


def formats_of(bits: int | None, format: Given | Sequence[Given], argument: str = "format") -> list[Format]:
    """What was asked for, as Formats. argument: under which name, for the error."""
    if bits is not None:
        if format != "int4":
            checks.refuse("bits", bits, "either bits or a format, not both")
        number = checks.whole("bits", bits, 2, 8, wanted=BITS)
        if number == 7:
            checks.refuse("bits", bits, BITS)
        format = f"int{number}"
    given = (
        [format] if isinstance(format, str | Format) else checks.series(argument, format, "a format, or a list of them")
    )
    if not given:
        checks.refuse(argument, format, "at least one format")
    found = [formats.of(each, argument=argument) for each in given]  # type: ignore[arg-type]
    if len({each.name for each in found}) < len(found):
        checks.refuse(argument, [each.name for each in found], "each format once, under a name of its own")
    return found


# measuring ------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One place in one format. asked, given: as it was asked for, by name where a name says it all.

    sums: (documents,) KL.
    """

    place: Place
    format: Format
    asked: Format
    given: Given
    size_bytes: int
    weight_error: float
    sums: np.ndarray


@dataclass
class Alone:
    """rows: one for each place and format that was done.  complete: whether that is all.  why: why there is none."""

    rows: list[Row]
    complete: bool
    notes: tuple[str, ...]
    why: str


def alone(lab: BuiltLab, documents: Documents, wanted: Sequence[Format], *, head: bool, progress: bool) -> Alone:
    """The KL of each place in each format, everything else as it is."""
    from tqdm.auto import tqdm

    jobs: dict[int | None, list[tuple[Place, Format, Format]]] = {}
    there = places(lab, head)
    notes: dict[str, None] = {}
    why = "it has no matrix in its layers"
    for asked in wanted:
        # by name, so that rows which its groups don't divide get smaller ones, as quantize does
        plan = planned(lab, formats.as_given(asked), head=formats.as_given(asked) if head else None)
        for place in there:
            if place.name in plan.formats:
                jobs.setdefault(_first(place), []).append((place, plan.formats[place.name], asked))
        for name, reason in plan.kept.items():
            why = reason
            notes[f"not measured in {asked.name}, since {reason}: {name}"] = None
    order = sorted(jobs, key=lambda layer: -1 if layer is None else layer)
    rounds = _rounds(lab, documents)
    total = sum(len(of_layer) for of_layer in jobs.values())
    rows: dict[tuple[str, str], Row] = {}
    finished: set[tuple[str, str]] = set()
    complete = False
    with (
        contextlib.suppress(KeyboardInterrupt),
        tqdm(total=total * len(rounds), desc="sensitivity", unit="matrix", disable=not progress) as bar,
        lab.turn(),
        torch.no_grad(),
    ):
        for last, part in ((number == len(rounds) - 1, part) for number, part in enumerate(rounds)):
            references = [
                Reference(part, number, part.run(lab, number).all_logits) for number in range(len(part.batches))
            ]
            losses = part.losses(lab)
            for layer in order:
                stored = None if layer is None else entering(part, lab, layer, losses)
                for place, format, asked in jobs[layer]:
                    key = (place.name, asked.name)
                    packed = format.pack(place.weight, place.name)
                    weight = packed.unpack()
                    with exchanged([(place, weight)]):
                        sums = _sums(part, lab, references, stored)
                    if key not in rows:
                        rows[key] = _row(place, format, asked, packed, weight, len(documents.ids))
                    rows[key].sums += sums
                    if last:
                        finished.add(key)
                    bar.update()
        complete = True
    ordered = [
        rows[place.name, asked.name] for asked in wanted for place in there if (place.name, asked.name) in finished
    ]
    return Alone(ordered, complete, tuple(notes), why if complete else "it was interrupted before the first was done")


def _first(place: Place) -> int | None:
    """The layer from which on a change shows: the one it is in, all of them for an embedding, none for a head."""
    if place.layer is not None or any(each.part == "embedding" for each in place.members):
        return place.layer
    return HEAD


HEAD = 10**6  # after all layers


def _rounds(lab: BuiltLab, documents: Documents) -> list[Documents]:
    """The documents in parts, of each of which the original's probabilities can be held."""
    vocabulary = int(lab.config.vocab_size)
    found: list[list[int]] = []
    held = 0
    for number, (_, wanted) in enumerate(documents.batches):
        size = int(wanted.sum()) * vocabulary * 8
        if not found or held + size > REFERENCE_BYTES:
            found.append([])
            held = 0
        found[-1].append(number)
        held += size
    return [documents.some(numbers) for numbers in found]


def _sums(documents: Documents, lab: BuiltLab, references: Sequence[Reference], stored: Entering | None) -> np.ndarray:
    found = np.zeros(len(documents.ids))
    with stored or contextlib.nullcontext():
        for number, reference in enumerate(references):
            found += reference.kl(documents.run(lab, number, stored).all_logits)
    return found


def _row(place: Place, format: Format, asked: Format, packed: Packed, weight: torch.Tensor, documents: int) -> Row:
    return Row(
        place,
        format,
        asked,
        formats.as_given(asked),
        packed.size_bytes,
        weight_error(place.weight, weight),
        np.zeros(documents),
    )


# tables ---------------------------------------------------------------------------------------------------------------


def _table(found: Alone, documents: Documents, noise: float, draws: int, seed: int) -> pd.DataFrame:
    import pandas as pd

    weights = documents.drawn(draws, seed)
    tokens, drawn = float(documents.tokens.sum()), weights @ documents.tokens
    rows = []
    for row in found.rows:
        low, high = interval_of(documents, documents.tokens, (weights @ row.sums) / drawn)
        rows.append(
            {
                "name": row.place.name,
                "layer": row.place.layer,
                "matrix": row.place.matrix,
                "format": row.asked.name,
                "kl": row.sums.sum() / tokens,
                "kl_low": low,
                "kl_high": high,
                "noise": noise,
                "weight_error": row.weight_error,
                "bytes": row.size_bytes,
                "saved_bytes": row.place.size_bytes - row.size_bytes,
                "bits_per_weight": 8 * row.size_bytes / row.place.weight.numel(),
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _by_layer(table: pd.DataFrame) -> pd.DataFrame:
    sums = table[table["layer"].notna()].groupby(["format", "layer"], sort=False)["kl"].sum().reset_index()
    sums["rank"] = sums.groupby("format")["kl"].rank(ascending=False, method="min").astype(int)
    sums["z"] = np.nan
    for _, of_format in sums.groupby("format"):
        logs = np.log(of_format["kl"].to_numpy(np.float64) + 1e-300)
        for place, index in enumerate(of_format.index):
            others = np.delete(logs, place)
            if len(others) > 1 and others.std(ddof=1) > 0:
                sums.loc[index, "z"] = (logs[place] - others.mean()) / others.std(ddof=1)
    return sums[["layer", "format", "kl", "rank", "z"]]


def _correlation(table: pd.DataFrame) -> tuple[float, float]:
    from scipy.stats import spearmanr

    if len(table) < 3 or table["kl"].nunique() < 2 or table["weight_error"].nunique() < 2:
        return float("nan"), float("nan")
    found = spearmanr(table["weight_error"], table["kl"])
    return float(found.statistic), float(found.pvalue)
