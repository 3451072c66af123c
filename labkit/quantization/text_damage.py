"""What a quantized model has lost, on text: perplexity, KL divergence to the original, agreement, and where texts diverge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.models.texts import texts as shipped_texts
from labkit.quantization.comparing import TokenDamage, check_same_tokens, compare, divergence, logits_of
from labkit.quantization.held_out import refuse_seen
from labkit.quantization.intervals import Interval, few_remarks, interval_of, noise_remark, with_interval
from labkit.results import Result
from labkit.trace import running
from labkit.trace.documents import Documents

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

TOKENS, DRAWS = 20_000, 1_000
PROMPT, NEW_TOKENS = 16, 64  # of the greedy continuations that are followed until they diverge
NOISE_DOCUMENTS, NOISE_TOKENS = 4, 64  # on which the noise of running again is measured
LONGER = 7  # tokens by which each of them is longer than the one before when they are run again
FAR = 99.9  # percent of tokens, of the KL that only one in a thousand exceeds
ALL = "all"


@dataclass(frozen=True, eq=False, repr=False)
class Damage(Result):
    """What a quantized model has lost beside the original, on the same tokens; `damage` tells the columns of the table.

    kl: KL(original || model), nats, the mean of all counted tokens; kl_interval: 95 %.  kl_999: what one token in a thousand
        exceeds.  noise: the mean KL of the original with itself, each text run alone and then longer, among others and with
        padding, which changes nothing but the order of sums: the null.
    top1: the share of tokens for which both find the same one most probable; top1_interval.
    perplexity, original_perplexity; perplexity_error: the standard error of the first; perplexity_interval.
    loss_change: nats a token, model − original, with loss_interval: narrower than the perplexities', since both models read
        the same text.
    right_change, right_rms: mean and root mean square of the change of the right token's probability.
    diverged_at: for each prompt that was continued greedily, after how many tokens the two texts differ (new_tokens where
        they did not); diverged: their median, None where nothing was continued.
    All intervals draw documents again, within their kinds; NaN where a kind has fewer than 5 documents.
    """

    kl: float
    kl_interval: Interval
    kl_999: float
    top1: float
    top1_interval: Interval
    perplexity: float
    perplexity_error: float
    perplexity_interval: Interval
    original_perplexity: float
    loss_change: float
    loss_interval: Interval
    right_change: float
    right_rms: float
    noise: float
    diverged: float | None
    diverged_at: tuple[int, ...]
    new_tokens: int
    model: str
    original: str
    tokens: int
    documents: int
    draws: int
    seed: int
    notes: tuple[str, ...]

    def _title(self) -> str:
        error = f" ± {self.perplexity_error:.2f}" if np.isfinite(self.perplexity_error) else ""
        return (
            f"{self.model} beside {self.original}: KL {with_interval(self.kl, *self.kl_interval)} nats a token, perplexity "
            f"{self.perplexity:.2f}{error} from {self.original_perplexity:.2f}, same first choice {self.top1:.1%}"
        )

    def _remarks(self) -> Sequence[str]:
        lines = [noise_remark(self.noise)]
        if self.diverged is not None:
            lines.append(
                f"{len(self.diverged_at)} greedy texts of {self.new_tokens} tokens diverge after {self.diverged:g} (median); "
                f"{sum(at >= self.new_tokens for at in self.diverged_at)} do not diverge"
            )
        return (*lines, *self.notes)


@overload
def damage(
    original: LabLike,
    small: LabLike,
    texts: object = ...,
    *,
    tokens: int | None = ...,
    prompts: int = ...,
    new_tokens: int = ...,
    draws: int = ...,
    seed: int = ...,
    progress: bool = ...,
) -> Damage: ...
@overload
def damage(
    original: LabLike,
    small: Sequence[LabLike],
    texts: object = ...,
    *,
    tokens: int | None = ...,
    prompts: int = ...,
    new_tokens: int = ...,
    draws: int = ...,
    seed: int = ...,
    progress: bool = ...,
) -> list[Damage]: ...
def damage(
    original: LabLike,
    small: LabLike | Sequence[LabLike],
    texts: object = None,
    *,
    tokens: int | None = TOKENS,
    prompts: int = 0,
    new_tokens: int = NEW_TOKENS,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> Damage | list[Damage]:
    """How far a quantized model is from the original, as the field measures it. Nothing but sums and a few numbers a token
    is kept, whatever the length of the texts.

    small: the quantized lab; or a list of them, which gives a list: the original then runs once for all of them.
    texts: kind -> documents, or a list of documents; the texts that come with labkit when None (`lk.quantization.texts`),
        which labkit's own models were not trained on.
    tokens: stop taking documents, one of each kind in turn, before more than so many tokens are counted; None takes all.
    prompts: continue the beginnings (16 tokens at most) of so many documents greedily, by `new_tokens`, and see when the
        two texts diverge.
    The table has a row for each kind and one for all tokens together: tokens, documents, original_perplexity, perplexity
    (with _low and _high, 95 %), loss_change (nats a token; with _low and _high), kl (nats a token; with _low and _high),
    kl_999, top1 (with _low and _high), right_change, right_rms: as in the fields. Neither the first token of a document nor
    special ones are counted.
    KL and the rest are computed in float64 from the logits as the models give them. An unquantized copy has exactly 0.
    The default model's weights lie on a 4-bit grid already (`on_grid`), so what 4 bits cost is not seen on it: measure on
    "labkit-dense", "labkit-moe", or a model in full precision.
    Raises BadInput for labs of different vocabularies, texts that can't be used, and texts that overlap with those a lab was
    calibrated on or its mix of formats was found on: labs of `quantize` and `mix` keep hashes of them.
    """
    from tqdm.auto import tqdm

    checks.flag("progress", progress)
    smalls = list(small) if isinstance(small, Sequence) else [small]
    if not smalls:
        raise BadInput("There is no model to compare with the original: the list is empty; give at least one lab.")
    for lab in (original, *smalls):
        if not hasattr(lab, "anatomy"):
            raise BadInput(
                f"damage takes Labs, from lk.load() or lk.quantization.quantize(), not a {type(lab).__name__}."
            )
        check_same_tokens(original, lab)
    most = None if tokens is None else checks.whole("tokens", tokens, 1)
    prompts, draws, seed = checks.whole("prompts", prompts, 0), checks.whole("draws", draws, 1), checks.seed(seed)
    new_tokens = checks.whole("new_tokens", new_tokens, 1)
    documents = Documents(original, shipped_texts() if texts is None else texts, most=most)
    refuse_seen((original, *smalls), documents)
    starts = _prompts(documents, prompts, new_tokens, original.context)
    passes = len(documents.batches) * (1 + len(smalls))
    with tqdm(total=passes, desc="damage", unit="pass", disable=not progress) as bar:
        found = compare(
            documents, logits_of(documents, original), [logits_of(documents, lab) for lab in smalls], bar.update
        )
    noise = rerun_noise(documents, original)
    ours = _greedy(original, starts, new_tokens)
    results = [
        _result(
            documents,
            original,
            lab,
            one,
            noise,
            _diverged(ours, _greedy(lab, starts, new_tokens)),
            new_tokens,
            draws,
            seed,
        )
        for lab, one in zip(smalls, found, strict=True)
    ]
    return results if isinstance(small, Sequence) else results[0]


def rerun_noise(documents: Documents, lab: LabLike) -> float:
    """The mean KL, nats a token, of a model with itself: the beginnings of some documents, each alone, and again otherwise.

    The second time each has more tokens after it, of another number each, so that they are padded to one width where the
    model takes lists, and every product has another shape. No later token changes what is predicted before it.
    """
    rows = [ids[:NOISE_TOKENS].tolist() for ids in documents.ids[:NOISE_DOCUMENTS]]
    room = running.room(lab.model)
    longer = [
        (ids * (1 + (number + 1) * LONGER))[: len(ids) + (number + 1) * LONGER][:room]
        for number, ids in enumerate(rows)
    ]
    found = []
    with lab.turn():
        for group in running.groups(lab.model, [len(ids) for ids in longer]):
            logits = running.forward(lab.model, [longer[i] for i in reversed(group)]).all_logits
            for i, again in zip(reversed(group), logits, strict=True):
                (alone,) = running.forward(lab.model, [rows[i]]).all_logits
                found.append(divergence(alone, again[: len(rows[i])]))
    return float(np.concatenate(found).mean())


# texts that diverge ------------------------------------------------------------------------------------------------------


def _prompts(documents: Documents, count: int, new_tokens: int, context: int | None) -> list[list[int]]:
    if not count:
        return []
    if context is not None and PROMPT + new_tokens > context:
        raise BadInput(
            f"new_tokens={new_tokens} and a prompt of {PROMPT} tokens are more than the context of {context:,}; give fewer."
        )
    there = [ids[:PROMPT].tolist() for ids in documents.ids]
    if len(there) < count:
        raise BadInput(
            f"prompts={count} can't be taken: there are {len(there)} documents to begin; give fewer prompts."
        )
    return [there[i] for i in np.linspace(0, len(there) - 1, count).round().astype(int)]


def _greedy(lab: LabLike, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    found: list[list[int]] = [[] for _ in prompts]
    with lab.turn():
        for group in running.generation_groups(lab.model, [len(ids) for ids in prompts]):
            config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, use_cache=True)
            made = running.generate(
                lab.model,
                [prompts[i] for i in group],
                config,
                processors=lambda _padding: LogitsProcessorList(),
                criteria=StoppingCriteriaList(),
            )
            for i, row in zip(group, made.tolist(), strict=True):
                found[i] = row
    return found


def _diverged(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> tuple[int, ...]:
    """After how many tokens each two texts differ."""
    return tuple(
        next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
        for one, other in zip(ours, theirs, strict=True)
    )


# the result -----------------------------------------------------------------------------------------------------------


def _result(
    documents: Documents,
    original: LabLike,
    small: LabLike,
    found: TokenDamage,
    noise: float,
    diverged: tuple[int, ...],
    new_tokens: int,
    draws: int,
    seed: int,
) -> Damage:
    import pandas as pd

    rows = damage_rows(documents, found, draws, seed)
    whole = rows[-1]

    def ends(name: str) -> Interval:
        return float(whole[f"{name}_low"]), float(whole[f"{name}_high"])

    errors = whole.pop("perplexity_error")
    for row in rows[:-1]:
        del row["perplexity_error"]
    return Damage(
        pd.DataFrame(rows),
        kl=float(whole["kl"]),
        kl_interval=ends("kl"),
        kl_999=float(whole["kl_999"]),
        top1=float(whole["top1"]),
        top1_interval=ends("top1"),
        perplexity=float(whole["perplexity"]),
        perplexity_error=float(errors),
        perplexity_interval=ends("perplexity"),
        original_perplexity=float(whole["original_perplexity"]),
        loss_change=float(whole["loss_change"]),
        loss_interval=ends("loss_change"),
        right_change=float(whole["right_change"]),
        right_rms=float(whole["right_rms"]),
        noise=noise,
        diverged=float(np.median(diverged)) if diverged else None,
        diverged_at=diverged,
        new_tokens=new_tokens,
        model=small.name,
        original=original.name,
        tokens=int(documents.tokens.sum()),
        documents=len(documents.ids),
        draws=draws,
        seed=seed,
        notes=(*documents.cut, *few_remarks(documents)),
    )


def damage_rows(documents: Documents, found: TokenDamage, draws: int, seed: int) -> list[dict[str, float | int | str]]:
    """A row for each kind that has tokens, and one for all, as in the table of `Damage`; perplexity_error beside."""
    count = len(documents.ids)
    sums = {
        "tokens": np.bincount(found.document, minlength=count).astype(np.float64),
        **{
            name: np.bincount(found.document, weights=values, minlength=count)
            for name, values in (
                ("original", found.original_loss),
                ("loss", found.loss),
                ("kl", found.kl),
                ("top1", found.same.astype(np.float64)),
            )
        },
    }
    weights = documents.drawn(draws, seed)
    kind_of_token = documents.kind_of[found.document]
    rows = []
    for number, kind in enumerate((*documents.kinds, ALL)):
        last = number == len(documents.kinds)
        members = np.arange(count) if last else np.flatnonzero(documents.kind_of == number)
        chosen = np.ones(len(kind_of_token), bool) if last else kind_of_token == number
        if chosen.any():
            of_kind = {name: np.where(np.isin(np.arange(count), members), of, 0.0) for name, of in sums.items()}
            rows.append(_row(kind, documents, found, chosen, of_kind, weights))
    return rows


def _row(
    kind: str,
    documents: Documents,
    found: TokenDamage,
    chosen: np.ndarray,
    sums: dict[str, np.ndarray],
    weights: np.ndarray,
) -> dict[str, float | int | str]:
    """sums: (documents,) each, 0 for those of other kinds."""
    counted = sums["tokens"]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = {name: (weights @ values) / (weights @ counted) for name, values in sums.items()}
    tokens = float(counted.sum())
    mean = {name: float(values.sum()) / tokens for name, values in sums.items()}
    perplexities = np.exp(drawn["loss"])
    right = found.right[chosen]
    row: dict[str, float | int | str] = {"kind": kind, "tokens": int(tokens), "documents": int((counted > 0).sum())}
    row["original_perplexity"] = float(np.exp(mean["original"]))
    for name, value, samples in (
        ("perplexity", float(np.exp(mean["loss"])), perplexities),
        ("loss_change", mean["loss"] - mean["original"], drawn["loss"] - drawn["original"]),
        ("kl", mean["kl"], drawn["kl"]),
        ("top1", mean["top1"], drawn["top1"]),
    ):
        row[name] = value
        row[f"{name}_low"], row[f"{name}_high"] = interval_of(documents, counted, samples)
    row["kl_999"] = float(np.percentile(found.kl[chosen], FAR))
    row["right_change"], row["right_rms"] = float(right.mean()), float(np.sqrt((right**2).mean()))
    row["perplexity_error"] = float("nan") if np.isnan(row["perplexity_low"]) else float(np.nanstd(perplexities))
    return row
