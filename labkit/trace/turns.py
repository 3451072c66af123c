"""Whose turn it is on a Lab's model: one run at a time, and nobody else's run while edits are on."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
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

    @property
    def owner(self) -> int | None:
        """On whose behalf the model is held now; None while it is not."""
        return self._owner

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

    @contextlib.contextmanager
    def change(
        self, put_on: Callable[[], contextlib.AbstractContextManager[object]], *, steady: bool = False
    ) -> Iterator[None]:
        """Change the model for the length of a `with`: an edit, an adapter.

        put_on: makes the change and hands over what undoes it; called once no run is under way. Other threads wait until
        the block is left, and `end_changes` may end it before.
        steady: it is the same for every token wherever it stands, as other weights are; an edit may be for the newest alone.
        """
        block = contextlib.ExitStack()
        if steady:
            _STEADY.add(block)
        owner = threading.get_ident()  # a generator that holds this block may be closed by another thread
        with self.stretch(owner):
            try:
                with self.run(owner):  # not while a run is under way
                    block.enter_context(put_on())
                _CHANGES[block] = (self, owner)
                yield
            finally:
                _CHANGES.pop(block, None)
                try:
                    with self.run(owner):
                        block.close()
                finally:
                    block.close()  # also when an interrupt cuts the wait for a run short; closing again does nothing


def changed_here(model: PreTrainedModel) -> bool:
    """Whether the calling thread is within a `change` of a model: an edit, an adapter."""
    turns = Turns.of(model)
    return any(found is turns and owner == threading.get_ident() for found, owner in list(_CHANGES.values()))


def changes_on(model: PreTrainedModel) -> tuple[object, ...]:
    """The changes of a model that are on, in whatever thread: the same objects as long as the same ones are."""
    turns = Turns.of(model)
    return tuple(block for block, (found, _) in list(_CHANGES.items()) if found is turns)


def steady(changes: tuple[object, ...]) -> bool:
    """Whether changes are the same for every token, so that what was read while they are on can be gone on from."""
    return all(block in _STEADY for block in changes)


_STEADY: weakref.WeakSet[object] = weakref.WeakSet()
# blocks that are on, the latest last, and who put them on
_CHANGES: dict[contextlib.ExitStack, tuple[Turns, int]] = {}


def end_changes() -> tuple[int, dict[Turns, int]]:
    """End every change that is on, in whatever thread: how many, and whose turn it still is on their models."""
    owners: dict[Turns, int] = {}
    ended = 0
    for block, (turns, owner) in reversed(list(_CHANGES.items())):
        with turns.run(owner):
            block.close()
        owners[turns] = owner
        ended += _CHANGES.pop(block, None) is not None
    return ended, owners


_TURNS: weakref.WeakKeyDictionary[object, Turns] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
