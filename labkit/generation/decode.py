"""Decoding on transformers' own generate: one run recorded step by step, streamed where asked, stoppable at each step.

transformers calls our first logits processor with the model's own scores and our last one with the scores the token is
drawn from, and our stopping criterion right after each token. Between the three everything a Generation holds is known,
without keeping the vocabulary-wide scores of every step.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict, TypeVar, cast, get_args

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import logits_process as warpers

from labkit import checks
from labkit.errors import BadInput, LabError, NotEnoughMemory, Unavailable
from labkit.generation import forms, loop
from labkit.generation.fast import Fast, compiles, described
from labkit.generation.pieces import Pieces
from labkit.generation.record import FinishReason, Generation, Sampling
from labkit.generation.speculation import Draft, Round, Speculation, as_draft
from labkit.models.hardware import ran_out_of_memory
from labkit.models.tokens import token_strings
from labkit.trace import running
from labkit.trace.input import Encoded, check_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from labkit.trace.lab_like import LabLike

COLDEST, HOTTEST = 1e-3, 100.0  # colder, the divided scores overflow; greedy is what is meant

Speed = Literal["plain", "fast"]
SPEEDS: tuple[Speed, ...] = get_args(Speed)
EngineName = Literal["transformers", "llama.cpp"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
OnPiece = Callable[[str], None]
OnRow = Callable[[int, str], None]
_Piece = TypeVar("_Piece")
OnToken = Callable[[Generation], None]


class DecodingSettings(TypedDict, total=False):
    """What `settings` checks, as a user writes it."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    alternatives: int
    speed: Speed
    engine: EngineName
    speculation: Draft | LabLike | str | None
    form: object


class Caches(Protocol):
    """What the runs of `decode` begin with and leave behind; each group of prompts that share a run is told."""

    def begin(self, rows: list[list[int]]) -> running.Sharing: ...

    def end(self, group: list[int], sharing: running.Sharing) -> None: ...

    def told(self, generations: list[Generation]) -> list[Generation]: ...


@dataclass(frozen=True)
class Decoding:
    """One run's settings, checked. stop: strings that end the text; alternatives: how many are kept per position.
    speculation: how tokens are drafted that the model tests several at a time.
    form: what the text is held to.
    """

    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    alternatives: int = 20
    speed: Speed = "plain"
    engine: EngineName = "transformers"
    speculation: Draft | None = None
    form: forms.Form | None = None


def settings(
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    alternatives: int = 20,
    speed: Speed = "plain",
    engine: EngineName = "transformers",
    speculation: Draft | LabLike | str | None = None,
    form: object = None,
) -> Decoding:
    """Check the settings of a run; a sampled run without a seed gets one, so that it can be repeated.

    Raises BadInput, naming the setting and its range.
    """
    max_new_tokens = checks.whole("max_new_tokens", max_new_tokens, 1)
    warmth = f"0 (greedy) or a number from {COLDEST:g} to {HOTTEST:g}"
    temperature = checks.number("temperature", temperature, 0, HOTTEST, wanted=warmth)
    if 0 < temperature < COLDEST:
        checks.refuse("temperature", temperature, warmth)
    if top_k is not None:
        top_k = checks.whole("top_k", top_k, 1, wanted="a whole number from 1, or None")
    if top_p is not None:
        top_p = checks.fraction("top_p", top_p, zero=False, wanted="a number above 0 and up to 1, or None")
    if min_p is not None:
        min_p = checks.fraction("min_p", min_p, wanted="a number from 0 to 1, or None")
    if repetition_penalty is not None:
        wanted = "a number above 0 (1 changes nothing), or None"
        repetition_penalty = checks.number("repetition_penalty", repetition_penalty, above=0, wanted=wanted)
    if seed is not None:
        seed = checks.whole("seed", seed, 0, checks.SEEDS, wanted="a whole number from 0, or None")
    elif temperature > 0:
        seed = secrets.randbelow(2**31)
    alternatives = checks.whole("alternatives", alternatives, 1)
    speed = checks.one_of("speed", speed, SPEEDS)
    engine = checks.one_of("engine", engine, ENGINES)
    if engine != "transformers" and speed != "plain":
        raise BadInput(f"speed={speed!r} is a way of transformers' engine; leave it out with engine={engine!r}.")
    stops = checks.texts("stop", stop)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed if temperature > 0 else None)
    draft = as_draft(speculation)
    for name, value, plain in (("speed", speed, "plain"), ("engine", engine, "transformers")):
        if draft is not None and value != plain:
            raise BadInput(f"speculation takes tokens back, which {name}={value!r} can't; leave one of them out.")
    return Decoding(max_new_tokens, sampling, stops, alternatives, speed, engine, draft, forms.read(form))


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Encoded],
    how: Decoding,
    *,
    name: str = "",
    on_piece: OnPiece | None = None,
    on_token: OnToken | None = None,
    stop_event: threading.Event | None = None,
    keep: Callable[[list[Generation]], None] | None = None,
    engine: loop.Engine | None = None,
    on_row: OnRow | None = None,
    after: int = 0,
    caches: Caches | None = None,
) -> list[Generation]:
    """Generate for each prompt; several are padded on the left together and come back as if run alone.

    on_piece: called with each new piece of text (a single prompt only). on_token: called with the Generation so far.
    stop_event: ends the run after the current token. keep: handed what was generated when an exception ends the run.
    engine: gives the logits in place of transformers' own loop, for one prompt after the other.
    on_row: called with a prompt's place in the list and each new piece of its text.
    after: so many of a single prompt's last tokens count as generated: the text and stop strings begin with them.
    caches: what the run may begin with, and what becomes of its own.
    Raises BadInput for a prompt longer than the context, Unavailable when the model returns NaN, NotEnoughMemory when it ran
    out on the way; what was generated by then has been handed to `keep`.
    """
    for prompt in prompts:
        check_prompt(model, prompt)
    context = running.room(model)
    rooms = [how.max_new_tokens if context is None else min(how.max_new_tokens, context - len(p.ids)) for p in prompts]
    config = _neutral_config(model, how, max(rooms))
    if how.speed == "fast" and len(prompts) == 1:
        engine = Fast(model, len(prompts[0].ids) + rooms[0])
    lengths = [len(prompt.ids) for prompt in prompts]
    alone = how.speculation is not None or engine is not None  # each text has drafts of its own
    groups = [[i] for i in range(len(prompts))] if alone else running.generation_groups(model, lengths)
    recorders = [
        _Recorder(
            model,
            tokenizer,
            [prompts[i] for i in group],
            how,
            [rooms[i] for i in group],
            name,
            on_piece,
            on_token,
            stop_event,
            described(model) if engine is None else engine.description,
            after,
        )
        for group in groups
    ]

    for group, recorder in zip(groups, recorders, strict=True):
        recorder.places, recorder.on_row = group, on_row

    def made(reason: FinishReason | None) -> list[Generation]:
        found: dict[int, Generation] = {}
        for group, recorder in zip(groups, recorders, strict=True):
            found |= zip(group, recorder.generations(reason), strict=True)
        generations = [found[i] for i in range(len(prompts))]
        return generations if caches is None else caches.told(generations)

    try:
        for group, recorder in zip(groups, recorders, strict=True):
            if recorder is not recorders[0] and stop_event is not None and stop_event.is_set():
                recorder.ended = [(0, "stopped")] * len(recorder.prompts)
                continue
            if how.speculation is not None:
                _speculate(model, recorder, how.speculation)
                continue
            own = copy.deepcopy(config)
            own.max_new_tokens = max(recorder.rooms)
            sharing = (
                None
                if caches is None or engine is not None
                else caches.begin([prompt.ids for prompt in recorder.prompts])
            )
            with _seeded(how.sampling.seed):
                if engine is not None:
                    _write(engine, recorder)
                    continue
                new = running.generate(
                    model,
                    [prompt.ids for prompt in recorder.prompts],
                    own,
                    processors=recorder.processors,
                    criteria=StoppingCriteriaList([recorder]),
                    compiled=how.speed == "fast",
                    sharing=sharing,
                )
            recorder.cut(new.shape[1])
            if caches is not None and sharing is not None:
                caches.end(group, sharing)
        return made(None)
    except BaseException as error:
        if keep is not None:
            keep(made("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"))
        if not ran_out_of_memory(error):
            raise
        width, tokens = max(len(r.prompts) for r in recorders), max(len(r.steps) for r in recorders)
        raise out_of_memory(tokens, width) from error


def out_of_memory(tokens: int, texts: int) -> NotEnoughMemory:
    """What is said of memory that ran out after so many tokens of so many texts, which were kept."""
    written = "what was generated is in lab.last_generation" if tokens else "nothing was generated"
    return NotEnoughMemory(
        f"Memory ran out after {tokens:,} token{'s' * (tokens != 1)} of {texts:,} text{'s' * (texts != 1)} at once; {written}: "
        "generate fewer texts at a time or fewer tokens, or free some memory."
    )


def _write(engine: loop.Engine, recorder: _Recorder) -> None:
    """Decode a recorder's single prompt with another engine."""

    def stopped() -> bool:
        return recorder.stop_event is not None and recorder.stop_event.is_set()

    with engine.feed() as feed:
        written = loop.write(
            feed,
            recorder.prompts[0].ids,
            recorder.rooms[0],
            sampled=recorder.how.sampling.temperature > 0,
            processors=recorder.processors([0]),
            recorded=lambda ids: bool(recorder(ids, None)[0]),
            stopped=stopped,
        )
    if written == 0:
        recorder.ended = [(0, "stopped")]
    recorder.cut(written)


def _speculate(model: PreTrainedModel, recorder: _Recorder, draft: Draft) -> None:
    """Decode a recorder's single prompt with drafts."""
    from labkit.generation.speculating import speculate

    recorder.rounds = []
    sampling = recorder.how.sampling
    speculate(
        model,
        recorder.tokenizer,
        recorder.prompts[0].ids,
        draft,
        room=recorder.rooms[0],
        seed=sampling.seed,
        processors=recorder.processors,
        filters=LogitsProcessorList(filters(sampling, [0]).values()),
        recorded=lambda ids: bool(recorder(ids, None)[0]),
        on_round=recorder.rounds.append,
        ends=recorder.end_ids,
    )
    recorder.cut(len(recorder.steps))


def check_prompt(model: PreTrainedModel, prompt: Encoded) -> None:
    """Raise BadInput when the model has no token of the prompt's, or no room for another."""
    check_length(prompt, running.room(model))
    running.checked_ids(model, prompt.ids)


def next_logits(model: PreTrainedModel, prompt: Encoded) -> torch.Tensor:
    """(vocabulary,) float32 on the CPU: the model's scores for the token after the prompt."""
    check_prompt(model, prompt)
    return running.forward(model, [prompt.ids], logits="last").all_logits[0].float().cpu()


def stream(run: Callable[[Callable[[_Piece], None], threading.Event, int], list[Generation]]) -> Iterator[_Piece]:
    """Yield the pieces of a run that goes on in a worker thread. Closing the iterator half-way stops the run."""
    import queue

    pieces: queue.SimpleQueue[tuple[_Piece] | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    reader = threading.get_ident()  # of the thread that reads, on whose behalf the worker runs

    def work() -> None:
        try:
            run(lambda piece: pieces.put((piece,)), stop, reader)
            pieces.put(None)
        except BaseException as error:
            pieces.put(error)

    worker = threading.Thread(target=work, name="labkit-stream", daemon=True)
    worker.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece[0]
    finally:
        stop.set()
        worker.join()


class _First(LogitsProcessor):
    """Hands the recorder the model's own scores, before anything else sees them."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.recorder.scores = scores
        if self.recorder.how.sampling.temperature > 0:  # to draw from NaN would end deep inside torch
            self.recorder.take_logprobs()
        return scores


class _Formed(LogitsProcessor):
    """Takes away what the form forbids, before anything else, so that filters choose among allowed tokens only."""

    def __init__(self, recorder: _Recorder, masks: forms.FormMasks, starts: Sequence[int]) -> None:
        self.recorder, self.masks, self.starts = recorder, masks, starts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        allowed = torch.ones_like(scores, dtype=torch.bool)
        for row, (start, ended) in enumerate(zip(self.starts, self.recorder.ended, strict=True)):
            if ended is None:  # what follows the end of a row in a batch is padding
                self.masks.follow(row, input_ids[row, start:].tolist())
                allowed[row] = self.masks.allowed(row, scores.shape[-1])
        self.recorder.allowed = allowed
        return cast("torch.FloatTensor", scores.masked_fill(~allowed, -torch.inf))


class _Last(LogitsProcessor):
    """Hands the recorder the scores the token will be drawn from."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.recorder.drawn_from = scores.float().log_softmax(-1)
        return scores


class _Penalty(LogitsProcessor):
    """transformers' repetition penalty (Keskar et al. 2019), row by row, so that padding does not count as text."""

    def __init__(self, penalty: float, padding: Sequence[int]) -> None:
        self.penalty = warpers.RepetitionPenaltyLogitsProcessor(penalty)
        self.padding = padding

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        rows: list[torch.Tensor] = []
        for row, pad in enumerate(self.padding):
            seen, own = input_ids[row : row + 1, pad:], scores[row : row + 1]
            rows.append(self.penalty(cast("torch.LongTensor", seen), cast("torch.FloatTensor", own)))
        return cast("torch.FloatTensor", torch.cat(rows))


def filters(sampling: Sampling, padding: Sequence[int]) -> dict[str, LogitsProcessor]:
    """What stands between the model's scores and those a token is drawn from, by setting, in transformers' order.

    padding: how many tokens of it stand before each text.
    """
    chain: dict[str, LogitsProcessor] = {}
    if sampling.repetition_penalty is not None and sampling.repetition_penalty != 1.0:
        chain["repetition_penalty"] = _Penalty(sampling.repetition_penalty, padding)
    if sampling.temperature > 0:
        if sampling.temperature != 1.0:
            chain["temperature"] = warpers.TemperatureLogitsWarper(sampling.temperature)
        if sampling.top_k is not None:
            chain["top_k"] = warpers.TopKLogitsWarper(sampling.top_k)
        if sampling.top_p is not None and sampling.top_p < 1.0:
            chain["top_p"] = warpers.TopPLogitsWarper(sampling.top_p)
        if sampling.min_p is not None and sampling.min_p > 0.0:
            chain["min_p"] = warpers.MinPLogitsWarper(sampling.min_p)
    return chain


def statistics(
    own: torch.Tensor, drawn_from: torch.Tensor | None, chosen: torch.Tensor, alternatives: int
) -> tuple[torch.Tensor, ...]:
    """What is recorded of one step, for each row: the columns of a Generation's table.

    own, drawn_from: (rows, vocabulary), log-probabilities before and after the filters; None where nothing is drawn.
    chosen: (rows, 1), the tokens' ids.
    Returns chosen; its logprob in each of the two; the entropy of `own`; the chosen one's rank, each (rows, 1); ids and
    logprobs of the best `alternatives`.
    """
    logprob = own.gather(-1, chosen)
    drawn = torch.zeros_like(logprob) if drawn_from is None else drawn_from.gather(-1, chosen)
    top = likeliest(own, min(alternatives, own.shape[-1]))
    # 0 · log 0 is 0: a token masked by the model itself adds nothing to the entropy
    entropy = -(own.exp() * own.clamp_min(torch.finfo(own.dtype).min)).sum(-1, keepdim=True)
    # among the best, all that are more probable are there too: the rest of the vocabulary need not be looked at
    near = own.device.type == "cpu" and bool((logprob >= top.logprobs[:, -1:]).all())
    rank = ((top.logprobs if near else own) > logprob).sum(-1, keepdim=True)
    return chosen, logprob, drawn, entropy, rank, top.ids, top.logprobs


class Likeliest(NamedTuple):
    ids: torch.Tensor
    logprobs: torch.Tensor


BLOCK = 128  # tokens


def likeliest(own: torch.Tensor, count: int) -> Likeliest:
    """The best `count` of (rows, vocabulary), best first.

    On a CPU torch's topk goes over a vocabulary slowly. The best k are in the k blocks with the largest maxima, or in the
    rest behind the last whole block, and a maximum is found at the speed of memory.
    """
    rows, width = own.shape
    blocks = width // BLOCK
    if own.device.type != "cpu" or blocks < 4 * count:
        values, ids = own.topk(count, dim=-1)
        return Likeliest(ids, values)
    whole = own[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK)
    first = whole.amax(-1).topk(count, dim=-1).indices * BLOCK
    there = (first[:, :, None] + torch.arange(BLOCK)).reshape(rows, -1)
    rest = torch.arange(blocks * BLOCK, width).expand(rows, -1)
    candidates = torch.cat([there, rest], dim=1)
    values, places = own.gather(-1, candidates).topk(count, dim=-1)
    return Likeliest(candidates.gather(-1, places), values)


class _Recorder(StoppingCriteria):
    """What happened at each step, and when each row is to stop."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        how: Decoding,
        rooms: Sequence[int],
        name: str,
        on_piece: OnPiece | None,
        on_token: OnToken | None,
        stop_event: threading.Event | None,
        engine: str,
        after: int = 0,
    ) -> None:
        self.engine = engine
        self.tokenizer, self.prompts, self.how, self.rooms, self.name = tokenizer, prompts, how, rooms, name
        self.on_piece, self.on_token, self.stop_event = on_piece, on_token, stop_event
        self.end_ids = end_ids(model)
        self.scores: torch.Tensor | None = None  # of the model, until their logprobs are taken
        self.own: torch.Tensor | None = None
        self.drawn_from: torch.Tensor | None = None
        self.masks = forms.FormMasks(how.form, tokenizer, self.end_ids, len(prompts)) if how.form is not None else None
        self.allowed: torch.Tensor | None = None  # by the form, at this step
        self.steps: list[tuple[torch.Tensor, ...]] = []  # of `statistics`, and of the form
        self.times: list[float] = []
        self.began = time.perf_counter()
        self.ended: list[tuple[int, FinishReason] | None] = [None] * len(prompts)  # (tokens, reason) of each row
        self.rounds: list[Round] | None = None  # of speculation
        self.places: Sequence[int] = range(len(prompts))  # of the prompts in the list that was given
        self.on_row: OnRow | None = None
        self.after = [prompt.ids[len(prompt.ids) - after :] for prompt in prompts]  # of the prompts, what was generated
        self.pieces = [self._begun(row) for row in range(len(prompts))]

    def processors(self, padding: Sequence[int]) -> LogitsProcessorList:
        """First, the form, the filters, last. Time runs from here."""
        self.began = time.perf_counter()
        chain: list[LogitsProcessor] = [_First(self)]
        if self.masks is not None:
            starts = [pad + len(p.ids) - len(a) for pad, p, a in zip(padding, self.prompts, self.after, strict=True)]
            chain.append(_Formed(self, self.masks, starts))
        chain += filters(self.how.sampling, padding).values()
        if self.how.sampling.temperature > 0:
            chain.append(_Last(self))
        return LogitsProcessorList(chain)

    def take_logprobs(self) -> torch.Tensor:
        """The model's own log-probabilities at this step: not before they are needed, as the next token may be read meanwhile.

        Raises Unavailable, with the remedy, where the model gave NaN.
        """
        if self.scores is not None:
            own = self.own = self.scores.float().log_softmax(-1)
            self.scores = None
            if bool(own[:, 0].isnan().any()):  # one NaN makes all of its row so
                raise nan_error(len(self.steps) + 1)
        assert self.own is not None
        return self.own

    def __call__(self, input_ids: torch.LongTensor, scores: object, **kwargs: object) -> torch.Tensor:
        """Record the token just chosen; True for each row that is to stop here."""
        own = self.take_logprobs()
        chosen = input_ids[:, -1:].to(own.device)
        step = statistics(own, self.drawn_from, chosen, self.how.alternatives)
        if self.allowed is not None:
            forbidden = own.exp().masked_fill(self.allowed, 0.0).sum(-1, keepdim=True).clamp_max(1.0)
            step = (*step, forbidden, self.allowed.gather(-1, step[5]))
        self.steps.append(step)
        self.times.append(time.perf_counter())
        going = [row for row, ended in enumerate(self.ended) if ended is None]
        stopped = self.stop_event is not None and self.stop_event.is_set()
        new = input_ids[:, -1].tolist()  # not from where the statistics are: that would wait for all that runs there
        for row in going:
            if (reason := self._reason(row, new[row], stopped)) is not None:
                self.ended[row] = (len(self.steps), reason)
        if self.on_token is not None:
            columns = self._columns()
            for row in going:
                self.on_token(self._generation(row, columns, "running"))
        if self.stop_event is not None and self.stop_event.is_set():  # on_token may have set it
            self.ended = [ended or (len(self.steps), "stopped") for ended in self.ended]
        return torch.tensor([ended is not None for ended in self.ended], device=input_ids.device)

    def _reason(self, row: int, id_: int, stopped: bool) -> FinishReason | None:
        """Why a row ends with this token, or None; hands out the text that became certain."""
        text = self.pieces[row]
        ended = id_ in self.end_ids
        piece = text.add_end(id_) if ended else text.add(id_)
        self._hand_out(row, piece)
        if text.stopped:
            return "stop"
        if ended:
            return "end"
        if self.masks is not None:
            self.masks.add(row, id_)
            if self.masks.finished(row):
                return "form"
        if len(self.steps) >= self.rooms[row]:
            return "length" if self.rooms[row] == self.how.max_new_tokens else "context"
        return "stopped" if stopped else None

    def cut(self, length: int) -> None:
        """Forget steps past `length`: transformers may run one ahead on some devices and undo it."""
        del self.steps[length:]
        del self.times[length:]
        if self.on_piece is not None or self.on_row is not None:
            for row, pieces in enumerate(self.pieces):
                self._hand_out(row, pieces.end())

    def _hand_out(self, row: int, piece: str) -> None:
        if self.on_piece is not None and piece:
            self.on_piece(piece)
        if self.on_row is not None and piece:
            self.on_row(self.places[row], piece)

    def generations(self, reason: FinishReason | None) -> list[Generation]:
        """The record of each prompt. reason: why the rows ended that have not ended by themselves."""
        columns = self._columns()
        return [self._generation(row, columns, reason) for row in range(len(self.prompts))]

    def _columns(self) -> list[torch.Tensor] | None:
        return [torch.stack(column, 1).cpu() for column in zip(*self.steps, strict=True)] if self.steps else None

    def _generation(self, row: int, columns: list[torch.Tensor] | None, reason: FinishReason | None) -> Generation:
        prompt = self.prompts[row]
        length, finish = self.ended[row] or (len(self.steps), reason or "length")
        if columns is None:
            none, no_top = torch.zeros(0), torch.zeros(0, self.how.alternatives)
            ids: list[int] = []
            statistics = (none, none, none, none.long(), no_top.long(), no_top)
            forbidden, top_allowed = (none, no_top.bool()) if self.masks is not None else (None, None)
        else:
            ids = columns[0][row, :length, 0].tolist()
            logprob, drawn, entropy, rank = (column[row, :length, 0] for column in columns[1:5])
            statistics = (logprob, drawn, entropy, rank, columns[5][row, :length], columns[6][row, :length])
            forbidden, top_allowed = None, None
            if self.masks is not None:
                forbidden, top_allowed = columns[7][row, :length, 0], columns[8][row, :length]
        logprobs, sampled_logprobs, entropies, ranks, top_ids, top_logprobs = statistics
        times = self.times[: len(ids)]
        text = self._text(row, ids, finish)
        return Generation(
            text=text,
            ids=ids,
            tokens=self._strings(ids),
            prompt_ids=prompt.ids,
            prompt_tokens=self._strings(prompt.ids),
            logprobs=logprobs,
            sampled_logprobs=sampled_logprobs,
            entropies=entropies,
            ranks=ranks,
            top_ids=top_ids,
            top_logprobs=top_logprobs,
            top_tokens=self._tables(top_ids),
            finish_reason=finish,
            sampling=self.how.sampling,
            prefill_seconds=times[0] - self.began if times else 0.0,
            decode_seconds=times[-1] - times[0] if times else 0.0,
            model=self.name,
            prompt=prompt.given,
            engine=self.engine,
            speculation=self._speculation(),
            form=self.how.form,
            forbidden=forbidden,
            top_allowed=top_allowed,
            form_complete=self._whole(row, ids, text, finish),
        )

    def _speculation(self) -> Speculation | None:
        draft = self.how.speculation
        return None if draft is None else Speculation(draft.name, tuple(self.rounds or ()))

    def _whole(self, row: int, ids: list[int], text: str, finish: FinishReason) -> bool | None:
        """Whether the text of a row satisfies the form; None without one. A stop string may have taken some of it away."""
        if self.masks is None or finish == "stop":
            return None if self.masks is None else self.masks.accepts(text)
        try:
            self.masks.follow(row, [*self.after[row], *ids])
        except LabError:  # what the form could not follow ended the run
            return False
        return self.masks.complete(row)

    def _text(self, row: int, ids: list[int], finish: FinishReason) -> str:
        """The text of a row: while it runs what is certain of it, then the whole."""
        pieces = self.pieces[row]
        if finish == "running":
            return pieces.given
        if pieces.length != len(self.after[row]) + len(ids):  # a step was undone
            pieces = self._begun(row)
            for id_ in ids:
                pieces.add(id_)
        pieces.end()
        return pieces.given

    def _begun(self, row: int) -> Pieces:
        pieces = Pieces(self.tokenizer, self.how.stop)
        for id_ in self.after[row]:
            pieces.add(id_)
        return pieces

    def _tables(self, ids: torch.Tensor) -> list[list[str]]:
        """Of (n, k) ids, looked up at once."""
        strings, width = self._strings(ids.flatten().tolist()), ids.shape[1]
        return [strings[at : at + width] for at in range(0, len(strings), width)]

    def _strings(self, ids: list[int]) -> list[str]:
        return token_strings(self.tokenizer, ids)


def end_ids(model: PreTrainedModel) -> list[int]:
    """The tokens at which a model stops writing: its generation settings', else its configuration's; none where it has none."""
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = end if end is not None else getattr(model.config, "eos_token_id", None)
    return [] if end is None else [int(e) for e in (end if isinstance(end, list | tuple) else [end])]


def _neutral_config(model: PreTrainedModel, how: Decoding, room: int) -> GenerationConfig:
    """A configuration that filters nothing: the filters come from `_Recorder.processors`, so that the model's own scores
    are seen before any of them. What is None here stays None (`running.generate`)."""
    filters = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
    cutoffs = {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    config = GenerationConfig(
        max_new_tokens=room,
        do_sample=how.sampling.temperature > 0,
        **(filters | cutoffs if how.sampling.temperature > 0 else {}),
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        num_return_sequences=1,
        eos_token_id=end_ids(model) or None,
        use_cache=True,
    )
    if how.speed == "fast" and compiles(model):  # of several texts: a single one has a loop of ours
        if getattr(model, "_can_compile_fullgraph", True) is False:
            raise Unavailable(
                "speed='fast' needs a static cache, which this architecture does not have; use speed='plain'."
            )
        config.cache_implementation = "static"
    return config


_DRAWING = threading.RLock()  # torch draws from one random state a process: two seeded runs must not mix


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """A seeded stretch that leaves the caller's random states as it found them; nothing at all without a seed."""
    if seed is None:
        yield
        return
    on_mps = torch.backends.mps.is_available()
    with _DRAWING, torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        before = torch.mps.get_rng_state() if on_mps else None
        try:
            torch.manual_seed(seed)
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)


def nan_error(step: int) -> Unavailable:
    """What is said of a model that gave NaN for the token `step`, counted from 1."""
    return Unavailable(
        f"The model's scores are NaN at token {step}, so nothing can be chosen; load it with dtype='float32', and check the "
        "weights if it persists."
    )
