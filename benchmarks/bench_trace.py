"""lab.trace against the plain forward pass, eager attention and TransformerLens: time and extra memory, on the CPU.

Time: median of alternating rounds. Extra memory: each call runs in a process of its own, where a thread samples the
resident memory every millisecond; its peak above the state before the call, less that of the same library's plain
forward pass. The allocator is told there to give freed memory back at once, so that this is memory in use.

--quick: 256 tokens only. --json: the results as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from common import Result, compare, default_lab, eager_model, report

import labkit as lk

if TYPE_CHECKING:
    import transformer_lens

ROUNDS = {256: 5, 1024: 3, 4096: 1}
GPT2_TOKENS = (256, 1024)  # its context ends there
GPT2 = {"layers": 12, "heads": 12, "width": 768, "vocabulary": 50257, "context": 1024}
MIB = 2**20


@dataclass(frozen=True)
class Traced(Result):
    """A Result with memory in bytes above the plain forward pass (None: not measured), and what is to be reached."""

    ours_extra_bytes: int | None = None
    theirs_extra_bytes: int | None = None
    target: str | None = None


# the peers ------------------------------------------------------------------------------------------------------------


class NoTokenizer:
    """Stands in for a tokenizer where a model of random weights is given ids."""

    pad_token_id = 0

    def __call__(self, text: str) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return GPT2["vocabulary"]

    def convert_ids_to_tokens(self, id_: int) -> str:
        return str(id_)

    def decode(self, ids: list[int], **options: object) -> str:
        return " ".join(map(str, ids))


@functools.cache
def gpt2_lab() -> lk.Lab:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=GPT2["layers"],
        n_head=GPT2["heads"],
        n_embd=GPT2["width"],
        vocab_size=GPT2["vocabulary"],
        n_positions=GPT2["context"],
    )
    return lk.Lab(GPT2LMHeadModel(config).eval(), NoTokenizer(), name="GPT-2 of random weights")


@functools.cache
def lens_model() -> transformer_lens.HookedTransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its successor
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        config = HookedTransformerConfig(
            n_layers=GPT2["layers"],
            n_heads=GPT2["heads"],
            d_model=GPT2["width"],
            d_head=GPT2["width"] // GPT2["heads"],
            d_vocab=GPT2["vocabulary"],
            n_ctx=GPT2["context"],
            act_fn="gelu_new",
            device="cpu",
        )
        return HookedTransformer(config).eval()


def plain(ids: torch.Tensor) -> Any:
    return default_lab().model(input_ids=ids, use_cache=False).logits


def trace(ids: torch.Tensor) -> Any:
    return default_lab().trace(ids)


def trace_attention(ids: torch.Tensor) -> Any:
    return default_lab().trace(ids, keep=("attention",))


def trace_and_read(ids: torch.Tensor) -> Any:
    traced = default_lab().trace(ids)
    return traced, [traced.attention(layer) for layer in range(traced.layers)]


def eager(ids: torch.Tensor) -> Any:
    return eager_model()(input_ids=ids, use_cache=False, output_attentions=True)


def gpt2_plain(ids: torch.Tensor) -> Any:
    return gpt2_lab().model(input_ids=ids, use_cache=False).logits


def gpt2_trace(ids: torch.Tensor) -> Any:
    return gpt2_lab().trace(ids)


def lens_plain(ids: torch.Tensor) -> Any:
    return lens_model()(ids)


def lens_cache(ids: torch.Tensor) -> Any:
    return lens_model().run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"))


CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    call.__name__: call
    for call in (plain, trace, trace_attention, eager, gpt2_plain, gpt2_trace, lens_plain, lens_cache)
}


def random_ids(tokens: int) -> torch.Tensor:
    """(1, tokens): the work does not depend on which."""
    return torch.randint(100, 40_000, (1, tokens), generator=torch.Generator().manual_seed(0))


# memory ---------------------------------------------------------------------------------------------------------------


def peak_in_this_process(call: Callable[[torch.Tensor], Any], tokens: int) -> int:
    """Bytes of resident memory at the call's worst moment, above those before it."""
    process = psutil.Process()
    call(random_ids(16))  # the model is loaded and its anatomy found
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = call(random_ids(tokens))
    finally:
        done.set()
        watcher.join()
    peak = max(peak, process.memory_info().rss)
    del result
    return peak - before


@functools.cache
def peaks(name: str, sizes: tuple[int, ...]) -> dict[int, int]:
    """Tokens to peak bytes of a call, measured in a fresh process, the shortest text first."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--peaks", name, *map(str, sizes)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {int(tokens): peak for tokens, peak in json.loads(done.stdout.splitlines()[-1]).items()}


def extra(name: str, over: str, tokens: int, sizes: tuple[int, ...]) -> int:
    """Bytes a call needs beyond another one."""
    return peaks(name, sizes)[tokens] - peaks(over, sizes)[tokens]


# the comparisons ------------------------------------------------------------------------------------------------------


def with_memory(result: Result, ours: int | None, theirs: int | None = None, target: str | None = None) -> Traced:
    return Traced(**asdict(result), ours_extra_bytes=ours, theirs_extra_bytes=theirs, target=target)


def say(result: Traced) -> None:
    """Print one result as common.report does, and its memory and target below."""
    report([result])
    memory = []
    if result.ours_extra_bytes is not None:
        memory.append(f"{result.ours}: {result.ours_extra_bytes / MIB:.0f} MiB")
    if result.theirs_extra_bytes is not None:
        memory.append(f"{result.theirs}: {result.theirs_extra_bytes / MIB:.0f} MiB")
    if memory:
        print(f"    above the plain forward pass: {'   '.join(memory)}")
    if result.ours_extra_bytes and result.theirs_extra_bytes:
        print(f"    memory ratio {result.ours_extra_bytes / result.theirs_extra_bytes:.4f}")
    if result.target:
        print(f"    to reach: {result.target}")


def eager_fits(tokens: int) -> bool:
    """Whether eager's patterns take at most half of the memory that is free; says so where they don't."""
    config = default_lab().config
    needed = config.num_hidden_layers * config.num_attention_heads * tokens * tokens * 4
    free = psutil.virtual_memory().available
    if needed <= free / 2:
        return True
    print(
        f"{tokens:,} tokens: eager is left out, its patterns take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB "
        "are free",
        file=sys.stderr,
    )
    return False


def check_peers() -> None:
    """The peers must compute the same: the plain pass's logits bit for bit, eager's patterns to 1e-5."""
    ids = random_ids(64)
    traced, shown = trace(ids), eager(ids).attentions
    assert torch.equal(traced.logits, plain(ids)[0]), "the traced logits must be those of the plain pass"
    furthest = max((traced.attention(i) - shown[i][0]).abs().max().item() for i in range(traced.layers))
    assert furthest < 1e-5, f"the patterns must be eager's, and are {furthest} off"


def on_default_model(tokens: int, sizes: tuple[int, ...], eager_sizes: tuple[int, ...]) -> list[Traced]:
    ids = random_ids(tokens)
    rounds, goals = ROUNDS[tokens], tokens == 1024
    warm_up = 1 if rounds > 1 else 0  # shorter texts have warmed up the longest
    name = default_lab().name
    plain_call = ("plain forward", lambda: plain(ids))
    eager_call = ("eager output_attentions", lambda: eager(ids))
    against_plain = compare(
        f"{name}, {tokens:,} tokens", ("lab.trace", lambda: trace(ids)), plain_call, rounds=rounds, warm_up=warm_up
    )
    results = [
        with_memory(against_plain, extra("trace", "plain", tokens, sizes), target="time ratio 1.1" if goals else None)
    ]
    if tokens not in eager_sizes:
        return results
    against_eager = compare(
        f"{name}, {tokens:,} tokens, queries and keys only",
        ("lab.trace(keep='attention')", lambda: trace_attention(ids)),
        eager_call,
        rounds=rounds,
        warm_up=warm_up,
    )
    reading = compare(
        f"{name}, {tokens:,} tokens, and every pattern read",
        ("lab.trace, trace.attention of each layer", lambda: trace_and_read(ids)),
        eager_call,
        rounds=min(rounds, 2),
        warm_up=0,
    )
    results.append(
        with_memory(
            against_eager,
            extra("trace_attention", "plain", tokens, sizes),
            peaks("eager", eager_sizes)[tokens] - peaks("plain", sizes)[tokens],
            target="time ratio 0.35, memory ratio 0.05 (1/20)" if goals else None,
        )
    )
    results.append(with_memory(reading, None))
    return results


def on_gpt2(tokens: int, sizes: tuple[int, ...]) -> Traced:
    ids = random_ids(tokens)
    result = compare(
        f"GPT-2's shape, random weights, {tokens:,} tokens",
        ("lab.trace", lambda: gpt2_trace(ids)),
        ("TransformerLens run_with_cache of the patterns", lambda: lens_cache(ids)),
        rounds=ROUNDS[tokens],
    )
    return with_memory(
        result, extra("gpt2_trace", "gpt2_plain", tokens, sizes), extra("lens_cache", "lens_plain", tokens, sizes)
    )


def main() -> None:
    quick, as_json = "--quick" in sys.argv, "--json" in sys.argv
    sizes = tuple(ROUNDS)[:1] if quick else tuple(ROUNDS)
    eager_sizes = tuple(tokens for tokens in sizes if eager_fits(tokens))
    gpt2_sizes = tuple(tokens for tokens in sizes if tokens in GPT2_TOKENS)
    check_peers()
    results: list[Traced] = []

    def add(found: Traced) -> None:
        results.append(found)
        if not as_json:
            say(found)
            sys.stdout.flush()

    for tokens in sizes:
        for found in on_default_model(tokens, sizes, eager_sizes):
            add(found)
    for tokens in gpt2_sizes:
        add(on_gpt2(tokens, gpt2_sizes))
    if as_json:
        report(list(results))


if __name__ == "__main__":
    with torch.no_grad():
        if "--peaks" in sys.argv:
            which, *texts = sys.argv[sys.argv.index("--peaks") + 1 :]
            print(json.dumps({n: peak_in_this_process(CALLS[which], int(n)) for n in texts}))
        else:
            main()
