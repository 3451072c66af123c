"""What is computed for the claim that temperature 0 gives one answer: greedy text alone, again, and in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.generation.batches import Repeats
    from labkit.lab import Lab

DTYPES = ("float32", "bfloat16")
NEW_TOKENS = 32
PROMPTS = (
    "Tell me about the sea.",
    "Write a short story about a fox and a clock.",
    "Why do leaves change their colour in autumn?",
)
BESIDE = (
    "Hi!",
    "List five animals that live in the desert, with a sentence on each of them and what it eats.",
    "What is 7 times 8?",
    "Explain to a child how a rainbow comes about, in no more than three sentences, and end with a question.",
)


def temperature_0() -> tuple[float, str]:
    """How many different answers the default model gives to a prompt at temperature 0, at most, in bfloat16; and in float32."""
    from labkit.lab import load

    found: dict[str, list[Repeats]] = {}
    for dtype in DTYPES:
        lab = load(dtype=dtype, device="cpu")
        found[dtype] = measured(lab)
    return told(found)


def measured(lab: Lab, tokens: int = NEW_TOKENS) -> list[Repeats]:
    """Of each prompt, alone, again, several times at once and beside others."""
    from labkit.generation.batches import repeats

    return [repeats(lab, prompt, BESIDE, max_new_tokens=tokens) for prompt in PROMPTS]


def told(found: dict[str, list[Repeats]]) -> tuple[float, str]:
    """The value, the largest number of answers in the last dtype, and the sentence."""
    sentences = []
    for dtype, each in found.items():
        answers = ", ".join(str(one.answers) for one in each)
        parts = [row for one in each for row in one.table.itertuples() if row.answer]
        sentence = f"{answers} in {dtype}"
        if parts:
            first, margin = min(row.at for row in parts), max(max(row.margin, row.other_margin) for row in parts)
            sentence += f" (they part from token {first} on, where the margin of the logits was at most {margin:.2g})"
        alone = sum(bool(row.answer) for one in each for row in one.table.itertuples() if row.texts == 1)
        sentence += "; run alone again each came out the same" if parts and not alone else ""
        sentences.append(sentence)
    runs = len(next(iter(found.values()))[0].table)
    many = max(one.answers for one in list(found.values())[-1])
    return float(many), (
        f"each of {len(PROMPTS)} prompts written {runs} times greedily, alone, several times at once and beside others of other "
        f"lengths: different answers {'; '.join(sentences)}"
    )
