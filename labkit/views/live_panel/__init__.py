"""The live panel: work in one thread, drawn as it goes, with a Stop button that works."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import traitlets

from labkit.errors import BadInput
from labkit.markup import counted
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.figures import drawn
from labkit.views.drawing.page import Page
from labkit.views.kit.cells import GRACE_SECONDS, place, same_cell
from labkit.views.kit.curves import PICTURE_POINTS, line_points, number
from labkit.views.kit.errors import error_sentence
from labkit.views.kit.latest import Latest
from labkit.views.kit.plots import curves
from labkit.views.kit.wire import answers
from labkit.views.live_panel.record import (
    LISTED_NAMES,
    Event,
    Record,
    Summary,
    as_event,
    bar_points,
)

if TYPE_CHECKING:
    import pandas as pd

    from labkit.views.drawing.scene import Picture

__all__ = ["Event", "LivePanel", "live"]

_SECONDS_BETWEEN_MESSAGES = 0.1
_SHARE_OF_TIME = 0.1  # that drawing may take from the work
_EVENTS_AFTER_STOP = 2  # the one under way and a last word; work that goes on after them is closed

State = Literal["waiting", "running", "stopped", "finished", "failed"]
Work = Callable[[threading.Event], Iterable[object]]


def live(
    work: Work,
    *,
    title: str = "",
    unit: str = "",
    x: str = "",
    y: str = "",
    chart: Literal["line", "bars"] | None = "line",
    start: bool = True,
) -> LivePanel:
    """Run work in a worker thread and watch it: how far it is, what it says, its numbers as they come, and Stop.

    work: called in the thread with a threading.Event; returns an iterator, as a rule a generator, of Events (or dicts
    with the names of Event's fields), and looks at the threading.Event now and then: once it is set, it should return
    what it has. What the generator returns is the panel's `result`.
    unit: of the values. x, y: what the axes show. chart: "line", "bars" (each value at its `at`) or None.
    start: False waits for the panel's Start button, `start()` or `wait()`.

    The thread knows nothing of a `with lab.edit(...)` around this call, which may be over by the time the work runs:
    work that needs an edit opens it itself. Running a cell again stops the panel that the cell made before.
    Raises BadInput when work can't be called or chart is of no kind known.
    """
    if not callable(work):
        kind = type(work).__name__
        raise BadInput(f"A live panel runs a function of one threading.Event, and a {kind} can't be called; give one.")
    if chart not in ("line", "bars", None):
        raise BadInput(f'No chart is of kind {chart!r}; give "line", "bars" or None.')
    return LivePanel(work, title=title, unit=unit, x=x, y=y, chart=chart, start=start)


class LivePanel(View):
    """Work in progress. Made by `labkit.views.live`."""

    _title = "Live panel"
    _esm = module("live_panel/live.js")
    _css = style("live_panel/live.css")
    _written_again = True

    labels = traitlets.Dict().tag(sync=True)  # title, unit, x, y, chart
    status = traitlets.Dict().tag(sync=True)  # all that is said; see _facts
    # [{name, n}]: the lines that `points` holds one after the other
    series: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    points = traitlets.Bytes(b"").tag(sync=True)  # (sum of n, 2) float64 of at and value; NaN is a gap

    def __init__(
        self, work: Work, *, title: str, unit: str, x: str, y: str, chart: str | None, start: bool = True
    ) -> None:
        self._work = work
        self._chart = chart
        self._drawing = threading.RLock()  # a picture is sent whole
        self._dirty = threading.Event()
        self._record = Record()
        self._run = 0
        self._state: State = "waiting"
        self._stopping = False
        self._began = self._ended = self._heard = 0.0
        self._result: object = None
        self._error: BaseException | None = None
        self._place = place()
        self._waiters = 0
        # A worker of its own, and no kit Job: work that is closed keeps its events and its generator's result, `wait()` raises
        # what it raised, and what comes is drawn by a thread of its own, so that no silence holds back the last event.
        self._worker: Latest[int] = Latest(self._do)
        texts = {"title": title, "unit": unit, "x": x, "y": y}
        labels = {name: shorten(clean(str(text)), 120) for name, text in texts.items()}
        super().__init__(labels=labels | {"chart": chart or ""}, status=self._facts())
        if start:
            self.start()

    @property
    def events(self) -> list[Event]:
        """All events so far, exact and in order."""
        with self._lock:
            return list(self._record.events)

    @property
    def result(self) -> Any:
        """What the work returned; None while it runs, when it failed, and when it had to be closed."""
        with self._lock:
            return self._result

    @property
    def state(self) -> State:
        """ "waiting", "running", "stopped", "finished" or "failed"."""
        with self._lock:
            return self._state

    def start(self) -> None:
        """Begin, or begin anew: a run in progress is stopped first, and its events give way to the new ones."""
        if self.comm is None:
            return
        for older in same_cell(self, _PANELS):
            older.stop()
        with self._lock:
            self._run += 1
            run = self._run
            self._record = Record()
            self._state, self._stopping = "waiting", False
            self._began = self._ended = self._heard = time.monotonic()
            self._result = self._error = None
        _PANELS.add(self)
        self._worker.submit(run)
        self._draw()

    def stop(self) -> None:
        """Ask the work to return what it has; returns at once. What was done is kept."""
        with self._lock:
            if self._state in ("waiting", "running") and self._run and not self._stopping:
                self._stopping = True
        if self._worker.stop():  # it never began, so nobody else will say so
            self._end("stopped")
        self._dirty.set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until the work has ended; whether it has in that time. Starts a panel that was not started.

        Raises what the work raised. While this blocks the kernel, a click on Stop may not get through; interrupting
        the kernel does: it stops the work, keeps what was done and returns like a Stop, without an error, so the
        caller looks at `state`. Only a second interrupt, of work that will not end, is raised as KeyboardInterrupt.
        """
        with self._lock:
            self._waiters += 1
            begun = self._run > 0
        try:
            if not begun:
                self.start()
            try:
                ended = self._worker.wait(timeout_seconds)
            except KeyboardInterrupt:
                self.stop()
                ended = self._worker.wait(timeout_seconds)
                if ended and self.state == "waiting":  # the interrupt came before the work began
                    self._end("stopped")
        finally:
            with self._lock:
                self._waiters -= 1
        if ended:
            self._write_again()
            with self._lock:
                error = self._error
            if error is not None:
                raise error
        return ended

    def close(self) -> None:
        """Stop the work and take the panel out of the page."""
        if hasattr(self, "_worker"):  # a construction that failed is closed too
            self.stop()
            self._worker.close()
        super().close()

    # the run, in the worker thread ------------------------------------------------------------------------------------

    def _do(self, run: int, stop: threading.Event) -> None:
        for older in same_cell(self, _PANELS):  # two at once would only get in each other's way
            older._worker.wait(GRACE_SECONDS)
        with self._lock:
            if run != self._run:
                return
            self._state = "running"
            self._began = self._heard = time.monotonic()
            record = self._record
        over = threading.Event()
        drawer = threading.Thread(target=self._keep_drawing, args=(over,), name="labkit-live-draw", daemon=True)
        self._dirty.set()
        drawer.start()
        result, error = None, None
        try:
            result = self._follow(record, stop)
        except BaseException as raised:  # an interrupt too: in this thread there is nobody above to catch it
            error = raised
        finally:
            over.set()
            self._dirty.set()
            drawer.join()
        with self._lock:
            if run != self._run:
                return  # begun anew meanwhile
            complete = record.total is not None and record.done is not None and record.done >= record.total
            self._result = result
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self._end("failed", error)
        elif error is not None or (stop.is_set() and not complete):
            self._end("stopped")
        else:
            self._end("finished")

    def _follow(self, record: Record, stop: threading.Event) -> object:
        """Take the events one by one; what the generator returns."""
        given = self._work(stop)
        if not isinstance(given, Iterable):
            raise BadInput(
                f"The work returned a {type(given).__name__} where an iterator of events is needed; "
                "write it as a generator, with yield."
            )
        events = iter(given)
        late = 0
        while True:
            try:
                event = as_event(next(events))
            except StopIteration as end:
                return end.value
            except BadInput:
                _close(events)
                raise
            with self._lock:
                record.add(event)
                if record is self._record:  # not begun anew meanwhile
                    self._heard = time.monotonic()
            self._dirty.set()
            late += stop.is_set()
            if late > _EVENTS_AFTER_STOP:
                _close(events)
                return None

    def _end(self, state: State, error: BaseException | None = None) -> None:
        with self._lock:
            self._state, self._error, self._stopping = state, error, False
            self._ended = time.monotonic()
            waiters = self._waiters
        _PANELS.discard(self)
        self._draw()
        if not waiters:
            self._write_again()

    # what is shown ----------------------------------------------------------------------------------------------------

    def _keep_drawing(self, over: threading.Event) -> None:
        """Send what is new, a few times a second, so that neither a flood of events nor a long silence delays any."""
        while not over.is_set():
            self._dirty.wait()
            self._dirty.clear()
            if over.is_set():
                return
            began = time.monotonic()
            self._draw()
            took = time.monotonic() - began
            over.wait(max(_SECONDS_BETWEEN_MESSAGES, took / _SHARE_OF_TIME))

    def _draw(self) -> None:
        with self._drawing:
            if self.comm is None:
                return
            with self._lock:
                facts = self._facts()
                lines = self._record.copy_of_lines()
            choose = bar_points if self._chart == "bars" else line_points
            drawn = {name: choose(*line) for name, line in lines.items()} if self._chart else {}
            facts["pooled"] = any(len(drawn[name]) < len(lines[name][0]) for name in drawn)
            with self.hold_sync():
                self.status = facts
                self.series = [{"name": _short(name), "n": len(points)} for name, points in drawn.items()]
                self.points = b"".join(points.astype("<f8").tobytes() for points in drawn.values())

    def _facts(self) -> dict[str, object]:
        """What is said, all of it short: numbers that JSON can't hold are words already."""
        record = self._record
        now = time.monotonic() if self._state == "running" else self._ended
        listed = list(record.summaries.items())[:LISTED_NAMES]
        return {
            "state": self._state,
            "begun": self._run > 0,
            "stopping": self._stopping,
            "done": record.done,
            "total": record.total,
            "elapsed": max(0.0, now - self._began),
            "heard": max(0.0, self._heard - self._began),  # when the latest event came, by the same clock
            "say": shorten(clean(" ".join(record.say.split())), 300),
            "values": [[_short(name), number(summary.latest)] for name, summary in listed],
            "more": len(record.summaries) - len(listed),
            "undrawn": len(record.summaries) - record.drawn_count if self._chart else 0,
            "gaps": _gaps(record),
            "message": self._sentence(),
        }

    def _sentence(self) -> str:
        """How it ended, or how far it is, in one sentence without the time, which differs from run to run."""
        record = self._record
        far = _far(record)
        if self._state == "failed" and self._error is not None:
            reason = error_sentence(self._error, "the work raised", end="")
            return f"failed{' after ' + far if far else ''}: {reason}"
        if self._state == "stopped":
            return f"stopped after {far}; what was done is kept" if far else "stopped before anything was done"
        if self._state == "finished":
            return f"finished: {far}" if far else "finished"
        if self._state == "running":
            return f"running: {far}" if far else "running"
        return "waiting" if self._run else "not started"

    @answers
    def _answer_stop(self) -> None:
        self.stop()

    @answers
    def _answer_start(self) -> None:
        if self.state != "running":
            self.start()

    @answers
    def _answer_hello(self) -> None:
        """A page that was loaded again: its clock starts at ours."""
        if self.state == "running":
            self._dirty.set()

    def _describe(self) -> str:
        title = self.labels.get("title", "")
        return f"{shorten(visible(title), 60)!r}, {self.state}" if title else self.state

    def _static_text(self) -> str:
        with self._lock:
            sentence, rows, gaps = self._sentence(), self._rows(), _gaps(self._record)
        lines = [f"{self.labels['title'] or 'Live panel'}: {sentence}"]
        lines += [
            f"  {name}: {latest} (lowest {low}, highest {high}, of {count})" for name, latest, low, high, count in rows
        ]
        return "\n".join([*lines, *gaps])

    def _table(self) -> pd.DataFrame:
        """A row for each event: done, total, say, at, and a column for each name of a value."""
        import pandas as pd

        with self._lock:
            events = list(self._record.events)
        names = list(dict.fromkeys(name for event in events for name in event.values))
        facts = ("done", "total", "say", "at")
        own = {name: f"{name} (value)" if name in facts else name for name in names}
        rows = [
            {fact: getattr(event, fact) for fact in facts} | {own[n]: v for n, v in event.values.items()}
            for event in events
        ]
        return pd.DataFrame(rows, columns=[*facts, *own.values()])

    def _image(self) -> Picture:
        with self._lock:
            sentence, rows, gaps = self._sentence(), self._rows(), _gaps(self._record)
            lines = self._record.copy_of_lines()
        title = self.labels["title"] or "Live panel"
        unit = f" ({self.labels['unit']})" if self.labels["unit"] else ""
        choose = bar_points if self._chart == "bars" else line_points
        page = Page(description=f"{title}: {sentence}").heading(title).paragraph(sentence)
        if self._chart and any(len(xs) for xs, _ in lines.values()):
            chosen = {_short(name): choose(*line, PICTURE_POINTS) for name, line in lines.items()}
            points = {name: (each[:, 0].tolist(), each[:, 1].tolist()) for name, each in chosen.items()}
            page.drawing(
                drawn(curves(points, x=self.labels["x"], y=self.labels["y"] + unit, bars=self._chart == "bars"))
            )
        page.table(rows, ("name", f"latest{unit}", "lowest", "highest", "values"), right=(1, 2, 3, 4))
        for note in gaps:
            page.note(note)
        return page.picture()

    def _rows(self) -> list[list[str]]:
        def row(name: str, summary: Summary) -> list[str]:
            finite = summary.lowest <= summary.highest
            extremes = [number(each) if finite else "none" for each in (summary.lowest, summary.highest)]
            return [_short(name), number(summary.latest), *extremes, f"{summary.count:,}"]

        return [row(*each) for each in list(self._record.summaries.items())[:LISTED_NAMES]]


_PANELS: weakref.WeakSet[LivePanel] = weakref.WeakSet()  # those that run, or wait to


def _close(events: object) -> None:
    if hasattr(events, "close"):
        events.close()


def _far(record: Record) -> str:
    if record.done is not None:
        return f"{record.done:,} of {record.total:,}" if record.total is not None else f"{record.done:,}"
    return counted(len(record.events), "event") if record.events else ""


def _short(name: str) -> str:
    return shorten(clean(name), 60)


def _gaps(record: Record) -> list[str]:
    said = []
    for name, summary in list(record.summaries.items())[:LISTED_NAMES]:
        counts = ((summary.nan, "not a number"), (summary.infinite, "infinite"))
        if kinds := [f"{count:,} {word}" for count, word in counts if count]:
            said.append(f"Of {summary.count:,} values of {_short(name)}, {' and '.join(kinds)}: gaps.")
    return said
