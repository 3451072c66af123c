"""A circuit as a picture, for where no script runs: layers downward, tokens across, the strongest parts in a table below."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.markup import visible
from labkit.views.circuit_view.graphs import END, Curve, label_of, measured, ranked, signs
from labkit.views.drawing.figures import drawn as figure_drawn
from labkit.views.drawing.page import MARGIN, WIDTH, Page
from labkit.views.drawing.scene import ACCENT, INK, LINE, MUTED, PAPER, Dot, Path, Picture, Words, fitted
from labkit.views.kit.plots import OKABE_ITO, curves

if TYPE_CHECKING:
    from labkit.circuits.graph import CircuitEdge, CircuitGraph, CircuitNode

MOST_PARTS, MOST_EDGES, LISTED, LABELLED = 90, 48, 8, 14  # of a picture, which a saved notebook carries
ROW, LEFT, TOP = 30.0, 46.0, 74.0
AGAINST = OKABE_ITO[5]
Point = tuple[float, float]


def drawn(
    title: str,
    sentence: str,
    graph: CircuitGraph,
    *,
    by: str,
    size: int,
    pins: Collection[str],
    names: Mapping[str, str],
    curve: Curve,
) -> Picture:
    """The picture at a size. by: what it counts, "parts" or "edges"; pins: shown besides; names: what parts are called."""
    nodes, edges = shown(graph, by, size, pins)
    page = Page(description=f"{title}: {sentence}").heading(title).note(sentence)
    left_out = [
        f"{len(each)} {name}" for each, name in ((nodes[MOST_PARTS:], "parts"), (edges[MOST_EDGES:], "edges")) if each
    ]
    page.drawing(_graph(graph, nodes[:MOST_PARTS], edges[:MOST_EDGES], names))
    more, less = signs(graph)
    page.key([(ACCENT, f"{more}: filled"), (AGAINST, f"{less}: hollow{', edges dashed' if edges else ''}")])
    if left_out:
        page.note(f"Left out of this picture, and in the view: the weakest {' and '.join(left_out)}.")
    unit = graph.unit or "effect"
    rows = [
        (
            names.get(node.id, node.id),
            "" if node.position is None else graph.tokens[node.position],
            f"{node.effect:+.4g}",
        )
        for node in nodes
        if node.kind not in END
    ]
    page.table(rows[:LISTED], ("part", "token", unit), caption="The strongest", right=(2,))
    lines = {
        name: (
            [float(row["size"] or 0) for row in curve],
            [math.nan if (value := row[name]) is None else value for row in curve],
        )
        for name in measured(curve)
    }
    if lines:
        page.paragraph("What is left of the model's answer, by size", bold=True, gap=0.0)
        page.drawing(figure_drawn(curves(lines, x=by, y="share").update_layout(height=220)))
    return page.picture()


def shown(
    graph: CircuitGraph, by: str, size: int, pins: Collection[str]
) -> tuple[list[CircuitNode], list[CircuitEdge]]:
    """Parts and edges at a size, strongest first, with the ends of the model that they touch."""
    kept = [*ranked(graph, by)[:size]]
    ids = set(pins)
    ends = {node.id for node in graph.nodes if node.kind in END}
    edges: list[CircuitEdge] = []
    if by == "edges":
        edges = [each for each in kept if hasattr(each, "sender")]  # type: ignore[misc]
    else:
        ids |= {each.id for each in kept if hasattr(each, "id")}
        there = ids | ends
        edges = [
            edge
            for edge in graph.edges
            if edge.sender in there and edge.receiver in there and (edge.sender in ids or edge.receiver in ids)
        ]
    ids |= {end for edge in edges for end in (edge.sender, edge.receiver)}
    nodes = [node for node in graph.nodes if node.id in ids]
    return sorted(nodes, key=_strength), sorted(edges, key=_strength)


def _strength(each: CircuitNode | CircuitEdge) -> float:
    return math.inf if math.isnan(each.effect) else -abs(each.effect)


def _graph(
    graph: CircuitGraph, nodes: Sequence[CircuitNode], edges: Sequence[CircuitEdge], names: Mapping[str, str]
) -> Picture:
    rows = sorted({_row(graph, node) for node in nodes})
    columns: list[int | None] = [*sorted({node.position for node in nodes if node.position is not None})]
    columns += [None] if any(node.position is None for node in nodes) else []
    picture = Picture(WIDTH, 40)
    if not nodes:
        picture.add(Words(MARGIN, 24, "No part is shown at this size.", 12.0, MUTED))
        return picture
    cells: dict[tuple[int, int | None], list[CircuitNode]] = {}
    for node in sorted(nodes, key=lambda node: (node.kind == "mlp", node.index or 0)):
        cells.setdefault((_row(graph, node), node.position), []).append(node)
    # a column is as wide as its fullest cell asks for, within the paper
    fullest = [max(len(cell) for (_, at), cell in cells.items() if at == column) for column in columns]
    room = WIDTH - LEFT - 2 * MARGIN
    edges_of = [LEFT + MARGIN + room * sum(fullest[:i]) / sum(fullest) for i in range(len(fullest) + 1)]
    placed = len(columns) > 1 or columns != [None]
    top = TOP if placed else 8.0
    middles = {row: top + ROW * (i + 0.5) for i, row in enumerate(rows)}
    for i, row in enumerate(rows):
        name = "tokens" if row < 0 else "logits" if row == graph.layers else str(row)
        picture.add(Path(((LEFT, top + ROW * i), (WIDTH - MARGIN, top + ROW * i)), LINE))
        picture.add(Words(LEFT - 4, middles[row] + 4, name, 11.0, MUTED, "end"))
    for column, start, end in zip(columns, edges_of, edges_of[1:], strict=False) if placed else ():
        text = "all" if column is None else f"{column} {visible(graph.tokens[column])}".replace("\n", "↵")
        picture.add(Words((start + end) / 2 + 4, top - 6, fitted(text, top - 12, 11.0), 11.0, INK, angle=-60))
    largest = max((abs(n.effect) for n in nodes if n.kind not in END and math.isfinite(n.effect)), default=0.0) or 1.0
    heaviest = max((abs(e.effect) for e in edges if math.isfinite(e.effect)), default=0.0) or 1.0
    spots: dict[str, tuple[float, float, float]] = {}
    for (row, column), cell in cells.items():
        start, end = edges_of[columns.index(column)], edges_of[columns.index(column) + 1]
        for i, node in enumerate(cell):
            share = 0.0 if math.isnan(node.effect) else min(1.0, abs(node.effect) / largest)
            radius = 5.0 if node.kind in END else 2.5 + 6.5 * math.sqrt(share)
            spots[node.id] = (start + (end - start) * (i + 0.5) / len(cell), middles[row], radius)
    alike: dict[tuple[str, float, tuple[float, ...]], list[Point]] = {}  # one line for all that look so: a short file
    for edge in edges:
        if edge.sender in spots and edge.receiver in spots:
            points = alike.setdefault(_stroke(edge.effect, heaviest), [])
            points += [*_curve(spots[edge.sender], spots[edge.receiver]), (math.nan, math.nan)]
    for (colour, width, dash), points in sorted(alike.items(), key=lambda each: each[0][1]):
        picture.add(Path(tuple(points), colour, width, dash, opacity=0.6))
    labelled = {node.id for node in [node for node in nodes if node.kind not in END][:LABELLED]} | set(names)
    for node in nodes:
        x, y, radius = (round(value, 1) for value in spots[node.id])
        if node.kind in END:
            picture.add(Dot(x, y, radius, PAPER, MUTED, 1.5))
        elif node.effect < 0:
            picture.add(Dot(x, y, radius, PAPER, AGAINST, 2.0))
        else:
            picture.add(Dot(x, y, radius, ACCENT))
        if node.id in labelled:
            label = fitted(visible(names.get(node.id) or label_of(node)), 80, 9.0)
            picture.add(Words(x, y + radius + 8, label, 9.0, INK, "middle"))
    picture.height = top + ROW * len(rows) + 10
    return picture


def _row(graph: CircuitGraph, node: CircuitNode) -> int:
    return -1 if node.kind == "input" else graph.layers if node.layer is None else node.layer


def _stroke(effect: float, heaviest: float) -> tuple[str, float, tuple[float, ...]]:
    """Colour, width and dashes of an edge, of three widths."""
    share = 0.0 if math.isnan(effect) else min(1.0, abs(effect) / heaviest)
    return (AGAINST if effect < 0 else ACCENT), (0.6, 1.5, 3.0)[int(2.99 * share)], (4.0, 3.0) if effect < 0 else ()


def _curve(start: tuple[float, float, float], end: tuple[float, float, float]) -> tuple[Point, ...]:
    """From below one part to above another, an S."""
    (x0, y0), (x1, y1) = (start[0], start[1] + start[2]), (end[0], end[1] - end[2])
    return tuple((round(x0 + (x1 - x0) * t * t * (3 - 2 * t)), round(y0 + (y1 - y0) * t)) for t in (0.0, 0.3, 0.7, 1.0))
