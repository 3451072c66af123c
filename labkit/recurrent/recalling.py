"""Multi-query associative recall: pairs of a key and a value are read, then keys are asked for their values.

Arora et al. 2023 ("Zoology", arXiv 2312.04927): the gap in quality between attention and its substitutes is for the most part
one of recalling what stood in the text. Attention keeps all it has read; a state of fixed size has to choose.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import checks, toy_training
from labkit.errors import BadModelFile
from labkit.recurrent.cells import Attention, Mamba2, State, state_bytes
from labkit.results import Result
from labkit.statistics import wilson
from labkit.toy_training import ToyTraining

__all__ = ["KINDS", "Recall", "RecallModel", "RecallTask", "recall", "recall_events", "recorded_recall"]

Kind = Literal["attention", "state space", "hybrid"]
KINDS: tuple[Kind, ...] = ("attention", "state space", "hybrid")
LAYERS: dict[Kind, tuple[str, ...]] = {
    "attention": ("attention", "attention"),
    "state space": ("state space", "state space"),
    "hybrid": ("state space", "attention"),
}
RECORD = Path(__file__).parents[1] / "recipes" / "records" / "recall.jsonl"
UNASKED = -100  # the target where nothing is asked: torch's own mark


class Sequences(NamedTuple):
    """ids: (batch, T).  targets: (batch, T), the value at each asked key and UNASKED elsewhere."""

    ids: Tensor
    targets: Tensor


@dataclass(frozen=True)
class RecallTask:
    """k1 v1 k2 v2 ..., then the keys again in another order, each to be answered with its value.

    keys, values: how many there are to draw from, without repetition for the keys.  pairs: numbers of
    pairs that are trained on and tried.
    Ids 0 to keys - 1 are keys, then values. T is 3 · pairs.
    """

    keys: int = 64
    values: int = 64
    pairs: tuple[int, ...] = (4, 8, 16)

    def __post_init__(self) -> None:
        checks.whole("keys", self.keys, 2)
        checks.whole("values", self.values, 2)
        if not (given := checks.series("pairs", self.pairs, "numbers of pairs, such as (4, 8)")):
            checks.refuse("pairs", self.pairs, "at least one number of pairs")
        for n in given:
            checks.whole("pairs", n, 1, self.keys)

    @property
    def vocabulary(self) -> int:
        return self.keys + self.values

    @property
    def chance(self) -> float:
        """The share right of one that names any value."""
        return 1 / self.values

    def among_read(self, pairs: int) -> float:
        """The share right of one that names a value it has read, whichever: a little above 1 / pairs, since some stand twice."""
        return (1 + (pairs - 1) / self.values) / pairs

    def sample(self, count: int, pairs: int, generator: torch.Generator) -> Sequences:
        """`count` sequences of so many pairs."""
        keys = torch.rand(count, self.keys, generator=generator).argsort(1)[:, :pairs]
        values = torch.randint(self.keys, self.vocabulary, (count, pairs), generator=generator)
        order = torch.rand(count, pairs, generator=generator).argsort(1)
        ids = torch.cat([torch.stack([keys, values], 2).flatten(1), keys.gather(1, order)], 1)
        told = torch.full((count, 2 * pairs), UNASKED)
        return Sequences(ids, torch.cat([told, values.gather(1, order)], 1))


class RecallModel(nn.Module):
    """Two blocks, each a norm and a mixer added to the stream, between an embedding and its transpose; no MLPs.

    kind: "attention" (both blocks), "state space" (both, Mamba-2) or "hybrid" (a state space, then attention). All mixers have
    a short convolution of the same width, so that what differs is how they remember. d_state: numbers that a state space keeps
    of each channel.
    """

    def __init__(self, kind: Kind, vocabulary: int, *, d_model: int = 64, heads: int = 4, d_state: int = 16) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(vocabulary, d_model)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.mixers = nn.ModuleList(
            Attention(d_model, heads=heads, width=4)
            if each == "attention"
            else Mamba2(d_model, heads=heads, d_state=d_state, expand=1)
            for each in LAYERS[kind]
        )
        self.norms = nn.ModuleList(nn.RMSNorm(d_model) for _ in self.mixers)
        self.last_norm = nn.RMSNorm(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, T, vocabulary)."""
        stream = self.embedding(ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            stream = stream + mixer(norm(stream))
        return F.linear(self.last_norm(stream) * self.embedding.embedding_dim**0.5, self.embedding.weight)

    def start(self, batch: int = 1) -> list[State]:
        """The states before the first token, a block each."""
        return [mixer.start(batch) for mixer in self.mixers]  # type: ignore[operator]

    def step(self, ids: Tensor, states: Sequence[State]) -> tuple[Tensor, list[State]]:
        """One token of each text. ids: (batch,). Returns (logits (batch, vocabulary), the states after it)."""
        stream, after = self.embedding(ids), []
        for norm, mixer, state in zip(self.norms, self.mixers, states, strict=True):
            out, state = mixer.step(norm(stream), state)  # type: ignore[operator]
            stream = stream + out
            after.append(state)
        return F.linear(self.last_norm(stream) * self.embedding.embedding_dim**0.5, self.embedding.weight), after

    def state_bytes(self, tokens: int) -> int:
        """What it keeps of one text of so many tokens, read off its own states."""
        states = self.start()
        with torch.no_grad():
            if any(isinstance(mixer, Attention) for mixer in self.mixers):
                one, two = (sum(map(state_bytes, self._after(n))) for n in (1, 2))
                return one + (tokens - 1) * (two - one)
        return sum(map(state_bytes, states))

    def _after(self, tokens: int) -> list[State]:
        states = self.start()
        for _ in range(tokens):
            _, states = self.step(torch.zeros(1, dtype=torch.long), states)
        return states


@dataclass(frozen=True, eq=False, repr=False)
class Recall(Result):
    """How much of what it has read a model recalls.

    table: a row for each model and number of pairs: kind, d_model, d_state (missing for attention alone), seed, pairs, accuracy
        (share of the asked keys that are answered with their value, on sequences that were not trained on), low, high (95 %,
        Wilson's, as if a sequence were one answer: its answers are not independent, so this is never too narrow), untrained
        (the same model's before it was trained), chance (of one that names any value), among_read (of one that names any
        value of the sequence), state_bytes (what the model keeps of the pairs and the questions), parameters, and steps and
        seconds of the training.
    task, sequences: what was tried, and how many sequences of each number of pairs.  steps: of each training.
    trainings: by (kind, d_state, seed); models: the trained ones, likewise. Both empty where the numbers come from a record.
    """

    task: RecallTask
    sequences: int
    steps: int
    trainings: Mapping[tuple[str, int, int], ToyTraining]
    models: Mapping[tuple[str, int, int], RecallModel]

    def _title(self) -> str:
        return (
            f"Recall of {self.task.keys} keys and {self.task.values} values, {self.sequences} held-out sequences for each number "
            "of pairs"
        )

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"any value": {"accuracy": self.task.chance}}

    def _remarks(self) -> Sequence[str]:
        return ("A model that knows which values it has read, and not with which key, has among_read.",)


Events = Generator[dict[str, object], None, Recall]


def recall(
    kinds: Kind | Sequence[Kind] = KINDS,
    *,
    task: RecallTask | None = None,
    d_model: int = 64,
    d_state: int | Sequence[int] = 16,
    steps: int = 400,
    learning_rate: float = 0.01,
    seeds: int | Sequence[int] = 0,
    sequences: int = 256,
    seconds: float | None = None,
    stop: threading.Event | None = None,
) -> Recall:
    """Train small models to recall, and try them on sequences they have not seen.

    kinds: "attention", "state space", "hybrid", one or several.  task: `RecallTask()` with 2, 4 and 8 pairs by default.
    d_state: numbers that a state space keeps of each channel, one or several (attention alone is trained once).
    steps, learning_rate: of `toy_training.train`; 32 sequences of four pairs a step, or as many pairs otherwise divided.
    seeds: of weights and sequences, one or several.  sequences: tried of each number of pairs.
    seconds: the most for one training.  stop: ends the training under way; those that were not begun are left out.
    Raises BadInput for what can't be used.
    """
    events = recall_events(
        kinds,
        task=task,
        d_model=d_model,
        d_state=d_state,
        steps=steps,
        learning_rate=learning_rate,
        seeds=seeds,
        sequences=sequences,
        seconds=seconds,
        stop=stop,
    )
    return toy_training.finished(events)


def recall_events(
    kinds: Kind | Sequence[Kind] = KINDS,
    *,
    task: RecallTask | None = None,
    d_model: int = 64,
    d_state: int | Sequence[int] = 16,
    steps: int = 400,
    learning_rate: float = 0.01,
    seeds: int | Sequence[int] = 0,
    sequences: int = 256,
    seconds: float | None = None,
    stop: threading.Event | None = None,
) -> Events:
    """`recall` as a generator of events for `lk.views.live`: the accuracies by name, as they grow.

    lk.views.live(lambda stop: lk.recurrent.recall_events(stop=stop), y="share recalled", x="step")
    """
    chosen = [kinds] if isinstance(kinds, str) else checks.series("kinds", kinds, "kinds of models")
    wanted = [checks.one_of("kinds", kind, KINDS) for kind in chosen if isinstance(kind, str)]
    if not wanted or len(wanted) < len(chosen):
        checks.refuse("kinds", kinds, f"one or several of {checks.listed(repr(kind) for kind in KINDS)}")
    task = RecallTask(pairs=(2, 4, 8)) if task is None else task
    d_model = checks.whole("d_model", d_model, 4)
    if d_model % 4:
        checks.refuse("d_model", d_model, "a multiple of the four heads")
    states = _several("d_state", d_state, 1)
    steps, sequences = checks.whole("steps", steps, 1), checks.whole("sequences", sequences, 1)
    runs = [
        (kind, n, seed)
        for seed in _several("seeds", seeds, 0)
        for kind in wanted
        for n in (states if kind != "attention" else [0])
    ]
    return _all(runs, task, d_model, steps, learning_rate, sequences, seconds, stop)


def recorded_recall() -> Recall:
    """Recall by bytes of state, measured once by `labkit/recipes/recall.py`: several sizes of each kind, longer trainings.

    What a model recalls is what its state could hold and what its training has found of that: two seeds of a small state
    differ by more than their intervals, and all had the same 1,000 steps.

    Each training of it again, such as the state space of d_state 16 and seed 0 (about half a minute):
    `recall("state space", task=RecallTask(pairs=(2, 4, 8, 16)), d_state=16, steps=1_000, seeds=0)`.
    Raises BadModelFile where the record can't be read.
    """
    import pandas as pd

    try:
        head, *rows = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()]
        task = RecallTask(head["keys"], head["values"], tuple(head["pairs"]))
        table = pd.DataFrame([row for each in rows for row in each["rows"]]).astype({"d_state": "Int64"})
        return Recall(table, task, head["sequences"], head["steps"], {}, {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelFile(f"{RECORD.name}, which comes with labkit, can't be read; install labkit again.") from error


def _several(name: str, value: object, least: int) -> list[int]:
    given = [value] if checks.as_whole(value) is not None else checks.series(name, value, "whole numbers")
    found = [checks.whole(name, each, least) for each in given]
    if not found:
        checks.refuse(name, value, "at least one whole number")
    return found


def _all(
    runs: Sequence[tuple[Kind, int, int]],
    task: RecallTask,
    d_model: int,
    steps: int,
    learning_rate: float,
    sequences: int,
    seconds: float | None,
    stop: threading.Event | None,
) -> Events:
    import pandas as pd

    rows: list[dict[str, object]] = []
    trainings: dict[tuple[str, int, int], ToyTraining] = {}
    models: dict[tuple[str, int, int], RecallModel] = {}
    for number, (kind, d_state, seed) in enumerate(runs):
        if stop is not None and stop.is_set():
            break
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = RecallModel(kind, task.vocabulary, d_model=d_model, d_state=d_state or 1)
        generator = torch.Generator().manual_seed(SEED_OF_TRIALS + seed)
        held_out = {pairs: task.sample(sequences, pairs, generator) for pairs in task.pairs}
        untrained = _accuracies(model, held_out)
        training = yield from _trained(
            model, task, held_out, steps, learning_rate, seed, seconds, stop, kind if not d_state else f"{kind} {d_state}",
            number=number, count=len(runs),
        )  # fmt: skip
        trainings[kind, d_state, seed], models[kind, d_state, seed] = training, model
        parameters = sum(p.numel() for p in model.parameters())
        for pairs, accuracy in _accuracies(model, held_out).items():
            low, high = wilson(round(accuracy * sequences), sequences)
            rows.append(
                {
                    "kind": kind,
                    "d_model": d_model,
                    "d_state": d_state or None,
                    "seed": seed,
                    "pairs": pairs,
                    "accuracy": accuracy,
                    "low": low,
                    "high": high,
                    "untrained": untrained[pairs],
                    "chance": task.chance,
                    "among_read": task.among_read(pairs),
                    "state_bytes": model.state_bytes(3 * pairs),
                    "parameters": parameters,
                    "steps": training.steps,
                    "seconds": training.seconds,
                }
            )
    columns = list(rows[0]) if rows else ["kind", "pairs", "accuracy"]
    table = pd.DataFrame(rows, columns=columns)
    if rows:
        table = table.astype({"d_state": "Int64"})
    return Recall(table, task, sequences, steps, trainings, models)


SEED_OF_TRIALS = 1_000_003  # far from the trainings' own seeds


def _trained(
    model: RecallModel,
    task: RecallTask,
    held_out: Mapping[int, Sequences],
    steps: int,
    learning_rate: float,
    seed: int,
    seconds: float | None,
    stop: threading.Event | None,
    name: str,
    *,
    number: int,
    count: int,
) -> Generator[dict[str, object], None, ToyTraining]:
    """One training, its events as those of the whole."""

    def batch(generator: torch.Generator) -> Sequences:
        pairs = task.pairs[int(torch.randint(len(task.pairs), (1,), generator=generator))]
        return task.sample(max(4, PAIRS_A_STEP // pairs), pairs, generator)

    def loss(asked: Sequences) -> Tensor:
        return F.cross_entropy(model(asked.ids).flatten(0, 1), asked.targets.flatten(), ignore_index=UNASKED)

    def evaluate() -> dict[str, float]:
        few = {pairs: Sequences(s.ids[:64], s.targets[:64]) for pairs, s in held_out.items()}
        return {f"{name}, {pairs} pairs": share for pairs, share in _accuracies(model, few).items()}

    events = toy_training.train_events(
        model,
        batch,
        loss,
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=0.0,
        seed=seed,
        seconds=seconds,
        evaluate=evaluate,
        stop=stop,
    )
    return toy_training.one_of_several(events, say=name, number=number, count=count, steps=steps)


PAIRS_A_STEP = 128


def _accuracies(model: RecallModel, held_out: Mapping[int, Sequences]) -> dict[int, float]:
    """The share of asked keys that are answered with their value, by number of pairs."""
    found = {}
    with torch.no_grad():
        for pairs, (ids, targets) in held_out.items():
            asked = targets != UNASKED
            found[pairs] = float((model(ids).argmax(-1) == targets)[asked].double().mean())
    return found
