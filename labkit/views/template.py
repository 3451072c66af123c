"""The one look of labkit's plotly charts: quiet, readable on light and dark, colours that survive colour blindness."""

from __future__ import annotations

from functools import cache
from typing import Any

# Okabe and Ito (2008): eight colours told apart with any common colour vision; black is left to the text
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK = "#7a7a7a"  # a grey that reads on white and on near-black alike: a chart can't ask which theme it is in
GRID = "rgba(128,128,128,0.25)"


@cache
def template() -> Any:
    """The plotly template: no background of its own, so that the notebook's shows through."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "ticks": "", "automargin": True}
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": INK},
            "title": {"x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 15}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": OKABE_ITO,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": -0.16, "x": 0, "xanchor": "left", "yanchor": "top"},
            "margin": {"l": 10, "r": 20, "t": 60, "b": 50},
            "bargap": 0.35,
        }
    )
