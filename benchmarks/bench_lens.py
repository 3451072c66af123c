"""The Jacobian lens over 256 tokens against the plain forward pass of the default model, on the CPU.

What is asked of a lens decides what it costs, since every cell needs a row of the unembedding, of 28 million numbers: a
trace with the lens's states at all layers and one position read through all of them; the same and one layer read at all
positions; and every cell, which is as many unembeddings of the text as there are layers. The first is held to 1.3 times.

While text is written: a token with its column of all layers read, against a token of the same run without.

--quick: fewer rounds. --json: the results as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from common import Result, compare, default_lab, report

import labkit as lk
from labkit.circuits.lens_files import shipped_lens

TOKENS = 256
NEW = 16
KEEP = ("residual", "logits")


def main() -> None:
    lab = default_lab()
    lens = shipped_lens(lab.name)
    if lens is None:  # the time is the same
        layers, width = len(lab.anatomy.layers), lab.config.hidden_size
        lens = lk.circuits.JacobianLens({i: torch.eye(width) for i in range(1, layers)}, 1, lab.name, layers)
    rounds = 2 if "--quick" in sys.argv else 5
    texts = lk.moe.texts(1)["prose"]
    ids = lab.tokenizer(texts[0], add_special_tokens=False)["input_ids"][:TOKENS]
    assert len(ids) == TOKENS

    def plain() -> None:
        with torch.no_grad():
            lab.model(input_ids=torch.tensor([ids]), use_cache=False)

    def read(more: Callable[[lk.circuits.LensReading], object]) -> None:
        reading = lk.lens(lab, lab.trace(ids, keep=KEEP), lens=lens)
        for layer in reading.layers:
            reading.state(layer)
        reading.column(-1)
        more(reading)

    def generated() -> None:
        lab.generate(ids, max_new_tokens=NEW)

    def followed() -> None:
        lk.circuits.generate_with_lens(lab, ids, lambda column: None, lens=lens, max_new_tokens=NEW)

    theirs = ("plain forward", plain)
    results: list[Result] = [
        compare(
            f"lens over {TOKENS} tokens: all states, one position read (at most 1.3)",
            ("trace and lens", lambda: read(lambda reading: None)),
            theirs,
            rounds=rounds,
        ),
        compare(
            f"lens over {TOKENS} tokens: all states, one layer read at all positions",
            ("trace and lens", lambda: read(lambda reading: reading.logits(15).max(-1))),
            theirs,
            rounds=rounds,
        ),
        compare(
            f"lens over {TOKENS} tokens: every cell's top token, as a table",
            ("trace and table", lambda: read(lambda reading: reading.rows())),
            theirs,
            rounds=1 if "--quick" in sys.argv else 2,
        ),
        compare(
            f"{NEW} tokens written after {TOKENS}, each with all layers read",
            ("generate_with_lens", followed),
            ("lab.generate", generated),
            rounds=rounds,
        ),
    ]
    report(results)


if __name__ == "__main__":
    main()
