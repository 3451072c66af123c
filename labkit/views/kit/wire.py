"""Questions that a page asks of its view, by name, and their answers: the other end of `kit/ask.js`.

A view answers with methods marked `@answers`; their annotations say what they take, and a question that doesn't fit is
refused with a sentence, as is one whose handler raises. Every question gets an answer, so that the page knows whether the
kernel is there.
"""

from __future__ import annotations

import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from labkit.errors import BadInput
from labkit.markup import shorten, visible
from labkit.views.kit.errors import error_sentence

if TYPE_CHECKING:
    from labkit.views.base import View

_MARK = "_labkit_answers"
_PREFIX = "_answer_"
Method = TypeVar("Method", bound=Callable[..., object])


@dataclass(frozen=True)
class Answer:
    """value: what JSON takes; buffers: bytes beside it, each a DataView in the browser."""

    value: object = None
    buffers: Sequence[bytes] = ()


def answers(method: Method) -> Method:
    """Have a view's method answer the question of its name, without a leading `_answer_`.

    Its parameters are those of the question, by name, each int, float, bool, str, a list of these, or such a type or None;
    what it returns, an Answer or a value that JSON takes, is the answer.
    """
    setattr(method, _MARK, method.__name__.removeprefix(_PREFIX))
    return method


def handlers(view: type[View]) -> dict[str, str]:
    """The questions that a class answers, and the names of the methods that do."""
    found = {}
    for name, method in inspect.getmembers(view, inspect.isfunction):
        if question := getattr(method, _MARK, None):
            found[str(question)] = name
    return found


def receive(view: View, content: object) -> None:
    """Answer one message {"ask": name, "id": anything, "args": {...}} of the page; other messages are none of ours."""
    if not isinstance(content, dict) or not isinstance(content.get("ask"), str):
        return
    try:
        answer = _answer(view, content["ask"], content.get("args") or {})
        said: dict[str, object] = {"value": answer.value}
        buffers = list(answer.buffers)
    except Exception as error:
        if not isinstance(error, BadInput):
            logging.getLogger("labkit").exception("A question of a page can't be answered: %s", content["ask"])
        said, buffers = {"refused": error_sentence(error, "It can't be answered:")}, []
    if view.comm is not None:
        view.send({"answer": content.get("id"), **said}, buffers=buffers)


def _answer(view: View, question: str, given: object) -> Answer:
    if question == "ping":
        return Answer()
    name = handlers(type(view)).get(question)
    if name is None:
        raise BadInput(f"{type(view).__name__} answers no question {_short(question)}.")
    method = getattr(view, name)
    takes = typing.get_type_hints(method)
    wanted = {each: takes.get(each, object) for each in inspect.signature(method).parameters}
    if not isinstance(given, Mapping) or set(given) != set(wanted):
        raise BadInput(
            f"The question {question} takes {', '.join(wanted) or 'nothing'}, and was asked with {_short(given)}."
        )
    for each, kind in wanted.items():
        if not fits(given[each], kind):
            raise BadInput(f"{each}={_short(given[each])} of the question {question} can't be used.")
    found = method(**given)
    return found if isinstance(found, Answer) else Answer(found)


def fits(value: object, kind: object) -> bool:
    """Whether a value that came as JSON is of an annotated type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is object or (isinstance(kind, type) and isinstance(value, kind))


def _short(value: object) -> str:
    return shorten(visible(repr(value)), 60)
