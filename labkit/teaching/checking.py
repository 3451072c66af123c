"""`lk.check`: run an answer on an exercise's cases and say at once what is right, or which case failed and why."""

from __future__ import annotations

import builtins
import contextlib
import copy
import html
import io
import linecache
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from labkit.markup import html_table, shorten, visible
from labkit.teaching import compare, progress
from labkit.teaching.exercises import Case, Exercise, find

_PRINTED_CHARACTERS = 600
_HERE = __file__


@dataclass(frozen=True)
class CaseResult:
    """One case: what it shows, whether the answer agreed, and what was wrong with it ("" where nothing was)."""

    shows: str
    passed: bool
    problem: str


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What `lk.check` found. passed is None where nothing has been solved yet.

    message: the whole of it in sentences.  cases: one CaseResult each, none where the answer never ran.
    """

    id: str
    passed: bool | None
    message: str
    cases: tuple[CaseResult, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    """Label and text of what belongs to the failing case: input, expected, got, printed."""

    def __repr__(self) -> str:
        lines = [self.message]
        for label, text in self.details:
            first, *rest = text.split("\n")
            lines.append(f"  {label:>8}  {first}")
            lines += [f"  {'':>8}  {line}" for line in rest]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        colour = {True: "light-dark(#00664d, #4fd1a5)", False: "light-dark(#a34700, #f0953f)", None: "inherit"}[
            self.passed
        ]
        head, *rest = self.message.split("\n")
        more = "".join(f'<p style="margin:.3em 0">{html.escape(line)}</p>' for line in rest)
        return (
            f'<div style="border-left:3px solid {colour};padding:.2em .8em;max-width:56em;'
            f'font-family:var(--jp-content-font-family, sans-serif)">'
            f'<p style="margin:.1em 0;font-weight:600">{html.escape(head)}</p>'
            f"{html_table(self.details, labelled=True, code=(1,))}{more}</div>"
        )


def check(id: str, answer: object) -> CheckResult:
    """Run an answer on the exercise's cases.

    answer: the function asked for; `...`, or a function that returns `...`, is not solved yet (passed is None).
    Each case gets inputs of its own, so an answer may change them; random state, grad mode and what it prints are
    kept from the notebook. Whatever the answer does wrong is told, never raised. There is no time limit: an answer that
    doesn't end is stopped by interrupting the kernel. Raises BadInput for an id that is not known.
    """
    exercise = find(id)
    if answer is ...:
        return _unsolved(exercise)
    if not callable(answer):
        return _failed(exercise, _not_a_function(exercise, answer))
    with _state_kept():
        cases = list(exercise.cases())
        expected = [_outcome(exercise.reference, case) for case in cases]
        got = []
        for case in cases:
            got.append(_outcome(answer, case))
            if got[-1].value is ...:
                return _unsolved(exercise)
        results = tuple(_judge(exercise, *three) for three in zip(cases, expected, got, strict=True))
        if all(result.passed for result in results):
            if objection := _objection(exercise, answer):
                progress.tried(exercise.id, solved=False)
                return CheckResult(exercise.id, False, f"Not yet: {objection}", results)
            progress.tried(exercise.id, solved=True)
            count = f"all {len(cases)} cases agree" if len(cases) > 1 else "the case agrees"
            message = f"Right: {count} with the reference.\n{exercise.right}"
            if note := _mutation_note(exercise, got):
                message += f"\n{note}"
            return CheckResult(exercise.id, True, message, results)
        return _explain(exercise, cases, expected, got, results, answer)


def _objection(exercise: Exercise, answer: Callable[..., object]) -> str | None:
    """What is wrong with an answer that agrees on all cases; None where nothing is, or where it fails on more of them."""
    if exercise.objection is None:
        return None
    try:
        return exercise.objection(answer)
    except Exception:
        return None


# ------------------------------------------------------------------------------------------------------- running it


@dataclass(frozen=True)
class _Outcome:
    """What a function did with a case: its value or its exception, what it printed, which input it wrote into."""

    value: object = None
    error: BaseException | None = None
    printed: str = ""
    changed: tuple[int, ...] = ()


class _Bounded(io.StringIO):
    """Keeps the beginning of what is written to it."""

    def write(self, text: str) -> int:
        if self.tell() <= _PRINTED_CHARACTERS:
            super().write(text[: _PRINTED_CHARACTERS + 1])
        return len(text)


def _outcome(function: Callable[..., object], case: Case) -> _Outcome:
    inputs = copy.deepcopy(case.inputs)
    screen = _Bounded()
    try:
        with contextlib.redirect_stdout(screen):
            value = function(*inputs)
    except (Exception, SystemExit) as error:  # an interrupt is the user's and goes on
        return _Outcome(error=error, printed=screen.getvalue())
    changed = tuple(i for i, (a, b) in enumerate(zip(inputs, case.inputs, strict=True)) if not _same(a, b))
    return _Outcome(_own(value), None, screen.getvalue(), changed)


def _own(value: object) -> object:
    """A copy of a returned tensor, since the next call may write into the same one."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_own(v) for v in value)
    if isinstance(value, list) and type(value) is list:
        return [_own(v) for v in value]
    return value.copy() if isinstance(value, np.ndarray) and type(value) is np.ndarray else value


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return bool(a == b)


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """Give back random state, grad mode, default dtype and default device as they were."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


# ------------------------------------------------------------------------------------------------------- judging it


def _judge(exercise: Exercise, case: Case, expected: _Outcome, got: _Outcome) -> CaseResult:
    problem: str | None
    if got.error is not None:
        problem = _error_text(got.error)
    else:
        try:
            problem = compare.difference(
                expected.value, got.value, tolerance=exercise.tolerance, names=exercise.outputs
            )
        except Exception as error:  # an object of the learner's that fails while it is looked at
            problem = f"what it returned can't be compared: {_error_text(error)}"
    return CaseResult(case.shows, problem is None, problem or "")


def _explain(
    exercise: Exercise,
    cases: list[Case],
    expected: list[_Outcome],
    got: list[_Outcome],
    results: tuple[CaseResult, ...],
    answer: object,
) -> CheckResult:
    progress.tried(exercise.id, solved=False)
    at = next(i for i, result in enumerate(results) if not result.passed)
    right = sum(result.passed for result in results)
    head = f"Not yet: {results[at].shows}. {_sentence(results[at].problem)}"
    lines = [head]
    error = got[at].error
    if error is not None and (place := _place(error, answer)):
        lines.append(place)
    if error is not None and _refused_the_call(error):
        lines.append(f"It is called as {exercise.signature}.")
    if (says := _recognized(exercise, cases, got, results)) is not None:
        lines.append(says)
    elif error is None and got[at].value is not None and _nan(got[at].value):
        lines.append("NaN often comes from a row in which everything was masked, or from 0 / 0.")
    if right:
        lines.append(f"{right} of {len(results)} cases agree.")
    if note := _mutation_note(exercise, got):
        lines.append(note)
    details = [
        ("input", _named(exercise.arguments, cases[at].inputs)),
        ("expected", _safe_show(expected[at].value, exercise.outputs)),
    ]
    if error is None:
        details.append(("got", _safe_show(got[at].value, exercise.outputs)))
    if got[at].printed.strip():
        details.append(("printed", shorten(visible(got[at].printed.rstrip()), _PRINTED_CHARACTERS)))
    return CheckResult(exercise.id, False, "\n".join(lines), results, tuple(details))


def _recognized(
    exercise: Exercise, cases: list[Case], got: list[_Outcome], results: tuple[CaseResult, ...]
) -> str | None:
    """What is said to the usual mistake that gives the same on every case.

    Where there is none, to the one that gives the same on most of the failing cases, the first of them included: an
    answer may hold two mistakes.
    """
    failing = [i for i, result in enumerate(results) if not result.passed]
    likely: tuple[int, str] | None = None
    for mistake in exercise.mistakes:
        alike = [
            _alike(_outcome(mistake.wrong, case), g, exercise.tolerance) for case, g in zip(cases, got, strict=True)
        ]
        if all(alike):
            return mistake.says
        matches = sum(alike[i] for i in failing)
        if alike[failing[0]] and matches >= 2 and (likely is None or matches > likely[0]):
            likely = matches, mistake.says
    return likely[1] if likely else None


def _alike(a: _Outcome, b: _Outcome, tolerance: float) -> bool:
    if a.error is not None or b.error is not None:
        return type(a.error) is type(b.error)
    try:
        return compare.difference(a.value, b.value, tolerance=tolerance) is None
    except Exception:  # what can't be compared is like nothing
        return False


def _unsolved(exercise: Exercise) -> CheckResult:
    return CheckResult(
        exercise.id, None, f"Not solved yet: replace the ... with your own {exercise.signature}, then run this again."
    )


def _failed(exercise: Exercise, message: str) -> CheckResult:
    progress.tried(exercise.id, solved=False)
    return CheckResult(exercise.id, False, message)


def _not_a_function(exercise: Exercise, answer: object) -> str:
    what = "None" if answer is None else compare._what(answer)
    return (
        f"Not yet: the function itself is wanted, and this is {what}. Write "
        f'lk.check("{exercise.id}", {exercise.name}), without calling it.'
    )


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _error_text(error: BaseException) -> str:
    name = type(error).__name__
    try:
        said = " ".join(builtins.str(error).split())
    except Exception:  # an exception of the learner's own whose text fails
        said = ""
    return shorten(visible(f"it raised {name}{f': {said}' if said else ''}"), 300)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error below this module's own call."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while frames and frames[0].filename == _HERE:
        frames.pop(0)
    return frames


def _refused_the_call(error: BaseException) -> bool:
    return isinstance(error, TypeError) and not _frames(error)


def _place(error: BaseException, answer: object) -> str:
    """The line of the learner's own code that failed."""
    frames = _frames(error)
    own = getattr(getattr(answer, "__code__", None), "co_filename", None)
    mine = [frame for frame in frames if frame.filename == own] or frames[:1]
    if not mine or mine[-1].lineno is None:
        return ""
    frame = mine[-1]
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    return shorten(visible(f"That was in line {frame.lineno}{f': {line}' if line else ''}"), 240)


def _nan(value: object) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return any(
        isinstance(v, torch.Tensor) and v.is_floating_point() and not v.is_meta and bool(v.isnan().any())
        for v in values
    )


def _safe_show(value: object, names: tuple[str, ...] = ()) -> str:
    try:
        if names and isinstance(value, tuple) and len(value) == len(names):
            return _named(names, value)
        return compare.show(value)
    except Exception:  # an object of the learner's that fails while it is shown
        return f"a {type(value).__name__}"


def _named(names: tuple[str, ...], values: tuple[object, ...]) -> str:
    shown = [(name, compare.show(value)) for name, value in zip(names, values, strict=True)]
    return "\n".join(f"{name} ={chr(10) if chr(10) in text else ' '}{text}" for name, text in shown)


def _mutation_note(exercise: Exercise, got: list[_Outcome]) -> str:
    changed = sorted({i for outcome in got for i in outcome.changed})
    if not changed:
        return ""
    names = " and ".join(exercise.arguments[i] for i in changed)
    return f"A remark: it writes into {names}, which the caller may still need; make a new tensor instead."
