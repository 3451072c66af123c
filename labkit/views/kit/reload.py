"""While a view is being written: with ANYWIDGET_HMR=1 an open view redraws when one of its files changes.

anywidget's own watching takes a single file, and a view is joined from several. So each joined text remembers how it was made
(`Joined`), and one thread looks at the files' times; the traits `_esm` and `_css` then change, and anywidget's front end
draws the view anew with them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

LOOK_SECONDS = 0.3
_TRAITS = ("_esm", "_css")
_LOG = logging.getLogger("labkit")

Times = tuple[tuple[str, int, int], ...]


class Joined(str):
    """A text made from files: `files()` names them as they are now, `again()` makes it anew."""

    files: Callable[[], list[Path]]
    again: Callable[[], str]

    @classmethod
    def of(cls, make: Callable[[], str], files: Callable[[], list[Path]]) -> Joined:
        text = cls(make())
        text.files, text.again = files, make
        return text


class Redrawn(Protocol):
    """What can be followed: a widget with the two texts as traits."""

    comm: object

    def set_trait(self, name: str, value: object) -> None: ...


def wanted() -> bool:
    """Whether views are to follow their files."""
    return os.environ.get("ANYWIDGET_HMR") == "1"


def follow(view: Redrawn) -> None:
    """Keep a view's texts as its files are, until it is closed."""
    for name in _TRAITS:
        # a widget gives itself a class of its own, on which these are traits: the texts are further up
        held = (each.__dict__.get(name) for each in type(view).__mro__)
        source = next((each for each in held if isinstance(each, Joined)), None)
        if source is not None:
            with _LOCK:
                _FOLLOWED.setdefault(view, {})[name] = (source, None)
    _start()


_LOCK = threading.Lock()
_FOLLOWED: weakref.WeakKeyDictionary[Redrawn, dict[str, tuple[Joined, Times | None]]] = weakref.WeakKeyDictionary()
_thread: threading.Thread | None = None


def _start() -> None:
    global _thread
    with _LOCK:
        if _FOLLOWED and _thread is None:
            _thread = threading.Thread(target=_look, name="labkit-reload", daemon=True)
            _thread.start()


def _look() -> None:
    global _thread
    while True:
        with _LOCK:
            for view in [view for view in _FOLLOWED if view.comm is None]:
                del _FOLLOWED[view]
            if not _FOLLOWED:
                _thread = None
                return
            followed = [(view, name, *kept) for view, texts in _FOLLOWED.items() for name, kept in texts.items()]
        for view, name, source, before in followed:
            try:
                now = _times(source)
                if now == before:
                    continue
                # a view made after a file had changed starts from what its class was given
                view.set_trait(name, source.again())
            except (
                OSError,
                ValueError,
            ) as error:  # half saved, or an import that can't be joined: the next save counts
                _LOG.warning("The view is not redrawn: %s", error)
                now = before if before is not None else ()
            with _LOCK:
                if view in _FOLLOWED:
                    _FOLLOWED[view][name] = (source, now)
        del followed
        time.sleep(LOOK_SECONDS)


def _times(source: Joined) -> Times:
    found = [(path, path.stat()) for path in source.files()]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in found)
