"""Branches: a Generation with another token at one place, written on from there.

A run leaves its keys and values (`kept.py`), and a branch begins with those of the prompt and of the tokens before the
place. What it runs anew is two tokens in one pass, the one before the place and the new one: the first gives the
distribution that the new token is taken from, which is compared with what was recorded there, and the second the next one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from labkit import checks
from labkit.errors import BadInput, LabClosed, Unavailable
from labkit.generation import decode, kept
from labkit.generation.fast import described
from labkit.generation.pieces import Pieces
from labkit.generation.record import FinishReason, Generation, Reuse
from labkit.models.tokens import token_strings
from labkit.trace import running
from labkit.trace.input import Encoded
from labkit.trace.lab_like import LabLike, check_lab
from labkit.trace.past import Past, State, state_of
from labkit.trace.probing import COARSEST, TOLERANCE
from labkit.trace.turns import steady

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from labkit.generation.decode import Decoding, OnToken
    from labkit.generation.forms import FormMasks
    from labkit.generation.prefix import Prefix

PLAIN = {
    "speed": "plain",
    "engine": "transformers",
    "speculation": None,
}  # how a branch is run, whatever its parent was


@dataclass(frozen=True, eq=False)
class Source:
    """What it takes to go on otherwise from a Generation; one that was saved or made by hand has none.

    lab: who wrote it.  how: with what settings.  state: of the model then.  kept, row: where its keys and values are.
    tokens: how many of the first ones there are its own, where another text's run kept them.
    """

    lab: weakref.ref[LabLike]
    how: Decoding
    state: State
    kept: kept.Kept
    row: int
    tokens: int | None = None

    def kept_tokens(self, wanted: int) -> int:
        """Of how many of its first tokens keys and values are there; no more than are wanted."""
        there = 0 if self.kept.pasts is None else self.kept.pasts[self.row].tokens
        return min(wanted, there, there if self.tokens is None else self.tokens)

    def past(self, tokens: int) -> Past | None:
        """Keys and values of its first tokens, where they were kept."""
        kept.touch(self.kept)
        count = self.kept_tokens(tokens)
        return self.kept.pasts[self.row].first(count) if self.kept.pasts is not None and count else None


class Keeping:
    """What the runs of a lab begin with, and what they leave: `decode`'s `caches`."""

    def __init__(self, lab: LabLike, how: Decoding, prefixes: Sequence[Prefix] = ()) -> None:
        self.lab, self.how, self.prefixes = lab, how, prefixes
        self.state: State | None = None
        self.kept: dict[int, tuple[kept.Kept, int]] = {}
        self.reuse: dict[int, Reuse] = {}

    def begin(self, rows: list[list[int]]) -> running.Sharing:
        model = self.lab.model
        self.state = state_of(model)
        pasts = [self._longest(row) for row in rows]
        return running.Sharing(pasts if any(pasts) else (), keep=True)

    def _longest(self, row: list[int]) -> Past | None:
        assert self.state is not None
        found = [past for prefix in self.prefixes if (past := prefix.past_of(row, self.state)) is not None]
        return max(found, key=lambda past: past.tokens, default=None)

    def end(self, group: list[int], sharing: running.Sharing) -> None:
        left = kept.keep(sharing.kept, self.lab.model, sharing.why)
        self.state = state_of(self.lab.model)  # some models change their weights as they first run
        for row, i in enumerate(group):
            self.kept[i] = left, row
            if self.prefixes:
                reused, shares = sharing.reused[row], bool(sharing.pasts) and sharing.pasts[row] is not None
                self.reuse[i] = Reuse(reused, sharing.first, "" if reused else self._why(shares))

    def _why(self, shares: bool) -> str:
        """Why a prompt took nothing over from the prefixes that are open."""
        if shares:
            return "the list it was in had to be run from its beginning on"
        if not any(prefix.state.holds(state_of(self.lab.model)) for prefix in self.prefixes):
            return "the model is not what it was when the prefix was read"
        return "the prompt begins otherwise than the prefix"

    def told(self, generations: list[Generation]) -> list[Generation]:
        state = state_of(self.lab.model) if self.state is None else self.state
        nothing = kept.Kept(why=_why_nothing(self.how))
        found: list[Generation] = []
        for i, generation in enumerate(generations):
            left, row = self.kept.get(i, (nothing, 0))
            source = Source(weakref.ref(self.lab), self.how, state, left, row)
            reuse = self.reuse.get(i)
            if reuse is None and self.prefixes:
                reuse = Reuse(0, len(generation.prompt_ids), _why_nothing(self.how))
            found.append(replace(generation, source=source, reuse=reuse))
        return found


def _why_nothing(how: Decoding) -> str:
    if how.engine != "transformers":
        return f"{how.engine} wrote it"
    if how.speed != "plain":
        return f"a run with speed={how.speed!r} shares nothing with others"
    if how.speculation is not None:
        return "a run with drafts shares nothing with others"
    return "the run was cut short"


# a branch -------------------------------------------------------------------------------------------------------------


# of a Generation, in the order of `decode.statistics`
COLUMNS = ("logprobs", "sampled_logprobs", "entropies", "ranks", "top_ids", "top_logprobs")


def _narrowed(column: torch.Tensor, alternatives: int) -> torch.Tensor:
    return column if column.dim() == 1 else column[:, :alternatives]


class _Stale(Exception):
    """The model does not compute what was recorded: something changed it that left no mark."""


def branch(
    generation: Generation,
    at: int,
    token: int | str,
    *,
    lab: LabLike | None = None,
    on_token: OnToken | None = None,
    stop_event: threading.Event | None = None,
    **settings: Any,
) -> Generation:
    """`Generation.branch`, which says what it does. lab: of the model to go on with, in place of the one that wrote it."""
    source = generation.source
    if lab is not None:
        check_lab(lab)
    chosen = lab if lab is not None else lab_of(generation)
    how = _settings(generation, settings)
    with chosen.turn():
        model = chosen.model
        at = _place(generation, at, how, running.room(model))
        id_ = token_id(chosen.tokenizer, token, running.embedding_rows(model), generation.top_ids[at : at + 1])
        own = source if source is not None and source.lab() is chosen else None
        begun = _Begun(chosen, generation, at, id_, how, own)
        try:
            return begun.run(on_token, stop_event)
        except _Stale:
            begun.renew("the model no longer computes what was recorded")
            return begun.run(on_token, stop_event)


def lab_of(generation: Generation, remedy: str = "generation.branch(..., lab=lab)") -> LabLike:
    """The lab that wrote a Generation. remedy: how another is given."""
    source = generation.source
    if source is None:
        raise Unavailable(
            "This Generation was saved, copied, made by hand or is still being written, so it does not know its model; give "
            f"one: {remedy}."
        )
    lab = source.lab()
    if lab is None:
        raise LabClosed(f"The lab that wrote this is gone; give one: {remedy}.")
    return lab


def _settings(generation: Generation, given: dict[str, Any]) -> Decoding:
    """The parent's settings with some replaced."""
    for name, plain in PLAIN.items():
        if given.get(name, plain) != plain:
            raise BadInput(f"A branch is run plainly by transformers; leave {name}={checks.shown(given[name])} out.")
    source = generation.source
    if source is None and "max_new_tokens" not in given:
        raise BadInput(
            "A saved Generation does not know how long it might have become; give max_new_tokens=, for the whole."
        )
    sampling = generation.sampling
    before: dict[str, Any] = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    before["form"] = generation.form
    if source is not None:
        before |= {f.name: getattr(source.how, f.name) for f in fields(source.how) if f.name != "sampling"}
    known = decode.DecodingSettings.__annotations__
    if unknown := sorted(set(given) - set(known)):
        raise BadInput(f"A branch has no setting {unknown[0]!r}{checks.near(unknown[0], known)}; see lab.generate.")
    return decode.settings(**(before | given | PLAIN))


def _place(generation: Generation, at: object, how: Decoding, room: int | None) -> int:
    """The place of a branch, checked: 0 to the end, and room for the token."""
    most = min(how.max_new_tokens, len(generation.ids) + (generation.finish_reason != "end"))
    if room is not None:
        most = min(most, room - len(generation.prompt_ids))
    if most < 1:
        raise BadInput("There is no place for a branch: the model's context is full with the prompt.")
    return checks.index("place", at, most, negative=False, of="a branch of this text has")


def token_id(
    tokenizer: PreTrainedTokenizerBase, token: int | str, rows: int, likely: torch.Tensor | None = None
) -> int:
    """The id of a token, from an id or from its text as `token_strings` has it.

    rows: how many the model has.  likely: ids that are looked at first, where several tokens are written alike.
    Raises BadInput for one that is not there.
    """
    if not isinstance(token, str):
        return checks.index("token", token, rows, of="this model has", negative=False)
    first: list[int] = [] if likely is None else likely.flatten().tolist()
    split = list(tokenizer(token, add_special_tokens=False).input_ids) if token else []
    named = tokenizer.convert_tokens_to_ids(token) if hasattr(tokenizer, "convert_tokens_to_ids") else None
    first += split[:1] if len(split) == 1 else []
    first += [named] if isinstance(named, int) else []
    for candidates in (first, range(min(rows, len(tokenizer)))):
        texts = token_strings(tokenizer, candidates)
        if (found := next((i for i, text in zip(candidates, texts, strict=True) if text == token), None)) is not None:
            return found
    parts = ", ".join(repr(text) for text in token_strings(tokenizer, split[:4]))
    more = f"; it is written with {len(split)} tokens, {parts}{', ...' if len(split) > 4 else ''}" if split else ""
    raise BadInput(f"There is no token {token!r} in this vocabulary{more}: give one of its tokens, or an id.")


class _Begun:
    """A branch under way: what of it is known, and what one pass has to tell."""

    def __init__(
        self, lab: LabLike, parent: Generation, at: int, id_: int, how: Decoding, source: Source | None
    ) -> None:
        self.lab, self.parent, self.at, self.id, self.how = lab, parent, at, id_, how
        self.model: PreTrainedModel = lab.model
        self.ids = [*parent.ids[:at], id_]
        self.row = [*parent.prompt_ids, *self.ids]
        self.past: Past | None = None
        self.why, self.anew = "", ""  # why nothing was taken over; why the parent's numbers do not hold
        self.head: dict[str, torch.Tensor] = {}  # the record of these ids
        self.kept = kept.Kept(why="the run was cut short")
        self.whole: bool | None = None  # whether the ids so far satisfy the form
        self.sharing = running.Sharing()
        if source is None:
            self.anew = "another model than the one that wrote this goes on with it"
        elif source.how.engine != "transformers":
            self.anew = f"{source.how.engine} wrote this, and transformers goes on with it"
        elif not source.state.holds(now := state_of(self.model)):
            if not steady(source.state.changes + now.changes):
                self.anew = "an edit is on, or was"
            elif source.state.changes != now.changes:
                self.anew = "other adapters are on than were"
            else:
                self.anew = "the model was changed since"
        elif how.form != parent.form:
            self.anew = "another form holds than did before"
        elif how.alternatives > parent.top_ids.shape[1] and parent.ids:
            self.anew = f"more alternatives are asked for than the {parent.top_ids.shape[1]} that were kept"
        else:
            self.past = source.past(len(parent.prompt_ids) + at)
            self.why = source.kept.why

    def renew(self, why: str) -> None:
        """Run all tokens once more, and take no number over."""
        self.past, self.anew = None, why

    @property
    def before(self) -> int:
        """How many tokens ahead of the new one are to give their logits."""
        if self.anew or not self.parent.ids:
            return self.at + 1
        return self.at - min(self.at, len(self.parent.ids) - 1) + 1  # one that was recorded is among them

    def run(self, on_token: OnToken | None, stop_event: threading.Event | None) -> Generation:
        if not running.way_to_generate(self.model, self.row).cached:  # a token before depends on those behind
            ends = range(len(self.row) - self.before, len(self.row))
            self.seen(
                torch.stack([running.forward(self.model, [self.row[:n]], logits="last").all_logits for n in ends], 1)
            )
            self.sharing = running.Sharing(keep=True)
        else:
            self.sharing = running.Sharing([self.past], self.before, self.seen, keep=True)
        finish, text = self._ends()
        if finish is not None:
            return self._remember(self._ended(finish, text))
        rest = replace(self.how, max_new_tokens=self.how.max_new_tokens - len(self.ids))
        made = decode.decode(
            self.model,
            self.lab.tokenizer,
            [Encoded(self.parent.prompt, self.row)],
            rest,
            name=self.lab.name,
            on_token=None if on_token is None else lambda made: on_token(self._joined(made)),
            stop_event=stop_event,
            keep=self._cut_short,
            after=len(self.ids),
            caches=self,
        )
        return self._remember(self._joined(made[0]))

    def _cut_short(self, made: list[Generation]) -> None:
        if self.head:  # the first pass has run
            self._remember(self._joined(made[0]))

    def _remember(self, made: Generation) -> Generation:
        """Have the lab know its latest run, also one that was interrupted."""
        lab: Any = self.lab
        lab.last_generation = made
        return made

    def _ends(self) -> tuple[FinishReason | None, str]:
        """Why the text ends with the new token, or None; and the text then."""
        pieces = Pieces(self.lab.tokenizer, self.how.stop)
        for id_ in self.ids[:-1]:
            pieces.add(id_)
        ended = self.id in decode.end_ids(self.model)
        (pieces.add_end if ended else pieces.add)(self.id)
        room = running.room(self.model)
        finish: FinishReason | None = None
        masks = self._masks()
        if masks is not None:
            masks.follow(0, self.ids)
        if pieces.stopped:
            finish = "stop"
        elif ended:
            finish = "end"
        elif masks is not None and masks.finished(0):
            finish = "form"
        elif len(self.ids) >= self.how.max_new_tokens:
            finish = "length"
        elif room is not None and len(self.row) >= room:
            finish = "context"
        pieces.end()
        if masks is not None:
            self.whole = masks.accepts(pieces.given) if finish == "stop" else masks.complete(0)
        return finish, pieces.given

    def _ended(self, finish: FinishReason, text: str) -> Generation:
        """The record where nothing is left to be written: one pass, for the numbers of the new token."""
        import time

        began = time.perf_counter()
        if not self.head:  # of a model without a cache it is there
            running.next_scores(self.model, [self.row], self.sharing)
            self.end([0], self.sharing)
        nothing = replace(
            self.parent,
            text=text,
            ids=[],
            tokens=[],
            top_tokens=[],
            finish_reason=finish,
            sampling=self.how.sampling,
            form=self.how.form,
            forbidden=None,
            top_allowed=None,
            form_complete=self.whole,
            prefill_seconds=time.perf_counter() - began,
            decode_seconds=0.0,
            model=self.lab.name,
            engine=described(self.model),
            speculation=None,
        )
        return self._joined(nothing)

    # what the run begins with, and leaves: `decode.Caches` -----------------------------------------------------------

    def begin(self, _rows: list[list[int]]) -> running.Sharing:
        return self.sharing

    def end(self, _group: list[int], sharing: running.Sharing) -> None:
        self.kept = kept.keep(sharing.kept, self.model, sharing.why)

    def told(self, generations: list[Generation]) -> list[Generation]:
        return generations

    # numbers ----------------------------------------------------------------------------------------------------------

    def seen(self, logits: torch.Tensor) -> None:
        """Take the numbers of the ids so far from the logits ahead of the new token, (1, before, vocabulary)."""
        raw = logits[0].float()
        own = raw.log_softmax(-1)
        if bool(own.isnan().any()):
            raise Unavailable("The model's scores are NaN here, so there is no distribution to take a token from.")
        if not self.anew and self.parent.ids:
            self._check(own)
        first = 0 if self.anew else self.at  # of the ids whose numbers are taken from here
        own, raw = own[first - len(self.ids) :], raw[first - len(self.ids) :]
        how = self.how if self.anew or self.parent.source is None else self.parent.source.how
        masks = self._masks()
        drawn, allowed = [], []
        for place, row in enumerate(raw, first):
            mask = None
            if masks is not None:
                masks.follow(0, self.ids[:place])
                mask = masks.allowed(0, row.shape[-1]).to(row.device)
                allowed.append(mask)
            drawn.append(self._drawn(row if mask is None else row.masked_fill(~mask, -torch.inf), how, place))
        chosen = torch.tensor(self.ids[first:], device=own.device)[:, None]
        columns = decode.statistics(own, torch.cat(drawn), chosen, self.how.alternatives)
        new = dict(zip(COLUMNS, [*(column[:, 0] for column in columns[1:5]), *columns[5:]], strict=False))
        if allowed:
            all_allowed = torch.stack(allowed)
            new["forbidden"] = own.exp().masked_fill(all_allowed, 0.0).sum(-1).clamp_max(1.0)
            new["top_allowed"] = all_allowed.gather(-1, columns[5])
        new = {name: column.cpu() for name, column in new.items()}
        k = new["top_ids"].shape[1]
        self.head = (
            {
                name: torch.cat([_narrowed(getattr(self.parent, name)[:first], k), column])
                for name, column in new.items()
            }
            if first
            else new
        )

    def _masks(self) -> FormMasks | None:
        """The form's masks, for one row."""
        if self.how.form is None:
            return None
        from labkit.generation.forms import FormMasks

        return FormMasks(self.how.form, self.lab.tokenizer, decode.end_ids(self.model), 1)

    def _check(self, own: torch.Tensor) -> None:
        """Raise _Stale where the parent's record of a step is not what the model computes now."""
        step = min(self.at, len(self.parent.ids) - 1)
        ids, recorded = self.parent.top_ids[step], self.parent.top_logprobs[step]
        now = own[0][ids.to(own.device)].cpu()
        plain = torch.float32 if self.model.dtype == torch.float64 else self.model.dtype  # of the record
        tolerance = TOLERANCE.get(plain, COARSEST) if getattr(self.model, "hf_quantizer", None) is None else COARSEST
        if not torch.allclose(now, recorded, rtol=0, atol=tolerance * max(1.0, float(recorded.abs().max()))):
            raise _Stale

    def _drawn(self, logits: torch.Tensor, how: Decoding, place: int) -> torch.Tensor:
        """(1, vocabulary): log-probabilities of the distribution a token of these ids would be drawn from."""
        text = [*self.parent.prompt_ids, *self.ids[:place]]
        ids = cast("torch.LongTensor", torch.tensor([text], device=logits.device))
        scores = logits[None]
        for each in decode.filters(how.sampling, [0]).values():
            scores = each(ids, cast("torch.FloatTensor", scores.clone()))
        if how.sampling.temperature > 0:
            return scores.log_softmax(-1)
        best = (
            torch.arange(scores.shape[-1], device=scores.device)[None] == scores.argmax()
        )  # greedy: all is on the best
        return torch.where(best, 0.0, -torch.inf)

    def _joined(self, made: Generation) -> Generation:
        """The record of the whole: what was there, the new token, and what was written after it."""
        k = self.head["top_ids"].shape[1]
        columns: dict[str, Any] = {
            name: torch.cat([column, _narrowed(getattr(made, name), k)]) if made.ids else column
            for name, column in self.head.items()
        }
        source = None
        if made.finish_reason != "running":
            source = Source(weakref.ref(self.lab), self.how, state_of(self.model), self.kept, 0)
        reused = self.sharing.reused[0] if self.sharing.reused else 0
        strings = partial(token_strings, self.lab.tokenizer)
        return replace(
            made,
            **columns,
            ids=self.ids + made.ids,
            tokens=strings(self.ids) + made.tokens,
            prompt_ids=self.parent.prompt_ids,
            prompt_tokens=self.parent.prompt_tokens,
            prompt=self.parent.prompt,
            top_tokens=[strings(row) for row in self.head["top_ids"].tolist()] + made.top_tokens,
            source=source,
            reuse=Reuse(reused, self.sharing.first or len(self.row), self._note(reused)),
            branched_at=self.at,
        )

    def _note(self, reused: int) -> str:
        if self.anew:
            return f"run once more, numbers included: {self.anew}"
        if reused or len(self.row) - self.before - 1 < 1:
            return ""
        return f"run once more: {self.why or 'this model does not go on from keys and values that were kept'}"
