"""Memory of this process, watched while something runs."""

from __future__ import annotations

import threading

SAMPLED = 0.002  # seconds between two looks


class Growth:
    """While inside, a thread looks at the process's resident memory. now: how far it is above the beginning.  most: at most."""

    def __enter__(self) -> Growth:
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


def resident_bytes() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)
