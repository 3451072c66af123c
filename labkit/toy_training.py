"""Train a small torch module on batches that are made, not read: seeded, bounded in steps and seconds, watched as it goes.

For modules of a lesson's size. Trainings that go on from a checkpoint are in labkit/recipes/pretraining.py, adapters' in
labkit/lora.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from labkit import checks
from labkit.errors import BadInput
from labkit.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Outcome", "ToyTraining", "finished", "learning_rate_at", "one_of_several", "train", "train_events"]

Batch = TypeVar("Batch")
ResultOfAll = TypeVar("ResultOfAll")
Outcome = Literal["finished", "stopped", "out of time", "diverged"]
Schedule = Literal["cosine", "constant"]
BETAS = (0.9, 0.95)
LOWEST = 0.1  # of the learning rate, where a cosine ends
DRAWN = 200  # events with a loss in a training, about


@dataclass(frozen=True, eq=False, repr=False)
class ToyTraining(Result):
    """What became of a training.

    table: a row for each step from 1: step, loss (of its batch, before the step), learning_rate, gradient_norm (before it
        was cut), seconds (since the start, evaluations left out), and what `evaluate` gave after it; NaN where it was not
        asked. Row 0, where something is evaluated, is the module before it was trained, and has no loss.
    outcome: "finished"; "stopped" (asked to, or interrupted), "out of time" or "diverged" (a loss that is not finite, after
        which no step is done): then the module is as the last step left it.
    steps: those that were done.  seconds: of the steps alone.  seed: of the batches.
    """

    outcome: Outcome
    steps: int
    asked_steps: int
    seconds: float
    seed: int

    @property
    def history(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def _title(self) -> str:
        return f"Training: {self.outcome} after {self.steps:,} of {self.asked_steps:,} steps, {self.seconds:.1f} s"


def train(
    module: nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    schedule: Schedule = "cosine",
    warm_up: int | None = None,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    seed: int = 0,
    seconds: float | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    every: int | None = None,
    stop: threading.Event | None = None,
) -> ToyTraining:
    """Train a module in place by AdamW, and return what became of it. An interrupt ends it and keeps what was done.

    module: its parameters that require a gradient are trained. In training mode for each step, in evaluation mode for
        `evaluate`; afterwards as it was.
    batch: makes a batch from a generator of its own, on the CPU, seeded with `seed`: two trainings of a seed read the same.
    loss: of a batch, a scalar tensor; it calls the module.
    steps: how many.  seconds: an end in time as well, looked at after each step. The schedule is one of steps, so a training
        that runs out of time ends at a higher learning rate.
    schedule: "cosine" falls to a tenth at the last step; "constant" does not.  warm_up: steps in which the rate rises from
        nothing; by default a twentieth of them.
    weight_decay: AdamW's, of matrices alone; vectors (norms, biases) are not decayed.  clip: the largest norm of the gradient.
    evaluate: numbers by name, looked at before the first step, after every `every` steps (a tenth of them by default) and
        after the last.
    stop: set from another thread, it ends the training after the step under way.
    Raises BadInput for numbers that can't be used. What `batch`, `loss` and `evaluate` raise passes through.
    """
    events = train_events(
        module,
        batch,
        loss,
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        warm_up=warm_up,
        weight_decay=weight_decay,
        clip=clip,
        seed=seed,
        seconds=seconds,
        evaluate=evaluate,
        every=every,
        stop=stop,
    )
    return finished(events)


def finished(events: Generator[object, None, ResultOfAll]) -> ResultOfAll:
    """What a generator of events returns, its events passed over."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            result: ResultOfAll = end.value
            return result


def one_of_several(
    events: Generator[dict[str, object], None, ToyTraining], *, say: str, number: int, count: int, steps: int
) -> Generator[dict[str, object], None, ToyTraining]:
    """The events of training `number` (from 0) of `count`, as those of the whole for one panel.

    Each training counts as `steps`, whatever it takes. Values are drawn at the training's own step (`at`), without the loss:
    one line of it through all trainings would run back to the beginning with each.
    """
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            training: ToyTraining = end.value
            return training
        at, own = float(event["done"]), float(event["total"])  # type: ignore[arg-type]
        values = {k: v for k, v in dict(event["values"]).items() if k != "loss"}  # type: ignore[call-overload]
        done = number * steps + round(at / own * steps)
        yield {"done": done, "total": count * steps, "say": say, "values": values, "at": at}


def train_events(
    module: nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    schedule: Schedule = "cosine",
    warm_up: int | None = None,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    seed: int = 0,
    seconds: float | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    every: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[dict[str, object], None, ToyTraining]:
    """`train` as a generator of events, as `lk.views.live` takes them, that returns the ToyTraining.

        panel = lk.views.live(lambda stop: train_events(module, batch, loss, steps=500, stop=stop))

    Events are dicts with done, total and values (the loss, or what was evaluated), about 200 of them with a loss.
    """
    steps = checks.whole("steps", steps, 1)
    if not isinstance(module, nn.Module) or not any(p.requires_grad for p in module.parameters()):
        checks.refuse("module", module, "a torch module with parameters that require a gradient")
    learning_rate = checks.number("learning_rate", learning_rate, above=0)
    schedule = checks.one_of("schedule", schedule, ("cosine", "constant"))
    warm_up = max(1, steps // 20) if warm_up is None else checks.whole("warm_up", warm_up, 0, steps)
    weight_decay = checks.number("weight_decay", weight_decay, 0)
    clip = checks.number("clip", clip, above=0)
    seed = checks.seed(seed)
    limit = math.inf if seconds is None else checks.number("seconds", seconds, above=0)
    every = max(1, steps // 10) if every is None else checks.whole("every", every, 1)
    return _run(
        module,
        batch,
        loss,
        steps,
        learning_rate,
        schedule,
        warm_up,
        weight_decay,
        clip,
        seed,
        limit,
        evaluate,
        every,
        stop,
    )


def learning_rate_at(step: int, steps: int, highest: float, schedule: Schedule, warm_up: int) -> float:
    """The rate of step `step`, counted from 1: a straight rise over `warm_up` steps, then as the schedule has it."""
    if step <= warm_up:
        return highest * step / warm_up
    if schedule == "constant" or steps <= warm_up:
        return highest
    share = (step - warm_up) / (steps - warm_up)
    return highest * (LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * share)))


def _run(
    module: nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Callable[[Batch], Tensor],
    steps: int,
    learning_rate: float,
    schedule: Schedule,
    warm_up: int,
    weight_decay: float,
    clip: float,
    seed: int,
    limit: float,
    evaluate: Callable[[], Mapping[str, float]] | None,
    every: int,
    stop: threading.Event | None,
) -> Generator[dict[str, object], None, ToyTraining]:
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=BETAS,
    )
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, float]] = []
    outcome: Outcome = "finished"
    spent, done = 0.0, 0
    was_training = {part: part.training for part in module.modules()}

    # what is set for torch is set within these two and never across a yield, where it would reach the caller
    def step(rate: float) -> tuple[float, float]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        module.train()
        with torch.inference_mode(False), torch.enable_grad():
            optimizer.zero_grad()
            value = loss(batch(generator))
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise BadInput(
                    "What the loss function returned is no scalar tensor that depends on the module's parameters."
                )
            found = float(value.detach())
            if not math.isfinite(found):
                return found, math.nan
            value.backward()
            norm = float(nn.utils.clip_grad_norm_(trained, clip))
            if not math.isfinite(norm):
                return math.nan, norm
            optimizer.step()
        return found, norm

    def evaluated() -> dict[str, float]:
        if evaluate is None:
            return {}
        module.eval()
        with torch.no_grad():
            return {name: float(value) for name, value in evaluate().items()}

    try:
        if found := evaluated():
            rows.append({"step": 0, "seconds": 0.0, **found})
            yield {"done": 0, "total": steps, "values": found}
        for number in range(1, steps + 1):
            if stop is not None and stop.is_set():
                outcome = "stopped"
                break
            rate = learning_rate_at(number, steps, learning_rate, schedule, warm_up)
            began = time.perf_counter()
            value, norm = step(rate)
            spent += time.perf_counter() - began
            row = {"step": number, "loss": value, "learning_rate": rate, "gradient_norm": norm, "seconds": spent}
            rows.append(row)
            if not math.isfinite(value):
                outcome = "diverged"
                break
            done = number
            last = number == steps or spent >= limit
            values: dict[str, float] = {}
            if last or number % max(1, steps // DRAWN) == 0:
                values["loss"] = value
            if last or number % every == 0:
                row.update(found := evaluated())
                values.update(found)
            if values:
                yield {"done": number, "total": steps, "values": values}
            if last:
                outcome = "finished" if number == steps else "out of time"
                break
    except KeyboardInterrupt:
        outcome = "stopped"
    finally:
        optimizer.zero_grad()
        for part, training in was_training.items():
            part.training = training
    return ToyTraining(_frame(rows), outcome, done, steps, spent, seed)


def _frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    import pandas as pd

    first = ["step", "loss", "learning_rate", "gradient_norm", "seconds"]
    more = list(dict.fromkeys(name for row in rows for name in row if name not in first))
    return pd.DataFrame(rows, columns=[*first, *more]).astype({"step": int})
