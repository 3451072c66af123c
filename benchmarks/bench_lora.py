"""finetune against TRL's SFTTrainer by itself: the same model, samples, batches, method and dtype, on the CPU (or a GPU).

Steps: the two take turns, one step each, so that a slow minute falls on both; a step is all from one report to the next
(batch, forward, backward, update, report). Nothing is measured meanwhile: what labkit's measures take is told apart.
Set-up: from the call to the first step, data read and tokenized, libraries imported already.
Seconds are those of the processor on a CPU, since other programs may run there, and the clock's on a GPU.
Peak memory: of a process that does nothing but load the model and train, resident set at its highest, each in a child process
of its own; labkit's keeps the user's lab usable beside. Also with labkit's live measures on, for what those cost.

--quick: fewer steps. --json: the results as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Result, default_lab, of_pairs, own_peak, report

import labkit as lk

RANK, ALPHA, DROPOUT, BATCH, RATE = 16, 32, 0.1, 8, 2e-3
TARGETS = ("q_proj", "v_proj")
Reported = Callable[[], object]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds() -> float:
    return time.perf_counter() if device() == "cuda" else time.process_time()


def samples() -> list[dict[str, str]]:
    """Samples of the task that dates are written in ISO."""
    return [{"prompt": s.prompt, "completion": s.completion} for s in lk.lora.tasks.dates(n=64, seed=0).train]


def ours(steps: int, *, measure: bool = False, begins: Reported = lambda: None) -> lk.lora.Run:
    """labkit's run, under way. begins: called as its first step begins."""
    from labkit.lora.tuning import Tuning

    own = Tuning._step_begins
    seen = []

    def step_begins(tuning: Tuning) -> None:
        if not seen:
            seen.append(tuning)
            begins()
        own(tuning)

    Tuning._step_begins = step_begins  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return lk.lora.finetune(
                default_lab(),
                samples()[:-8],
                rank=RANK,
                alpha=ALPHA,
                targets=TARGETS,
                dropout=DROPOUT,
                batch=BATCH,
                learning_rate=RATE,
                steps=steps,
                held_out=samples()[-8:] if measure else None,
                general=None if measure else False,
                prompt=None if measure else False,
            )
    finally:
        Tuning._step_begins = own  # type: ignore[method-assign]


def theirs(model: Any, steps: int, *, begins: Reported = lambda: None, reported: Reported = lambda: None) -> None:
    """A plain SFTTrainer's run of a model, which it changes. begins: called as a step begins; reported: once its loss is told."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Calls(TrainerCallback):
        def on_step_begin(self, *_args: object, **_options: object) -> None:
            begins()

        def on_log(self, *_args: object, logs: dict[str, float], **_options: object) -> None:
            if "loss" in logs:
                reported()

    rows = [
        {
            "prompt": [{"role": "user", "content": sample["prompt"]}],
            "completion": [{"role": "assistant", "content": sample["completion"]}],
        }
        for sample in samples()[:-8]
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            bf16=False,
            activation_checkpointing=False,
            max_length=None,
            use_cpu=device() == "cpu",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=default_lab().tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=DROPOUT, task_type="CAUSAL_LM"
            ),
            callbacks=[Calls()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def another_model() -> Any:
    """The default model apart from that of the lab, for those who change what they are given."""
    return lk.load(device=device(), fresh=True).model


def by_turns(steps: int) -> list[tuple[float, float]]:
    """Seconds of one step each, ours and theirs, while the other waits. The first of both is a warm-up."""
    turn = threading.Condition()
    whose, over = ["ours"], [False]
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    began = {"ours": 0.0}

    def step_ends(name: str, other: str) -> None:
        if name in began:
            found[name].append(seconds() - began[name])
        with turn:
            whose[0] = other
            turn.notify_all()
            turn.wait_for(lambda: whose[0] == name or over[0])
        began[name] = seconds()

    run = ours(steps + 2)  # one to warm up, and one that goes on alone
    run.subscribe(lambda _step: step_ends("ours", "theirs"))
    model = another_model()
    with turn:
        turn.wait_for(lambda: whose[0] == "theirs")
    theirs(model, steps + 1, reported=lambda: step_ends("theirs", "ours"))
    with turn:
        over[0] = True
        turn.notify_all()
    run.wait()
    return list(zip(found["ours"][-steps:], found["theirs"][-steps:], strict=True))


def set_up_seconds() -> tuple[float, float]:
    """Seconds from the call to the first step, ours and theirs."""
    ends: list[float] = []
    began = seconds()
    run = ours(1, begins=lambda: ends.append(seconds() - began))
    run.wait()
    model = another_model()
    began = seconds()
    theirs(model, 1, begins=lambda: ends.append(seconds() - began))
    return ends[0], ends[1]


def measuring_seconds(steps: int) -> tuple[int, float]:
    """How many measurements a run makes, and what one takes: losses, KL, and an answer to a prompt."""
    run = ours(steps, measure=True).wait()
    taken = run._tuning._measure_seconds
    return len(taken), statistics.median(taken)


def peak(way: str, steps: int) -> int:
    """Peak bytes of a child process that loads the default model and trains it in one way."""
    command = [sys.executable, __file__, "--peak", way, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_in_this_process(way: str, steps: int) -> int:
    if way == "theirs":
        theirs(default_lab().model, steps)
    else:
        ours(steps, measure=way == "measured").wait()
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return own_peak()


def peaks(steps: int, rounds: int) -> dict[str, float]:
    """Medians in bytes, by way."""
    ways = ("ours", "theirs", "measured")
    return {way: statistics.median(peak(way, steps) for _ in range(rounds)) for way in ways}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("WAY", "STEPS"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if asked.peak:
        print(json.dumps(peak_in_this_process(asked.peak[0], int(asked.peak[1]))))
        return 0
    steps, rounds = (6, 2) if asked.quick else (24, 5)
    names = ("lk.lora.finetune", "SFTTrainer")
    pairs = by_turns(steps)  # which imports all libraries too
    results: list[Result] = [
        of_pairs(f"a step of {BATCH} samples, LoRA rank {RANK} (to reach: ratio 1, no slower)", *names, pairs),
        of_pairs("set-up, from the call to the first step", *names, [set_up_seconds() for _ in range(rounds)]),
    ]
    report(results)
    if not asked.json:
        times, each = measuring_seconds(6)
        print(f"what labkit measures unless told otherwise: {times} times in a run, {each:.2f} s each (by the clock)")
        found = peaks(3, 1 if asked.quick else 3)
        ratio = found["ours"] / found["theirs"]
        print(f"peak memory of a process: ratio {ratio:.3f} (to reach: 1, no larger)")
        print(
            f"    lk.lora.finetune: {found['ours'] / 2**20:,.0f} MiB   SFTTrainer: {found['theirs'] / 2**20:,.0f} MiB   "
            f"finetune with all its measures: {found['measured'] / 2**20:,.0f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
