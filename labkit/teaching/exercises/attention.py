"""Exercises of notebook 02, attention: from the mask to the tiled softmax, and finding the head that copies."""

from __future__ import annotations

from collections.abc import Callable

import torch

from labkit.attention import LiveBytes
from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# -------------------------------------------------------------------------------------------------------- causal mask


def causal_mask(T: int) -> torch.Tensor:
    """(T, T) bool: row i, column j is True where token i may look at token j."""
    positions = torch.arange(T)
    return positions[:, None] >= positions[None, :]  # row: who looks; column: what is looked at


def _mask_cases() -> list[Case]:
    return [
        Case((1,), "a single token, which sees itself"),
        Case((2,), "two tokens"),
        Case((4,), "four tokens"),
        Case((7,), "seven tokens"),
    ]


def _mask_turned(T: int) -> torch.Tensor:
    return torch.ones(T, T, dtype=torch.bool).triu()


def _mask_without_itself(T: int) -> torch.Tensor:
    return torch.ones(T, T, dtype=torch.bool).tril(-1)


def _mask_inverted(T: int) -> torch.Tensor:
    return torch.ones(T, T, dtype=torch.bool).triu(1)


def _mask_of_floats(T: int) -> torch.Tensor:
    return torch.ones(T, T).tril()


def _mask_to_add(T: int) -> torch.Tensor:
    return torch.zeros(T, T).masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))


# ----------------------------------------------------------------------------------------------------- attention head


def attention_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """query, key: (T, d_head); value: (T, d_value). Returns the causal output, (T, d_value)."""
    T, d_head = query.shape
    scores = query @ key.T / d_head**0.5  # (T, T): row i is what token i makes of all
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    scores = scores.masked_fill(~allowed, float("-inf"))  # what comes later gets no weight
    return torch.softmax(scores, dim=-1) @ value


def _head_cases() -> list[Case]:
    return [
        Case((random(1, 4, seed=1), random(1, 4, seed=2), random(1, 4, seed=3)), "a single token"),
        Case((random(2, 4, seed=1), random(2, 4, seed=2), random(2, 3, seed=3)), "two tokens, values of size 3"),
        Case((random(5, 8, seed=4), random(5, 8, seed=5), random(5, 8, seed=6)), "five tokens"),
        Case((torch.zeros(4, 2), random(4, 2, seed=7), random(4, 2, seed=8)), "queries of 0, so equal weights"),
        Case((random(6, 16, seed=9) * 6, random(6, 16, seed=10) * 6, random(6, 4, seed=11)), "large scores"),
    ]


def _head_unscaled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return attention_head(query * query.shape[-1] ** 0.5, key, value)


def _head_scaled_by_size(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return attention_head(query / query.shape[-1] ** 0.5, key, value)


def _head_scaled_by_64(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return attention_head(query * query.shape[-1] ** 0.5 / 8, key, value)


def _head_sees_all(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.T / query.shape[-1] ** 0.5, dim=-1) @ value


def _head_wrong_axis(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    scores = query @ key.T / query.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
    return torch.softmax(scores, dim=0) @ value


def _head_masked_with_zero(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax((query @ key.T / query.shape[-1] ** 0.5).tril(), dim=-1) @ value


def _head_masked_afterwards(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.T / query.shape[-1] ** 0.5, dim=-1).tril() @ value


def _head_without_softmax(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return (query @ key.T / query.shape[-1] ** 0.5).tril() @ value


# -------------------------------------------------------------------------------------------------- grouped attention


def grouped_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """query: (heads, T, d_head); key, value: (kv_heads, T, d_head).

    Returns (heads, T, d_head), causal.
    """
    heads, T, d_head = query.shape
    group = heads // key.shape[0]  # how many query heads share a key-value head
    key = key.repeat_interleave(group, dim=0)  # neighbours share: 0 0 0 1 1 1 ...
    value = value.repeat_interleave(group, dim=0)
    scores = query @ key.transpose(-1, -2) / d_head**0.5  # (heads, T, T)
    allowed = torch.ones(T, T, dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1) @ value


def _grouped_cases() -> list[Case]:
    def case(heads: int, kv_heads: int, T: int, d: int, shows: str) -> Case:
        seed = 100 * heads + kv_heads
        inputs = (
            random(heads, T, d, seed=seed),
            random(kv_heads, T, d, seed=seed + 1),
            random(kv_heads, T, d, seed=seed + 2),
        )
        return Case(inputs, shows)

    return [
        case(4, 2, 3, 4, "four query heads, two key-value heads"),
        case(6, 2, 4, 8, "six query heads, two key-value heads"),
        case(4, 1, 3, 4, "one key-value head for all (multi-query)"),
        case(3, 3, 3, 4, "as many key-value heads as query heads (multi-head)"),
        case(4, 2, 1, 4, "a single token"),
    ]


def _grouped_tiled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    group = query.shape[0] // key.shape[0]
    return grouped_attention(query, key.repeat(group, 1, 1), value.repeat(group, 1, 1))


def _grouped_values_tiled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    group = query.shape[0] // key.shape[0]
    return grouped_attention(query, key.repeat_interleave(group, 0), value.repeat(group, 1, 1))


def _grouped_without_mask(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    group = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    return torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1) @ value


def _grouped_first_only(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return grouped_attention(query, key[:1], value[:1])


def _grouped_not_at_all(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    T, d_head = query.shape[1:]
    scores = query @ key.transpose(-1, -2) / d_head**0.5
    return torch.softmax(scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")), -1) @ value


def _grouped_averaged(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The key-value heads' mean for every query head."""
    return grouped_attention(query, key.mean(0, keepdim=True), value.mean(0, keepdim=True))


# ------------------------------------------------------------------------------------------------------------- rotary


def rotate(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """x: (T, d); positions: (T,). Number i of the first half is paired with i of the second.

    Returns (T, d).
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half) / half)  # 1 for the first pair, then slower
    angles = positions[:, None] * frequencies  # (T, half)
    cos, sin = angles.cos(), angles.sin()
    first, second = x[:, :half], x[:, half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rotate_cases() -> list[Case]:
    return [
        Case((torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 10_000.0), "one pair, turned by an angle of 1"),
        Case((random(3, 4, seed=1), torch.tensor([0, 0, 0]), 10_000.0), "position 0, where nothing turns"),
        Case((random(3, 4, seed=2), torch.tensor([0, 1, 2]), 10_000.0), "two pairs, the second much slower"),
        Case((random(2, 8, seed=3), torch.tensor([7, 3]), 10_000.0), "positions in any order"),
        Case((random(2, 8, seed=4), torch.tensor([5, 9]), 500.0), "another base"),
    ]


def _rotate_neighbours(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** (-torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[:, 0::2], x[:, 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def _rotate_backwards(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rotate(x, -positions, base)


def _rotate_all_alike(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rotate(x, positions, 1.0)


def _rotate_half_exponent(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rotate(x, positions, base**0.5)  # arange(half) / d in place of 2 * arange(half) / d


def _rotate_double_exponent(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rotate(x, positions, base**2)  # 2 * arange(half) / half in place of 2 * arange(half) / d


def _rotate_by_row(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    return rotate(x, torch.arange(len(x)), base)


# ----------------------------------------------------------------------------------------------------------- KV cache


def kv_cache_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query, key, value: (d,) of the new token; keys, values: (T, d), the cache.

    Returns output, keys, values.
    """
    keys = torch.cat([keys, key[None]])  # the new token is looked at too: by itself
    values = torch.cat([values, value[None]])
    weights = torch.softmax(keys @ query / len(query) ** 0.5, dim=0)
    return weights @ values, keys, values


def _cache_cases() -> list[Case]:
    def case(T: int, d: int, seed: int, shows: str) -> Case:
        new = tuple(random(d, seed=seed + i) for i in range(3))
        return Case((*new, random(T, d, seed=seed + 3), random(T, d, seed=seed + 4)), shows)

    return [
        case(1, 2, 10, "one token in the cache"),
        case(3, 4, 20, "three tokens in the cache"),
        case(0, 4, 30, "an empty cache: the first token of a text"),
        case(6, 8, 40, "six tokens in the cache"),
    ]


def _cache_forgets_itself(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    _, longer_keys, longer_values = kv_cache_step(query, key, value, keys, values)
    return torch.softmax(keys @ query / len(query) ** 0.5, dim=0) @ values, longer_keys, longer_values


def _cache_at_the_front(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    output, _, _ = kv_cache_step(query, key, value, keys, values)
    return output, torch.cat([key[None], keys]), torch.cat([value[None], values])


def _cache_not_handed_back(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return kv_cache_step(query, key, value, keys, values)[0], keys, values


def _cache_unscaled(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    keys, values = torch.cat([keys, key[None]]), torch.cat([values, value[None]])
    return torch.softmax(keys @ query, dim=0) @ values, keys, values


# ----------------------------------------------------------------------------------------------------- online softmax


def online_softmax(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    """scores: (T,); values: (T, d). The softmax-weighted sum, (d,), `tile` scores at a time."""
    largest = torch.tensor(float("-inf"))  # the largest score so far
    total = torch.tensor(0.0)  # sum of exp(score - largest) so far
    output = torch.zeros(values.shape[1])  # the same sum, with the values
    for start in range(0, len(scores), tile):
        s, v = scores[start : start + tile], values[start : start + tile]
        new = torch.maximum(largest, s.max())
        shrink = torch.exp(largest - new)  # brings what was summed before to the new largest
        weights = torch.exp(s - new)
        total = total * shrink + weights.sum()
        output = output * shrink + weights @ v
        largest = new
    return output / total


def _online_cases() -> list[Case]:
    rising = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    return [
        Case((random(4, seed=1), random(4, 2, seed=2), 4), "a single tile"),
        Case((rising, random(6, 2, seed=3), 2), "scores that rise from tile to tile"),
        Case((rising.flip(0), random(6, 2, seed=4), 2), "scores that fall from tile to tile"),
        Case((random(7, seed=5), random(7, 3, seed=6), 3), "a last tile that is not full"),
        Case((random(5, seed=7) + 200, random(5, 2, seed=8), 2), "scores so large that exp overflows"),
        Case((random(5, seed=9), random(5, 2, seed=10), 1), "tiles of one"),
        Case((torch.tensor([200.0, 0.0, 1.0]), random(3, 2, seed=11), 1), "a score far above those that follow"),
    ]


def _online_no_rescale(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    largest, total, output = torch.tensor(float("-inf")), torch.tensor(0.0), torch.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        s, v = scores[start : start + tile], values[start : start + tile]
        largest = torch.maximum(largest, s.max())
        weights = torch.exp(s - largest)
        total, output = total + weights.sum(), output + weights @ v
    return output / total


def _online_sum_only(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    largest, total, output = torch.tensor(float("-inf")), torch.tensor(0.0), torch.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        s, v = scores[start : start + tile], values[start : start + tile]
        new = torch.maximum(largest, s.max())
        weights = torch.exp(s - new)
        total, output = total * torch.exp(largest - new) + weights.sum(), output + weights @ v
        largest = new
    return output / total


def _online_tiles_apart(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    starts = range(0, len(scores), tile)
    parts = [torch.softmax(scores[i : i + tile], 0) @ values[i : i + tile] for i in starts]
    return torch.stack(parts).mean(0)


def _online_overflows(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    weights = torch.exp(scores)
    return weights @ values / weights.sum()


def _online_full_tiles_only(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    whole = len(scores) // tile * tile
    return online_softmax(scores[:whole], values[:whole], tile)


def _online_forgets_the_largest(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    largest, total, output = torch.tensor(float("-inf")), torch.tensor(0.0), torch.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        s, v = scores[start : start + tile], values[start : start + tile]
        new = s.max()
        shrink, weights = torch.exp(largest - new), torch.exp(s - new)
        total, output = total * shrink + weights.sum(), output * shrink + weights @ v
        largest = new
    return output / total


def _online_at_once(answer: Callable[..., object]) -> str | None:
    """What is said of an answer that is right and holds all weights at once; None of one that does not."""
    scores, values = random(16_384, seed=1), random(16_384, 1, seed=2)
    with LiveBytes() as live:
        answer(scores, values, 64)
    if live.peak < scores.nbytes // 2:
        return None
    return (
        "The result is right, but all weights existed at once: go through the scores in tiles, and keep three things."
    )


def _online_not_divided(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    return torch.exp(scores - scores.max()) @ values


# ------------------------------------------------------------------------------------------------------ copying heads


def copying_heads(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    """patterns: (layers, heads, T, T); ids: (T,).

    Returns (layer, head) of the head with the highest induction score.
    """
    T = len(ids)
    wanted = torch.zeros(T, T)
    for now in range(T):
        for earlier in range(now):
            if ids[earlier] == ids[now]:
                wanted[now, earlier + 1] = 1.0  # what came after this token the last time
    seen_before = wanted.any(dim=1)
    scores = (patterns * wanted).sum(-1)[..., seen_before].mean(-1)  # (layers, heads)
    layer, head = divmod(int(scores.argmax()), patterns.shape[1])
    return layer, head


def _pattern(T: int, looks_at: Callable[[int], int], strength: float) -> torch.Tensor:
    """A causal pattern whose rows put `strength` on one key and share the rest among all that they see."""
    rows = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None] * (1 - strength)
    for i in range(T):
        rows[i, looks_at(i)] += strength
    return rows


def _copying_cases() -> list[Case]:
    def case(period: int, repeats: int, layers: int, heads: int, place: tuple[int, int], shows: str) -> Case:
        T = period * repeats
        ids = (torch.arange(T) % period) * 7 + 3
        patterns = torch.stack(
            [
                torch.stack([_pattern(T, lambda i: max(i - 1, 0), 0.3 + 0.1 * head) for head in range(heads)])
                for _ in range(layers)
            ]
        )
        layer, head = place
        patterns[layer, head] = _pattern(T, lambda i: i - period + 1 if i >= period else 0, 0.8)
        # three decoys: the same token before, the first token, and the token after the next
        patterns[layer - 1, head] = _pattern(T, lambda i: i - period if i >= period else 0, 0.95)
        patterns[layer - 1, head - 1] = _pattern(T, lambda _: 0, 0.95)
        patterns[layer, head - 1] = _pattern(T, lambda i: min(i, i - period + 2) if i >= period else i, 0.9)
        return Case((patterns, ids), shows)

    mixed = torch.stack([_pattern(6, lambda i: i, 0.9), _pattern(6, lambda i: (0, 0, 0, 1, 3, 0)[i], 0.7)])[None]
    return [
        case(4, 2, 2, 2, (1, 1), "four tokens, twice over"),
        case(3, 3, 2, 3, (1, 0), "three tokens, three times over"),
        case(5, 2, 3, 2, (0, 1), "three layers of two heads"),
        Case((mixed, torch.tensor([5, 9, 8, 5, 7, 5])), "a text in which only one token comes again"),
    ]


def _copying_same_token(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    wanted = (ids[:, None] == ids[None, :]).float().tril(-1)
    return divmod(int((patterns * wanted).sum((-1, -2)).argmax()), patterns.shape[1])


def _copying_previous(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    scores = patterns.diagonal(-1, -2, -1).mean(-1)
    return divmod(int(scores.argmax()), patterns.shape[1])


def _copying_flat(patterns: torch.Tensor, ids: torch.Tensor) -> int:
    layer, head = copying_heads(patterns, ids)
    return layer * patterns.shape[1] + head


def _copying_turned(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    layer, head = copying_heads(patterns, ids)
    return head, layer


def _copying_fixed_distance(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    T = len(ids)
    wanted = torch.zeros(T, T)
    for now in range(T // 2, T):
        wanted[now, now - T // 2 + 1] = 1.0
    return divmod(int((patterns * wanted).sum((-1, -2)).argmax()), patterns.shape[1])


def _copying_counts_from_one(patterns: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    layer, head = copying_heads(patterns, ids)
    return layer + 1, head + 1


# -------------------------------------------------------------------------------------------------------- cache bytes


def cache_bytes(layers: int, kv_heads: int, d_head: int, tokens: int, bytes_per_number: int, batch: int) -> int:
    """Bytes of the KV cache of `batch` texts of `tokens` tokens."""
    numbers_per_token = 2 * layers * kv_heads * d_head  # a key and a value
    return numbers_per_token * tokens * batch * bytes_per_number


def _cache_bytes_cases() -> list[Case]:
    return [
        Case((1, 1, 64, 1, 4, 1), "one token, one layer, one head"),
        Case((30, 3, 64, 8192, 4, 1), "the default model, 8,192 tokens in float32"),
        Case((32, 32, 128, 4096, 2, 1), "LLaMA 2 7B, 4,096 tokens at 16 bits"),
        Case((80, 8, 128, 4096, 2, 1), "LLaMA 2 70B, with its 8 key-value heads"),
        Case((32, 8, 128, 1024, 2, 16), "16 texts at once"),
        Case((32, 8, 128, 0, 2, 4), "no tokens yet"),
    ]


def _cache_bytes_keys_only(
    layers: int, kv_heads: int, d_head: int, tokens: int, bytes_per_number: int, batch: int
) -> int:
    return layers * kv_heads * d_head * tokens * bytes_per_number * batch


def _cache_bytes_one_text(
    layers: int, kv_heads: int, d_head: int, tokens: int, bytes_per_number: int, batch: int
) -> int:
    return 2 * layers * kv_heads * d_head * tokens * bytes_per_number


def _cache_bytes_numbers(
    layers: int, kv_heads: int, d_head: int, tokens: int, bytes_per_number: int, batch: int
) -> int:
    return 2 * layers * kv_heads * d_head * tokens * batch


def _cache_bytes_of_patterns(
    layers: int, kv_heads: int, d_head: int, tokens: int, bytes_per_number: int, batch: int
) -> int:
    return layers * kv_heads * tokens * tokens * bytes_per_number * batch


EXERCISES = (
    Exercise(
        id="attention.causal_mask",
        title="The causal mask",
        task="Each token may look at itself and at what came before, never at what comes later.\n\n"
        "For `T` tokens return a bool tensor of shape `(T, T)`: row `i`, column `j` is `True` where token `i` may look at "
        "token `j`.",
        minutes=3,
        difficulty="easy",
        importance=5,
        cases=_mask_cases,
        reference=causal_mask,
        hints=(
            "Write the 3 by 3 table on paper. The first row has one True, the last row three.",
            "Compare positions: `positions[:, None]` is a column, `positions[None, :]` a row, and `>=` between them makes the "
            "table. (`torch.ones(T, T).tril()` gives it too, as floats.)",
        ),
        right="The mask is what lets a model learn from every position of a text at once without seeing the answer.",
        mistakes=mistakes(
            (
                _mask_turned,
                "The triangle is the wrong way round: here the first token sees everything and the last only itself. "
                "Rows look, columns are looked at.",
            ),
            (
                _mask_without_itself,
                "The diagonal is missing: a token may look at itself. Without it, the first token would see "
                "nothing at all.",
            ),
            (_mask_inverted, "True and False are swapped: True is for what may be seen."),
            (
                _mask_of_floats,
                "The correct triangle, but of floats. Ask for bools: `dtype=torch.bool`, or compare positions.",
            ),
            (
                _mask_to_add,
                "This is the mask that is added to the scores (0 and minus infinity). Here a bool mask is wanted.",
            ),
        ),
    ),
    Exercise(
        id="attention.attention_head",
        title="One head by hand",
        task="Write one causal attention head.\n\n"
        "`query` and `key` have shape `(T, d_head)`, `value` has `(T, d_value)`. Return the output, `(T, d_value)`: for each "
        "token the mean of the values of all tokens up to and including itself, weighted by the softmax of "
        "`query · key / sqrt(d_head)`.",
        minutes=6,
        difficulty="medium",
        importance=5,
        cases=_head_cases,
        reference=attention_head,
        hints=(
            "`query @ key.T` holds every query times every key: row i is what token i makes of all tokens. Divide by the square "
            "root of `d_head`.",
            "Set the scores of later tokens to minus infinity before the softmax (`masked_fill`), take the softmax along "
            "each row (`dim=-1`), and multiply by `value`.",
        ),
        right="That is all of it: scores, mask, softmax, weighted mean.",
        mistakes=mistakes(
            (
                _head_unscaled,
                "The scores are not divided by the square root of `d_head`. Without it they grow with the size of "
                "the head and the softmax hardens.",
            ),
            (_head_scaled_by_size, "The scores are divided by `d_head` itself; its square root is meant."),
            (
                _head_scaled_by_64,
                "The scores are divided by the square root of 64, but here d_head is another number: take it from query.shape.",
            ),
            (_head_sees_all, "The mask is missing: tokens look at what comes later."),
            (_head_wrong_axis, "The softmax runs down the columns. Each row must add up to 1: `dim=-1`."),
            (
                _head_masked_with_zero,
                "Masked scores are set to 0, and `exp(0)` is 1: they still get weight. Set them to minus infinity.",
            ),
            (
                _head_masked_afterwards,
                "The mask comes after the softmax, so that the rows no longer add up to 1. Mask the scores first.",
            ),
            (_head_without_softmax, "The softmax is missing: the raw scores are taken for weights."),
        ),
    ),
    Exercise(
        id="attention.grouped_attention",
        title="Heads that share keys and values",
        task="Grouped-query attention: several query heads look through the same key-value head.\n\n"
        "`query` has shape `(heads, T, d_head)`, `key` and `value` have `(kv_heads, T, d_head)`, and `heads` is a multiple of "
        "`kv_heads`. Neighbouring query heads share: with 6 and 2, heads 0 to 2 use key-value head 0, heads 3 to 5 use 1. "
        "Return the causal attention's output, `(heads, T, d_head)`.",
        minutes=5,
        difficulty="medium",
        importance=4,
        cases=_grouped_cases,
        reference=grouped_attention,
        hints=(
            "Repeat keys and values until there are as many heads as in `query`; the rest is the single head, with one more "
            "dimension in front.",
            "`repeat_interleave(group, dim=0)` gives 0 0 0 1 1 1; `repeat` gives 0 1 0 1 0 1. Transpose the last two dimensions "
            "with `.transpose(-1, -2)`.",
        ),
        right="The output has as many heads as before, but only the key-value heads have to be remembered in the cache.",
        mistakes=mistakes(
            (
                _grouped_tiled,
                "Keys and values are repeated in the wrong order, 0 1 0 1 for 0 0 1 1. `repeat_interleave` keeps "
                "neighbours together.",
            ),
            (
                _grouped_values_tiled,
                "The keys are shared as they should, the values are in another order (0 1 0 1). Repeat both "
                "in the same way.",
            ),
            (_grouped_without_mask, "The mask is missing: tokens look at what comes later."),
            (_grouped_first_only, "All query heads use key-value head 0. Each group has one of its own."),
            (
                _grouped_averaged,
                "The key-value heads are averaged. They stay apart; each serves its own group of query heads.",
            ),
            (
                _grouped_not_at_all,
                "Keys and values are not repeated, so that it works only where the numbers of heads happen to "
                "fit. Repeat them to as many heads as `query` has.",
            ),
        ),
    ),
    Exercise(
        id="attention.rotate",
        title="Positions by rotation",
        task="Rotary embedding as in LLaMA: pairs of numbers are turned by an angle that grows with the position.\n\n"
        "`x` has shape `(T, d)` with even `d`, `positions` has `(T,)`, `base` is a number. Number `i` of the first half is "
        "paired with number `i` of the second half, and the pair is turned by `position * base ** (-2 * i / d)`: "
        "`(a, b)` becomes `(a cos - b sin, b cos + a sin)`. Return `(T, d)`.",
        minutes=7,
        difficulty="hard",
        importance=4,
        cases=_rotate_cases,
        reference=rotate,
        hints=(
            "Make the table of angles first, `(T, d / 2)`: `positions[:, None]` times the frequencies. Its `cos` and `sin` have "
            "the same shape as each half of `x`.",
            "Take `first, second = x[:, : d // 2], x[:, d // 2 :]`, compute both new halves, and put them side by side again "
            "with `torch.cat(..., dim=-1)`.",
        ),
        right="Turned this way, a query and a key see only the distance between their positions.",
        mistakes=mistakes(
            (
                _rotate_neighbours,
                "Neighbouring numbers are paired (0 with 1). LLaMA pairs the two halves: number i with number i + d/2.",
            ),
            (_rotate_backwards, "It turns the other way round: the sign of `sin` is swapped."),
            (_rotate_all_alike, "All pairs turn equally fast. Pair i turns with the frequency `base ** (-2 * i / d)`."),
            (_rotate_half_exponent, "The frequencies fall half as fast as they should: the exponent is `-2 * i / d`."),
            (
                _rotate_double_exponent,
                "The frequencies fall twice as fast as they should: the exponent is `-2 * i / d`, with d the whole length.",
            ),
            (
                _rotate_by_row,
                "The row number is taken for the position. Use `positions`: with a cache, the first row is not "
                "position 0.",
            ),
        ),
    ),
    Exercise(
        id="attention.kv_cache_step",
        title="One step with a cache",
        task="A model that writes remembers the keys and values of all tokens so far and computes only the new token.\n\n"
        "`query`, `key` and `value` of the new token have shape `(d,)`; `keys` and `values`, the cache, have `(T, d)`, and T "
        "may be 0. Return three things: the new token's attention output `(d,)`, and the cache with the new token at its "
        "end, keys and values, both `(T + 1, d)`. Scores are divided by `sqrt(d)`.",
        minutes=5,
        difficulty="medium",
        importance=5,
        cases=_cache_cases,
        reference=kv_cache_step,
        hints=(
            "Append first, then look: the new token sees itself too. `key[None]` has shape `(1, d)` and can be joined to `keys`.",
            "`keys @ query` gives a score for each token. No mask is needed: there is nothing later. Then softmax, and "
            "`weights @ values`.",
        ),
        right="Each step costs one row of attention rather than the whole table, and the cache grows by one key and one value.",
        mistakes=mistakes(
            (
                _cache_forgets_itself,
                "The new token does not look at itself: append its key and value before computing scores.",
            ),
            (
                _cache_at_the_front,
                "The output is right, but the new token stands at the front of the cache. It goes to the end.",
            ),
            (
                _cache_not_handed_back,
                "The output is right, but the cache comes back as it was: return the longer keys and values.",
            ),
            (_cache_unscaled, "The scores are not divided by the square root of d."),
        ),
        outputs=("output", "keys", "values"),
    ),
    Exercise(
        id="attention.online_softmax",
        title="Softmax in tiles",
        task="The idea inside FlashAttention: the softmax-weighted sum, without ever holding all weights at once.\n\n"
        "`scores` has shape `(T,)`, `values` has `(T, d)`. Go through them in tiles of `tile` and keep only three things: the "
        "largest score so far, the sum of `exp(score - largest)`, and the same sum with the values. Return "
        "`softmax(scores) @ values`, `(d,)`. The last tile may be shorter.",
        minutes=8,
        difficulty="hard",
        importance=4,
        cases=_online_cases,
        reference=online_softmax,
        hints=(
            "When a tile brings a larger score, everything summed so far was taken relative to the old one. Multiply it by "
            "`exp(old - new)`.",
            "Both sums have to be rescaled: the plain one and the one with the values. Divide one by the other only at the end. "
            "Start with the largest at minus infinity: `exp(-inf)` is 0.",
        ),
        right="Equal to the whole, up to rounding, and the memory it needs no longer grows with the length.",
        objection=_online_at_once,
        mistakes=mistakes(
            (
                _online_no_rescale,
                "The sums are not rescaled when a larger score turns up. Multiply both by `exp(old - new)`.",
            ),
            (
                _online_sum_only,
                "The plain sum is rescaled, the sum with the values is not. Both need `exp(old - new)`.",
            ),
            (
                _online_tiles_apart,
                "Each tile has a softmax of its own and the results are averaged. Tiles with large scores must "
                "weigh more: keep the sums and divide once, at the end.",
            ),
            (
                _online_overflows,
                "All but very large scores is right: `exp` overflows there. Take the largest score away first.",
            ),
            (_online_full_tiles_only, "The last tile is left out where it is not full."),
            (
                _online_forgets_the_largest,
                "The largest score so far is forgotten when a tile has only smaller ones: take the larger of the two.",
            ),
            (_online_not_divided, "The sum of the weights is missing: divide by it at the end."),
        ),
    ),
    Exercise(
        id="attention.copying_heads",
        title="Find the head that copies",
        task="An induction head continues what it has seen: at a token that came before, it looks at what came right after "
        "it then.\n\n"
        "`patterns` has shape `(layers, heads, T, T)`, rows look at columns; `ids` has `(T,)`. The induction score of a head: "
        "for each position whose token came before, the weight on the tokens right after its earlier occurrences, summed; "
        "then the mean over those positions. Return `(layer, head)` of the head with the largest score, two whole numbers, "
        "counted from 0.",
        minutes=8,
        difficulty="hard",
        importance=4,
        cases=_copying_cases,
        reference=copying_heads,
        hints=(
            "Make a table `(T, T)` with a 1 wherever an induction head should look: at row `now`, column `earlier + 1`, for "
            "every `earlier < now` with the same id.",
            "Multiply the patterns by that table, sum each row, average over the rows that hold a 1. `argmax` of `(layers, "
            "heads)` counts through all heads; `divmod(it, heads)` gives layer and head.",
        ),
        right="This is how such heads are found in models nobody has looked at: by what they do on a text that repeats.",
        mistakes=mistakes(
            (
                _copying_same_token,
                "That head looks at the earlier occurrence of the same token. An induction head looks one "
                "further, at what came after it.",
            ),
            (_copying_previous, "That is the head that looks at the token before (a previous-token head)."),
            (_copying_flat, "`argmax` counts through all heads of all layers. Take it apart: `divmod(it, heads)`."),
            (_copying_turned, "Layer and head are swapped: the layer comes first."),
            (
                _copying_fixed_distance,
                "You look at a fixed distance, half the text back. Texts need not repeat like that: compare the ids.",
            ),
            (_copying_counts_from_one, "Layers and heads count from 0 here."),
        ),
        outputs=("layer", "head"),
    ),
    Exercise(
        id="attention.cache_bytes",
        title="How large is the KV cache?",
        task="For each token, each layer and each key-value head the cache holds a key and a value of `d_head` numbers.\n\n"
        "Given `layers`, `kv_heads`, `d_head`, `tokens`, `bytes_per_number` and `batch` (texts at once), all whole numbers, "
        "return the bytes of the cache.",
        minutes=2,
        difficulty="easy",
        importance=5,
        cases=_cache_bytes_cases,
        reference=cache_bytes,
        hints=(
            "It is a product of everything given, and one number more.",
            "The one number more is 2: a key and a value.",
        ),
        right="The number of query heads is nowhere in it: that is what grouped heads are for.",
        mistakes=mistakes(
            (_cache_bytes_keys_only, "Half of it: there is a key and a value for each token."),
            (_cache_bytes_one_text, "That is the cache of one text. Each text of the batch has its own."),
            (_cache_bytes_numbers, "These are numbers, not bytes: multiply by `bytes_per_number`."),
            (
                _cache_bytes_of_patterns,
                "The cache holds keys and values, not attention patterns: it grows with the tokens, not "
                "with their square.",
            ),
        ),
    ),
)
