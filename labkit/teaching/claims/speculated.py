"""What is computed for the claim about speculative sampling: what it gains in passes and time, and that the text is the same."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.lab import Lab

NEW_TOKENS, ROUNDS = 48, 3
PROMPTS = {
    "text that repeats itself": (
        "Correct the spelling in this text and write out all of it: The old clok stood in the hall of the house by the sea, and "
        "every evening at nine the old clok struck, so that the whole house by the sea could hear it."
    ),
    "plain text": "Tell me about the sea.",
}
SAMPLES, CHOICES = 400, 3  # texts, and of how many likeliest tokens each is drawn
SAMPLED = "Once upon a time"
LEAST = 5.0  # times that an outcome is to be expected for the test to count it by itself
SURE = 0.001  # a p-value below this would tell the two apart


def spec_decoding() -> tuple[float, str]:
    """How much faster the default model writes plain text with tokens looked up in it; acceptance, and whether it is the same."""
    from labkit.lab import load

    gains, sentences, same = written(load(dtype="float32", device="cpu"))
    p = samples_alike(load("labkit-dense", dtype="float32", device="cpu"))
    alike = "can't be told from those of plain sampling" if p > SURE else "differ from those of plain sampling"
    identical = "the greedy texts are identical" if same else "greedy texts differ"
    return round(gains["plain text"], 2), (
        f"the default model in float32, {NEW_TOKENS} tokens with prompt look-up: {'; '.join(sentences)}; {identical}; {SAMPLES} "
        f"sampled texts of labkit-dense {alike} (chi-squared, p = {p:.2f})"
    )


def written(lab: Lab, tokens: int = NEW_TOKENS, rounds: int = ROUNDS) -> tuple[dict[str, float], list[str], bool]:
    """By kind of text: how many times as fast with look-up as without; a sentence of each; whether all texts are the same."""
    gains: dict[str, float] = {}
    sentences: list[str] = []
    same = True
    for kind, prompt in PROMPTS.items():
        lab.generate(prompt, max_new_tokens=2, speculation="prompt_lookup")  # what is tried once is tried here
        pairs = []
        for _ in range(rounds):  # in turns: what else the machine does hits both
            plain = lab.generate(prompt, max_new_tokens=tokens)
            drafted = lab.generate(prompt, max_new_tokens=tokens, speculation="prompt_lookup")
            same &= plain.ids == drafted.ids
            pairs.append((plain.decode_seconds, drafted.decode_seconds))
        before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
        said = drafted.speculation
        assert said is not None
        gains[kind] = before / after if after > 0 else float("nan")
        sentences.append(
            f"{kind} {gains[kind]:.2f} times as fast, {said.accepted} of {said.proposed} drafted tokens accepted, "
            f"{said.tokens_per_pass:.2f} tokens a pass (at most {said.perfect_tokens_per_pass:.2f})"
        )
    return gains, sentences, same


def samples_alike(lab: Lab, samples: int = SAMPLES) -> float:
    """The p-value that texts sampled with drafts come as often as plain sampling would have them (chi-squared).

    Of three tokens, the second drafted by half of the model's own layers: a mind that differs, and that always has a draft.
    """
    from scipy import stats

    from labkit.generation.speculation import Draft

    draft = Draft(early_exit=lab.config.num_hidden_layers // 2, tokens=1, confidence=0.0)
    prompt = list(lab.tokenizer(SAMPLED, add_special_tokens=False).input_ids)
    chances: dict[tuple[int, ...], float] = {}
    for one, p in _likeliest(lab, prompt):
        for two, q in _likeliest(lab, [*prompt, one]):
            chances |= {(one, two, three): p * q * r for three, r in _likeliest(lab, [*prompt, one, two])}
    counts = dict.fromkeys(chances, 0)
    for seed in range(samples):
        made = lab.generate(
            prompt, max_new_tokens=3, temperature=1.0, top_k=CHOICES, seed=seed, speculation=draft, alternatives=1
        )
        if tuple(made.ids) in counts:
            counts[tuple(made.ids)] += 1
    often = sorted((text for text in chances if samples * chances[text] >= LEAST), key=lambda text: chances[text])
    seen, expected = [counts[text] for text in often], [samples * chances[text] for text in often]
    unseen, rest = samples - sum(seen), samples - sum(expected)  # rare texts, and those that ended before
    if rest >= LEAST:
        seen, expected = [*seen, unseen], [*expected, rest]
    else:  # too few to count by themselves
        seen[0], expected[0] = seen[0] + unseen, expected[0] + rest
    return float(stats.chisquare(seen, expected).pvalue)


def _likeliest(lab: Lab, ids: list[int]) -> list[tuple[int, float]]:
    """The likeliest tokens after a text, each with its chance among them."""
    best = lab.next_logits(ids).double().topk(CHOICES)
    return list(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))
