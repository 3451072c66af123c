"""Speculative decoding: draft several tokens, test them in one pass, keep those the model would have written itself.

transformers' assisted decoding calls processors for tokens that are then thrown away and stopping criteria once for
several, so that nothing could be recorded by them. Here the processors and the recorder of plain decoding are called for the
tokens that are kept, each once and in their order, with the logits of the pass that tested them.

A token drawn from q is accepted with probability min(1, p / q), p being what plain sampling draws from; the first that is
not is replaced by one drawn from the residual max(0, p − q), and after a draft that was accepted whole one is drawn from p.
The tokens are then distributed as p, whatever q is (Leviathan et al. 2023, theorem 1; Chen et al. 2023). A token that was
looked up or comes of another tokenizer was not drawn: its q is 1 at itself, so that it is accepted with probability p.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import torch

from labkit.errors import BadInput, Unavailable
from labkit.generation.loop import begun, doubled
from labkit.generation.speculation import LEAST_MATCH, LOOK_UP, Draft, Round
from labkit.models.tokens import REPLACEMENT
from labkit.trace import running
from labkit.trace.edits import is_edited
from labkit.trace.turns import Turns

if TYPE_CHECKING:
    from torch import nn
    from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

    from labkit.trace.anatomy import Anatomy

# (1, tokens) and (1, vocabulary) to the scores a token is drawn from, of the same shape
Filters = Callable[[torch.LongTensor, torch.FloatTensor], torch.Tensor]


@dataclass
class Proposal:
    """Drafted tokens. chances: for each the distribution it was drawn from, (vocabulary,) float64; None where it was not."""

    ids: list[int] = field(default_factory=list)
    chances: list[torch.Tensor | None] = field(default_factory=list)


class Drafter(Protocol):
    """Drafts at most so many tokens after a text; none where it has nothing to say."""

    def __call__(self, ids: Sequence[int], most: int, /) -> Proposal: ...


def speculate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    draft: Draft,
    *,
    room: int,
    seed: int | None,
    processors: Callable[[list[int]], LogitsProcessorList],
    filters: Filters,
    recorded: Callable[[torch.LongTensor], bool],
    on_round: Callable[[Round], None],
    ends: Sequence[int],
) -> None:
    """Write at most `room` tokens after a prompt.

    seed: of what is drawn; None is greedy.  processors: of plain decoding, made from how much padding stands before the
    text; they are given the logits of each kept token once.  filters: the same for the drafts of a small model, recording
    nothing.  recorded: told the ids so far, (1, tokens), after each kept token; True ends the run.  on_round: told what
    became of a draft.  ends: the model's end tokens.
    Raises Unavailable for a model that can't take tokens back, and while edits are on.
    """
    if is_edited(model):
        raise Unavailable(
            "Speculation is not there while edits are on: an edit may name the newest token or look at all tokens of a pass, and "
            "a pass that tests a draft has several; generate without speculation."
        )
    ids = list(prompt)
    end = len(ids) + room
    row = begun(ids, room)  # the ids, for processors
    reader = running.reader(model, end)
    draw = _Draw(seed)
    with _drafter(model, tokenizer, draft, reader, end, draw, filters, ends) as propose:
        chain = processors([0])
        while True:
            began = time.perf_counter()
            most = 0 if len(ids) == len(prompt) else min(draft.most, end - len(ids) - 1)
            proposal = propose(ids, most) if most > 0 else Proposal()
            drafted = time.perf_counter()
            logits = reader.read(ids + proposal.ids, last=len(proposal.ids) + 1)
            accepted, kept, done = 0, 0, True
            try:
                for position in range(len(proposal.ids) + 1):
                    so_far = cast("torch.LongTensor", row[:, : len(ids)].to(logits.device))
                    scores = chain(so_far, cast("torch.FloatTensor", logits[position : position + 1]))[0]
                    if position < len(proposal.ids):
                        id_, taken = draw.judged(scores, proposal.ids[position], proposal.chances[position])
                    else:
                        id_, taken = draw.one(scores), False
                    if len(ids) == row.shape[1]:
                        row = doubled(row)
                    row[0, len(ids)] = id_
                    ids.append(id_)
                    accepted, kept = accepted + taken, kept + 1
                    done = recorded(cast("torch.LongTensor", row[:, : len(ids)].to(logits.device)))
                    if done or not taken:
                        break
            finally:  # what was kept before an interrupt is of a round, too
                if kept and len(ids) - kept > len(prompt):  # the first token comes of reading the prompt
                    verified = time.perf_counter()
                    on_round(Round(tuple(proposal.ids), accepted, kept, drafted - began, verified - drafted))
            if done:
                return


# drawing --------------------------------------------------------------------------------------------------------------


class _Draw:
    """Chooses tokens: greedily without a seed, else by a generator of its own, so that no other random state is touched."""

    def __init__(self, seed: int | None) -> None:
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    @property
    def greedy(self) -> bool:
        return self.generator is None

    def one(self, scores: torch.Tensor) -> int:
        """A token from scores (vocabulary,)."""
        return int(scores.argmax()) if self.greedy else self._drawn(chances_of(scores))

    def drawn_from(self, chances: torch.Tensor) -> int:
        """A token from chances (vocabulary,) float64."""
        return self._drawn(chances)

    def judged(self, scores: torch.Tensor, drafted: int, chances: torch.Tensor | None) -> tuple[int, bool]:
        """The token that stands where one was drafted, and whether it is that one.

        scores: (vocabulary,), of what plain decoding would draw from.  chances: (vocabulary,) that the drafted one was drawn
        from; None where it was not drawn.
        """
        if self.greedy:
            best = int(scores.argmax())
            return best, best == drafted
        p = chances_of(scores)
        q = torch.zeros_like(p)
        if chances is None:
            q[drafted] = 1.0
        else:
            q[: len(chances)] = chances[: len(p)]
        if float(torch.rand((), generator=self.generator, dtype=torch.float64)) * float(q[drafted]) < float(p[drafted]):
            return drafted, True
        residual = (p - q).clamp_min(0.0)
        return self._drawn(residual if float(residual.sum()) > 0 else p), False

    def _drawn(self, chances: torch.Tensor) -> int:
        return int(torch.multinomial(chances, 1, generator=self.generator))


def chances_of(scores: torch.Tensor) -> torch.Tensor:
    """(vocabulary,) float64 on the CPU: the softmax of scores."""
    return scores.detach().cpu().double().softmax(-1)


# drafting -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drafter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    draft: Draft,
    reader: running.Reader,
    length: int,
    draw: _Draw,
    filters: Filters,
    ends: Sequence[int],
) -> Iterator[Drafter]:
    """What drafts, for the length of a run; another lab's model is held for as long."""
    if draft.early_exit is not None:
        layers = _Layers(model, reader, draft.early_exit)
        yield _Model(layers, running.embedding_rows(model), draw, filters, ends, draft.confidence, length)
    elif draft.by == LOOK_UP:
        yield _LookUp(draft.ngram, ends)
    else:
        small = draft.by
        assert small is not None
        assert not isinstance(small, str)
        with Turns.of(small.model).run(Turns.of(model).owner):
            most = min(length, running.room(small.model) or length)
            own = running.reader(small.model, most)
            if _same_tokens(tokenizer, small.tokenizer):
                rows = min(running.embedding_rows(one) for one in (model, small.model))
                yield _Model(lambda ids: own.read(ids)[0], rows, draw, filters, ends, draft.confidence, most)
            else:
                yield _Translated(tokenizer, small.tokenizer, own, draft.confidence, running.room(small.model))


class _LookUp:
    """Goes on as the latest earlier place went on that ends alike (prompt look-up, Saxena 2023)."""

    def __init__(self, longest: int, ends: Sequence[int]) -> None:
        self.sizes = range(longest, min(LEAST_MATCH, longest) - 1, -1)
        self.ends = frozenset(ends)
        self.after: dict[tuple[int, ...], int] = {}  # some tokens in a row, and where the latest such place goes on
        self.seen = 0

    def __call__(self, ids: Sequence[int], most: int) -> Proposal:
        for place in range(self.seen + 1, len(ids)):
            for size in self.sizes:
                if size <= place:
                    self.after[tuple(ids[place - size : place])] = place
        self.seen = max(self.seen, len(ids) - 1)
        for size in self.sizes:
            if (start := self.after.get(tuple(ids[-size:]))) is not None:
                found = list(ids[start : start + most])
                end = next((i + 1 for i, id_ in enumerate(found) if id_ in self.ends), len(found))
                return Proposal(found[:end], [None] * end)
        return Proposal()


class _Layers:
    """The logits that a model's first layers give, through its final norm and unembedding."""

    def __init__(self, model: PreTrainedModel, reader: running.Reader, exit_: int) -> None:
        from labkit.trace.anatomy import dissect

        anatomy = _ANATOMIES.get(model)
        if anatomy is None or not anatomy.fits(model):
            anatomy = _ANATOMIES[model] = dissect(model)
        if not 1 <= exit_ < len(anatomy.layers):
            raise BadInput(
                f"early_exit={exit_} can't be used; this model has {len(anatomy.layers)} layers, so give a whole number from 1 "
                f"to {len(anatomy.layers) - 1}."
            )
        if anatomy.unembedding is None or anatomy.shares_parts:
            raise Unavailable(
                f'The way from a layer of {anatomy.family} to the logits is not known; speculate by "{LOOK_UP}".'
            )
        self.reader, self.layer = reader, anatomy.layers[exit_].module
        self.norm, self.unembedding, self.family = anatomy.final_norm, anatomy.unembedding, anatomy.family

    def __call__(self, ids: Sequence[int]) -> torch.Tensor:
        hidden = self.reader.read_upto(ids, self.layer)
        with torch.inference_mode(False), torch.no_grad():
            try:
                return self._logits(hidden[None, None])
            except RuntimeError as error:
                raise Unavailable(
                    f'A layer of {self.family} can\'t be read through its unembedding; speculate by "{LOOK_UP}".'
                ) from error

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        found = hidden if self.norm is None else _run(self.norm, hidden)
        return _run(self.unembedding, found)[0, 0]


_ANATOMIES: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


def _run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A module's output, on the device where its weights are."""
    weight = next(module.parameters(), None)
    output: torch.Tensor = module(x if weight is None else x.to(weight.device))
    return output


class _Model:
    """Drafts with a model that has the same tokens, with the temperature and filters that the text is drawn with.

    rows: how many tokens both models have; embeddings of one vocabulary may be padded to other sizes.
    """

    def __init__(
        self,
        logits: Callable[[Sequence[int]], torch.Tensor],
        rows: int,
        draw: _Draw,
        filters: Filters,
        ends: Sequence[int],
        confidence: float,
        length: int,
    ) -> None:
        self.logits, self.draw, self.filters, self.confidence, self.length = logits, draw, filters, confidence, length
        self.ends = frozenset(ends)
        self.rows = rows

    def __call__(self, ids: Sequence[int], most: int) -> Proposal:
        text, found = list(ids), Proposal()
        if max(text) >= self.rows:
            return found
        while len(found.ids) < most and len(text) < self.length:
            logits = self.logits(text)
            logits = logits[None, : self.rows].float()
            so_far = torch.tensor([text], device=logits.device)
            scores = self.filters(cast("torch.LongTensor", so_far), cast("torch.FloatTensor", logits))[0]
            chances = chances_of(scores)
            # The surest token decides whether to go on, and not the one drawn: then a token's being proposed tells nothing
            # of which it is, and it is distributed as `chances`.
            if float(chances.max()) < self.confidence or bool(chances.isnan().any()):
                break
            id_ = int(chances.argmax()) if self.draw.greedy else self.draw.drawn_from(chances)
            found.ids.append(id_)
            found.chances.append(None if self.draw.greedy else chances)
            text.append(id_)
            if id_ in self.ends:
                break
        return found


class _Translated:
    """Drafts greedily with a model of other tokens: it goes on with the text, and what it writes is read in ours."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        theirs: PreTrainedTokenizerBase,
        reader: running.Reader,
        confidence: float,
        room: int | None,
    ) -> None:
        self.tokenizer, self.theirs, self.reader, self.confidence, self.room = (
            tokenizer,
            theirs,
            reader,
            confidence,
            room,
        )
        self.rows = running.embedding_rows(reader.model)

    def __call__(self, ids: Sequence[int], most: int) -> Proposal:
        text = _decoded(self.tokenizer, ids)
        read = list(self.theirs(text, verbose=False).input_ids)
        known = bool(read) and max(read) < self.rows and not text.endswith(REPLACEMENT)
        written = list(read)
        while known and len(written) < len(read) + most and (self.room is None or len(written) < self.room):
            chances = chances_of(self.reader.read(written)[0])
            if not float(chances.max()) >= self.confidence:
                break
            written.append(int(chances.argmax()))
        before, after = _decoded(self.theirs, read), _decoded(self.theirs, written)
        new = after[len(before) :].rstrip(REPLACEMENT)
        if not after.startswith(before) or not new:
            return Proposal()
        whole = list(self.tokenizer(text + new, add_special_tokens=False, verbose=False).input_ids)
        begun = whole[: len(ids)] == list(ids)
        ours = whole[len(ids) :] if begun else list(self.tokenizer(new, add_special_tokens=False).input_ids)
        return Proposal(ours[:most], [None] * len(ours[:most]))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def _same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether an id means the same to both."""
    if one is other:
        return True
    if len(one) != len(other) or not (hasattr(one, "get_vocab") and hasattr(other, "get_vocab")):
        return False
    return bool(one.get_vocab() == other.get_vocab())
