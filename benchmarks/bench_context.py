"""Reading a long text in chunks with a cache against reading it in one pass, on labkit-moe, on the CPU; and what lengths cost.

Before timing, the losses of both ways must agree to 1e-4. The peer is one pass of the same model over the whole text, whose
logits are all there at once. Beside the ratio the table of `lk.context.long_costs` is printed.

--quick: 512 tokens only. --json: the results as JSON.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from common import compare, report

import labkit as lk
from labkit.context.long_texts import long_documents, read_losses

ROUNDS = {512: 5, 1024: 5, 2048: 3}


def main() -> None:
    torch.set_num_threads(1)
    lab = lk.load("labkit-moe")
    sizes = (512,) if "--quick" in sys.argv else tuple(ROUNDS)
    results = []
    for size in sizes:
        (ids,) = long_documents(lab, size, 1)

        def chunks(ids: list[int] = ids) -> np.ndarray:
            return read_losses(lab, ids)

        def whole(ids: list[int] = ids) -> np.ndarray:
            return read_losses(lab, ids, cached=False)

        assert np.abs(chunks() - whole()).max() < 1e-4
        results.append(compare(f"{size} tokens read", ("in chunks", chunks), ("one pass", whole), rounds=ROUNDS[size]))
    report(results)
    if "--json" not in sys.argv:
        print(lk.context.long_costs(lab, [n for n in sizes if n < (lab.context or 0)]))


if __name__ == "__main__":
    main()
