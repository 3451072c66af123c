"""Several prompts at once by lab.generate, with everything it records, against transformers' generate on the same batch.

Batches of 1, 8 and 64 prompts of different lengths; the same greedy tokens are asserted. Then llama.cpp on the same model's
file, and the highest memory of a process for each way. --quick: labkit-dense, batches of 1 and 8, neither llama.cpp nor memory.
--json: the results as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import torch
from common import Result, compare, own_peak, report

import labkit as lk
from labkit.generation import llama_cpp

TOKENS = 32
WORDS = [
    "the",
    "old",
    "house",
    "by",
    "the",
    "sea",
    "had",
    "a",
    "clock",
    "that",
    "struck",
    "nine",
    "every",
    "evening",
    "when",
    "the",
    "lamps",
    "were",
    "lit",
]


def prompts_of(count: int) -> list[str]:
    return [" ".join(WORDS[: 3 + 5 * i % len(WORDS)]) for i in range(count)]


def ways(lab: lk.Lab, count: int) -> dict[str, Callable[[], list[list[int]]]]:
    """One size of batch, written by labkit and by transformers alone."""
    prompts = prompts_of(count)
    rows = [list(lab.tokenizer(prompt).input_ids) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=lab.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=lab.device)

    def ours() -> list[list[int]]:
        return [gen.ids for gen in lab.generate(prompts, max_new_tokens=TOKENS, chat=False)]

    def theirs() -> list[list[int]]:
        with torch.no_grad():
            made = lab.model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        return made[:, width:].tolist()

    return {"lab.generate": ours, "model.generate": theirs}


def title(count: int) -> str:
    return f"{count} prompt{'s' * (count > 1)} at once, {TOKENS} tokens each"


def compared(lab: lk.Lab, count: int, rounds: int) -> Result:
    """One size of batch, timed by turns."""
    ours, theirs = ways(lab, count).items()
    for mine, other in zip(ours[1](), theirs[1](), strict=True):
        assert mine == other[: len(mine)], "the peers must generate the same tokens"
    return compare(title(count), ours, theirs, rounds=rounds)


def against_llama(lab: lk.Lab, count: int, rounds: int) -> Result:
    """The same batch by llama.cpp on the model's own file, which writes one text after the other."""
    prompts = prompts_of(count)
    how = {"max_new_tokens": TOKENS, "chat": False}
    return compare(
        title(count),
        ("lab.generate", lambda: lab.generate(prompts, **how)),
        ("engine='llama.cpp'", lambda: lab.generate(prompts, engine="llama.cpp", **how)),
        rounds=rounds,
    )


def peak_bytes(way: str, count: int) -> int:
    """Resident memory at its highest in a process of its own, model and libraries included."""
    command = [sys.executable, __file__, "--peak", way, str(count)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    if "--peak" in sys.argv:
        wanted, size = sys.argv[-2:]
        ways(lk.load(device="cpu"), int(size))[wanted]()
        print(own_peak())
        sys.exit()
    quick = "--quick" in sys.argv
    sizes = (1, 8) if quick else (1, 8, 64)
    bench = lk.load("labkit-dense", dtype="float32", device="cpu") if quick else lk.load()
    results = [compared(bench, count, 3) for count in sizes]
    if not quick and llama_cpp.is_there():
        results += [against_llama(bench, count, 3) for count in sizes]
    if "--json" not in sys.argv:
        print(bench.throughput(batches=list(sizes), max_new_tokens=TOKENS, rounds=1))
        for count in () if quick else sizes:
            both = ", ".join(
                f"{way} {peak_bytes(way, count) / 1e6:,.0f} MB" for way in ("lab.generate", "model.generate")
            )
            print(f"{title(count)}: highest memory of a process: {both}")
    report(results)
