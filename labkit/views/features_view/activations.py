"""What the features view draws: a text's activations as bytes, a dashboard as plain values, and why something is not there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsFloat, TypeAlias

import numpy as np

from labkit.errors import BadInput
from labkit.markup import one_line
from labkit.sae.dashboards import Dashboard, Example
from labkit.sae.dictionary import SAE
from labkit.sae.reading import Features
from labkit.views.kit.arrays import numbers
from labkit.views.kit.running_text import Pieces, label, split

Plain: TypeAlias = dict[str, Any]  # what JSON takes

MOST_TOKENS = 2_048  # drawn; nobody reads further in a box that scrolls
MOST_BYTES = 800_000  # of features and activations of one text
STRONGEST = 10  # features of the whole text, listed while no token is chosen
_MOST_EXAMPLES, _MOST_ROWS, _MOST_BINS = 40, 50, 200  # of a dashboard


@dataclass(frozen=True)
class Drawn:
    """The features of one text of T tokens, its first n drawn, with at most p features each.

    pieces: the n tokens as running text.  indices: (n, p) uint16 or uint32, the most active first, the dtype's
    largest number where there is none.  values: (n, p) float32.  unexplained: (n,) float32.  undefined: token -> the
    sentence why it has no features.  most: features active on one token, before any was left out.  strongest: feature,
    activation and token of the whole text's highest.
    """

    tokens: int
    pieces: Pieces
    indices: np.ndarray
    values: np.ndarray
    unexplained: np.ndarray
    undefined: dict[int, str]
    most: int
    strongest: list[tuple[int, float, int]]

    @property
    def cut(self) -> bool:
        """Whether some token has more features than are sent."""
        return bool(self.most > self.indices.shape[1])


def drawn(found: Features) -> Drawn:
    """What is drawn of a text's features."""
    n_drawn = min(len(found), MOST_TOKENS)
    kind = np.dtype("<u2") if len(found.sae) < 1 << 16 else np.dtype("<u4")
    room = max(1, MOST_BYTES // (n_drawn * (kind.itemsize + 4)))
    indices, values = numbers(found.indices), numbers(found.values, "<f4")
    most = int((indices >= 0).sum(-1).max(initial=0))
    n = max(1, min(most, room))
    there = indices[:n_drawn, :n]
    return Drawn(
        tokens=len(found),
        pieces=split(found.tokens[:n_drawn]),
        indices=np.ascontiguousarray(np.where(there >= 0, there, np.iinfo(kind).max), kind),
        values=np.ascontiguousarray(np.where(there >= 0, values[:n_drawn, :n], 0), "<f4"),
        unexplained=numbers(found.unexplained, "<f4")[:n_drawn],
        undefined={i: why_undefined(found.sae, i) for i in np.flatnonzero(~numbers(found.defined)[:n_drawn]).tolist()},
        most=most,
        strongest=[(feature.index, value, token) for feature, value, token in found.strongest(STRONGEST)],
    )


def activations(found: Features, feature: int) -> np.ndarray:
    """(n,) float32: one feature's activation on each drawn token; NaN where features are not defined."""
    return numbers(found.of(feature), "<f4")[:MOST_TOKENS]


def why_undefined(sae: SAE, token: int) -> str:
    """Why a token has no features."""
    if token == 0:
        return "Features are not defined at the first token: what the model holds there is like at no other."
    if sae.positions is not None or sae.leaves_out:
        return "Features are not defined at this token: the training left such places or tokens out."
    if sae.outlier is None:
        return "Features are not defined at this token."
    return (
        f"Features are not defined at this token: its residual is over {sae.outlier:g} times as long as the typical one, "
        "as where a model parks attention, and such tokens were left out of the training."
    )


def nothing(found: Features) -> str:
    """Why no feature is active anywhere in a text, or "" where one is."""
    if bool((found.indices >= 0).any()):
        return ""
    if not bool(found.defined.any()):
        return "No feature can be shown: features are not defined at any token of this text; give a longer one."
    return "No feature is active on any token of this text."


def plain(dashboard: Dashboard) -> Plain:
    """A dashboard as values that JSON takes; numbers to six digits, None for what is not a number."""
    return {
        "feature": dashboard.feature.index,
        "density": _number(dashboard.density),
        "largest": _number(dashboard.largest),
        "tokens": int(dashboard.tokens),
        "examples": [_example(each) for each in dashboard.examples[:_MOST_EXAMPLES]],
        "edges": [_number(edge) for edge in dashboard.edges[: _MOST_BINS + 1]],
        "counts": [int(count) for count in dashboard.counts[:_MOST_BINS]],
        "kinds": [
            [one_line(kind, 60), _number(share), _number(corpus)]
            for kind, (share, corpus) in list(dashboard.kinds.items())[:_MOST_ROWS]
        ],
        "promoted": [[label(token), _number(change)] for token, change in dashboard.promoted[:_MOST_ROWS]],
        "suppressed": [[label(token), _number(change)] for token, change in dashboard.suppressed[:_MOST_ROWS]],
        "nearest": [[int(index), _number(cosine)] for index, cosine in dashboard.nearest[:_MOST_ROWS]],
        "chance": _number(dashboard.chance_cosine),
        "chance_promotion": _number(dashboard.chance_promotion),
    }


def _example(example: Example) -> dict[str, object]:
    return {
        **split(example.tokens).sent(),
        "values": [_number(value) for value in example.activations.tolist()],
        "peak": int(example.peak),
        "kind": one_line(example.kind, 60),
        "top": bool(example.top),
    }


def check(found: object) -> None:
    """Raises BadInput for what has no features to show."""
    if isinstance(found, list | tuple):
        raise BadInput(
            "lk.views.features shows one text's features, and this is a list; give one, e.g. found[0] of "
            "lk.sae.features(lab, sae, texts)."
        )
    if not isinstance(found, Features | Dashboard):
        raise BadInput(
            f"lk.views.features shows Features or a Dashboard, not a {type(found).__name__}; get them with "
            "lk.sae.features(lab, sae, text)."
        )
    if isinstance(found, Features) and not len(found):
        raise BadInput("These features are of no token; read a text of at least one.")
    if isinstance(found, Features) and found.sae.signed:
        raise BadInput(
            f"The features of {found.sae.name} may be below 0, and this view shades a text from 0 up; look at the numbers: "
            "found.table."
        )


def _number(value: SupportsFloat) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
