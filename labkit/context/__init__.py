"""Long contexts: positions and how they are stretched, what is read far back, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.lazy import lazy_names

if TYPE_CHECKING:
    from labkit.context.alibi import alibi_bias as alibi_bias
    from labkit.context.alibi import alibi_slopes as alibi_slopes
    from labkit.context.long_losses import LossByPosition as LossByPosition
    from labkit.context.long_losses import loss_by_position as loss_by_position
    from labkit.context.long_texts import long_documents as long_documents
    from labkit.context.rotary import Frequencies as Frequencies
    from labkit.context.rotary import frequencies as frequencies
    from labkit.context.rotary import rotated as rotated
    from labkit.context.stretching import Scaling as Scaling
    from labkit.context.stretching import positions as positions
    from labkit.context.stretching import scaled as scaled
    from labkit.context.stretching import scaling as scaling

# module -> its names, fetched when first asked for; no module is named like a function, which it would hide
_NAMES = {
    "alibi": ("alibi_bias", "alibi_slopes"),
    "long_losses": ("LossByPosition", "loss_by_position"),
    "long_texts": ("long_documents",),
    "rotary": ("Frequencies", "frequencies", "rotated"),
    "stretching": ("Scaling", "positions", "scaled", "scaling"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES)
