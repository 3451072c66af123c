"""Circuits: what a model is about to say, and which of its parts make it say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.circuits.active_parts import PartExample as PartExample
    from labkit.circuits.active_parts import PartExamples as PartExamples
    from labkit.circuits.active_parts import part_examples as part_examples
    from labkit.circuits.aligning import Alignment as Alignment
    from labkit.circuits.aligning import das as das
    from labkit.circuits.attributing import Agreement as Agreement
    from labkit.circuits.attributing import Attribution as Attribution
    from labkit.circuits.attributing import attribution as attribution
    from labkit.circuits.directions import Direction as Direction
    from labkit.circuits.directions import EditCost as EditCost
    from labkit.circuits.directions import ablate_direction as ablate_direction
    from labkit.circuits.directions import difference_of_means as difference_of_means
    from labkit.circuits.directions import edit_cost as edit_cost
    from labkit.circuits.finding import Circuit as Circuit
    from labkit.circuits.finding import find as find
    from labkit.circuits.graph import CircuitEdge as CircuitEdge
    from labkit.circuits.graph import CircuitGraph as CircuitGraph
    from labkit.circuits.graph import CircuitNode as CircuitNode
    from labkit.circuits.jacobian_lens import JacobianLens as JacobianLens
    from labkit.circuits.lens_comparing import LensQuality as LensQuality
    from labkit.circuits.lens_comparing import lens_quality as lens_quality
    from labkit.circuits.lens_files import load_lens as load_lens
    from labkit.circuits.lens_fitting import fit_lens as fit_lens
    from labkit.circuits.lens_live import LensColumn as LensColumn
    from labkit.circuits.lens_live import generate_with_lens as generate_with_lens
    from labkit.circuits.lens_reading import LensReading as LensReading
    from labkit.circuits.lens_reading import LensTable as LensTable
    from labkit.circuits.lens_reading import lens as lens
    from labkit.circuits.measuring import Faithfulness as Faithfulness
    from labkit.circuits.paths import PathPatching as PathPatching
    from labkit.circuits.paths import path_patching as path_patching
    from labkit.circuits.personas import Persona as Persona
    from labkit.circuits.personas import persona as persona
    from labkit.circuits.probing import Probe as Probe
    from labkit.circuits.probing import probe as probe
    from labkit.circuits.pushing import Steers as Steers
    from labkit.circuits.pushing import steers as steers
    from labkit.circuits.recorded import RecordedRefusals as RecordedRefusals
    from labkit.circuits.recorded import recorded_refusals as recorded_refusals
    from labkit.circuits.recorded import refusal_prompts as refusal_prompts
    from labkit.circuits.refusals import is_refusal as is_refusal
    from labkit.circuits.routed_features import ExpertFeatures as ExpertFeatures
    from labkit.circuits.routed_features import counted_on as counted_on
    from labkit.circuits.routed_features import expert_features as expert_features
    from labkit.circuits.swaps import swap as swap
    from labkit.circuits.tuned_fitting import fit_tuned_lens as fit_tuned_lens
    from labkit.circuits.tuned_lens import TunedLens as TunedLens
    from labkit.circuits.two_models import Comparison as Comparison
    from labkit.circuits.two_models import compare as compare

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "aligning": ("Alignment", "das"),
    "active_parts": ("PartExample", "PartExamples", "part_examples"),
    "attributing": ("Agreement", "Attribution", "attribution"),
    "directions": ("Direction", "EditCost", "ablate_direction", "difference_of_means", "edit_cost"),
    "finding": ("Circuit", "find"),
    "graph": ("CircuitEdge", "CircuitGraph", "CircuitNode"),
    "measuring": ("Faithfulness",),
    "paths": ("PathPatching", "path_patching"),
    "personas": ("Persona", "persona"),
    "probing": ("Probe", "probe"),
    "pushing": ("Steers", "steers"),
    "recorded": ("RecordedRefusals", "recorded_refusals", "refusal_prompts"),
    "refusals": ("is_refusal",),
    "routed_features": ("ExpertFeatures", "counted_on", "expert_features"),
    "jacobian_lens": ("JacobianLens",),
    "lens_comparing": ("LensQuality", "lens_quality"),
    "lens_files": ("load_lens",),
    "lens_fitting": ("fit_lens",),
    "lens_live": ("LensColumn", "generate_with_lens"),
    "lens_reading": ("LensReading", "LensTable", "lens"),
    "swaps": ("swap",),
    "tuned_fitting": ("fit_tuned_lens",),
    "tuned_lens": ("TunedLens",),
    "two_models": ("Comparison", "compare"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
