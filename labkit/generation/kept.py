"""What runs leave behind for branches: their keys and values, within a bound over all of them.

A Generation holds what its run kept; when it is let go of, so are these bytes. Beyond `LIMIT_BYTES` in all, what was used
longest ago is dropped: a branch of it runs its prefix once more.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.models.memory import human_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.past import Past

LIMIT_BYTES = 256 * 2**20  # of all runs together; about 5,700 tokens of the default model in float32


class Kept:
    """Keys and values that a run left, a Past for each of its texts; None once they were dropped, and `why`."""

    def __init__(self, pasts: Sequence[Past] = (), why: str = "") -> None:
        self.pasts: list[Past] | None = list(pasts) or None
        self.why = why
        self.size_bytes = _held_bytes(pasts)
        self.number = next(_numbers)

    def drop(self, why: str) -> None:
        self.pasts, self.why, self.size_bytes = None, why, 0


def keep(pasts: Sequence[Past], model: PreTrainedModel, why: str = "") -> Kept:
    """Keep what a run of a model left, and drop what was used longest ago where it gets too much. why: of none, the reason."""
    kept = Kept(pasts, why)
    if kept.size_bytes > LIMIT_BYTES:
        size, limit = human_bytes(kept.size_bytes), human_bytes(LIMIT_BYTES)
        kept.drop(f"its keys and values take {size}, and {limit} are kept at most")
    elif kept.pasts is not None:
        with _lock:
            _STORE[kept.number] = weakref.ref(kept), weakref.ref(model)
            _make_room()
    return kept


def touch(kept: Kept) -> None:
    """Count as used now."""
    with _lock:
        if kept.number in _STORE:
            _STORE.move_to_end(kept.number)


def forget(model: PreTrainedModel) -> None:
    """Drop all that runs of a model left."""
    with _lock:
        for key, (ref, owner) in list(_STORE.items()):
            if owner() is model:
                _drop(key, ref(), "the lab was closed")


def total_bytes() -> int:
    """Of all that is kept now."""
    with _lock:
        return sum(kept.size_bytes for ref, _ in _STORE.values() if (kept := ref()) is not None)


def _make_room() -> None:
    for key, (ref, _) in list(_STORE.items()):
        if ref() is None:
            del _STORE[key]
    total = sum(kept.size_bytes for ref, _ in _STORE.values() if (kept := ref()) is not None)
    for key, (ref, _) in list(_STORE.items())[:-1]:
        if total <= LIMIT_BYTES:
            return
        kept = ref()
        total -= kept.size_bytes if kept is not None else 0
        _drop(key, kept, f"its keys and values made room for later ones ({human_bytes(LIMIT_BYTES)} are kept at most)")


def _drop(key: int, kept: Kept | None, why: str) -> None:
    del _STORE[key]
    if kept is not None:
        kept.drop(why)


def _held_bytes(pasts: Sequence[Past]) -> int:
    """Of the tensors that pasts are views of, each once."""
    held: dict[int, int] = {}
    for past in pasts:
        for layer in past.layers:
            for tensor in layer or ():
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


_STORE: OrderedDict[int, tuple[weakref.ref[Kept], weakref.ref[PreTrainedModel]]] = OrderedDict()
_lock = threading.RLock()
_numbers = itertools.count()
