"""Prompt look-up by labkit's own loop, with everything it records, against transformers' on the same model; and against none.

The same greedy tokens are asserted. --quick: labkit-dense and fewer tokens. --json: the results as JSON.
"""

from __future__ import annotations

import sys

import torch
from common import Result, compare, report

import labkit as lk

PROMPTS = {
    "text that repeats itself": (
        "Correct the spelling in this text and write out all of it: The old clok stood in the hall of the house by the sea, and "
        "every evening at nine the old clok struck, so that the whole house by the sea could hear it."
    ),
    "plain text": "Tell me about the sea.",
}
DRAFTED, NGRAM = 10, 3


def compared(lab: lk.Lab, kind: str, prompt: str, tokens: int, rounds: int) -> list[Result]:
    """Of one prompt: against transformers' look-up, and against plain decoding."""
    plain = lab.generate(prompt, max_new_tokens=tokens)
    ids = torch.tensor([plain.prompt_ids], device=lab.device)
    draft = lk.Draft("prompt_lookup", tokens=DRAFTED, ngram=NGRAM)

    def ours() -> list[int]:
        return lab.generate(prompt, max_new_tokens=tokens, speculation=draft).ids

    def theirs() -> list[int]:
        with torch.no_grad():
            made = lab.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                prompt_lookup_num_tokens=DRAFTED,
                max_matching_ngram_size=NGRAM,
            )
        return made[0, ids.shape[1] :].tolist()

    assert ours() == plain.ids, "greedy text must be the same with drafts"
    assert theirs() == plain.ids, "the peers must generate the same tokens"
    if "--json" not in sys.argv:
        print(f"{kind}: {lab.generate(prompt, max_new_tokens=tokens, speculation=draft).speculation}")
    mine = ("lab.generate(speculation='prompt_lookup')", ours)
    return [
        compare(f"{kind}, {tokens} tokens", mine, ("transformers' prompt look-up", theirs), rounds=rounds),
        compare(
            f"{kind}, {tokens} tokens, against plain decoding",
            mine,
            ("lab.generate", lambda: lab.generate(prompt, max_new_tokens=tokens).ids),
            rounds=rounds,
        ),
    ]


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    bench = lk.load("labkit-dense", dtype="float32", device="cpu") if quick else lk.load()
    asked = [
        result
        for kind, prompt in PROMPTS.items()
        for result in compared(bench, kind, prompt, 32 if quick else 64, 3 if quick else 5)
    ]
    report(asked)
