"""Recall by bytes of state: many small models trained on one task, and what each keeps of what it has read.

    python -m labkit.recipes.recall          # about ten minutes of one core; goes on where it was interrupted

The task is multi-query associative recall (Arora et al. 2023, arXiv 2312.04927; `labkit/recurrent/recalling.py`). State spaces
and hybrids differ in d_state, attention in d_model, which is what its keys and values grow with. All are trained alike, with
one learning rate, that was chosen once for state spaces and attention of d_model 64 among 0.003 and 0.01. The record is
labkit/recipes/records/recall.jsonl: a line with the settings, then a line for each training, with a row for each number of pairs.
"""

import json
import platform
from pathlib import Path

import torch

from labkit.recurrent.recalling import RECORD, Kind, RecallTask, recall

TASK = RecallTask(keys=64, values=64, pairs=(2, 4, 8, 16))
STEPS, SEQUENCES, SEEDS = 1_000, 256, (0, 1)
RUNS: list[tuple[Kind, int, int]] = [  # kind, d_model, d_state
    *(("attention", d_model, 1) for d_model in (16, 32, 64)),
    *(("state space", 64, d_state) for d_state in (2, 4, 8, 16, 32, 64)),
    *(("hybrid", 64, d_state) for d_state in (2, 16)),
]


def run(record: Path = RECORD, runs: list[tuple[Kind, int, int]] = RUNS, *, steps: int = STEPS) -> None:
    """Train what is not in the record yet."""
    if not record.exists():
        head = {"keys": TASK.keys, "values": TASK.values, "pairs": TASK.pairs, "steps": steps, "sequences": SEQUENCES}
        machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()}
        record.write_text(json.dumps(head | machine) + "\n", "utf-8")
    done = {tuple(json.loads(line).get("run", ())) for line in record.read_text("utf-8").splitlines()}
    for seed in SEEDS:
        for kind, d_model, d_state in runs:
            if (kind, d_model, d_state, seed) in done:
                continue
            found = recall(
                kind, task=TASK, d_model=d_model, d_state=d_state, steps=steps, seeds=seed, sequences=SEQUENCES
            )
            rows = json.loads(found.table.round(5).to_json(orient="records"))
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": [kind, d_model, d_state, seed], "rows": rows}) + "\n")
            print(kind, d_model, d_state, seed, found.table["accuracy"].round(3).tolist(), flush=True)


if __name__ == "__main__":
    run()
