"""Python's regular expressions, written so that llguidance reads them as Python does.

The two dialects look alike and differ in what they mean: `[[a]`, `[a&&b]`, `\\w`, `\\s`, `{,3}`, `$` before a last line
break, case folding. So nothing is passed on as it was written. Python's own parser reads the expression, and what it found
is written anew in a form that has one meaning: alternatives, repeats, and sets of code points.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal, NoReturn

from labkit.checks import shown
from labkit.errors import BadInput

_parser: Any = re._parser  # type: ignore[attr-defined]  # what re.compile uses; it has no public name
_UNBOUNDED = re._constants.MAXREPEAT  # type: ignore[attr-defined]

ANYTHING = "(?s:.*)"
MOST_FOLDED = 10_000  # code points whose cases are looked up one by one

# Character classes, as the inside of a set. Dialects differ: those of Python are found by asking it ("python"); there is what
# every dialect agrees on ("narrow"), and what any of them counts in ("wide").
_Breadth = Literal["ascii", "python", "narrow", "wide"]
_SPACES = r"\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
_CLASSES: dict[_Breadth, dict[str, str]] = {
    "ascii": {"DIGIT": "0-9", "WORD": "0-9A-Za-z_", "SPACE": r"\t-\r\u{20}"},
    "narrow": {"DIGIT": "0-9", "WORD": "0-9A-Za-z_", "SPACE": rf"\t-\r\u{{20}}{_SPACES}"},
    "wide": {
        "DIGIT": r"\p{Nd}",
        "WORD": r"\p{L}\p{M}\p{N}\p{Pc}",
        "SPACE": rf"\t-\r\u{{1c}}-\u{{20}}\u{{85}}\u{{feff}}{_SPACES}",
    },
}
_OTHER: dict[_Breadth, _Breadth] = {"ascii": "ascii", "python": "python", "narrow": "wide", "wide": "narrow"}

_UNSUPPORTED = {
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a condition on a group",
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
    "AT_BEGINNING": "^ after the beginning",
    "AT_BEGINNING_STRING": r"\A after the beginning",
    "AT_END": "$ before the end",
    "AT_END_STRING": r"\Z before the end",
}
_BEGINNINGS, _ENDINGS = ("AT_BEGINNING", "AT_BEGINNING_STRING"), ("AT_END", "AT_END_STRING")

_Part = tuple[Any, Any]  # what Python's parser makes: an operation and its argument


def full_match(pattern: str | re.Pattern[str]) -> str:
    """The texts that `re.fullmatch(pattern, text)` matches, as an expression of llguidance's.

    Raises BadInput for what is no regular expression, and for what no finite automaton decides, by its name.
    """
    return _written(pattern, within=False)


def within(pattern: str) -> str:
    """The texts in which a JSON schema's `pattern` is found somewhere, as an expression that matches them whole.

    JSON Schema means ECMA-262's dialect, and validators search with their own language's. Classes hold what these agree on,
    so that no validator finds fault with the text: \\d is 0 to 9, and \\D nothing that is a digit to anybody.
    Raises BadInput, as `full_match` does.
    """
    return _written(pattern, within=True)


def literal(text: str) -> str:
    """An expression that matches one text alone."""
    return "".join(_character(ord(character)) for character in text)


def _written(pattern: str | re.Pattern[str], *, within: bool) -> str:
    text, flags = (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else (pattern, 0)
    if not isinstance(text, str):
        raise BadInput(
            f"The expression {shown(text)} is one of bytes; give one of text, such as re.compile(r'[0-9]+')."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that may come to mean more in a later Python
            tree = _parser.parse(text, flags)
        return _Writer(text, tree.state.flags, within=within).sequence(list(tree), first=True, last=True)
    except re.error as error:
        where = "" if error.pos is None else f" at place {error.pos}"
        raise BadInput(f"{shown(text)} is no regular expression: {error.msg}{where}.") from None
    except (RecursionError, OverflowError):
        raise BadInput(f"{shown(text)} is nested too deeply, or repeats too often, to be enforced.") from None


class _Writer:
    """Writes what Python's parser found.

    within: the expression may stand anywhere in the text. first, last: whether a part is the first or the last of the
    expression, so that it says what may come before or after it.
    """

    def __init__(self, text: str, flags: int, *, within: bool) -> None:
        self.text, self.flags, self.within = text, flags, within
        self.around = ANYTHING if within else ""

    def sequence(self, parts: list[_Part], *, first: bool, last: bool) -> str:
        """Parts one after the other; ^ and $ at the two ends hold them to the text's."""
        if first and parts and self._at(parts[0], _BEGINNINGS):
            parts, first = parts[1:], False
        if last and parts and self._at(parts[-1], _ENDINGS):
            parts, last = parts[:-1], False
        if not parts:
            return self.around if first or last else ""
        return "".join(
            self.part(*part, first=first and i == 0, last=last and i == len(parts) - 1) for i, part in enumerate(parts)
        )

    def _at(self, part: _Part, places: Sequence[str]) -> bool:
        if str(part[0]) != "AT" or str(part[1]) not in places:
            return False
        if self.within and self.flags & re.MULTILINE:
            self.refuse("^ or $ with (?m)")
        return True

    def part(self, operation: Any, value: Any, *, first: bool, last: bool) -> str:
        name = str(operation)
        if name == "BRANCH":
            return "(?:" + "|".join(self.sequence(list(way), first=first, last=last) for way in value[1]) + ")"
        if name == "SUBPATTERN":
            _, added, removed, parts = value
            before, self.flags = self.flags, (self.flags | added) & ~removed
            try:
                return "(?:" + self.sequence(list(parts), first=first, last=last) + ")"
            finally:
                self.flags = before
        return self.around * first + self.inner(name, value) + self.around * last

    def inner(self, name: str, value: Any) -> str:
        """A part that is the same wherever it stands."""
        if name in ("MAX_REPEAT", "MIN_REPEAT"):  # lazy or not, the same texts match as a whole
            least, most, parts = value
            repeated = self.sequence(list(parts), first=False, last=False)
            return f"(?:{repeated}){{{least},{'' if most is _UNBOUNDED else most}}}"
        if name == "ANY":
            if self.flags & re.DOTALL:
                return "(?s:.)"
            return r"[^\n\r\u{2028}\u{2029}]" if self.within else r"[^\n]"
        if name == "LITERAL":
            return self.set([(name, value)], negated=False)
        if name == "NOT_LITERAL":
            return self.set([("LITERAL", value)], negated=True)
        if name == "IN":
            negated = str(value[0][0]) == "NEGATE"
            return self.set(value[1:] if negated else value, negated=negated)
        self.refuse(_UNSUPPORTED.get(str(value) if name == "AT" else name, name))

    def set(self, items: Iterable[_Part], *, negated: bool) -> str:
        """A set of characters. In a set that is negated the wide reading of a class is the safe one."""
        breadth: _Breadth = "ascii" if self.flags & re.ASCII else "python"
        if self.within:
            breadth = "wide" if negated else "narrow"
        written = "".join(self.item(str(name), value, breadth) for name, value in items)
        if not written:  # of surrogates alone, which no text holds
            return "(?s:.)" if negated else self.refuse("a surrogate")
        return f"[{'^' * negated}{written}]"

    def item(self, name: str, value: Any, breadth: _Breadth) -> str:
        if name == "CATEGORY":
            kind = str(value).removeprefix("CATEGORY_")
            if kind.startswith("NOT_"):
                return f"[^{_class(kind.removeprefix('NOT_'), _OTHER[breadth])}]"
            return _class(kind, breadth)
        least, most = value if name == "RANGE" else (value, value)
        if self.flags & re.IGNORECASE:
            return self.folded(least, most)
        return _range(least, most)

    def folded(self, least: int, most: int) -> str:
        """A range with the other cases of its letters, as Python matches them."""
        if most - least >= MOST_FOLDED:
            self.refuse(f"a range of more than {MOST_FOLDED:,} characters without regard to case")
        kind = re.IGNORECASE | (self.flags & re.ASCII)
        found = {
            other
            for code in range(least, most + 1)
            for other in {code, *_cases()[_folded(code)]}
            if re.fullmatch(re.escape(chr(code)), chr(other), kind)
        }
        return "".join(_range(code, code) for code in sorted(found))

    def refuse(self, what: str) -> NoReturn:
        raise BadInput(
            f"{shown(self.text)} holds {what}, which can't be enforced token by token; write the expression without it."
        )


def _class(kind: str, breadth: _Breadth) -> str:
    if breadth == "python":
        return _pythons(kind)
    return _CLASSES[breadth][kind] + (_pythons(kind) if breadth == "wide" else "")


@cache
def _pythons(kind: str) -> str:
    """What this Python counts to a class; versions of Unicode differ in it."""
    held: Callable[[str], bool] = {
        "DIGIT": str.isdecimal,
        "WORD": lambda character: character.isalnum() or character == "_",
        "SPACE": str.isspace,
    }[kind]
    codes = [code for code in range(sys.maxunicode + 1) if held(chr(code))]
    begins = [code for i, code in enumerate(codes) if not i or codes[i - 1] != code - 1]
    ends = [code for i, code in enumerate(codes) if i + 1 == len(codes) or codes[i + 1] != code + 1]
    return "".join(_range(least, most) for least, most in zip(begins, ends, strict=True))


@cache
def _cases() -> dict[str, list[int]]:
    """Characters by what is left of them when case is taken away."""
    found: dict[str, list[int]] = defaultdict(list)
    for code in range(sys.maxunicode + 1):
        found[_folded(code)].append(code)
    return found


def _folded(code: int) -> str:
    return chr(code).upper().lower().casefold()


def _range(least: int, most: int) -> str:
    """A range of code points inside a set, less those at its ends that are no characters."""
    least = 0xE000 if 0xD800 <= least <= 0xDFFF else least
    most = 0xD7FF if 0xD800 <= most <= 0xDFFF else most
    if least > most:
        return ""
    return _character(least) if least == most else f"{_character(least)}-{_character(most)}"


def _character(code: int) -> str:
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\u{{{code:x}}}"
