"""What is computed for the claims about mixtures of experts, on published configurations and on the mixture labkit ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from labkit.lab import Lab
    from labkit.sae import SAE

DOCUMENTS = 20  # of each kind of text
ROUTERS = 20  # untrained ones to compare with
SAE_DOCUMENTS, SAE_LAYER = 24, 3  # of each kind, half of them to learn from; which router
SAE_ROWS, SAE_BATCH, SAE_FEATURES, SAE_K = 200_000, 1_024, 512, 16
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


def sae_roles() -> tuple[float, str]:
    """How many experts of a layer of labkit-moe one feature of an autoencoder tells; and what its strongest feature tells."""
    import labkit.circuits as circuits
    import labkit.moe as moe

    lab, texts = _mixture(), moe.texts(SAE_DOCUMENTS)
    sae = trained_on(lab, circuits.counted_on(texts))
    found = circuits.expert_features(lab, sae, texts, shuffles=9, untrained=9, progress=False)
    bits = found.set_index("known")
    own, token = bits.loc["feature"], bits.loc["token"]
    both = bits.loc[["token and feature", "token and untrained feature"], "information"]
    best = found.experts[["feature_share", "token_share", "untrained_share"]].median() * 100
    return float(found.told), (
        f"one feature tells more than half of what there is to know about {found.told} of {len(found.experts)} experts of "
        f"layer {found.layer} (median of the best: {best['feature_share']:.0f} %; one token {best['token_share']:.0f} %, one "
        f"feature of an untrained autoencoder {best['untrained_share']:.0f} %); a token's strongest feature tells "
        f"{own['information']:.1f} of {found.entropy:.1f} bits on text that nothing was learnt from, the token "
        f"{token['information']:.1f}, the strongest untrained feature {bits.loc['untrained feature', 'information']:.1f}, a "
        f"feature dealt anew {own['shuffled']:.1f}, and of routers of random directions it tells "
        f"{own['untrained_routers']:.1f}; with the token known, trained and untrained features come to "
        f"{both.iloc[0]:.1f} and {both.iloc[1]:.1f}"
    )


def trained_on(lab: Lab, texts: Mapping[str, Sequence[object]]) -> SAE:
    """A small autoencoder of the residual stream that enters the layer, trained on texts in seconds."""
    import torch

    from labkit import sae as room
    from labkit.sae.reading import residuals
    from labkit.trace.documents import documents_of

    rows = [ids.tolist() for ids in documents_of(lab, texts)[0]]
    x = torch.cat([each[1:] for each in residuals(lab, rows, SAE_LAYER)])  # but the first token of each
    settings = room.Settings(
        features=SAE_FEATURES,
        k=SAE_K,
        tokens=SAE_ROWS,
        batch=SAE_BATCH,
        learning_rate=2e-3,
        warm_up=20_000,
        dead_after=50_000,
    )
    run = room.train(x, settings, layer=SAE_LAYER, model=lab.name)
    while True:
        try:
            next(run)
        except StopIteration as end:
            found: SAE = end.value
            return found


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
