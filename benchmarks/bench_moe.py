"""The room for mixtures of experts, on the CPU: what tracing routes costs, how long the measures take, mixture against dense.

Time ratios are taken on models of the shape of labkit-moe and of its dense counterpart with random weights: the work is the
same. Where both are trained and named, their losses are compared as well, document by document.

--quick: short texts, few rounds. --json: the results as JSON.
--mixture NAME --dense NAME: what lk.load takes (a name, a folder), to compare on the texts that labkit ships.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import torch
from common import Result, compare, machine, report

import labkit as lk
from labkit.moe.lexicon import vocabulary
from labkit.moe.measures import balance, coactivation, load, saturation, specialisation
from labkit.moe.mutual import information, roles
from labkit.moe.routing import Routing, collect

KINDS = 5
DOCUMENT = 200  # tokens
TARGET = "time ratio 1.05"


@dataclass(frozen=True)
class Seconds:
    """How long one call takes. The second run of the same call is reported; the first may import or compile."""

    what: str
    seconds: float
    tokens: int
    machine: str
    date: str


@dataclass(frozen=True)
class Losses:
    """Nats a token of one kind of text. difference: mixture - dense; low, high: 95 %, resampling documents."""

    kind: str
    mixture: float
    dense: float
    difference: float
    low: float
    high: float
    documents: int


class NoTokenizer:
    """Stands in for a tokenizer where a model of random weights is given ids."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 8_192

    def __call__(self, text: str) -> None:
        raise NotImplementedError

    def convert_ids_to_tokens(self, id_: int) -> str:
        return str(id_)

    def decode(self, ids: Sequence[int], **options: object) -> str:
        return " ".join(map(str, ids))


@functools.cache
def shape(name: str) -> lk.Lab:
    """A model as labkit's recipe builds it, before training: "fine" is the mixture, "dense" its counterpart."""
    from labkit.recipes.moe import build

    return lk.Lab(build(name).eval(), NoTokenizer(), name=f"{name}, random weights")


def random_ids(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 8_192, (1, tokens), generator=torch.Generator().manual_seed(seed))


def plain(lab: lk.Lab, ids: torch.Tensor) -> Any:
    return lab.model(input_ids=ids, use_cache=False).logits


# the comparisons ------------------------------------------------------------------------------------------------------


def tracing(tokens: int, rounds: int) -> Result:
    lab, ids = shape("fine"), random_ids(tokens)
    traced = lab.trace(ids, keep=("routes", "logits"))
    assert torch.equal(traced.logits, plain(lab, ids)[0]), "the traced logits must be those of the plain pass"
    return compare(
        f"routes of {tokens:,} tokens (to reach: {TARGET})",
        ("lab.trace(keep=('routes', 'logits'))", lambda: lab.trace(ids, keep=("routes", "logits"))),
        ("plain forward", lambda: plain(lab, ids)),
        rounds=rounds,
    )


def against_dense(tokens: int, rounds: int) -> Result:
    mixture, dense, ids = shape("fine"), shape("dense"), random_ids(tokens)
    return compare(
        f"{tokens:,} tokens, as many parameters active on each",
        ("mixture (4 of 32 experts of width 64)", lambda: plain(mixture, ids)),
        ("dense (width 256)", lambda: plain(dense, ids)),
        rounds=rounds,
    )


def some_texts(tokens: int) -> dict[str, list[list[int]]]:
    """Documents of random ids, frequent ones more often, as in text."""
    rng = np.random.default_rng(0)
    each = max(1, tokens // (KINDS * DOCUMENT))
    frequency = 1 / (np.arange(1, 2_001) + 5)
    texts = {}
    for kind in range(KINDS):
        words = rng.permutation(np.arange(1, 2_001))
        drawn = rng.choice(words, (each, DOCUMENT), p=frequency / frequency.sum())
        texts[f"kind {kind}"] = drawn.tolist()
    return texts


def measuring(tokens: int, untrained: int) -> list[Seconds]:
    texts = some_texts(tokens)
    lab = shape("fine")
    found: list[Seconds] = []

    def timed(what: str, call: Callable[[], Any], *, twice: bool = True) -> Any:
        if twice:
            call()
        began = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - began
        found.append(Seconds(what, seconds, tokens, machine(), date.today().isoformat()))
        return result

    routing: Routing = timed("collect", lambda: collect(lab, texts, progress=False), twice=False)
    with_untrained = f"collect, {untrained} untrained routers beside"
    routing = timed(with_untrained, lambda: collect(lab, texts, untrained=untrained, progress=False), twice=False)
    enough: dict[str, Any] = {"least_documents": 1, "least_tokens": 1}
    calls: dict[str, Callable[[], Any]] = {
        "load": lambda: load(routing),
        "balance": lambda: balance(routing),
        "specialisation": lambda: specialisation(routing, **enough),
        "vocabulary": lambda: vocabulary(routing, least=5, least_documents=1),
        "coactivation": lambda: coactivation(routing),
        "saturation": lambda: saturation({0: routing.experts, 1: routing.experts}, document=routing.document),
        "information, 200 resamplings": lambda: information(routing, **enough),
        "roles": lambda: roles(routing),
    }
    for what, call in calls.items():
        timed(what, call)
    return found


def losses(mixture: str, dense: str, documents: int | None) -> list[Losses]:
    """Both models on the same documents; they must read the same tokens."""
    from labkit.moe.corpus import texts

    labs = lk.load(mixture), lk.load(dense)
    found = []
    rng = np.random.default_rng(0)
    for kind, passages in texts(documents).items():
        sums, counts = np.zeros((2, len(passages))), np.zeros(len(passages))
        for d, text in enumerate(passages):
            ids = [labs[0].tokenizer(text).input_ids, labs[1].tokenizer(text).input_ids]
            assert ids[0] == ids[1], "losses a token can be compared only where the tokens are the same"
            for model, lab in enumerate(labs):
                loss = lab.trace(ids[model], keep="logits").loss[1:]
                sums[model, d], counts[d] = float(loss.sum()), len(loss)
        weights = rng.multinomial(len(passages), np.full(len(passages), 1 / len(passages)), 2_000)
        difference = (weights @ (sums[0] - sums[1])) / (weights @ counts)
        low, high = np.percentile(difference, (2.5, 97.5))
        both = sums.sum(1) / counts.sum()
        found.append(Losses(kind, float(both[0]), float(both[1]), float(both[0] - both[1]), low, high, len(passages)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mixture")
    parser.add_argument("--dense")
    asked = parser.parse_args()
    rounds = 3 if asked.quick else 9
    sizes = (256,) if asked.quick else (256, 1_024)
    results = [tracing(n, rounds) for n in sizes] + [against_dense(n, rounds) for n in sizes]
    times = measuring(2_000 if asked.quick else 10_000, untrained=5 if asked.quick else 20)
    pairs = losses(asked.mixture, asked.dense, 5 if asked.quick else None) if asked.mixture and asked.dense else []
    if asked.json:
        every: Mapping[str, Any] = {"ratios": results, "seconds": times, "losses": pairs}
        print(json.dumps({name: [asdict(r) for r in found] for name, found in every.items()}, indent=1, default=float))
        return
    report(results)
    for t in times:
        print(f"{t.what}: {t.seconds:.2f} s over {t.tokens:,} tokens")
    for p in pairs:
        print(
            f"{p.kind}: mixture {p.mixture:.3f}, dense {p.dense:.3f} nats a token; difference {p.difference:+.3f} "
            f"({p.low:+.3f} to {p.high:+.3f}) over {p.documents} documents"
        )
    if pairs:
        print(f"mean difference {statistics.mean(p.difference for p in pairs):+.3f} nats a token")
    else:
        print("losses are not compared: name both models with --mixture and --dense", file=sys.stderr)


if __name__ == "__main__":
    with torch.no_grad():
        main()
