"""Loss by position that was measured once, by `labkit.recipes.context`: a record that comes with labkit."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from labkit import checks
from labkit.context.long_losses import LossByPosition, by_position
from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS

RECORD = ASSETS.parent / "recipes" / "records" / "context.jsonl"
STRETCH = 64  # tokens of which a mean is kept


def key(row: Mapping[str, object]) -> tuple[object, ...]:
    """What tells one line of the record from the others."""
    return tuple(row[name] for name in ("model", "trained", "factor", "document", "kind"))


def recorded(model: str = "labkit-moe", *, bins: int = 8) -> LossByPosition:
    """Loss by position of a model as it was measured once, in the form of `loss_by_position`.

    model: "labkit-moe" (trained with 1,024 positions) or "labkit-squeeze" (256), both read to four times that. The recipe also
        lists the default model, whose run has not been made.
    bins: stretches of equal length; their ends are moved to the record's, a multiple of 64 tokens.
    Documents that not every way was measured on are left out. Raises BadInput for another model, BadModelFile where the record
    can't be read.
    """
    try:
        rows = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()]
        models = list(dict.fromkeys(str(row["model"]) for row in rows))
    except (OSError, ValueError, KeyError) as error:
        raise BadModelFile("context.jsonl, which comes with labkit, can't be read; install labkit again.") from error
    model = checks.one_of("model", model, models)
    own = [row for row in rows if row["model"] == model]
    kinds = list(dict.fromkeys(str(row["kind"]) for row in own))
    by_document: dict[int, dict[str, Mapping[str, list[float]]]] = {}
    for row in own:
        by_document.setdefault(int(row["document"]), {})[str(row["kind"])] = row
    whole = [of for of in by_document.values() if set(of) == set(kinds)]

    def tokens(name: str, kind: str) -> np.ndarray:
        """(documents, T − 1): each token with the mean of its stretch."""
        return np.stack([np.repeat(of[kind][name], STRETCH)[1:] for of in whole])

    return by_position(
        {kind: tokens("loss", kind) for kind in kinds},
        tokens("unigram", kinds[0]),
        model=model,
        trained=int(own[0]["trained"]),
        factor=float(own[0]["factor"]),
        bins=checks.whole("bins", bins, 1, int(own[0]["trained"] * own[0]["factor"]) // STRETCH),
        notes=(f"measured once, by labkit.recipes.context; means of {STRETCH} tokens",),
    )
