"""Exercises of notebook 09, the model landscape: from a configuration to bytes and seconds, and from text to "
"tokens."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# ---------------------------------------------------------------------------------------------------------- parameters


def parameters(d_model: int, d_ff: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> int:
    """How many numbers a model of LLaMA's design has.

    tied: whether the unembedding is the embedding, used a second time.
    """
    kv = kv_heads * (d_model // heads)  # numbers in all keys of a token
    attention = 2 * d_model * d_model + 2 * d_model * kv  # query and output; key and value
    mlp = 3 * d_model * d_ff
    norms = 2 * d_model
    embedding = vocabulary * d_model
    ends = embedding + d_model + (0 if tied else embedding)
    return layers * (attention + mlp + norms) + ends


def _parameters_cases() -> list[Case]:
    return [
        Case((2, 4, 1, 1, 1, 3, True), "one layer of the smallest size, to count by hand"),
        Case((4, 8, 2, 2, 2, 10, False), "two layers, an unembedding of its own"),
        Case((576, 1536, 30, 9, 3, 49152, True), "the default model: three query heads share a key"),
        Case((4096, 11008, 32, 32, 32, 32000, False), "LLaMA 2 7B"),
        Case((8192, 28672, 80, 64, 8, 32000, False), "LLaMA 2 70B"),
    ]


def _parameters_ungrouped(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, heads, v, tied)


def _parameters_two_matrices(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, tied) - layers * d * f


def _parameters_untied(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, False)


def _parameters_tied(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, True)


def _parameters_without_norms(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, tied) - (2 * layers + 1) * d


def _parameters_without_last_norm(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, tied) - d


def _parameters_without_embedding(d: int, f: int, layers: int, heads: int, kv: int, v: int, tied: bool) -> int:
    return parameters(d, f, layers, heads, kv, v, tied) - v * d


# ----------------------------------------------------------------------------------------------------------- step time


def step_time(
    weight_bytes: float, cache_bytes: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    """Seconds of a step that writes one token for each of batch texts."""
    reading = (weight_bytes + batch * cache_bytes) / bandwidth
    computing = batch * operations / compute
    return max(reading, computing)


def _step_cases() -> list[Case]:
    return [
        Case((100.0, 10.0, 50.0, 1, 10.0, 100.0), "one text: reading takes longer"),
        Case((100.0, 10.0, 50.0, 64, 10.0, 10.0), "64 texts on a slow processor: computing takes longer"),
        Case((100.0, 0.0, 50.0, 2, 10.0, 10.0), "no cache yet, both take equally long"),
        Case((1.0, 0.0, 50.0, 2, 10.0, 10.0), "a small model, two texts: computing one takes longer than reading"),
        Case((13.5e9, 2.1e9, 14e9, 1, 2.039e12, 312e12), "a model of 7 billion parameters in 16 bits, one text"),
        Case((13.5e9, 0.1e9, 14e9, 512, 2.039e12, 312e12), "the same, 512 short texts"),
        Case((3.4e9, 0.0, 14e9, 400, 2.039e12, 312e12), "in 4 bits, without a cache, 400 texts"),
    ]


def _step_sum(weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float) -> float:
    return (weights + batch * cache) / bandwidth + batch * operations / compute


def _step_shorter(
    weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    return min((weights + batch * cache) / bandwidth, batch * operations / compute)


def _step_weights_each(
    weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    return max(batch * (weights + cache) / bandwidth, batch * operations / compute)


def _step_computed_once(
    weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    return max((weights + batch * cache) / bandwidth, operations / compute)


def _step_one_cache(
    weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    return max((weights + cache) / bandwidth, batch * operations / compute)


def _step_reading(
    weights: float, cache: float, operations: float, batch: int, bandwidth: float, compute: float
) -> float:
    return (weights + batch * cache) / bandwidth


# ------------------------------------------------------------------------------------------------------ training bytes


def training_bytes(parameters: int, cards: int, stage: int) -> float:
    """Bytes on each card for weights, gradients and optimiser, without activations.

    stage: what the cards share out. 0 is nothing, 1 the optimiser, 2 gradients, too, and 3
        weights, too.
    """
    optimiser = 12 / (cards if stage >= 1 else 1)
    gradients = 2 / (cards if stage >= 2 else 1)
    weights = 2 / (cards if stage >= 3 else 1)
    return parameters * (optimiser + gradients + weights)


def _training_cases() -> list[Case]:
    return [
        Case((10, 4, 0), "ten parameters, nothing shared out"),
        Case((10, 4, 1), "four cards share the optimiser"),
        Case((10, 4, 2), "and the gradients"),
        Case((10, 4, 3), "and the weights"),
        Case((6_738_415_616, 1, 3), "7 billion parameters, one card: nobody to share with"),
        Case((6_738_415_616, 4, 3), "7 billion parameters, four cards"),
        Case((180_000_000_000, 256, 1), "180 billion parameters, 256 cards, the optimiser shared out"),
    ]


def _training_unshared(parameters: int, cards: int, stage: int) -> float:
    return 16.0 * parameters


def _training_all_shared(parameters: int, cards: int, stage: int) -> float:
    return 16 * parameters / cards


def _training_of_all_cards(n: int, cards: int, stage: int) -> float:
    return training_bytes(n, cards, stage) * cards


def _training_stage_late(n: int, cards: int, stage: int) -> float:
    return training_bytes(n, cards, max(0, stage - 1))


def _training_weights_first(n: int, cards: int, stage: int) -> float:
    return n * (2 / (cards if stage >= 1 else 1) + 2 / (cards if stage >= 2 else 1) + 12 / (cards if stage >= 3 else 1))


def _training_no_copy(n: int, cards: int, stage: int) -> float:
    return n * (8 / (cards if stage >= 1 else 1) + 2 / (cards if stage >= 2 else 1) + 2 / (cards if stage >= 3 else 1))


# --------------------------------------------------------------------------------------------------------------- merge


def merge(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    """ids: (T,). Returns them with each pair (left, right) replaced by new.

    From the left: a token that was merged is not merged again.
    """
    merged, at = [], 0
    while at < len(ids):
        if at + 1 < len(ids) and ids[at] == left and ids[at + 1] == right:
            merged.append(new)
            at += 2
        else:
            merged.append(int(ids[at]))
            at += 1
    return torch.tensor(merged)


def _merge_cases() -> list[Case]:
    return [
        Case((torch.tensor([1, 2, 3]), 1, 2, 9), "one pair, at the beginning"),
        Case((torch.tensor([3, 1, 2]), 1, 2, 9), "one pair, at the end"),
        Case((torch.tensor([1, 2, 1, 2, 1]), 1, 2, 9), "two pairs side by side, one token left over"),
        Case((torch.tensor([1, 1, 1]), 1, 1, 9), "a token paired with itself, three in a row"),
        Case((torch.tensor([1, 1, 1, 1]), 1, 1, 9), "four in a row"),
        Case((torch.tensor([2, 1, 3]), 1, 2, 9), "no such pair"),
        Case((torch.tensor([7]), 7, 7, 9), "one token"),
        Case((torch.arange(40) % 5, 3, 4, 50), "forty tokens"),
    ]


def _merge_first_only(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    for at in range(len(ids) - 1):
        if ids[at] == left and ids[at + 1] == right:
            return torch.cat([ids[:at], torch.tensor([new]), ids[at + 2 :]])
    return ids


def _merge_overlapping(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    merged, free = [], True
    for at, id in enumerate(ids.tolist()):
        pair = at + 1 < len(ids) and id == left and ids[at + 1] == right
        if pair:
            merged.append(new)
        elif free:
            merged.append(id)
        free = not pair
    return torch.tensor(merged)


def _merge_kept(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    merged = []
    for at, id in enumerate(ids.tolist()):
        merged.append(new if at + 1 < len(ids) and id == left and ids[at + 1] == right else id)
    return torch.tensor(merged)


def _merge_either_way(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    merged, at, some = [], 0, ids.tolist()
    while at < len(some):
        if at + 1 < len(some) and {some[at], some[at + 1]} == {left, right}:
            merged.append(new)
            at += 2
        else:
            merged.append(some[at])
            at += 1
    return torch.tensor(merged)


def _merge_last_lost(ids: torch.Tensor, left: int, right: int, new: int) -> torch.Tensor:
    merged, at, some = [], 0, ids.tolist()
    while at < len(some) - 1:
        if some[at] == left and some[at + 1] == right:
            merged.append(new)
            at += 2
        else:
            merged.append(some[at])
            at += 1
    return torch.tensor(merged, dtype=torch.long)


# ------------------------------------------------------------------------------------------------------- bits per byte


def bits_per_byte(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """losses: (T,), each token's loss in nats; sizes: (T,), how many bytes it stands for.

    Returns one number: bits for a byte of the text.
    """
    bits = losses.sum() / torch.log(torch.tensor(2.0))
    return bits / sizes.sum()


def _bits_cases() -> list[Case]:
    log2 = float(torch.log(torch.tensor(2.0)))
    return [
        Case((torch.tensor([log2, 3 * log2]), torch.tensor([1, 1])), "one bit and three, a byte each"),
        Case((torch.tensor([4 * log2]), torch.tensor([4])), "four bits for four bytes"),
        Case((torch.tensor([2 * log2, 2 * log2]), torch.tensor([1, 3])), "a short token and a long one"),
        Case((torch.zeros(3), torch.tensor([2, 5, 1])), "a text that was foreseen"),
        Case((random(200, seed=3).abs(), torch.arange(200) % 7 + 1), "200 tokens of one to seven bytes"),
    ]


def _bits_in_nats(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return losses.sum() / sizes.sum()


def _bits_per_token(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return losses.mean() / torch.log(torch.tensor(2.0))


def _bits_mean_of_shares(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return (losses / sizes).mean() / torch.log(torch.tensor(2.0))


def _bits_wrong_way(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return losses.sum() * torch.log(torch.tensor(2.0)) / sizes.sum()


def _bits_per_bit(losses: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return bits_per_byte(losses, sizes) / 8


EXERCISES = (
    Exercise(
        id="landscape.parameters",
        title="Count a model",
        task="A configuration is a handful of numbers. How many parameters follow from it?\n\n"
        "Each of the `layers` has an attention (four matrices without bias: query and output are `d_model` by "
        "`d_model`; key and value have `kv_heads` heads only, each as wide as one of the `heads` of the query, "
        "`d_model // heads`), an MLP (three matrices of `d_model` by `d_ff`) and two norms of `d_model` numbers. "
        "Beside them stand an embedding of `vocabulary` rows, one last norm, and an unembedding as large as the "
        "embedding, unless it is `tied`: then the embedding serves twice. Return the count.",
        minutes=6,
        difficulty="easy",
        importance=5,
        cases=_parameters_cases,
        reference=parameters,
        hints=(
            "Count one layer first. A key matrix is `d_model` by `kv_heads * (d_model // heads)`.",
            "`layers * (attention + 3 * d_model * d_ff + 2 * d_model)`, the embedding once or twice, and `d_model` "
            "more.",
        ),
        right="Nothing is left out: it is the published count to the last number. In the 7B two thirds of each layer "
        "are its MLP.",
        mistakes=mistakes(
            (_parameters_ungrouped, "Key and value matrices are narrower where heads share them: use `kv_heads`."),
            (_parameters_two_matrices, "The MLP has three matrices: gate, up and down."),
            (_parameters_untied, "Where it is tied, the embedding is the unembedding: count it once."),
            (_parameters_tied, "Where it isn't tied, the unembedding is a matrix of its own: count both."),
            (
                _parameters_without_norms,
                "The norms have numbers, too: two of `d_model` in each layer, and the last one.",
            ),
            (_parameters_without_last_norm, "One norm is missing: the one after the last layer."),
            (_parameters_without_embedding, "The embedding is missing: `vocabulary` rows of `d_model` numbers."),
        ),
        tolerance=0.0,
    ),
    Exercise(
        id="landscape.step_time",
        title="How long does a step take?",
        task="A decoding step writes one token for each text of the `batch`. For that it reads `weight_bytes` once "
        "and `cache_bytes` for each text, at `bandwidth` bytes a second, and does `operations` for each text, at "
        "`compute` operations a second. Both go on at the same time.\n\nReturn the seconds of a step at best.",
        minutes=4,
        difficulty="easy",
        importance=5,
        cases=_step_cases,
        reference=step_time,
        hints=(
            "How long would it take if only reading took time? And if only computing did?",
            "`max((weight_bytes + batch * cache_bytes) / bandwidth, batch * operations / compute)`.",
        ),
        right="That is the roofline (Williams et al. 2009). Weights are read once for all, so more texts are nearly "
        "free, up to a point.",
        mistakes=mistakes(
            (_step_sum, "They go on at the same time: the longer one counts, not both together."),
            (_step_shorter, "The step has ended when the *longer* of the two has."),
            (_step_weights_each, "The weights are read once for the whole batch."),
            (_step_computed_once, "Each text needs operations of its own: multiply them by the batch."),
            (_step_one_cache, "Each text has a cache of its own: multiply it by the batch."),
            (_step_reading, "With many texts computing takes longer than reading: it has to be in the answer."),
        ),
    ),
    Exercise(
        id="landscape.training_bytes",
        title="What a training keeps",
        task="Training in mixed precision with Adam keeps 16 bytes for each parameter: 2 of weights, 2 of gradients, "
        "and 12 of the optimiser (a 32-bit copy of the weight and two running means). With several `cards` these can "
        "be shared out (ZeRO, Rajbhandari et al. 2020): at `stage` 0 each card has all of them, at 1 the optimiser is "
        "divided among the cards, at 2 the gradients as well, at 3 the weights as well.\n\nReturn the bytes on each "
        "card, for so many `parameters`.",
        minutes=4,
        difficulty="medium",
        importance=4,
        cases=_training_cases,
        reference=training_bytes,
        hints=(
            "Take the three kinds one by one: from which stage on is each divided by the number of cards?",
            "`12 / cards if stage >= 1 else 12` is the optimiser's share; likewise 2 from stage 2 on, and 2 from "
            "stage 3 on.",
        ),
        right="Eight times what the weights take in use, before a single activation is stored.",
        mistakes=mistakes(
            (_training_unshared, "From stage 1 on a card holds only its share of some of them."),
            (
                _training_all_shared,
                "Only stage 3 divides everything; the other stages leave some of it whole on each card.",
            ),
            (_training_of_all_cards, "That is on all cards together. How much is on one?"),
            (_training_stage_late, "You are a stage late: stage 1 divides the optimiser already."),
            (_training_weights_first, "The other way round: the optimiser is divided first, as it is the largest."),
            (
                _training_no_copy,
                "The optimiser keeps 12 bytes: two running means of 4 each, and a 32-bit copy of the weight.",
            ),
        ),
    ),
    Exercise(
        id="landscape.merge",
        title="One step of byte-pair encoding",
        task="Byte-pair encoding starts from single bytes and merges pairs, in the order in which they were "
        "learnt.\n\n`ids` is `(T,)`, the tokens so far. Return them with each pair of `left` followed by `right` "
        "replaced by the one token `new`. Go from left to right; a token that has gone into a merge can't go into "
        "another.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_merge_cases,
        reference=merge,
        hints=(
            "A `for` loop can't skip a token; a `while` loop with a place of your own can.",
            "At `at`: if `ids[at]` is `left` and `ids[at + 1]` is `right`, append `new` and go on at `at + 2`; else "
            "append `ids[at]`.",
        ),
        right="A tokenizer does this once for each of its tens of thousands of merges (but finds those that matter "
        "faster).",
        mistakes=mistakes(
            (_merge_first_only, "That merges the first pair only. Go on to the end."),
            (_merge_overlapping, "Three in a row are one pair and a rest: after a merge, go on *behind* the pair."),
            (_merge_kept, "The right one of the pair is still there: it has become a part of `new`."),
            (_merge_either_way, "The order counts: `right` before `left` is no such pair."),
            (_merge_last_lost, "A last token that is in no pair got lost."),
        ),
    ),
    Exercise(
        id="landscape.bits_per_byte",
        title="Compare models with different tokens",
        task="The loss of a token can't be compared between tokenizers, since their tokens differ in length. Bytes "
        "are the same for all.\n\n`losses` are the losses of a text's tokens in nats, `(T,)`, and `sizes` the bytes "
        "of each, `(T,)`. Return the bits for each byte of the text. (A bit is `log(2)` nats.)",
        minutes=3,
        difficulty="easy",
        importance=4,
        cases=_bits_cases,
        reference=bits_per_byte,
        hints=(
            "How many bits is the whole text, and how many bytes?",
            "`losses.sum() / log(2)`, divided by `sizes.sum()`.",
        ),
        right="It is the size to which the model could compress the text: 8 bits a byte would be no compression at "
        "all.",
        mistakes=mistakes(
            (_bits_in_nats, "These are nats. A bit is `log(2)` nats: divide by that."),
            (_bits_per_token, "That is for each token. Divide by the number of bytes."),
            (_bits_mean_of_shares, "Long and short tokens must not count alike: divide the sum by the sum."),
            (_bits_wrong_way, "Divide by `log(2)`: there are more bits than nats."),
            (_bits_per_bit, "Of each byte, not of each of its eight bits."),
        ),
    ),
)
