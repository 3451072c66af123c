"""Whose turn it is on a Lab's model: one run at a time, and nobody else's run while edits are on."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Turns:
    """One re-entrant lock for runs, and a gate around it for stretches during which the model is changed.

    The gate is held by an owner, by default the calling thread. A worker thread that does something on behalf of the
    thread that started it (a stream read inside `with lab.edit(...)`) names that thread as owner and so may pass.
    """

    @staticmethod
    def of(model: PreTrainedModel) -> Turns:
        """The turns of a model: one for all labs around it, also where torch.compile or peft wrapped it."""
        from labkit.trace.running import language_model  # torch comes with it

        with _lock:
            return _TURNS.setdefault(language_model(model), Turns())

    def __init__(self) -> None:
        self._run = threading.RLock()
        self._gate = threading.Condition()
        self._owner: int | None = None
        self._depth = 0

    @contextlib.contextmanager
    def run(self, owner: int | None = None) -> Iterator[None]:
        """Hold the model for one run."""
        with self.stretch(owner), self._run:
            yield

    @contextlib.contextmanager
    def stretch(self, owner: int | None = None) -> Iterator[None]:
        """Keep other owners out for a while; the owner's own runs go on inside."""
        owner = threading.get_ident() if owner is None else owner
        with self._gate:
            while self._owner not in (None, owner):
                self._gate.wait(0.1)  # in pieces, so that an interrupt gets through on every system
            self._owner = owner
            self._depth += 1
        try:
            yield
        finally:
            with self._gate:
                self._depth -= 1
                if self._depth == 0:
                    self._owner = None
                    self._gate.notify_all()


_TURNS: weakref.WeakKeyDictionary[object, Turns] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
