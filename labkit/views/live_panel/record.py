"""What a piece of work has said so far: its events, exact, and a picture of them whose size is bounded."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from labkit.errors import BadInput
from labkit.views.kit.curves import line_points

DRAWN_NAMES = 8  # as many lines as can be told apart
LISTED_NAMES = 12  # values written out
BARS = 500  # every head of a middling model has its own


@dataclass(frozen=True)
class Event:
    """One thing that work in progress says.

    done, total: how far it is, in its own units of work; total None where nobody knows it.
    say: what it is at, in a few words. values: numbers by name.
    at: where the values belong on the horizontal axis; left out, `done` is taken, else the number of the event.
    """

    done: int | None = None
    total: int | None = None
    say: str = ""
    values: dict[str, float] = field(default_factory=dict)
    at: float | None = None


_FIELDS = tuple(each.name for each in fields(Event))


def as_event(given: object) -> Event:
    """An Event or a dict of its names as an Event of plain numbers. Raises BadInput with what is wrong with it."""
    if isinstance(given, Event):
        given = {name: getattr(given, name) for name in _FIELDS}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise BadInput(f"Work for a live panel yields events, and a {kind} is none; yield an Event or a dict.")
    if unknown := [name for name in given if name not in _FIELDS]:
        raise BadInput(f"An event has no field {unknown[0]!r}; its fields are {', '.join(_FIELDS)}.")
    values = given.get("values")
    if values is not None and not isinstance(values, Mapping):
        raise BadInput(f"An event's values are a dict of numbers by name; this is a {type(values).__name__}.")
    say = given.get("say")
    return Event(
        done=_count("done", given.get("done")),
        total=_count("total", given.get("total")),
        say="" if say is None else str(say),
        values={str(name): _number(str(name), value) for name, value in (values or {}).items()},
        at=None if given.get("at") is None else _number("at", given["at"]),
    )


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0 and number == int(number)):
        raise BadInput(f"An event's {name} is a count, and {value!r} is none; give a whole number from 0.")
    return int(number)


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # what is no number is told below
    except (TypeError, ValueError, OverflowError):
        kind = type(value).__name__
        raise BadInput(f"An event's {name!r} is a {kind} where one number is needed; give it with float().") from None


@dataclass
class Summary:
    """The values of one name: how many, the latest and the extremes (of the finite ones)."""

    latest: float = math.nan
    lowest: float = math.inf
    highest: float = -math.inf
    count: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, value: float) -> None:
        self.latest = value
        self.count += 1
        if math.isnan(value):
            self.nan += 1
        elif math.isinf(value):
            self.infinite += 1
        else:
            self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)


class Record:
    """The events of one run. Not safe for threads by itself: the panel holds a lock around it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.done: int | None = None
        self.total: int | None = None
        self.say = ""
        self.summaries: dict[str, Summary] = {}
        self._lines: dict[str, tuple[array[float], array[float]]] = {}

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.done = self.done if event.done is None else event.done
        self.total = self.total if event.total is None else event.total
        self.say = event.say or self.say
        at = event.at
        if at is None:
            at = float(len(self.events) if event.done is None else event.done)
        for name, value in event.values.items():
            if name not in self.summaries:
                self.summaries[name] = Summary()
                if len(self._lines) < DRAWN_NAMES:
                    self._lines[name] = array("d"), array("d")
            self.summaries[name].add(value)
            if name in self._lines:
                xs, ys = self._lines[name]
                xs.append(at)
                ys.append(value)

    @property
    def drawn_count(self) -> int:
        """How many names have a line."""
        return len(self._lines)

    def copy_of_lines(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(at, value) of each name that is drawn, float64."""
        return {name: (np.array(xs), np.array(ys)) for name, (xs, ys) in self._lines.items()}


def bar_points(xs: np.ndarray, ys: np.ndarray, limit: int = BARS) -> np.ndarray:
    """What to draw as bars, (n, 2) float64 with n <= limit: all, or of each stretch the one farthest from zero."""
    points = line_points(xs, ys, limit=len(xs))
    if len(points) <= limit:
        return points
    stretches = np.array_split(points, limit)
    return np.stack([stretch[int(np.nan_to_num(np.abs(stretch[:, 1]), nan=-1.0).argmax())] for stretch in stretches])
