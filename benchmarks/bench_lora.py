"""finetune against TRL's SFTTrainer by itself: the same model, samples, batches, method and dtype, on the CPU (or a GPU).

Time: of the steps alone, forward, backward and update, as each tells it; building and measuring left out. Peak memory: of a
process that does nothing but load the model and train, resident set at its highest, each in a child process of its own;
labkit's keeps the user's lab usable beside. Also with labkit's live measures on, for what those cost.

--quick: fewer steps and rounds. --json: the results as JSON.
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
import time
import warnings
from collections.abc import Sequence

import torch
from common import Result, compare, default_lab, report

import labkit as lk

RANK, ALPHA, DROPOUT, BATCH, RATE = 16, 32, 0.1, 8, 2e-3
TARGETS = ("q_proj", "v_proj")


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def samples() -> list[dict[str, str]]:
    """Samples of the task that dates are written in ISO."""
    return [{"prompt": s.prompt, "completion": s.completion} for s in lk.lora.tasks.dates(n=64, seed=0).train]


def ours(steps: int, *, measure: bool = False) -> float:
    """Seconds of the steps; with `measure` of the whole run after it began."""
    held_out = samples()[-8:] if measure else None
    with contextlib.redirect_stdout(io.StringIO()):
        run = lk.lora.finetune(
            default_lab(),
            samples()[:-8],
            rank=RANK,
            alpha=ALPHA,
            targets=TARGETS,
            dropout=DROPOUT,
            batch=BATCH,
            learning_rate=RATE,
            steps=steps,
            held_out=held_out,
            general=None if measure else False,
            prompt=None if measure else False,
        )
    began = time.perf_counter()
    run.wait()
    return time.perf_counter() - began if measure else sum(run._tuning._step_seconds)


def theirs(steps: int, *, again: bool = True) -> float:
    """Seconds of the steps of a plain SFTTrainer, which changes the model it is given. again: that model is used afterwards, so
    it is given another copy.
    """
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    lab = default_lab()
    seconds: list[float] = []

    class Timed(TrainerCallback):
        def on_step_begin(self, *_args: object, **_options: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_args: object, **_options: object) -> None:
            seconds.append(time.perf_counter() - self.began)

    rows = lk.lora.prepared(lab, samples()[:-8], general=False).dataset()
    model = lk.load(device=device(), fresh=True).model if again else lab.model
    with tempfile.TemporaryDirectory() as folder:
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
            train_dataset=rows,
            processing_class=lab.tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=DROPOUT, task_type="CAUSAL_LM"
            ),
            callbacks=[Timed()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return sum(seconds)


WAYS = {"ours": ours, "theirs": theirs, "measured": lambda steps: ours(steps, measure=True)}


def peak(way: str, steps: int) -> int:
    """Peak bytes of a child process that loads the default model and trains it in one way."""
    command = [sys.executable, __file__, "--peak", way, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_in_this_process(way: str, steps: int) -> int:
    if way == "theirs":
        theirs(steps, again=False)
    else:
        WAYS[way](steps)
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peaks(steps: int, rounds: int) -> dict[str, float]:
    """Medians in bytes, by way."""
    return {way: statistics.median(peak(way, steps) for _ in range(rounds)) for way in WAYS}


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
    rounds, steps = (2, 3) if asked.quick else (5, 6)
    results: list[Result] = [
        compare(
            f"{steps} steps of {BATCH} samples, LoRA rank {RANK} (to reach: ratio 1, no slower)",
            ("lk.lora.finetune", lambda: ours(steps)),
            ("SFTTrainer", lambda: theirs(steps)),
            rounds=rounds,
        )
    ]
    report(results)
    if not asked.json:
        found = peaks(steps, 1 if asked.quick else 3)
        ratio = found["ours"] / found["theirs"]
        print(f"peak memory of a process: ratio {ratio:.3f} (to reach: 1, no larger)")
        print(
            f"    lk.lora.finetune: {found['ours'] / 2**20:,.0f} MiB   SFTTrainer: {found['theirs'] / 2**20:,.0f} MiB   "
            f"finetune with all its measures: {found['measured'] / 2**20:,.0f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
