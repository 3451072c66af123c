"""Several texts at once: what it brings in speed up to the limit of memory, and whether each is written as if alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadInput, NotEnoughMemory
from labkit.generation.margins import first_difference, smallest_margin
from labkit.markup import counted
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes, model_memory
from labkit.models.resident import Growth
from labkit.results import Result
from labkit.trace.input import encode
from labkit.trace.running import embedding_rows

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.generating_lab import GeneratingLab
    from labkit.generation.record import Generation

PROMPT = "Once upon a time"
MOST = 64  # texts at once, where nothing else is asked for
SCORES_HELD = 4  # copies of a step's logits, (batch, vocabulary) float32, that are there at once
SPARED = 0.9  # of the free memory
APART = ("at", "token", "other_token", "margin", "other_margin", "disagreement")  # of a Margin, as columns


# how fast -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Throughput(Result):
    """Speed by how many texts are written at once; `throughput` tells the columns of its table.

    model: its name.  prompt_tokens, new_tokens: of each text.  rounds: whose median is told.  ended: why no larger batch was
    tried, in a sentence.
    """

    model: str
    prompt_tokens: int
    new_tokens: int
    rounds: int
    ended: str

    def _title(self) -> str:
        return (
            f"Texts at once, {self.model}: {self.new_tokens} tokens after {self.prompt_tokens}, "
            f"median{'s' * (self.rounds > 1)} of {self.rounds} round{'s' * (self.rounds > 1)}"
        )

    def _remarks(self) -> Sequence[str]:
        return (self.ended,)


def throughput(
    lab: GeneratingLab,
    prompt: object = PROMPT,
    *,
    batches: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    rounds: int = 2,
    chat: bool | None = False,
) -> Throughput:
    """Write a prompt's text many times at once, and measure.

    batches: how many texts, in rising order; None for 1, 2, 4 ... up to 64.  A batch whose cache and scores would not fit
        into 0.9 of the free memory is not tried, nor any larger one; nor is one after memory ran out.
    rounds: each goes through all batches, after one run to warm up, so that a slow minute falls on all; medians are told.
    Returns a `Throughput`, whose table has a row a batch: batch, tokens_per_second (of all texts together, after their first
    tokens), relative (to the first batch), first_token_seconds, seconds (of the whole run), cache_bytes (keys and values at
    the end, counted from the architecture), peak_bytes (on a CPU how far the process's resident memory rose, on CUDA how
    far torch's did; beside weights).
    Raises BadInput for batches that are no rising whole numbers from 1.
    """
    import pandas as pd

    max_new_tokens = checks.whole("max_new_tokens", max_new_tokens, 2)
    rounds = checks.whole("rounds", rounds, 1)
    wanted = _batches(batches)
    ids = encode(lab.tokenizer, prompt, chat=chat).ids
    vocabulary = embedding_rows(lab.model)
    of_one = model_memory(lab.model, tokens=len(ids) + max_new_tokens).kv_cache_bytes or 0  # 0 where it can't be told
    cache = {size: size * of_one for size in wanted}
    fits, ended = (
        [],
        f"no more than {counted(wanted[-1], 'text')} at once {'was' if wanted[-1] == 1 else 'were'} asked for",
    )
    for size in wanted:
        needed, free = cache[size] + SCORES_HELD * 4 * size * vocabulary, SPARED * free_bytes(str(lab.device))
        if needed > free:
            asked = f"{counted(size, 'text')} at once need{'s' * (size == 1)} {human_bytes(needed)}"
            ended = f"{asked} for keys, values and scores, and {human_bytes(int(free))} may be taken"
            break
        fits.append(size)
    if not fits:
        raise NotEnoughMemory(f"Nothing was measured: {ended}; generate fewer tokens, or free some memory.")
    found: dict[int, list[tuple[float, float, float, int]]] = {}
    lab.generate([ids], max_new_tokens=2, chat=None, alternatives=1)
    for _ in range(rounds):
        for size in list(fits):
            try:
                found.setdefault(size, []).append(_measured(lab, ids, size, max_new_tokens))
            except NotEnoughMemory:
                fits = fits[: fits.index(size)]
                found = {one: runs for one, runs in found.items() if one in fits}
                ended = f"memory ran out at {counted(size, 'text')} at once"
                break
        if not fits:
            raise NotEnoughMemory(f"Nothing was measured: {ended}; generate fewer tokens, or free some memory.")
    rows = []
    for size, runs in found.items():
        rate, first, seconds = (statistics.median(run[i] for run in runs) for i in range(3))
        rows.append((size, rate, first, seconds, cache[size], max(run[3] for run in runs)))
    columns = ["batch", "tokens_per_second", "first_token_seconds", "seconds", "cache_bytes", "peak_bytes"]
    table: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    table.insert(2, "relative", table["tokens_per_second"] / table["tokens_per_second"].iloc[0])
    return Throughput(table, lab.name, len(ids), max_new_tokens, rounds, ended)


def _batches(given: Sequence[int] | None) -> list[int]:
    if given is None:
        return [2**i for i in range(MOST.bit_length())]
    wanted = "whole numbers from 1, each larger than the one before"
    sizes = [checks.whole("batches", size, 1, wanted=wanted) for size in checks.series("batches", given, wanted)]
    if not sizes or sorted(set(sizes)) != sizes:
        checks.refuse("batches", given, wanted)
    return sizes


def _measured(lab: GeneratingLab, ids: list[int], size: int, tokens: int) -> tuple[float, float, float, int]:
    """Tokens a second after the first, seconds until the first and in all, and bytes taken."""
    import torch

    on_cuda = lab.device.type == "cuda"
    if on_cuda:
        before = torch.cuda.memory_allocated(lab.device)
        torch.cuda.reset_peak_memory_stats(lab.device)
    with Growth() as grown:
        made = lab.generate([ids] * size, max_new_tokens=tokens, chat=None, alternatives=1)
    peak = torch.cuda.max_memory_allocated(lab.device) - before if on_cuda else grown.most
    first, after = made[0].prefill_seconds, max(gen.decode_seconds for gen in made)
    count = sum(len(gen.ids) - 1 for gen in made)
    return count / after if after > 0 else float("nan"), first, first + after, peak


# the same text --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Repeats(Result):
    """One prompt's greedy text, alone and beside other texts; `repeats` tells the columns of its table.

    model: its name.  dtype: of its weights.  answers: how many different texts there were.  smallest_margin: how close the
    closest choice of the text written alone was: the least by which the chosen token's logit stood above the next.
    """

    model: str
    dtype: str
    answers: int
    smallest_margin: float

    def _title(self) -> str:
        many = "one text" if self.answers == 1 else f"{self.answers} different texts"
        return f"Greedy, {self.model} in {self.dtype}: {many} of one prompt"

    def _remarks(self) -> Sequence[str]:
        return (
            f"the closest choice of the text written alone: a margin of {self.smallest_margin:.2g} between two logits",
        )


def repeats(
    lab: GeneratingLab,
    prompt: object,
    beside: Sequence[object],
    *,
    max_new_tokens: int = 48,
    chat: bool | None = None,
) -> Repeats:
    """Write one prompt's greedy text alone, again, several times at once, and beside growing lists of other prompts.

    beside: other prompts, best of other lengths; the prompt stands first among none of them, one, two, ... all.
    Returns a `Repeats`, whose table has a row for each time the text was written: run (how), texts (in its batch), answer (0 for
    the text written alone, counted on for each new one); where it differs from the text written alone, at (the first token
    that does), token (of the text alone), other_token, margin, other_margin (nats by which each run held its likeliest token
    above the next there), disagreement (nats by which the two runs' log-probabilities differ there: a margin below twice
    that is a near tie, which rounding decides).
    Raises BadInput for no other prompts.
    """
    import pandas as pd

    others = [encode(lab.tokenizer, one, chat=chat).ids for one in checks.series("beside", beside, "a list of prompts")]
    if not others:
        raise BadInput("beside is empty; give at least one other prompt.")
    ids = encode(lab.tokenizer, prompt, chat=chat).ids
    runs = [("alone", [ids]), ("alone again", [ids])]
    runs += [(f"{n} at once", [ids] * n) for n in (2, 4)]
    runs += [(f"beside {n} other{'s' * (n > 1)}", [ids, *others[:n]]) for n in range(1, len(others) + 1)]
    texts: list[list[int]] = []
    rows = []
    alone: Generation | None = None
    for name, batch in runs:
        made = lab.generate(batch, max_new_tokens=max_new_tokens, chat=None, alternatives=20)
        for given, gen in zip(batch, made, strict=True):
            if given != ids:
                continue
            alone = alone or gen
            if gen.ids not in texts:
                texts.append(gen.ids)
            part = first_difference(alone, gen)
            rows.append((name, len(batch), texts.index(gen.ids), *(part or (None,) * len(APART))))
    assert alone is not None
    table = pd.DataFrame(rows, columns=["run", "texts", "answer", *APART])
    table = table.astype({"at": "Int64"} | dict.fromkeys(APART[3:], "float64"))
    dtype = str(lab.dtype).removeprefix("torch.")
    return Repeats(table, lab.name, dtype, len(texts), smallest_margin(alone))
