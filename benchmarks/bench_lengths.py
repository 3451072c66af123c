"""What a text costs by its length: attention, a state space and a hybrid of equal size, bytes and times.

Bytes are asserted to be those that lk.memory computes. --quick: shorter texts.
"""

from __future__ import annotations

import sys

import labkit as lk

TOKENS = (64, 256, 1024, 4096)

if __name__ == "__main__":
    quick = "--quick" in sys.argv
    found = lk.recurrent.length_costs(tokens=TOKENS[:2] if quick else TOKENS, new_tokens=16, repeats=1 if quick else 5)
    assert (found.table["state_bytes"] == found.table["computed_bytes"]).all()
    print(found.table.to_csv(index=False) if "--csv" in sys.argv else found)
