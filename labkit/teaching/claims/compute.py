"""What is computed for a claim, by its id. Exact ones come from configurations, measured ones are deterministic."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from labkit.attention import peak_bytes
from labkit.teaching.claims import (
    architectures,
    autoencoders,
    generated,
    generated_batches,
    landscapes,
    languages,
    layers,
    long_context,
    mixtures,
    quantized,
    speculated,
    tuned,
)


@dataclass(frozen=True)
class Computed:
    """A claim's number, the sentence that puts it beside the statement, and, of a time, where it was taken."""

    value: float
    comparison: str
    machine: str = ""


# ---------------------------------------------------------------------------------------------------------- KV caches


def gqa_40() -> Computed:
    """How much of the KV cache LLaMA 2's grouping saves, each size against itself with a key-value head per head."""
    from labkit.models import memory, published

    saved = {}
    for name in ("llama-2-7b", "llama-2-13b", "llama-2-70b"):
        entry = published.get(name)
        assert entry is not None, name
        config = dict(entry.config)
        single = {**config, "num_key_value_heads": config["num_attention_heads"]}
        grouped, full = (memory.memory(c, tokens=4096).kv_cache_bytes for c in (config, single))
        assert grouped is not None, name
        assert full is not None, name
        saved[name] = 100 * (1 - grouped / full)
    each = ", ".join(f"{percent:g} % in {name.removeprefix('llama-2-').upper()}" for name, percent in saved.items())
    return Computed(saved["llama-2-70b"], f"saved of the cache: {each}; 40 % in none of them")


# ------------------------------------------------------------------------------------------------------ memory by length


def full_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention as its formula says, all weights at once. query, key, value: (T, d). Returns (T, d). Not causal."""
    return torch.softmax(query @ key.T / query.shape[-1] ** 0.5, dim=-1) @ value


def tiled_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tile: int = 64) -> torch.Tensor:
    """The same, a tile of keys at a time, with a running maximum and sum for each query: never more than (T, tile) scores.

    Online softmax, Milakov and Gimelshein 2018, as FlashAttention uses it (Dao et al. 2022). Taking the queries in tiles
    too, as FlashAttention-2 does, makes the working memory smaller still and leaves the growth as it is.
    """
    query = query / query.shape[-1] ** 0.5
    largest = torch.full((len(query), 1), float("-inf"))
    total = torch.zeros(len(query), 1)
    output = torch.zeros(len(query), value.shape[1])
    for j in range(0, len(key), tile):
        scores = query @ key[j : j + tile].T
        new = torch.maximum(largest, scores.amax(1, keepdim=True))
        weights = (scores - new).exp_()
        shrink = torch.exp(largest - new)
        total = total * shrink + weights.sum(1, keepdim=True)
        output.mul_(shrink).addmm_(weights, value[j : j + tile])
        largest = new
    return output / total


LENGTHS = (1024, 2048, 4096)
_HEAD = 128


def flash_memory() -> Computed:
    """With which power of the length the memory of attention grows, all weights at once and in tiles."""
    peaks: dict[str, list[int]] = {"full": [], "tiled": []}
    for T in LENGTHS:
        qkv = torch.randn(3, T, _HEAD, generator=torch.Generator().manual_seed(T)).unbind()
        peaks["full"].append(peak_bytes(full_attention, *qkv))
        peaks["tiled"].append(peak_bytes(tiled_attention, *qkv))
    growth = {name: exponent(LENGTHS, sizes) for name, sizes in peaks.items()}
    ratio = peaks["full"][-1] / peaks["tiled"][-1]
    return Computed(
        round(growth["tiled"], 2),
        f"peak memory of one head of size {_HEAD} grows with the length to the power {growth['tiled']:.2f} in tiles, "
        f"{growth['full']:.2f} all at once; at {LENGTHS[-1]:,} tokens tiles need {ratio:.0f} times less",
    )


def exponent(lengths: tuple[int, ...], sizes: list[int]) -> float:
    """Slope of log size by log length, by least squares."""
    x = [math.log(length) for length in lengths]
    return statistics.linear_regression(x, [math.log(size) for size in sizes]).slope


# --------------------------------------------------------------------------------------------------------------- speed


@dataclass(frozen=True)
class Shape:
    """A decoder layer: query heads, key-value heads, and the MLP's width that keeps the parameters equal."""

    d_model: int
    heads: int
    kv_heads: int
    mlp: int

    @property
    def parameters(self) -> int:
        d_head = self.d_model // self.heads
        return self.d_model * (2 * self.d_model + 2 * self.kv_heads * d_head + 3 * self.mlp)


# LLaMA 2 7B's layer, and the same with 8 key-value heads, whose savings go into the MLP, as LLaMA 2 70B did it.
MULTI_HEAD = Shape(4096, 32, 32, 11008)
GROUPED = Shape(4096, 32, 8, 13056)
CACHE_LENGTHS = (512, 4096, 16384)
_STATED_LENGTH = 4096
_REPEATS = 15


class DecodeLayer:
    """One LLaMA layer at one decoding step, with a KV cache. Norms and rotation are left out: they are alike in both."""

    def __init__(self, shape: Shape, tokens: int, generator: torch.Generator) -> None:
        d_head = shape.d_model // shape.heads

        def weights(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

        d, kv = shape.d_model, shape.kv_heads * d_head
        self.shape, self.tokens = shape, tokens
        self.q, self.k, self.v, self.o = weights(d, d), weights(kv, d), weights(kv, d), weights(d, d)
        self.gate, self.up, self.down = weights(shape.mlp, d), weights(shape.mlp, d), weights(d, shape.mlp)
        self.keys = torch.randn(1, shape.kv_heads, tokens + 1, d_head, generator=generator)
        self.values = torch.randn(1, shape.kv_heads, tokens + 1, d_head, generator=generator)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        """x: (1, d_model), the new token. Its key and value go to the cache's last place. Returns (1, d_model)."""
        linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
        kv_heads, group = self.shape.kv_heads, self.shape.heads // self.shape.kv_heads
        self.keys[0, :, self.tokens] = linear(x, self.k).view(kv_heads, -1)
        self.values[0, :, self.tokens] = linear(x, self.v).view(kv_heads, -1)
        # query heads of one group are rows of one product, so that no key is read or copied twice
        query = linear(x, self.q).view(1, kv_heads, group, -1)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, self.keys, self.values)
        x = x + linear(mixed.reshape(1, -1), self.o)
        return x + linear(silu(linear(x, self.gate)) * linear(x, self.up), self.down)


def llama_40_faster() -> Computed:
    """Speed-up of a whole layer's decoding step when its 32 heads share 8 keys and values, at one number of parameters."""
    assert MULTI_HEAD.parameters == GROUPED.parameters
    gain: dict[int, float] = {}
    x = torch.randn(1, MULTI_HEAD.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tokens in CACHE_LENGTHS:
            layers = [DecodeLayer(shape, tokens, torch.Generator().manual_seed(1)) for shape in (MULTI_HEAD, GROUPED)]
            seconds: list[list[float]] = [[], []]
            for _ in range(_REPEATS):
                for layer, taken in zip(layers, seconds, strict=True):  # in turns: what else the machine does hits both
                    start = time.perf_counter()
                    layer.step(x)
                    taken.append(time.perf_counter() - start)
            multi, grouped = (statistics.median(taken[2:]) for taken in seconds)
            gain[tokens] = 100 * (multi / grouped - 1)
            del layers
    each = ", ".join(f"{round(percent)} % at {tokens:,} cached tokens" for tokens, percent in gain.items())
    return Computed(
        round(gain[_STATED_LENGTH]),
        f"one decoding step of a LLaMA 2 7B layer, 8 key-value heads against 32 at equal parameters, batch 1, float32: "
        f"faster by {each}",
        machine(),
    )


def machine() -> str:
    """What a time was taken on: processor, cores in use, torch. No name of the machine."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 - a file of the kernel's
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
        model = names[0] if names else model
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{model}, {cores} cores, torch {torch.__version__.partition('+')[0]}, {torch.get_num_threads()} threads"


COMPUTE: dict[str, Callable[[], Computed]] = {
    "gqa-40": gqa_40,
    "llama-40-faster": llama_40_faster,
    "flash-memory": flash_memory,
    "seven-b-72h": lambda: Computed(*landscapes.seven_b_72h()),
    "falcon-256": lambda: Computed(*landscapes.falcon_256()),
    "matrix-hardware": lambda: Computed(*landscapes.matrix_hardware()),
    "gptq-75-2x": lambda: Computed(*quantized.gptq_75_2x(), machine()),
    "int4-phone": lambda: Computed(*quantized.int4_phone()),
    "harder-to-squeeze": lambda: Computed(*quantized.harder_to_squeeze()),
    "ternary": lambda: Computed(*quantized.ternary()),
    "lora-small": lambda: Computed(*tuned.lora_small()),
    "alignment-tax": lambda: Computed(*tuned.alignment_tax()),
    "neftune": lambda: Computed(*tuned.neftune()),
    "schedule-free": lambda: Computed(*tuned.schedule_free()),
    "qwen-alibi": lambda: Computed(*architectures.qwen_alibi()),
    "mixtral-20": lambda: Computed(*mixtures.mixtral_20()),
    "moe-roles": lambda: Computed(*mixtures.moe_roles()),
    "prune-blind": lambda: Computed(*mixtures.prune_blind()),
    "sae-roles": lambda: Computed(*mixtures.sae_roles()),
    "layer-11-broken": lambda: Computed(*layers.layer_11_broken()),
    "golden-gate": lambda: Computed(*autoencoders.golden_gate()),
    "rope-one-line": lambda: Computed(*long_context.rope_one_line()),
    "yarn-128k": lambda: Computed(*long_context.yarn_128k()),
    "json-for-free": lambda: Computed(*generated.json_for_free(), machine()),
    "spec-decoding": lambda: Computed(*speculated.spec_decoding(), machine()),
    "language-tax": lambda: Computed(*languages.language_tax_claim()),
    "temperature-0": lambda: Computed(*generated_batches.temperature_0(), machine()),
}
