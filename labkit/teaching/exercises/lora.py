"""Exercises of notebook 05, LoRA: a layer, merging, what carries loss, counting, a budget, blending, what was learnt."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random

# ------------------------------------------------------------------------------------------------------------- labels


def labels(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    """prompt, completion: token ids; end: the id that ends an answer.

    Returns the label of each token of prompt, completion and end, (T,): its id where it is
    learnt, -100 where not.
    """
    learnt = [*completion, end]
    return torch.tensor([-100] * len(prompt) + learnt)


def _labels_cases() -> list[Case]:
    return [
        Case(([5, 6, 7], [8, 9], 2), "three tokens of a prompt, two of an answer"),
        Case(([5], [9], 2), "one token each"),
        Case(([3, 2, 4], [2, 8], 2), "the ending token's id stands in the prompt and in the answer, too"),
        Case((list(range(40)), list(range(60, 75)), 1), "a long prompt"),
    ]


def _labels_of_all(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    return torch.tensor([*prompt, *completion, end])


def _labels_without_end(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    return torch.tensor([-100] * len(prompt) + [*completion, -100])


def _labels_end_masked_by_id(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    found = labels(prompt, completion, end)
    return torch.where(found == end, torch.full_like(found, -100), found)


def _labels_short(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    return torch.tensor([-100] * len(prompt) + completion)


def _labels_shifted(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    return torch.cat([labels(prompt, completion, end)[1:], torch.tensor([-100])])


def _labels_zero(prompt: list[int], completion: list[int], end: int) -> torch.Tensor:
    return torch.tensor([0] * len(prompt) + [*completion, end])


# --------------------------------------------------------------------------------------------------------------- loss


def tuning_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logits: (T, vocabulary), of each token's successor.
    labels: (T,), -100 where nothing is learnt.

    Returns the mean loss of the tokens that carry one, in nats.
    """
    log_p = logits[:-1].log_softmax(-1)  # the last token predicts one that is not there
    targets = labels[1:]
    learnt = targets != -100
    return -log_p[learnt, targets[learnt]].mean()


def _loss_cases() -> list[Case]:
    few = torch.tensor([-100, -100, 3, 1])
    long = torch.tensor([-100] * 12 + [4, 0, 19, 7, 2, 2, 11, 5])
    return [
        Case((random(4, 6, seed=1), few), "two tokens of a prompt, two that are learnt"),
        Case((3 * random(20, 24, seed=2), long), "a prompt of twelve, eight that are learnt"),
        Case((random(5, 8, seed=3), torch.tensor([7, 1, 2, 0, 5])), "plain text: every token is learnt"),
        Case((random(6, 8, seed=4) * 30, torch.tensor([-100, 3, -100, -100, 6, 1])), "two turns, large logits"),
    ]


def _loss_unshifted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    learnt = labels != -100
    return -logits.log_softmax(-1)[learnt, labels[learnt]].mean()


def _loss_shifted_back(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    targets = labels[:-1]
    learnt = targets != -100
    return -logits[1:].log_softmax(-1)[learnt, targets[learnt]].mean()


def _loss_over_all(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    learnt = labels[1:] != -100
    return tuning_loss(logits, labels) * learnt.sum() / len(learnt)


def _loss_summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return tuning_loss(logits, labels) * (labels[1:] != -100).sum()


def _loss_signed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -tuning_loss(logits, labels)


def _loss_clamped(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    log_p, targets = logits[:-1].log_softmax(-1), labels[1:].clamp(min=0)
    return -log_p.gather(1, targets[:, None]).mean()


# -------------------------------------------------------------------------------------------------------------- layer


def adapted(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """x: (tokens, d_in); weight: (d_out, d_in), frozen.
    a: (rank, d_in) and b: (d_out, rank), trained.

    Returns the layer's output with its adapter, (tokens, d_out).
    """
    rank = a.shape[0]
    return x @ weight.T + (alpha / rank) * (x @ a.T) @ b.T


def _adapted_cases() -> list[Case]:
    return [
        Case(
            (torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]]), 1.0),
            "one token, rank 1",
        ),
        Case((random(3, 8, seed=1), random(8, 8, seed=2), random(2, 8, seed=3), random(8, 2, seed=4), 4.0), "rank 2"),
        Case(
            (random(5, 12, seed=5), random(4, 12, seed=6), random(4, 12, seed=7), random(4, 4, seed=8), 32.0),
            "a matrix that is not square, alpha 32",
        ),
        Case(
            (random(4, 6, seed=9), random(10, 6, seed=10), random(3, 6, seed=11), torch.zeros(10, 3), 16.0),
            "before the first step, when b is zero",
        ),
    ]


def _adapted_unscaled(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float
) -> torch.Tensor:
    return x @ weight.T + (x @ a.T) @ b.T


def _adapted_by_alpha(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float
) -> torch.Tensor:
    return x @ weight.T + alpha * (x @ a.T) @ b.T


def _adapted_by_root(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float
) -> torch.Tensor:
    return x @ weight.T + alpha / a.shape[0] ** 0.5 * (x @ a.T) @ b.T


def _adapted_without_base(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float
) -> torch.Tensor:
    return alpha / a.shape[0] * (x @ a.T) @ b.T


def _adapted_all_scaled(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float
) -> torch.Tensor:
    return alpha / a.shape[0] * (x @ weight.T + (x @ a.T) @ b.T)


# -------------------------------------------------------------------------------------------------------------- merge


def merged(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """weight: (d_out, d_in); a: (rank, d_in); b: (d_out, rank).

    Returns the one matrix that does what the layer with its adapter does, (d_out, d_in).
    """
    return weight + (alpha / a.shape[0]) * b @ a


def _merged_cases() -> list[Case]:
    return [
        Case((torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), 2.0), "rank 1, alpha 2"),
        Case((random(8, 8, seed=1), random(2, 8, seed=2), random(8, 2, seed=3), 4.0), "a square matrix, rank 2"),
        Case((random(4, 12, seed=4), random(4, 12, seed=5), random(4, 4, seed=6), 32.0), "one that is not square"),
    ]


def _merged_unscaled(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return weight + b @ a


def _merged_by_alpha(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return weight + alpha * b @ a


def _merged_alone(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return alpha / a.shape[0] * b @ a


def _merged_taken_off(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return weight - alpha / a.shape[0] * b @ a


def _merged_twice(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return weight + 2 * alpha / a.shape[0] * b @ a


# ----------------------------------------------------------------------------------------------------------- counting


def trainable(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    """shapes: (d_out, d_in) of each matrix of a layer that gets an adapter; layers: alike.

    Returns how many numbers are trained.
    """
    return layers * sum(rank * (d_out + d_in) for d_out, d_in in shapes)


def _trainable_cases() -> list[Case]:
    return [
        Case(([(4, 4)], 1, 1), "one matrix of 4 by 4, rank 1"),
        Case(([(4096, 4096), (4096, 4096)], 32, 16), "queries and values of LLaMA 2 7B, rank 16"),
        Case(([(576, 576), (192, 576)], 30, 16), "SmolLM2 135M, whose values are narrower than its queries"),
        Case(([(11008, 4096), (4096, 11008)], 32, 8), "two matrices of the MLP"),
    ]


def _trainable_one_side(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    return layers * sum(rank * d_in for _, d_in in shapes)


def _trainable_square(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    return layers * sum(2 * rank * d_out for d_out, _ in shapes)


def _trainable_one_layer(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    return sum(rank * (d_out + d_in) for d_out, d_in in shapes)


def _trainable_whole(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    return layers * sum(d_out * d_in for d_out, d_in in shapes)


def _trainable_product(shapes: list[tuple[int, int]], layers: int, rank: int) -> int:
    return layers * sum(rank * d_out * d_in for d_out, d_in in shapes)


# ------------------------------------------------------------------------------------------------------------- budget


def largest_rank(per_rank: int, budget_bytes: int) -> int:
    """per_rank: numbers that are trained for each unit of rank. Each takes its weight, its
    gradient and Adam's two running means, all float32.

    Returns the largest rank whose bytes stay within the budget.
    """
    bytes_each = 4 * 4  # four numbers of four bytes
    return budget_bytes // (per_rank * bytes_each)


def _rank_cases() -> list[Case]:
    return [
        Case((10, 1_600), "ten numbers a rank, a budget that is used up exactly"),
        Case((10, 1_599), "one byte less"),
        Case((524_288, 100_000_000), "LLaMA 2 7B, queries and values, 100 MB"),
        Case((57_600, 16_000_000), "SmolLM2 135M, queries and values, 16 MB"),
        Case((1_000_000, 1_000), "a budget for nothing"),
    ]


def _rank_weights_alone(per_rank: int, budget_bytes: int) -> int:
    return budget_bytes // (4 * per_rank)


def _rank_without_gradient(per_rank: int, budget_bytes: int) -> int:
    return budget_bytes // (12 * per_rank)


def _rank_without_adam(per_rank: int, budget_bytes: int) -> int:
    return budget_bytes // (8 * per_rank)


def _rank_rounded_up(per_rank: int, budget_bytes: int) -> int:
    return -(-budget_bytes // (16 * per_rank))


def _rank_in_numbers(per_rank: int, budget_bytes: int) -> int:
    return budget_bytes // per_rank


# -------------------------------------------------------------------------------------------------------------- blend


def blended(
    a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """a1, a2: (rank, d_in); b1, b2: (d_out, rank); share: of the second, from 0 to 1.

    Returns a and b of one adapter whose update b @ a is that of the blend.
    """
    a = torch.cat([a1, a2])  # (2 * rank, d_in)
    b = torch.cat([(1 - share) * b1, share * b2], dim=1)  # (d_out, 2 * rank)
    return a, b


def _blended_update(
    a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return a1 * (1 - share) + a2 * share, b1 * (1 - share) + b2 * share


def _blend_cases() -> list[Case]:
    return [
        Case(
            (
                torch.tensor([[1.0, 0.0]]),
                torch.tensor([[1.0], [0.0]]),
                torch.tensor([[0.0, 1.0]]),
                torch.tensor([[0.0], [1.0]]),
                0.5,
            ),
            "two adapters of rank 1 that have nothing in common, half of each",
        ),
        Case((random(2, 6, seed=1), random(5, 2, seed=2), random(2, 6, seed=3), random(5, 2, seed=4), 0.25), "rank 2"),
        Case((random(4, 8, seed=5), random(8, 4, seed=6), random(4, 8, seed=7), random(8, 4, seed=8), 1.0), "only one"),
    ]


def _blend_unscaled(
    a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([a1, a2]), torch.cat([b1, b2], dim=1)


def _blend_scaled_twice(
    a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    b = blended(a1, b1, a2, b2, share)[1]
    return torch.cat([(1 - share) * a1, share * a2]), b


def _blend_swapped(
    a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return blended(a1, b1, a2, b2, 1 - share)


# ------------------------------------------------------------------------------------------------------ effective rank


def effective_rank(update: torch.Tensor) -> torch.Tensor:
    """update: (d_out, d_in).

    Returns e to the entropy of its singular values' shares, one number.
    """
    values = torch.linalg.svdvals(update)
    shares = values / values.sum()
    shares = shares[shares > 0]  # 0 log 0 counts as 0
    return torch.exp(-(shares * shares.log()).sum())


def _effective_cases() -> list[Case]:
    return [
        Case((torch.diag(torch.tensor([1.0, 1.0, 1.0])),), "three singular values that are equal: 3"),
        Case((torch.diag(torch.tensor([1.0, 0.0, 0.0])),), "one singular value: 1"),
        Case((torch.diag(torch.tensor([3.0, 1.0])),), "one three times as large as the other"),
        Case((random(6, 2, seed=1) @ random(2, 9, seed=2) + 0.01 * random(6, 9, seed=3),), "nearly of rank 2"),
    ]


def _effective_counted(update: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_rank(update).float()


def _effective_entropy(update: torch.Tensor) -> torch.Tensor:
    return effective_rank(update).log()


def _effective_squared(update: torch.Tensor) -> torch.Tensor:
    values = torch.linalg.svdvals(update) ** 2
    shares = values / values.sum()
    shares = shares[shares > 0]
    return torch.exp(-(shares * shares.log()).sum())


def _effective_bits(update: torch.Tensor) -> torch.Tensor:
    return torch.exp(effective_rank(update).log2())


def _effective_nan(update: torch.Tensor) -> torch.Tensor:
    values = torch.linalg.svdvals(update)
    shares = values / values.sum()
    return torch.exp(-(shares * shares.log()).sum())


EXERCISES = (
    Exercise(
        id="lora.labels",
        title="What is learnt, and what not",
        task="A sample is a prompt and the answer to it. The model should learn to write the answer, not the prompt.\n\n"
        "`prompt` and `completion` are lists of token ids, `end` is the id of the token that ends an answer. The model reads "
        "the prompt, the completion and the end, one after the other. Return the label of each of these tokens, a tensor of "
        "shape `(T,)`: its own id where it is learnt, and `-100`, which PyTorch's loss leaves out, where not.",
        minutes=4,
        difficulty="easy",
        importance=5,
        cases=_labels_cases,
        reference=labels,
        hints=(
            "The prompt's tokens get -100. What about the end: should the model learn to stop?",
            "`[-100] * len(prompt)`, then the completion's ids, then the end's id, all as one tensor.",
        ),
        right="The end is learnt like any other token. Without it a tuned model does not know when to stop.",
        mistakes=mistakes(
            (_labels_of_all, "The prompt carries loss, too: the model would learn to write questions."),
            (_labels_without_end, "The end is not learnt: after tuning, the model would not know when to stop."),
            (
                _labels_end_masked_by_id,
                "You leave out every token with the end's id. Many programs do, where end and padding share an id, and "
                "the model never stops.",
            ),
            (_labels_short, "There is a label missing: the end is read, so it has a label."),
            (
                _labels_shifted,
                "Your labels are one place early. Each token's label is its own id; the loss does the shift.",
            ),
            (_labels_zero, "0 is a token's id. What is left out has the label -100."),
        ),
    ),
    Exercise(
        id="lora.tuning_loss",
        title="The loss of what is learnt",
        task="Only tokens with a label are learnt. What is their loss?\n\n"
        "`logits` has shape `(T, vocabulary)`: at each token, the scores of the token that comes next. `labels` has shape "
        "`(T,)`, each token's own id or `-100`. Return the mean of `-log p` over the tokens that have a label, where `p` is "
        "the probability the model gave them before it saw them. The first token is predicted by none.",
        minutes=7,
        difficulty="medium",
        importance=5,
        cases=_loss_cases,
        reference=tuning_loss,
        hints=(
            "The scores at token 3 are about token 4: `logits[:-1]` belong to `labels[1:]`.",
            "`log_p = logits[:-1].log_softmax(-1)`, `targets = labels[1:]`, and of both only where `targets != -100`.",
        ),
        right="Forget the shift, and a model is trained to repeat the token it has just read; forget the mask, and long prompts "
        "drown the answer.",
        mistakes=mistakes(
            (_loss_unshifted, "The scores at a token are about the next one: shift the labels by one place."),
            (_loss_shifted_back, "You shifted the wrong way: the scores at token t are about token t + 1."),
            (_loss_over_all, "You divide by all tokens. Take the mean over those that have a label."),
            (_loss_summed, "That is the sum. The mean does not grow with the answer's length."),
            (_loss_signed, "Nearly: the loss is minus the log of the probability."),
            (_loss_clamped, "Tokens without a label count as token 0 in yours. Leave them out."),
        ),
    ),
    Exercise(
        id="lora.adapted",
        title="A layer with an adapter",
        task="Leave the matrix as it is, and add a small one beside it.\n\n"
        "`weight` has shape `(d_out, d_in)` and is frozen. `a` has shape `(rank, d_in)`, `b` has `(d_out, rank)`; both are "
        "trained. For inputs `x` of shape `(tokens, d_in)` return what the layer puts out: `x` through `weight`, plus `x` "
        "through `a` and then `b`, times `alpha / rank`.",
        minutes=6,
        difficulty="easy",
        importance=5,
        cases=_adapted_cases,
        reference=adapted,
        hints=(
            "A linear layer is `x @ weight.T`. So through `a` it is `x @ a.T`, of shape (tokens, rank).",
            "`x @ weight.T + (alpha / a.shape[0]) * (x @ a.T) @ b.T`.",
        ),
        right="That is all of LoRA. As b begins at zero, the layer begins as it was.",
        mistakes=mistakes(
            (_adapted_unscaled, "The scale is missing: the adapter's part is multiplied by alpha / rank."),
            (_adapted_by_alpha, "The scale is alpha / rank, so that it does not grow with the rank."),
            (_adapted_by_root, "alpha / sqrt(rank) is rsLoRA's scale. LoRA has alpha / rank."),
            (_adapted_without_base, "What the frozen matrix puts out is missing."),
            (_adapted_all_scaled, "Only the adapter's part is scaled, not what the frozen matrix puts out."),
        ),
        tolerance=1e-6,
    ),
    Exercise(
        id="lora.merged",
        title="Two matrices become one",
        task="Once trained, an adapter need not cost anything: it can be added to the matrix.\n\n"
        "With `weight` of shape `(d_out, d_in)`, `a` of `(rank, d_in)` and `b` of `(d_out, rank)`, return the one matrix of "
        "shape `(d_out, d_in)` whose layer puts out the same as the layer with the adapter, scale `alpha / rank` included.",
        minutes=4,
        difficulty="easy",
        importance=4,
        cases=_merged_cases,
        reference=merged,
        hints=(
            "Which product of a and b has the shape of the weight?",
            "`b @ a` has shape (d_out, d_in). Scale it and add it to the weight.",
        ),
        right="After merging there is one matrix again and nothing is slower. But now it is in there: keep the adapter if you "
        "want to take it back.",
        mistakes=mistakes(
            (_merged_unscaled, "The scale alpha / rank is missing."),
            (_merged_by_alpha, "The scale is alpha / rank."),
            (_merged_alone, "That is the update alone. The layer also has its weight."),
            (_merged_taken_off, "You take the update off. To merge, add it."),
            (_merged_twice, "The update is in there twice. Public tools have had this fault: test before = after."),
        ),
        tolerance=1e-6,
    ),
    Exercise(
        id="lora.trainable",
        title="How little is trained",
        task="An article gives the configuration: rank 16 on the query and value projections. How many numbers does it train?\n\n"
        "`shapes` lists `(d_out, d_in)` of each matrix of a layer that gets an adapter; the model has `layers` such layers, "
        "all with adapters of rank `rank`. "
        "Return how many numbers `a` (rank by d_in) and `b` (d_out by rank) have in all.",
        minutes=5,
        difficulty="easy",
        importance=4,
        cases=_trainable_cases,
        reference=trainable,
        hints=(
            "How many numbers does `a` have, how many `b`?",
            "For each matrix `rank * d_in + d_out * rank`; add them up and multiply by the layers.",
        ),
        right="It grows with the width, where the matrix grows with its square. So the larger the model, the smaller the share.",
        mistakes=mistakes(
            (_trainable_one_side, "You count a alone; b is trained, too."),
            (_trainable_square, "Not every matrix is square: b has d_out rows, a has d_in columns."),
            (_trainable_one_layer, "That is one layer. Each layer has its own."),
            (_trainable_whole, "That is the matrices themselves, which are frozen."),
            (_trainable_product, "a and b are two matrices beside each other: add rank * d_in and d_out * rank."),
        ),
    ),
    Exercise(
        id="lora.largest_rank",
        title="A rank for a budget",
        task="What is trained costs more than its own bytes. How large a rank can you afford?\n\n"
        "Each unit of rank adds `per_rank` trained numbers. In training each of them needs four numbers of 4 bytes: itself, its "
        "gradient, and the two running means that Adam keeps. Return the largest whole rank whose bytes stay within "
        "`budget_bytes`; 0 where not even rank 1 does.",
        minutes=4,
        difficulty="easy",
        importance=3,
        cases=_rank_cases,
        reference=largest_rank,
        hints=(
            "How many bytes does one unit of rank take, all four numbers counted?",
            "`per_rank * 16` bytes; then a division that rounds down.",
        ),
        right="Full tuning pays these sixteen bytes for every weight of the model. That, not the time, is why adapters made "
        "tuning possible on one card.",
        mistakes=mistakes(
            (_rank_weights_alone, "You count the weights alone. Gradients and Adam's means need room, too."),
            (_rank_without_gradient, "The gradient is missing: four numbers each, not three."),
            (_rank_without_adam, "Adam keeps two numbers for each that is trained."),
            (_rank_rounded_up, "Rounded up, it is over the budget."),
            (_rank_in_numbers, "You divide bytes by numbers: each number takes 4 bytes, and there are four of them."),
        ),
    ),
    Exercise(
        id="lora.blended",
        title="Two adapters in one",
        task="Adapters can be added like vectors, but not by adding a to a and b to b.\n\n"
        "`a1`, `a2` have shape `(rank, d_in)`, `b1`, `b2` have `(d_out, rank)`. Return `a` and `b` of one adapter whose update "
        "`b @ a` is exactly `(1 - share) * b1 @ a1 + share * b2 @ a2`, with "
        "`share` from 0 to 1. Put the rows of `a1` before those of `a2`, leave both "
        "unscaled, and scale `b`.",
        minutes=7,
        difficulty="medium",
        importance=3,
        cases=_blend_cases,
        reference=blended,
        hints=(
            "A product of two matrices is a sum over the inner axis, so a sum of two products is one product with a longer "
            "inner axis: the new rank is twice the old.",
            "`torch.cat([a1, a2])` below each other; `torch.cat([(1 - share) * b1, share * b2], dim=1)` beside each other.",
        ),
        right="Exact, at twice the rank. Adding a to a and b to b would also give b1 @ a2 and b2 @ a1, which nobody trained.",
        mistakes=mistakes(
            (
                _blended_update,
                "You add a to a and b to b. Multiply that out: there are two products in it that nobody trained.",
            ),
            (_blend_unscaled, "The shares are missing: scale b1 by 1 - share and b2 by share."),
            (_blend_scaled_twice, "You scale a and b, so that the update is scaled twice."),
            (_blend_swapped, "The share belongs to the second adapter; yours gives it to the first."),
        ),
        outputs=("a", "b"),
    ),
    Exercise(
        id="lora.effective_rank",
        title="How many directions were used",
        task="An adapter of rank 16 may use far fewer directions. How many?\n\n"
        "`update` is b @ a, of shape `(d_out, d_in)`. Divide its singular values by their sum; take e to the entropy of these "
        "shares (the sum of `-p log p`, where zeros count nothing). Return that number: 1 where one direction does it all, n "
        "where n directions do equally much (Roy and Vetterli 2007).",
        minutes=6,
        difficulty="medium",
        importance=3,
        cases=_effective_cases,
        reference=effective_rank,
        hints=(
            "`torch.linalg.svdvals(update)` has the singular values. 0 log 0 gives NaN: leave zeros out.",
            "`shares = values / values.sum()`, then `torch.exp(-(shares * shares.log()).sum())` over the shares above zero.",
        ),
        right="A number between 1 and the rank. A random update of the same rank is beside it in labkit's table.",
        mistakes=mistakes(
            (_effective_counted, "You count the singular values that are not zero, however small they are."),
            (_effective_entropy, "That is the entropy. Take e to its power."),
            (_effective_squared, "You square the singular values first. Roy and Vetterli take them as they are."),
            (_effective_bits, "Entropy in bits goes with 2 to its power; with e it has to be in nats."),
            (_effective_nan, "All is right but for singular values of 0, where 0 log 0 gives NaN."),
        ),
    ),
)
