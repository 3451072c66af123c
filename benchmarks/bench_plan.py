"""How long lk.plan takes: the first plan of each published model in a process, and the next one.

Imports of transformers' modeling files are done beforehand. CPU seconds of this process, so that a busy machine does not
count. Names of models as arguments: those alone (all of them take some minutes).
"""

from __future__ import annotations

import gc
import statistics
import sys
import time

import labkit as lk
from labkit.landscape import structures
from labkit.models import published
from labkit.models.memory import named_config, skeleton

MACHINE = "4xA100-80GB"


def seconds(name: str, precision: str) -> float:
    start = time.process_time()
    lk.plan(name, hardware=MACHINE, precision=precision, tokens=4096, batch=8)
    return time.process_time() - start


def main() -> None:
    names = sys.argv[1:] or published.names()
    for name in names:  # imports
        skeleton(named_config(name)[1])
    lk.plan("gpt2", hardware=MACHINE)
    first, again, fitting = {}, {}, {}
    for name in names:
        structures._structure.cache_clear()
        gc.collect()
        first[name] = seconds(name, "int4")
        again[name] = seconds(name, "int4")
        fitting[name] = seconds(name, "bfloat16")
    for what, taken in (("first plan", first), ("the next", again), ("another precision", fitting)):
        worst = max(taken, key=taken.__getitem__)
        print(
            f"{what:18s} median {1e3 * statistics.median(taken.values()):5.1f} ms, most {1e3 * taken[worst]:5.1f} ms ({worst})"
        )
    own = {**named_config("llama-2-7b")[1].to_dict(), "num_hidden_layers": 31}
    start = time.process_time()
    lk.plan(own, hardware=MACHINE)
    print(f"a configuration that is in no record: {1e3 * (time.process_time() - start):.0f} ms", file=sys.stdout)


if __name__ == "__main__":
    main()
