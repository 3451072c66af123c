"""Mixtures of experts: which expert takes which token, whether that means anything, and what becomes without some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.models.texts import Passage as Passage
    from labkit.models.texts import passages as passages
    from labkit.models.texts import texts as texts
    from labkit.moe.ablations import ExpertEffects as ExpertEffects
    from labkit.moe.ablations import OwnDomain as OwnDomain
    from labkit.moe.ablations import effects as effects
    from labkit.moe.ablations import own_domain as own_domain
    from labkit.moe.edits import choose as choose
    from labkit.moe.edits import drop as drop
    from labkit.moe.edits import forbid as forbid
    from labkit.moe.edits import force as force
    from labkit.moe.edits import random_router as random_router
    from labkit.moe.lexicon import Vocabulary as Vocabulary
    from labkit.moe.lexicon import vocabulary as vocabulary
    from labkit.moe.measures import Balance as Balance
    from labkit.moe.measures import Coactivation as Coactivation
    from labkit.moe.measures import Load as Load
    from labkit.moe.measures import Saturation as Saturation
    from labkit.moe.measures import Specialisation as Specialisation
    from labkit.moe.measures import balance as balance
    from labkit.moe.measures import coactivation as coactivation
    from labkit.moe.measures import load as load
    from labkit.moe.measures import saturation as saturation
    from labkit.moe.measures import specialisation as specialisation
    from labkit.moe.mutual import Information as Information
    from labkit.moe.mutual import Roles as Roles
    from labkit.moe.mutual import information as information
    from labkit.moe.mutual import roles as roles
    from labkit.moe.pruning import Pruning as Pruning
    from labkit.moe.pruning import PruningDamage as PruningDamage
    from labkit.moe.pruning import damage as damage
    from labkit.moe.pruning import prune as prune
    from labkit.moe.recorded import checkpoints as checkpoints
    from labkit.moe.recorded import recorded_effects as recorded_effects
    from labkit.moe.routing import Routing as Routing
    from labkit.moe.routing import collect as collect
    from labkit.moe.sizes import Costs as Costs
    from labkit.moe.sizes import costs as costs
    from labkit.moe.upcycling import upcycle as upcycle

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "ablations": ("ExpertEffects", "OwnDomain", "effects", "own_domain"),
    "edits": ("choose", "drop", "forbid", "force", "random_router"),
    "lexicon": ("Vocabulary", "vocabulary"),
    "measures": (
        "Balance",
        "Coactivation",
        "Load",
        "Saturation",
        "Specialisation",
        "balance",
        "coactivation",
        "load",
        "saturation",
        "specialisation",
    ),
    "mutual": ("Information", "Roles", "information", "roles"),
    "pruning": ("Pruning", "PruningDamage", "damage", "prune"),
    "recorded": ("checkpoints", "recorded_effects"),
    "routing": ("Routing", "collect"),
    "sizes": ("Costs", "costs"),
    "upcycling": ("upcycle",),
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, _NAMES, elsewhere={"labkit.models.texts": ("Passage", "passages", "texts")}
)
