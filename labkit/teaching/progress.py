"""What a learner has done, kept in one local file: exercises tried and solved, predictions made.

The file is written with a rename under a lock, so that several notebooks can be open. A file that can't be read is set
aside, not lost; where nothing can be written, the session goes on and remembers in memory.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict, TypeGuard

from labkit.errors import BadInput
from labkit.markup import escaped, html_table, shorten, visible
from labkit.teaching.series import NOTEBOOKS, RENAMED, place

_LOCK_SECONDS = 10.0


class ExerciseRecord(TypedDict, total=False):
    """tried: how often an answer was checked.  unaided: solved before the solution was seen."""

    tried: int
    solved: bool
    solution_seen: bool
    unaided: bool


class PredictionRecord(TypedDict, total=False):
    """kind: of the question.  guess: what was locked, as JSON has it."""

    kind: str
    guess: object


class _File(TypedDict):
    version: int
    exercises: dict[str, ExerciseRecord]
    predictions: dict[str, PredictionRecord]


class Watcher(Protocol):
    """Something on show that changes with the progress of an id."""

    id: str

    def refresh(self) -> None: ...


_WATCHERS: weakref.WeakSet[Watcher] = weakref.WeakSet()
_in_memory: dict[Path, _File] = {}  # of files that can't be written
_said: set[str] = set()


def path() -> Path:
    """The file: $LABKIT_PROGRESS, else progress.json in the user's data folder."""
    import platformdirs

    configured = os.environ.get("LABKIT_PROGRESS")
    if configured:
        return Path(configured).expanduser()
    return Path(platformdirs.user_data_dir("labkit", appauthor=False)) / "progress.json"


def exercise_record(id: str) -> ExerciseRecord:
    """tried (a count), solved, solution_seen, unaided (solved before the solution was seen)."""
    return {
        "tried": 0,
        "solved": False,
        "solution_seen": False,
        "unaided": False,
        **_read(path())["exercises"].get(id, {}),
    }


def prediction_record(id: str) -> PredictionRecord | None:
    """What was locked; None where nothing was."""
    found = _read(path())["predictions"].get(id)
    return {**found} if found else None


def tried(id: str, *, solved: bool) -> None:
    """Note that an answer was checked."""

    with _exercise(id) as record:
        record["tried"] = record.get("tried", 0) + 1
        if solved:
            record["unaided"] = record.get("unaided", False) or not record.get("solution_seen", False)
            record["solved"] = True


def solution_seen(id: str) -> None:
    """Note that the solution was shown."""
    with _exercise(id) as record:
        record["solution_seen"] = True


def predicted(id: str, kind: str, guess: object) -> None:
    """Note a locked guess, in place of one that no longer fitted its question."""
    with _changing(path()) as data:
        data["predictions"].setdefault(id, {}).update({"kind": kind, "guess": guess})
    _refresh([id])


def watch(watcher: Watcher) -> None:
    """Call watcher.refresh() whenever this kernel changes the progress of watcher.id."""
    _WATCHERS.add(watcher)


# ------------------------------------------------------------------------------------------------------------ the file


def _empty() -> _File:
    return {"version": 1, "exercises": {}, "predictions": {}}


def _is_sound(data: object) -> TypeGuard[_File]:
    if not isinstance(data, dict):
        return False
    parts = (data.get("exercises"), data.get("predictions"))
    return all(isinstance(part, dict) and all(isinstance(row, dict) for row in part.values()) for part in parts)


def _read(file: Path) -> _File:
    """The file's content; empty where there is none. A damaged file is renamed, and that is said."""
    if file in _in_memory:
        return _in_memory[file]
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _empty()
    except OSError as error:
        _say_once(
            f"Progress can't be read from {file} ({error.strerror or error}); set LABKIT_PROGRESS to another file."
        )
        return _empty()
    except (ValueError, RecursionError):
        data = None
    if _is_sound(data):
        for before, now in RENAMED.items():
            if (record := data["exercises"].pop(before, None)) is not None:
                data["exercises"].setdefault(now, record)
        return data
    aside = file.with_name(f"{file.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}{file.suffix}")
    with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
        try:
            file.replace(aside)
            _say(f"The progress file {file} could not be read; it was set aside as {aside.name}, and a new one begun.")
        except PermissionError:
            _say_once(f"The progress file {file} could not be read nor set aside; set LABKIT_PROGRESS to another file.")
    return _empty()


def _write(file: Path, data: _File) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(data, out, indent=1, ensure_ascii=True)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[_File]:
    """The file's content, to be changed in place; written at the end."""
    import filelock

    if file in _in_memory:
        yield _in_memory[file]
        return
    data: _File | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_name(f".{file.name}.lock"), timeout=_LOCK_SECONDS):
            data = _read(file)
            yield data
            _write(file, data)
    except (OSError, filelock.Timeout) as error:
        reason = getattr(error, "strerror", None) or str(error)
        _say_once(
            f"Progress can't be kept in {file} ({reason}); it is remembered until the kernel ends. "
            "Set LABKIT_PROGRESS to a file you may write to."
        )
        if data is None:
            data = _empty()
            yield data
        _in_memory[file] = data


@contextlib.contextmanager
def _exercise(id: str) -> Iterator[ExerciseRecord]:
    """An exercise's record, to be changed in place; then whatever shows it is told."""
    with _changing(path()) as data:
        yield data["exercises"].setdefault(id, {})
    _refresh([id])


def _refresh(ids: list[str] | None) -> None:
    for watcher in list(_WATCHERS):
        if ids is None or watcher.id in ids:
            watcher.refresh()


def _say(sentence: str) -> None:
    logging.getLogger("labkit").warning("%s", visible(sentence))


def _say_once(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        _say(sentence)


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One notebook: how many exercises there are, were solved, solved unaided, seen the solution of, tried unsolved."""

    notebook: str
    exercises: int
    solved: int
    solution_seen: int
    tried: int
    predictions: int


@dataclass(frozen=True, repr=False)
class Progress:
    """What was done, a row for each notebook. rows; said: what was cleared, if anything."""

    rows: tuple[Row, ...]
    said: str = ""

    def _table(self) -> list[tuple[str, ...]]:
        return [
            (
                row.notebook,
                f"{row.solved} of {row.exercises}",
                str(row.solution_seen),
                str(row.tried),
                str(row.predictions),
            )
            for row in self.rows
        ]

    def __repr__(self) -> str:
        table = [_HEADS, *self._table()]
        widths = [max(len(line[i]) for line in table) for i in range(len(_HEADS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        return "\n".join([*([self.said] if self.said else []), *lines])

    def _repr_html_(self) -> str:
        said = f"<p>{escaped(self.said)}</p>" if self.said else ""
        return f"<div>{said}{html_table(self._table(), head=_HEADS, caption='Your progress', labelled=True)}</div>"


_HEADS = ("notebook", "exercises solved", "solutions seen", "tried, not solved", "predictions made")


def progress(clear: bool | str = False) -> Progress:
    """What was done so far, over all notebooks.

    clear: True forgets everything; an id ("attention.rotate") or a notebook ("attention", "02_attention") forgets that.
    Nothing is ever cleared otherwise. Raises BadInput for a name that is neither.
    """
    from labkit.teaching.exercises import all_exercises

    if not isinstance(clear, bool | str):
        raise BadInput(f"clear takes True, an id or a notebook's name, not a {type(clear).__name__}.")
    known = list(all_exercises())
    said = ""
    if clear is not False:
        said = _clear(clear, known)
    data = _read(path())
    topics = {name.partition(".")[0] for name in [*known, *data["exercises"], *data["predictions"]]}
    return Progress(tuple(_row(topic, known, data) for topic in sorted(topics, key=place)), said)


def _row(topic: str, known: list[str], data: _File) -> Row:
    def of(ids: Iterable[str]) -> list[str]:
        return [id for id in ids if id.partition(".")[0] == topic]

    records = [data["exercises"][id] for id in of(data["exercises"])]
    return Row(
        notebook=shorten(visible(NOTEBOOKS.get(topic, topic)), 60),
        exercises=len(of(known)),
        solved=sum(bool(r.get("solved")) for r in records),
        solution_seen=sum(bool(r.get("solution_seen")) for r in records),
        tried=sum(bool(r.get("tried")) and not r.get("solved") for r in records),
        predictions=len(of(data["predictions"])),
    )


def _clear(what: bool | str, known: list[str]) -> str:
    topic = {notebook: topic for topic, notebook in NOTEBOOKS.items()}.get(str(what), what)
    file = path()
    data = _read(file)
    recorded = {*data["exercises"], *data["predictions"]}
    if what is True:
        chosen = recorded
    else:
        chosen = {id for id in recorded if id == topic or id.partition(".")[0] == topic}
        topics = {id.partition(".")[0] for id in [*known, *recorded]} | {*NOTEBOOKS}
        if not chosen and topic not in {*known, *topics}:
            near = difflib.get_close_matches(str(what), [*known, *recorded, *topics, *NOTEBOOKS.values()], 3, 0.5)
            remedy = f"did you mean {' or '.join(near)}?" if near else "lk.progress() shows what there is."
            raise BadInput(f"There is no progress for {shorten(visible(repr(what)), 80)}; {remedy}")
    with _changing(file) as data:
        for id in chosen:
            data["exercises"].pop(id, None)
            data["predictions"].pop(id, None)
    _refresh(None if what is True else sorted(chosen))
    if what is True:
        return "All progress was cleared."
    return f"{'Nothing was kept of' if not chosen else 'Cleared:'} {shorten(visible(str(what)), 80)}."
