"""The lens view as a picture, for where no script runs: of a long text its end, of many layers some."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.markup import visible
from labkit.views.drawing.page import MARGIN, WIDTH, Page
from labkit.views.drawing.scene import DEEP, INK, MUTED, PALE, Box, Picture, Words, fitted, mixed, readable_on
from labkit.views.lens_view.cells import Column

TOKENS, LAYERS = 8, 10  # of a picture, which a saved notebook carries
SHADES = 8
HIGH, LEFT, TOP = 18.0, 40.0, 22.0


def drawn(title: str, columns: Sequence[Column], layers: Sequence[int], kinds: Sequence[str]) -> Picture:
    """kinds: the lenses on show, one below the other."""
    page = Page(description=title).heading(title)
    if not columns:
        return page.note("Nothing has been read yet.").picture()
    shown = columns[-TOKENS:]
    rows = some(layers, LAYERS)
    page.note("In each cell the token a lens reads there, darker where it is more probable; layers downward.")
    if len(shown) < len(columns) or len(rows) < len(layers):
        page.note(
            f"The last {len(shown)} of {len(columns)} tokens, {len(rows)} of {len(layers)} rows; the view has all of them."
        )
    for kind in kinds:
        page.paragraph(f"{kind} lens", bold=True, gap=0.0)
        page.drawing(_grid(shown, rows, kind))
    return page.picture()


def some(layers: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly, the last included."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]


def _grid(columns: Sequence[Column], layers: Sequence[int], kind: str) -> Picture:
    wide = min(84.0, (WIDTH - LEFT - 2 * MARGIN) / len(columns))
    picture = Picture(WIDTH, TOP + HIGH * len(layers) + 12)
    boxes: dict[str, list[Box]] = {}
    words = []
    for i, column in enumerate(columns):
        x = MARGIN + LEFT + wide * i
        words.append(Words(x + 2, TOP - 7, fitted(_plain(column.token), wide - 4, 11.0), 11.0, INK))
        for j, layer in enumerate(layers):
            cell = column.cells.get((kind, layer))
            if cell is None or not cell.tokens:
                continue
            colour = mixed(PALE, DEEP, round(SHADES * cell.probabilities[0]) / SHADES)
            y = TOP + HIGH * j
            boxes.setdefault(colour, []).append(Box(round(x, 1), y, round(wide - 1, 1), HIGH - 1, colour))
            text = fitted(_plain(cell.tokens[0]), wide - 6, 10.0)
            words.append(Words(round(x + 3, 1), y + 12, text, 10.0, readable_on(colour)))
    for each in boxes.values():
        picture.add(*each)
    for j, layer in enumerate(layers):
        words.append(Words(MARGIN + LEFT - 8, TOP + HIGH * j + 12, str(layer), 11.0, MUTED, "end"))
    picture.add(*words)
    return picture


def _plain(token: str) -> str:
    return visible(token.replace("\n", "↵").replace("\t", "→")).strip(" ") or "·"
