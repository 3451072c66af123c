"""What the licences of published models allow, in one line each with its source, and what else of a model is open.

The table is licences.json. A line is a help for choosing and no legal advice: the licence's own text holds.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypedDict

from labkit.errors import ModelNotFound
from labkit.markup import html_table, visible
from labkit.models import catalog, published


class _Terms(TypedDict):
    weights: str
    allows: str
    source: str


class _Openness(TypedDict):
    data: str
    code: str
    source: str


class _Table(TypedDict):
    checked: str
    licences: dict[str, _Terms]
    formerly: dict[str, str]
    openness: dict[str, _Openness]


@dataclass(frozen=True, repr=False)
class Licence:
    """The licence of a published model.

    model: its short name.  name: an SPDX identifier, or the licence's name.  allows: what it lets you do, in a line.
    formerly: what held before, where the licence was changed; else empty.
    weights: "free" (any use), "conditions" (of use, size or revenue) or "research" (nothing commercial).
    data, code: whether what it was trained on, and what it was trained with, are published: "yes", "part" or "no".
    source, open_source: where the terms, and data and code, are told.  checked: ISO date.
    """

    model: str
    name: str
    allows: str
    formerly: str
    weights: str
    data: str
    code: str
    source: str
    open_source: str
    checked: str

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("licence", self.name), ("allows", self.allows)]
        rows += [("formerly", self.formerly)] if self.formerly else []
        rows += [("weights, data, code", f"{self.weights}, {self.data}, {self.code}"), ("source", self.source)]
        rows += [("data and code", self.open_source)] if self.open_source else []
        return [*rows, ("checked", self.checked)]

    def __repr__(self) -> str:
        return "\n".join([self.model, *(f"  {label:<19}  {value}" for label, value in self._rows())])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), caption=f"Licence of {self.model}", labelled=True)


@cache
def _table() -> _Table:
    table: _Table = json.loads(resources.files("labkit.models").joinpath("licences.json").read_text(encoding="utf-8"))
    return table


def licence(name: str) -> Licence:
    """The licence of a published model: what it allows, and whether weights, data and code are open.

    name: a published short name, hub id or alias (labkit.models.published.names()), or the name of a catalogue model.
    Needs the standard library alone. Raises ModelNotFound, with the nearest names, for any other.
    """
    ours = catalog.find(str(name))
    entry = published.get(ours.published if ours else str(name))
    if entry is None:
        keys = published.keys()
        near = dict.fromkeys(keys[key] for key in difflib.get_close_matches(str(name).strip().lower(), keys, 5, 0.55))
        hint = (
            f"did you mean {', '.join(list(near)[:3])}?"
            if near
            else "labkit.models.published.names() lists those known."
        )
        raise ModelNotFound(f"No published model {visible(repr(name))[:80]} is in the table of licences; {hint}")
    terms, openness = _table()["licences"][entry.licence], _table()["openness"].get(entry.name)
    return Licence(
        model=entry.name,
        name=entry.licence,
        allows=terms["allows"],
        formerly=_table()["formerly"].get(entry.name, ""),
        weights=terms["weights"],
        data=openness["data"] if openness else "no",
        code=openness["code"] if openness else "no",
        source=terms["source"],
        open_source=openness["source"] if openness else "",
        checked=_table()["checked"],
    )
