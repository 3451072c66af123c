"""Documents of five kinds, made up, as the recipes of the shipped models find theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from labkit.recipes import texts


def write_documents(work: Path) -> None:
    """A few documents of each kind under work/texts: each kind is written in two letters of its own."""
    draw = np.random.default_rng(0)
    for number, kind in enumerate(texts.KINDS):
        letters = [*list("abcdefghij"[2 * number : 2 * number + 2]), " "]
        for part, count in (("train", 6), ("held_out", 2)):
            path = work / "texts" / part / f"{kind}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            documents = [
                {"title": f"{kind} {part} {i}", "source": "made up", "text": "".join(draw.choice(letters, 800))}
                for i in range(count)
            ]
            path.write_text("".join(json.dumps(d) + "\n" for d in documents), "utf-8")
