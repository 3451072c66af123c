"""A tuning under way in a thread of its own: how it goes, what it has learnt so far, and how to end it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from labkit.errors import BadInput, LabError, Unavailable
from labkit.lora import scripts
from labkit.lora.adapters import Adapter, taken
from labkit.lora.methods import METHODS
from labkit.lora.settings import Settings
from labkit.lora.tuning import Step, TunableLab, Tuning
from labkit.quantization.bases import hub_name
from labkit.trace.building import is_quantized

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "State", "Step", "current_run", "stop_all"]

State = Literal["waiting", "running", "stopped", "finished", "failed"]
_LOOK_SECONDS = 0.1  # a wait in one piece could not be interrupted on every system
_EXIT_SECONDS = 10.0
Made = TypeVar("Made", bound=TunableLab)
Watcher = Callable[[Step], object]


class Run(Generic[Made]):
    """A tuning in the background. `finetune` makes it; the lab it was given can be used meanwhile and is not changed.

    original: the lab that is tuned.  settings: of the run.  notes: what to bear in mind of it, in sentences.
    """

    def __init__(
        self, original: Made, settings: Settings, tuning: Tuning, *, title: str, notes: tuple[str, ...] = ()
    ) -> None:
        self.original, self.settings, self.notes = original, settings, notes
        self._tuning, self._title = tuning, title
        # a full tuning needs nothing of the original
        self._kept = None if METHODS[settings.method].is_full else (original.model, original.tokenizer)
        self._merged: Made | None = None
        self._state: State = "waiting"
        self._error: BaseException | None = None
        self._began = self._ended = 0.0
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._watchers: list[tuple[Watcher, Callable[[], object] | None]] = []
        self._asked: list[_Asked[Made]] = []
        self._thread = threading.Thread(target=self._work, name="labkit-finetune", daemon=True)

    # how it goes ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """ "waiting" before it begins, "running", and then "finished", "stopped" (before its last step) or "failed"."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._state in ("stopped", "finished", "failed")

    @property
    def step(self) -> int:
        """How many steps it has behind it."""
        return self._tuning.done

    @property
    def reached(self) -> bool:
        """Whether the held-out loss has come down to `until_loss`, where the run ends before its last step."""
        return self._tuning.reached

    @property
    def title(self) -> str:
        """What is tuned, and how."""
        return self._title

    @property
    def prompt(self) -> object:
        """What `samples` answer; None where nothing is asked."""
        return self._tuning.plan.prompt

    @property
    def seconds(self) -> float:
        """From its beginning until now, or to its end."""
        if self._state == "waiting":
            return 0.0
        return (self._ended or time.monotonic()) - self._began

    @property
    def error(self) -> BaseException | None:
        """What made it fail."""
        return self._error

    @property
    def steps(self) -> list[Step]:
        """The steps so far; the first, number 0, is the model before it learnt anything."""
        return list(self._tuning.history)

    @property
    def history(self) -> pd.DataFrame:
        """A row for each step: step, loss, held_out, forgetting, kl, learning_rate, gradient_norm, tokens_per_second and
        seconds_left, as `Step` has them; NaN where nothing was measured.
        """
        import pandas as pd

        columns = list(Step.__dataclass_fields__)
        return pd.DataFrame([asdict(step) for step in self.steps], columns=columns)

    @property
    def samples(self) -> list[tuple[int, str]]:
        """(step, what the model answers to the fixed prompt)."""
        return list(self._tuning.samples)

    def subscribe(self, step: Watcher, ended: Callable[[], object] | None = None) -> Callable[[], None]:
        """Have functions called from the run's thread: `step` with each Step to come, `ended` once it is over.

        Returns a function that ends that. What they raise goes to the log "labkit". Of a run that is over, `ended` is called
        at once.
        """
        entry = (step, ended)
        with self._changed:
            over = self.done
            if not over:
                self._watchers.append(entry)
        if over and ended is not None:
            _called(ended)

        def unsubscribe() -> None:
            with self._changed:
                if entry in self._watchers:
                    self._watchers.remove(entry)

        return unsubscribe

    # ending it ------------------------------------------------------------------------------------------------------

    def wait(self, timeout_seconds: float | None = None) -> Run[Made]:
        """Until it has ended, or so many seconds. An interrupt of the kernel stops the run, which keeps what it has learnt.

        Raises what made the run fail.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            with self._changed:
                while not self.done:
                    left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
                    if left <= 0:
                        return self
                    self._changed.wait(left)
        except KeyboardInterrupt:
            self._stop.set()
            raise
        if self._error is not None:
            raise self._error
        return self

    def stop(self) -> Run[Made]:
        """End after the step under way and keep what was learnt; returns once it has ended. A run that is over stays as it is.

        With a folder, what was learnt is kept there as well, and resume=True goes on from this step.
        """
        self._stop.set()
        if threading.current_thread() is not self._thread:
            with self._changed:
                while not self.done:
                    self._changed.wait(_LOOK_SECONDS)
        return self

    # what was learnt ------------------------------------------------------------------------------------------------

    @property
    def adapter(self) -> Adapter[Made]:
        """The adapter, as it is after the last step; while the run goes on, after the step under way.

        It stays to be had when the lab has been closed: then it is on a lab opened anew, `run.original`.
        Raises Unavailable with method "full", which has none: `run.lab` is the tuned model; and where the weights have left
        the numbers.
        """
        if METHODS[self.settings.method].is_full:
            raise Unavailable("Full tuning makes no adapter; run.lab is the tuned model.")
        return self._between_steps(self._adapter)

    @property
    def lab(self) -> Made:
        """A lab of the tuned model: with method "full" the one that was trained, once the run is over; else with the
        adapter merged.

        Once the run is over it is the same lab each time. Raises Unavailable for a full tuning that is still running, and
        where the weights have left the numbers.
        """
        if not METHODS[self.settings.method].is_full:
            if not self.done:
                return self.adapter.merge()
            if self._merged is None or self._merged.closed:
                self._merged = self.adapter.merge()
            return self._merged
        if not self.done:
            raise Unavailable("The model is still being trained; call run.wait() or run.stop() first.")
        self._tuning.check_numbers()
        found: Made = self._tuning.lab  # type: ignore[assignment] # made by the class of the original
        return found

    def _adapter(self) -> Adapter[Made]:
        self._tuning.check_numbers()
        self._reopen()
        with self._tuning.as_measured():
            return taken(self._tuning.model, self.original, f"{self._title}")  # type: ignore[arg-type] # not full

    def _reopen(self) -> None:
        """Where the lab was closed meanwhile: another around the same model, which the run has kept."""
        if self.original.closed and self._kept is not None:
            model, tokenizer = self._kept
            old = self.original
            self.original = type(old)(model, tokenizer, name=old.name, licence=old.licence, notes=old.notes)

    def _between_steps(self, ask: Callable[[], Adapter[Made]]) -> Adapter[Made]:
        """What `ask` returns, asked by the run's thread after its step; by this one when the run is over."""
        if threading.current_thread() is self._thread:
            return ask()
        asked = _Asked(ask)
        with self._changed:
            if not self.done:
                self._asked.append(asked)
        while not asked.answered.wait(_LOOK_SECONDS):
            if self.done:
                asked.answer()
        return asked.result()

    # as others run it -----------------------------------------------------------------------------------------------

    def script(self, model: str | None = None) -> str:
        """The same run as a plain TRL script, to be put beside the data that `export` writes.

        model: what the script loads: a hub name or a folder; None for the hub's name of this model, where it is known.
        With neftune or dropout it draws what this run draws; on a CPU its losses are this run's, or nearly, with qlora, whose
        adapter TRL trains in bfloat16.
        Raises BadInput where nobody but the user knows what to load, Unavailable for a lab that was quantized, as the script
        would load other weights.
        """
        return self._written(model).script()

    def export(self, folder: str | os.PathLike[str], model: str | None = None) -> Path:
        """Write the run for others: train.py (`script`), sft.yaml (`trl sft --config sft.yaml`; none with PiSSA or an alpha
        that is no whole number, which that command doesn't take), and the data as train.jsonl and test.jsonl: readable where
        TRL makes the same tokens and labels of it, else tokenized.

        Returns the folder.  model: as of `script`.
        """
        self._reopen()
        place = Path(folder).expanduser()
        plan = self._tuning.plan
        tokenizer = self.original.tokenizer
        scripts.write(place, self._written(model), tokenizer, plan.data.train, plan.data.held_out, plan.template)
        return place

    def _written(self, model: str | None) -> scripts.Written:
        self._reopen()
        if is_quantized(self.original.model):
            raise Unavailable(
                f"{self.original.name} is quantized here, and a plain script would train beside other weights; tune the lab it "
                "was made of, with method='qlora' for 4 bits, whose script can be written."
            )
        if self.settings.optimizer == "sophia":
            raise Unavailable(
                "TRL has no Sophia, so no plain script of this run can be written; tune with 'adamw' for one."
            )
        name = model or hub_name(self.original)
        if name is None:
            raise BadInput(
                f"A script needs a hub name or a folder to load {self.original.name} from; give it: model='owner/name'."
            )
        loaded = self._tuning.model if METHODS[self.settings.method].is_full else self.original.model
        return scripts.Written(
            self.settings,
            name,
            dtype=str(loaded.dtype).removeprefix("torch."),
            attention=getattr(self.original.model.config, "_attn_implementation", None),
            device=self.original.device.type,
            data=dict(self._tuning.plan.data.settings),
        )

    # the thread -----------------------------------------------------------------------------------------------------

    def start(self) -> Run[Made]:
        """Begin. Raises Unavailable while another run is under way."""
        global _CURRENT
        with _LOCK:
            check_free()
            _CURRENT = weakref.ref(self)
            self._thread.start()
        return self

    def _work(self) -> None:
        state: State = "finished"
        try:
            self._began, self._state = time.monotonic(), "running"
            self._tuning.run(self._publish, self._between, self._stop.is_set)
            if self._tuning.done < self.settings.steps and not self._tuning.reached:
                state = "stopped"
        except BaseException as error:  # in this thread there is nobody above to tell
            self._error, state = error, "failed"
            if not isinstance(error, LabError):
                logging.getLogger("labkit").error("A tuning failed.", exc_info=error)
        with self._changed:
            self._ended, self._state = time.monotonic(), state
            watchers, self._watchers = self._watchers, []
            self._changed.notify_all()
        for _, ended in watchers:
            if ended is not None:
                _called(ended)

    def _publish(self, step: Step) -> None:
        with self._changed:
            watchers = list(self._watchers)
        for watch, _ in watchers:
            _called(lambda watch=watch: watch(step))  # type: ignore[misc]

    def _between(self) -> bool:
        """After a step: answer those who ask. Whether to stop."""
        with self._changed:
            asked, self._asked = self._asked, []
        for each in asked:
            each.answer()
        return self._stop.is_set()

    def __repr__(self) -> str:
        measured = [step for step in self.steps if step.step]
        far = f"step {self._tuning.done} of {self.settings.steps}"
        loss = f", loss {measured[-1].loss:.3f}" if measured else ""
        return f"Run({self._title!r}, {self._state}, {far}{loss})"


class _Asked(Generic[Made]):
    """Something that one thread asks of another."""

    def __init__(self, ask: Callable[[], Adapter[Made]]) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self._found: Adapter[Made] | None = None
        self._error: BaseException | None = None
        self.answered = threading.Event()

    def answer(self) -> None:
        with self._lock:
            if self.answered.is_set():
                return
            try:
                self._found = self._ask()
            except BaseException as error:
                self._error = error
            self.answered.set()

    def result(self) -> Adapter[Made]:
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


def _called(function: Callable[[], object]) -> None:
    try:
        function()
    except BaseException:
        logging.getLogger("labkit").exception("What follows a tuning raised an error.")


_LOCK = threading.Lock()
_CURRENT: weakref.ref[Run[Any]] | None = None


def current_run() -> Run[Any] | None:
    """The run that is under way, if there is one."""
    run = None if _CURRENT is None else _CURRENT()
    return None if run is None or run.done else run


def check_free() -> None:
    """Raise Unavailable while a run is under way."""
    if (run := current_run()) is not None:
        raise Unavailable(
            f"A tuning is running already ({run!r}), and two would only slow each other down; run.wait() or run.stop() it "
            "first: lk.lora.current_run() is that run."
        )


def stop_all() -> bool:
    """Stop the run that is under way and wait for the end of its step; whether there was one."""
    if (run := current_run()) is None:
        return False
    run.stop()
    return True


@atexit.register
def _end() -> None:
    """Let no thread be in the middle of native code when the interpreter goes: that ends in an abort."""
    if (run := current_run()) is not None:
        run._stop.set()
        run._thread.join(_EXIT_SECONDS)
