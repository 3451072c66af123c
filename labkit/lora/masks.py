"""What carries loss, token by token, and the rows that are handed to the trainer: the mask that is shown is the one trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.generation.decode import end_ids
from labkit.lora.labelling import Labeller
from labkit.lora.packing import check_apart, packed_rows, strategy
from labkit.lora.samples import Sample, divided, overlapping, read
from labkit.models.texts import passages
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace.input import rendered
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    import datasets

    from labkit.trace.lab_like import LabLike

IGNORED = -100  # the label of a token that carries no loss, in torch and in transformers
PACKED = 256  # tokens in a packed row, unless told otherwise or a sample is longer
GENERAL = {"prose": 4, "encyclopaedia": 4}  # shipped passages on which forgetting is measured, unless others are given
GENERAL_TOKENS = 96  # of each of them
SHOWN = 3  # problems told at once

Part = Literal["train", "held_out", "general"]
PARTS: tuple[Part, ...] = ("train", "held_out", "general")

__all__ = ["Mask", "Masked", "Prepared", "mask", "prepared"]


@dataclass(frozen=True, repr=False)
class Masked:
    """One sample as the model is trained on it.

    ids, tokens: its n token ids, and the text of each.  learns: n bools, whether the token carries loss.
    turns: where each answer begins and ends, (begin, end), in tokens.  ends: whether each of them has an end token.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    learns: tuple[bool, ...]
    turns: tuple[tuple[int, int], ...]
    ends: bool
    sample: Sample

    @property
    def labels(self) -> list[int]:
        """The id where a token carries loss, otherwise -100."""
        return [id_ if learns else IGNORED for id_, learns in zip(self.ids, self.learns, strict=True)]

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(self.learns)

    @property
    def marked(self) -> str:
        """The text, with what carries loss between ⟦ and ⟧."""
        pieces = []
        for i, token in enumerate(self.tokens):
            was = i > 0 and self.learns[i - 1]
            pieces.append(("⟦" if self.learns[i] and not was else "⟧" if was and not self.learns[i] else "") + token)
        return "".join(pieces) + ("⟧" if self.learns and self.learns[-1] else "")

    def __repr__(self) -> str:
        return f"Masked({len(self.ids)} tokens, {self.trained} of them with loss: {checks.shown(self.marked)})"


@dataclass(frozen=True, eq=False, repr=False)
class Mask(Result):
    """What carries loss in training data; `mask` tells the columns of the table.

    samples: each sample, token by token.  kind: "prompt", "messages" or "text".
    tokens, trained: how many there are, and how many carry loss.
    ending: the end tokens that are learnt, by name.  frame: what the chat template writes before and after a prompt, or None.
    limit: the tokens that a sample may have.
    packing: None or "bfd".  row_tokens: the tokens that a packed row holds.  rows: which samples stand in each packed row.
    problems: why this can't be trained on; () where it can.
    duplicates: how many samples stand in the data before.  model: its name.
    """

    samples: tuple[Masked, ...]
    kind: str
    tokens: int
    trained: int
    ending: tuple[str, ...]
    frame: tuple[str, str] | None
    limit: int | None
    packing: str | None
    row_tokens: int | None
    rows: tuple[tuple[int, ...], ...]
    problems: tuple[str, ...]
    duplicates: int
    model: str

    def check(self, what: str = "Sample") -> None:
        """Raise BadInput where this can't be trained on. what: the samples are called in the sentence."""
        if self.problems:
            more = len(self.problems) - SHOWN
            told = " ".join(problem.replace("Sample", what, 1) for problem in self.problems[:SHOWN])
            raise BadInput(f"{told} And {more} more problems." if more > 0 else told)

    def labelled(self) -> list[dict[str, list[int]]]:
        """Rows of input_ids and labels, one a sample, as TRL's SFTTrainer takes them already tokenized."""
        return [{"input_ids": list(each.ids), "labels": each.labels} for each in self.samples]

    def _title(self) -> str:
        share = self.trained / self.tokens if self.tokens else 0.0
        count = len(self.samples)
        return (
            f"{self.model}: {self.trained:,} of {self.tokens:,} tokens in {count:,} sample{'s' * (count != 1)} carry loss "
            f"({share:.0%})"
        )

    def _remarks(self) -> Sequence[str]:
        found = [f"Not to be trained on: {problem}" for problem in self.problems[:SHOWN]]
        if self.frame is not None:
            found.append(f"The chat template wraps a prompt in {self.frame[0]!r} and {self.frame[1]!r}.")
        elif self.kind == "prompt":
            found.append("Prompts are taken as they are: this model has no chat template.")
        if self.kind == "text":
            found.append("Every token but a text's first, which follows from nothing, carries loss.")
        if self.ending:
            found.append(f"What ends: {checks.listed(map(repr, self.ending))}.")
        elif self.kind == "text":
            found.append("No end token is put behind a text.")
        if self.packing:
            full = self.tokens / max(len(self.rows) * (self.row_tokens or 1), 1)
            found.append(
                f"Packed ({self.packing}) into {len(self.rows):,} rows of {self.row_tokens:,} tokens, {full:.0%} full; no "
                "sample sees another."
            )
        if self.duplicates:
            found.append(f"{self.duplicates:,} samples stand in the data twice.")
        if self.samples:
            found.append(f"The first, with what carries loss between ⟦ and ⟧: {self.samples[0].marked!r}")
        return found


@dataclass(frozen=True)
class Prepared:
    """Data that may be trained on: every refusal has been passed.

    train: what is trained on.  held_out: of the same kind, never trained on; None where there is none.
    general: texts on which forgetting is measured, none of them in the training data; None where it is not.
    """

    train: Mask
    held_out: Mask | None
    general: Mask | None

    def rows(self, part: Part = "train") -> list[dict[str, list[int]]]:
        """Rows of input_ids and labels (-100 where a token carries no loss) of "train", "held_out" or "general"."""
        found: Mask | None = getattr(self, checks.one_of("part", part, PARTS))
        return [] if found is None else found.labelled()

    def dataset(self, part: Part = "train") -> datasets.Dataset:
        """The same rows as a Dataset, which TRL's SFTTrainer takes as already tokenized."""
        import datasets

        features = {name: datasets.List(datasets.Value("int64")) for name in ("input_ids", "labels")}
        return datasets.Dataset.from_list(self.rows(part), features=datasets.Features(features))

    @property
    def settings(self) -> dict[str, object]:
        """The fields of TRL's SFTConfig with which it trains on exactly these rows: nothing cut, samples kept apart."""
        if self.train.packing:
            packed = {"packing": True, "packing_strategy": self.train.packing, "max_length": self.train.row_tokens}
            return {**packed, "eval_packing": False}
        return {"packing": False, "max_length": None}


def mask(
    lab: LabLike,
    data: object,
    *,
    max_tokens: int | None = None,
    packing: bool | str = False,
    columns: Mapping[str, str] | None = None,
    template: Mapping[str, object] | None = None,
) -> Mask:
    """What in training data carries loss: every sample token by token, before anything is trained.

    data, columns: as `read` takes them.
    max_tokens: the most a sample may have (default: the model's context). Longer ones are a problem, since they'd be cut.
    packing: True puts several samples into one row of max_tokens (default: 256, or the longest sample's), as TRL's "bfd"
        does: they keep positions of their own and don't see each other, which is tried with two. "wrapped", which lets them
        see each other, is refused, and so is every packing of a model in which they do.
    template: arguments for the chat template, as `generate` takes them.
    A prompt is wrapped as `generate` wraps it, and its ids are those that `generate` would give the model; the completion's
    follow, with what the template writes at the end of a turn. Where the tokenizer would merge the last of the one with the
    first of the other, they stay apart: a model that answers can't reach back into its prompt. In a conversation every
    turn of the assistant's carries loss, found by what the template adds to the messages before it. A plain text carries loss
    everywhere. The first token of all never does, as nothing comes before it.
    Returns a row for each sample: sample, kind, tokens, trained, ends (whether each answer has a token at which the model
    stops). What could not be trained on stands in `.problems`, and `prepared` refuses it: samples that would be cut, or in
    which no token, every token or no end token carries loss.
    Raises BadInput for data that can't be read, and for messages whose template does not tell what is the assistant's,
    Unavailable for packing where the model does not keep packed samples apart.
    """
    check_lab(lab)
    return _masked(
        lab, read(data, columns=columns), max_tokens=max_tokens, packing=strategy(packing), template=template
    )


def prepared(
    lab: LabLike,
    train: object,
    held_out: object = None,
    *,
    general: object = None,
    max_tokens: int | None = None,
    packing: bool | str = False,
    columns: Mapping[str, str] | None = None,
    template: Mapping[str, object] | None = None,
    seed: int = 0,
) -> Prepared:
    """Training data, what is held out of it and texts on which forgetting is measured; refused where training would go wrong.

    train, columns, max_tokens, packing, template: as in `mask`.
    held_out: data of the same form, or the share of the training data that is held out, drawn by the seed.
    general: texts to measure forgetting on, the first 96 tokens of each; by default shipped passages, four of prose and four
        of the encyclopaedia, that are not in the training data; False for none.
    Raises BadInput for what `Mask.problems` would say, and where held-out items or general texts are in the training data
    (compared without case and spaces).
    """
    check_lab(lab)
    packed = strategy(packing)
    samples = read(train, columns=columns)
    others: list[Sample] | None = None
    if isinstance(held_out, bool) or held_out is None:
        if held_out:
            checks.refuse("held_out", held_out, "data, or a share between 0 and 1")
    elif checks.as_number(held_out) is not None:
        samples, others = divided(samples, checks.fraction("held_out", held_out, zero=False, one=False), seed)
    else:
        others = read(held_out, columns=columns)
        if others[0].kind != samples[0].kind:
            raise BadInput(
                f"The training data is of kind {samples[0].kind!r} and what is held out of kind {others[0].kind!r}; give both in "
                "the same form."
            )
    out = None
    if others is not None:
        _check_apart(samples, others, "held-out item")
        out = _masked(lab, others, max_tokens=max_tokens, template=template)
    limit = lab.context if max_tokens is None else checks.whole("max_tokens", max_tokens, 2, lab.context)
    # each is measured again and again, and its logits take a whole vocabulary a token
    measured = general_texts(lab, samples, general, min(GENERAL_TOKENS, limit or GENERAL_TOKENS))
    # rows of the trainer are as long as the longest of what it measures on too, of which it cuts what is longer
    least = max((len(each.ids) for part in (out, measured) if part is not None for each in part.samples), default=0)
    learnt = _masked(lab, samples, max_tokens=max_tokens, packing=packed, template=template, least=least)
    learnt.check()
    if out is not None:
        out.check("Held-out sample")
    return Prepared(learnt, out, measured)


# a mask ---------------------------------------------------------------------------------------------------------------


def _masked(
    lab: LabLike,
    samples: Sequence[Sample],
    *,
    max_tokens: int | None = None,
    packing: str | None = None,
    template: Mapping[str, object] | None = None,
    least: int = 0,
    cut: int | None = None,
) -> Mask:
    """least: tokens that a packed row holds at least, where max_tokens does not say.

    cut: plain texts are cut to so many tokens and get no end token: they are measured on and not trained.
    """
    import pandas as pd

    limit = lab.context if max_tokens is None else checks.whole("max_tokens", max_tokens, 2, lab.context)
    ends = end_ids(lab.model)
    labeller = Labeller(lab.tokenizer, ends, dict(template or {}))
    found, problems = [], []
    for i, sample in enumerate(samples):
        try:
            labelled = labeller.label(sample) if cut is None else labeller.text(sample.text, ended=False)
        except Unavailable:  # of all samples alike
            raise
        except BadInput as error:
            raise BadInput(f"Sample {i} can't be trained on: {error}") from error
        ids = tuple(labelled.ids[:cut])
        everything = bool(labelled.turns) and labelled.turns[0][0] == 0  # the first answer, so there is no prompt
        turns = tuple((max(begin, 1), min(end, len(ids))) for begin, end in labelled.turns)
        learns = [False] * len(ids)
        for begin, end in turns:
            learns[begin:end] = [True] * (end - begin)
        ended = bool(turns) and all(set(ends) & set(ids[begin:end]) for begin, end in turns)
        tokens = tuple(token_strings(lab.tokenizer, ids))
        found.append(Masked(ids, tokens, tuple(learns), turns, ended, sample))
        if cut is None and (problem := _problem(found[-1], limit, everything)):
            problems.append(f"Sample {i} {problem}")
    table = pd.DataFrame(
        {
            "sample": range(len(found)),
            "kind": [each.sample.kind for each in found],
            "tokens": [len(each.ids) for each in found],
            "trained": [each.trained for each in found],
            "ends": [each.ends for each in found],
        }
    )
    row_tokens: int | None = None
    rows: tuple[tuple[int, ...], ...] = ()
    if packing is not None:
        check_apart(lab)
        longest = int(table["tokens"].max())
        row_tokens = limit if max_tokens is not None else max(longest, least, min(PACKED, limit or PACKED))
        rows = packed_rows([len(each.ids) for each in found], row_tokens or longest)
    learnt_ends = {i for each in found for i, learns in zip(each.ids, each.learns, strict=True) if learns} & set(ends)
    return Mask(
        table,
        samples=tuple(found),
        kind=samples[0].kind if samples else "text",
        tokens=int(table["tokens"].sum()),
        trained=int(table["trained"].sum()),
        ending=tuple(token_strings(lab.tokenizer, sorted(learnt_ends))),
        frame=_frame(lab, samples, template),
        limit=limit,
        packing=packing,
        row_tokens=row_tokens,
        rows=rows,
        problems=tuple(problems),
        duplicates=sum(count - 1 for count in Counter(each.ids for each in found).values()),
        model=lab.name,
    )


def _problem(masked: Masked, limit: int | None, everything: bool) -> str | None:
    """Why a sample can't be trained on, as a sentence's end; None where it can. everything: it is learnt from its first token."""
    count, turns = len(masked.ids), masked.turns
    if limit is not None and count > limit:
        how = "split it" if masked.sample.kind == "text" else "shorten it"
        return f"has {count:,} tokens and would be cut at {limit:,}; {how}, leave it out, or give a larger max_tokens."
    if masked.sample.kind == "text":
        return None if masked.trained else "has a single token, so nothing in it carries loss; leave it out."
    if not masked.trained:
        return "carries no loss at all, since no message in it is the assistant's; give an answer, or leave it out."
    if everything and masked.trained >= count - 1:
        return "carries loss everywhere, prompt included; give the prompt apart from its completion."
    if not masked.ends:
        which = "its answer has" if len(turns) == 1 else "one of its answers has"
        return (
            f"teaches the model no end: {which} none of the tokens at which it stops; let the chat template write one at the "
            "end of a turn, or set lab.model.generation_config.eos_token_id to the one it writes."
        )
    return None


def _frame(lab: LabLike, samples: Sequence[Sample], template: Mapping[str, object] | None) -> tuple[str, str] | None:
    """What the chat template writes before and after a prompt."""
    if not samples or samples[0].kind == "text" or not getattr(lab.tokenizer, "chat_template", None):
        return None
    probe = "0f1e2d3c"
    try:
        whole = rendered(lab.tokenizer, [{"role": "user", "content": probe}], answer=True, template=template)
    except (BadInput, Unavailable):  # a template that insists on more than a prompt
        return None
    before, found, after = whole.partition(probe)
    return (before, after) if found else None


# general texts --------------------------------------------------------------------------------------------------------


def general_texts(lab: LabLike, train: Sequence[Sample], given: object, max_tokens: int | None = None) -> Mask | None:
    """The general texts of `prepared`: those given, or shipped passages that are not in the training data; None for False."""
    if given is False:
        return None
    if given is not None:
        texts = [_as_text(sample) for sample in read(given)]
        _check_apart(train, texts, "general text")
        return _masked(lab, texts, cut=max_tokens or lab.context)
    shipped: list[Sample] = []
    for kind, count in GENERAL.items():
        there = [Sample("text", text=passage.text) for passage in passages(kind)]
        taken = set(overlapping(train, there))
        apart = [sample for i, sample in enumerate(there) if i not in taken]
        shipped += apart[:count]
    if not shipped:
        raise BadInput(
            "All the shipped texts on which forgetting would be measured are in the training data; give others: general=[...], "
            "or general=False."
        )
    return _masked(lab, shipped, cut=min(GENERAL_TOKENS, max_tokens or lab.context or GENERAL_TOKENS))


def _as_text(sample: Sample) -> Sample:
    if sample.kind != "text":
        raise BadInput(
            f"Forgetting is measured on plain texts, and general= is of kind {sample.kind!r}; give a list of texts."
        )
    return sample


def _check_apart(train: Sequence[Sample], others: Sequence[Sample], what: str) -> None:
    if found := overlapping(train, others):
        more = f" and {len(found) - 1} more are" if len(found) > 1 else " is"
        raise BadInput(
            f"{what.capitalize()} {found[0]}{more} in the training data, so nothing measured on it would hold: "
            f"{checks.shown(others[found[0]].question[:80])}; take it out of one of the two."
        )
