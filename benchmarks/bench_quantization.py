"""Quantization on the CPU: packing the whole default model, the KL of a quantized model over long texts, tokens a second.

Packing: the default model's matrices, by labkit's grids and by the library that makes the same: bitsandbytes for NF4, gguf
for GGUF's blocks, torchao for int8 (where it is installed). Methods: GPTQ, activation-aware scaling and HQQ on some of its
matrices, each against rounding the same matrices to nearest, since no library here does them on a CPU; what enters the
matrices is drawn at random, on which the time does not depend. KL: `lk.quantization.damage` over 20,000 tokens of the texts that
come with labkit, with intervals and all else it tells, against a plain loop that runs both models and takes the mean KL.
Speed: `lk.quantization.speed` of labs and GGUF files in one run; llama.cpp where xllamacpp is installed.

--quick: one tenth of the matrices (of the methods one in fifty), 1,000 tokens, few tokens generated. --json: the results as JSON.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common import Result, compare, default_lab, report

import labkit as lk
from labkit.quantization import Activations, Format, formats
from labkit.quantization.methods import METHODS
from labkit.trace.documents import Documents

GGUF = ("q4_0", "q8_0")


@functools.cache
def weights(share: float) -> tuple[torch.Tensor, ...]:
    """Matrices of the default model's layers."""
    found = [each.weight for each in lk.quantization.matrices(default_lab()).values() if each.part == "layer"]
    return tuple(found[: max(1, int(len(found) * share))])


def ours(format: str, share: float) -> None:
    chosen = formats.of(format)
    for weight in weights(share):
        chosen.pack(weight)


def bitsandbytes_nf4(share: float) -> None:
    import bitsandbytes.functional as library

    for weight in weights(share):
        library.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)


def gguf_blocks(format: str, share: float) -> None:
    import gguf

    for weight in weights(share):
        gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType[format.upper()])


def torchao_int8(share: float) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    for weight in weights(share):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        quantize_(torch.nn.Sequential(linear), Int8WeightOnlyConfig())


def packing(share: float, rounds: int) -> list[Result]:
    peers: dict[str, tuple[str, Callable[[], None]]] = {}
    if importlib.util.find_spec("bitsandbytes"):
        peers["nf4"] = ("bitsandbytes quantize_4bit", lambda: bitsandbytes_nf4(share))
    for name in GGUF:
        peers[name] = ("gguf.quantize", functools.partial(gguf_blocks, name, share))
    if importlib.util.find_spec("torchao"):
        peers["int8"] = ("torchao quantize_", lambda: torchao_int8(share))
    count = sum(weight.numel() for weight in weights(share))
    return [
        compare(
            f"{count:,} weights to {name}",
            (f"labkit, {name}", functools.partial(ours, name, share)),
            peer,
            rounds=rounds,
        )
        for name, peer in peers.items()
    ]


@functools.cache
def inputs(columns: int) -> Activations:
    """Second moments of random inputs."""
    drawn = torch.randn(2 * columns, columns, generator=torch.Generator().manual_seed(0))
    return Activations(drawn.T @ drawn / len(drawn), drawn.abs().mean(0), len(drawn))


def chosen_by(method: str, format: Format, share: float) -> None:
    for weight in weights(share):
        METHODS[method].choose(weight, format, [inputs(weight.shape[-1])])


def choosing(share: float, rounds: int) -> list[Result]:
    count = sum(weight.numel() for weight in weights(share))
    found = []
    for method, symmetric in (("gptq", True), ("awq", True), ("hqq", False)):
        format = formats.of("int4", symmetric=symmetric)
        found.append(
            compare(
                f"{count:,} weights to int4 by {METHODS[method].title}",
                (f"method={method!r}", functools.partial(chosen_by, method, format, share)),
                ("method='rtn'", functools.partial(chosen_by, "rtn", format, share)),
                rounds=rounds,
            )
        )
    return found


@functools.cache
def small() -> lk.Lab:
    return lk.quantization.quantize(default_lab(), "q8_0", progress=False)


def measured(tokens: int) -> float:
    return lk.quantization.damage(default_lab(), small(), tokens=tokens, progress=False).kl


def plain_loop(tokens: int) -> float:
    """A document at a time, both models, the mean KL in float64."""
    original, other = default_lab(), small()
    total = counted = 0.0
    documents = Documents(original, lk.quantization.texts(), most=tokens)
    for ids in documents.ids:
        given = torch.as_tensor(ids)[None]
        first, second = (lab.model(input_ids=given, use_cache=False).logits[0] for lab in (original, other))
        p, q = (logits[:-1].double().log_softmax(-1) for logits in (first, second))
        total += float((p.exp() * (p - q)).sum())
        counted += len(p)
    return total / counted


def kl(tokens: int, rounds: int) -> Result:
    mine, theirs = measured(tokens), plain_loop(tokens)
    assert abs(mine - theirs) < 0.05 * theirs, f"the peers must find the same KL: {mine} and {theirs}"
    return compare(
        f"KL of q8_0 over {tokens:,} tokens",
        ("lk.quantization.damage", lambda: print_nothing(measured(tokens))),
        ("a plain loop, a document at a time", lambda: print_nothing(plain_loop(tokens))),
        rounds=rounds,
        warm_up=0,
    )


def print_nothing(_: object) -> None:
    """What returns a number would be taken for seconds."""


def speeds(tokens: int, rounds: int, files: Sequence[str]) -> lk.quantization.Speed:
    lab, quantize = default_lab(), lk.quantization.quantize
    models: dict[str, Any] = {"float32": lab, "bfloat16": lk.load(device="cpu", dtype="bfloat16", fresh=True)}
    models["labkit int4"] = quantize(lab, "int4", progress=False)
    for backend, format in (("torch", "int4"), ("torch", "int8"), ("bitsandbytes", "nf4"), ("bitsandbytes", "int8")):
        if backend == "torch" or importlib.util.find_spec(backend):
            source = models["bfloat16"] if format == "nf4" else lab  # its fast product takes bfloat16
            models[f"{backend} {format}"] = quantize(source, format, backend=backend, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("xllamacpp"):
            for name in files:
                path = Path(folder) / f"{name}.gguf"
                lk.quantization.write_gguf(lab, path, name, head="f16" if name == "f16" else "q8_0")
                models[f"llama.cpp {name}"] = path
        return lk.quantization.speed(models, tokens=tokens, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results: list[Result] = []

    def told(more: list[Result]) -> None:
        results.extend(more)
        if not asked.json:
            report(more)
            sys.stdout.flush()

    told(packing(0.1 if asked.quick else 1.0, 3))
    told(choosing(0.02 if asked.quick else 0.2, 1 if asked.quick else 3))
    told([kl(1_000 if asked.quick else 20_000, 1 if asked.quick else 3)])
    found = speeds(8 if asked.quick else 64, 1 if asked.quick else 5, GGUF[:1] if asked.quick else ("f16", *GGUF))
    if asked.json:
        every = {"ratios": [asdict(each) for each in results], "speeds": found.table.to_dict("records")}
        print(json.dumps({**every, "bandwidth": found.bandwidth}, indent=1, default=float))
        return
    print(found._title())
    print(found.table.round(3).to_string(index=False))
    print(*found._remarks(), sep="\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
