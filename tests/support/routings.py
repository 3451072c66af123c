"""Routings made without a model, whose choices follow the token, the kind of text, the document, or nothing."""

from __future__ import annotations

import numpy as np

from labkit.moe.routing import Routing


def synthetic(
    *,
    kinds: int = 3,
    documents: int = 12,
    length: int = 60,
    vocabulary: int = 30,
    experts: int = 8,
    k: int = 2,
    layers: int = 1,
    routers: int = 0,
    by_token: float = 0.0,
    by_kind: float = 0.0,
    by_document: float = 0.0,
    seed: int = 0,
) -> Routing:
    """Documents of each kind, whose tokens differ between kinds; experts are the top k of logits with Gumbel noise.

    by_token, by_kind, by_document: how strongly the logits follow each; 0 is not at all. The untrained routers are drawn
    from the same as the router itself, so that it is one of them.
    """
    rng = np.random.default_rng(seed)
    kind_of = np.repeat(np.arange(kinds), documents)
    document = np.repeat(np.arange(kinds * documents), length)
    kind = kind_of[document]
    use = rng.dirichlet(np.full(vocabulary, 1.0), size=kinds).cumsum(-1)
    ids = np.minimum((rng.random(len(document))[:, None] > use[kind]).sum(-1), vocabulary - 1)

    def router() -> np.ndarray:
        logits = rng.gumbel(size=(len(ids), layers, experts))
        logits += by_token * rng.normal(size=(vocabulary, layers, experts))[ids]
        logits += by_kind * rng.normal(size=(kinds, layers, experts))[kind]
        logits += by_document * rng.normal(size=(len(kind_of), layers, experts))[document]
        return np.argsort(-logits, axis=-1)[..., :k].astype(np.uint8)

    return made(
        ids, document, kind_of, router(), untrained=np.stack([router() for _ in range(routers)]) if routers else None,
        experts=experts,
    )  # fmt: skip


def made(
    ids: np.ndarray,
    document: np.ndarray,
    kind_of: np.ndarray,
    chosen: np.ndarray,
    *,
    untrained: np.ndarray | None = None,
    experts: int,
    kinds: tuple[str, ...] | None = None,
) -> Routing:
    """A Routing of these choices (N, L, k), every expert of the same weight."""
    return Routing(
        ids=np.asarray(ids, np.int64),
        document=np.asarray(document, np.int64),
        kind_of=np.asarray(kind_of, np.int64),
        kinds=kinds or tuple(f"kind{i}" for i in range(int(max(kind_of)) + 1)),
        experts=chosen.astype(np.uint8),
        weights=np.full(chosen.shape, 1 / chosen.shape[-1], np.float32),
        loss=np.zeros(len(ids), np.float32),
        untrained=untrained,
        layers=tuple(range(chosen.shape[1])),
        n_experts=experts,
        model="made by hand",
    )
