"""Several prompts at once by lab.generate, with everything it records, against transformers' generate on the same batch.

Batches of 1, 8 and 64 prompts of different lengths; the same greedy tokens are asserted. --quick: labkit-dense, batches of 1
and 8. --json: the results as JSON.
"""

from __future__ import annotations

import sys

import torch
from common import Result, compare, report

import labkit as lk

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


def compared(lab: lk.Lab, count: int, rounds: int) -> Result:
    """One size of batch."""
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

    for mine, other in zip(ours(), theirs(), strict=True):
        assert mine == other[: len(mine)], "the peers must generate the same tokens"
    return compare(
        f"{count} prompt{'s' * (count > 1)} at once, {TOKENS} tokens each",
        ("lab.generate", ours),
        ("model.generate", theirs),
        rounds=rounds,
    )


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    bench = lk.load("labkit-dense", dtype="float32", device="cpu") if quick else lk.load()
    results = [compared(bench, count, 3) for count in ((1, 8) if quick else (1, 8, 64))]
    if "--json" not in sys.argv:
        print(bench.throughput(batches=[1, 8] if quick else [1, 8, 64], max_new_tokens=TOKENS, rounds=1))
    report(results)
