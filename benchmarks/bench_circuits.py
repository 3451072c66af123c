"""Attribution of all heads, MLPs and neurons of the default model on 64 tokens, on the CPU: against patching each one exactly,
and against TransformerLens's attribution patching.

Exact patching of all neurons would take hours: as many as are strongest by attribution, and as many others, are patched, and
the time is that of all at the same pace. Beside the times stands how well attribution and exact patching agree.

TransformerLens's is `tools.analysis.attribution_patching` (4.3 and later), on its bridge around the same weights; it scores
heads and MLPs, and for neurons its own cache of activations and gradients is taken and multiplied. It is not among this
project's requirements: `pip install --target FOLDER --no-deps transformer-lens` and what it says it misses, and FOLDER in
PYTHONPATH. Where it is absent that is said. Both must find the same effects, to 1e-3 of the largest.

Then how often the strongest parts of models that learnt nothing beat random ones, on the pair they were found on and on another.

Exact patching runs once, the rest in alternating rounds. --quick: fewer of them, and fewer neurons patched exactly. --json: the
results as JSON.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Result, compare, default_lab, of_pairs, report

import labkit as lk

TOKENS = 64
CLEAN = " When Mary and John went to the store, John gave a drink to"
CORRUPTED = " When Mary and John went to the store, Mary gave a drink to"


@functools.cache
def pair() -> tuple[list[int], list[int]]:
    """64 tokens each: a sentence in which one name differs, behind what comes with labkit."""
    tokenizer = default_lab().tokenizer
    ends = [tokenizer(text)["input_ids"] for text in (CLEAN, CORRUPTED)]
    before = tokenizer(next(iter(lk.moe.texts().values()))[0])["input_ids"][: TOKENS - len(ends[0])]
    clean, corrupted = [before + end for end in ends]
    assert len(clean) == len(corrupted) == TOKENS
    return clean, corrupted


@functools.cache
def names() -> tuple[int, int]:
    tokenizer = default_lab().tokenizer
    return tokenizer(" Mary")["input_ids"][-1], tokenizer(" John")["input_ids"][-1]


def metric(logits: torch.Tensor) -> torch.Tensor:
    mary, john = names()
    last = logits.reshape(-1, logits.shape[-1])[-1]
    return last[mary] - last[john]


def ours(parts: str, method: str = "attribution") -> lk.circuits.Circuit:
    return lk.circuits.find(default_lab(), [pair()], metric, method, parts, progress=False)  # type: ignore[arg-type]


# exact patching -------------------------------------------------------------------------------------------------------


def against_exact(neurons: int) -> list[Result]:
    """Once each: patching takes minutes, so that a round more or less says little."""
    name = default_lab().name
    began = time.perf_counter()
    exact = ours("heads", "exact")
    took = time.perf_counter() - began
    results = [_once(f"{name}, {TOKENS} tokens, effects of all heads and MLPs", "find(method='exact')", "heads", took)]
    for method in ("attribution", "eap-ig"):
        found = ours("heads", method)
        heads = [number for number in range(exact._order.size) if exact._study.parts.place(number)[0].kind == "head"]
        print(
            f"{method} against exact patching: Pearson {_pearson(found._effects, exact._effects):.3f} over heads and MLPs, "
            f"{_pearson(found._effects[heads], exact._effects[heads]):.3f} over heads",
            flush=True,
        )
    by = {method: ours("neurons", method) for method in ("attribution", "eap-ig")}
    order, study = by["attribution"]._order, by["attribution"]._study
    others = np.random.default_rng(0).choice(order[neurons:], neurons, replace=False)
    chosen = np.concatenate([order[:neurons], others])
    began = time.perf_counter()
    effects = study.shares("corrupted", [np.array([number]) for number in chosen], "", False)
    took = (time.perf_counter() - began) * order.size / chosen.size
    for method, circuit in by.items():
        first, second = (_pearson(circuit._effects[chosen[some]], effects[some]) for some in _halves(neurons))
        print(
            f"{method} of neurons against exact patching: Pearson {first:.3f} over the {neurons} strongest by attribution, "
            f"{second:.3f} over {neurons} others",
            flush=True,
        )
    what = f"{name}, {TOKENS} tokens, effects of all {order.size:,} neurons"
    return [*results, _once(what, f"patching, at the pace of {chosen.size} neurons", "neurons", took)]


def worth_of_neurons() -> None:
    """How much circuits of neurons carry, by the way in which they were found, on the sentence alone."""
    tokenizer = default_lab().tokenizer
    sentence = tuple(tokenizer(text.strip())["input_ids"] for text in (CLEAN, CORRUPTED))
    for method in ("attribution", "eap-ig"):
        circuit = lk.circuits.find(default_lab(), [sentence], metric, method, "neurons", progress=False)  # type: ignore[arg-type]
        table = circuit.by_size([100, 300, 1000, 3000], draws=2, progress=False).table
        print(f"circuits of neurons found by {method}, on the {len(sentence[0])} tokens of the sentence alone:")
        print(table[["size", "faithfulness", "completeness", "random"]].to_string(index=False), flush=True)


def beside_chance(models: int) -> None:
    """How often the four strongest parts of a model that learnt nothing beat random ones, on the pair that they were found on and
    on another: 5 % where the comparison is a fair one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=100, n_positions=16, n_embd=32, n_layer=2, n_head=8, n_inner=8)
    config.bos_token_id = config.eos_token_id = None
    beaten: dict[tuple[str, bool], int] = {}
    for seed in range(models):
        torch.manual_seed(seed)
        lab = lk.Lab(GPT2LMHeadModel(config).eval(), default_lab().tokenizer, name="untrained")
        rng = np.random.default_rng(seed)
        (found_on, score), (others, other) = _any_pair(rng), _any_pair(rng)
        for method in ("attribution", "eap-ig", "exact"):
            circuit = lk.circuits.find(lab, [found_on], score, method, progress=False)  # type: ignore[arg-type]
            for held_out, of in ((False, circuit), (True, circuit.on([others], other))):
                table = of.by_size([4], draws=19, oracle=False, seed=seed, progress=False).table
                won = bool((table["faithfulness"] > table["random_high"])[0])
                beaten[method, held_out] = beaten.get((method, held_out), 0) + won
    for (method, held_out), count in beaten.items():
        where = "another pair" if held_out else "the pair they were found on"
        print(
            f"untrained models whose 4 strongest parts by {method} beat 19 random circuits on {where}: {count} of {models}"
        )


def _any_pair(rng: np.random.Generator) -> tuple[tuple[list[int], list[int]], Callable[[torch.Tensor], torch.Tensor]]:
    """Two texts that differ in one token, and a difference of two logits."""
    ids = rng.integers(0, 100, 5)
    other = ids.copy()
    other[2] = (ids[2] + rng.integers(1, 100)) % 100
    a, b = rng.choice(100, 2, replace=False).tolist()
    return (ids.tolist(), other.tolist()), lambda logits: logits[-1, a] - logits[-1, b]


def _once(claim: str, theirs: str, parts: str, seconds: float) -> Result:
    began = time.perf_counter()
    ours(parts)
    return of_pairs(claim, "find(method='attribution')", theirs, [(time.perf_counter() - began, seconds)])


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _halves(count: int) -> list[slice]:
    return [slice(0, count), slice(count, None)]


# TransformerLens ------------------------------------------------------------------------------------------------------


@functools.cache
def peer() -> Any:
    """Its module of attribution patching; None where it is not installed, or too old."""
    try:
        from transformer_lens.tools.analysis import attribution_patching
    except ImportError:
        return None
    return attribution_patching


@functools.cache
def bridge() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        lab = lk.load(device="cpu", fresh=True, attn_implementation="eager")
        made = TransformerBridge.boot_transformers(
            lab.model.config._name_or_path, hf_model=lab.model, tokenizer=lab.tokenizer, device="cpu"
        )
    made.eval()
    return made


def their_parts() -> dict[tuple[str, int, int | None], float]:
    """(kind, layer, head) -> effect in units of the metric, summed over positions."""
    clean, corrupted = (torch.tensor([ids]) for ids in pair())
    found: dict[tuple[str, int, int | None], float] = {}
    for node, score in peer().attribution_patch(bridge(), clean, corrupted, metric).node_scores.items():
        if node.layer is not None:
            key = ("head" if node.head is not None else "mlp", node.layer, node.head)
            found[key] = found.get(key, 0.0) + float(score)
    return found


def their_neurons() -> torch.Tensor:
    """(layers, neurons) effects, summed over positions."""
    clean, corrupted = (torch.tensor([ids]) for ids in pair())
    layers = default_lab().config.num_hidden_layers
    wanted = [f"blocks.{layer}.mlp.out.hook_in" for layer in range(layers)]
    both = peer().cache_activation_and_gradient(bridge(), corrupted, metric, names_filter=wanted)
    with torch.no_grad():
        _, cache = bridge().run_with_cache(clean, names_filter=wanted)
    rows = [((cache[name] - both.activations[name]) * both.gradients[name]).sum((0, 1)) for name in wanted]
    return torch.stack(rows)


def against_peer(rounds: int) -> list[Result]:
    if peer() is None:
        print("transformer_lens with attribution_patching is not installed; the comparison with it is left out.")
        return []
    mine = ours("heads")
    span = mine.clean - mine.corrupted
    theirs = their_parts()
    rows = mine.table.astype(object).where(mine.table.notna(), None).to_dict("records")
    apart = [abs(row["effect"] * span - theirs[row["part"], row["layer"], row["head"]]) for row in rows]
    largest = max(abs(value) for value in theirs.values())
    assert max(apart) < 1e-3 * largest, f"effects of heads and MLPs are {max(apart) / largest:.1e} of the largest apart"
    neurons = ours("neurons")
    both = torch.tensor(neurons._effects * span).view(default_lab().config.num_hidden_layers, -1), their_neurons()
    off = float((both[0] - both[1]).abs().max() / both[1].abs().max())
    assert off < 1e-3, f"effects of neurons are {off:.1e} of the largest apart"
    name = default_lab().name
    return [
        compare(
            f"{name}, {TOKENS} tokens, attribution of all heads and MLPs",
            ("lk.circuits.find", lambda: ours("heads")),
            ("TransformerLens attribution_patch", their_parts),
            rounds=rounds,
        ),
        compare(
            f"{name}, {TOKENS} tokens, attribution of all neurons",
            ("lk.circuits.find", lambda: ours("neurons")),
            ("TransformerLens cache_activation_and_gradient", their_neurons),
            rounds=rounds,
        ),
    ]


def main() -> None:
    quick = "--quick" in sys.argv
    results = against_peer(2 if quick else 5)
    if "--json" not in sys.argv:
        report(results)
        sys.stdout.flush()
        worth_of_neurons()
        beside_chance(10 if quick else 100)
    more = against_exact(16 if quick else 100)
    report([*results, *more] if "--json" in sys.argv else more)


if __name__ == "__main__":
    main()
