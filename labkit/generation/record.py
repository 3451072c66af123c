"""The record of one decoding run: what was generated, how sure the model was, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Unpack

from labkit import checks
from labkit.errors import BadInput

if TYPE_CHECKING:
    import threading

    import torch

    from labkit.generation.branching import Source
    from labkit.generation.choices import Choices
    from labkit.generation.decode import DecodingSettings, OnToken
    from labkit.generation.forms import Form
    from labkit.generation.speculation import Speculation
    from labkit.generation.tree import Tree
    from labkit.trace.input import Given
    from labkit.trace.lab_like import LabLike

FinishReason = Literal["end", "form", "stop", "length", "context", "stopped", "interrupted", "running"]


class Alternative(NamedTuple):
    """One token the model could have chosen at a position, with the model's own log-probability (nats)."""

    token: str
    id: int
    logprob: float


@dataclass(frozen=True)
class Sampling:
    """How tokens were chosen. temperature 0 is greedy; None switches a filter off; seed None only when greedy."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Reuse:
    """What a run took over from earlier ones instead of running it again.

    tokens: so many of its first tokens' keys and values were there.  run: tokens in its first pass.
    note: why nothing was taken over, where it might have been.
    """

    tokens: int
    run: int
    note: str = ""


@dataclass(frozen=True, repr=False)
class Generation:
    """One decoding run, recorded. n is the number of generated tokens, k the number of alternatives kept.

    text: the generated text without the prompt, special tokens, the token that ended it and the stop string. While it
        runs: what no later token can change, so no half of a character.
    ids, tokens: the n generated token ids and the text of each (special tokens included).
    prompt_ids, prompt_tokens: what the model was given, chat template included.
    prompt: what the user gave: a text, messages or token ids.
    logprobs: (n,) float32, nats: the model's own, before repetition penalty, temperature and filters.
    sampled_logprobs: (n,) float32, nats: in the distribution the token was drawn from (all 0 when greedy).
    entropies: (n,) float32, nats: of the model's own next-token distribution.
    ranks: (n,) int64: how many tokens the model held more probable than the chosen one.
    top_ids, top_logprobs: (n, k): the model's most probable tokens at each position, best first.
    finish_reason: "end" (end-of-text token), "form" (the form is complete and nothing can
        follow), "stop" (a stop string), "length" (max_new_tokens), "context" (the
        model's context is full), "stopped" (stopped from outside), "interrupted",
        or "running" (the record handed to on_token, before the end).
    engine: what computed it and with what numbers, such as "transformers (float32)" or "llama.cpp (model.gguf, Q4_1, cache F16)".
    form: what the text was held to, None without one.
    forbidden: (n,) float32, 0 to 1: the probability that the form took away at each step, of the model's own distribution,
        before repetition penalty, temperature and filters. None without a form.
    top_allowed: (n, k) bool: whether the form allowed each of the alternatives. None without a form.
    form_complete: whether the text satisfies the form; False when the run ended before (a limit, a stop string, a stop):
        the text is then the beginning of one that does. None without a form.
    prefill_seconds: until the first token; decode_seconds: from the first token to the last.
    speculation: what became of drafts, where tokens were drafted.
    branched_at: of a branch, how many of its first tokens are those of the Generation that it left; the next is the one that
        was put there, whose sampled_logprob is minus infinity where it could not have been drawn. Seconds are those of its
        own run: until the first token behind these, and from that one on.
    reuse: what the run took over from earlier ones: a branch, or a run behind a `lab.prefix`.
    """

    text: str
    ids: list[int]
    tokens: list[str]
    prompt_ids: list[int]
    prompt_tokens: list[str]
    logprobs: torch.Tensor
    sampled_logprobs: torch.Tensor
    entropies: torch.Tensor
    ranks: torch.Tensor
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor
    top_tokens: list[list[str]]
    finish_reason: FinishReason
    sampling: Sampling
    prefill_seconds: float
    decode_seconds: float
    model: str = ""
    prompt: Given = field(default="")
    engine: str = "transformers"
    speculation: Speculation | None = None
    form: Form | None = None
    forbidden: torch.Tensor | None = None
    top_allowed: torch.Tensor | None = None
    form_complete: bool | None = None
    branched_at: int | None = None
    reuse: Reuse | None = None
    source: Source | None = field(default=None, repr=False, compare=False)  # what a branch needs; it is not saved

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "source"}

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, per second of decoding; with a single token, per second of prefill. 0 if empty."""
        written = len(self.ids) - (0 if self.branched_at is None else self.branched_at + 1)
        if written > 1 and self.decode_seconds > 0:
            return (written - 1) / self.decode_seconds
        return written / self.prefill_seconds if written and self.prefill_seconds > 0 else 0.0

    def branch(
        self,
        at: int,
        token: int | str,
        *,
        lab: LabLike | None = None,
        on_token: OnToken | None = None,
        stop_event: threading.Event | None = None,
        **settings: Unpack[DecodingSettings],
    ) -> Generation:
        """The same text with another token at one place, written on from there: its ids begin with ids[:at] + [token].

        at: how many of the first tokens stay.  token: an id, or a token's text, such as one of `top_tokens[at]`.
        settings: those of `lab.generate`, in place of this run's; max_new_tokens is of the whole. A sampled branch draws from
            its first own token on with the seed that it is given or that this run had, as a run of its own would.
        lab: goes on with this lab's model. Without it the lab that wrote this does, which has to be open.
        on_token, stop_event: as for `lab.generate`. What an interrupt leaves is in `lab.last_generation`.
        The keys and values of what stays are taken over, so that one pass of two tokens is run in place of the prompt and the
        text so far; `reuse` tells how many, or why not: they are kept within 256 MiB in all, and not by models with a
        state or a full window, a static cache, drafts or another engine. With them the numbers of ids[:at] are this run's.
        Where the model is not what it was (an edit is on or was, other adapters, changed weights, another lab), it is asked
        for everything anew, and all numbers are those of the model as it is now.
        Raises BadInput for a place or a token that is not there, LabClosed, Unavailable.
        """
        from labkit.generation.branching import branch

        return branch(self, at, token, lab=lab, on_token=on_token, stop_event=stop_event, **settings)

    def tree(self, name: str = "text") -> Tree:
        """A tree that begins with this text, for its branches: `tree.branch(at=8, token=" green")`. name: of this path."""
        from labkit.generation.tree import Tree

        return Tree(self, name)

    def distribution(self, step: int, k: int = 10) -> Choices:
        """The distribution that token `step` was taken from, before and after each filter, computed anew by its lab's model.

        k: of how many of the most probable tokens. A table (token, id, rank, logprob, a column for each stage, sampled_logprob,
        cut_by, taken), and in `.stages` what each stage cut; `labkit.generation.choices.distribution` says more.
        Raises BadInput for a step that is not there, LabClosed; Unavailable for a saved Generation, which knows no lab.
        """
        from labkit.generation.branching import lab_of
        from labkit.generation.choices import distribution

        return distribution(lab_of(self, "distribution(lab, generation, step)"), self, step, k)

    @property
    def overridden(self) -> list[int]:
        """The steps at which the form forbade more than half of the model's own probability; none without a form."""
        return [] if self.forbidden is None else (self.forbidden > 0.5).nonzero()[:, 0].tolist()

    def top(self, k: int = 5) -> list[list[Alternative]]:
        """The model's k most probable tokens at each of the n positions, best first.

        Raises BadInput when more are asked for than were kept.
        """
        k, kept = checks.whole("k", k, 1), self.top_ids.shape[-1]
        if k > kept:
            raise BadInput(f"top({k}) can't be given: {kept} alternatives were kept; generate with alternatives={k}.")
        return [
            [
                Alternative(token, int(id_), float(logprob))
                for token, id_, logprob in zip(tokens[:k], ids[:k], logprobs[:k], strict=True)
            ]
            for tokens, ids, logprobs in zip(self.top_tokens, self.top_ids, self.top_logprobs, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Generation({text!r}, {len(self.ids)} tokens, finish_reason={self.finish_reason!r})"
