"""Speculation: how drafts are to be made, and the record of what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from labkit import checks
from labkit.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import LabLike

LOOK_UP = "prompt_lookup"
DRAFTED = {"look up": 10, "model": 5}  # tokens a round where none are asked for: looking up costs nothing
LEAST_MATCH = 2  # tokens that a place looked up has in common with the end of the text


@dataclass(frozen=True, repr=False)
class Draft:
    """How tokens are drafted, several of which the model then tests in one pass.

    by: a smaller Lab; or "prompt_lookup", which goes on as an earlier place of the text went on that ends alike; or None
        with `early_exit`.  A Lab with another tokenizer drafts by way of the text.
    early_exit: the model's own first so many layers, with its final norm and unembedding.
    tokens: how many are drafted at most in a round; None for 10 looked up, 5 of a model.
    ngram: the longest end of the text that is looked up; shorter ones down to 2 tokens after it.
    confidence: a model drafts on while its most probable token has at least this probability.
    Whatever drafts, the text is the model's own: greedy it is the same, sampled it has the same distribution.
    """

    by: LabLike | str | None = None
    early_exit: int | None = None
    tokens: int | None = None
    ngram: int = 3
    confidence: float = 0.4

    def __post_init__(self) -> None:
        if isinstance(self.by, str):
            checks.one_of("speculation", self.by, (LOOK_UP,), wanted=f'"{LOOK_UP}", a Lab, or lk.Draft(early_exit=...)')
        elif self.by is not None and not (hasattr(self.by, "tokenizer") and hasattr(self.by, "turn")):
            checks.refuse("speculation", self.by, f'"{LOOK_UP}", a Lab, or lk.Draft(early_exit=...)')
        if (self.by is None) == (self.early_exit is None):
            raise BadInput('A draft is made in one way: give a Lab or "prompt_lookup", or early_exit=, and not both.')
        if self.early_exit is not None:
            checks.whole("early_exit", self.early_exit, 1)
        if self.tokens is not None:
            checks.whole("tokens", self.tokens, 1)
        checks.whole("ngram", self.ngram, 1)
        checks.fraction("confidence", self.confidence)

    @property
    def most(self) -> int:
        """How many tokens are drafted at most in a round."""
        return self.tokens or DRAFTED["look up" if self.by == LOOK_UP else "model"]

    @property
    def name(self) -> str:
        if self.early_exit is not None:
            return f"early exit at layer {self.early_exit}"
        return "prompt look-up" if isinstance(self.by, str) else str(getattr(self.by, "name", "a model"))

    def __repr__(self) -> str:  # a Lab's own is a card of many lines
        return f"Draft(by {self.name}, {self.most} tokens a round)"


def as_draft(given: object) -> Draft | None:
    """What a user says of speculation: nothing, a Draft, or what one is made of. Raises BadInput for anything else."""
    return given if given is None or isinstance(given, Draft) else Draft(given)  # type: ignore[arg-type] # it is checked


class Round(NamedTuple):
    """One pass that tested a draft. proposed: the ids drafted.  accepted: how many of them, from the first on, the model took.

    kept: tokens that the text grew by: those accepted, and one the model chose itself; fewer where the text ended before.
    draft_seconds, verify_seconds: for drafting (in the first round with a small model's reading of the prompt), and for the
    pass with the choice of tokens.
    """

    proposed: tuple[int, ...]
    accepted: int
    kept: int
    draft_seconds: float
    verify_seconds: float


@dataclass(frozen=True)
class Speculation:
    """What became of a run's drafts. The run's first token comes of reading the prompt and is in no round.

    draft: by what tokens were drafted.  rounds: in their order; while a text is written, those that have ended.
    """

    draft: str
    rounds: tuple[Round, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """A row a round: proposed, accepted, kept (tokens), draft_seconds, verify_seconds."""
        import pandas as pd

        columns = [name for name in Round._fields if name != "proposed"]
        frame = pd.DataFrame([one[1:] for one in self.rounds], columns=columns)
        frame.insert(0, "proposed", [len(one.proposed) for one in self.rounds])
        return frame.rename_axis("round")

    @property
    def drafted(self) -> list[bool]:
        """For each token of the text whether it was drafted, rather than chosen by the model at the end of a round."""
        found = [False]
        for one in self.rounds:
            accepted = min(one.accepted, one.kept)
            found += [True] * accepted + [False] * (one.kept - accepted)
        return found

    @property
    def proposed(self) -> int:
        return sum(len(one.proposed) for one in self.rounds)

    @property
    def accepted(self) -> int:
        return sum(one.accepted for one in self.rounds)

    @property
    def acceptance(self) -> float:
        """The share of proposed tokens that were accepted; NaN where none was proposed."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a pass of the model brought; 1 without speculation. NaN without a pass."""
        return sum(one.kept for one in self.rounds) / len(self.rounds) if self.rounds else float("nan")

    @property
    def perfect_tokens_per_pass(self) -> float:
        """The bound: what a pass would have brought had every proposed token been accepted."""
        return 1 + self.proposed / len(self.rounds) if self.rounds else float("nan")

    @property
    def draft_seconds(self) -> float:
        return sum(one.draft_seconds for one in self.rounds)

    @property
    def verify_seconds(self) -> float:
        return sum(one.verify_seconds for one in self.rounds)

    @property
    def tokens_per_second(self) -> float:
        """Of all rounds, drafting included; NaN without one."""
        return self._a_second(sum(one.kept for one in self.rounds))

    @property
    def perfect_tokens_per_second(self) -> float:
        """The bound: had every proposed token been accepted, in the same seconds."""
        return self._a_second(self.proposed + len(self.rounds))

    def _a_second(self, tokens: int) -> float:
        seconds = self.draft_seconds + self.verify_seconds
        return tokens / seconds if seconds > 0 else float("nan")

    def __str__(self) -> str:
        return (
            f"Speculation by {self.draft}: {self.accepted} of {self.proposed} drafted tokens accepted, "
            f"{self.tokens_per_pass:.2f} tokens a pass (at most {self.perfect_tokens_per_pass:.2f}), "
            f"{self.draft_seconds:.2f} s drafting, {self.verify_seconds:.2f} s verifying"
        )
