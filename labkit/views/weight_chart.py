"""The weights of a matrix as a histogram, with the values that its format allows laid over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.views.chart import Chart
from labkit.views.kit.plots import GREY, INK, OKABE_ITO, below_title, escaped, template, titled

if TYPE_CHECKING:
    from labkit.quantization import Reconstruction

BINS = 61
OUTLIER = 6.0  # standard deviations
MOST_LINES = 64  # of a grid; beyond that they are a grey surface
MOST_POINTS = 512  # of a group's weights, drawn one by one
ALL, ONE, LINES = "rgba(128,128,128,0.35)", OKABE_ITO[1], OKABE_ITO[0]


@dataclass(frozen=True, eq=False)
class Histogram:
    """What is drawn of a matrix in a format.

    edges: (bins + 1,).  counts: (bins,), of all weights.  levels: (values,), rising, those of one group's grid, in the scale
    of the weights.  choices: how many of them a single weight may take, where sub-blocks or columns have their own.
    weights, values: (size,), that group's weights and what became of them.  group, groups: which of how many.
    outliers: (outliers,), weights more than six standard deviations from 0, the largest first.  std: of all weights.
    """

    edges: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    choices: int
    weights: np.ndarray
    values: np.ndarray
    group: int
    groups: int
    outliers: np.ndarray
    std: float


def histogram(reconstruction: Reconstruction, group: int | None = None) -> Histogram:
    """The histogram of all weights, and one group's grid; by default that of the group whose range is the median one."""
    groups, size = reconstruction.packed.codes()[0].shape
    weights = reconstruction.weight.reshape(groups, size)
    if group is None:
        ranges = weights.abs().amax(1)
        group = int((ranges - ranges.median()).abs().argmin())
    else:
        group = checks.index("group", group, groups)
    flat = reconstruction.weight.flatten().double().numpy()
    reach = float(np.abs(flat).max()) or 1.0
    counts, edges = np.histogram(flat, bins=BINS, range=(-reach, reach))
    std = float(flat.std())
    far = flat[np.abs(flat) > OUTLIER * std]
    levels = reconstruction.levels(group).double().numpy()
    return Histogram(
        edges=edges,
        counts=counts,
        levels=levels,
        choices=min(len(levels), reconstruction.packed.format.grid.code_count),
        weights=weights[group].double().numpy(),
        values=reconstruction.unpacked.reshape(groups, size)[group].double().numpy(),
        group=group,
        groups=groups,
        outliers=far[np.argsort(-np.abs(far), kind="stable")],
        std=std,
    )


def grid(reconstruction: Reconstruction, *, group: int | None = None, title: str | None = None) -> Chart:
    """The weights of a matrix, how many lie where, and the values that its format allows them.

    reconstruction: of `lk.quantization.matrix`.  group: whose grid is drawn, of those that the matrix is cut into; by default
        the one whose range is the median one. Its weights are points below the bars. Counts are on a square-root scale, so
        that single weights far out can be seen; those beyond six standard deviations are marked.
    title: by default a sentence that counts. Returns a Chart, its figure plotly's. Raises BadInput for anything else.
    """
    import pandas as pd
    import plotly.graph_objects as go

    if not hasattr(reconstruction, "packed") or not hasattr(reconstruction, "weight_error"):
        raise BadInput("There is nothing to draw; give what lk.quantization.matrix returned.")
    found = histogram(reconstruction, group)
    heights = np.sqrt(found.counts)
    top = float(heights.max())
    figure = go.Figure()
    figure.add_scatter(  # as an outline: bars as narrow as these would leave gaps between them
        x=[float(found.edges[0]), *np.repeat(found.edges, 2)[1:-1].tolist(), float(found.edges[-1])],
        y=[0.0, *np.repeat(heights, 2).tolist(), 0.0],
        fill="toself",
        fillcolor=ALL,
        line={"width": 0, "color": GREY},
        mode="lines",
        name="all weights",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=((found.edges[:-1] + found.edges[1:]) / 2).tolist(),
        y=heights.tolist(),
        mode="markers",
        marker={"size": 3, "color": INK},
        showlegend=False,
        customdata=[
            f"{low:.4g} to {high:.4g}<br><b>{count:,}</b> weights"
            for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    lines = found.levels if len(found.levels) <= MOST_LINES else found.levels[[0, -1]]
    figure.add_scatter(
        x=[at for level in lines for at in (level, level, None)],
        y=[at for _ in lines for at in (0.0, top, None)],
        mode="lines",
        line={"color": LINES, "width": 1.2},
        name=f"the {len(found.levels)} values of the grid" + (" (its ends)" if len(lines) < len(found.levels) else ""),
        hoverinfo="skip",
    )
    if found.groups > 1:
        chosen = found.weights[:MOST_POINTS]
        figure.add_scatter(
            x=chosen.tolist(),
            y=[-0.05 * top] * len(chosen),
            mode="markers",
            marker={"size": 5, "color": ONE},
            name=f"weights of group {found.group:,}",
            customdata=[f"{w:.5g} becomes {v:.5g}" for w, v in zip(chosen, found.values, strict=False)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    for number, outlier in enumerate(found.outliers[:3]):
        figure.add_annotation(
            x=float(outlier),
            y=top * (0.2 + 0.08 * number),
            text=f"{outlier:.3g}, {abs(outlier) / found.std:.0f} standard deviations",
            showarrow=False,
            xanchor="right" if outlier > 0 else "left",
            font={"color": INK, "size": 11},
        )
    ticks = [10**power for power in range(7) if 0.1 * top <= math.sqrt(10**power) <= top]
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _sentence(reconstruction, found),
        height=360,
        legend={"y": -0.24},  # below the axis title: this chart is lower than most
        xaxis={"title": titled("weight"), "zeroline": False},
        yaxis={
            "title": titled("weights (square-root scale)"),
            "tickvals": [0, *(math.sqrt(count) for count in ticks)],
            "ticktext": ["0", *(f"{count:,}" for count in ticks)],
            "range": [-0.1 * top, 1.05 * top],
        },
    )
    table = pd.DataFrame({"from": found.edges[:-1], "to": found.edges[1:], "weights": found.counts})
    return Chart(figure, table)


def _sentence(reconstruction: Reconstruction, found: Histogram) -> str:
    values = len(found.levels)
    used = len(np.unique(found.values))
    own = f"the weights of group {found.group:,} use" if found.groups > 1 else "the weights use"
    each = "" if values == found.choices else f" ({found.choices} for each, by its column or sub-block)"
    said = (
        f"{values:,} values to choose from{each}, {own} {used}; the matrix moves by {reconstruction.weight_error:.1%}"
    )
    below = escaped(f"{reconstruction.name}, {reconstruction.packed.format.described()}, by {reconstruction.method}")
    if len(found.outliers):
        count = len(found.outliers)
        below += f"; {count:,} weight{'s lie' if count > 1 else ' lies'} beyond six standard deviations"
    return said + below_title(below)
