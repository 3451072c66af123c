"""Memory of this process, watched while something runs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading

SAMPLED = 0.002  # seconds between two looks


class Growth:
    """While inside, a thread looks at the process's resident memory. now: how far it is above the beginning.  most: at most.

    What was freed before is given back to the system first where it can be (glibc), or else taking it again would not show.
    """

    def __enter__(self) -> Growth:
        give_back()
        self._began, self.now, self.most = resident_bytes(), 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join()
        self.now = max(resident_bytes() - self._began, 0)
        self.most = max(self.most, self.now)

    def _look(self) -> None:
        while not self._ended.wait(SAMPLED):
            self.most = max(self.most, resident_bytes() - self._began)


def give_back() -> None:
    """Hand memory that this process has freed and keeps for later back to the system, where its C library can."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)
