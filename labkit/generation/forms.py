"""Holding a text to a form: which tokens may come next, and how much of the model's probability that takes away.

llguidance compiles a form and says at each step which tokens can go on towards a text that satisfies it. What a user gives
is read once (`read`), written in llguidance's terms and checked; `FormMasks` follows the rows of a run. Nothing of a form is
left out in silence: what can't be enforced is refused by its name.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.generation import regular, schemas
from labkit.generation.vocabulary import Vocabulary, vocabulary
from labkit.trace.past import in_common

if TYPE_CHECKING:
    import llguidance
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["Form", "FormMasks", "Grammar", "read"]

FormKind = Literal["schema", "expression", "choices", "grammar"]
WANTED = (
    "a JSON schema (a dict), a pydantic model class, a regular expression (a text or re.compile(...)), a list of choices, or "
    "lk.Grammar(...)"
)
_SUBJECTS: dict[FormKind, str] = {
    "schema": "this schema",
    "expression": "this expression",
    "choices": "these choices",
    "grammar": "this grammar",
}
MOST_COMPILED = 32  # forms that are kept for a tokenizer
_TEMPERED = re.compile(r"(?m)^\s*\w+\s*\[[^]\n]*\btemperature\s*=")  # llguidance reads it and leaves it to its caller
# Where only one text can follow, llguidance would allow the one token with which the tokenizer begins that text, taken by itself:
# not a token less than the form does, and no first space that the tokenizer puts there.
_SETTINGS = '%llguidance {"no_forcing": true}\n'
_UNSATISFIABLE = "Unsatisfiable schema: "
_NO_TOKEN = "NoExtension"  # how llguidance says that no token goes on
MOST_SAID = 200  # characters of what llguidance says
# llguidance's compiler goes down from rule to rule on the machine's own stack, and one that runs over ends the process. A
# rule is 8 characters at least and takes up to 4 KiB.
SHALLOW = 4096  # characters of a grammar for which any thread's stack will do
STACK_BYTES = 512 * 2**20  # for the largest that llguidance takes; memory is taken up only as far as it is used
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar in llguidance's dialect of Lark; the text begins at the rule `start`.

    lk.Grammar('start: number ("+" number)*\\nnumber: /[0-9]{1,3}/')
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            checks.refuse("Grammar", self.text, 'a grammar in Lark\'s notation, such as \'start: "yes" | "no"\'')


@dataclass(frozen=True, repr=False)
class Form:
    """What a text is held to, checked. grammar: as llguidance takes it. kind: what it was given as."""

    kind: FormKind
    grammar: str
    given: object

    def __repr__(self) -> str:
        return f"Form({self.kind}: {checks.shown(self.given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and (self.kind, self.grammar) == (other.kind, other.grammar)

    def __hash__(self) -> int:
        return hash((self.kind, self.grammar))


def read(given: object) -> Form | None:
    """The form that a user gave as form=; None for None.

    Raises BadInput for what is no form, a form that nothing satisfies, and one that can't be enforced, naming the keyword
    or construct; Unavailable where llguidance is not installed.
    """
    if given is None or isinstance(given, Form):
        return given
    if isinstance(given, Mapping):
        return _checked("schema", schemas.grammar(given), given)
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return _checked("schema", _of_model(given), given)
    if isinstance(given, str):
        _meant_otherwise(given)
    if isinstance(given, str | re.Pattern):
        return _checked("expression", _start(regular.full_match(given)), given)
    if isinstance(given, Grammar):
        if _TEMPERED.search(given.text):
            raise BadInput("A grammar can't set the temperature of a rule; give temperature= to generate instead.")
        return _checked("grammar", schemas.embedded(given.text), given)
    if isinstance(given, Sequence) and not isinstance(given, bytes):
        wanted = "choices that are texts, none of them empty, such as ['yes', 'no']"
        choices = checks.texts("form", given) or checks.refuse("form", given, wanted)
        if (bad := next((one for one in choices if not _is_text(one)), None)) is not None:
            raise BadInput(
                f"The choice {checks.shown(bad)} holds a surrogate, which no text of tokens does; leave it out."
            )
        written = "|".join(dict.fromkeys(regular.literal(choice) for choice in choices))
        return _checked("choices", _start(written), given)
    checks.refuse("form", given, WANTED)


def _is_text(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def _of_model(model: Any) -> str:
    """The grammar of a pydantic model's schema. It takes no more properties than it names: others would be thrown away."""
    try:
        schema = model.model_json_schema()
    except Exception as error:  # pydantic's own, and whatever a model's hooks raise
        said = str(error).strip().partition("\n")[0]
        raise BadInput(f"{model.__name__} has no JSON schema: {_sentence(said)}.") from error
    return schemas.grammar(schema, of=model.__name__, closed=True)


def _meant_otherwise(text: str) -> None:
    """Raise BadInput for a text that is a schema or a grammar, and would be read as a regular expression."""
    if not text:
        checks.refuse("form", text, WANTED)
    if re.search(r"(?m)^\s*start\s*:", text):
        raise BadInput(
            "A text given as form= is a regular expression, and this one looks like a grammar; give lk.Grammar(text)."
        )
    try:
        parsed = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        return
    if isinstance(parsed, dict):
        raise BadInput(
            "A text given as form= is a regular expression, and this one looks like a JSON schema; give json.loads(text)."
        )


def _start(expression: str) -> str:
    return f"start: /(?:{expression})/"


def _checked(kind: FormKind, lark: str, given: object) -> Form:
    """The form, once llguidance has read it."""
    matcher = _llguidance().LLMatcher
    grammar = matcher.grammar_from_lark(f"{lark}\n{_SETTINGS}")
    failed, said = _deep(lambda: matcher.validate_grammar_with_warnings(grammar), grammar)
    if failed or said:
        raise _refused(kind, said[0])
    return Form(kind, grammar, given)


def _refused(kind: FormKind, said: str) -> BadInput:
    """A form that llguidance can't hold a text to, or that nothing satisfies."""
    if "no tokenizer" in said:
        said = "it names special tokens, which are never part of a form"
    reason = _sentence(said)
    if _UNSATISFIABLE in reason:
        reason = reason.partition(_UNSATISFIABLE)[2]
        if reason.startswith("Regex is empty"):
            reason = "no text has its pattern, format and length together"
        return BadInput(f"Nothing satisfies this schema: {reason}.")
    if "symbols.len()" in reason:
        reason = "it has too many rules"
    if "recursion limit" in reason:
        reason = "it is nested too deeply"
    if "oneOf constraints" in reason:
        reason = 'more than one alternative of "oneOf" may hold; use "anyOf", or give each a property with a "const" of its own'
    what = _SUBJECTS[kind]
    return BadInput(f"{what[0].upper()}{what[1:]} can't be enforced: {reason}.")


def _sentence(said: str) -> str:
    """What llguidance says of a form, in one line, without its trace and its picture of the place."""
    lines = said.partition("<backtrace>")[0].partition("<state>")[0].splitlines()
    text = " ".join(" ".join(line.split()) for line in lines if not re.match(r"\s*(\d+ \||\^+\s*$|$)", line))
    text = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", text)
    return (text if len(text) <= MOST_SAID else text[: MOST_SAID - 1] + "…").rstrip(".")


def _deep(work: Callable[[], _Made], grammar: str) -> _Made:
    """What `work` makes of a grammar, on a stack that is deep enough for it."""
    if len(grammar) <= SHALLOW:
        return work()
    found: Future[_Made] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, name="labkit-form", daemon=True)
    with _STACKS:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    return found.result()


_STACKS = threading.Lock()  # the size is one for the whole process


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise Unavailable("form= needs llguidance; install it with: pip install llguidance") from None
    return llguidance


class FormMasks:
    """A form held over the rows of one run: which tokens it allows next, and whether a row is whole.

    Each row has a matcher that follows the row's ids, and is taken back where they change. So a row may be run in any way:
    token by token, several at once, some of them undone.
    """

    def __init__(self, form: Form, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], rows: int) -> None:
        self.form, self.ends = form, frozenset(ends)
        self.vocabulary = vocabulary(tokenizer, ends)
        self._first = _compiled(form, self.vocabulary)
        self._matchers = [self._first.deep_copy() for _ in range(rows)]
        self._ends = sorted(self.ends)
        self._ids: list[list[int]] = [[] for _ in range(rows)]

    def follow(self, row: int, ids: Sequence[int]) -> None:
        """Bring a row to where these generated ids leave it; those that end the text are passed over.

        Raises BadInput for ids that the form forbids.
        """
        matcher, taken = self._matchers[row], self._ids[row]
        ids = ids if self.ends.isdisjoint(ids) else [id_ for id_ in ids if id_ not in self.ends]
        same = len(taken) if taken == ids[: len(taken)] else in_common(taken, ids)
        if same < len(taken):
            if not matcher.rollback(len(taken) - same):  # none with stop= or max_tokens= in a grammar
                matcher, same = self._first.deep_copy(), 0
                self._matchers[row] = matcher
            del taken[same:]
        for id_ in ids[same:]:
            if id_ in self._barred(row) or matcher.try_consume_tokens([id_]) != 1:
                if matcher.is_error():
                    raise _too_much(matcher)
                raise BadInput(f"Token {id_} can't come after {len(taken):,} tokens of this text: its form forbids it.")
            taken.append(id_)

    def add(self, row: int, id_: int) -> None:
        """Follow one more token."""
        self.follow(row, [*self._ids[row], id_])

    def allowed(self, row: int, width: int) -> torch.Tensor:
        """(width,) bool: the tokens that may come next in a row; those that end the text where it is whole.

        Raises Unavailable when there are none, or when the form takes more work at this step than llguidance allows.
        """
        import numpy as np
        import torch

        found = np.zeros(width, dtype=bool)
        if not self._matchers[row].is_stopped():
            each = self._going_on(row)[:width]
            found[: len(each)] = each
        if self.complete(row):
            found[[id_ for id_ in self._ends if id_ < width]] = True
        if not found.any():
            if (matcher := self._matchers[row]).is_error() and not matcher.get_error().startswith(_NO_TOKEN):
                raise _too_much(matcher)
            after = b"".join(self.vocabulary.tokens[id_] for id_ in self._ids[row]).decode("utf-8", "replace")
            raise Unavailable(
                f"No token of this model goes on in the form after {checks.shown(after)}: its tokenizer does not have the "
                "characters that the form asks for there. Allow others in the form."
            )
        return torch.from_numpy(found)

    def _going_on(self, row: int) -> np.ndarray:
        """(tokens of the vocabulary,) bool: the tokens that go on with the text."""
        import numpy as np
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        matcher = self._matchers[row]
        bits = allocate_token_bitmask(1, self.vocabulary.guidance.vocab_size)
        fill_next_token_bitmask(matcher, bits)
        if matcher.is_error() and not matcher.get_error().startswith(_NO_TOKEN):
            raise _too_much(matcher)
        found = np.unpackbits(bits[0].view(np.uint8), count=len(self.vocabulary.tokens), bitorder="little").view(bool)
        found[[*self._barred(row), *(id_ for id_ in self._ends if id_ < len(found))]] = False
        return found

    def _barred(self, row: int) -> Sequence[int]:
        """Tokens that the tokenizer would show otherwise at the beginning of a text."""
        return () if self._ids[row] else self.vocabulary.stripped

    def complete(self, row: int) -> bool:
        """Whether what a row has so far satisfies the form."""
        return bool(self._matchers[row].is_accepting())

    def finished(self, row: int) -> bool:
        """Whether it does, and nothing can follow."""
        if not self.complete(row):
            return False
        stopped = bool(self._matchers[row].is_stopped())
        return stopped or (not self.ends and not self._going_on(row).any())

    def accepts(self, text: str) -> bool:
        """Whether a whole text satisfies the form, however it is cut into tokens."""
        matcher = self._first.deep_copy()
        ids = self.vocabulary.guidance.greedy_tokenize(text)
        spelt = b"".join(self.vocabulary.tokens[id_] for id_ in ids) == text.encode("utf-8", "surrogatepass")
        return spelt and matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


def _too_much(matcher: llguidance.LLMatcher) -> Unavailable:
    return Unavailable(
        f"The form can't be followed any further: {_sentence(matcher.get_error())}. Make it simpler, above all repeats with "
        "large bounds and rules that can be read in many ways."
    )


def _compiled(form: Form, of: Vocabulary) -> llguidance.LLMatcher:
    """The form's matcher at its beginning, for this tokenizer: made once and kept. It is to be copied, not moved."""
    kept = of.compiled
    if form.grammar not in kept:
        made = _llguidance().LLMatcher
        matcher = _deep(lambda: made(of.guidance, form.grammar, log_level=0), form.grammar)
        if matcher.is_error():
            raise _refused(form.kind, matcher.get_error())
        first = matcher.deep_copy()
        if not any(first.compute_bitmask()) or first.is_error():
            raise BadInput(f"Nothing that this model's tokens can spell satisfies {_SUBJECTS[form.kind]}.")
        while len(kept) >= MOST_COMPILED:
            del kept[next(iter(kept))]
        kept[form.grammar] = matcher
    return kept[form.grammar]
