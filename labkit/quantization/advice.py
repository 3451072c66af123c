"""Which format for my model on my machine: exact bytes, what the bits cost as far as it was measured, and what to expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.models.memory import Countable, Memory, human_bytes, memory, model_memory, named_config, skeleton
from labkit.models.texts import texts as shipped_texts
from labkit.quantization import formats
from labkit.quantization.counting import packed_bytes, shapes_of
from labkit.quantization.fingerprints import on_grid
from labkit.quantization.formats import as_given, label
from labkit.quantization.grids import Format
from labkit.quantization.k_quants import SUPER_BLOCK
from labkit.quantization.quantizing import quantize
from labkit.quantization.text_damage import damage
from labkit.quantization.weights import matrices
from labkit.results import Result
from labkit.trace.building import refuse_odd_weights

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import BuiltLab

HEAD = "q8_0"  # a format for embedding and head that is told of where they stay as they are
FORMATS = ("int8", "q6_k", "int6", "q5_0", "int4", "nf4", "q4_0", "q4_k", "int3", "int2")
CONTEXT, TOKENS = 4_096, 4_000
CHARACTERS = 350  # of each passage, so that so few tokens are of six documents of each kind
MEASURED = Path(__file__).with_name("measured.json")
RECORD = "labkit-dense"  # whose record stands in for a model that is not at hand
CHANGED = 0.2  # of the tokens; a format with other first choices for more of them is advised against


@dataclass(frozen=True, eq=False, repr=False)
class Advice(Result):
    """Which format fits, and what it costs; `advise` tells the columns of the table.

    best: the format that fits and loses least, as `quantize` takes it (its name, or the Format where a name does not say it
        all); None where none fits, and "" where the model fits as it is.  sentences: the advice in words, with its numbers.
    budget_bytes, tokens, batch: as asked.  on_grid: whether the model's weights lie on a grid of 4 bits already; None where
        they are not at hand.  model: its name.
    """

    best: str | Format | None
    sentences: tuple[str, ...]
    budget_bytes: int
    tokens: int
    batch: int
    on_grid: bool | None
    model: str

    def _title(self) -> str:
        return f"{self.model} in {human_bytes(self.budget_bytes)} with {self.tokens:,} tokens"

    def _remarks(self) -> Sequence[str]:
        return self.sentences


def advise(
    lab_or_name: BuiltLab | Countable,
    *,
    budget_bytes: int,
    tokens: int = CONTEXT,
    batch: int = 1,
    formats: Sequence[str | Format] = FORMATS,
    head: str | Format | None = None,
    texts: object = None,
    measured_tokens: int = TOKENS,
    seed: int = 0,
    progress: bool = True,
) -> Advice:
    """Which format for a model within so many bytes, with the evidence.

    lab_or_name: a Lab, whose damage in each format is then measured here; or what `lk.memory` takes (a published name, a
        configuration), whose bytes are counted exactly and whose damage is read off the record of a model measured by
        labkit, and said to be.
    budget_bytes: for weights and KV cache together; activations and the program itself come on top.
    tokens, batch: the KV cache is that of `batch` sequences of so many tokens, in the model's precision.
    formats: to choose from, by name or as Formats; evidence is of the same grid, groups and symmetry.
    head: a format for the embedding and the output head, which stay as they are without it; the record has them so, and
        tells nothing of models with another head.
    texts, measured_tokens, seed: what a lab's damage is measured on, as in `damage`; when None, the beginnings of
        the passages that come with labkit.
    Returns a row for each format, and one for the model as it is: format, bits_per_weight (of the matrices of the layers),
    weight_bytes, cache_bytes, total_bytes, fits, kl,
    kl_low, kl_high, top1 (NaN where nothing was measured), evidence.
    Raises ModelNotFound and BadInput as `lk.memory`, Unavailable for a lab that is quantized already.
    """
    budget, tokens = checks.whole("budget_bytes", budget_bytes, 1), checks.whole("tokens", tokens, 1)
    checks.flag("progress", progress)
    batch, seed = checks.whole("batch", batch, 1), checks.seed(seed)
    wanted = _wanted(formats)
    lab: BuiltLab | None = None
    if hasattr(lab_or_name, "anatomy"):
        lab = lab_or_name  # type: ignore[assignment]
    if lab is not None:
        refuse_odd_weights(lab, "advised on")
        counted = model_memory(lab.model, tokens=tokens, batch=batch)
        there = list(matrices(lab).values())
        shapes = [each.shape for each in there if each.part == "layer"]
        ends = {id(each.module._parameters[each.parameter]): each.shape for each in there if each.part != "layer"}
        outer = list(ends.values())
        name, dtype, itemsize = lab.name, str(lab.dtype).removeprefix("torch."), lab.dtype.itemsize
        evidence = _evidence(lab, wanted, head, texts, measured_tokens, seed, progress)
        grid: bool | None = on_grid(lab).on_grid if any(s[-1] >= 32 for s in shapes) else None
    else:
        counted = memory(lab_or_name, tokens=tokens, batch=batch)  # type: ignore[arg-type]
        model = skeleton(named_config(lab_or_name)[1])  # type: ignore[arg-type]
        all_shapes = list(shapes_of(model))
        shapes = [shape for shape, which in all_shapes if which in ("layer", "experts")]
        outer = [shape for shape, which in all_shapes if which in ("head", "tied", "embedding")]
        name, dtype, itemsize = counted.name, counted.dtype, 2
        evidence, grid = _record() if head is None else {}, None
    table = _table(counted, shapes, outer, wanted, head, evidence, dtype, itemsize, budget)
    best = _best(table, dtype)
    by_label: dict[str, str | Format] = {label(each): as_given(each) for each in wanted}
    return Advice(
        table,
        best=by_label.get(best, best) if best is not None else None,
        sentences=(
            *_sentences(table, counted, best, budget, dtype, lab is not None, grid),
            *_of_the_head(counted, outer, head, itemsize, dtype),
        ),
        budget_bytes=budget,
        tokens=tokens,
        batch=batch,
        on_grid=grid,
        model=name,
    )


def _wanted(given: Sequence[str | Format]) -> list[Format]:
    checks.series("formats", given, "a list of formats, such as ('int8', 'int4')")
    if not given:
        checks.refuse("formats", given, "at least one format")
    found = [formats.of(each) for each in given]
    labels = [label(each) for each in found]
    if len(set(labels)) < len(labels):
        checks.refuse("formats", labels, "each format once")
    return found


# evidence -------------------------------------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """What a format was measured to cost. kl, low, high: nats a token.  on: which model it was measured on."""

    kl: float
    low: float
    high: float
    top1: float
    on: str


def _evidence(
    lab: BuiltLab,
    wanted: Sequence[Format],
    head: str | Format | None,
    texts: object,
    tokens: int,
    seed: int,
    progress: bool,
) -> dict[Format, Evidence]:
    smalls = {}
    for format in wanted:
        try:
            smalls[format] = quantize(lab, as_given(format), head=head, progress=False)
        except BadInput:  # rows that it does not divide: it has no row in the table either
            continue
    given = shipped_texts(characters=CHARACTERS) if texts is None else texts
    found = damage(lab, list(smalls.values()), given, tokens=tokens, seed=seed, progress=progress) if smalls else []
    return {
        format: Evidence(one.kl, *one.kl_interval, one.top1, f"measured on this model, {one.tokens:,} tokens")
        for format, one in zip(smalls, found, strict=True)
    }


@cache
def _record() -> dict[Format, Evidence]:
    """What was measured on the model that labkit comes with, by the whole format: grid, groups and symmetry."""
    return {
        formats.of(row["format"], group_size=row["group_size"], symmetric=row["symmetric"]): Evidence(
            row["kl"], row["kl_low"], row["kl_high"], row["top1"], f"record of {row['model']}, {row['tokens']:,} tokens"
        )
        for row in json.loads(MEASURED.read_text("utf-8"))
        if row["model"] == RECORD
    }


@cache
def much() -> float:
    """The KL, nats a token, at which every fifth token has another first choice, by the record: between the two formats on
    either side of it, with the share taken to be linear in the logarithm of the KL."""
    rows = sorted(_record().values())
    above = next(i for i, row in enumerate(rows) if row.top1 < 1 - CHANGED)
    less, more = rows[above - 1], rows[above]
    share = (less.top1 - (1 - CHANGED)) / (less.top1 - more.top1)
    return float(less.kl * (more.kl / less.kl) ** share)


# the table and the words ----------------------------------------------------------------------------------------------


def _table(
    counted: Memory,
    shapes: Sequence[torch.Size],
    outer: Sequence[torch.Size],
    wanted: Sequence[Format],
    head: str | Format | None,
    evidence: Mapping[Format, Evidence],
    dtype: str,
    itemsize: int,
    budget: int,
) -> pd.DataFrame:
    import pandas as pd

    weights = sum(shape.numel() for shape in shapes)
    rest = counted.weight_bytes - (weights + sum(shape.numel() for shape in outer)) * itemsize
    rest += sum(_bytes(head, shape, itemsize) for shape in outer)
    cache_bytes = counted.kv_cache_bytes or 0
    unknown = Evidence(float("nan"), float("nan"), float("nan"), float("nan"), "not measured")
    plain = Evidence(0.0, 0.0, 0.0, 1.0, "the model as it is")
    sizes: dict[str, tuple[float, int, Evidence]] = {dtype: (8.0 * itemsize, counted.weight_bytes, plain)}
    for format in wanted:
        given = as_given(format)
        if not any(isinstance(formats.fitted(given, shape), Format) for shape in shapes):
            continue
        packed = sum(_bytes(given, shape, itemsize) for shape in shapes)
        sizes[label(format)] = 8 * packed / weights, rest + packed, evidence.get(format, unknown)
    rows = []
    for name, (bits, size, found) in sizes.items():
        rows.append(
            {
                "format": name,
                "bits_per_weight": bits,
                "weight_bytes": size,
                "cache_bytes": cache_bytes,
                "total_bytes": size + cache_bytes,
                "fits": size + cache_bytes <= budget,
                "kl": found.kl,
                "kl_low": found.low,
                "kl_high": found.high,
                "top1": found.top1,
                "evidence": found.on,
            }
        )
    return pd.DataFrame(rows).sort_values("total_bytes", ascending=False, ignore_index=True)


def _bytes(given: str | Format | None, shape: torch.Size, itemsize: int) -> int:
    """Of a matrix in a format; as it is where it can't have it, or none was asked for."""
    found = None if given is None else formats.fitted(given, shape)
    return packed_bytes(found, shape) if isinstance(found, Format) else shape.numel() * itemsize


def _best(table: pd.DataFrame, dtype: str) -> str | None:
    fits = table[table["fits"]]
    if not len(fits):
        return None
    if (fits["format"] == dtype).any():
        return ""
    # the least damage; of those that nothing is known of, the most bits
    order = fits.sort_values(["kl", "bits_per_weight"], ascending=[True, False], na_position="last")
    return str(order["format"].iloc[0])


def _sentences(
    table: pd.DataFrame,
    counted: Memory,
    best: str | None,
    budget: int,
    dtype: str,
    measured: bool,
    grid: bool | None,
) -> list[str]:
    by_name = table.set_index("format")
    cache_bytes = human_bytes(counted.kv_cache_bytes or 0)
    room = f"{counted.tokens:,} tokens of KV cache in {counted.cache_dtype} ({cache_bytes})"
    said = []
    if best is None:
        least = table.iloc[-1]
        said.append(
            f"Nothing fits {human_bytes(budget)}: the smallest, {least['format']}, takes {human_bytes(least['weight_bytes'])}, "
            f"with {room} {human_bytes(least['total_bytes'])}; take fewer tokens, a smaller model, or a budget of "
            f"{int(least['total_bytes']):,} bytes."
        )
    else:
        row = by_name.loc[best or dtype]
        left = human_bytes(budget - int(row["total_bytes"]))
        what = f"It fits as it is, in {dtype}" if best == "" else f"Take {best}"
        said.append(
            f"{what}: {human_bytes(row['weight_bytes'])} of weights and {room} leave {left} of {human_bytes(budget)}."
        )
        if best and row["kl"] == row["kl"]:
            said.append(
                f"{best} at {row['bits_per_weight']:.2f} bits a weight costs a KL of {row['kl']:.3g} nats a token and changes "
                f"the first choice for {1 - row['top1']:.1%} of the tokens ({row['evidence']})."
            )
            if row["kl"] > much():
                said.append(
                    f"That is more than {much():.2g} nats, where every fifth token has another first choice ({RECORD}): "
                    "it writes otherwise than the original; take a smaller one in more bits, or fewer tokens."
                )
        elif best:
            said.append(f"What {best} costs was not measured on any model here.")
    unmeasured = [name for name in by_name.index if by_name.loc[name, "evidence"] == "not measured"]
    if unmeasured:
        why = (
            f": K-quants (q4_k, q6_k) need rows of a multiple of {SUPER_BLOCK}, which of {RECORD} one matrix in seven has, so "
            "that no record of theirs would tell of a whole model"
            if not measured and any(name.endswith("_k") for name in unmeasured)
            else ""
        )
        said.append(f"Not measured, and taken last for that: {checks.listed(unmeasured)}{why}.")
    if not measured:
        said.append(
            f"The costs are those of {RECORD}, a model of 3 million parameters, and not of {counted.name}: larger models lose "
            "less at the same bits, and those trained on more tokens lose more (2411.04330, 2411.17691). Load it and ask again "
            "with the lab for its own."
        )
    if grid:
        said.append(
            "Its weights lie on a grid of 4 bits already (on_grid), so these costs tell of that grid and not of the formats: "
            "one that fits the grid costs nothing, others more than they usually do."
        )
    if counted.kv_cache_bytes and counted.kv_cache_bytes > 0.2 * table["total_bytes"].min():
        said.append(
            f"The KV cache is {counted.kv_cache_bytes / table['total_bytes'].min():.0%} of the smallest total; it can be "
            f"kept in fewer bits than {counted.cache_dtype} (lk.quantization.cache_damage measures what that costs)."
        )
    said.append(
        "Fewer bytes are faster only where the engine computes from them: each token reads all weights once, so the memory's "
        "bandwidth over weight_bytes bounds the tokens a second; labkit's own packed layers unpack at each use and are slower "
        "than the original."
    )
    if counted.kv_cache_bytes is None:
        said.append("The size of the KV cache is not known for this model and is counted as nothing.")
    return said


def _of_the_head(
    counted: Memory, outer: Sequence[torch.Size], head: str | Format | None, itemsize: int, dtype: str
) -> list[str]:
    """What the embedding and the output head take, which no format of the layers makes smaller."""
    if not outer:
        return []
    plain, size = (sum(_bytes(given, shape, itemsize) for shape in outer) for given in (None, head or HEAD))
    if head is not None:
        return [
            f"Embedding and head are in {label(formats.of(head))}: {human_bytes(size)}, and {human_bytes(plain)} in "
            f"{dtype}."
        ]
    return [
        f"Embedding and head stay in {dtype}: {human_bytes(plain)}, {plain / counted.weight_bytes:.0%} of the original's bytes; "
        f"head={HEAD!r} would take {human_bytes(size)}."
    ]
