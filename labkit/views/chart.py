"""A chart: a plotly figure that can be written like any view, and that leaves a picture wherever no script runs."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from labkit.errors import Unavailable
from labkit.markup import html_table, shorten, visible
from labkit.views.drawing import figures
from labkit.views.drawing.figure_texts import plain
from labkit.views.drawing.svg import svg
from labkit.views.exports import Exports, html_page, in_colab
from labkit.views.kit.modules import KIT

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from labkit.views.drawing.scene import Picture

PLOTLY = "application/vnd.plotly.v1+json"
_PARTS = ("data", "layout", "frames")  # of a figure
LISTED = 500  # rows of numbers written into a page
Bundle = dict[str, object]


class Chart(Exports):
    """`figure` is plotly's own, and what a chart does not have itself it passes on to it: `chart.update_layout(height=300)`,
    `chart.data`, `chart.layout`. `table` holds the numbers.

    Drawn live by plotly where a notebook can; a saved notebook and one exported from it keep a small SVG. `to_html` writes
    that picture with what is said at each point, and the numbers below it; plotly's page (5 MB) is `chart.write_html(path)`.
    """

    def __init__(self, figure: go.Figure, table: pd.DataFrame) -> None:
        self.figure = figure
        self._numbers = table

    def __getattr__(self, name: str) -> object:
        # asked only for what the chart does not have; before the figure is there (copy, pickle), for nothing
        if name.startswith("_") or name == "figure":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self.figure, name)
        if not callable(value):
            return value

        def passed(*arguments: object, **keywords: object) -> object:
            result = value(*arguments, **keywords)
            return self if result is self.figure else result

        passed.__name__, passed.__doc__ = name, value.__doc__
        return passed

    def __setattr__(self, name: str, value: object) -> None:
        if name in _PARTS:
            setattr(self.figure, name, value)
        else:
            super().__setattr__(name, value)

    def __getitem__(self, name: str) -> object:
        return self.figure[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.figure[name] = value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self.figure) if not name.startswith("_"))})

    def __repr__(self) -> str:
        return f"Chart({shorten(visible(self._title().replace(chr(10), ' ')), 200)!r})"

    def _title(self) -> str:
        return plain(self.figure.layout.title.text) or "chart"

    def _table(self) -> pd.DataFrame:
        return self._numbers

    def _image(self) -> Picture:
        return figures.drawn(self.figure)

    def _repr_mimebundle_(self, **_keywords: object) -> tuple[Bundle, Bundle]:
        bundle: Bundle = {"text/plain": repr(self)}
        if in_colab():
            bundle |= self.figure._repr_mimebundle_()  # its own way to draw there
        else:
            bundle[PLOTLY] = _as_json(self.figure)
        try:
            bundle["image/svg+xml"] = svg(self._image())
        except Unavailable:  # a user's own trace, of a kind that is not drawn here
            bundle.setdefault("text/html", self._rows())
        return bundle, {}

    def _rows(self) -> str:
        rows = self._numbers.head(LISTED)
        more = len(self._numbers) - len(rows)
        right = [i for i, kind in enumerate(rows.dtypes) if kind.kind in "iuf"]
        cells = [[_written(cell) for cell in row] for row in rows.itertuples(index=False)]
        listed = html_table(cells, head=[str(name) for name in rows.columns], right=right)
        return listed + (f"<p>{more:,} more rows: to_csv writes all.</p>" if more > 0 else "")

    def _page(self) -> str:
        title = visible(self._title().replace("\n", " "))
        return html_page(
            title=title,
            style=_STYLE,
            body=f"<h1>{html.escape(title)}</h1>\n<figure>{svg(self._image(), hover=True)}</figure>\n"
            f"<details><summary>The numbers</summary>{self._rows()}</details>\n"
            '<div id="said" hidden></div>',
            script=(KIT / "chart_page.js").read_text("utf-8"),
        )


def _as_json(figure: go.Figure) -> object:
    """The figure as plotly's front ends take it: the same as its own renderer sends."""
    import json

    return json.loads(figure.to_json())


def _written(cell: object) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


_STYLE = """\
body { margin: 1rem auto; max-width: 72rem; padding: 0 0.5rem; background: #ffffff; color: #1b1f24;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
figure { margin: 0; position: relative; overflow-x: auto; }
h1 { position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
table { font-size: 12px; font-variant-numeric: tabular-nums; }
td, th { padding: 1px 12px 1px 0; }
#said { position: fixed; pointer-events: none; max-width: 28rem; padding: 4px 8px; border-radius: 4px;
  background: #1b1f24; color: #ffffff; font-size: 12px; white-space: pre-line; }
"""
