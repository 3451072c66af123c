"""Exercises of notebook 01, first look: probabilities and sizes."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes

# ------------------------------------------------------------------------------------------------------ temperature


def temperature_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Scores to probabilities, at a temperature.

    logits: (vocabulary,) scores.  temperature: a number, 0 or more; 0 means greedy.
    Returns (vocabulary,) probabilities that add up to 1.
    """
    if temperature == 0:  # greedy: everything on the best token
        probabilities = torch.zeros_like(logits)
        probabilities[logits.argmax()] = 1.0
        return probabilities
    scaled = logits / temperature
    weights = torch.exp(scaled - scaled.max())  # the largest is exp(0), so nothing overflows
    return weights / weights.sum()


def _temperature_cases() -> list[Case]:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    return [
        Case((logits, 1.0), "temperature 1, the plain softmax"),
        Case((logits, 0.5), "a low temperature"),
        Case((logits, 2.0), "a high temperature"),
        Case((torch.tensor([0.0, 0.0, 0.0]), 0.7), "three equal scores"),
        Case((torch.tensor([1.0, 5.0, 3.0]), 0.0), "temperature 0, which means greedy"),
        Case((torch.tensor([1000.0, 999.0, 0.0]), 1.0), "very large scores"),
    ]


def _multiplied(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return temperature_softmax(logits, 1 / temperature if temperature else 0.0)


def _temperature_after(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if temperature == 0:
        return temperature_softmax(logits, 0.0)
    return torch.softmax(logits, -1) / temperature


def _no_greedy(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.softmax(logits / temperature, -1)


def _overflows(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if temperature == 0:
        return temperature_softmax(logits, 0.0)
    weights = torch.exp(logits / temperature)
    return weights / weights.sum()


def _not_normalized(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if temperature == 0:
        return temperature_softmax(logits, 0.0)
    return torch.exp(logits / temperature)


def _log_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return temperature_softmax(logits, temperature).log()


# ---------------------------------------------------------------------------------------------------------- surprise


def surprise(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How surprised was the model by a text?

    probabilities: (tokens,) what the model gave each token of the text.
    Returns two numbers: the sum of -log(p) over all tokens, in nats;
    and the perplexity, exp of the mean of -log(p).
    """
    nats = -torch.log(probabilities)  # of each token: 0 where the model was certain
    return nats.sum(), torch.exp(nats.mean())


def _surprise_cases() -> list[Case]:
    return [
        Case((torch.tensor([0.5, 0.25, 0.125]),), "three tokens, less and less expected"),
        Case((torch.tensor([1.0, 1.0]),), "a text the model was certain of"),
        Case((torch.full((4,), 0.1),), "four tokens, each one of ten equal choices"),
        Case((torch.tensor([0.03]),), "a single token"),
        Case((torch.full((200,), 0.01),), "a text so long that the product of its probabilities is 0 in float32"),
    ]


def _in_bits(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    bits = -torch.log2(probabilities)
    return bits.sum(), 2 ** bits.mean()


def _perplexity_of_the_sum(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    nats = -torch.log(probabilities)
    return nats.sum(), torch.exp(nats.sum())


def _sign_lost(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logs = torch.log(probabilities)
    return logs.sum(), torch.exp(logs.mean())


def _through_the_product(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    product = probabilities.prod()
    return -product.log(), product ** (-1 / len(probabilities))


def _mean_of_inverses(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return -torch.log(probabilities).sum(), (1 / probabilities).mean()


# ------------------------------------------------------------------------------------------------------------- top-p


def top_p(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    """Which tokens stay: the fewest most probable ones that add up to at least p.

    probabilities: (vocabulary,), in the vocabulary's order.  p: above 0, at most 1.
    Returns (vocabulary,) bool, in the same order: True for the tokens that stay.
    """
    order = probabilities.argsort(descending=True)
    # what all more probable tokens add up to
    before = probabilities[order].cumsum(0) - probabilities[order]
    stays = torch.zeros_like(probabilities, dtype=torch.bool)
    stays[order[before < p]] = True  # as long as that is short of p, one more is needed
    return stays


def _top_p_cases() -> list[Case]:
    mixed = torch.tensor([0.125, 0.5, 0.046875, 0.25, 0.078125])
    return [
        Case((mixed, 0.9), "five tokens, not in order"),
        Case((mixed, 0.6), "the token that passes p stays"),
        Case((mixed, 0.75), "two tokens that add up to p exactly"),
        Case((mixed, 0.25), "the best token alone is more than p"),
        Case((mixed, 1.0), "p = 1 keeps all"),
        Case((torch.tensor([0.015625, 0.984375]), 0.5), "a token the model is nearly sure of"),
    ]


def _drops_the_last(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    order = probabilities.argsort(descending=True)
    stays = torch.zeros_like(probabilities, dtype=torch.bool)
    stays[order[probabilities[order].cumsum(0) <= p]] = True
    return stays


def _as_a_threshold(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    return probabilities >= p


def _in_sorted_order(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    ordered = probabilities.sort(descending=True).values
    return ordered.cumsum(0) - ordered < p


def _unsorted(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    return probabilities.cumsum(0) - probabilities < p


def _one_too_many(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    order = probabilities.argsort(descending=True)
    stays = torch.zeros_like(probabilities, dtype=torch.bool)
    stays[order[probabilities[order].cumsum(0) - probabilities[order] <= p]] = True
    return stays


# ------------------------------------------------------------------------------------------------------------- bytes


def weights_bytes(parameters: int, bits: int) -> int:
    """Bytes of so many weights at so many bits each, packed without gaps: whole, rounded up."""
    return (parameters * bits + 7) // 8  # whole-number division is exact; 7 more bits round up


def _bytes_cases() -> list[Case]:
    return [
        Case((1000, 32), "a thousand parameters in float32"),
        Case((134_515_008, 16), "the default model at 16 bits"),
        Case((6_738_415_616, 4), "LLaMA 2 7B at 4 bits"),
        Case((3, 4), "12 bits, which don't fill whole bytes"),
        Case((70_000_000_000_000_001, 8), "a number too large to be exact as a float"),
    ]


def _bits_as_bytes(parameters: int, bits: int) -> int:
    return parameters * bits


def _whole_bytes_only(parameters: int, bits: int) -> int:
    return parameters * (bits // 8)


def _rounded_down(parameters: int, bits: int) -> int:
    return parameters * bits // 8


def _with_fractions(parameters: int, bits: int) -> float:
    return parameters * bits / 8


EXERCISES = (
    Exercise(
        id="first_look.temperature_softmax",
        title="Softmax with a temperature",
        task="Turn scores into probabilities at a temperature.\n\n"
        "`logits` is a float tensor of shape `(vocabulary,)`, `temperature` a number, 0 or more. Return the probabilities, "
        "of the same shape, adding up to 1. Temperature 0 means greedy: all the probability on the best token. "
        "You may use `torch.softmax`; writing it with `torch.exp` is worth the extra minute.",
        minutes=5,
        difficulty="easy",
        importance=5,
        cases=_temperature_cases,
        reference=temperature_softmax,
        hints=(
            "Divide the scores by the temperature first, then take the softmax. Dividing by 0 is of no use to anybody, so "
            "temperature 0 needs a branch of its own.",
            "`exp(1000)` is infinite in float32. The softmax doesn't change when the same number is taken from all scores: "
            "take away the largest first.",
        ),
        right="A temperature changes the choice, never the order: the best token stays the best.",
        mistakes=mistakes(
            (
                _multiplied,
                "The scores are multiplied by the temperature. Divide: a small temperature must make the "
                "differences between scores larger.",
            ),
            (
                _temperature_after,
                "The temperature comes after the softmax here. It belongs before: divide the scores, not the "
                "probabilities.",
            ),
            (
                _no_greedy,
                "All but temperature 0 is right. Dividing by 0 gives infinities, and those give NaN: give greedy a "
                "branch of its own.",
            ),
            (
                _overflows,
                "All but very large scores is right. `exp` overflows to infinity there: take the largest score away "
                "from all of them first.",
            ),
            (_not_normalized, "These are the exponentials alone. Divide by their sum, so that they add up to 1."),
            (_log_probabilities, "These are the logarithms of the right probabilities: leave the logarithm out."),
        ),
    ),
    Exercise(
        id="first_look.surprise",
        title="Surprise and perplexity",
        task="How surprised was the model by a text?\n\n"
        "`probabilities` is a float tensor of shape `(tokens,)`: what the model gave each token that came. Return two numbers "
        "(0-dimensional tensors or floats): the total surprise in nats, that is the sum of `-log(p)`; and the perplexity, "
        "which is `exp` of the mean surprise of a token.",
        minutes=5,
        difficulty="easy",
        importance=4,
        cases=_surprise_cases,
        reference=surprise,
        hints=(
            "The surprise of one token is minus the logarithm of its probability: 0 where the model was certain, more the less "
            "it expected the token. Add them up.",
            "For the perplexity take the mean instead of the sum, then `torch.exp`. Don't multiply the probabilities: the "
            "product of many small numbers is 0 in a computer.",
        ),
        right="A perplexity of 10 says: as surprised as if each token had been one of ten equal choices.",
        mistakes=mistakes(
            (
                _in_bits,
                "That is the surprise in bits (`log2`). Use the natural logarithm, `torch.log`, for nats; the perplexity "
                "is the same in both.",
            ),
            (
                _perplexity_of_the_sum,
                "The perplexity is taken from the sum. Take it from the mean, or every long text looks impossible.",
            ),
            (_sign_lost, "The minus sign is missing: logarithms of probabilities are negative, surprise is not."),
            (
                _through_the_product,
                "This multiplies the probabilities first, and for a long text their product is 0 in float32. "
                "Take the logarithm of each, then add.",
            ),
            (_mean_of_inverses, "The perplexity is no mean of 1/p: average the logarithms first, then `exp`."),
        ),
        outputs=("surprise", "perplexity"),
    ),
    Exercise(
        id="first_look.top_p",
        title="Which tokens stay: top-p",
        task="Top-p (nucleus) sampling draws only from the smallest set of most probable tokens whose probabilities add up to "
        "at least `p`.\n\n"
        "`probabilities` is a float tensor of shape `(vocabulary,)`, `p` a number above 0 and at most 1. Return a bool tensor "
        "of the same shape: `True` for the tokens that stay. The token that brings the sum to `p` stays.",
        minutes=8,
        difficulty="medium",
        importance=3,
        cases=_top_p_cases,
        reference=top_p,
        hints=(
            "Sort from the most probable down and add up as you go (`argsort(descending=True)`, `cumsum`). A token stays when "
            "what comes before it does not yet reach `p`.",
            "What comes before a token is the running sum minus its own probability. The answer is wanted in the tokens' own "
            "order: `stays[order[...]] = True` puts it back.",
        ),
        right="The set is small where the model is sure and large where it is not, which a fixed top-k can't do.",
        mistakes=mistakes(
            (
                _drops_the_last,
                "The token that takes the sum past p is missing. It stays, or the set might be empty where the "
                "best token alone is above p.",
            ),
            (
                _as_a_threshold,
                "This compares each probability with p. Top-p looks at the running sum of the most probable ones.",
            ),
            (
                _in_sorted_order,
                "The right number of tokens, but in sorted order. Put the answer back into the order of the "
                "vocabulary: `stays[order[...]] = True`.",
            ),
            (
                _unsorted,
                "The running sum goes through the vocabulary as it stands. Sort from the most probable down first.",
            ),
            (_one_too_many, "Where the sum is p exactly, one token too many stays: compare with < rather than <=."),
        ),
    ),
    Exercise(
        id="first_look.weights_bytes",
        title="How many bytes do the weights take?",
        task="`parameters` weights of `bits` bits each, packed without gaps: how many bytes is that? Both are whole numbers. "
        "Return a whole number; bits that don't fill a byte take one all the same.",
        minutes=2,
        difficulty="easy",
        importance=4,
        cases=_bytes_cases,
        reference=weights_bytes,
        hints=("A byte has 8 bits.", "Whole numbers stay exact with `//`. To round up, add 7 before you divide by 8."),
        right="So 4 bits instead of 16 make a quarter of the bytes (real formats need a little more, for their scales).",
        mistakes=mistakes(
            (_bits_as_bytes, "These are bits. A byte has 8 of them."),
            (_whole_bytes_only, "`bits // 8` is 0 for 4 bits. Multiply first, divide afterwards."),
            (_rounded_down, "All but the last byte: where the bits don't fill it, round up."),
            (
                _with_fractions,
                "Half a byte can't be stored, and floats are not exact for large numbers: use whole-number "
                "division, `//`, and round up.",
            ),
        ),
    ),
)
