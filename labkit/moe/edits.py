"""Edits of routers: which experts a token may have, must have or loses, and routers that know nothing.

All are for `with lab.edit(...)`, hold for trace, generate and stream, and are undone whatever happens. They compose and
nest: what is asked of a router is asked together, whatever its order; where a number or a weight is asked for twice, the
later holds. When a choice changes, the new weights are those that the architecture's own rule gives for it: labkit finds
the rule by trying the router, and where it finds none (PhiMoE's sparsemixer) lab.edit raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.trace.edits import RouterEdit
from labkit.trace.routers import Rerouting, Router, random_weights

Experts = int | Sequence[int]


def forbid(experts: Experts | Mapping[int, Experts], layer: int | None = None) -> RouterEdit:
    """Never choose these experts: a token that had one of them gets its next best instead.

    experts: a number or several, or {layer: experts}.  layer: where; None for all layers with a router.
    All other tokens keep their choice and weights to the bit. A token keeps the groups it had (DeepSeek); when they hold
    too few experts that are left, the next best of all follow.
    lab.edit raises BadInput for experts and layers that are not there and when fewer are left than are chosen for a
    token, Unavailable for a dense model and for a router whose rule labkit does not know.
    """
    asked = {at: Rerouting(forbidden=frozenset(chosen)) for at, chosen in _by_layer("forbid", experts, layer).items()}
    return _edit(asked)


def force(experts: Experts, layer: int | None = None, weights: float | Sequence[float] | None = None) -> RouterEdit:
    """Choose these experts for every token, first and in this order; the rest of the k chosen go by score.

    experts: a number or several, at most as many as are chosen for a token.  layer: None for all layers with a router.
    weights: what the forced experts' outputs are multiplied with, one for each or one for all; those chosen by score keep
        what the rule gives them. None: what the architecture's rule gives, which is little for a low score.
    lab.edit raises as for `forbid`, and BadInput when more experts are forced than are chosen.
    """
    chosen = _experts("force", experts)
    given: list[float | None] = [None] * len(chosen)
    if weights is not None:
        written: object = weights.tolist() if hasattr(weights, "tolist") else weights
        values: list[object] = [written] * len(chosen)
        if isinstance(written, Sequence) and not isinstance(written, str):
            values = [*written]
        if len(values) != len(chosen):
            raise BadInput(
                f"force was given {len(chosen)} experts and {len(values)} weights; give one for each, or one."
            )
        given = []
        for value in values:
            if (number := checks.as_number(value)) is None:
                raise BadInput(f"force takes finite numbers as weights, and {checks.shown(value)} is none.")
            given.append(number)
    return _edit({_layer("force", layer): Rerouting(forced=tuple(zip(chosen, given, strict=True)))})


def drop(experts: Experts | Mapping[int, Experts], layer: int | None = None) -> RouterEdit:
    """Take away what these experts add, and choose nothing instead: their weight becomes zero, the others keep theirs.

    experts: a number or several, or {layer: experts}.  layer: where; None for all layers with a router.
    `forbid` asks how well the model does with the experts that are left, which take over the dropped one's part, and
    their weights grow where the rule makes weights sum to 1. `drop` asks what this expert contributed: the token loses
    just that. An expert that is dropped still counts as chosen, and trace.routes shows it with weight 0.
    lab.edit raises BadInput for experts and layers that are not there, Unavailable for a dense model.
    """
    asked = {at: Rerouting(dropped=frozenset(chosen)) for at, chosen in _by_layer("drop", experts, layer).items()}
    return _edit(asked)


def choose(k: int, layer: int | None = None) -> RouterEdit:
    """Choose k experts for each token, 1 to all, with the weights that the architecture's rule gives for so many.

    layer: None for all layers with a router. Where experts lie in groups (DeepSeek) and the kept groups hold fewer than
    k, the next best of the other groups follow.
    lab.edit raises BadInput when there are fewer experts than k, Unavailable as for `forbid`, and where the rest of the
    layer can't take another number.
    """
    if (count := checks.as_whole(k)) is None or count < 1:
        raise BadInput(
            f"choose takes how many experts a token gets, 1 or more, and {checks.shown(k)} is no such number."
        )
    return _edit({_layer("choose", layer): Rerouting(k=count)})


def random_router(seed: int = 0, layer: int | None = None) -> RouterEdit:
    """Give routers random weights: each row in a random direction, as long as the trained one. Biases stay.

    layer: None for all layers with a router; their directions differ. The same seed gives the same routers. Such a
    router sees what the trained one sees and chooses by the same rule, so what it seems to know is chance.
    lab.edit raises BadInput for a layer that is not there, Unavailable for a dense model.
    """
    if (number := checks.as_whole(seed)) is None:
        raise BadInput(f"random_router takes a whole number as seed, and {checks.shown(seed)} is none.")
    at = _layer("random_router", layer)
    return _edit({at: partial(random_weights, seed=number)}, name="router")


# reading what was written ---------------------------------------------------------------------------------------------


def _edit(
    asked: Mapping[int | None, Rerouting | Callable[[Router], torch.Tensor]], *, name: str = "routes"
) -> RouterEdit:
    where = tuple(f"{name}[{'*' if at is None else at}]" for at in asked)
    return RouterEdit(where, asked)


def _by_layer(edit: str, experts: object, layer: object) -> dict[int | None, tuple[int, ...]]:
    if not isinstance(experts, Mapping):
        return {_layer(edit, layer): _experts(edit, experts)}
    if layer is not None:
        raise BadInput(f"{edit} was given experts by layer and layer={layer!r} as well; leave one of them.")
    if not experts:
        raise BadInput(f"There is nothing to {edit}; give at least one expert.")
    # two names of one layer, such as 3 and -1, are put together when the edit is entered
    return {_layer(edit, at): _experts(edit, chosen) for at, chosen in experts.items()}


def _layer(edit: str, layer: object) -> int | None:
    if layer is None:
        return None
    if (number := checks.as_whole(layer)) is None:
        raise BadInput(
            f"{edit} takes a layer as a whole number, or None for all with a router, and {layer!r} is neither."
        )
    return number


def _experts(edit: str, experts: object) -> tuple[int, ...]:
    experts = experts.tolist() if hasattr(experts, "tolist") else experts  # of an array or a tensor
    several = [*experts] if isinstance(experts, Sequence | set | frozenset) else [experts]
    chosen = []
    for expert in several:
        if (number := checks.as_whole(expert)) is None:
            raise BadInput(f"{edit} takes experts as whole numbers, such as 3 or [3, 7], and {expert!r} is none.")
        chosen.append(number)
    if not several:
        raise BadInput(f"There is nothing to {edit}; give at least one expert.")
    if twice := [expert for expert in chosen if chosen.count(expert) > 1]:
        raise BadInput(f"{edit} was given expert {twice[0]} twice; name each once.")
    return tuple(chosen)
