"""A text that can be typed over, and the job that shows what is found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import traitlets

from labkit.views.kit.job import Job
from labkit.views.kit.traits import Change

if TYPE_CHECKING:
    from labkit.views.base import View

Found = TypeVar("Found")
TYPING_SECONDS = 0.3  # somebody who types on does not mean what stands there yet


class TypedText(traitlets.HasTraits):
    """Traits of a view that shows another text where one is typed; the page's side is `entryField` in kit/field.js."""

    typed = traitlets.Unicode("").tag(sync=True)
    """The text that is typed over the first one."""
    status = traitlets.Dict().tag(sync=True)
    """Of `typed`, as kit/job.py says it."""
    version = traitlets.Int(0).tag(sync=True)
    """Counts the texts shown. A front end redraws when it changes, once the traits of the text agree again."""

    _take: Callable[[str], Any] | None = None
    """What makes of a text what the view shows; None where it can't be typed over."""

    def _follow_typed(
        self, read: Callable[[str], Found], show: Callable[[Found], Mapping[str, object]], *, failed: str
    ) -> None:
        """To be called in `__init__`, before anything may be refused. read: in a worker; show: the traits of what was read;
        failed: what an error's sentence begins with."""

        def put(_text: str, found: Found) -> str:
            for name, value in show(found).items():
                self.set_trait(name, value)
            self.version += 1
            return ""

        self._taker: Job[str, Found] = Job(
            cast("View", self),
            lambda text, _run: read(text),
            put,
            status="status",
            failed=failed,
            delay_seconds=TYPING_SECONDS,
        )

    @traitlets.observe("typed")
    def _on_typed(self, change: Change) -> None:
        # the first text, before there is a page, is on show already
        if self._take is not None and cast("View", self).comm is not None:
            self._taker.ask(change["new"])
