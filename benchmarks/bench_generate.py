"""lab.generate, with everything it records, against transformers' generate on the same model: the same greedy tokens."""

from __future__ import annotations

import torch
from common import compare, report

import labkit as lk

TOKENS = 64
PROMPT = "Tell me about the sea."


if __name__ == "__main__":
    lab = lk.load()
    encoded = lab.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(lab.device)

    def ours(speed: str = "plain") -> list[int]:
        return lab.generate(PROMPT, max_new_tokens=TOKENS, speed=speed).ids

    def theirs(**options: object) -> list[int]:
        with torch.no_grad():
            out = lab.model.generate(**encoded, max_new_tokens=TOKENS, do_sample=False, **options)
        return out[0, encoded["input_ids"].shape[1] :].tolist()

    assert ours() == theirs(), "the peers must generate the same tokens"
    results = [
        compare(f"{TOKENS} greedy tokens", ("lab.generate", ours), ("model.generate", theirs), rounds=5),
    ]
    if lab.device.type == "cuda":
        results.append(
            compare(
                f"{TOKENS} greedy tokens, compiled step",
                ("lab.generate(speed='fast')", lambda: ours("fast")),
                ("lab.generate", ours),
                rounds=5,
                warm_up=2,
            )
        )
    report(results)
