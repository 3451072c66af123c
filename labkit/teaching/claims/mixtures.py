"""What is computed for the claims about mixtures of experts, on published configurations and on the mixture labkit ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from labkit.lab import Lab

DOCUMENTS = 20  # of each kind of text
ROUTERS = 20  # untrained ones to compare with
PRUNE_DOCUMENTS, PRUNE_CHARACTERS = 12, 400


def mixtral_20() -> tuple[float, str]:
    """Share of Mixtral 8x7B's parameters that are active on a token, in percent."""
    from labkit.moe import costs

    mixtral = costs("mixtral-8x7b")
    percent = round(100 * mixtral.share_active, 1)
    return percent, (
        f"{mixtral.active_parameters / 1e9:.1f} of {mixtral.parameters / 1e9:.1f} billion parameters are active on a token, "
        f"{percent:g} %, and that is its arithmetic; in memory it needs all. Of its quality this says nothing"
    )


def moe_roles() -> tuple[float, str]:
    """How many experts of labkit-moe stand out for a kind of text, and what the chosen experts tell about it."""
    import labkit.moe as moe

    routing = moe.collect(_mixture(), moe.texts(DOCUMENTS), untrained=ROUTERS, progress=False)
    information = moe.information(routing)
    out = moe.specialisation(routing).stand_out["untrained_largest"]
    experts = routing.n_experts * len(routing.layers)
    bits = {name: _range(information[name]) for name in ("information", "untrained", "given_token_above")}
    above = information[information["p_given_token_untrained"] <= 1 / (ROUTERS + 1) + 1e-9]
    return float(out["found"]), (
        f"on five kinds of text {out['found']} of {experts} experts surely take more of one kind than the most one-sided "
        f"expert of an untrained router (by chance {out['by_chance']:.1f}); together they tell {bits['information']} bits "
        f"about the kind, by layer (untrained {bits['untrained']}), and {bits['given_token_above']} to somebody who knows "
        f"the token, more than any untrained router in layers {', '.join(map(str, above['layer']))}"
    )


def prune_blind() -> tuple[float, str]:
    """Loss added by leaving half of labkit-moe's experts out: the least used, those that matter least, any."""
    import labkit.moe as moe

    evaluated = {
        kind: [text[:PRUNE_CHARACTERS] for text in of_kind]
        for kind, of_kind in moe.texts(PRUNE_DOCUMENTS, skip=28).items()
    }
    table = moe.damage(
        _mixture(),
        evaluated,
        keeps=(16,),
        by=("usage", "random"),
        rank_on=moe.texts(12),
        scores={"measured": moe.recorded_effects()},
        draws=3,
        progress=False,
    )
    added = table[table["kind"] == "all"].set_index("by")["loss_change"]
    return round(float(added["measured"]), 2), (
        f"with half of all experts left out, the loss of labkit-moe grows by {added['measured']:.2f} nats when those go "
        f"whose loss was measured to matter least, by {added['usage']:.2f} when the least used go, and by "
        f"{added['random']:.2f} when any go"
    )


def _mixture() -> Lab:
    from labkit.lab import load

    return load("labkit-moe", dtype="float32", device="cpu")


def _range(column: pd.Series) -> str:
    return f"{column.min():.2f} to {column.max():.2f}"
