"""A model of bytes beside one of byte pairs, and one of patches, trained live at equal compute, in bits per byte.

Bits per byte is what can be compared where the units differ: a loss per token is of more text the longer the tokens are.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import checks, toy_training
from labkit.errors import BadInput, BadModelFile
from labkit.models.texts import texts as shipped_texts
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.tokenization.toy_models import PatchModel, UnitModel
from labkit.toy_training import ToyTraining

__all__ = ["KINDS", "UnitComparison", "compare_units", "compare_units_events", "recorded_units"]

Kind = Literal["bytes", "pairs", "patches"]
KINDS: tuple[Kind, ...] = ("bytes", "pairs", "patches")
START = 256  # the byte models' unit before a text
FEWEST = 6  # documents
PATCH_BYTES = 4.0  # the mean size of a patch

RECORD = Path(__file__).parents[1] / "recipes" / "records" / "units.json"

Events = Generator[dict[str, object], None, "UnitComparison"]


@dataclass(frozen=True, eq=False, repr=False)
class UnitComparison(Result):
    """Models of different units after the same compute, on documents that none has read.

    table: a row for each kind: kind, vocabulary, parameters, unit_bytes (the mean bytes of a unit, of the held-out text), steps,
        flops (of the training: six for each weight and position), read_bytes (text read in training, repeats included),
        bits_per_byte with low and high (95 %, by drawing the held-out documents again), untrained (the same model before),
        unigram (the null: units by their frequency in the training text), difference (bits per byte less those of "bytes", with
        difference_low and difference_high, on the same documents), seconds.
    documents: held out.  trainings: by kind.  models: by kind, trained.  draws, seed: of the intervals; of all else too.
    """

    documents: int
    trainings: dict[str, ToyTraining]
    models: dict[str, nn.Module]
    draws: int
    seed: int

    def _title(self) -> str:
        return f"Bits per byte on {self.documents} held-out documents, after equal compute"


@dataclass(frozen=True)
class _Units:
    """Documents in units: a tensor of ids each, with the start before. begins: of patches, else empty tensors."""

    train: Tensor
    train_begins: Tensor
    held_out: list[Tensor]
    held_begins: list[Tensor]
    vocabulary: int
    sizes: np.ndarray  # (vocabulary,) bytes of each unit


def compare_units(
    texts: Sequence[str] | None = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    d_model: int = 64,
    layers: int = 2,
    vocabulary: int = 512,
    context: int = 96,
    batch: int = 16,
    steps: int = 150,
    learning_rate: float = 5e-3,
    draws: int = 1000,
    seed: int = 0,
    seconds: float | None = None,
    stop: threading.Event | None = None,
) -> UnitComparison:
    """Train small transformers over bytes, byte pairs and patches of bytes on the same text with the same compute.

    texts: documents, a fifth of which are held out; by default 80 passages of prose and of an encyclopaedia that come with labkit
        (128,000 bytes). kinds: which to train; "bytes" is the one that others are compared with, and is always there.
    d_model, layers: of each model's main transformer; patches have two light blocks more.  vocabulary: of the byte pairs, learnt
        from the training text.  context, batch: units a row, and rows a step, so that models of longer units see further.
    steps: of the bytes' training; the others take as many as cost the same operations.  seconds: the most for one training.
    stop: ends the training under way; those that were not begun are left out.
    Raises BadInput for what can't be used.
    """
    events = compare_units_events(
        texts,
        kinds=kinds,
        d_model=d_model,
        layers=layers,
        vocabulary=vocabulary,
        context=context,
        batch=batch,
        steps=steps,
        learning_rate=learning_rate,
        draws=draws,
        seed=seed,
        seconds=seconds,
        stop=stop,
    )
    return toy_training.finished(events)


def compare_units_events(
    texts: Sequence[str] | None = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    d_model: int = 64,
    layers: int = 2,
    vocabulary: int = 512,
    context: int = 96,
    batch: int = 16,
    steps: int = 150,
    learning_rate: float = 5e-3,
    draws: int = 1000,
    seed: int = 0,
    seconds: float | None = None,
    stop: threading.Event | None = None,
) -> Events:
    """`compare_units` as a generator of events for `lk.views.live`: bits per byte by kind, as they fall."""
    chosen = [kinds] if isinstance(kinds, str) else checks.series("kinds", kinds, "kinds of units")
    wanted = {checks.one_of("kinds", kind, KINDS) for kind in chosen if isinstance(kind, str)}
    d_model, layers = checks.whole("d_model", d_model, 8), checks.whole("layers", layers, 1)
    if d_model % 8:
        checks.refuse("d_model", d_model, "a multiple of 8: four heads whose halves are turned")
    vocabulary = checks.whole("vocabulary", vocabulary, 258)
    context, batch, steps = (
        checks.whole(n, v, 1) for n, v in (("context", context), ("batch", batch), ("steps", steps))
    )
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    some = shipped_texts()
    documents = checks.texts("texts", texts) or (*some["prose"], *some["encyclopaedia"])
    if len(documents) < FEWEST or sum(map(len, documents)) < 20 * context:
        raise BadInput(f"To learn from {len(documents)} texts is too little; give {FEWEST} documents of some length.")
    return _all([kind for kind in KINDS if kind in wanted or kind == "bytes"], documents, d_model, layers, vocabulary,
                context, batch, steps, learning_rate, draws, seed, seconds, stop)  # fmt: skip


def recorded_units() -> UnitComparison:
    """A longer training than a lesson has time for, measured once by `labkit/recipes/units.py`; it has no models.

    Raises BadModelFile where the record can't be read.
    """
    import pandas as pd

    try:
        read = json.loads(RECORD.read_text("utf-8"))
        return UnitComparison(pd.DataFrame(read["rows"]), read["documents"], {}, {}, read["draws"], read["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelFile(f"{RECORD.name}, which comes with labkit, can't be read; install labkit again.") from error


def _all(
    kinds: Sequence[Kind],
    documents: Sequence[str],
    d_model: int,
    layers: int,
    vocabulary: int,
    context: int,
    batch: int,
    steps: int,
    learning_rate: float,
    draws: int,
    seed: int,
    seconds: float | None,
    stop: threading.Event | None,
) -> Events:
    import pandas as pd

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(documents))
    out = max(2, len(documents) // 5)
    held, train = [documents[i] for i in order[:out]], [documents[i] for i in order[out:]]
    sizes = np.array([len(text.encode()) for text in held], np.float64)
    weights = resampled(np.zeros(out, np.int64), draws, rng)
    rows: list[dict[str, object]] = []
    trainings: dict[str, ToyTraining] = {}
    models: dict[str, nn.Module] = {}
    budget, base = 0.0, np.zeros(out)
    for number, kind in enumerate(kinds):
        if stop is not None and stop.is_set():
            break
        units = _units(kind, train, held, vocabulary)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = PatchModel if kind == "patches" else UnitModel
            model = made(units.vocabulary, d_model, layers)
        cost = _flops(model, units, context, batch)
        budget = budget or cost * steps
        own_steps = max(1, round(budget / cost))
        before = _nats(model, units, context)

        def evaluate(model: nn.Module = model, units: _Units = units, kind: Kind = kind) -> dict[str, float]:
            few = min(4, out)
            return {kind: float(_nats(model, units, context, few).sum() / math.log(2) / sizes[:few].sum())}

        def loss(rows: tuple[Tensor, Tensor], model: nn.Module = model) -> Tensor:
            ids, begins = rows
            logits = model(ids[:, :-1], begins[:, :-1]) if isinstance(model, PatchModel) else model(ids[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

        def take(generator: torch.Generator, units: _Units = units) -> tuple[Tensor, Tensor]:
            return _rows(units, context, batch, generator)

        events = toy_training.train_events(
            model,
            take,
            loss,
            steps=own_steps,
            learning_rate=learning_rate,
            seed=seed,
            seconds=seconds,
            evaluate=evaluate,
            stop=stop,
        )
        training = yield from toy_training.one_of_several(
            events, say=kind, number=number, count=len(kinds), steps=steps
        )
        bits = _nats(model, units, context) / math.log(2)
        base = bits if kind == "bytes" else base
        low, high = interval((weights @ bits) / (weights @ sizes))
        apart_low, apart_high = interval((weights @ (bits - base)) / (weights @ sizes))
        count = sum(len(ids) - 1 for ids in units.held_out)
        trainings[kind], models[kind] = training, model
        rows.append(
            {
                "kind": kind,
                "vocabulary": units.vocabulary,
                "parameters": sum(p.numel() for p in model.parameters()),
                "unit_bytes": PATCH_BYTES
                if not count
                else sizes.sum() / (_patches(units) if kind == "patches" else count),
                "steps": training.steps,
                "flops": cost * training.steps,
                "read_bytes": round(training.steps * batch * context * float(units.sizes[units.train].mean())),
                "bits_per_byte": bits.sum() / sizes.sum(),
                "low": float(low),
                "high": float(high),
                "untrained": before.sum() / math.log(2) / sizes.sum(),
                "unigram": _unigram(units) / sizes.sum(),
                "difference": (bits - base).sum() / sizes.sum(),
                "difference_low": float(apart_low),
                "difference_high": float(apart_high),
                "seconds": training.seconds,
            }
        )
    columns = list(rows[0]) if rows else ["kind", "bits_per_byte"]
    return UnitComparison(pd.DataFrame(rows, columns=columns), out, trainings, models, draws, seed)


# units ----------------------------------------------------------------------------------------------------------------


def _units(kind: Kind, train: Sequence[str], held: Sequence[str], vocabulary: int) -> _Units:
    if kind == "pairs":
        encode, size, lengths = _byte_pairs(train, vocabulary)
    else:
        encode, size, lengths = _bytes, START + 1, np.append(np.ones(START), 0)
    one = torch.tensor([id_ for text in train for id_ in encode(text)])
    others = [torch.tensor(encode(text)) for text in held]
    none = torch.zeros(0, dtype=torch.bool)
    if kind != "patches":
        return _Units(one, none, others, [none] * len(others), size, lengths)
    entropies = _bigram_entropies(one)
    threshold = float(torch.quantile(_looked_up(entropies, one), 1 - 1 / PATCH_BYTES))
    return _Units(
        one,
        _looked_up(entropies, one) > threshold,
        others,
        [_looked_up(entropies, ids) > threshold for ids in others],
        size,
        lengths,
    )


def _bytes(text: str) -> list[int]:
    return [START, *text.encode()]


def _byte_pairs(train: Sequence[str], vocabulary: int) -> tuple[Callable[[str], list[int]], int, np.ndarray]:
    """(a text's ids with the start before them, how many ids there are, the bytes of each), learnt from the training text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator(
        train,
        trainers.BpeTrainer(
            vocab_size=vocabulary - 1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    names = learnt.get_vocab()
    lengths = np.zeros(len(names) + 1)
    for name, id_ in names.items():
        lengths[id_] = len(name)  # of GPT-2's letters, one for each byte
    return (lambda text: [len(names), *learnt.encode(text).ids]), len(names) + 1, lengths


def _bigram_entropies(ids: Tensor) -> Tensor:
    """(257, 257) nats: how open the next byte is after two, by counts of the training text smoothed with those after one.

    A table instead of BLT's small transformer: what it says of byte t + 1 depends on bytes t − 1 and t alone.
    """
    size = START + 1
    after_one = torch.zeros(size, size)
    after_one.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    after_one = (after_one + 0.01) / (after_one + 0.01).sum(1, keepdim=True)
    keys, where = torch.unique(ids[:-2] * size + ids[1:-1], return_inverse=True)
    after_two = torch.zeros(len(keys), size)
    after_two.index_put_((where, ids[2:]), torch.ones(len(where)), accumulate=True)
    after_two = after_two + 2.0 * after_one[keys % size]
    after_two = after_two / after_two.sum(1, keepdim=True)
    one, two = (-(p * p.log()).sum(1) for p in (after_one, after_two))
    found = one[None].repeat(size, 1)  # two bytes that were never seen: what the last alone says
    found.view(-1)[keys] = two
    return found


def _looked_up(entropies: Tensor, ids: Tensor) -> Tensor:
    """(T,) nats, of the byte after each."""
    before = F.pad(ids[:-1], (1, 0), value=START)
    return entropies[before, ids]


def _patches(units: _Units) -> int:
    return sum(int(begins[:-1].sum()) + 1 for begins in units.held_begins)


# compute, batches, losses ----------------------------------------------------------------------------------------------


def _rows(units: _Units, context: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(batch, context + 1) windows of the training text, and where the next byte begins a patch."""
    last = max(1, len(units.train) - context - 1)
    at = torch.randint(last, (batch,), generator=generator)[:, None] + torch.arange(min(context + 1, len(units.train)))
    return units.train[at], units.train_begins[at] if len(units.train_begins) else torch.zeros_like(
        at, dtype=torch.bool
    )


def _flops(model: UnitModel | PatchModel, units: _Units, context: int, batch: int) -> float:
    """Operations of a step: six for each weight and the position it is multiplied at (Kaplan et al. 2020, 2.1).

    What attention does among positions is left out, as torch's own counter does on a CPU. The output's weights are the
    embedding's. Rows of fewer patches than the longest are computed to its length.
    """
    of_blocks = [sum(p.numel() for p in block.parameters() if p.ndim > 1) for block in model.blocks]
    output, positions = model.embed.weight.numel(), batch * context
    if not isinstance(model, PatchModel):
        return 6.0 * positions * (sum(of_blocks) + output)
    light = sum(p.numel() for part in (model.reading, model.writing) for p in part.parameters() if p.ndim > 1)
    _, begins = _rows(units, context, batch, torch.Generator().manual_seed(0))
    patches = int(begins[:, : context - 1].sum(1).max()) + 1
    return 6.0 * (positions * (light + output) + batch * patches * sum(of_blocks))


def _nats(model: nn.Module, units: _Units, context: int, documents: int | None = None) -> np.ndarray:
    """(documents,) nats of each held-out document, window after window, each unit foretold once."""
    found = []
    with torch.no_grad():
        for ids, begins in list(zip(units.held_out, units.held_begins, strict=True))[:documents]:
            whole = (len(ids) - 1) // context * context  # the windows that are full share a pass
            total = 0.0
            for first, last in ((0, whole), (whole, len(ids) - 1)):
                if first == last:
                    continue
                width = min(context, last - first)
                window, after = ids[first:last].view(-1, width), ids[first + 1 : last + 1]
                cut = begins[first:last].view(-1, width) if len(begins) else begins
                logits = model(window, cut) if isinstance(model, PatchModel) else model(window)
                total += float(F.cross_entropy(logits.flatten(0, 1).double(), after, reduction="sum"))
            found.append(total)
    return np.array(found)


def _unigram(units: _Units) -> float:
    """Bits of all held-out units by their frequency in the training text, each seen once more than it was."""
    counts = torch.bincount(units.train, minlength=units.vocabulary).double() + 1
    counts[units.train[0]] = 1  # the start is given
    bits = -(counts / counts.sum()).log2()
    return float(sum(bits[ids[1:]].sum() for ids in units.held_out))
