"""One worker thread that does the latest thing asked for."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")

_EXIT_SECONDS = 5.0
_LOOK_SECONDS = 0.1  # a wait in one piece could not be interrupted on every system


class Latest(Generic[Request]):
    """Runs requests one after another in a thread; a new one stops the one in progress and replaces any that waits.

    run(request, stop) does the work and returns early once the event is set; what it raises is its own to report.
    delay_seconds: how long a request must go unreplaced before it starts.
    The thread lives only while there is work: with nothing asked for, nothing is left behind.
    """

    def __init__(self, run: Callable[[Request, threading.Event], None], *, delay_seconds: float = 0.0) -> None:
        self._run = run
        self._delay_seconds = delay_seconds
        self._changed = threading.Condition()
        self._waiting: tuple[Request, float] | None = None
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        _ALL.add(self)

    @property
    def busy(self) -> bool:
        """Whether a request is running or waiting to run."""
        with self._changed:
            return self._thread is not None

    def submit(self, request: Request) -> None:
        """Ask for this instead of whatever was asked for before. Does nothing once closed."""
        with self._changed:
            if self._closed:
                return
            self._waiting = (request, time.monotonic() + self._delay_seconds)
            if self._stop is not None:
                self._stop.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="labkit-latest", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> bool:
        """Drop what waits and tell what runs to stop; returns at once, whether something that waited was dropped."""
        with self._changed:
            dropped = self._waiting is not None
            self._waiting = None
            if self._stop is not None:
                self._stop.set()
            self._changed.notify_all()
            return dropped

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until nothing runs or waits; whether that came in time. An interrupt of the kernel stops the work."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            with self._changed:
                while self._thread is not None:
                    left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
                    if left <= 0:
                        return False
                    self._changed.wait(left)
                return True
        except KeyboardInterrupt:
            self.stop()
            raise

    def close(self) -> None:
        """Stop, and take no more requests."""
        with self._changed:
            self._closed = True
        self.stop()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is not None and (left := self._waiting[1] - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._waiting is None:
                    self._thread = self._stop = None
                    self._changed.notify_all()
                    return
                request, _ = self._waiting
                self._waiting = None
                stop = self._stop = threading.Event()
            try:
                self._run(request, stop)
            except BaseException:
                # run() reports its own failures; one in its reporting must not take the thread down half way, with
                # wait() never returning.
                logging.getLogger("labkit").exception("A worker's own report failed.")
                with self._changed:
                    self._stop = None


_ALL: weakref.WeakSet[Latest[Any]] = weakref.WeakSet()


def stop_all() -> None:
    """Stop whatever runs or waits in any worker; returns at once."""
    for each in list(_ALL):
        each.stop()


@atexit.register
def _end() -> None:
    """Let no thread be in the middle of native code when the interpreter goes: that ends in an abort."""
    for each in list(_ALL):
        each.close()
    for each in list(_ALL):
        each.wait(_EXIT_SECONDS)
