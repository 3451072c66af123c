"""Exercises of notebook 03, generation: temperature, top-p, a cache, a branch of it, a form, speculative sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# ------------------------------------------------------------------------------------------------------- temperature


def with_temperature(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """logits: (texts, vocabulary); temperature: (texts,), one for each text; 0 means greedy.

    Returns probabilities, (texts, vocabulary); each row adds up to 1.
    """
    greedy = temperature == 0
    divisor = torch.where(greedy, 1.0, temperature)  # so that nothing is divided by 0
    drawn = torch.softmax(logits / divisor[:, None], dim=-1)
    best = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return torch.where(greedy[:, None], best, drawn)


def _temperature_cases() -> list[Case]:
    return [
        Case((torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([0.5])), "one text, a low temperature"),
        Case((torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([0.0])), "one text, greedy"),
        Case((random(3, 5, seed=1), torch.tensor([0.5, 1.0, 2.0])), "three texts, three temperatures"),
        Case((random(3, 3, seed=2), torch.tensor([0.7, 0.0, 1.5])), "three tokens, three texts, one of them greedy"),
        Case((torch.tensor([[4.0, 1.0, 4.0], [0.0, 1.0, 2.0]]), torch.tensor([0.0, 1.0])), "two best tokens, greedy"),
    ]


def _temperature_multiplied(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return with_temperature(logits, torch.where(temperature == 0, temperature, 1 / temperature))


def _temperature_after(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    plain = torch.softmax(logits, -1) / temperature[:, None]
    return torch.where(temperature[:, None] == 0, with_temperature(logits, torch.zeros_like(temperature)), plain)


def _temperature_nan(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits / temperature[:, None], -1)


def _temperature_nearly_greedy(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits / temperature.clamp(min=1e-6)[:, None], -1)


def _temperature_over_tokens(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    scaled = logits / torch.where(temperature == 0, 1.0, temperature)
    best = with_temperature(logits, torch.zeros_like(temperature))
    return torch.where(temperature[:, None] == 0, best, torch.softmax(scaled, -1))


def _temperature_over_texts(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    scaled = torch.softmax(logits / torch.where(temperature == 0, 1.0, temperature)[:, None], 0)
    return torch.where(temperature[:, None] == 0, with_temperature(logits, torch.zeros_like(temperature)), scaled)


# -------------------------------------------------------------------------------------------------------------- top-p


def top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """logits: (texts, vocabulary).  p: above 0, at most 1.

    Returns the logits, (texts, vocabulary), -inf for all but the fewest most probable tokens
    of each text that add up to at least p.
    """
    probabilities, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities  # what all more probable ones have
    cut = torch.zeros_like(logits, dtype=torch.bool)
    cut.scatter_(-1, order, before >= p)  # back into the vocabulary's order
    return logits.masked_fill(cut, float("-inf"))


_MIXED = (0.125, 0.5, 0.046875, 0.25, 0.078125)


def _top_p_cases() -> list[Case]:
    mixed = torch.tensor([_MIXED]).log()
    return [
        Case((mixed, 0.9), "five tokens, not in order"),
        Case((mixed + 3, 0.6), "the token that passes p stays"),
        Case((mixed, 0.3), "the best token alone is more than p"),
        Case((torch.cat([mixed, mixed.flip(1), random(1, 5, seed=9)]), 0.7), "three texts"),
        Case((2 * random(2, 12, seed=3), 0.8), "twelve tokens"),
        Case((random(2, 6, seed=4), 1.0), "p = 1 cuts nothing"),
    ]


def _top_p_drops_the_last(logits: torch.Tensor, p: float) -> torch.Tensor:
    probabilities, order = torch.softmax(logits, -1).sort(dim=-1, descending=True)
    cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, probabilities.cumsum(-1) > p + 1e-6)
    return logits.masked_fill(cut, float("-inf"))


def _top_p_as_a_threshold(logits: torch.Tensor, p: float) -> torch.Tensor:
    return logits.masked_fill(torch.softmax(logits, -1) < p, float("-inf"))


def _top_p_in_sorted_order(logits: torch.Tensor, p: float) -> torch.Tensor:
    ordered = torch.softmax(logits, -1).sort(dim=-1, descending=True).values
    return logits.masked_fill(ordered.cumsum(-1) - ordered >= p, float("-inf"))


def _top_p_unsorted(logits: torch.Tensor, p: float) -> torch.Tensor:
    probabilities = torch.softmax(logits, -1)
    return logits.masked_fill(probabilities.cumsum(-1) - probabilities >= p, float("-inf"))


def _top_p_with_zeros(logits: torch.Tensor, p: float) -> torch.Tensor:
    return top_p(logits, p).nan_to_num(neginf=0.0)


def _top_p_of_probabilities(logits: torch.Tensor, p: float) -> torch.Tensor:
    return torch.softmax(top_p(logits, p), -1)


def _top_p_mask(logits: torch.Tensor, p: float) -> torch.Tensor:
    return top_p(logits, p).isfinite()


# -------------------------------------------------------------------------------------------------------------- cache


def with_cache(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query, key, value: (n, d), of n new tokens; keys, values: (T, d), the cache.

    Returns the new tokens' output (n, d), and keys and values with theirs appended, (T + n, d).
    """
    T, (n, d) = len(keys), query.shape
    keys, values = torch.cat([keys, key]), torch.cat([values, value])
    allowed = torch.ones(n, T + n, dtype=torch.bool).tril(T)  # all T cached, and up to itself
    scores = (query @ keys.T / d**0.5).masked_fill(~allowed, float("-inf"))
    return torch.softmax(scores, dim=-1) @ values, keys, values


def _cache_cases() -> list[Case]:
    def case(n: int, T: int, d: int, seed: int, shows: str) -> Case:
        new = tuple(random(n, d, seed=seed + i) for i in range(3))
        return Case((*new, random(T, d, seed=seed + 3), random(T, d, seed=seed + 4)), shows)

    return [
        case(1, 3, 4, 10, "one new token after three"),
        case(3, 2, 4, 20, "three new tokens after two"),
        case(2, 6, 9, 30, "two new tokens after six"),
        case(4, 0, 4, 40, "an empty cache: a whole prompt at once"),
    ]


def _cache_unmasked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys, values = torch.cat([keys, key]), torch.cat([values, value])
    return torch.softmax(query @ keys.T / query.shape[1] ** 0.5, -1) @ values, keys, values


def _cache_mask_from_the_front(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys, values = torch.cat([keys, key]), torch.cat([values, value])
    scores = query @ keys.T / query.shape[1] ** 0.5
    scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    return torch.softmax(scores, -1) @ values, keys, values


def _cache_forgets_the_new(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    output = torch.softmax(query @ keys.T / query.shape[1] ** 0.5, -1) @ values
    return output, torch.cat([keys, key]), torch.cat([values, value])


def _cache_not_handed_back(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return with_cache(query, key, value, keys, values)[0], keys, values


def _cache_at_the_front(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    output = with_cache(query, key, value, keys, values)[0]
    return output, torch.cat([key, keys]), torch.cat([value, values])


def _cache_unscaled(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return with_cache(query * query.shape[1] ** 0.5, key, value, keys, values)


# ------------------------------------------------------------------------------------------------------------- branch


def branch(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """keys, values: (kv_heads, T, d), the cache of a text; at: where another token is to stand,
    counted from 0; key, value: (kv_heads, d), of that token.

    Returns keys and values of the branch, (kv_heads, at + 1, d). The text's stay as they are.
    """
    keys = torch.cat([keys[:, :at], key[:, None]], dim=1)  # a new tensor
    values = torch.cat([values[:, :at], value[:, None]], dim=1)
    return keys, values


def _branch_cases() -> list[Case]:
    def case(heads: int, T: int, at: int, d: int, seed: int, shows: str) -> Case:
        cache = random(heads, T, d, seed=seed), random(heads, T, d, seed=seed + 1)
        return Case((*cache, at, random(heads, d, seed=seed + 2), random(heads, d, seed=seed + 3)), shows)

    return [
        case(1, 4, 2, 2, 10, "another token in the middle of four"),
        case(2, 5, 4, 3, 20, "another last token"),
        case(3, 6, 0, 4, 30, "another first token"),
        case(4, 4, 1, 4, 40, "as many heads as tokens"),
    ]


def _branch_keeps_one_more(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return branch(keys, values, at + 1, key, value)


def _branch_keeps_all(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return branch(keys, values, keys.shape[1], key, value)


def _branch_keeps_the_rest(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    found = branch(keys, values, at, key, value)
    return torch.cat([found[0], keys[:, at + 1 :]], 1), torch.cat([found[1], values[:, at + 1 :]], 1)


def _branch_only_crops(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return keys[:, :at], values[:, :at]


def _branch_over_heads(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([keys[:at], key[:, None]]), torch.cat([values[:at], value[:, None]])


def _branch_at_the_front(
    keys: torch.Tensor, values: torch.Tensor, at: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([key[:, None], keys[:, :at]], 1), torch.cat([value[:, None], values[:, :at]], 1)


def _spoils_the_trunk(answer: Callable[..., object]) -> str | None:
    keys, values, at, key, value = _branch_cases()[1].inputs
    assert isinstance(keys, torch.Tensor)
    assert isinstance(values, torch.Tensor)
    before = keys.clone(), values.clone()
    answer(keys, values, at, key, value)
    if torch.equal(keys, before[0]) and torch.equal(values, before[1]):
        return None
    return (
        "The branch is right, but the text's own cache was overwritten on the way, and the text can't be gone on with. "
        "Make new tensors."
    )


# --------------------------------------------------------------------------------------------------------------- form


def masked_choice(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    """logits: (vocabulary,); options: the token ids of each allowed answer; so_far: the ids
    generated until now; end: the id that ends an answer.

    Returns the logits, (vocabulary,), -inf for each token that leads to none of the options.
    """
    n = len(so_far)
    allowed = set()
    for option in options:
        if option[:n] == so_far:  # this one is still possible
            allowed.add(option[n] if n < len(option) else end)
    masked = torch.full_like(logits, float("-inf"))
    for id in allowed:
        masked[id] = logits[id]
    return masked


def _choice_cases() -> list[Case]:
    logits = random(10, seed=1)
    colours = [[4, 7], [4, 8], [5]]
    prefix = [[3], [3, 6], [2, 6]]  # the first is the beginning of the second
    return [
        Case((logits, colours, [], 9), "nothing generated yet"),
        Case((logits, colours, [4], 9), "two options begin like this"),
        Case((logits, colours, [5], 9), "an option is complete"),
        Case((logits, prefix, [3], 9), "one option is complete and another goes on"),
        Case((logits, prefix, [2], 9), "one option left"),
        Case((logits, [[1, 2, 1, 3], [1, 2, 4]], [1, 2, 1], 0), "a token comes twice in an option"),
    ]


def _choice_of_the_first(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    return masked_choice(logits, options, [], end)


def _choice_of_any(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    return masked_choice(logits, [[id] for option in options for id in option], [], end)


def _choice_without_end(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    longer = [option for option in options if len(option) > len(so_far)]
    return masked_choice(logits, longer, so_far, end)


def _choice_of_any_place(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    rests = [option[len(so_far) :] for option in options if len(option) >= len(so_far)]
    return masked_choice(logits, rests, [], end)


def _choice_may_end(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    return masked_choice(logits, [*options, so_far], so_far, end)


def _choice_with_zeros(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    return masked_choice(logits, options, so_far, end).nan_to_num(neginf=0.0)


def _choice_of_the_last(logits: torch.Tensor, options: list[list[int]], so_far: list[int], end: int) -> torch.Tensor:
    """What may follow the last token, wherever it stands in an option."""
    if not so_far:
        return masked_choice(logits, options, [], end)
    after = [[*o, end][i + 1] for o in options for i, id in enumerate(o) if id == so_far[-1]]
    return masked_choice(logits, [[id] for id in after], [], end)


# -------------------------------------------------------------------------------------------------------- speculation


def accept(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    """p, q: (vocabulary,), probabilities of the large model and of the small one; drafted: the
    token that the small one drew; u: a random number from 0 to 1.

    Returns whether the token is accepted, and the probabilities, (vocabulary,), that another
    is drawn from if it is not.
    """
    accepted = bool(u < p[drafted] / q[drafted])
    missing = (p - q).clamp(min=0)  # what the small model gives too little
    if missing.sum() == 0:  # p and q are the same: nothing is ever rejected
        return accepted, p
    return accepted, missing / missing.sum()


def _accept_cases() -> list[Case]:
    p, q = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.tensor([0.125, 0.5, 0.25, 0.125])
    wide = torch.softmax(2 * random(8, seed=1), 0), torch.softmax(2 * random(8, seed=2), 0)
    close = torch.tensor([0.6, 0.4]), torch.tensor([0.8, 0.2])
    return [
        Case((p, q, 1, 0.4), "the small model gives the token twice as much, u below one half"),
        Case((p, q, 1, 0.6), "the same, u above one half"),
        Case((p, q, 0, 0.95), "the large model gives the token more"),
        Case((close[0], close[1], 0, 0.7), "two tokens; the most probable one is drafted"),
        Case((wide[0], wide[1], int((wide[1] - wide[0]).argmax()), 0.9), "eight tokens"),
        Case((p, p, 2, 0.99), "two models that agree"),
    ]


def _accept_turned(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return bool(u < q[drafted] / p[drafted]), accept(p, q, drafted, u)[1]


def _accept_by_p(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return bool(u < p[drafted]), accept(p, q, drafted, u)[1]


def _accept_only_the_best(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return bool(p.argmax() == drafted), accept(p, q, drafted, u)[1]


def _accept_where_more(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return bool(p[drafted] >= q[drafted]), accept(p, q, drafted, u)[1]


def _accept_then_p(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return accept(p, q, drafted, u)[0], p


def _accept_unnormalized(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    accepted, residual = accept(p, q, drafted, u)
    return accepted, residual if torch.equal(p, q) else (p - q).clamp(min=0)


def _accept_absolute(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    accepted, residual = accept(p, q, drafted, u)
    gap = (p - q).abs()
    return accepted, residual if torch.equal(p, q) else gap / gap.sum()


def _accept_too_much(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    return accept(p, q, drafted, u)[0], accept(q, p, drafted, u)[1]


def _accept_nan(p: torch.Tensor, q: torch.Tensor, drafted: int, u: float) -> tuple[bool, torch.Tensor]:
    missing = (p - q).clamp(min=0)
    return accept(p, q, drafted, u)[0], missing / missing.sum()


EXERCISES = (
    Exercise(
        id="generation.with_temperature",
        title="A temperature for each text",
        task="A model that writes several texts at once has a row of scores for each of them, and each may have a "
        "temperature of its own.\n\n"
        "`logits` has shape `(texts, vocabulary)`, `temperature` has shape `(texts,)`. Divide each row by its temperature "
        "and return the probabilities, `(texts, vocabulary)`. Temperature 0 means greedy: all the probability on the best "
        "token, the first of them where several are best. `torch.softmax` is allowed.",
        minutes=4,
        difficulty="easy",
        importance=5,
        cases=_temperature_cases,
        reference=with_temperature,
        hints=(
            "`temperature[:, None]` has shape `(texts, 1)`, so that it divides row by row. Divide by 1 where it is 0 "
            "(`torch.where`).",
            "`torch.nn.functional.one_hot(logits.argmax(-1), vocabulary)` is the greedy row. "
            "`torch.where(greedy[:, None], ..., ...)` puts both together.",
        ),
        right="Below 1 the best tokens gain, above 1 the others do; the order stays.",
        mistakes=mistakes(
            (_temperature_multiplied, "The scores are multiplied by the temperature. Divide by it."),
            (
                _temperature_after,
                "The temperature comes after the softmax here. Divide the scores, not the probabilities.",
            ),
            (
                _temperature_nan,
                "All but temperature 0 is right. Dividing by 0 ends in NaN: greedy needs a branch of its own.",
            ),
            (
                _temperature_nearly_greedy,
                "A tiny temperature is nearly greedy, but where two tokens are best it draws between them. Take the first.",
            ),
            (
                _temperature_over_tokens,
                "The temperatures are laid along the vocabulary. One belongs to each row: `temperature[:, None]`.",
            ),
            (_temperature_over_texts, "The softmax runs over the texts. It belongs over the vocabulary: `dim=-1`."),
        ),
    ),
    Exercise(
        id="generation.top_p",
        title="Cut off the tail: top-p",
        task="Top-p sampling keeps, of each text, the fewest most probable tokens that add up to at least `p`, and draws "
        "from those.\n\n"
        "`logits` has shape `(texts, vocabulary)`, `p` is above 0 and at most 1. Return the logits with `-inf` for every "
        "token that is cut, in the vocabulary's order. The token that brings the sum to `p` stays.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_top_p_cases,
        reference=top_p,
        hints=(
            "Softmax, then `sort(dim=-1, descending=True)`, which gives values and their order. A token is cut when those "
            "before it add up to p already: the running sum (`cumsum`) minus its own probability.",
            "`cut.scatter_(-1, order, ...)` writes a row of answers in sorted order back to where the tokens stand; "
            "`logits.masked_fill(cut, float('-inf'))` does the rest.",
        ),
        right="transformers' TopPLogitsWarper does the same. After a softmax, -inf is a probability of 0.",
        mistakes=mistakes(
            (
                _top_p_drops_the_last,
                "The token that takes the sum past p is cut. It stays, or nothing would be left where the best token "
                "alone is above p.",
            ),
            (
                _top_p_as_a_threshold,
                "This compares each probability with p. Top-p looks at the running sum of the most probable ones.",
            ),
            (
                _top_p_in_sorted_order,
                "As many tokens as should be, but in sorted order. Bring the answer back with `scatter_` and the order.",
            ),
            (
                _top_p_unsorted,
                "The running sum goes through the vocabulary as it stands. Sort first, most probable first.",
            ),
            (_top_p_with_zeros, "What is cut has the logit 0 here, which is no small one. It takes `-inf`."),
            (_top_p_of_probabilities, "These are probabilities, and right ones. The logits are wanted."),
            (_top_p_mask, "That says rightly which tokens stay. The logits are wanted, `-inf` for the others."),
        ),
    ),
    Exercise(
        id="generation.with_cache",
        title="Some tokens after a cache",
        task="A model remembers keys and values of the text so far, and computes only what is new: one token when it "
        "writes, a few when it checks a draft, a whole prompt at first.\n\n"
        "`query`, `key` and `value` of n new tokens have shape `(n, d)`; `keys` and `values`, the cache, have `(T, d)`, "
        "and T may be 0. A new token sees all that is cached, the new ones before it, and itself. Return three things: "
        "the new tokens' output `(n, d)`, and keys and values with the new ones appended. Scores are divided by `sqrt(d)`.",
        minutes=6,
        difficulty="medium",
        importance=5,
        cases=_cache_cases,
        reference=with_cache,
        hints=(
            "Append first. The scores then have shape `(n, T + n)`, and only the last n columns need a mask.",
            "`torch.ones(n, T + n, dtype=torch.bool).tril(T)` is that mask: the diagonal begins after the T cached ones.",
        ),
        right="These are the last n rows of the full causal attention, and the T rows before them were not computed.",
        mistakes=mistakes(
            (_cache_unmasked, "The new tokens see those that come after them. Mask the scores among the new ones."),
            (
                _cache_mask_from_the_front,
                "The mask begins at the first column. New token i stands at place T + i: shift the diagonal by T.",
            ),
            (_cache_forgets_the_new, "The new tokens see the cache alone. Each sees itself too: append first."),
            (_cache_not_handed_back, "The output is right. Hand back the longer keys and values."),
            (_cache_at_the_front, "The output is right, but the new tokens stand at the front of the cache."),
            (_cache_unscaled, "The scores are not divided by the square root of d."),
        ),
        outputs=("output", "keys", "values"),
    ),
    Exercise(
        id="generation.branch",
        title="Another token, the same cache",
        task="You have a text and its cache, and want to know how it goes on with another token in one place. What "
        "comes before that place stays as it is, and need not be computed again.\n\n"
        "`keys` and `values` of the text have shape `(kv_heads, T, d)`; `at` is the place of the other token, from 0 to "
        "T - 1; its own `key` and `value` have `(kv_heads, d)`. Return keys and values of the branch, "
        "`(kv_heads, at + 1, d)`. Don't write into the text's own.",
        minutes=4,
        difficulty="easy",
        importance=3,
        cases=_branch_cases,
        reference=branch,
        hints=(
            "Tokens stand along the second axis: `keys[:, :at]` has the first `at` of them, of every head.",
            "`torch.cat([keys[:, :at], key[:, None]], dim=1)`, and the same for the values.",
        ),
        right="A branch costs one token, wherever it leaves the text. A tree of branches shares its trunk.",
        mistakes=mistakes(
            (_branch_keeps_one_more, "The token that was replaced is still there: keep what comes before it."),
            (_branch_keeps_all, "The new token stands after the whole text. Cut the cache at its place first."),
            (
                _branch_keeps_the_rest,
                "What came after the place is still there. It was computed with the old token before it, and no longer holds.",
            ),
            (_branch_only_crops, "The cache is cut in the right place. Append the new token's key and value."),
            (_branch_over_heads, "You cut along the heads. The tokens are the second axis."),
            (_branch_at_the_front, "The new token stands at the front. It comes after those that were kept."),
        ),
        outputs=("keys", "values"),
        objection=_spoils_the_trunk,
    ),
    Exercise(
        id="generation.masked_choice",
        title="One of these words",
        task="The answer has to be one of a few words, whatever the model would rather say. Each word is one token or "
        "several.\n\n"
        "`logits` has shape `(vocabulary,)`; `options` is a list of answers, each a list of token ids; `so_far` are the "
        "ids generated until now, the beginning of at least one option; after a complete answer comes the token `end`. "
        "Return the logits, `-inf` for every token that leads to none of the options.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_choice_cases,
        reference=masked_choice,
        hints=(
            "An option is still possible where `option[:len(so_far)] == so_far`. Its next token is `option[len(so_far)]`.",
            "Where an option is complete, `end` is allowed. Others may go on all the same: collect what is allowed in a "
            "set, then copy those logits into a tensor of `-inf`.",
        ),
        right="JSON schemas and grammars are enforced in the same way; what is allowed is found by a parser.",
        mistakes=mistakes(
            (_choice_of_the_first, "That is what may come first. Look at what has been generated since."),
            (_choice_of_any, "Any token of any option is allowed here. Only the next one of those still possible is."),
            (_choice_without_end, "A complete answer has to end: allow `end` there."),
            (
                _choice_of_any_place,
                "Options are allowed that the beginning has ruled out: compare their first tokens with what there is.",
            ),
            (_choice_may_end, "The answer may end in the middle of a word here. Allow `end` for complete ones alone."),
            (_choice_with_zeros, "What is forbidden has the logit 0 here, which is no small one. It takes `-inf`."),
            (_choice_of_the_last, "The whole beginning counts, not its last token alone."),
        ),
    ),
    Exercise(
        id="generation.accept",
        title="Accept or reject",
        task="A small model drafts a token, the large one says what it would have given it. When can it stay, so that in "
        "the end all tokens come as if the large model had drawn them?\n\n"
        "`p` and `q`, `(vocabulary,)`, are the probabilities of the large and of the small model, `drafted` is the token "
        "drawn from q, `u` a random number between 0 and 1. The token is accepted where u is below p/q of that token. "
        "Otherwise another one is drawn from what q gives too little: p - q where that is positive, 0 elsewhere, made to "
        "add up to 1. Return whether it is accepted, and these probabilities (p itself, where p and q are the same).",
        minutes=6,
        difficulty="hard",
        importance=4,
        cases=_accept_cases,
        reference=accept,
        hints=(
            "`u < p[drafted] / q[drafted]` is a tensor of one bool; `bool(...)` makes a plain one. Where p is larger than "
            "q, it is always true.",
            "`(p - q).clamp(min=0)` is what is missing; divide it by its sum, unless that is 0.",
        ),
        right="Add up both ways to a token, accepted or drawn afterwards, and q drops out: what remains is p "
        "(Leviathan et al. 2022, Chen et al. 2023).",
        mistakes=mistakes(
            (_accept_turned, "The ratio is turned: p of the drafted token over q."),
            (_accept_by_p, "u is compared with p alone. Divide by q: how often the token is drafted counts."),
            (
                _accept_only_the_best,
                "Only the large model's best token is accepted. That is greedy decoding; a sample may be another.",
            ),
            (
                _accept_where_more,
                "Without u, a token that q gives too much would never come. It is to come less often: where u is below p/q.",
            ),
            (_accept_then_p, "After a rejection you draw from p: then tokens that q gives too much come too often."),
            (_accept_unnormalized, "What is missing has to add up to 1: divide it by its sum."),
            (_accept_absolute, "Only where p is larger than q is something missing. Cut off at 0 instead of `abs`."),
            (_accept_too_much, "That is what q gives too much. Drawn is what it gives too little: p - q."),
            (_accept_nan, "All is right but where p and q are the same: there the sum is 0."),
        ),
        outputs=("accepted", "residual"),
    ),
)
