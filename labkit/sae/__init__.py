"""Sparse autoencoders: the features a model's residual stream is made of, found, named, checked and steered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.sae.dashboards import Dashboard as Dashboard
    from labkit.sae.dashboards import Example as Example
    from labkit.sae.dashboards import dashboard as dashboard
    from labkit.sae.dashboards import nearest as nearest
    from labkit.sae.dashboards import promoted as promoted
    from labkit.sae.dictionary import SAE as SAE
    from labkit.sae.dictionary import Feature as Feature
    from labkit.sae.indexing import Index as Index
    from labkit.sae.indexing import index as index
    from labkit.sae.interventions import clamp as clamp
    from labkit.sae.interventions import splice as splice
    from labkit.sae.interventions import steer as steer
    from labkit.sae.loading import load as load
    from labkit.sae.naming import NameCheck as NameCheck
    from labkit.sae.naming import Quiz as Quiz
    from labkit.sae.naming import check_name as check_name
    from labkit.sae.naming import quiz as quiz
    from labkit.sae.quality import Quality as Quality
    from labkit.sae.quality import evaluate as evaluate
    from labkit.sae.quality import untrained as untrained
    from labkit.sae.reading import Features as Features
    from labkit.sae.reading import features as features
    from labkit.sae.reading import residual as residual
    from labkit.sae.searching import CommonFeatures as CommonFeatures
    from labkit.sae.searching import FoundFeatures as FoundFeatures
    from labkit.sae.searching import common as common
    from labkit.sae.searching import search as search
    from labkit.sae.steering import Doses as Doses
    from labkit.sae.steering import Steered as Steered
    from labkit.sae.steering import broken as broken
    from labkit.sae.steering import difference as difference
    from labkit.sae.steering import dose as dose
    from labkit.sae.steering import steered as steered
    from labkit.sae.toy import Recovery as Recovery
    from labkit.sae.toy import World as World
    from labkit.sae.toy import recovery as recovery
    from labkit.sae.toy import world as world
    from labkit.sae.training import Settings as Settings
    from labkit.sae.training import Step as Step
    from labkit.sae.training import train as train
    from labkit.sae.training import trained as trained

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "dashboards": ("Dashboard", "Example", "dashboard", "nearest", "promoted"),
    "dictionary": ("Feature", "SAE"),
    "indexing": ("Index", "index"),
    "interventions": ("clamp", "splice", "steer"),
    "loading": ("load",),
    "naming": ("NameCheck", "Quiz", "check_name", "quiz"),
    "quality": ("Quality", "evaluate", "untrained"),
    "reading": ("Features", "features", "residual"),
    "searching": ("CommonFeatures", "FoundFeatures", "common", "search"),
    "steering": ("Doses", "Steered", "broken", "difference", "dose", "steered"),
    "toy": ("Recovery", "World", "recovery", "world"),
    "training": ("Settings", "Step", "train", "trained"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
