"""The long run behind `lk.context.recorded`: loss by position of models that are too slow for it to be done live.

    python -m labkit.recipes.context            # writes labkit/recipes/records/context.jsonl

A line a document and way of stretching, with the mean loss of every 64 tokens. A line that is there is not run again, so
that a run that was ended goes on. Two models that come with labkit, trained with 256 and 1,024 positions, are read to four
times that. The run of the default model, trained with 8,192, is listed but has not been made: by the time of one attention,
a text of 12,288 takes about two minutes of a free core in each way and one of 32,768 ten, most of it attention, which grows
with the square.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from labkit.context.long_losses import losses_with, unigram
from labkit.context.long_texts import check_room, long_documents
from labkit.context.records import RECORD, STRETCH, key
from labkit.context.stretching import scaling
from labkit.lab import load

if TYPE_CHECKING:
    from labkit.lab import Lab

KINDS = ("default", "yarn", "linear", "ntk")
RUNS: tuple[tuple[str, int, float, int, tuple[str, ...]], ...] = (  # model, trained with, factor, documents, kinds
    ("labkit-squeeze", 256, 4.0, 20, KINDS),
    ("labkit-moe", 1_024, 4.0, 8, KINDS),
    ("smollm2-135m-instruct", 8_192, 1.5, 2, ("default", "yarn")),
)


def run(lab: Lab, model: str, trained: int, factor: float, documents: int, kinds: tuple[str, ...]) -> None:
    """Read each document in each way that no line of the record has yet."""
    tokens = int(trained * factor)
    check_room(lab, tokens)
    done = {key(json.loads(line)) for line in RECORD.read_text("utf-8").splitlines()} if RECORD.exists() else set()
    texts = long_documents(lab, tokens, documents)
    shares = unigram(lab, texts)
    for number, ids in enumerate(texts):
        for kind in kinds:
            row: dict[str, object] = {
                "model": model,
                "trained": trained,
                "factor": factor,
                "document": number,
                "kind": kind,
            }
            if key(row) in done:
                continue
            began = time.process_time()
            nats = losses_with(lab, ids, scaling(kind, factor, trained))
            row |= {
                "loss": _stretches(nats),
                "unigram": _stretches(shares[ids[1:]]),
                "cpu_seconds": round(time.process_time() - began, 1),
            }
            with RECORD.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(model, number, kind, row["cpu_seconds"], flush=True)


def _stretches(nats: np.ndarray) -> list[float]:
    """The mean of every `STRETCH` tokens; the first stretch is without token 0, which nothing predicts."""
    whole = np.concatenate([[np.nan], nats]).reshape(-1, STRETCH)
    return [round(float(value), 5) for value in np.nanmean(whole, 1)]


if __name__ == "__main__":
    for model, trained, factor, documents, kinds in RUNS:
        if len(sys.argv) < 2 or model in sys.argv[1:]:
            with load(None if model.startswith("smollm2") else model) as lab:
                run(lab, model, trained, factor, documents, kinds)
