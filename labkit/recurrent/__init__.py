"""What stands in attention's place: state spaces and other recurrent layers, what they keep of a text and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.recurrent.cells import MLSTM as MLSTM
    from labkit.recurrent.cells import Attention as Attention
    from labkit.recurrent.cells import Hybrid as Hybrid
    from labkit.recurrent.cells import Mamba as Mamba
    from labkit.recurrent.cells import Mamba2 as Mamba2
    from labkit.recurrent.cells import RWKVTime as RWKVTime
    from labkit.recurrent.cells import state_bytes as state_bytes
    from labkit.recurrent.lengths import LengthCosts as LengthCosts
    from labkit.recurrent.lengths import comparable_models as comparable_models
    from labkit.recurrent.lengths import length_costs as length_costs
    from labkit.recurrent.matrices import HiddenAttention as HiddenAttention
    from labkit.recurrent.matrices import HiddenLayer as HiddenLayer
    from labkit.recurrent.matrices import hidden_attention as hidden_attention
    from labkit.recurrent.recalling import Recall as Recall
    from labkit.recurrent.recalling import RecallModel as RecallModel
    from labkit.recurrent.recalling import RecallTask as RecallTask
    from labkit.recurrent.recalling import recall as recall
    from labkit.recurrent.recalling import recall_events as recall_events
    from labkit.recurrent.recalling import recorded_recall as recorded_recall

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "cells": ("Attention", "Hybrid", "MLSTM", "Mamba", "Mamba2", "RWKVTime", "state_bytes"),
    "lengths": ("LengthCosts", "comparable_models", "length_costs"),
    "matrices": ("HiddenAttention", "HiddenLayer", "hidden_attention"),
    "recalling": ("Recall", "RecallModel", "RecallTask", "recall", "recall_events", "recorded_recall"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES, modules=("cells",))
