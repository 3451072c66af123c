"""What the benchmarks share: rounds that alternate between peers, medians, one way of printing a ratio, the model."""

from __future__ import annotations

import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import labkit as lk


@dataclass(frozen=True)
class Result:
    """Ours against a peer, medians of the same rounds. ratio: ours / theirs, below 1 means labkit takes less."""

    claim: str
    ours: str
    theirs: str
    ours_median_seconds: float
    theirs_median_seconds: float
    ratio: float
    spread: tuple[float, float]
    rounds: int
    machine: str
    date: str


@functools.cache
def default_lab() -> lk.Lab:
    """The default model on the CPU, loaded once."""
    import labkit as lk

    return lk.load(device="cpu")


@functools.cache
def eager_model() -> Any:
    """The default model with transformers' own eager attention, apart from that of `default_lab`."""
    import labkit as lk

    return lk.load(device="cpu", fresh=True, attn_implementation="eager").model


def machine() -> str:
    """What the numbers were taken on, in a few words."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{platform.system()} {platform.machine()}, {device}, torch {torch.__version__}, Python {platform.python_version()}"


def own_peak() -> int:
    """Bytes of this process's resident memory at its highest."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held then
        return next(int(row.split()[1]) for row in status.read_text().splitlines() if row.startswith("VmHWM")) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(
    claim: str,
    ours: tuple[str, Callable[[], object]],
    theirs: tuple[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
) -> Result:
    """Time both by turns, so that a slow minute of the machine falls on both; spread is that of the rounds' own ratios.

    A call that returns a float has timed itself, in seconds.
    """
    for _ in range(warm_up):
        ours[1]()
        theirs[1]()
    pairs = [(_seconds(ours[1]), _seconds(theirs[1])) for _ in range(rounds)]
    return of_pairs(claim, ours[0], theirs[0], pairs)


def of_pairs(claim: str, ours: str, theirs: str, pairs: Sequence[tuple[float, float]]) -> Result:
    """The result of rounds that were timed already: (ours, theirs) in seconds of each."""
    mine, others = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    return Result(
        claim=claim,
        ours=ours,
        theirs=theirs,
        ours_median_seconds=mine,
        theirs_median_seconds=others,
        ratio=mine / others,
        spread=(ratios[0], ratios[-1]),
        rounds=len(pairs),
        machine=machine(),
        date=date.today().isoformat(),
    )


def report(results: list[Result]) -> None:
    """Print the results: a paragraph each, or JSON with --json."""
    if "--json" in sys.argv:
        print(json.dumps([asdict(r) for r in results], indent=1))
        return
    for r in results:
        print(f"{r.claim}: ratio {r.ratio:.3f} (rounds from {r.spread[0]:.3f} to {r.spread[1]:.3f})")
        print(f"    {r.ours}: {r.ours_median_seconds:.3g} s   {r.theirs}: {r.theirs_median_seconds:.3g} s")
        print(f"    medians of {r.rounds} alternating rounds; {r.machine}; {r.date}")


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    own = call()
    return own if isinstance(own, float) else time.perf_counter() - began
