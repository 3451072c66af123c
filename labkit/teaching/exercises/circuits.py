"""Exercises of notebook 08, circuits: from a logit lens by hand to a direction taken out of the residual stream."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# ---------------------------------------------------------------------------------------------------------------- lens


def lens(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    """x: (T, d), a layer's residual stream; weight: (d,); unembedding: (vocabulary, d).

    Returns the logits (T, vocabulary) that the model's ending makes of x.
    """
    size = (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()  # of each token's numbers
    return (x / size * weight) @ unembedding.T


def _lens_cases() -> list[Case]:
    def case(T: int, d: int, vocabulary: int, shows: str, *, scale: float = 1.0, shift: float = 0.0) -> Case:
        seed = 100 * T + d
        x = scale * random(T, d, seed=seed) + shift
        return Case((x, 1 + 0.3 * random(d, seed=seed + 1), random(vocabulary, d, seed=seed + 2)), shows)

    return [
        Case((torch.tensor([[3.0, 4.0]]), torch.ones(2), torch.eye(2)), "one token, two numbers, nothing to unembed"),
        case(1, 4, 3, "one token"),
        case(3, 6, 10, "three tokens"),
        case(4, 8, 5, "long vectors, as later layers have them", scale=50.0),
        case(5, 6, 7, "numbers that are not centred", shift=2.0),
        case(12, 16, 30, "twelve tokens, 30 in the vocabulary"),
    ]


def _lens_without_norm(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return (x * weight) @ unembedding.T


def _lens_without_weight(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return lens(x, torch.ones_like(weight), unembedding)


def _lens_centred(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return lens(x - x.mean(dim=-1, keepdim=True), weight, unembedding)


def _lens_over_all(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return (x / (x.square().mean() + 1e-5).sqrt() * weight) @ unembedding.T


def _lens_length(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return (x / x.norm(dim=-1, keepdim=True) * weight) @ unembedding.T


def _lens_probabilities(x: torch.Tensor, weight: torch.Tensor, unembedding: torch.Tensor) -> torch.Tensor:
    return lens(x, weight, unembedding).softmax(dim=-1)


# -------------------------------------------------------------------------------------------------------------- effect


def effect(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    """value, clean, corrupted: one number each, a metric of three runs.

    Returns how far the patched run's value is on the way: 0 is corrupted, 1 is clean.
    """
    return (value - corrupted) / (clean - corrupted)


def _effect_cases() -> list[Case]:
    def case(value: float, clean: float, corrupted: float, shows: str) -> Case:
        return Case((torch.tensor(value), torch.tensor(clean), torch.tensor(corrupted)), shows)

    return [
        case(1.0, 4.0, -2.0, "half of the way"),
        case(-2.0, 4.0, -2.0, "nothing brought back: 0"),
        case(4.0, 4.0, -2.0, "all brought back: 1"),
        case(-5.0, 4.0, -2.0, "a patch that makes it worse: below 0"),
        case(6.0, 4.0, -2.0, "a patch that goes beyond the clean text: above 1"),
        case(-1.5, -3.0, 1.0, "a metric that is lower for the clean text"),
    ]


def _effect_difference(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    return value - corrupted


def _effect_other_way(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    return (clean - value) / (clean - corrupted)


def _effect_ratio(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    return value / clean


def _effect_unsigned(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    return (value - corrupted).abs() / (clean - corrupted).abs()


def _effect_clipped(value: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    return effect(value, clean, corrupted).clamp(0, 1)


# --------------------------------------------------------------------------------------------------------- attribution


def attribution(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """clean, corrupted: (heads, T, d), what heads put out for two texts.

    gradient: the same shape, the metric's derivative at the corrupted text.
    Returns (heads,): by how much the metric would rise if a head's output became the clean one.
    """
    return ((clean - corrupted) * gradient).sum(dim=(1, 2))


def _attribution_cases() -> list[Case]:
    def case(heads: int, T: int, d: int, shows: str) -> Case:
        seed = 100 * heads + 10 * T + d
        return Case(tuple(random(heads, T, d, seed=seed + i) for i in range(3)), shows)

    return [
        Case(
            (torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.5, 2.0]]])),
            "one head, one token, two numbers",
        ),
        case(2, 1, 3, "two heads, one token"),
        case(3, 4, 2, "three heads, four tokens"),
        Case((torch.ones(2, 3, 4), torch.ones(2, 3, 4), random(2, 3, 4, seed=8)), "texts that agree: 0 for each head"),
        case(9, 6, 8, "nine heads, six tokens"),
    ]


def _attribution_reversed(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return attribution(corrupted, clean, gradient)


def _attribution_absolute(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return ((clean - corrupted) * gradient).abs().sum(dim=(1, 2))


def _attribution_mean(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return ((clean - corrupted) * gradient).mean(dim=(1, 2))


def _attribution_activation(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return (clean * gradient).sum(dim=(1, 2))


def _attribution_all(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return ((clean - corrupted) * gradient).sum()


def _attribution_last(clean: torch.Tensor, corrupted: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return ((clean - corrupted) * gradient)[:, -1].sum(dim=-1)


# ----------------------------------------------------------------------------------------------------------- strongest


def strongest(effects: torch.Tensor, k: int) -> torch.Tensor:
    """effects: (layers, heads), with a sign.

    Returns (k, 2): layer and head of the k largest effects, whatever their sign; largest first.
    """
    order = effects.abs().flatten().topk(k).indices
    heads = effects.shape[1]
    return torch.stack([order // heads, order % heads], dim=1)


def _strongest_cases() -> list[Case]:
    return [
        Case((torch.tensor([[0.1, 0.7], [0.3, 0.2]]), 1), "four heads, one wanted"),
        Case((torch.tensor([[0.1, -0.7], [0.3, 0.2]]), 2), "one that works against the metric"),
        Case((random(3, 5, seed=1), 4), "three layers of five heads, four wanted"),
        Case((torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]]), 3), "all in one layer"),
        Case((random(6, 9, seed=2), 12), "six layers of nine heads, twelve wanted"),
    ]


def _strongest_signed(effects: torch.Tensor, k: int) -> torch.Tensor:
    order = effects.flatten().topk(k).indices
    return torch.stack([order // effects.shape[1], order % effects.shape[1]], dim=1)


def _strongest_turned(effects: torch.Tensor, k: int) -> torch.Tensor:
    return strongest(effects, k).flip(1)


def _strongest_by_layers(effects: torch.Tensor, k: int) -> torch.Tensor:
    order = effects.abs().flatten().topk(k).indices
    return torch.stack([order // effects.shape[0], order % effects.shape[0]], dim=1)


def _strongest_last_first(effects: torch.Tensor, k: int) -> torch.Tensor:
    return strongest(effects, k).flip(0)


def _strongest_flat(effects: torch.Tensor, k: int) -> torch.Tensor:
    return effects.abs().flatten().topk(k).indices


# ---------------------------------------------------------------------------------------------------------- probe step


def probe_step(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x: (n, d); labels: (n,), 0 or 1; weight: (d,); bias: one number.

    Returns weight and bias after one step down the mean logistic loss.
    """
    error = torch.sigmoid(x @ weight + bias) - labels  # (n,): what is said, less what is true
    return weight - rate * x.T @ error / len(x), bias - rate * error.mean()


def _probe_cases() -> list[Case]:
    def case(n: int, d: int, rate: float, shows: str) -> Case:
        seed = 100 * n + d
        labels = (random(n, seed=seed + 1) > 0).float()
        return Case(
            (random(n, d, seed=seed), labels, random(d, seed=seed + 2), random(1, seed=seed + 3)[0], rate), shows
        )

    return [
        Case(
            (torch.tensor([[1.0, 2.0]]), torch.tensor([1.0]), torch.zeros(2), torch.tensor(0.0), 1.0),
            "one text of label 1, a probe that knows nothing",
        ),
        case(2, 3, 0.5, "two texts"),
        case(6, 4, 0.1, "six texts"),
        case(30, 8, 1.0, "30 texts, a large step"),
    ]


def _probe_uphill(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return probe_step(x, labels, weight, bias, -rate)


def _probe_sum(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return probe_step(x, labels, weight, bias, rate * len(x))


def _probe_linear(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    error = x @ weight + bias - labels
    return weight - rate * x.T @ error / len(x), bias - rate * error.mean()


def _probe_no_bias(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return probe_step(x, labels, weight, bias, rate)[0], bias


def _probe_without_bias_in(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    error = torch.sigmoid(x @ weight) - labels
    return weight - rate * x.T @ error / len(x), bias - rate * error.mean()


# -------------------------------------------------------------------------------------------------------- take out


def take_out(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """x: (T, d); direction: (d,), of any length.

    Returns x without its part along the direction: nothing of it can be read there any more.
    """
    unit = direction / direction.norm()
    return x - (x @ unit)[:, None] * unit


def _take_out_cases() -> list[Case]:
    return [
        Case((torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0])), "a direction along the first number"),
        Case((torch.tensor([[3.0, 4.0], [1.0, -1.0]]), torch.tensor([0.0, 5.0])), "a direction five long"),
        Case((random(4, 6, seed=1), random(6, seed=2)), "four tokens, any direction"),
        Case((torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0.0, 0.0, 2.0])), "a token that has nothing of it"),
        Case((random(20, 16, seed=3) + 1, torch.ones(16)), "20 tokens that lean along it"),
    ]


def _take_out_long(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return x - (x @ direction)[:, None] * direction


def _take_out_half(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return x - (x @ direction)[:, None] * direction / direction.norm()


def _take_out_whole(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return x - direction


def _take_out_kept(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    unit = direction / direction.norm()
    return (x @ unit)[:, None] * unit


def _take_out_turned(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    unit = direction / direction.norm()
    return x - 2 * (x @ unit)[:, None] * unit


EXERCISES = (
    Exercise(
        id="circuits.lens",
        title="A logit lens",
        task="What would the model say if it stopped at this layer? Its ending does two things: a norm, and a product "
        "with the unembedding.\n\n"
        "`x` is a layer's residual stream, `(T, d)`. The norm (RMS norm) divides each token's numbers by the root of the mean of "
        "their squares (add `1e-5` to the mean before the root) and multiplies them by `weight`. The unembedding is "
        "`unembedding`, `(vocabulary, d)`. Return the logits `(T, vocabulary)`.",
        minutes=5,
        difficulty="easy",
        importance=5,
        cases=_lens_cases,
        reference=lens,
        hints=(
            "`x.square().mean(dim=-1, keepdim=True)` is the mean of the squares, one for each token.",
            "Divide `x` by its root, multiply by `weight`, then `@ unembedding.T`.",
        ),
        right="That is all of a logit lens: the model's own ending, applied too early.",
        mistakes=mistakes(
            (
                _lens_without_norm,
                "The norm is missing: later layers' vectors are longer, and so would their logits be.",
            ),
            (_lens_without_weight, "The norm's `weight` is missing: multiply each of the `d` numbers by its own."),
            (
                _lens_centred,
                "Nothing is subtracted here: this norm (RMS) does not take the mean away, as layer norm does.",
            ),
            (_lens_over_all, "Each token has a norm of its own: take the mean over the last axis alone."),
            (_lens_length, "Divide by the root of the *mean* square and not by the length, which is larger."),
            (_lens_probabilities, "These are probabilities. Return the logits, before the softmax."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        id="circuits.effect",
        title="What a patch brings back",
        task="A metric was taken of three runs: `clean` is that of the clean text, `corrupted` of the corrupted one, and `value` "
        "of the corrupted one with a piece of the clean run put in.\n\nReturn how far the third is on the way from the second "
        "to the first: 0 is the corrupted result and 1 the clean one.",
        minutes=3,
        difficulty="easy",
        importance=4,
        cases=_effect_cases,
        reference=effect,
        hints=(
            "How far is it from corrupted, and how long is the whole way?",
            "`value - corrupted`, divided by the same for the clean run.",
        ),
        right="It can lie below 0 or above 1: a patch may push away from the clean result, or beyond it.",
        mistakes=mistakes(
            (_effect_difference, "Divide by the whole way, `clean - corrupted`, so that 1 is the clean result."),
            (_effect_other_way, "This is what is missing, not what was brought back: start from `corrupted`."),
            (_effect_ratio, "Take both from `corrupted`, not from 0: a metric has no meaning at 0."),
            (_effect_unsigned, "Keep the sign: a patch that makes it worse has an effect below 0."),
            (_effect_clipped, "Don't cut it at 0 and 1: below 0 and above 1 mean something."),
        ),
    ),
    Exercise(
        id="circuits.attribution",
        title="Gradient times difference",
        task="Patching every head takes a run for each. A gradient tells it of all at once, to first order.\n\n"
        "`clean` and `corrupted` hold what the heads of one layer put out for the two texts, `(heads, T, d)`, and `gradient` how "
        "much the metric rises for each of these numbers. Return, for each head, by how much the metric would rise if all its "
        "numbers became the clean ones: `(heads,)`.",
        minutes=5,
        difficulty="medium",
        importance=5,
        cases=_attribution_cases,
        reference=attribution,
        hints=(
            "A slope times how far you go along it: how far does each number go?",
            "`(clean - corrupted) * gradient`, added up over tokens and numbers: `.sum(dim=(1, 2))`.",
        ),
        right="Two passes forward and one back, whatever the number of heads. It is exact where the metric is a straight line.",
        mistakes=mistakes(
            (_attribution_reversed, "The sign is turned round: go from the corrupted numbers to the clean ones."),
            (_attribution_absolute, "Keep the signs while adding: numbers of a head may cancel."),
            (_attribution_mean, "Add up and don't average: all the numbers change at once."),
            (_attribution_activation, "How far does each number go? Take `corrupted` away from `clean` first."),
            (_attribution_all, "One number for each head: keep the first axis."),
            (_attribution_last, "All of the tokens count, not the last one alone."),
        ),
    ),
    Exercise(
        id="circuits.strongest",
        title="Who belongs to the circuit",
        task="`effects` has an effect for each head, `(layers, heads)`. Return the `k` heads with the largest effect, whatever "
        "its sign, as rows `(layer, head)` of whole numbers, the largest first: `(k, 2)`.",
        minutes=4,
        difficulty="easy",
        importance=3,
        cases=_strongest_cases,
        reference=strongest,
        hints=(
            "`topk` of the flattened table gives places in one long row. Which layer is place 23, with nine heads a layer?",
            "`places // heads` is the layer and `places % heads` the head; take `abs()` before `topk`.",
        ),
        right="A head that works against the behaviour is a part of how it comes about, too.",
        mistakes=mistakes(
            (_strongest_signed, "A head with a large negative effect counts as well: rank by size, without the sign."),
            (_strongest_turned, "The layer comes first, then the head."),
            (_strongest_by_layers, "Divide by the number of heads in a layer, not by the number of layers."),
            (_strongest_last_first, "The largest comes first."),
            (_strongest_flat, "These are places in one long row: turn each into layer and head."),
        ),
    ),
    Exercise(
        id="circuits.probe_step",
        title="A probe learns",
        task="A linear probe says label 1 of a text with numbers `x` with the probability `sigmoid(x @ weight + bias)`; `labels` "
        "has what is true, 0 or 1. Its loss is the mean over the texts "
        "of minus the logarithm of the probability of the right label, and the loss's slope is simple: for each text what the "
        "probe says less what is true, times the text's numbers (for the bias: times 1), averaged.\n\n"
        "Return `weight` and `bias` after one step of size `rate` downhill.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_probe_cases,
        reference=probe_step,
        hints=(
            "`error = torch.sigmoid(x @ weight + bias) - labels` has one number for each text.",
            "The slope of the weight is `x.T @ error / len(x)`, that of the bias `error.mean()`; go the other way.",
        ),
        right="A hundred of these steps are a probe. What it finds is a direction, and a threshold along it.",
        mistakes=mistakes(
            (_probe_uphill, "This goes uphill: subtract the slope."),
            (_probe_sum, "The loss is a mean over the texts: divide the slope by how many there are."),
            (_probe_linear, "Put the sigmoid in: the probe says a probability, not any number."),
            (_probe_no_bias, "The bias learns, too."),
            (_probe_without_bias_in, "The bias is a part of what the probe says: add it before the sigmoid."),
        ),
        outputs=("weight", "bias"),
    ),
    Exercise(
        id="circuits.take_out",
        title="Take a direction out",
        task="Is a direction used, or can it only be read? Take it out and see. `x` is `(T, d)`, `direction` is `(d,)`, of "
        "any length.\n\nReturn `x` less its part along the direction, so that `result @ direction` is 0 for each token.",
        minutes=4,
        difficulty="medium",
        importance=4,
        cases=_take_out_cases,
        reference=take_out,
        hints=(
            "How far a token goes along a direction is its product with the direction of length 1.",
            "`unit = direction / direction.norm()`; then subtract `(x @ unit)[:, None] * unit`.",
        ),
        right="Every linear probe along this direction now says the same of each token. Others may still read it elsewhere.",
        mistakes=mistakes(
            (_take_out_long, "Make the direction of length 1 first, or its length counts twice."),
            (_take_out_half, "The length still counts: use the direction of length 1 in both places."),
            (_take_out_whole, "Each token has its own amount of it: subtract that much of it, not one of it."),
            (_take_out_kept, "This is the part along the direction: subtract it from `x`."),
            (_take_out_turned, "This mirrors: subtract the part once, not twice."),
        ),
    ),
)
