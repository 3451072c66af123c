"""What every view and chart can be written as: one HTML file, a picture (SVG, PNG), its numbers (CSV)."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import pandas as pd

    from labkit.views.drawing.scene import Picture

LARGEST_SCALE = 8.0
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell that spreadsheets compute begins with


def in_colab() -> bool:
    """Whether this runs in Colab, which shows widgets and plotly's figures in ways of its own."""
    return "google.colab.output" in sys.modules


class Exports:
    """A subclass says what it is: `_page` (HTML), `_image` (shapes), `_table` (numbers). What it is now is written."""

    def _page(self) -> str:
        raise NotImplementedError

    def _image(self) -> Picture:
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        raise Unavailable(f"{type(self).__name__} holds no numbers; to_html, to_svg and to_png write it as it looks.")

    @property
    def table(self) -> pd.DataFrame:
        """The numbers that are shown, a row each, as they are now. Raises Unavailable for a view that has none."""
        return self._table()

    def to_html(self, path: str | Path) -> Path:
        """Write the view to one HTML file that opens offline, makes no request, and can still be explored.

        Returns the file's path. Raises BadInput when it can't be written there.
        """
        return write(path, self._page)

    def to_svg(self, path: str | Path) -> Path:
        """Write the picture as SVG: for print, or to go on drawing. Returns the file's path; raises as `to_html` does."""
        from labkit.views.drawing.svg import svg

        return write(path, lambda: svg(self._image()))

    def to_png(self, path: str | Path, *, scale: float = 2.0) -> Path:
        """Write the picture as PNG. scale: pixels for each of the picture's, 0.5 to 8.

        Needs Pillow (`pip install 'labkit[pictures]'`) and no browser. Returns the file's path. Raises Unavailable without
        Pillow, otherwise as `to_html` does.
        """
        from labkit.checks import number
        from labkit.views.drawing.png import png

        scale = number("scale", scale, 0.5, LARGEST_SCALE)
        return write(path, lambda: png(self._image(), scale=scale))

    def to_csv(self, path: str | Path) -> Path:
        """Write the numbers (`table`) as CSV, in UTF-8 with every digit.

        A text that a spreadsheet would run as a formula, such as the token "=", stands behind an apostrophe, which
        spreadsheets take for "this is text". Returns the file's path; raises as `to_html` does, and Unavailable for a view
        that has no numbers.
        """
        return write(path, lambda: _without_formulas(self.table).to_csv(index=False, lineterminator="\n"))


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text, column names included, that a spreadsheet would take for a formula."""

    def plain(cell: object) -> object:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell

    of_text = [i for i, dtype in enumerate(frame.dtypes) if dtype.kind not in "biufcmM"]
    shown = frame.copy(deep=False)
    for i in of_text:
        shown.isetitem(i, [plain(cell) for cell in frame.iloc[:, i]])
    return shown.rename(columns=plain)


def html_page(*, title: str, style: str, body: str, script: str, data: str = "") -> str:
    """One HTML file. body: what stands in <main>, as HTML; data: what the script reads, an element that is not shown. The
    policy forbids every request, so that even a mistake in what is given could not make one."""
    style, script = style.replace("</", "<\\/"), re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)
    return _PAGE.format(title=html.escape(title), style=style, body=body, data=data, script=script)


def write(path: str | Path, content: Callable[[], str | bytes]) -> Path:
    """Write what is made by content() to a file; nothing is written where making it fails. Raises BadInput when the file
    can't be written."""
    target, made = Path(path).expanduser(), content()
    try:
        target.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8"))
    except OSError as error:
        raise BadInput(
            f"The view can't be written to {target}: {error.strerror or error}; "
            "give a file name in a folder that exists and that you may write to."
        ) from error
    return target


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body class="lk-page">
<main>
{body}
</main>
{data}<script type="module">
{script}
</script>
</body>
</html>
"""
