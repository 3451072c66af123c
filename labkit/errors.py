"""The errors a user of labkit meets. A leaf: every room may import it, it imports nothing.

Each message is one clear sentence that says what was asked and why it can't be, followed by the one command or
argument that would help.
"""

from __future__ import annotations


class LabError(Exception):
    """A foreseeable mistake or limit, told in one sentence with its remedy."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a wall of frames: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class Unavailable(LabError):
    """Something this model, device or installation can't give; the message holds the reason and the remedy."""


class NotEnoughMemory(LabError, MemoryError):
    """Weights, or a run, need more bytes than are free; the message names what would fit."""


class NotEnoughDisk(LabError, OSError):
    """The cache needs more bytes than the disk has free."""


class ModelNotFound(LabError):
    """No model of this name, folder or file; the message lists near matches or what can be loaded instead."""


class DownloadFailed(LabError):
    """A download was refused, cut or never began; nothing of it was kept as if it were whole."""


class BadModelFile(LabError):
    """A model file is damaged, incomplete, of a refused kind, or not what its checksum says."""


class BadInput(LabError, ValueError):
    """A prompt or a setting that can't be used: empty, too long, out of range."""


class LabClosed(LabError):
    """The lab was closed; its model is gone."""
