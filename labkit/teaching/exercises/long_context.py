"""Exercises of notebook 10, long context: positions stretched, windows, and what stands in attention's place."""

from __future__ import annotations

import torch

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random


def _uniform(*shape: int, seed: int, low: float = 0.2, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------------- angles


def angles(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    """positions: (T,); frequencies: (pairs,), in radians a token; factor: how much longer.

    Returns (T, pairs): the angle by which each pair of numbers is turned.
    """
    return torch.outer(positions / factor, frequencies)


def _angles_cases() -> list[Case]:
    def case(T: int, pairs: int, factor: float, shows: str) -> Case:
        return Case((torch.arange(T).float(), 100.0 ** (-torch.arange(pairs) / pairs), factor), shows)

    return [
        Case((torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0]), 1.0), "one pair, nothing stretched"),
        Case((torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0]), 2.0), "twice as long: half the angle"),
        case(4, 3, 4.0, "three pairs, four times as long"),
        Case((torch.tensor([5.0, 100.0]), torch.tensor([1.0, 0.1]), 8.0), "positions that don't begin at 0"),
        case(32, 8, 2.5, "32 tokens, eight pairs"),
    ]


def _angles_plain(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.outer(positions, frequencies)


def _angles_wider(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.outer(positions * factor, frequencies)


def _angles_whole(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.outer(torch.floor(positions / factor), frequencies)


def _angles_from_first(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.outer((positions - positions[0]) / factor, frequencies)


def _angles_turned(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.outer(frequencies, positions / factor)


# ---------------------------------------------------------------------------------------------------------------- yarn


def yarn(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    """frequencies: (pairs,), fast ones first.

    Pairs up to low keep theirs, those from high on get theirs divided by factor; in between
    the two are mixed. Returns (pairs,).
    """
    place = torch.arange(len(frequencies))
    stretched = ((place - low) / (high - low)).clamp(0, 1)
    return frequencies * (1 - stretched) + frequencies / factor * stretched


def _yarn_cases() -> list[Case]:
    def case(pairs: int, low: int, high: int, factor: float, shows: str) -> Case:
        return Case((10_000.0 ** (-torch.arange(pairs) / pairs), low, high, factor), shows)

    return [
        Case((torch.tensor([1.0, 0.1, 0.01]), 0, 2, 2.0), "three pairs: kept, half and half, divided"),
        case(8, 2, 6, 4.0, "eight pairs, mixed between the third and the seventh"),
        case(8, 0, 1, 4.0, "all but the first are divided"),
        case(8, 6, 7, 4.0, "all but the last are kept"),
        case(6, 1, 4, 1.0, "a factor of 1 changes nothing"),
        case(32, 9, 20, 16.0, "32 pairs, 16 times as long"),
    ]


def _yarn_all(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    return frequencies / factor


def _yarn_reversed(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    kept = ((torch.arange(len(frequencies)) - low) / (high - low)).clamp(0, 1)
    return frequencies * kept + frequencies / factor * (1 - kept)


def _yarn_unclamped(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    stretched = (torch.arange(len(frequencies)) - low) / (high - low)
    return frequencies * (1 - stretched) + frequencies / factor * stretched


def _yarn_step(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    return torch.where(torch.arange(len(frequencies)) <= low, frequencies, frequencies / factor)


def _yarn_multiplied(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    stretched = ((torch.arange(len(frequencies)) - low) / (high - low)).clamp(0, 1)
    return frequencies * (1 - stretched) + frequencies * factor * stretched


def _yarn_factor_mixed(frequencies: torch.Tensor, low: int, high: int, factor: float) -> torch.Tensor:
    stretched = ((torch.arange(len(frequencies)) - low) / (high - low)).clamp(0, 1)
    return frequencies / (1 + stretched * (factor - 1))


# --------------------------------------------------------------------------------------------------------------- alibi


def alibi(heads: int, T: int) -> torch.Tensor:
    """heads: a power of two. Returns (heads, T, T), what is added to the scores.

    Row i is the query, column j the key; minus infinity where j > i.
    """
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    i, j = torch.arange(T)[:, None], torch.arange(T)
    bias = slopes[:, None, None] * (j - i)
    return bias.masked_fill(j > i, -torch.inf)


def _alibi_cases() -> list[Case]:
    return [
        Case((8, 1), "one token: nothing to add"),
        Case((1, 3), "one head, three tokens"),
        Case((2, 4), "two heads"),
        Case((8, 5), "eight heads: the first slope is one half"),
        Case((16, 12), "16 heads, twelve tokens"),
    ]


def _alibi_one_slope(heads: int, T: int) -> torch.Tensor:
    return alibi(1, T).expand(heads, T, T)


def _alibi_rewarding(heads: int, T: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return -alibi(heads, T).masked_fill(j > i, torch.inf)


def _alibi_from_zero(heads: int, T: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    slopes = 2.0 ** (-8 * torch.arange(heads) / heads)
    return (slopes[:, None, None] * (j - i)).masked_fill(j > i, -torch.inf)


def _alibi_unmasked(heads: int, T: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)[:, None, None] * (j - i)


def _alibi_turned(heads: int, T: int) -> torch.Tensor:
    return alibi(heads, T).transpose(1, 2)


def _alibi_even(heads: int, T: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    slopes = torch.arange(1, heads + 1) / heads
    return (slopes[:, None, None] * (j - i)).masked_fill(j > i, -torch.inf)


# -------------------------------------------------------------------------------------------------------------- window


def window(T: int, size: int, sinks: int) -> torch.Tensor:
    """Who may look at whom: (T, T), True where query i may look at key j.

    Each sees the last size tokens, itself among them, and the first sinks tokens of the text.
    """
    i, j = torch.arange(T)[:, None], torch.arange(T)
    near = i - j < size
    return (j <= i) & (near | (j < sinks))


def _window_cases() -> list[Case]:
    return [
        Case((3, 1, 0), "each sees itself alone"),
        Case((4, 2, 0), "itself and one before, no sinks"),
        Case((5, 2, 1), "a window of two and one sink"),
        Case((3, 1, 5), "more sinks than tokens: never ahead"),
        Case((4, 9, 1), "a window longer than the text"),
        Case((20, 6, 4), "20 tokens, a window of six, four sinks"),
    ]


def _window_without_sinks(T: int, size: int, sinks: int) -> torch.Tensor:
    return window(T, size, 0)


def _window_one_more(T: int, size: int, sinks: int) -> torch.Tensor:
    return window(T, size + 1, sinks)


def _window_sinks_ahead(T: int, size: int, sinks: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return ((j <= i) & (i - j < size)) | (j < sinks)


def _window_ahead(T: int, size: int, sinks: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return ((i - j).abs() < size) | (j < sinks)


def _window_queries(T: int, size: int, sinks: int) -> torch.Tensor:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return (j <= i) & ((i - j < size) | (i < sinks))


def _window_hidden(T: int, size: int, sinks: int) -> torch.Tensor:
    return ~window(T, size, sinks)


# ---------------------------------------------------------------------------------------------------------------- scan


def scan(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """x: (T,), one channel's inputs; decay, write, read: (T, n), for a state of n numbers.

    Returns (T,), the channel's outputs.
    """
    state = torch.zeros(decay.shape[1])
    outputs = []
    for t in range(len(x)):
        state = decay[t] * state + write[t] * x[t]
        outputs.append((read[t] * state).sum())
    return torch.stack(outputs)


def _scan_cases() -> list[Case]:
    def case(T: int, n: int, shows: str) -> Case:
        seed = 100 * T + n
        return Case(
            (
                random(T, seed=seed),
                _uniform(T, n, seed=seed + 1),
                random(T, n, seed=seed + 2),
                random(T, n, seed=seed + 3),
            ),
            shows,
        )

    ones = torch.ones(3, 1)
    return [
        Case((torch.tensor([1.0, 2.0, 3.0]), ones, ones, ones), "nothing is forgotten: a running sum"),
        Case((torch.tensor([1.0, 0.0, 0.0]), 0.5 * ones, ones, ones), "half is forgotten at each token"),
        Case((torch.tensor([1.0, 2.0, 3.0]), 0 * ones, ones, 2 * ones), "all is forgotten: each token alone"),
        case(5, 2, "a state of two numbers"),
        case(40, 8, "40 tokens, a state of eight numbers"),
    ]


def _scan_read_before(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    state, outputs = torch.zeros(decay.shape[1]), []
    for t in range(len(x)):
        outputs.append((read[t] * state).sum())
        state = decay[t] * state + write[t] * x[t]
    return torch.stack(outputs)


def _scan_no_memory(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    return (read * write).sum(dim=1) * x


def _scan_no_decay(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    return scan(x, torch.ones_like(decay), write, read)


def _scan_decay_late(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    state, outputs = torch.zeros(decay.shape[1]), []
    for t in range(len(x)):
        state = decay[t] * (state + write[t] * x[t])
        outputs.append((read[t] * state).sum())
    return torch.stack(outputs)


def _scan_states(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    return scan(x, decay, write, torch.ones_like(read))


# --------------------------------------------------------------------------------------------------- hidden attention


def hidden_attention(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """decay, write, read: (T, n), as for the scan.

    Returns (T, T): row t has how much of each earlier input x[s] is in output t, so that the
    matrix times x is what the scan puts out.
    """
    T = len(decay)
    matrix = torch.zeros(T, T)
    for s in range(T):
        kept = write[s]
        for t in range(s, T):
            if t > s:
                kept = decay[t] * kept
            matrix[t, s] = (read[t] * kept).sum()
    return matrix


def _hidden_cases() -> list[Case]:
    def case(T: int, n: int, shows: str) -> Case:
        seed = 100 * T + n
        return Case((_uniform(T, n, seed=seed), random(T, n, seed=seed + 1), random(T, n, seed=seed + 2)), shows)

    ones = torch.ones(3, 1)
    return [
        Case((ones, ones, ones), "nothing is forgotten: all ones below the diagonal"),
        Case((0.5 * ones, ones, ones), "half is forgotten at each token"),
        Case((torch.tensor([[0.5], [0.1], [0.2]]), ones, ones), "another decay at each token"),
        case(4, 2, "a state of two numbers"),
        case(20, 5, "20 tokens, a state of five numbers"),
    ]


def _hidden_decay_early(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(len(decay), len(decay))
    for t in range(len(decay)):
        for s in range(t + 1):
            matrix[t, s] = (read[t] * decay[s:t].prod(dim=0) * write[s]).sum()
    return matrix


def _hidden_decay_all(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(len(decay), len(decay))
    for t in range(len(decay)):
        for s in range(t + 1):
            matrix[t, s] = (read[t] * decay[s : t + 1].prod(dim=0) * write[s]).sum()
    return matrix


def _hidden_no_decay(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    return (read @ write.T).tril()


def _hidden_turned(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    return hidden_attention(decay, write, read).T


def _hidden_normalised(decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    matrix = hidden_attention(decay, write, read)
    return matrix / matrix.sum(dim=1, keepdim=True)


EXERCISES = (
    Exercise(
        id="long_context.angles",
        title="One changed line",
        task="Rotary positions turn each pair of a query's or key's numbers by position times frequency. Positions "
        "beyond those of the training make angles that the model never saw.\n\n"
        "Position interpolation (Chen et al. 2023) squeezes them: a text `factor` times as long has its positions "
        "between those of the training. `positions` is `(T,)` and `frequencies` `(pairs,)`. Return the angles, `(T, "
        "pairs)`.",
        minutes=3,
        difficulty="easy",
        importance=5,
        cases=_angles_cases,
        reference=angles,
        hints=(
            "A text twice as long has each of its positions halved.",
            "`torch.outer(a, b)` has the product of each of `a` with each of `b`: divide the positions first.",
        ),
        right="One division. Whether a model that was never trained so can read it is another question.",
        mistakes=mistakes(
            (_angles_plain, "That is the plain rotation: the factor has to do something."),
            (_angles_wider, "The other way: a longer text has to fit into the old positions."),
            (_angles_whole, "Positions need not be whole numbers: don't round, or neighbours get the same one."),
            (_angles_from_first, "Positions count from the text's beginning, not from the first that is given."),
            (_angles_turned, "A row for each position, a column for each pair: `(T, pairs)`."),
        ),
    ),
    Exercise(
        id="long_context.yarn",
        title="Stretch the slow ones only",
        task="Fast pairs tell neighbours apart and have gone round many times in training; only slow ones come to "
        "angles that were never seen. YaRN (Peng et al. 2023) therefore divides the frequencies of the slow pairs "
        "alone.\n\n`frequencies` is `(pairs,)`, fast ones first. Pairs up to number `low` keep theirs, those from "
        "number `high` on get theirs divided by `factor`. Between them, a pair's share of the divided one grows "
        "evenly, from 0 at `low` to 1 at `high`. Return the new frequencies.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_yarn_cases,
        reference=yarn,
        hints=(
            "What share is it, half way between `low` and `high`? And how do you keep it between 0 and 1 beyond them?",
            "`((torch.arange(pairs) - low) / (high - low)).clamp(0, 1)`, then mix `frequencies` and `frequencies / "
            "factor`.",
        ),
        right="YaRN also makes the scores a little larger (by a constant); the frequencies are the heart of it.",
        mistakes=mistakes(
            (_yarn_all, "That stretches all of them, which is position interpolation. Leave the fast ones alone."),
            (_yarn_reversed, "The other way round: fast pairs, which come first, keep theirs."),
            (_yarn_unclamped, "Shares below 0 and above 1 mean nothing: hold them with `clamp(0, 1)`."),
            (_yarn_step, "Between `low` and `high` it changes little by little."),
            (_yarn_multiplied, "Slow pairs become slower still: divide by the factor."),
            (_yarn_factor_mixed, "Mix the two frequencies, and not the factors."),
        ),
    ),
    Exercise(
        id="long_context.alibi",
        title="Distance instead of position",
        task="ALiBi (Press et al. 2022) gives tokens no position at all. It takes something off the scores: the "
        "more, the further a key is from the query.\n\n"
        "Of `heads` heads (a power of two), head number `h`, counted from 1, has the slope `2 ** (-8 * h / heads)`. "
        "For a query at `i` and a key at `j <= i` the bias is the slope times `j - i`; for `j > i` it is minus "
        "infinity. Return it for a text of `T` tokens: `(heads, T, T)`.",
        minutes=5,
        difficulty="medium",
        importance=3,
        cases=_alibi_cases,
        reference=alibi,
        hints=(
            "`torch.arange(T)[:, None]` are the queries and `torch.arange(T)` the keys; their difference is a table.",
            "`slopes[:, None, None] * (j - i)`, then `.masked_fill(j > i, -torch.inf)`.",
        ),
        right="It needs no positions, only distances, and new ones go on along the same line. BLOOM and MPT were "
        "trained so.",
        mistakes=mistakes(
            (_alibi_one_slope, "Each head has a slope of its own."),
            (_alibi_rewarding, "Far keys lose: the bias is 0 or below."),
            (_alibi_from_zero, "Heads are counted from 1 here: the first of eight has the slope one half."),
            (_alibi_unmasked, "What comes later must not be seen: minus infinity where `j > i`."),
            (_alibi_turned, "Rows are queries and columns keys: you have them turned."),
            (_alibi_even, "The slopes halve from head to head; they don't grow evenly."),
        ),
    ),
    Exercise(
        id="long_context.window",
        title="A window, and where attention goes to rest",
        task="A sliding window keeps the cache from growing: each token sees the last `size` tokens, itself among "
        "them. Many heads put what they have no use for on a text's first tokens, so these are kept as well "
        "(attention sinks, Xiao et al. 2024): `sinks` of them.\n\nReturn a bool tensor `(T, T)`: True where query "
        "`i` may look at key `j`, in a text of `T` tokens. Nobody looks ahead.",
        minutes=4,
        difficulty="easy",
        importance=4,
        cases=_window_cases,
        reference=window,
        hints=(
            "Three conditions: near enough, or among the first; and never ahead.",
            "`(j <= i) & ((i - j < size) | (j < sinks))`.",
        ),
        right="However long the text, no token looks at more than size + sinks others: that is all the cache has to "
        "keep.",
        mistakes=mistakes(
            (_window_without_sinks, "The first `sinks` tokens may be seen from everywhere behind them."),
            (_window_one_more, "The token itself is one of the `size`."),
            (_window_sinks_ahead, "The sinks must not be seen by tokens before them."),
            (_window_ahead, "Nobody looks ahead: `j <= i`."),
            (_window_queries, "The sinks are keys that all may look at, not queries that may look at all."),
            (_window_hidden, "True means that it may look."),
        ),
    ),
    Exercise(
        id="long_context.scan",
        title="A memory of fixed size",
        task="A state-space layer keeps no keys and values, but a state of `n` numbers. At each token it forgets "
        "some of it, writes something in, and reads.\n\n"
        "For one channel: `x` is `(T,)`, and `decay`, `write` and `read` are `(T, n)`. The state begins as zeros. At "
        "token `t` it becomes `decay[t]` times itself plus `write[t]` times `x[t]`; then the output is the sum of "
        "`read[t]` times the state. Return the outputs, `(T,)`.",
        minutes=5,
        difficulty="easy",
        importance=5,
        cases=_scan_cases,
        reference=scan,
        hints=(
            "A loop over the tokens with one tensor `state` of `n` numbers.",
            "`state = decay[t] * state + write[t] * x[t]`, then `(read[t] * state).sum()`; `torch.stack` the outputs.",
        ),
        right="In Mamba decay, write and read are made of the token itself: that is what selective means.",
        mistakes=mistakes(
            (_scan_read_before, "Write first and then read: a token's output knows the token itself."),
            (_scan_no_memory, "The state has to be carried from token to token."),
            (_scan_no_decay, "The state fades: multiply it by `decay[t]` first."),
            (_scan_decay_late, "What is written at this token has not faded yet: only the old state is multiplied."),
            (_scan_states, "Weigh the state by `read[t]` before you add it up."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        id="long_context.hidden_attention",
        title="The attention in a state-space layer",
        task="Between a state-space layer's input and output there is a matrix, as in attention (Ali et al. 2024). "
        "How much of `x[s]` is in output `t`? It was written at `s` with `write[s]`, has faded at each of the tokens "
        "`s + 1` to `t`, and is read with `read[t]`.\n\n`decay`, `write` and `read` are `(T, n)`. Return that matrix, "
        "`(T, T)`: row `t`, column `s`, and 0 where `s > t`.",
        minutes=8,
        difficulty="hard",
        importance=3,
        cases=_hidden_cases,
        reference=hidden_attention,
        hints=(
            "For one `s` go through `t = s, s + 1, ...` and carry what is left of `write[s]`.",
            "`kept = write[s]`; at each later `t`: `kept = decay[t] * kept`; the entry is `(read[t] * kept).sum()`.",
        ),
        right="Each row is a weighing of earlier tokens, as in attention; but entries may be negative, and rows need "
        "not add up to 1.",
        mistakes=mistakes(
            (_hidden_decay_early, "It fades at `s + 1` to `t`, and not at `s` to `t - 1`."),
            (_hidden_decay_all, "At the token where it is written it has not faded yet: begin at `s + 1`."),
            (_hidden_no_decay, "What was written fades on the way: the decays from `s + 1` to `t` are missing."),
            (_hidden_turned, "Row `t` is the output, column `s` the input: you have them turned."),
            (_hidden_normalised, "There is no softmax here: rows need not add up to 1."),
        ),
        tolerance=1e-4,
    ),
)
