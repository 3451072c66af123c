"""Rotary positions (RoPE, Su et al. 2021, 2104.09864): the frequency of each pair of channels, and the ways to stretch them.

A query or key of position p has its pairs of channels turned by p · frequency. All ways to stretch a context are other
frequencies, and for some a factor on cosine and sine. Written out from the papers; equal to transformers' to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.config import context_length, field, first_number
from labkit.models.memory import named_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from labkit.trace.lab_like import LabLike

Layout = Literal["halves", "neighbours"]
Parameters = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Frequencies:
    """How fast each pair of channels turns. values: (pairs,) float32, radians a token.

    scale: a factor on cosine and sine, so the scores of attention have its square.  kind: transformers' `rope_type`.
    channels: of a head; those beyond 2 · pairs are not turned.  trained: positions the model was trained with.
    """

    values: torch.Tensor
    scale: float
    kind: str
    channels: int
    trained: int

    @property
    def wavelengths(self) -> torch.Tensor:
        """(pairs,): tokens for a whole turn; infinite where nothing turns."""
        return 2 * math.pi / self.values


def frequencies(what: LabLike | PreTrainedConfig | str, *, layer: int = 0, tokens: int | None = None) -> Frequencies:
    """The rotary frequencies that a model's configuration asks for.

    what: a Lab, a transformers configuration, or the name of a published model.
    layer: which layer, where kinds of layers have frequencies of their own.
    tokens: how long the text is, for "dynamic" and "longrope", whose frequencies depend on it.
    Raises Unavailable for a model without rotary positions, or of a kind that is not known here.
    """
    config = text_config(what)
    given = parameters(config, layer)
    return from_parameters(given, config, tokens=tokens)


def text_config(what: object) -> PreTrainedConfig:
    """The text model's configuration of a Lab, of a configuration, or of a published model's name."""
    config = named_config(what)[1] if isinstance(what, str) else getattr(what, "config", what)
    if not hasattr(config, "get_text_config"):
        raise BadInput(f"This takes a Lab or a transformers configuration, and {checks.shown(what)} is none.")
    return cast("PreTrainedConfig", config.get_text_config())


def kinds_of_layers(config: PreTrainedConfig) -> tuple[str, ...]:
    """The kinds of layers that have frequencies of their own; none where all layers share them."""
    given = field(config, "rope_parameters")
    if not isinstance(given, Mapping):
        return ()
    return tuple(str(name) for name, value in given.items() if isinstance(value, Mapping))


def parameters(config: PreTrainedConfig, layer: int = 0) -> Parameters:
    """What a configuration says of one layer's rotary positions. Raises Unavailable where it says nothing."""
    given = field(config, "rope_parameters")
    if not isinstance(given, Mapping) or not given or not field(config, "rope_parameters"):
        raise Unavailable(no_rotary(config))
    if kinds := kinds_of_layers(config):
        of_layers = field(config, "layer_types")
        types = list(of_layers) if isinstance(of_layers, Sequence) else []
        place = checks.index("layer", layer, len(types), of="this model has")
        if types[place] not in kinds:
            raise Unavailable(f"Layer {place} of this {config.model_type} has no rotary positions; others have.")
        given = given[types[place]]
    if not isinstance(given.get("rope_theta"), int | float):
        raise Unavailable(no_rotary(config))
    return given


def no_rotary(config: PreTrainedConfig) -> str:
    """Why a model's positions can't be stretched, with what to do instead."""
    return (
        f"{config.model_type} has no rotary positions that can be stretched: its configuration gives no rope_theta; take a "
        "model that has them, such as lk.load(), a Llama, a Qwen or a GPT-NeoX."
    )


def turned_channels(config: PreTrainedConfig, given: Parameters) -> tuple[int, int]:
    """(channels of a head that are turned, all of them)."""
    own = first_number(config, "qk_rope_head_dim") or first_number(config, "head_dim")
    width = own or (first_number(config, "hidden_size") or 0) // (first_number(config, "num_attention_heads") or 1)
    return int(width * _number(given, "partial_rotary_factor", 1.0)), width


def from_parameters(given: Parameters, config: PreTrainedConfig, *, tokens: int | None = None) -> Frequencies:
    """The frequencies for parameters as transformers names them, in a model of this configuration."""
    kind = str(given.get("rope_type", "default"))
    turned, width = turned_channels(config, given)
    base = checks.number("rope_theta", given.get("rope_theta"), above=0)
    tokens = None if tokens is None else checks.whole("tokens", tokens, 1)
    context = context_length(config) or 0
    trained = int(_number(given, "original_max_position_embeddings", context))
    if kind in ("dynamic", "yarn", "llama3", "longrope"):  # which divide by it
        checks.whole("original_max_position_embeddings", trained, 1)
        checks.whole("max_position_embeddings", context, 1)
    scale = 1.0
    if kind == "default":
        values = plain(base, turned)
    elif kind == "linear":
        values = interpolated(plain(base, turned), _number(given, "factor"))
    elif kind == "dynamic":
        stretch = _number(given, "factor") * max(tokens or context, context) / context - (_number(given, "factor") - 1)
        values = plain(ntk_base(base, stretch, turned), turned)
    elif kind == "yarn":
        values, scale = _yarn(given, base, turned, trained, context)
    elif kind == "llama3":
        values = llama3(
            plain(base, turned),
            _number(given, "factor"),
            _number(given, "low_freq_factor"),
            _number(given, "high_freq_factor"),
            trained,
        )
    elif kind == "longrope":
        values, scale = _longrope(given, base, turned, trained, context, tokens)
    elif kind == "proportional":  # the share of the channels that turns, at the frequencies of the whole head
        angles = int(_number(given, "partial_rotary_factor", 1.0) * width // 2)
        values = torch.zeros(width // 2)
        values[:angles] = plain(base, width)[:angles]
        values = interpolated(values, _number(given, "factor", 1.0))
    else:
        raise Unavailable(f"Rotary positions of kind {kind!r} are not known here; there are {', '.join(KINDS)}.")
    return Frequencies(values, scale, kind, width, trained)


KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")


# the formulas ---------------------------------------------------------------------------------------------------------


def plain(base: float, channels: int) -> torch.Tensor:
    """(channels / 2,): base^(−2i / channels), from one radian a token down."""
    return 1.0 / (base ** (torch.arange(0, channels, 2).float() / channels))


def interpolated(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Position interpolation (Chen et al. 2023, 2306.15595): the one line. Every position counts as position / factor."""
    return values / factor


def ntk_base(base: float, factor: float, channels: int) -> float:
    """NTK-aware (bloc97 2023): a larger base, so that the slowest pair is stretched by the factor and the fastest not at all."""
    if channels < 4:
        raise Unavailable(
            "NTK-aware scaling needs two pairs of channels that turn, and this model has one; take linear."
        )
    return float(base * factor ** (channels / (channels - 2)))


def yarn(
    values: torch.Tensor,
    factor: float,
    trained: int,
    base: float,
    *,
    fast: float = 32.0,
    slow: float = 1.0,
    whole_pairs: bool = True,
) -> torch.Tensor:
    """YaRN's frequencies (Peng et al. 2023, 2309.00071): pairs that turn often within the trained length stay as they are, those
    that turn less than once are interpolated, and between the two there is a ramp over the pairs.

    fast, slow: turns within the trained length where the ramp ends and begins.  whole_pairs: it does so at whole pairs.
    """
    channels = 2 * len(values)

    def pair_that_turns(times: float) -> float:
        return channels * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_that_turns(fast), pair_that_turns(slow)
    if whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, channels - 1)
    last += 0.001 if first == last else 0
    share = ((torch.arange(len(values)).float() - first) / (last - first)).clamp(0, 1)  # interpolated
    return interpolated(values, factor) * share + values * (1 - share)


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """YaRN's factor on cosine and sine: 0.1 ln(factor) + 1, which sharpens attention over more tokens."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def llama3(values: torch.Tensor, factor: float, low: float, high: float, trained: int) -> torch.Tensor:
    """Llama 3.1's: pairs that turn less than `low` times within the trained length are interpolated, more than `high` not."""
    turns = trained * values / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)  # left as they are
    return (1 - share) * interpolated(values, factor) + share * values


def _yarn(given: Parameters, base: float, turned: int, trained: int, context: int) -> tuple[torch.Tensor, float]:
    factor = _number(given, "factor", context / trained)
    values = yarn(
        plain(base, turned),
        factor,
        trained,
        base,
        fast=_number(given, "beta_fast", 32.0),
        slow=_number(given, "beta_slow", 1.0),
        whole_pairs=given.get("truncate", True) is not False,
    )
    own, one, all_ = (given.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if own is not None:
        return values, _number(given, "attention_factor")
    if one and all_:
        return values, yarn_scale(factor, _number(given, "mscale")) / yarn_scale(
            factor, _number(given, "mscale_all_dim")
        )
    return values, yarn_scale(factor)


def _longrope(
    given: Parameters, base: float, turned: int, trained: int, context: int, tokens: int | None
) -> tuple[torch.Tensor, float]:
    factor = _number(given, "factor", context / trained)
    name = "long_factor" if tokens and tokens > trained else "short_factor"
    numbers = checks.series(name, given.get(name), f"{turned // 2} numbers, one for each pair")
    if len(numbers) != turned // 2:
        checks.refuse(name, numbers, f"{turned // 2} numbers, one for each pair")
    divisors = torch.tensor([checks.number(name, one, above=0) for one in numbers])
    own = given.get("attention_factor")
    scale = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    return plain(base, turned) / divisors, scale if own is None else _number(given, "attention_factor")


def _number(given: Parameters, name: str, otherwise: float | None = None) -> float:
    value = given.get(name)
    if value is None and otherwise is not None:
        return float(otherwise)
    return checks.number(name, value)


# turning --------------------------------------------------------------------------------------------------------------


def rotated(x: torch.Tensor, positions: torch.Tensor, found: Frequencies, layout: Layout = "halves") -> torch.Tensor:
    """Queries or keys, (..., T, channels), each pair of channels turned by its angle, position · frequency.

    layout: pair i is channels i and i + pairs ("halves", as in most families), or 2i and 2i + 1 ("neighbours").
    """
    pairs = len(found.values)
    turn, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    angle = torch.outer(positions.float(), found.values)  # (T, pairs)
    cos, sin = angle.cos() * found.scale, angle.sin() * found.scale
    if layout == "halves":
        one, two = turn[..., :pairs], turn[..., pairs:]
        new = torch.cat([one * cos - two * sin, two * cos + one * sin], -1)
    else:
        one, two = turn[..., ::2], turn[..., 1::2]
        new = torch.stack([one * cos - two * sin, two * cos + one * sin], -1).flatten(-2)
    return torch.cat([new, rest], -1)
