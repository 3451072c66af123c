"""Arguments checked in one way, for all rooms. Each function returns the value as Python's own type, or raises BadInput.

    draws = checks.whole("draws", draws, 1)
    noise = checks.number("noise", noise, 0)
    by = checks.one_of("by", by, ("usage", "effect"))
    layer = checks.index("layer", layer, trace.layers, of=f"{trace.model} has")

The sentences all read alike, "draws=0 can't be used; give a whole number from 1.", and `wanted` replaces what stands after
"give" where a reader needs to be told more. Numbers out of numpy, pandas or a tensor of one element count as numbers; True
and False never do. What may be None is for the caller to ask first.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import NoReturn, TypeVar

from labkit.errors import BadInput

SEEDS = 2**63 - 1  # the largest seed that torch and numpy both take
LONGEST = 200  # characters of a value shown in a sentence

_Name = TypeVar("_Name", bound=str)

__all__ = [
    "as_number",
    "as_whole",
    "flag",
    "fraction",
    "index",
    "indices",
    "listed",
    "near",
    "number",
    "one_of",
    "pair",
    "refuse",
    "seed",
    "series",
    "shown",
    "some",
    "texts",
    "whole",
]


# what a value is ------------------------------------------------------------------------------------------------------


def as_whole(value: object) -> int | None:
    """The value as an int, where it is a whole number: also numpy's and a tensor of one, but not True, 1.0 or "1"."""
    if isinstance(value, bool) or _is_of_bools(value):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # numpy and torch differ in what they raise
        return None


def as_number(value: object) -> float | None:
    """The value as a float, where it is a finite number: also numpy's and a tensor of one, but not True, NaN or "1"."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def plain(value: object) -> object:
    """A number out of an array or a tensor as Python's own; anything else as it is."""
    item = getattr(value, "item", None)
    try:
        return item() if callable(item) and getattr(value, "ndim", None) == 0 else value
    except RuntimeError:  # a tensor on the meta device holds none
        return value


def _is_of_bools(value: object) -> bool:
    return str(getattr(value, "dtype", "")).removeprefix("torch.").startswith("bool")


# numbers --------------------------------------------------------------------------------------------------------------


def whole(name: str, value: object, least: int | None = None, most: int | None = None, *, wanted: str = "") -> int:
    """A whole number from `least` to `most`, both included; None is no bound."""
    found = as_whole(value)
    if found is None or (least is not None and found < least) or (most is not None and found > most):
        refuse(name, value, wanted or f"a whole number{_range(least, most)}")
    return found


def number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    wanted: str = "",
) -> float:
    """A finite number from `least` to `most`, both included; above: it is to be larger than this instead of `least`."""
    found = as_number(value)
    outside = found is None or (least is not None and found < least) or (most is not None and found > most)
    if found is None or outside or (above is not None and found <= above):
        bounds = _range(least, most)
        if above is not None:
            bounds = f" above {_written(above)}" + (f" and up to {_written(most)}" if most is not None else "")
        refuse(name, value, wanted or f"a number{bounds}")
    return found


def fraction(name: str, value: object, *, zero: bool = True, one: bool = True, wanted: str = "") -> float:
    """A number from 0 to 1. zero, one: whether the ends are allowed."""
    found = as_number(value)
    if found is None or not 0 <= found <= 1 or (found == 0 and not zero) or (found == 1 and not one):
        if zero and one:
            bounds = "from 0 to 1"
        elif one:
            bounds = "above 0 and up to 1"
        else:
            bounds = "from 0 and below 1" if zero else "between 0 and 1"
        refuse(name, value, wanted or f"a number {bounds}")
    return found


def seed(value: object, name: str = "seed") -> int:
    """A seed: a whole number from 0 that torch and numpy both take."""
    return whole(name, value, 0, SEEDS, wanted=f"a whole number from 0 to {SEEDS:,}")


def flag(name: str, value: object, *, wanted: str = "True or False") -> bool:
    """True or False themselves, and not 1, "yes" or anything else that Python takes for one of them."""
    if not isinstance(value, bool):
        refuse(name, value, wanted)
    return value


# one of several -------------------------------------------------------------------------------------------------------


def one_of(
    name: str, value: object, names: Collection[_Name], *, problem: str = "can't be used", wanted: str = ""
) -> _Name:
    """One of several names; the sentence ends with those there are, after a near match where there is one.

    problem: what stands after the value, such as "is nothing that can be patched".
    """
    if isinstance(value, str):
        for known in names:
            if known == value:
                return known
    there = wanted or listed((f'"{known}"' for known in names), "or")
    raise BadInput(f"{name}={shown(value)} {problem}{near(value, names)}; give {there}.")


def near(value: object, names: Iterable[str], *, most: int = 1, cutoff: float = 0.6, quoted: bool = True) -> str:
    """ " (did you mean 'residual'?)", to be put into a sentence; "" where nothing is near."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(name.lower(), name)
    close = difflib.get_close_matches(str(value)[:LONGEST].lower(), known, most, cutoff)
    found = listed((repr(known[one]) if quoted else known[one] for one in close), "or")
    return f" (did you mean {found}?)" if found else ""


def listed(names: Iterable[object], last: str = "and") -> str:
    """ "a, b and c"."""
    parts = [str(name) for name in names]
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def some(names: Collection[object], most: int = 3) -> str:
    """ "a, b and c", or "a, b, c and 4 more"."""
    few = list(names)[:most]
    return listed([*few, f"{len(names) - most} more"] if len(names) > most else few)


# places ---------------------------------------------------------------------------------------------------------------


def index(
    what: str, value: object, count: int, *, of: str = "there are", negative: bool = True, remedy: str = ""
) -> int:
    """The place of one of `count` things, 0 to count − 1; negative: −1 is the last.

    what: of what kind, in the singular.  of: who has them, with its verb, such as "this text has".
    remedy: the end of the sentence, where another than the range that there is.
    """
    found = as_whole(value)
    if found is None or not (-count if negative else 0) <= found < count:
        there = f"{of} {what}s 0 to {count - 1:,}" if count else f"{of} none"
        there = "the only one is 0" if count == 1 else there
        raise BadInput(f"There is no {what} {shown(value)}: {there}{f'; {remedy}' if remedy else ''}.")
    return found % count


def indices(name: str, what: str, value: object, count: int, *, of: str = "there are") -> list[int]:
    """The places of several of `count` things, from whole numbers or a slice, as Python takes them; -1 is the last.

    name: the argument's.  what, of: as in `index`. They may be none, and the same twice: that is for the caller to refuse.
    """
    if isinstance(value, slice):
        try:
            return list(range(count))[value]
        except TypeError:
            refuse(name, value, "a slice of whole numbers")
    return [index(what, each, count, of=of) for each in series(name, value, "a list of whole numbers, or a slice")]


def pair(what: str, value: object) -> tuple[int, int]:
    """(layer, head) or (layer, expert): two whole numbers. what: "head" or "expert". Whether they are there is not asked."""
    items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else ()
    numbers = [as_whole(item) for item in items] if len(items) == 2 else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        article = "An" if what[0] in "aeiou" else "A"
        raise BadInput(f"{article} {what} is given as (layer, {what}), two whole numbers, and {shown(value)} is none.")
    return numbers[0], numbers[1]


def texts(name: str, value: object) -> tuple[str, ...]:
    """A text or several, none of them empty; () for None or an empty list."""
    wanted = "a text or a list of texts, none of them empty"
    given = [value] if isinstance(value, str) else [] if value is None else series(name, value, wanted)
    found = tuple(each for each in given if isinstance(each, str) and each)
    if len(found) != len(given):
        refuse(name, value, wanted)
    return found


def series(name: str, value: object, wanted: str) -> list[object]:
    """What can be gone through, as a list; neither a text nor a mapping, which would be read letter by letter or by key."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        refuse(name, value, wanted)
    return list(value)


# saying so ------------------------------------------------------------------------------------------------------------


def refuse(name: str, value: object, wanted: str) -> NoReturn:
    """Raise BadInput: "name=value can't be used; give wanted."."""
    raise BadInput(f"{name}={shown(value)} can't be used; give {wanted}.")


def shown(value: object) -> str:
    """A value as it stands in a sentence: numbers as Python writes them, and nothing longer than a line or two."""
    text = repr(plain(value))
    text = " ".join(text.split()) if getattr(value, "ndim", 0) else text  # of an array over several lines
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f" up to {_written(most)}"
    return f" from {_written(least)}" + (f" to {_written(most)}" if most is not None else "")


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
