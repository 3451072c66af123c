"""The quantization view as a picture: the weights with the grid over them, the error map, both texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from labkit.views.drawing.page import MARGIN, WIDTH, Page, Token
from labkit.views.drawing.pixels import Indexed
from labkit.views.drawing.scene import ACCENT, DEEP, MUTED, PALE, Box, Path, Picture, Words, mixed
from labkit.views.kit.plots import OKABE_ITO
from labkit.views.quantization_view.error_map import MOST_CELLS, ErrorMap
from labkit.views.weight_chart import MOST_LINES, Histogram

HEIGHT = 170.0
SIDE = 48  # cells of the map along a side: a saved notebook carries the picture
SHADES = 12
MARKED = OKABE_ITO[5]


def drawn(
    title: str,
    sentences: Sequence[str],
    shown: Histogram | None,
    errors: ErrorMap | None,
    prompt: str | None,
    texts: Sequence[tuple[str, Sequence[str], Collection[int]]],
) -> Picture:
    """texts: for each its heading, its tokens, and the places of those that the other does not have."""
    page = Page(description=title).heading(title)
    for sentence in sentences:
        page.note(sentence)
    if shown is not None:
        page.drawing(_histogram(shown))
        page.key([("#b8bec5", "weights (square-root scale)"), (ACCENT, "values that one group may take")])
    if errors is not None:
        _map(page, errors)
    if prompt is not None:
        page.note(f"After {prompt[:400]!r}; underlined is what the other text does not have:")
    for heading, tokens, differ in texts:
        page.paragraph(heading, bold=True, gap=2.0)
        page.tokens(
            [Token(token, line=1.4 if i in differ else 0.0, line_colour=MARKED) for i, token in enumerate(tokens)]
        )
    return page.picture()


def _histogram(shown: Histogram) -> Picture:
    picture = Picture(WIDTH, HEIGHT + 34)
    low, high = float(shown.edges[0]), float(shown.edges[-1])
    left, width, base = MARGIN, WIDTH - 2 * MARGIN, HEIGHT + 8

    def x(value: float) -> float:
        return round(left + width * (value - low) / (high - low), 1)

    heights = np.sqrt(shown.counts) / max(1.0, float(np.sqrt(shown.counts).max()))
    outline = [(x(low), base)]
    for start, end, height in zip(shown.edges, shown.edges[1:], heights, strict=False):
        y = round(base - (HEIGHT - 10) * float(height), 1)
        outline += [(x(start), y), (x(end), y)]
    picture.add(Path((*outline, (x(high), base)), fill="#b8bec5", closed=True))
    if len(shown.levels) > MOST_LINES:
        picture.add(Box(x(shown.levels[0]), 8, x(shown.levels[-1]) - x(shown.levels[0]), HEIGHT, ACCENT, 0.15))
    else:
        gap = float("nan")
        lines = [point for v in shown.levels for point in ((x(v), 8.0), (x(v), base), (gap, gap))]
        picture.add(Path(tuple(lines), ACCENT, 1.0, opacity=0.7))
    for value in shown.outliers[:3]:
        picture.add(Path(((x(value), base), (x(value), base - 26)), MARKED, 2.0))
    picture.add(
        Words(x(low), base + 16, f"{low:.3g}", 11.0, MUTED),
        Words(x(0.0), base + 16, "0", 11.0, MUTED, "middle"),
        Words(x(high), base + 16, f"{high:.3g}", 11.0, MUTED, "end"),
    )
    return picture


def _map(page: Page, errors: ErrorMap) -> None:
    """The largest error in each of a few cells."""
    step = max(1, -(-max(errors.errors.shape) // SIDE))
    down, across = (-(-n // step) for n in errors.errors.shape)
    room = np.zeros((down * step, across * step))
    room[: errors.down, : errors.across] = errors.errors
    cells = room.reshape(down, step, across, step).max((1, 3))
    top = float(cells.max()) or 1.0
    shades = [mixed(PALE, DEEP, i / (SHADES - 1)) for i in range(SHADES)]
    places = np.rint(cells / top * (SHADES - 1)).astype(np.uint8)
    page.paragraph(f"Error of each weight, the largest of each cell: 0 to {top:.3g}", bold=True, gap=4.0)
    scale = min(360 / across, 240 / down)
    page.pixels(Indexed.of(places, shades).rgba(), width=across * scale, height=down * scale)
    page.note(
        f"{errors.rows} rows downward, {errors.columns} columns across; at most {MOST_CELLS} cells a side are kept."
    )
