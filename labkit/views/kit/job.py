"""Work that a view has done in a thread: the latest request counts, and what is out of date is never shown."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

from labkit.errors import LabError
from labkit.views.kit.errors import error_sentence
from labkit.views.kit.latest import Latest

if TYPE_CHECKING:
    from labkit.views.base import View

Request = TypeVar("Request")
Result = TypeVar("Result")

State = Literal["idle", "waiting", "running", "done", "stopped", "failed"]

_SAY_SECONDS = 0.1  # between two words on how far it is; more often only costs


class Job(Latest[tuple[int, Request]], Generic[Request, Result]):
    """One kind of work of one view. Make it in the view's `__init__`, before anything may be refused.

    work(request, run): does it, in a thread; looks at `run.stop` now and then, and may say how far it is.
    show(request, result): puts the result into the view's traits, and returns what to say of it, or "". It is called under
        the view's lock, for the latest request alone, and all it sets goes out in one message.
    status: the trait in which the page reads how it stands: {"state", "message"}, with a known total also {"progress": 0 to
        1, "left": seconds}, and whatever facts(request) adds. state: "idle", "waiting", "running", "done", "stopped" or
        "failed".
    failed: what an error's sentence begins with, or a function of the request that says it, where the error is none of
        labkit's: those say themselves what to do. The others go to the log "labkit" too.
    give_up(request): after a failure, to take out of the view what no longer holds; under the lock.
    then(request): once the result is shown and that is said, such as to ask another job; under the lock.
    keep_stopped: show what the work returned although it was told to stop.
    delay_seconds: how long a request must go unreplaced before it begins.

    The view's `wait()` waits for all its jobs, an interrupt of the kernel stops them, and so do `close()` and `lk.reset()`.
    """

    def __init__(
        self,
        view: View,
        work: Callable[[Request, Run], Result],
        show: Callable[[Request, Result], str | None],
        *,
        status: str,
        failed: str | Callable[[Request], str] = "It can't be computed:",
        facts: Callable[[Request], Mapping[str, object]] | None = None,
        give_up: Callable[[Request], None] | None = None,
        then: Callable[[Request], None] | None = None,
        keep_stopped: bool = False,
        delay_seconds: float = 0.0,
    ) -> None:
        super().__init__(self._do, delay_seconds=delay_seconds)
        self._view, self._work_of, self._show = view, work, show
        self._status, self._sorry, self._facts, self._give_up = status, failed, facts, give_up
        self._then, self._keep_stopped = then, keep_stopped
        self._number = 0  # of the latest request
        self._asked: Request | None = None
        self._under_way = False
        self._halted = False
        view._jobs.append(self)

    @property
    def asked(self) -> Request | None:
        """What is waited for: None where nothing is, or where it was told to stop."""
        return None if self._halted or not self.busy else self._asked

    def ask(self, request: Request) -> None:
        """Do this, instead of whatever was asked for before. Does nothing once the view is closed."""
        with self._view._lock:
            self._renew(request)
            self.say("waiting")
            self.submit((self._number, request))

    def answer(self, request: Request, result: Result) -> None:
        """Show a result that is known already, instead of whatever was asked for before."""
        with self._view._lock:
            self._renew(request)
            super().stop()
            if self._view.comm is not None:
                self._deliver(request, result, "done")

    def clear(self, request: Request | None = None) -> None:
        """Drop whatever was asked for: there is nothing to do."""
        with self._view._lock:
            self.drop(request)
            self.say("idle")

    def drop(self, request: Request | None = None) -> None:
        """Drop whatever was asked for without a word, because another job of the same status has it."""
        with self._view._lock:
            self._renew(request)
            super().stop()

    def stop(self) -> bool:
        """Drop what waits and tell what runs to stop; returns at once, whether something that waited was dropped."""
        with self._view._lock:
            self._halted = True
            dropped = super().stop()
            if dropped and not self._under_way:  # it never began, so nobody else will say so
                self.say("stopped", "stopped before it began")
            return dropped

    def close(self) -> None:
        """Stop without a word, and take no more requests."""
        self._closed = True
        super().stop()

    def say(self, state: State, message: str = "", **more: object) -> None:
        """Set the status."""
        with self._view._lock:
            if self._view.comm is not None:
                facts = {} if self._facts is None or self._asked is None else self._facts(self._asked)
                self._view.set_trait(self._status, {"state": state, "message": message, **more, **facts})

    def _renew(self, request: Request | None) -> None:
        self._number += 1
        self._asked = request
        self._halted = False

    def _do(self, numbered: tuple[int, Request], stop: threading.Event) -> None:
        number, request = numbered
        run = Run(self._view, self, number, stop)
        with self._view._lock:  # or the state of what was asked since could be overwritten
            if stop.is_set() or not run.wanted:
                return self._end(run)
            self._under_way = True
            self.say("running")
        try:
            result = self._work_of(request, run)
            with self._view._lock:
                if run.wanted and (self._keep_stopped or not stop.is_set()):
                    self._deliver(request, result, "stopped" if stop.is_set() and not run.complete else "done")
                    self._halted = False
        except BaseException as error:  # in this thread there is nobody above to tell
            self._fail(request, run, error)
        finally:
            with self._view._lock:
                self._under_way = False
                self._end(run)
        if run.wanted:
            self._view._job_ended(self)
        return None

    def _deliver(self, request: Request, result: Result, state: State) -> None:
        with self._view.hold_sync():
            self.say(state, self._show(request, result) or "")
            if state == "done" and self._then is not None:
                self._then(request)

    def _fail(self, request: Request, run: Run, error: BaseException) -> None:
        sorry = self._sorry if isinstance(self._sorry, str) else self._sorry(request)
        with self._view._lock, self._view.hold_sync():
            if not run.wanted:
                return
            if self._give_up is not None:
                self._give_up(request)
            if run.stop.is_set():  # it said so itself, by what it raised
                return
            if isinstance(error, KeyboardInterrupt):
                self.say("stopped", "interrupted")
            else:
                self.say("failed", error_sentence(error, sorry))
        if not isinstance(error, LabError | KeyboardInterrupt):
            logging.getLogger("labkit").error("%s", sorry, exc_info=error)

    def _end(self, run: Run) -> None:
        """Nothing of this run is under way any more; where it was told to stop, say so."""
        if run.wanted and self._halted:
            self._halted = False
            self.say("stopped", "stopped")


class Run:
    """A request under way, as the work sees it."""

    def __init__(self, view: View, job: object, number: int, stop: threading.Event) -> None:
        self.stop = stop
        """Set once the work should return what it has."""
        self.complete = False
        """To be set by work that was done in spite of `stop`."""
        self._view, self._number = view, number
        self._job = cast("Job[object, object]", job)
        self._began = time.monotonic()
        self._next: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether nothing else was asked for since, and the view is still there."""
        return self._number == self._job._number and self._view.comm is not None

    def show(self, draw: Callable[[], None]) -> bool:
        """Set some of the view's traits meanwhile, all in one message; whether they are still wanted, and were set."""
        with self._view._lock:
            if not self.wanted:
                return False
            with self._view.hold_sync():
                draw()
            return True

    def say(
        self,
        message: str = "",
        *,
        done: float | None = None,
        total: float | None = None,
        draw: Callable[[], None] | None = None,
        **more: object,
    ) -> None:
        """How far it is: in words, and in numbers where both are given. draw(): sets what else is to be seen of it, in the
        same message; more: what else the status holds. What comes too fast to be read is left out.
        """
        now = time.monotonic()
        if self._next is not None and now < self._next:
            return
        self._next = 0.0 if self._next is None else now + _SAY_SECONDS  # the first word holds up no other
        far = dict(more)
        if done is not None and total:
            far["progress"] = share = min(1.0, max(0.0, done / total))
            if share > 0:
                far["left"] = (now - self._began) * (1 - share) / share
        with self._view._lock:
            if self.wanted and not self.stop.is_set():
                with self._view.hold_sync():
                    if draw is not None:
                        draw()
                    self._job.say("running", message, **far)
