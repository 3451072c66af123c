"""Engines on the default model, one text at a time: tokens a second, time to the first token, peak memory, and their limit.

transformers' generate, lab.generate plain and fast, torch's own packed products (4 and 8 bits), and llama.cpp on the model's
own Q4_1 file: through labkit, which records each token, and alone, by the server that xllamacpp brings. All write the same
number of tokens after the same prompt, greedily, with the same threads, by turns, so that a slow minute falls on all.

limit: the bandwidth of memory, measured between the rounds, divided by the bytes of weights that a token reads. Peak memory is
that of a process of its own for each engine, model and libraries included (without --quick).
--quick: fewer tokens and rounds. --json: as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, cast

import torch
from common import default_lab, machine, own_peak
from transformers import StoppingCriteria, StoppingCriteriaList

import labkit as lk
from labkit.errors import LabError
from labkit.generation import llama_cpp
from labkit.models import origin
from labkit.quantization import contents
from labkit.quantization.speeds import bytes_per_token, read_bandwidth

PROMPT = "Tell me about the sea."


@dataclass(frozen=True)
class Timed:
    """One run: seconds to the first token, seconds of each token after it, and what was written."""

    first: float
    each: float
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """An engine's medians. relative: tokens a second over transformers' generate's, median of the rounds' own ratios."""

    engine: str
    tokens_per_second: float
    relative: float
    relative_from: float
    relative_to: float
    share_of_limit: float
    first_token_seconds: float
    peak_bytes: int | None


@functools.cache
def prompt() -> tuple[int, ...]:
    return tuple(default_lab().generate(PROMPT, max_new_tokens=1).prompt_ids)


class Clock(StoppingCriteria):
    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        self.at.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def transformers_generate(tokens: int) -> Timed:
    clock, ids = Clock(), torch.tensor([prompt()])
    began = time.perf_counter()
    with torch.no_grad():
        out = default_lab().model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return Timed(
        clock.at[0] - began, (clock.at[-1] - clock.at[0]) / (tokens - 1), tuple(out[0, ids.shape[1] :].tolist())
    )


def by(lab: Callable[[], lk.Lab], **how: Any) -> Callable[[int], Timed]:
    def run(tokens: int) -> Timed:
        gen = lab().generate(list(prompt()), max_new_tokens=tokens, **how)
        return Timed(gen.prefill_seconds, gen.decode_seconds / max(1, len(gen) - 1), tuple(gen.ids))

    return run


@functools.cache
def packed(format: str) -> lk.Lab:
    return cast("lk.Lab", lk.quantization.quantize(default_lab(), format, backend="torch", progress=False))


@functools.cache
def server() -> Any:
    """llama.cpp as xllamacpp brings it: a server, on a loopback port."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(own_file())
    settings.n_ctx, settings.n_parallel = 1024, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.hostnames, settings.port, settings.offline, settings.ui = ["127.0.0.1"], 0, True, False
    settings.n_gpu_layers, settings.verbosity, settings.warmup = 0, -1, False
    return xllamacpp.Server(settings)


def own_file() -> Any:
    return origin.gguf_of(default_lab().model)


def llama_alone(tokens: int) -> Timed:
    """By llama.cpp's own clock, so that nothing of the server's or of Python's is counted against it."""
    asked = {"prompt": list(prompt()), "n_predict": tokens, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
    told = server().handle_completions(asked)["timings"]
    return Timed(told["prompt_ms"] / 1000, told["predicted_ms"] / 1000 / told["predicted_n"])


def engines() -> dict[str, tuple[Callable[[int], Timed], Callable[[], object]]]:
    """What runs, and whose weights a token reads there."""
    found: dict[str, tuple[Callable[[int], Timed], Callable[[], object]]] = {
        "transformers generate": (transformers_generate, default_lab),
        "lab.generate": (by(default_lab), default_lab),
        "lab.generate fast": (by(default_lab, speed="fast"), default_lab),
    }
    for format in ("int4", "int8"):
        small = functools.partial(packed, format)
        found[f"torch {format}, bf16"] = (by(small, speed="fast"), small)
    if llama_cpp.is_there():
        found["llama.cpp by labkit, Q4_1"] = (by(default_lab, engine="llama.cpp"), own_file)
        found["llama.cpp alone, Q4_1"] = (llama_alone, own_file)
    return found


def peak_bytes(engine: str, tokens: int) -> int:
    """Resident memory at its highest in a process that runs this engine alone."""
    command = [sys.executable, __file__, "--only", engine, "--tokens", str(tokens)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.strip().splitlines()[-1])


def measure(tokens: int, rounds: int, *, memory: bool) -> tuple[list[Row], float]:
    there = engines()
    written = {name: run(tokens) for name, (run, _) in there.items()}  # the first run of each is not counted
    plain = [written[name].ids for name in ("transformers generate", "lab.generate", "lab.generate fast")]
    shortest = min(map(len, plain))  # labkit ends where the model does
    assert len({ids[:shortest] for ids in plain}) == 1, "in one precision all must write the same tokens"
    bandwidths: list[float] = []
    runs: dict[str, list[Timed]] = {name: [] for name in there}
    for _ in range(rounds):
        bandwidths.append(read_bandwidth())
        for name, (run, _weights) in there.items():
            runs[name].append(run(tokens))
    bandwidth = median(bandwidths)
    base = [each.each for each in runs["transformers generate"]]
    rows = []
    for name, (_run, weights) in there.items():
        mine = [each.each for each in runs[name]]
        ratios = sorted(b / m for b, m in zip(base, mine, strict=True))
        held = weights()
        read = bytes_per_token(held, contents(cast("Any", held)).table)
        rows.append(
            Row(
                name,
                1 / median(mine),
                median(ratios),
                ratios[0],
                ratios[-1],
                read / median(mine) / bandwidth,
                median(each.first for each in runs[name]),
                peak_bytes(name, tokens) if memory else None,
            )
        )
    return rows, bandwidth


def as_table(rows: Sequence[Row], bandwidth: float, tokens: int, rounds: int) -> str:
    head = f"{'':27}{'tokens/s':>9}{'relative':>10}{'(rounds)':>14}{'of limit':>10}{'first token':>13}{'peak MB':>9}"
    lines = [head]
    for row in rows:
        spread = f"{row.relative_from:.2f}–{row.relative_to:.2f}"
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        lines.append(
            f"{row.engine:27}{row.tokens_per_second:9.1f}{row.relative:10.2f}{spread:>14}{row.share_of_limit:10.0%}"
            f"{row.first_token_seconds:11.2f} s{peak:>9}"
        )
    lines.append(
        f"medians of {rounds} alternating rounds of {tokens} tokens after {len(prompt())}; memory reads "
        f"{bandwidth / 1e9:.1f} GB/s in the same run; {machine()}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--only", help="run one engine once and print the highest resident memory of the process")
    given = parser.parse_args()
    tokens = given.tokens or (16 if given.quick else 64)
    rounds = given.rounds or (2 if given.quick else 5)
    if given.only:
        engines()[given.only][0](tokens)
        print(own_peak())
        return
    if tokens < 2:
        raise LabError("A token after the first is timed: give --tokens 2 or more.")
    rows, bandwidth = measure(tokens, rounds, memory=not given.quick)
    if given.json:
        told = {"rows": [asdict(row) for row in rows], "bandwidth": bandwidth, "tokens": tokens, "rounds": rounds}
        print(json.dumps({**told, "machine": machine()}, indent=1))
    else:
        print(as_table(rows, bandwidth, tokens, rounds))


if __name__ == "__main__":
    main()
