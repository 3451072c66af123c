"""Long contexts: positions and how they are stretched, what is read far back, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.context.alibi import alibi_bias as alibi_bias
    from labkit.context.alibi import alibi_slopes as alibi_slopes
    from labkit.context.distances import AttentionOverDistance as AttentionOverDistance
    from labkit.context.distances import attention_over_distance as attention_over_distance
    from labkit.context.haystacks import Needles as Needles
    from labkit.context.haystacks import needles as needles
    from labkit.context.lengths import LongCosts as LongCosts
    from labkit.context.lengths import long_costs as long_costs
    from labkit.context.long_losses import LossByPosition as LossByPosition
    from labkit.context.long_losses import loss_by_position as loss_by_position
    from labkit.context.long_texts import long_documents as long_documents
    from labkit.context.records import recorded as recorded
    from labkit.context.rotary import Frequencies as Frequencies
    from labkit.context.rotary import frequencies as frequencies
    from labkit.context.rotary import rotated as rotated
    from labkit.context.stretching import Scaling as Scaling
    from labkit.context.stretching import positions as positions
    from labkit.context.stretching import scaled as scaled
    from labkit.context.stretching import scaling as scaling
    from labkit.context.turning import Rotation as Rotation
    from labkit.context.turning import rotation as rotation
    from labkit.context.windows import Streaming as Streaming
    from labkit.context.windows import streaming as streaming
    from labkit.context.windows import windowed as windowed

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "alibi": ("alibi_bias", "alibi_slopes"),
    "distances": ("AttentionOverDistance", "attention_over_distance"),
    "lengths": ("LongCosts", "long_costs"),
    "long_losses": ("LossByPosition", "loss_by_position"),
    "long_texts": ("long_documents",),
    "haystacks": ("Needles", "needles"),
    "records": ("recorded",),
    "rotary": ("Frequencies", "frequencies", "rotated"),
    "stretching": ("Scaling", "positions", "scaled", "scaling"),
    "turning": ("Rotation", "rotation"),
    "windows": ("Streaming", "streaming", "windowed"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
