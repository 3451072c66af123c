"""One text at a time on a GPU, bfloat16: lab.generate(speed="fast") against transformers' generate, and the limit of memory.

The default model, and a Llama of 8 billion random weights (the shape of Llama 3.1 8B): what is generated does not matter for
the time. Wanted: 5 times generate on the default model, 80 % of the bandwidth limit at 8 billion. The limit is the bandwidth
of a sum over 4 GiB in the same run, divided by the bytes of weights that a token reads.

Without CUDA it says so and measures nothing; --dry-run takes tiny random models through the same code on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any, cast

import torch
from common import machine
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.initialization import no_init_weights

import labkit as lk
from labkit.quantization import contents
from labkit.quantization.speeds import bytes_per_token, read_bandwidth

LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
TINY = {**LLAMA_8B, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPT = list(range(100, 164))
PROBE_BYTES, PASSES = 4 << 30, 10


def random_llama(shape: dict[str, Any], device: str, name: str) -> lk.Lab:
    """Without a token that would end its text."""
    config = LlamaConfig(**shape, eos_token_id=None, bos_token_id=None)
    with no_init_weights(), torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name_, weight in model.named_parameters():
            weight.normal_(float("norm" in name_), 0.02)
    return lk.Lab(model.eval(), lk.load(device="cpu").tokenizer, name=name)


class Clock(StoppingCriteria):
    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        self.at.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def theirs(lab: lk.Lab, tokens: int) -> float:
    """Seconds of a token after the first."""
    clock, ids = Clock(), torch.tensor([PROMPT], device=lab.device)
    with torch.no_grad():
        lab.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return (clock.at[-1] - clock.at[0]) / (tokens - 1)


def ours(lab: lk.Lab, tokens: int, speed: str) -> float:
    gen = lab.generate(PROMPT, max_new_tokens=tokens, speed=cast("Any", speed))
    return gen.decode_seconds / max(1, len(gen) - 1)


def measure(lab: lk.Lab, bandwidth: float, tokens: int, rounds: int) -> None:
    began = time.perf_counter()
    ours(lab, tokens, "fast")
    compiling = time.perf_counter() - began
    ways = {
        "transformers generate": lambda: theirs(lab, tokens),
        "lab.generate": lambda: ours(lab, tokens, "plain"),
        "lab.generate fast": lambda: ours(lab, tokens, "fast"),
    }
    for run in ways.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            taken[name].append(run())
    read = bytes_per_token(lab, contents(lab).table)
    print(f"{lab.name}: {read / 1e9:.2f} GB of weights a token; the first fast run took {compiling:.1f} s")
    base = median(taken["transformers generate"])
    for name, seconds in taken.items():
        each = median(seconds)
        print(
            f"  {name:24}{1 / each:9.1f} tokens/s  {base / each:6.2f} times  {read / each / bandwidth:6.0%} of the limit"
        )
    if lab.device.type == "cuda":
        print(f"  peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.dry_run:
        measure(random_llama(TINY, "cpu", "tiny"), read_bandwidth(), given.tokens, given.rounds)
        return
    if not torch.cuda.is_available():
        print("There is no CUDA device here: the figures for a GPU are open. --dry-run takes the code through the CPU.")
        sys.exit(0)
    bandwidth = read_bandwidth("cuda", size_bytes=PROBE_BYTES, passes=PASSES)
    print(f"{machine()}; memory reads {bandwidth / 1e12:.2f} TB/s")
    small = lk.load(device="cuda", dtype="bfloat16")
    measure(small, bandwidth, given.tokens, given.rounds)
    small.close()
    measure(random_llama(LLAMA_8B, "cuda", "8B Llama, random"), bandwidth, given.tokens, given.rounds)


if __name__ == "__main__":
    main()
