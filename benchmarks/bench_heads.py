"""Measures of all heads against the same measures taken from eager attention, on the default model, on the CPU.

Both start from token ids: labkit traces and sweeps; the peer runs the model with output_attentions and measures its
patterns with torch, a layer at a time in float32, every row. Before timing, both must agree to 1e-4. Only the way the
patterns are had and gone through differs; the measures are those of `labkit.attention.MEASURES`.

--quick: 256 tokens only. --json: the results as JSON.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from common import Result, compare, default_lab, eager_model, report

from labkit.attention import measures, repeated, sweep

ROUNDS = {256: 5, 1024: 3}
SIDE = 64  # of the pictures, where they are asked for too


def ours(ids: list[int]) -> Any:
    return measures(default_lab().trace(ids, keep="attention"))


def ours_with_pictures(ids: list[int]) -> Any:
    return list(sweep(default_lab().trace(ids, keep="attention"), side=SIDE))


def sweep_alone(trace: Any) -> Any:
    return list(sweep(trace))


def from_eager(ids: list[int]) -> dict[str, torch.Tensor]:
    """name -> (layers · heads,)."""
    # as labkit's pass without logits: the unembedding of one token
    attentions = eager_model()(
        input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True, logits_to_keep=1
    ).attentions
    return measured(attentions, ids)


def measured(attentions: tuple[torch.Tensor, ...], ids: list[int]) -> dict[str, torch.Tensor]:
    place = torch.arange(len(ids))
    tokens = torch.tensor(ids)
    earlier = (tokens[:, None] == tokens[None]).tril(-1)
    followed = torch.zeros_like(earlier)
    followed[:, 1:] = earlier[:, :-1]
    followed = followed.tril(-1)
    distances = (place[:, None] - place[None]).float()
    found: dict[str, list[torch.Tensor]] = {}
    for attention in attentions:
        p = attention[0]
        values = {
            "entropy": -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(-1)[:, 2:].mean(-1),
            "distance": torch.einsum("hij,ij->hi", p, distances)[:, 2:].mean(-1),
            "first": p[:, 2:, 0].mean(-1),
            "previous": p.diagonal(-1, 1, 2)[:, 1:].mean(-1),
            "own": p.diagonal(0, 1, 2)[:, 2:].mean(-1),
        }
        for name, mask in (("induction", followed), ("duplicate", earlier)):
            values[name] = torch.einsum("hij,ij->hi", p, mask.float())[:, mask.any(-1)].mean(-1)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


def check_peers(ids: list[int]) -> None:
    mine, theirs = ours(ids), from_eager(ids)
    for name, values in theirs.items():
        apart = (torch.tensor(mine[name].to_numpy()) - values).abs() / values.abs().clamp_min(1.0)
        assert apart.max() < 1e-4, f"{name} is {apart.max():.1e} apart"


def on_default_model(tokens: int) -> list[Result]:
    ids = repeated(default_lab(), tokens // 2)
    rounds, name = ROUNDS[tokens], default_lab().name
    theirs = ("eager output_attentions, measured with torch", lambda: from_eager(ids))
    results = [
        compare(
            f"{name}, {tokens:,} tokens, measures of all heads",
            ("lab.trace and measures", lambda: ours(ids)),
            theirs,
            rounds=rounds,
        ),
        compare(
            f"{name}, {tokens:,} tokens, measures and a picture of every head against measures alone",
            ("lab.trace and sweep(side=64)", lambda: ours_with_pictures(ids)),
            theirs,
            rounds=rounds,
        ),
    ]
    trace = default_lab().trace(ids, keep="attention")
    attentions = eager_model()(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    results.append(
        compare(
            f"{name}, {tokens:,} tokens, the model's pass left out",
            ("sweep of a trace", lambda: sweep_alone(trace)),
            ("torch on patterns in memory", lambda: measured(attentions, ids)),
            rounds=rounds,
        )
    )
    return results


def main() -> None:
    sizes = tuple(ROUNDS)[:1] if "--quick" in sys.argv else tuple(ROUNDS)
    check_peers(repeated(default_lab(), 50))
    results: list[Result] = []
    for tokens in sizes:
        found = on_default_model(tokens)
        results += found
        if "--json" not in sys.argv:
            report(found)
            sys.stdout.flush()
    if "--json" in sys.argv:
        report(results)


if __name__ == "__main__":
    with torch.no_grad():
        main()
