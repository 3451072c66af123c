"""Which run of which notebook cell made a view: a cell that is run again stops what it made before."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Protocol, TypeVar

GRACE_SECONDS = 60.0  # for an earlier run of the same cell to end

Place = tuple[str, str]


class _Placed(Protocol):
    _place: Place | None


Made = TypeVar("Made", bound=_Placed)


def place() -> Place | None:
    """(cell, this run of it) as the front end names them; None outside a notebook or where it names none."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    with contextlib.suppress(Exception):  # kernels differ in what they tell
        parent = get_ipython().get_parent()
        return str(parent["metadata"]["cellId"]), str(parent["header"]["msg_id"])
    return None


def same_cell(view: _Placed, others: Iterable[Made]) -> list[Made]:
    """Those of the others that another run of the view's cell made."""
    if view._place is None:
        return []
    cell, run = view._place
    return [other for other in list(others) if other._place and other._place[0] == cell and other._place[1] != run]
