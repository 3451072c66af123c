"""Generations made by hand: no model, but numbers that agree with each other as a model's would."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import pandas as pd
import torch

from labkit.generation.record import Generation, Sampling
from labkit.generation.speculation import Round, Speculation

TAIL = 60  # tokens that share what the named ones leave

# token, its probability, the alternatives with theirs
STORY: list[tuple[str, float, dict[str, float]]] = [
    ("The", 0.62, {"Sun": 0.11, "Because": 0.07, "When": 0.05, "Sky": 0.02}),
    (" sky", 0.88, {" blue": 0.05, " color": 0.03, " short": 0.01, " reason": 0.005}),
    (" looks", 0.13, {" is": 0.41, " appears": 0.30, " seems": 0.04, " turns": 0.02}),
    (" blue", 0.991, {" so": 0.002, " to": 0.001, " like": 0.001, " bright": 0.0005}),
    (" because", 0.81, {" due": 0.09, " to": 0.04, " when": 0.02, " during": 0.01}),
    (" sunlight", 0.27, {" of": 0.33, " the": 0.19, " it": 0.06, " air": 0.03}),
    (" is", 0.38, {" bounces": 0.09, " gets": 0.06, " scatters": 0.05, ",": 0.04}),
    (" scattered", 0.64, {" made": 0.12, " a": 0.05, " reflected": 0.03, " white": 0.02}),
    (" by", 0.93, {" in": 0.04, " when": 0.01, " as": 0.005, " off": 0.004}),
    (" the", 0.49, {" tiny": 0.12, " air": 0.11, " gas": 0.08, " molecules": 0.07}),
    (" air", 0.22, {" atmosphere": 0.24, " gases": 0.13, " Earth": 0.11, " molecules": 0.06}),
    (".", 0.44, {" molecules": 0.21, " in": 0.12, " around": 0.06, ",": 0.05}),
    ("\n\n", 0.31, {" Blue": 0.17, " The": 0.15, " Short": 0.06, "\n": 0.05}),
    ("Short", 0.04, {"The": 0.28, "Blue": 0.16, "Red": 0.07, "This": 0.06}),
    (" waves", 0.19, {"er": 0.61, " wavelengths": 0.12, " light": 0.03, "-": 0.02}),
    (" scatter", 0.17, {" of": 0.29, ",": 0.12, " are": 0.09, " (": 0.05}),
    (" about", 0.03, {" more": 0.64, " much": 0.11, " the": 0.06, " most": 0.03}),
    (" sixteen", 0.02, {" ten": 0.19, " four": 0.11, " twice": 0.09, " five": 0.08}),
    (" times", 0.97, {" as": 0.01, " percent": 0.005, "-": 0.004, " and": 0.001}),
    (" as", 0.52, {" more": 0.43, " better": 0.02, " stronger": 0.006, ",": 0.002}),
    (" strongly", 0.33, {" much": 0.41, " well": 0.08, " often": 0.07, " far": 0.02}),
    (" as", 0.96, {" than": 0.01, ",": 0.006, ".": 0.005, " when": 0.001}),
    (" long", 0.47, {" red": 0.25, " the": 0.09, " longer": 0.06, " those": 0.02}),
    (" ones", 0.34, {" waves": 0.58, " wavelengths": 0.03, " wave": 0.01, ",": 0.005}),
    (".", 0.79, {",": 0.12, " do": 0.02, " and": 0.02, ";": 0.006}),
    ("<|im_end|>", 0.26, {" That": 0.17, " The": 0.14, "\n\n": 0.11, " So": 0.08}),
]
CHAT_PROMPT = [
    "<|im_start|>", "system", "\n", "You", " are", " a", " helpful", " assistant", ".", "<|im_end|>", "\n",
    "<|im_start|>", "user", "\n", "Why", " is", " the", " sky", " blue", "?", "<|im_end|>", "\n",
    "<|im_start|>", "assistant", "\n",
]  # fmt: skip


def generation(
    steps: Sequence[tuple[str, float, dict[str, float]]] = STORY,
    *,
    text: str | None = None,
    prompt_tokens: Sequence[str] = (),
    temperature: float = 0.8,
    finish_reason: str = "length",
    kept: int | None = None,
    **fields: object,
) -> Generation:
    """A generation from (token, probability, alternatives) steps; what these leave is shared by 60 more tokens."""
    numbers: dict[str, int] = {}

    def number(token: str) -> int:
        return numbers.setdefault(token, 100 + len(numbers))

    k = kept if kept is not None else min((1 + len(others) for _, _, others in steps), default=0)
    logprobs, entropies, ranks, top_ids, top_logprobs, top_tokens = [], [], [], [], [], []
    for token, probability, others in steps:
        named = {token: probability, **others}
        order = sorted(named, key=lambda name: -named[name])
        left = 1 - sum(named.values())
        assert left > -1e-9, (token, left)
        logprobs.append(math.log(probability))
        entropies.append(
            -sum(p * math.log(p) for p in named.values()) - (left * math.log(left / TAIL) if left > 1e-9 else 0)
        )
        ranks.append(order.index(token))
        top_ids.append([number(name) for name in order[:k]])
        top_logprobs.append([math.log(named[name]) for name in order[:k]])
        top_tokens.append(order[:k])
    tokens = [token for token, _, _ in steps]
    n = len(tokens)
    base = {
        "text": "".join(tokens) if text is None else text,
        "ids": [number(token) for token in tokens],
        "tokens": tokens,
        "prompt_ids": list(range(len(prompt_tokens))),
        "prompt_tokens": list(prompt_tokens),
        "logprobs": torch.tensor(logprobs, dtype=torch.float32),
        "sampled_logprobs": torch.tensor(logprobs, dtype=torch.float32) * (0.7 if temperature else 0.0),
        "entropies": torch.tensor(entropies, dtype=torch.float32),
        "ranks": torch.tensor(ranks, dtype=torch.int64),
        "top_ids": torch.tensor(top_ids, dtype=torch.int64).reshape(n, k),
        "top_logprobs": torch.tensor(top_logprobs, dtype=torch.float32).reshape(n, k),
        "top_tokens": top_tokens,
        "finish_reason": finish_reason,
        "sampling": Sampling(temperature=temperature, seed=1 if temperature else None),
        "prefill_seconds": 0.2,
        "decode_seconds": (n - 1) / 18.4 if n > 1 else 0.0,
        "model": "tiny-model",
        "prompt": "".join(prompt_tokens),
    }
    return Generation(**(base | fields))  # type: ignore[arg-type]


def story(**fields: object) -> Generation:
    """26 tokens that answer why the sky is blue, the last one a special token; 25 tokens of prompt."""
    text = "".join(token for token, _, _ in STORY[:-1])
    given: dict[str, object] = {"text": text, "prompt_tokens": CHAT_PROMPT, "finish_reason": "end"}
    return generation(STORY, **(given | fields))  # type: ignore[arg-type]


def long(n: int, seed: int = 0) -> Generation:
    """n tokens of the story's words with probabilities drawn at random."""
    draw = random.Random(seed)
    words = [token for token, _, _ in STORY[:-1]]
    steps = []
    for _ in range(n):
        token, *others = draw.sample(sorted(set(words)), 5)
        probability = draw.betavariate(1.2, 0.5) * 0.98 + 0.01
        left = (1 - probability) * 0.8
        steps.append((token, probability, {other: left / 2 ** (j + 1) for j, other in enumerate(others)}))
    return generation(steps)


def of_tokens(tokens: Sequence[str], probability: float = 0.4, **fields: object) -> Generation:
    """Tokens as given, each with the same probability and a few alternatives."""
    steps = [(token, probability, {" other": 0.3, " third": 0.1}) for token in tokens]
    return generation(steps, **fields)  # type: ignore[arg-type]


HOSTILE = [
    "<script>window.broken = 1</script>", "<img src=x onerror='window.broken = 2'>", "</script>", "<!--", "]]>",
    "</style>", "</textarea>", "&lt;b&gt;", "<svg onload=window.broken=3>", '" onfocus="window.broken=4', "'", "\\",
    "\u0000", "\u0007", "\r", "\u001b[31m", "\u202eesrever\u202c", "\u2066", "\u200b\u200b\u200b", "\ufeff", "\u2028",
    "\u2029", "\u00ad", "\u00a0", "\U000e0041", "\ue000", "😀", "👨‍👩‍👧", "e\u0301", "\u0301", "中文", "עברית", " عربي", "हिन्दी",
    "\ufffd", "{{7*7}}", "${window.broken=5}", "javascript:window.broken=6", "x" * 10_000, "\t", "    ", "\n",
    "__proto__", "constructor", "",
]  # fmt: skip
LONE_SURROGATES = ["\ud800", "a\udfffb", "\ud83d\ude00"]


def speculated() -> Generation:
    """The story, three rounds of it drafted: one taken for the most part, one in vain, one that the text's end cut short."""
    rounds = (
        Round((1, 2, 3, 4), 3, 4, 0.5, 0.0625),
        Round((5, 6), 0, 1, 0.25, 0.03125),
        Round((7, 8, 9), 2, 2, 0.25, 0.03125),
    )
    return dataclasses.replace(story(), speculation=Speculation("a <small> model", rounds))


def throughput_table() -> pd.DataFrame:
    """Of `lab.throughput`, three batches."""
    rates = [24.0, 40.0, 96.5]
    return pd.DataFrame(
        {
            "batch": [1, 2, 8],
            "tokens_per_second": rates,
            "relative": [rate / rates[0] for rate in rates],
            "first_token_seconds": [0.25, 0.3, 0.7],
            "seconds": [1.5, 2.0, 3.0],
            "cache_bytes": [1_000, 2_000, 8_000],
            "peak_bytes": [5_000, 9_000, 30_000],
        }
    )
