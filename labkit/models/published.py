"""Published model configurations, kept with the package so that questions of size are answered offline.

The table is published.json. Each entry gives the configuration fields that fix the architecture, and where its
numbers are from. Reading it needs the standard library alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from labkit.models.files import Json


@dataclass(frozen=True)
class Published:
    """One published model.

    parameters: elements of the loaded model, tied weights once; a test recounts them from config.
    stated: the publisher's own count. It is rounded where only a rounded one was published, and larger than
        parameters where the checkpoint also stores a tied matrix a second time or constants such as rotary frequencies.
        None where only a count of more than this is published, as of a model with its vision part; source says which.
    licence: an SPDX identifier, or the licence's name.  released: ISO date, to the day or the month.
    source: where the configuration and the count are from, with what could not be confirmed.
    taken: ISO date on which the numbers were taken.
    config: fields of the transformers configuration class, model_type among them.
    aliases: other short names, and hub ids of models of the same architecture and licence, such as the chat version.
    """

    name: str
    hub_id: str
    parameters: int
    stated: int | None
    licence: str
    released: str
    source: str
    taken: str
    config: Json
    aliases: tuple[str, ...] = ()


@cache
def _table() -> Mapping[str, Published]:
    text = resources.files("labkit.models").joinpath("published.json").read_text(encoding="utf-8")
    data = json.loads(text)
    taken = data["taken"]
    entries = [
        Published(**{**entry, "taken": entry.get("taken", taken), "aliases": tuple(entry.get("aliases", ()))})
        for entry in data["models"]
    ]
    return {entry.name: entry for entry in entries}


@cache
def _index() -> Mapping[str, str]:
    index: dict[str, str] = {}
    for entry in _table().values():
        for key in (entry.name, entry.hub_id, *entry.aliases):
            index[key.lower()] = entry.name
    return index


def names() -> list[str]:
    """Short names of the published models, in alphabetical order."""
    return sorted(_table())


def keys() -> dict[str, str]:
    """Everything get() answers to (lower case: short names, hub ids, aliases) and the short name it stands for."""
    return dict(_index())


def get(name: str) -> Published | None:
    """The published model of this short name, hub id or alias, whatever its case; None when there is none.

    Asked by the hub id of an alias (a chat version), the entry names that model in hub_id, never its base model.
    The config is a copy: changing it changes nothing here.
    """
    asked = name.strip().lower()
    short = _index().get(asked)
    if short is None:
        return None
    entry = _table()[short]
    hub_id = next((alias for alias in entry.aliases if alias.lower() == asked and "/" in alias), entry.hub_id)
    return replace(entry, hub_id=hub_id, config=copy.deepcopy(entry.config))


def table() -> list[dict[str, str | int]]:
    """All published models, a row each in the table's order, fit for a DataFrame.

    Columns: name, hub_id, family (transformers' model_type), parameters, released, licence, allows, weights ("free",
    "conditions", "research"), data and code (each "yes", "part", "no"), source, taken.
    """
    from labkit.models.licences import licence  # which reads this table

    rows: list[dict[str, str | int]] = []
    for entry in _table().values():
        terms = licence(entry.name)
        rows.append(
            {
                **{"name": entry.name, "hub_id": entry.hub_id, "family": str(entry.config["model_type"])},
                **{"parameters": entry.parameters, "released": entry.released, "licence": entry.licence},
                **{"allows": terms.allows, "weights": terms.weights, "data": terms.data, "code": terms.code},
                **{"source": entry.source, "taken": entry.taken},
            }
        )
    return rows
