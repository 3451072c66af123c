"""Exercises of notebook 04, quantization: grids, groups, true sizes, error feedback, damage and speed."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# ------------------------------------------------------------------------------------------------------------- absmax


def absmax(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """weights: (n,). Returns codes (n,), whole numbers, and the scale, one number."""
    largest = 2 ** (bits - 1) - 1  # 127 for 8 bits, 7 for 4
    scale = weights.abs().max() / largest
    if scale == 0:
        return torch.zeros_like(weights), scale  # nothing to divide by
    return (weights / scale).round(), scale


def _absmax_cases() -> list[Case]:
    return [
        Case((torch.tensor([0.7, -1.4, 0.3, 0.0]), 4), "four weights, 4 bits, the largest one negative"),
        Case((random(16, seed=1), 8), "16 weights, 8 bits"),
        Case((random(64, seed=2) * 0.02, 4), "64 small weights, 4 bits"),
        Case((torch.tensor([0.1, -0.2, 0.15, 6.0]), 4), "one outlier among small weights"),
        Case((torch.zeros(5), 4), "a group of zeros"),
        Case((random(32, seed=3), 3), "3 bits"),
    ]


def _absmax_all_codes(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max() / 2 ** (bits - 1)
    return (torch.zeros_like(weights) if scale == 0 else (weights / scale).round()), scale


def _absmax_of_max(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.max() / (2 ** (bits - 1) - 1)
    return (torch.zeros_like(weights) if scale == 0 else (weights / scale).round()), scale


def _absmax_floor(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = absmax(weights, bits)
    return (codes if scale == 0 else (weights / scale).floor()), scale


def _absmax_truncated(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = absmax(weights, bits)
    return (codes if scale == 0 else (weights / scale).trunc()), scale


def _absmax_nan(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max() / (2 ** (bits - 1) - 1)
    return (weights / scale).round(), scale


def _absmax_values(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = absmax(weights, bits)
    return codes * scale, scale


def _absmax_unsigned(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max() / (2**bits - 1)
    return (torch.zeros_like(weights) if scale == 0 else (weights / scale).round()), scale


# ------------------------------------------------------------------------------------------------------------- groups


def round_trip(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """weights: (rows, columns), columns divisible by group_size.

    Returns them as the grid has them, (rows, columns).
    """
    groups = weights.reshape(-1, group_size)
    low = groups.min(dim=1, keepdim=True).values
    high = groups.max(dim=1, keepdim=True).values
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a group of equal weights
    codes = ((groups - low) / scale).round()  # 0 to 2**bits - 1
    return (low + codes * scale).reshape(weights.shape)


def _groups_cases() -> list[Case]:
    return [
        Case((torch.tensor([[0.0, 1.0, 2.0, 3.1], [5.0, 5.4, 5.8, 6.2]]), 2, 4), "two rows, a group each, 2 bits"),
        Case((torch.tensor([[0.0, 0.3, 10.0, 10.3]]), 2, 2), "one row, two groups that lie far apart"),
        Case((random(4, 32, seed=1), 4, 8), "four rows of 32, groups of 8, 4 bits"),
        Case((torch.tensor([[0.5, 0.5, 1.0, -1.0]]), 4, 2), "a group of equal weights"),
        Case((random(3, 64, seed=2) + 3, 3, 64), "weights that are all positive, a row is a group"),
        Case((random(2, 16, seed=3), 8, 4), "8 bits"),
    ]


def _groups_whole(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    return round_trip(weights.reshape(1, -1), bits, weights.numel()).reshape(weights.shape)


def _groups_columns(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    mixed = weights.T.reshape(-1, group_size)
    return round_trip(mixed, bits, group_size).reshape(weights.T.shape).T


def _groups_rows(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    return round_trip(weights, bits, weights.shape[1])


def _groups_steps(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    groups = weights.reshape(-1, group_size)
    low, high = groups.min(dim=1, keepdim=True).values, groups.max(dim=1, keepdim=True).values
    scale = (high - low) / 2**bits
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (low + ((groups - low) / scale).round() * scale).reshape(weights.shape)


def _groups_without_low(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    groups = weights.reshape(-1, group_size)
    low, high = groups.min(dim=1, keepdim=True).values, groups.max(dim=1, keepdim=True).values
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (((groups - low) / scale).round() * scale).reshape(weights.shape)


def _groups_nan(weights: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    groups = weights.reshape(-1, group_size)
    low, high = groups.min(dim=1, keepdim=True).values, groups.max(dim=1, keepdim=True).values
    scale = (high - low) / (2**bits - 1)
    return (low + ((groups - low) / scale).round() * scale).reshape(weights.shape)


# -------------------------------------------------------------------------------------------------------------- sizes


def bits_per_weight(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    """What one weight takes in memory, its share of what its group stores included."""
    return bits + (scale_bits + zero_bits) / group_size


def _bits_cases() -> list[Case]:
    return [
        Case((4, 32, 16, 16), "4 bits, groups of 32 with a scale and a minimum of 16 bits: Q4_1"),
        Case((4, 128, 16, 4), "4 bits, groups of 128, a scale of 16 bits and a zero of 4: usual for GPTQ"),
        Case((4, 64, 8, 0), "4 bits, groups of 64, a scale of 8 bits"),
        Case((8, 4096, 32, 0), "8 bits, one scale for a row of 4,096"),
        Case((2, 16, 16, 16), "2 bits, small groups"),
    ]


def _bits_alone(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    return float(bits)


def _bits_without_zero(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    return bits + scale_bits / group_size


def _bits_of_the_group(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    return float(bits * group_size + scale_bits + zero_bits)


def _bits_each(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    return float(bits + scale_bits + zero_bits)


def _bits_in_bytes(bits: int, group_size: int, scale_bits: int, zero_bits: int) -> float:
    return (bits + (scale_bits + zero_bits) / group_size) / 8


# ------------------------------------------------------------------------------------------------------------- levels


def to_levels(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weights: (n,); levels: (16,), ascending, from -1 to 1.

    Returns codes (n,) and the weights as the grid has them (n,).
    """
    scale = weights.abs().max()
    distances = (weights[:, None] / scale - levels[None, :]).abs()  # (n, 16)
    codes = distances.argmin(dim=1)
    return codes, levels[codes] * scale


def _levels(seed: int) -> torch.Tensor:
    inner = random(13, seed=seed).clamp(-2, 2) / 2.2
    return torch.cat([torch.tensor([-1.0, 0.0, 1.0]), inner]).sort().values


def _levels_cases() -> list[Case]:
    even = torch.linspace(-1, 1, 16)
    return [
        Case((torch.tensor([0.5, -2.0, 1.9, 0.1]), even), "four weights, levels that are even"),
        Case((random(16, seed=1), _levels(2)), "16 weights, levels that are not even"),
        Case((random(64, seed=3) * 0.02, _levels(4)), "64 small weights"),
        Case((-random(32, seed=5).abs() - 0.1, _levels(6)), "weights that are all negative"),
    ]


def _levels_unscaled(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes = (weights[:, None] - levels[None, :]).abs().argmin(dim=1)
    return codes, levels[codes]


def _levels_not_back(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes, _ = to_levels(weights, levels)
    return codes, levels[codes]


def _levels_even(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max()
    codes = ((weights / scale + 1) / 2 * (len(levels) - 1)).round().long()
    return codes, levels[codes] * scale


def _levels_below(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max()
    codes = (torch.searchsorted(levels, weights / scale, right=True) - 1).clamp(0, len(levels) - 1)
    return codes, levels[codes] * scale


def _levels_by_max(weights: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.max()
    codes = (weights[:, None] / scale - levels[None, :]).abs().argmin(dim=1)
    return codes, levels[codes] * scale


# ----------------------------------------------------------------------------------------------------- error feedback


def gptq_row(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    """weights: (n,). U: (n, n), upper triangular. Returns the rounded weights, (n,).

    U is the Cholesky factor of the inverse Hessian, which is U.T @ U.
    """
    rest = weights.clone()
    rounded = torch.zeros_like(weights)
    for j in range(len(weights)):
        rounded[j] = (rest[j] / scale).round() * scale
        error = (rest[j] - rounded[j]) / U[j, j]
        rest[j:] -= error * U[j, j:]  # the columns that are still to come make up for it
    return rounded


def _factor(n: int, seed: int) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of X X^T / samples + a little, for inputs that depend on one another."""
    mixing = random(n, n, seed=seed) / n**0.5 + torch.eye(n)
    x = mixing @ random(n, 8 * n, seed=seed + 1)
    hessian = (x @ x.T / x.shape[1]).double() + 0.01 * torch.eye(n, dtype=torch.float64)
    return torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True).float()


def _gptq_cases() -> list[Case]:
    two = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    return [
        Case((torch.tensor([0.4, 0.4]), 1.0, two), "two weights: what the first loses the second makes up for"),
        Case((random(6, seed=1), 0.5, torch.eye(6)), "inputs that are independent: plain rounding"),
        Case((random(8, seed=2), 0.25, _factor(8, 3)), "eight weights"),
        Case((random(24, seed=4), 0.4, _factor(24, 5)), "24 weights on a coarse grid"),
        Case((random(24, seed=6), 0.4, 2 * _factor(24, 7)), "the same with a factor twice as large"),
    ]


def _gptq_nearest(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    return (weights / scale).round() * scale


def _gptq_undivided(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    rest, rounded = weights.clone(), torch.zeros_like(weights)
    for j in range(len(weights)):
        rounded[j] = (rest[j] / scale).round() * scale
        rest[j:] -= (rest[j] - rounded[j]) * U[j, j:]
    return rounded


def _gptq_wrong_sign(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    rest, rounded = weights.clone(), torch.zeros_like(weights)
    for j in range(len(weights)):
        rounded[j] = (rest[j] / scale).round() * scale
        rest[j + 1 :] += (rest[j] - rounded[j]) / U[j, j] * U[j, j + 1 :]
    return rounded


def _gptq_from_the_original(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    rest, rounded = weights.clone(), torch.zeros_like(weights)
    for j in range(len(weights)):
        rounded[j] = (rest[j] / scale).round() * scale
        rest[j:] -= (weights[j] - rounded[j]) / U[j, j] * U[j, j:]
    return rounded


def _gptq_codes(weights: torch.Tensor, scale: float, U: torch.Tensor) -> torch.Tensor:
    return gptq_row(weights, scale, U) / scale


# ------------------------------------------------------------------------------------------------------------- damage


def kl_damage(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """Logits of the same text by both models, each (T, vocabulary).

    Returns one number, in nats: the mean over the tokens.
    """
    log_p = torch.log_softmax(original, dim=-1)
    log_q = torch.log_softmax(quantized, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def _kl_cases() -> list[Case]:
    logits = random(5, 12, seed=1) * 2
    return [
        Case((torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])), "one token, a vocabulary of two"),
        Case((logits, logits.clone()), "nothing changed: no damage"),
        Case((logits, logits + 3), "all logits raised by 3: no damage"),
        Case((logits, logits + random(5, 12, seed=2)), "five tokens, some noise"),
        Case((random(3, 40, seed=3) * 30, random(3, 40, seed=4) * 30), "logits so large that probabilities become 0"),
    ]


def _kl_reversed(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return kl_damage(quantized, original)


def _kl_summed(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return kl_damage(original, quantized) * len(original)


def _kl_of_logits(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return (torch.softmax(original, dim=-1) * (original - quantized)).sum(dim=-1).mean()


def _kl_mean_of_all(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return kl_damage(original, quantized) / original.shape[-1]


def _kl_bits(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return kl_damage(original, quantized) / torch.log(torch.tensor(2.0))


def _kl_over_tokens(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    log_p, log_q = torch.log_softmax(original, dim=0), torch.log_softmax(quantized, dim=0)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def _kl_nan(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    p, q = torch.softmax(original, dim=-1), torch.softmax(quantized, dim=-1)
    return (p * (p.log() - q.log())).sum(dim=-1).mean()


def _kl_squares(original: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    return (original - quantized).square().mean()


# -------------------------------------------------------------------------------------------------------------- speed


def most_tokens_per_second(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    """bandwidth: in bytes a second. cache_bytes: of one text.

    Returns the tokens a second of all texts of the batch together.
    """
    read = weight_bytes + batch * cache_bytes  # the weights once, each text's own cache
    return batch * bandwidth / read


def _speed_cases() -> list[Case]:
    return [
        Case((2e9, 0.0, 60e9, 1), "2 GB of weights, 60 GB a second, no cache yet"),
        Case((2e9, 0.5e9, 50e9, 1), "with half a gigabyte of cache"),
        Case((14e9, 1e9, 900e9, 16), "a batch of 16 texts"),
        Case((0.1e9, 0.01e9, 24e9, 4), "a small model, four texts"),
    ]


def _speed_without_cache(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    return batch * bandwidth / weight_bytes


def _speed_of_one(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    return bandwidth / (weight_bytes + batch * cache_bytes)


def _speed_weights_each(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    return bandwidth / (weight_bytes + cache_bytes)


def _speed_one_cache(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    return batch * bandwidth / (weight_bytes + cache_bytes)


def _speed_seconds(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int) -> float:
    return (weight_bytes + batch * cache_bytes) / bandwidth


# ------------------------------------------------------------------------------------------------------------ ternary


def ternary(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weights: (rows, columns). Returns codes of that shape, each -1, 0 or 1, and the scale."""
    scale = weights.abs().mean()
    return (weights / scale).round().clamp(-1, 1), scale


def _ternary_cases() -> list[Case]:
    return [
        Case((torch.tensor([[0.2, -1.0], [0.6, 0.1]]),), "four weights"),
        Case((random(6, 10, seed=1),), "a matrix of 6 x 10"),
        Case((random(4, 8, seed=2) * 0.02 + 0.01,), "small weights, not centred"),
        Case((torch.tensor([[0.01, -0.02, 0.015, 9.0]]),), "an outlier: all else becomes 0"),
    ]


def _ternary_absmax(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().max()
    return (weights / scale).round(), scale


def _ternary_unclamped(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().mean()
    return (weights / scale).round(), scale


def _ternary_signs(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return weights.sign(), weights.abs().mean()


def _ternary_mean(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.mean()
    return (weights / scale).round().clamp(-1, 1), scale


def _ternary_by_row(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weights.abs().mean(dim=1, keepdim=True)
    return (weights / scale).round().clamp(-1, 1), scale


def _ternary_values(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = ternary(weights)
    return codes * scale, scale


# -------------------------------------------------------------------------------------------------------------- table

EXERCISES = (
    Exercise(
        id="quantization.absmax",
        title="To whole numbers and back",
        task="How does a weight become a whole number of a few bits?\n\n"
        "`weights` is a float tensor of shape `(n,)`. With `bits` bits the codes run from `-L` to `L`, where `L` is "
        "`2 ** (bits - 1) - 1` (127 for 8 bits, 7 for 4). Choose the scale so that the largest weight, whatever its sign, "
        "gets the code `L` or `-L`; a weight's code is the weight divided by the scale, rounded to the nearest whole number. "
        "Return the codes (as floats) and the scale. A group of zeros has codes 0 and the scale 0.",
        minutes=5,
        difficulty="easy",
        importance=5,
        cases=_absmax_cases,
        reference=absmax,
        hints=(
            "The scale is the width of one step: what does it have to be so that the largest weight is L steps from zero?",
            "`scale = weights.abs().max() / largest`, then `(weights / scale).round()`. Where the scale is 0, return zeros "
            "without dividing.",
        ),
        right="Code times scale gives the weight back, at most half a step off. One outlier makes the step wide for all.",
        mistakes=mistakes(
            (
                _absmax_all_codes,
                "Your scale divides by 2^(bits-1): the largest code would be one that the bits can't hold.",
            ),
            (_absmax_of_max, "The largest weight may be a negative one: take the absolute values first."),
            (_absmax_floor, "Your codes are rounded down. Rounding to the nearest halves the error."),
            (_absmax_truncated, "Your codes are cut off towards zero. Rounding to the nearest halves the error."),
            (_absmax_nan, "All is right but for a group of zeros, where 0 / 0 gives NaN: handle it first."),
            (_absmax_values, "Those are the weights again. Return the codes, before they are multiplied by the scale."),
            (_absmax_unsigned, "Your codes run to 2^bits - 1, but half of the codes are needed for negative weights."),
        ),
        outputs=("codes", "scale"),
    ),
    Exercise(
        id="quantization.round_trip",
        title="A grid for every group",
        task="One scale for a whole matrix is ruined by one outlier. So give each group of neighbours a grid of its own.\n\n"
        "`weights` is a float tensor of shape `(rows, columns)`; each row is cut into groups of `group_size` neighbours. "
        "With `bits` bits a group's grid has 2 ** bits evenly spaced values, the first at its smallest weight and the last "
        "at its largest. Return every weight replaced by the nearest value of its group's grid, in the old shape. A group "
        "of equal weights stays as it is.",
        minutes=8,
        difficulty="medium",
        importance=5,
        cases=_groups_cases,
        reference=round_trip,
        hints=(
            "`weights.reshape(-1, group_size)` has a group in each row; `min` and `max` along `dim=1` with `keepdim=True` "
            "give the two ends of each grid.",
            "Between 2 ** bits values there are 2 ** bits - 1 steps. The code is `((groups - low) / scale).round()`, the "
            "value `low + code * scale`. Put 1 in place of a scale of 0.",
        ),
        right="This is the grid of GGUF's Q4_1 and, in other words, of most 4-bit formats. The smaller the groups, the "
        "smaller the error, and the more is stored beside the codes.",
        mistakes=mistakes(
            (_groups_whole, "You have one grid for the whole matrix. Cut each row into groups first."),
            (
                _groups_columns,
                "Your groups run down the columns. Neighbours in a row share a grid: they meet the same input.",
            ),
            (_groups_rows, "You have one grid for each row, whatever the group size."),
            (
                _groups_steps,
                "Between 2^bits values there are 2^bits - 1 steps: your largest weight gets a code too many.",
            ),
            (_groups_without_low, "The grid begins at the smallest weight: add it back at the end."),
            (_groups_nan, "All is right but for a group of equal weights, where 0 / 0 gives NaN."),
        ),
    ),
    Exercise(
        id="quantization.bits_per_weight",
        title="What four bits really take",
        task="A format of 4 bits does not take 4 bits. How many does it take?\n\n"
        "A code has `bits` bits; each group of `group_size` weights stores a scale of `scale_bits` and a zero point (or "
        "minimum) of `zero_bits` beside its codes. Return the bits a weight takes, its share of those included.",
        minutes=3,
        difficulty="easy",
        importance=4,
        cases=_bits_cases,
        reference=bits_per_weight,
        hints=(
            "How many bits does a whole group take? Then divide by its weights.",
            "`(group_size * bits + scale_bits + zero_bits) / group_size`, which is `bits + (scale_bits + zero_bits) / "
            "group_size`.",
        ),
        right="4 bits in groups of 32 with scale and minimum are 5 bits. What is left in 16 bits, such as the embedding, "
        "comes on top.",
        mistakes=mistakes(
            (_bits_alone, "Those are the codes alone. Without its scale a group can't be read."),
            (_bits_without_zero, "The zero point is stored too."),
            (_bits_of_the_group, "That is the size of a whole group. Divide by its weights."),
            (_bits_each, "Scale and zero point are stored once for a group, not once for each weight."),
            (_bits_in_bytes, "Those are bytes. The question is bits."),
        ),
    ),
    Exercise(
        id="quantization.to_levels",
        title="Levels where the weights are",
        task="Weights crowd around zero, so an even grid spends many of its values where hardly any weight is. NF4 has 16 "
        "levels that lie closer together near zero.\n\n"
        "`weights` has shape `(n,)`; `levels` has shape `(16,)`, ascending from -1 to 1. Divide the weights by their largest "
        "absolute value, take for each the index of the nearest level, and return these codes `(n,)` and the weights as the "
        "levels have them `(n,)`, multiplied by the scale again.",
        minutes=5,
        difficulty="medium",
        importance=3,
        cases=_levels_cases,
        reference=to_levels,
        hints=(
            "`a[:, None] - b[None, :]` has the difference of every weight from every level, shape `(n, 16)`.",
            "`.abs().argmin(dim=1)` finds the nearest; `levels[codes] * scale` leads back.",
        ),
        right="With levels at the quantiles of a normal distribution this is NF4 (Dettmers et al. 2023), the format of QLoRA.",
        mistakes=mistakes(
            (
                _levels_unscaled,
                "The levels run from -1 to 1, the weights don't: divide by the largest absolute weight first.",
            ),
            (_levels_not_back, "The codes are right. Multiply the levels by the scale again."),
            (_levels_even, "You counted even steps. The levels are not even: look for the nearest one."),
            (_levels_below, "You took the next level below. The nearest one may be above."),
            (_levels_by_max, "The scale is the largest absolute weight, whatever its sign."),
        ),
        outputs=("codes", "weights"),
    ),
    Exercise(
        id="quantization.gptq_row",
        title="Let the next weight make up for it",
        task="Rounding each weight by itself adds up errors. GPTQ rounds one weight after the other and lets those still to "
        "come make up for the error.\n\n"
        "`weights` is one row, `(n,)`, the grid is all whole multiples of `scale`, and `U` is an upper triangular matrix "
        "`(n, n)` that knows how the inputs depend on one another. For each `j` in order: round the weight as it is by then; "
        "the error is what rounding took away, divided by `U[j, j]`; subtract error times `U[j, k]` from each weight "
        "`k >= j`. Return the rounded weights. Don't change the input.",
        minutes=9,
        difficulty="hard",
        importance=4,
        cases=_gptq_cases,
        reference=gptq_row,
        hints=(
            "Work on a copy, `rest = weights.clone()`, and round `rest[j]`, not `weights[j]`: what came before has changed it.",
            "`error = (rest[j] - rounded[j]) / U[j, j]`, then `rest[j:] -= error * U[j, j:]`.",
        ),
        right="U is the Cholesky factor of the inverse of X X^T, the Hessian of the output error. Where inputs are "
        "independent it is diagonal, and this is plain rounding (Frantar et al. 2022).",
        mistakes=mistakes(
            (_gptq_nearest, "That is plain rounding: no weight makes up for another."),
            (_gptq_undivided, "The error has to be divided by U[j, j] first."),
            (_gptq_wrong_sign, "The sign is turned: the weights to come move away from making up for the error."),
            (
                _gptq_from_the_original,
                "The error is that of the weight as it is now, `rest[j]`, not as it was at first.",
            ),
            (_gptq_codes, "Those are the codes. Multiply them by the scale."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        id="quantization.kl_damage",
        title="How much has the model changed?",
        task="How far are the quantized model's predictions from the original's?\n\n"
        "`original` and `quantized` are logits of the same text by both models, `(T, vocabulary)`. Return the mean over the "
        "tokens of the KL divergence, in nats: for each token the sum over the vocabulary of `p * (log p - log q)`, where `p` "
        "are the original's probabilities.",
        minutes=6,
        difficulty="medium",
        importance=5,
        cases=_kl_cases,
        reference=kl_damage,
        hints=(
            "`torch.log_softmax(..., dim=-1)` gives logarithms that never become minus infinity for finite logits.",
            "`(log_p.exp() * (log_p - log_q)).sum(dim=-1)` is one number for each token; then take the mean.",
        ),
        right="It is 0 only where all predictions are the same, and it sees changes that perplexity averages away.",
        mistakes=mistakes(
            (_kl_reversed, "You weighted by the quantized model's probabilities. The original's say what matters."),
            (_kl_summed, "That is the sum over the tokens. Take the mean, or longer texts would seem more damaged."),
            (_kl_of_logits, "Logits are not log-probabilities: subtract their logsumexp first (`log_softmax`)."),
            (_kl_mean_of_all, "Sum over the vocabulary, mean over the tokens: you took the mean of both."),
            (_kl_bits, "That is in bits. Use the natural logarithm."),
            (_kl_over_tokens, "The softmax runs over the vocabulary, the last axis."),
            (_kl_nan, "All is right but where a probability becomes 0: `log_softmax` stays finite there."),
            (_kl_squares, "That is how far the logits moved. Adding 3 to all of them changes no probability."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        id="quantization.most_tokens_per_second",
        title="How fast can it be?",
        task="To produce one token, every weight has to come from memory once. How many tokens a second does that allow at "
        "most?\n\n"
        "`weight_bytes` are read once for a step, however many texts are in the `batch`; each text reads its own "
        "`cache_bytes` besides. `bandwidth` is in bytes a second, and a step gives one token for every text. Return the "
        "tokens a second of all texts together.",
        minutes=4,
        difficulty="easy",
        importance=4,
        cases=_speed_cases,
        reference=most_tokens_per_second,
        hints=(
            "How many bytes does one step read? How many steps fit into a second? How many tokens does a step give?",
            "`batch * bandwidth / (weight_bytes + batch * cache_bytes)`",
        ),
        right="This is why fewer bits can be faster at all. It is a bound: unpacking the bits is work that it leaves out.",
        mistakes=mistakes(
            (_speed_without_cache, "Each text's cache is read in every step too."),
            (_speed_of_one, "That is the speed of one text. A step gives a token for each of the batch."),
            (_speed_weights_each, "The weights are read once for the whole batch: that is what batches are for."),
            (_speed_one_cache, "Every text of the batch has a cache of its own."),
            (_speed_seconds, "Those are the seconds of a step. How many tokens is that in a second?"),
        ),
    ),
    Exercise(
        id="quantization.ternary",
        title="Three values",
        task="With only -1, 0 and 1 for weights, a product with a weight is an addition, a subtraction, or nothing.\n\n"
        "`weights` is a matrix. The scale is the mean of the absolute weights; a code is the weight divided by the scale, "
        "rounded, and cut off at -1 and 1. Return the codes (as floats) and the scale.",
        minutes=4,
        difficulty="easy",
        importance=3,
        cases=_ternary_cases,
        reference=ternary,
        hints=(
            "`weights.abs().mean()` is the scale. Weights beyond one and a half scales still get the code 1 or -1.",
            "`(weights / scale).round().clamp(-1, 1)`",
        ),
        right="This is the grid of BitNet b1.58 (Ma et al. 2024): log2(3) is 1.58.",
        mistakes=mistakes(
            (
                _ternary_absmax,
                "The scale is the mean of the absolute weights, not the largest: with it, nearly all become 0.",
            ),
            (_ternary_unclamped, "Codes beyond -1 and 1 remain. Cut them off."),
            (_ternary_signs, "Weights near zero get the code 0. Divide by the scale and round."),
            (_ternary_mean, "Take the mean of the absolute weights; the plain mean is near zero."),
            (_ternary_by_row, "One scale for the whole matrix, not one for each row."),
            (_ternary_values, "Those are the weights again. Return the codes before they are multiplied by the scale."),
        ),
        outputs=("codes", "scale"),
    ),
)
