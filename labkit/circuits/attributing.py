"""Attribution patching: what each patch would bring back, to first order, from two passes forward and one backward.

Nanda 2023 ("Attribution Patching: Activation Patching At Industrial Scale"), Syed et al. 2023 ("Attribution Patching
Outperforms Automated Circuit Discovery"); with steps, Hanna et al. 2024 ("Have Faith in Faithfulness").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.circuits.contrasts import Contrast, check_plain
from labkit.circuits.gradients import linearised, mean_gradients
from labkit.errors import BadInput
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace.instruments import BY_NAME, PATCHED, filled
from labkit.trace.lab_like import check_lab
from labkit.trace.pairs import Metric, check_metric, pair_ids, positions_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import LabLike
    from labkit.trace.patching import Patching


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Result):
    """Attribution beside exact patching.

    table: a row a patch: its place as in both, attribution and exact, the two effects.  pearson, spearman: their correlations
    over the rows, NaN where one of them is constant.  slope: the exact effect for an attribution of one (least squares
    through the origin); 1 where both agree.  largest: the largest difference between the two.  at: what was patched.
    """

    at: str
    pearson: float
    spearman: float
    slope: float
    largest: float
    model: str

    def _title(self) -> str:
        return (
            f"Attribution against exact patching of {self.model} at {self.at!r}, {len(self)} patches: "
            f"Pearson {self.pearson:.3f}, Spearman {self.spearman:.3f}, slope {self.slope:.3f}, "
            f"largest difference {self.largest:.3g}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """What each patch would bring back, to first order; the columns and signs are those of `lk.patching`.

    table: layer, position, token, corrupted_token (with at="head": layer, head), value (estimated) and effect.
    at: what is patched.  steps: how many points of the way the gradient is a mean of; None where it was taken at the corrupted
    text.  clean, corrupted: the metric of both texts.  model: its name.
    """

    at: str
    steps: int | None
    clean: float
    corrupted: float
    model: str

    def _title(self) -> str:
        by = "attribution patching" if self.steps is None else f"integrated gradients over {self.steps} steps"
        return f"Estimated effects of patching {self.model} at {self.at!r}, by {by}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {
            "corrupted": {"value": self.corrupted, "effect": 0.0},
            "clean": {"value": self.clean, "effect": 1.0},
        }

    def against(self, patching: Patching) -> Agreement:
        """Compare with exact patching of the same texts at the same place; patches that only one of the two has are left out.

        Raises BadInput for a patching at another place, of other texts or another metric.
        """
        import numpy as np

        if getattr(patching, "at", None) != self.at:
            raise BadInput(f"This attribution is at {self.at!r}; give it lk.patching(..., at={self.at!r}).")
        for name in ("clean", "corrupted"):
            mine, other = getattr(self, name), getattr(patching, name)
            if not abs(mine - other) <= 1e-3 * max(abs(self.clean - self.corrupted), abs(mine)):
                raise BadInput(
                    f"The metric of the {name} text is {mine:g} here and {other:g} in the patching, so they are of other texts, "
                    "another metric or another model; give both the same."
                )
        keys = ["layer", "head"] if self.at == "head" else ["layer", "position"]
        both = self.table[[*keys, "effect"]].merge(patching.table[[*keys, "effect"]], on=keys, suffixes=("", "_exact"))
        both = both.rename(columns={"effect": "attribution", "effect_exact": "exact"})
        x, y = both["attribution"].to_numpy(), both["exact"].to_numpy()
        flat = len(x) < 2 or not np.ptp(x) or not np.ptp(y)
        pearson = float("nan") if flat else float(np.corrcoef(x, y)[0, 1])
        ranks = [both[name].rank().to_numpy() for name in ("attribution", "exact")]
        spearman = float("nan") if flat else float(np.corrcoef(*ranks)[0, 1])
        slope = float(x @ y / (x @ x)) if np.any(x) else float("nan")
        largest = float(np.abs(x - y).max()) if len(x) else float("nan")
        return Agreement(both, self.at, pearson, spearman, slope, largest, self.model)


def attribution(
    lab: LabLike,
    clean: object,
    corrupted: object,
    metric: Metric,
    *,
    at: str = "residual",
    positions: int | slice | Sequence[int] | None = None,
    steps: int | None = None,
) -> Attribution:
    """Estimate what `lk.patching` would bring back, for all places at once: gradient times difference.

    clean, corrupted: two texts (token ids, messages, Generations) of equally many tokens.
    metric: as in `lk.patching`, but computed from its logits with torch, so that a gradient goes through it.
    at, positions: as in `lk.patching`; at is one of {patched}.
    steps: None takes the gradient at the corrupted text (attribution patching): exact where the metric is linear in the
        activation, and misleading where a softmax or a norm is saturated. A number takes the mean of the gradients at so many
        points on the way from the corrupted to the clean text's embeddings (integrated gradients), at that many times the
        cost; about 5 to 20 are usual.
    effect = Σ (clean activation − corrupted activation) · ∂metric/∂activation, divided by the metric's difference of the two
    texts: 0 is the corrupted result, 1 the clean one. Effects of one instrument at all layers need not sum to anything: what
    an early layer does, it does through later ones.
    Returns an `Attribution`; `.against(lk.patching(...))` gives its correlation with exact patching.
    Raises BadInput as `lk.patching` does and for a metric without gradient, Unavailable where the model does not have what is
    to be patched.
    """
    check_lab(lab)
    at = checks.one_of("at", at, PATCHED, problem="is nothing that can be patched")
    steps = None if steps is None else checks.whole("steps", steps, 1)
    check_metric(metric)
    contrast = Contrast(*pair_ids(lab, clean, corrupted), metric)
    where = positions_of(positions, len(contrast.clean))
    name = PATCHED[at]
    with lab.turn():
        model, anatomy = lab.model, lab.anatomy
        check_plain(lab, [name])
        both, passes = linearised(model, anatomy, contrast, [name], steps, [name])
        slopes = mean_gradients(passes, [name])[name]
    effects: dict[int, torch.Tensor] = {}
    for layer in BY_NAME[name].layers(anatomy):
        product = (both.difference(name, layer).double() * slopes[layer].double())[..., where, :].sum(-1)
        effects[layer] = (product.sum(-1) if at == "head" else product).cpu() / both.span
    frame = _frame(
        at, effects, where, *(token_strings(lab.tokenizer, ids) for ids in (contrast.clean, contrast.corrupted))
    )
    frame.insert(len(frame.columns) - 1, "value", both.corrupted_value + frame["effect"] * both.span)
    return Attribution(frame, at, steps, both.clean_value, both.corrupted_value, lab.name)


attribution.__doc__ = filled(attribution.__doc__)


def _frame(
    at: str, effects: Mapping[int, torch.Tensor], where: Sequence[int], tokens: list[str], corrupted_tokens: list[str]
) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, list[object]] = {"layer": [i for i, values in effects.items() for _ in values]}
    if at == "head":
        columns["head"] = [head for values in effects.values() for head in range(len(values))]
    else:
        places = list(where) * len(effects)
        columns["position"] = list(places)
        columns["token"] = [tokens[p] for p in places]
        columns["corrupted_token"] = [corrupted_tokens[p] for p in places]
    columns["effect"] = [value + 0.0 for values in effects.values() for value in values.tolist()]  # no -0.0
    return pd.DataFrame(columns)
