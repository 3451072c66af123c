"""What every view stands on: a widget, its export to one HTML file, and text that can't break out of either.

A view is a folder with Python, plain ES modules and CSS. Its state lives in synced traits: numbers as
`traitlets.Bytes` (little-endian; a DataView in the browser), short texts as lists and dicts. The last module
has `export default { render }`, and that same function draws the widget in a notebook and the exported file.
"""

from __future__ import annotations

import base64
import html
import json
import threading
import time
import uuid
import zlib
from typing import TYPE_CHECKING, Any

import anywidget
from IPython.display import display

from labkit.markup import clean, shorten, visible
from labkit.views.drawing.page import Page
from labkit.views.drawing.svg import inline, svg_image
from labkit.views.exports import Exports, html_page, in_colab
from labkit.views.kit import reload
from labkit.views.kit.job import Job
from labkit.views.kit.modules import KIT, module, style
from labkit.views.kit.wire import receive

if TYPE_CHECKING:
    from labkit.views.drawing.scene import Picture

__all__ = ["View", "clean", "module", "shorten", "style", "visible"]
_WORTH_PACKING = 4_096  # bytes, from where they are deflated in a file
_PLAIN_CHARACTERS = 2_000  # of text/plain, which every saved notebook carries
_ALT_CHARACTERS = 600  # of what stands for the picture


class View(Exports, anywidget.AnyWidget):
    """A widget that shows itself in a notebook and can be written as a page, a picture and numbers (`Exports`).

    A subclass sets `_esm = module(...)`, `_css = style(...)`, `_title`, the three texts below, and `_table` and `_image`.
    """

    _title = "labkit"
    _written_again = False
    """Whether what a saved notebook keeps is written again when the first work has ended, and after `wait()`: for a view in
    which there is little to see before."""

    _lock: threading.RLock
    """Around what is set in several traits together, by the kernel's thread or by a job's."""
    _jobs: list[Job[Any, Any]]
    _display_id: str | None = None
    _displayed: str | None = None
    _wrote_again = False

    def setup_instance(*args: Any, **kwargs: Any) -> None:
        """Called before `__init__`: a view whose making is refused half way is closed, too."""
        view = args[0]
        view._lock, view._jobs = threading.RLock(), []
        super(View, view).setup_instance(*args[1:], **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_msg(lambda _widget, content, _buffers: receive(self, content))
        if reload.wanted():
            reload.follow(self)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until all that was asked of the view is there; whether that came in time. For use without a front end.

        Interrupting the kernel stops what is under way.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            while busy := [job for job in self._jobs if job.busy]:
                for job in busy:
                    if not job.wait(None if end is None else max(0.0, end - time.monotonic())):
                        return False
        except KeyboardInterrupt:
            for job in self._jobs:
                job.stop()
            raise
        if self._written_again:
            self._write_again()
        return True

    def close(self) -> None:
        """Stop what is under way and take the widget out of the page."""
        for job in self._jobs:
            job.close()
        super().close()

    def _describe(self) -> str:
        """What the view shows, in a few words, for its repr."""
        return ""

    def _static_text(self) -> str:
        """What is shown where only plain text can be."""
        return repr(self)

    def _static_html(self) -> str:
        """What a saved notebook shows, and one exported from it: the picture; every outside text in it escaped."""
        return svg_image(self._image(), shorten(visible(self._static_text()), _ALT_CHARACTERS))

    def _export_state(self) -> dict[str, Any]:
        """The traits an exported file needs: all that the view itself defines."""
        own = set(type(self).class_traits(sync=True)) - set(anywidget.AnyWidget.class_traits())
        return {name: getattr(self, name) for name in sorted(own) if not name.startswith("_")}

    def __repr__(self) -> str:
        # Never an address: notebooks under test compare their outputs.
        return f"{type(self).__name__}({self._describe()})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if self.comm is None:  # closed: there is no model left for a front end to draw
            data: dict[str, Any] = {}
            metadata: dict[str, Any] = {}
        else:
            bundle = super()._repr_mimebundle_(**kwargs)
            data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        data = {**data, "text/plain": shorten(visible(self._static_text()), _PLAIN_CHARACTERS)}
        if not in_colab():
            # A live JupyterLab prefers the widget to the HTML. Colab's choice between the two is not documented.
            data["text/html"] = self._static_html()
        return data, metadata

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Raises NotImplementedError where IPython is to ask for the bundle instead."""
        old = hasattr(anywidget.AnyWidget, "_ipython_display_")  # ipywidgets 7 displays itself
        if not (old or self._written_again):
            raise NotImplementedError
        data, metadata = self._repr_mimebundle_()
        self._display_id, self._displayed = self._display_id or uuid.uuid4().hex, data.get("text/html")
        display(data, metadata=metadata, raw=True, display_id=self._display_id)
        if old:
            self._handle_displayed(**kwargs)

    def _write_again(self) -> None:
        """Put into the notebook what is to be seen now, where it was shown something else."""
        with self._lock:
            if self._display_id is None or self.comm is None or in_colab():  # which was given no picture
                return
            data, metadata = self._repr_mimebundle_()
            if data["text/html"] == self._displayed:
                return
            self._displayed = data["text/html"]
        display(data, metadata=metadata, raw=True, display_id=self._display_id, update=True)

    def _job_ended(self, ended: Job[Any, Any]) -> None:
        """Called by a job. An open page draws the widget anew where it is written again, so that happens but once."""
        over = not any(job.busy for job in self._jobs if job is not ended)
        if over and self._written_again and self._display_id is not None and not self._wrote_again:
            self._wrote_again = True
            self._write_again()

    def _image(self) -> Picture:
        return Page(description=self._title).heading(self._title).paragraph(self._static_text()).picture()

    def _page(self) -> str:
        values: dict[str, Any] = {"exported": True}
        blobs: dict[str, str] = {}
        packed: dict[str, str] = {}
        for name, value in self._export_state().items():
            if isinstance(value, bytes | bytearray | memoryview):
                raw = bytes(value)
                small = zlib.compress(raw, 6) if len(raw) >= _WORTH_PACKING else raw
                into = packed if len(small) < len(raw) else blobs
                into[name] = base64.b64encode(small if into is packed else raw).decode("ascii")
            else:
                values[name] = value
        # ASCII JSON escapes U+2028 and anything else odd; with "<" gone, no text can end or open a script element.
        state = json.dumps({"values": values, "bytes": blobs, "packed": packed}, ensure_ascii=True, allow_nan=False)
        state = state.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        script = str(self._esm).replace("export default", "const labkitWidget =")
        return html_page(
            title=self._title,
            style=str(self._css),
            # the picture is there until the script has drawn, and where none runs
            body=f'<h1>{html.escape(self._title)}</h1>\n<div id="labkit-view">{inline(self._image())}</div>',
            data=f'<script type="application/json" id="labkit-state">{state}</script>\n',
            script=script + "\n" + (KIT / "page.js").read_text("utf-8"),
        )
