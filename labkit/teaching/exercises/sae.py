"""Exercises of notebook 07, sparse autoencoders: from crowded directions to a name put to the test."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# -------------------------------------------------------------------------------------------------------- interference


def interference(directions: torch.Tensor) -> torch.Tensor:
    """directions: (n, d). Returns (n,): the largest cosine, without sign, with another."""
    unit = directions / directions.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).abs()  # (n, n): each with each, whichever way it points
    cosines.fill_diagonal_(0)  # not with itself
    return cosines.max(dim=1).values


def _interference_cases() -> list[Case]:
    return [
        Case((torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),), "three directions in a plane"),
        Case((torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.5]]),), "three at right angles: 0 for each"),
        Case((torch.tensor([[1.0, 0.0], [-3.0, 0.3]]),), "two that point opposite ways"),
        Case((random(5, 3, seed=1) * torch.arange(1, 6)[:, None],), "five directions of different lengths"),
        Case((random(20, 12, seed=2),), "20 directions in 12 dimensions"),
        Case((random(9, 40, seed=3) + 0.5,), "nine directions that lean the same way"),
    ]


def _cosines(directions: torch.Tensor) -> torch.Tensor:
    unit = directions / directions.norm(dim=1, keepdim=True)
    return unit @ unit.T


def _interference_with_itself(directions: torch.Tensor) -> torch.Tensor:
    return _cosines(directions).abs().max(dim=1).values


def _interference_products(directions: torch.Tensor) -> torch.Tensor:
    products = (directions @ directions.T).abs()
    return products.fill_diagonal_(0).max(dim=1).values


def _interference_signed(directions: torch.Tensor) -> torch.Tensor:
    return _cosines(directions).fill_diagonal_(-2).max(dim=1).values


def _interference_signed_from_0(directions: torch.Tensor) -> torch.Tensor:
    return _cosines(directions).fill_diagonal_(0).max(dim=1).values


def _interference_mean(directions: torch.Tensor) -> torch.Tensor:
    cosines = _cosines(directions).abs().fill_diagonal_(0)
    return cosines.sum(dim=1) / (len(directions) - 1)


def _interference_largest(directions: torch.Tensor) -> torch.Tensor:
    return interference(directions).max()


def _interference_which(directions: torch.Tensor) -> torch.Tensor:
    return _cosines(directions).abs().fill_diagonal_(0).argmax(dim=1)


def _interference_one_length(directions: torch.Tensor) -> torch.Tensor:
    unit = directions / directions.norm()
    return (unit @ unit.T).abs().fill_diagonal_(0).max(dim=1).values


# ---------------------------------------------------------------------------------------------------- topk autoencoder


def topk_autoencoder(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x: (T, d); encoder: (d, F); decoder: (F, d).

    Returns activations (T, F) and the reconstruction (T, d).
    """
    before = (x - decoder_bias) @ encoder + encoder_bias  # (T, F)
    best = before.topk(k, dim=-1)
    activations = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
    return activations, activations @ decoder + decoder_bias


def _autoencoder_cases() -> list[Case]:
    def case(T: int, d: int, F: int, k: int, shows: str, *, lower: float = 0.0) -> Case:
        seed = 1000 * T + 10 * F
        decoder = random(F, d, seed=seed)
        decoder = decoder / decoder.norm(dim=1, keepdim=True)
        encoder = decoder.T.clone() + 0.1 * random(d, F, seed=seed + 1)
        biases = 0.3 * random(F, seed=seed + 2) - lower, 0.5 * random(d, seed=seed + 3)
        return Case((random(T, d, seed=seed + 4), encoder, biases[0], decoder, biases[1], k), shows)

    return [
        case(1, 2, 3, 1, "one token, one of three features"),
        case(2, 3, 6, 2, "two tokens, two of six features"),
        case(6, 8, 24, 4, "six tokens, four of 24 features"),
        case(5, 4, 10, 6, "some of the largest are below zero", lower=1.5),
        case(4, 6, 6, 6, "as many kept as there are"),
        case(30, 12, 40, 3, "30 tokens, three of 40 features"),
    ]


def _with_reconstruction(
    activations: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return activations, activations @ decoder + bias


def _autoencoder_keeps_negative(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    before = (x - decoder_bias) @ encoder + encoder_bias
    best = before.topk(k, dim=-1)
    return _with_reconstruction(torch.zeros_like(before).scatter(-1, best.indices, best.values), decoder, decoder_bias)


def _autoencoder_keeps_all(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_reconstruction(((x - decoder_bias) @ encoder + encoder_bias).relu(), decoder, decoder_bias)


def _autoencoder_without_centring(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    before = x @ encoder + encoder_bias
    best = before.topk(k, dim=-1)
    activations = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
    return _with_reconstruction(activations, decoder, decoder_bias)


def _autoencoder_without_encoder_bias(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return topk_autoencoder(x, encoder, 0 * encoder_bias, decoder, decoder_bias, k)


def _autoencoder_without_decoder_bias(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    activations, reconstruction = topk_autoencoder(x, encoder, encoder_bias, decoder, decoder_bias, k)
    return activations, reconstruction - decoder_bias


def _autoencoder_by_size(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    before = (x - decoder_bias) @ encoder + encoder_bias
    best = before.abs().topk(k, dim=-1).indices
    activations = torch.zeros_like(before).scatter(-1, best, before.gather(-1, best))
    return _with_reconstruction(activations, decoder, decoder_bias)


def _autoencoder_over_tokens(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    before = (x - decoder_bias) @ encoder + encoder_bias
    best = before.topk(min(k, len(before)), dim=0)
    activations = torch.zeros_like(before).scatter(0, best.indices, best.values.relu())
    return _with_reconstruction(activations, decoder, decoder_bias)


def _autoencoder_ones(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    activations, _ = topk_autoencoder(x, encoder, encoder_bias, decoder, decoder_bias, k)
    return _with_reconstruction((activations > 0).float(), decoder, decoder_bias)


def _autoencoder_exchanged(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    activations, reconstruction = topk_autoencoder(x, encoder, encoder_bias, decoder, decoder_bias, k)
    return reconstruction, activations


def _autoencoder_decoder_reads(
    x: torch.Tensor,
    encoder: torch.Tensor,
    encoder_bias: torch.Tensor,
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return topk_autoencoder(x, decoder.T, encoder_bias, decoder, decoder_bias, k)


# --------------------------------------------------------------------------------------------------- share unexplained


def fraction_unexplained(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """x, reconstruction: (T, d). Returns a number: 0 if equal, 1 for the mean token."""
    left = (x - reconstruction).square().sum()
    spread = (x - x.mean(dim=0)).square().sum()  # around the mean token
    return left / spread


def _unexplained_cases() -> list[Case]:
    x = random(30, 6, seed=5) + 3 * random(6, seed=6)
    return [
        Case(
            (torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [3.0, 0.0]])),
            "two tokens of two numbers",
        ),
        Case((x[:4], x[:4].clone()), "a perfect reconstruction: 0"),
        Case((x, x.mean(dim=0).expand(30, 6).clone()), "the mean token for every token: 1"),
        Case((x, x + 0.3 * random(30, 6, seed=7)), "30 tokens that lie far from zero"),
        Case((x, torch.zeros(30, 6)), "zero for every token: more than 1"),
        Case(
            (torch.cat([x[:9], 9 * x[9:12]]), torch.cat([x[:9], 8 * x[9:12]])),
            "a few tokens much longer than the others",
        ),
    ]


def _unexplained_from_zero(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return (x - reconstruction).square().sum() / x.square().sum()


def _unexplained_one_mean(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return (x - reconstruction).square().sum() / (x - x.mean()).square().sum()


def _explained(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return 1 - fraction_unexplained(x, reconstruction)


def _unexplained_of_tokens(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return ((x - reconstruction).square().sum(dim=1) / (x - x.mean(dim=0)).square().sum(dim=1)).mean()


def _unexplained_each_token(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return (x - reconstruction).square().sum(dim=1) / (x - x.mean(dim=0)).square().sum(dim=1)


def _unexplained_lengths(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return fraction_unexplained(x, reconstruction).sqrt()


def _unexplained_squared_error(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return (x - reconstruction).square().mean()


def _unexplained_spread_of_reconstruction(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return 1 - (reconstruction - reconstruction.mean(dim=0)).square().sum() / (x - x.mean(dim=0)).square().sum()


def _unexplained_mean_of_token(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return (x - reconstruction).square().sum() / (x - x.mean(dim=1, keepdim=True)).square().sum()


# ------------------------------------------------------------------------------------------------------------- density


def density(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    """indices: (T, n), -1 where there is none. Returns (n_features,): fractions of tokens."""
    there = indices[indices >= 0]  # -1 says that there is none
    return torch.bincount(there, minlength=n_features) / len(indices)


def _density_cases() -> list[Case]:
    def drawn(T: int, features: int, k: int, seed: int, empty: float) -> torch.Tensor:
        heights = random(T, features, seed=seed) - 0.3 * torch.arange(features)
        indices = heights.topk(k).indices
        return indices.masked_fill(random(T, k, seed=seed + 1) < empty, -1)

    return [
        Case((torch.tensor([[0], [2], [2], [1]]), 3), "four tokens, one feature each"),
        Case((torch.tensor([[0, 1], [1, 2], [3, 1]]), 4), "three tokens, two features each"),
        Case(
            (torch.tensor([[4, -1], [4, 0], [-1, -1], [0, -1]]), 5), "tokens with fewer features than there are columns"
        ),
        Case((torch.tensor([[1, 0], [0, 1]]), 6), "features that are never active"),
        Case((drawn(50, 12, 3, 1, -9.0), 12), "50 tokens, three of 12 features"),
        Case((drawn(80, 9, 4, 2, -0.5), 11), "80 tokens, up to four of eleven features"),
    ]


def _density_of_activations(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices[indices >= 0], minlength=n_features) / indices.numel()


def _density_of_found(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    there = indices[indices >= 0]
    return torch.bincount(there, minlength=n_features) / len(there)


def _density_counts(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices[indices >= 0], minlength=n_features)


def _density_minus_one_is_last(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices.flatten() % n_features, minlength=n_features) / len(indices)


def _density_minus_one_is_0(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices.clamp(min=0).flatten(), minlength=n_features) / len(indices)


def _density_strongest(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return density(indices[:, :1], n_features)


def _density_too_short(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices[indices >= 0]) / len(indices)


def _density_of_working_tokens(indices: torch.Tensor, n_features: int) -> torch.Tensor:
    return torch.bincount(indices[indices >= 0], minlength=n_features) / (indices >= 0).any(dim=1).sum()


# --------------------------------------------------------------------------------------------------- balanced accuracy


def balanced_accuracy(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    """says, fires: (T,) bool. Returns one number: 1 where all is right, one half by chance."""
    found = says[fires].float().mean()  # of the tokens it fires on, those predicted
    left_alone = (~says[~fires]).float().mean()  # of the others, those not claimed
    return (found + left_alone) / 2


def _accuracy_cases() -> list[Case]:
    def case(says: str, fires: str, shows: str) -> Case:
        return Case(tuple(torch.tensor([c == "1" for c in row]) for row in (says, fires)), shows)

    rare = random(200, seed=1) > 2.0
    return [
        case("1100", "1010", "four tokens, the rule right on two"),
        case("0011010", "0011010", "a rule that is always right: 1"),
        case("0000000", "0100010", "a rule that never says yes: one half"),
        case("1111111", "0100010", "a rule that always says yes: one half"),
        case("1100000000", "1110000001", "ten tokens, half of the firings predicted"),
        Case((rare | (random(200, seed=2) > 1.2), rare), "a rare feature, and a rule that says yes too often"),
        Case((rare & (random(200, seed=3) > -0.2), rare), "a rare feature, and a rule that misses some"),
    ]


def _accuracy_plain(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return (says == fires).float().mean()


def _accuracy_precision(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return fires[says].float().mean() if says.any() else torch.tensor(0.0)


def _accuracy_recall(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return says[fires].float().mean()


def _accuracy_silent_only(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return (~says[~fires]).float().mean()


def _accuracy_f1(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return 2 * (says & fires).sum() / (says.sum() + fires.sum())


def _accuracy_exchanged(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return balanced_accuracy(fires, says)


def _accuracy_precision_and_recall(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return (_accuracy_precision(says, fires) + _accuracy_recall(says, fires)) / 2


def _accuracy_false_alarms(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return (says[fires].float().mean() + says[~fires].float().mean()) / 2


def _accuracy_sum(says: torch.Tensor, fires: torch.Tensor) -> torch.Tensor:
    return 2 * balanced_accuracy(says, fires)


# ----------------------------------------------------------------------------------------------------- add along a line


def add_along(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    """x: (T, d); direction: (d,). Returns x, pushed along it at every token but the first."""
    steered = x.clone()
    steered[1:] += strength * direction / direction.norm()  # the first token stays as it is
    return steered


def _add_cases() -> list[Case]:
    return [
        Case(
            (torch.tensor([[9.0, 9.0], [0.0, 1.0], [2.0, 2.0]]), torch.tensor([3.0, 4.0]), 5.0),
            "three tokens in a plane",
        ),
        Case((random(2, 3, seed=1), torch.tensor([0.0, 1.0, 0.0]), 2.0), "a direction of length 1"),
        Case((random(1, 4, seed=2), random(4, seed=3), 3.0), "nothing but the first token"),
        Case((random(5, 6, seed=4), 7 * random(6, seed=5), -1.5), "a long direction, and away from it"),
        Case((random(4, 5, seed=6), 0.1 * random(5, seed=7), 0.0), "strength 0: nothing changes"),
        Case((20 * random(12, 8, seed=8), random(8, seed=9), 12.0), "twelve tokens, far along"),
    ]


def _unit(direction: torch.Tensor) -> torch.Tensor:
    return direction / direction.norm()


def _add_first_too(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return x + strength * _unit(direction)


def _add_whole_length(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.cat([x[:1], x[1:] + strength * direction])


def _add_to_all_whole_length(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return x + strength * direction


def _add_only_first(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.cat([x[:1] + strength * _unit(direction), x[1:]])


def _add_only_last(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.cat([x[:-1], x[-1:] + strength * _unit(direction)])


def _add_sets(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    unit = _unit(direction)
    along = x[1:] @ unit
    return torch.cat([x[:1], x[1:] + (strength - along)[:, None] * unit])


def _add_in_place_of(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.cat([x[:1], (strength * _unit(direction)).expand(len(x) - 1, -1)])


def _add_keeps_length(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    moved = add_along(x, direction, strength)
    return moved * (x.norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True))


def _add_what_was_added(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return add_along(x, direction, strength) - x


def _add_by_squared_length(x: torch.Tensor, direction: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.cat([x[:1], x[1:] + strength * direction / direction.square().sum()])


EXERCISES = (
    Exercise(
        id="sae.interference",
        title="How close is the nearest neighbour?",
        task="When more directions than dimensions share a space, they can't all be at right angles. Measure how far each is "
        "from that.\n\n"
        "`directions` has shape `(n, d)`, a direction in each row, of any length. Return `(n,)`: for each direction the "
        "largest cosine, without its sign, that it has with any other. A direction's cosine with itself does not count.",
        minutes=4,
        difficulty="easy",
        importance=4,
        cases=_interference_cases,
        reference=interference,
        hints=(
            "Bring every row to length 1; then one matrix product gives all cosines at once.",
            "`unit = directions / directions.norm(dim=1, keepdim=True)`, and `(unit @ unit.T).abs()` has each with each. "
            "Put 0 on the diagonal (`fill_diagonal_(0)`), and take the largest of each row.",
        ),
        right="An opposite direction counts as much as a similar one: reading one of the two, one would read the other.",
        mistakes=mistakes(
            (
                _interference_with_itself,
                "Every direction finds itself here: the largest cosine is 1. Leave out the diagonal.",
            ),
            (
                _interference_products,
                "These are products of rows as they are, so that long rows seem close to all. Divide each row by its "
                "length first.",
            ),
            (_interference_signed, "A cosine of -0.9 is as close as one of 0.9. Take the cosines without their sign."),
            (
                _interference_signed_from_0,
                "Negative cosines are passed over. Take `.abs()` before the largest is looked for.",
            ),
            (_interference_mean, "This is the mean over the others. The largest is wanted."),
            (_interference_largest, "This is one number for all. Each direction has a number of its own."),
            (
                _interference_which,
                "This says which other direction is closest. How close is wanted: `max`, not `argmax`.",
            ),
            (
                _interference_one_length,
                "All rows are divided by one and the same length, that of the whole matrix. Each row has its own: "
                "`norm(dim=1, keepdim=True)`.",
            ),
        ),
    ),
    Exercise(
        id="sae.topk_autoencoder",
        title="A sparse autoencoder by hand",
        task="Take tokens apart into a few features each, and put them together again.\n\n"
        "`x` has shape `(T, d)`, a row for each token. Subtract `decoder_bias` `(d,)`, multiply by `encoder` `(d, F)`, add "
        "`encoder_bias` `(F,)`. Of the F numbers of a token keep the `k` largest, and of these only what is above zero; all "
        "others become 0. These are the activations, `(T, F)`. Each of them takes its row of `decoder` `(F, d)`; their sum "
        "and `decoder_bias` are the reconstruction of the token, `(T, d)`. Return both, the activations first.",
        minutes=6,
        difficulty="medium",
        importance=5,
        cases=_autoencoder_cases,
        reference=topk_autoencoder,
        hints=(
            "Three steps: before = ... (one line), keep the largest, activations times decoder plus bias. For the middle "
            "one, begin with zeros and put the kept values in their places: `topk` finds values and places, `scatter` puts "
            "them there.",
            "`best = before.topk(k, dim=-1)`, then `torch.zeros_like(before).scatter(-1, best.indices, "
            "best.values.relu())`. The reconstruction is `activations @ decoder + decoder_bias`.",
        ),
        right="That is the whole model: two matrices, two biases, and the rule that only the k largest are kept.",
        mistakes=mistakes(
            (
                _autoencoder_keeps_negative,
                "Kept values below zero stay as they are. A feature is there or it is not: what is below zero becomes 0.",
            ),
            (_autoencoder_keeps_all, "All that is above zero is kept. At most `k` of a token's features may be."),
            (
                _autoencoder_without_centring,
                "`decoder_bias` is not subtracted before the encoder. What is usual in every token is taken out first.",
            ),
            (
                _autoencoder_without_encoder_bias,
                "`encoder_bias` is missing: add it after the product with the encoder.",
            ),
            (
                _autoencoder_without_decoder_bias,
                "The activations are right. The reconstruction lacks `decoder_bias`: it was subtracted and has to be "
                "added again.",
            ),
            (
                _autoencoder_by_size,
                "The largest without their sign are kept, so that strongly negative ones are among them. The largest are "
                "wanted, and then only those above zero.",
            ),
            (
                _autoencoder_over_tokens,
                "The largest are looked for down the columns, over the tokens. Each token keeps its own: `dim=-1`.",
            ),
            (
                _autoencoder_ones,
                "The features that are kept count 1 each. How active each is matters: keep the values.",
            ),
            (_autoencoder_exchanged, "The two are exchanged: the activations come first."),
            (
                _autoencoder_decoder_reads,
                "The decoder, turned, is used for reading as well. The encoder is a matrix of its own.",
            ),
        ),
        outputs=("activations", "reconstruction"),
    ),
    Exercise(
        id="sae.fraction_unexplained",
        title="How much is unexplained?",
        task="How much of the tokens do the features miss? The usual measure is the fraction of variance unexplained.\n\n"
        "`x` has shape `(T, d)`, `reconstruction` the same: what the features give for each token. Return the sum of all squared "
        "differences between them, divided by the sum of all squared differences between `x` and the mean token (the mean "
        "of `x` over the tokens). 0 means that nothing is left over, 1 that the mean token alone would do as well.",
        minutes=3,
        difficulty="easy",
        importance=5,
        cases=_unexplained_cases,
        reference=fraction_unexplained,
        hints=(
            "Two sums, and a division. The mean token has d numbers, each the mean of one column.",
            "Above, `(x - reconstruction).square().sum()`; below, `(x - x.mean(dim=0)).square().sum()`.",
        ),
        right="The mean is subtracted below because it costs nothing to know; measured from zero, everything looks explained.",
        mistakes=mistakes(
            (
                _unexplained_from_zero,
                "The spread is measured from zero. Subtract the mean token: `x - x.mean(dim=0)`; otherwise the mean alone seems "
                "to explain a great deal.",
            ),
            (
                _unexplained_one_mean,
                "`x.mean()` is one number for everything. The mean token has d numbers: `x.mean(dim=0)`.",
            ),
            (_explained, "This is the fraction that is explained. The fraction unexplained is wanted."),
            (
                _unexplained_of_tokens,
                "This is the mean over tokens of each token's fraction. Add up first, then divide: one division in all.",
            ),
            (_unexplained_each_token, "This is a fraction for each token. One number for all of them is wanted."),
            (_unexplained_lengths, "This is the root of the fraction. Squares are compared, without a root."),
            (
                _unexplained_squared_error,
                "This is the mean squared error. Divide the summed errors by the spread of `x`.",
            ),
            (
                _unexplained_spread_of_reconstruction,
                "This compares how much `reconstruction` and `x` vary, and not whether they agree. Take the differences "
                "`x - reconstruction`.",
            ),
            (
                _unexplained_mean_of_token,
                "The mean is taken over each token's numbers. The mean over the tokens is meant: `dim=0`.",
            ),
        ),
    ),
    Exercise(
        id="sae.density",
        title="How often is a feature active?",
        task="On how many tokens is each feature active?\n\n"
        "`indices` has shape `(T, n)`: in each row the numbers of the features active on that token, none of them twice, "
        "and -1 where there are fewer than n. There are `n_features` in all. Return `(n_features,)`: for each the fraction of "
        "the T tokens that it is active on.",
        minutes=3,
        difficulty="easy",
        importance=4,
        cases=_density_cases,
        reference=density,
        hints=(
            "Throw the -1 away, count every number, and divide by the number of tokens.",
            "`indices[indices >= 0]` is one long list; `torch.bincount(..., minlength=n_features)` counts.",
        ),
        right="Added up, the densities are the mean number of features active on a token, which papers call L0.",
        mistakes=mistakes(
            (
                _density_of_activations,
                "Divided by all places of `indices`, T times n. How many of the T tokens is wanted: divide by T.",
            ),
            (
                _density_of_found,
                "This is each feature's share of all activity; the shares add up to 1. Divide by the number of tokens.",
            ),
            (_density_counts, "These are counts. Divide by the number of tokens."),
            (
                _density_minus_one_is_last,
                "-1 is counted as the last feature. It says that there is none: leave it out.",
            ),
            (_density_minus_one_is_0, "-1 is counted as feature 0. It says that there is none: leave it out."),
            (_density_strongest, "Only the first column is counted. All features of a row are active."),
            (
                _density_too_short,
                "Features beyond the highest number that occurs are missing: give `bincount` a `minlength`.",
            ),
            (
                _density_of_working_tokens,
                "Tokens on which no feature is active are left out of the count. They are tokens as well: divide by T.",
            ),
        ),
    ),
    Exercise(
        id="sae.balanced_accuracy",
        title="How good is a name?",
        task="A name says on which tokens a feature fires. Score it, so that saying no to everything earns nothing.\n\n"
        "`says` and `fires` are boolean, of shape `(T,)`: what the rule says of each token, and what the feature does. Of "
        "the tokens where it fires, take the share that the rule says yes to; of the tokens where it does not, the share "
        "that the rule says no to. Return the mean of the two. There are always some of both.",
        minutes=4,
        difficulty="easy",
        importance=5,
        cases=_accuracy_cases,
        reference=balanced_accuracy,
        hints=(
            "Two shares, each within its own group of tokens, and their mean. A boolean tensor as an index picks a group.",
            "`says[fires].float().mean()` is the first share. In the second, both are turned round: `~says[~fires]`.",
        ),
        right="A rule that always says no, and one that tosses a coin, both come out at one half.",
        mistakes=mistakes(
            (
                _accuracy_plain,
                "This is plain accuracy. A feature that fires on one token of a hundred is then predicted to 99 % by "
                "always saying no. Take the two groups apart.",
            ),
            (
                _accuracy_precision,
                "This is the share of the rule's claims that are right. Ask within the tokens where the feature fires, and "
                "within the others.",
            ),
            (_accuracy_recall, "This is the first half: of the firings, those predicted. Silent tokens count as much."),
            (_accuracy_silent_only, "This is the second half, the silent tokens. Those where it fires count as much."),
            (_accuracy_f1, "This is the F1 score, which does not look at the tokens that are rightly left alone."),
            (
                _accuracy_exchanged,
                "Rule and feature are exchanged: the two groups are to be made by what the feature does.",
            ),
            (
                _accuracy_precision_and_recall,
                "This is the mean of precision and recall. The second share is of the silent tokens: how many are left alone.",
            ),
            (
                _accuracy_false_alarms,
                "In the second group the rule is right when it says no: `~says[~fires]`.",
            ),
            (_accuracy_sum, "The two shares are added. Their mean is wanted, so that 1 is the best."),
        ),
    ),
    Exercise(
        id="sae.add_along",
        title="Steer",
        task="Push a text's tokens along a direction.\n\n"
        "`x` has shape `(T, d)`: what enters a layer, a row for each token. Return the same with `strength` times a vector "
        "of length 1 that points along `direction` `(d,)` added to every token but the first, which stays as it is.",
        minutes=3,
        difficulty="easy",
        importance=5,
        cases=_add_cases,
        reference=add_along,
        hints=(
            "Bring the direction to length 1 first; then a given strength means the same for every direction.",
            "`unit = direction / direction.norm()`; copy `x` with `x.clone()`, and add `strength * unit` to rows `1:`.",
        ),
        right="One line, and nothing is trained. What it does to the text is for the model to say.",
        mistakes=mistakes(
            (_add_first_too, "The first token is pushed as well. There the model parks attention: leave it alone."),
            (_add_whole_length, "The direction is added at its own length. Divide it by its norm first."),
            (
                _add_to_all_whole_length,
                "Two things: the direction is to have length 1 (divide by its norm), and the first token stays.",
            ),
            (_add_only_first, "Only the first token is pushed. It is the only one that is not to be."),
            (_add_only_last, "Only the last token is pushed. All but the first are meant: `1:`."),
            (
                _add_sets,
                "What lies along the direction is set to `strength`, whatever was there. It is to be added to it.",
            ),
            (_add_in_place_of, "The tokens are replaced. What was there stays; the push is added to it."),
            (_add_keeps_length, "The tokens are brought back to their old length afterwards. They may grow."),
            (_add_what_was_added, "This is only what is added. Return the tokens with it."),
            (
                _add_by_squared_length,
                "The direction is divided by the square of its length. `direction.norm()` makes its length 1.",
            ),
        ),
    ),
)
