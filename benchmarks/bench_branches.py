"""A branch against a fresh generate on the same tokens, and prompts behind a shared prefix against the same without.

Tokens that are run are counted at the model, and printed; the texts are asserted to be the same. --quick: labkit-dense and
shorter texts. --json: the results as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from common import Result, compare, report

import labkit as lk

PASSAGE = (
    "The old clock stood in the hall of the house by the sea, and every evening at nine it struck, so that the whole house "
    "could hear it. Nobody knew who had built it, or why its hands had once been bent. "
)


def run_tokens(lab: lk.Lab, call: Callable[[], object]) -> tuple[int, int]:
    """(tokens of the first pass, tokens of all passes) that the model is given in a call."""
    widths: list[int] = []
    hook = lab.model.register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[-1]), with_kwargs=True
    )
    try:
        call()
    finally:
        hook.remove()
    return widths[0], sum(widths)


def told(claim: str, ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    if "--json" not in sys.argv:
        print(
            f"{claim}: {ours[0]:,} tokens in the first pass against {theirs[0]:,}, {ours[1]:,} in all against {theirs[1]:,}"
        )


def branching(lab: lk.Lab, repeats: int, tokens: int, at: int, rounds: int) -> Result:
    """A branch that writes `tokens` in all."""
    parent = lab.generate(PASSAGE * repeats, max_new_tokens=tokens, chat=False)
    other = parent.top(2)[at][1].id
    begun = parent.prompt_ids + parent.ids[:at] + [other]

    def ours() -> lk.Generation:
        return parent.branch(at, other)

    def theirs() -> lk.Generation:
        made: lk.Generation = lab.generate(begun, max_new_tokens=tokens - at - 1)
        return made

    assert ours().ids[at + 1 :] == theirs().ids, "a branch must be what a fresh run gives"
    claim = f"a branch after {len(begun) - 1:,} tokens that writes {tokens - at - 1} more"
    told(claim, run_tokens(lab, ours), run_tokens(lab, theirs))
    return compare(claim, ("gen.branch", ours), ("lab.generate", theirs), rounds=rounds)


def sharing(lab: lk.Lab, repeats: int, tokens: int, rounds: int) -> Result:
    """Several prompts with one beginning, reading it included."""
    questions = ["Who built the clock?", "When did it strike?", "Where did it stand?", "What was bent?"]
    text = PASSAGE * repeats
    prompts = [f"{text}\n\n{question}" for question in questions]

    def without() -> list[list[int]]:
        return [lab.generate(prompt, chat=False, max_new_tokens=tokens).ids for prompt in prompts]

    def behind() -> list[list[int]]:
        with lab.prefix(text, chat=False):
            return without()

    assert behind() == without(), "a prefix must change nothing"
    claim = f"{len(prompts)} prompts that begin with the same {len(lab.tokenizer(text).input_ids):,} tokens, {tokens} new each"
    told(claim, run_tokens(lab, behind), run_tokens(lab, without))
    return compare(claim, ("with lab.prefix", behind), ("without", without), rounds=rounds)


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    bench = lk.load("labkit-dense", device="cpu") if quick else lk.load(device="cpu")
    rounds = 3 if quick else 5
    if "--json" not in sys.argv:
        lengths = (64, 128) if quick else (128, 512)
        print(bench.cache(lengths))
        print(lk.quantization.cache_sizes(bench, lengths))
        print(lk.generation.cache_times(bench, lengths, repeats=rounds))
    calls: list[Callable[[], Result]] = [
        partial(branching, bench, *each, rounds)
        for each in ([(1, 24, 20)] if quick else [(2, 48, 46), (8, 48, 46), (8, 48, 16)])
    ]
    calls.append(partial(sharing, bench, 1 if quick else 6, 4 if quick else 8, rounds))
    results = []
    for call in calls:
        results.append(call())
        if "--json" not in sys.argv:
            report(results[-1:])
    if "--json" in sys.argv:
        report(results)
