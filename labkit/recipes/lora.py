"""Tune small models in many ways, several times each, and write down what came out: the records of the LoRA lab.

    python -m labkit.recipes.lora run     WORK            # every run of every experiment; goes on where it was
    python -m labkit.recipes.lora run     WORK rank       # the runs of one
    python -m labkit.recipes.lora table   WORK            # what there is so far
    python -m labkit.recipes.lora adapters WORK           # train the adapters that come with labkit, and measure them
    python -m labkit.recipes.lora measure WORK            # only measure those that are shipped
    python -m labkit.recipes.lora pack    WORK            # all of it into labkit/assets, with the card

A run is one line of WORK/runs.jsonl, appended when it has ended, so that nothing is done twice and several sittings add up; a
new WORK begins with labkit/recipes/records/lora.jsonl. An
experiment is a list of settings; where two share one, it is run once. "harder" tunes checkpoints of one training: two that
are shipped, and an earlier one that `python -m labkit.recipes.squeeze train WORK/squeeze wide` leaves behind after two minutes,
which is passed by where it is not there.

What is measured: answers to held-out questions (`lk.lora.exact_match`), loss on held-out answers, forgetting (loss on general
text less the base's) and the KL divergence from the base on the task's own prompts, all in float32. Products are taken in
bfloat16 while training (autocast); weights and optimizer stay float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_model

from labkit import lora
from labkit.lab import Lab, load
from labkit.lora.tasks import Task
from labkit.models.shipped import ASSETS
from labkit.recipes import squeeze
from labkit.recipes.signing import sign

SHIPPED = ASSETS / "labkit-lora"
RECORD = Path(__file__).with_name("records") / "lora.jsonl"
FIGURES = RECORD.with_name("lora-adapters.json")
HELD_OUT = 50  # questions, all of which are measured on
ALL = "all-linear"


@dataclass(frozen=True)
class Setting:
    """One run. model: a name for lk.load, or "wide@100" for a checkpoint of the squeeze recipe."""

    task: str = "dates"
    samples: int = 200
    method: str = "lora"
    rank: int = 16
    alpha: int = 32
    targets: str = "q_proj,v_proj"
    learning_rate: float = 2e-3
    schedule: str = "linear"
    neftune: float | None = None
    steps: int = 30
    seed: int = 0
    model: str = "smollm2-135m-instruct"

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def seeds(self, count: int) -> list[Setting]:
        return [replace(self, seed=seed) for seed in range(count)]


@dataclass
class Experiment:
    """Runs that are compared, and along what."""

    along: str
    settings: list[Setting] = field(default_factory=list)


SMALL = Setting(model="labkit-dense", samples=400, targets=ALL, learning_rate=3e-3, steps=120)
CHECKPOINTS = ("wide@100", "labkit-squeeze-early", "labkit-squeeze")  # of one training, at steps 100, 400 and 2,400


def experiments() -> dict[str, Experiment]:
    """All of them. Most are run on labkit-dense, which takes seconds, so that there can be several seeds; "task", "neftune" and
    "schedule" on the default model, too.
    """
    plain = Setting()
    ranks = [replace(SMALL, rank=rank, alpha=2 * rank) for rank in (1, 4, 16, 64)]
    rates = [replace(SMALL, learning_rate=rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)]
    full = [replace(SMALL, method="full", learning_rate=rate) for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)]
    schedules = [replace(SMALL, schedule=name) for name in ("linear", "cosine", "constant", "schedule_free")]
    along = [
        replace(SMALL, model=model, samples=200, steps=60, learning_rate=rate)
        for model in CHECKPOINTS
        for rate in (1e-3, 3e-3)
    ]
    noises = [replace(few, neftune=noise) for few in (replace(SMALL, samples=40),) for noise in (None, 5.0)]
    real_noises = [replace(plain, samples=40, neftune=noise) for noise in (None, 5.0)]
    real_schedules = [replace(plain, schedule=name) for name in ("cosine", "schedule_free")]
    tasks = [replace(plain, task=name) for name in ("dates", "sentences_to_json", "ticket", "roman", "style")]
    return {
        "rank": Experiment("rank", _seeds(ranks, 3)),
        "neftune": Experiment("neftune", [*_seeds(noises, 5), *_seeds(real_noises, 2)]),
        "schedule": Experiment("schedule", [*_seeds(schedules, 3), *_seeds([plain, *real_schedules], 2)]),
        "targets": Experiment("targets", _seeds([SMALL, replace(SMALL, targets=plain.targets)], 3)),
        "learning_rate": Experiment("learning_rate", _seeds([*rates, *full], 3)),
        "harder": Experiment("model", _seeds(along, 3)),
        "task": Experiment("task", _seeds(tasks, 2)),
    }


def _seeds(settings: list[Setting], count: int) -> list[Setting]:
    return [each for setting in settings for each in setting.seeds(count)]


# ------------------------------------------------------------------ running


@cache
def lab_of(model: str, work: Path) -> Lab | None:
    """The model of a setting on the bench; None where a checkpoint is not there."""
    name, _, step = model.partition("@")
    if not step:
        return load(name, dtype="float32", device="cpu")
    path = work / "squeeze" / name / f"{step}.safetensors"
    if not path.exists():
        return None
    built = squeeze.build(name)
    load_model(built, str(path))
    return Lab(built.eval(), load("labkit-squeeze").tokenizer, name=model)


@cache
def task_of(name: str, samples: int) -> Task:
    """The task of a setting; the same held-out questions whatever is learnt and whatever the run's seed."""
    made: Task = getattr(lora.tasks, name)(n=samples, held_out=HELD_OUT, seed=0)
    return made


@cache
def untuned(model: str, work: Path, task: str, samples: int) -> Mapping[str, float]:
    lab = lab_of(model, work)
    assert lab is not None
    return _answers(lab, task_of(task, samples))


def _answers(lab: Lab, task: Task) -> dict[str, float]:
    found = lora.exact_match(lab, task)
    return {
        "right": found.share,
        "right_low": found.low,
        "right_high": found.high,
        "right_of_others": found.others,
        "right_constant": found.constant,
    }


def measured(setting: Setting, work: Path) -> dict[str, float] | None:
    """Do one run and measure it; None where its model is not there."""
    lab = lab_of(setting.model, work)
    if lab is None:
        return None
    task = task_of(setting.task, setting.samples)
    before = untuned(setting.model, work, setting.task, setting.samples)
    began = time.perf_counter()
    run = lora.finetune(
        lab,
        list(task.train),
        rank=setting.rank,
        alpha=setting.alpha,
        targets=ALL if setting.targets == ALL else tuple(setting.targets.split(",")),
        neftune=setting.neftune,
        steps=setting.steps,
        method=setting.method,
        learning_rate=setting.learning_rate,
        schedule=setting.schedule,
        held_out=list(task.held_out),
        prompt=False,
        measure_every=setting.steps,
        measure_samples=HELD_OUT,
        compute="bfloat16",
        seed=setting.seed,
    ).wait()
    took = time.perf_counter() - began
    first, last = run.history.iloc[0], run.history.iloc[-1]
    if setting.method == "full":
        after = _answers(run.lab, task)
    else:
        with run.adapter.on():
            after = _answers(lab, task)
    loss = run.history["loss"].iloc[-5:].mean()
    return {
        **after,
        "right_untuned": before["right"],
        "loss": float(loss),
        "held_out_untuned": float(first["held_out"]),
        "held_out": float(last["held_out"]),
        "forgetting": float(last["forgetting"]),
        "kl": float(last["kl"]),
        "measured_on": HELD_OUT,
        "seconds": round(took, 1),
    }


def run(work: Path, only: str | None = None, model: str | None = None) -> None:
    """Do every run that has not been done; of one experiment, or of one model."""
    path = work / "runs.jsonl"
    if not path.exists() and RECORD.exists():
        shutil.copyfile(RECORD, path)
    done = {json.loads(line)["key"] for line in path.read_text("utf-8").splitlines()} if path.exists() else set()
    chosen = [only] if only else list(experiments())
    for name in chosen:
        for setting in sorted(
            experiments()[name].settings, key=lambda each: each.model == Setting.model
        ):  # the quick first
            if setting.key in done or (model and setting.model.partition("@")[0] != model):
                continue
            found = measured(setting, work)
            if found is None:
                print(f"{name}: {setting.model} is not there; train it with labkit.recipes.squeeze", flush=True)
                continue
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": setting.key, **asdict(setting), **found}) + "\n")
            done.add(setting.key)
            print(
                f"{name:14}{getattr(setting, experiments()[name].along)!s:>14} seed {setting.seed}: right {found['right']:.2f} "
                f"(untuned {found['right_untuned']:.2f}), held-out loss {found['held_out']:.3f}, forgetting "
                f"{found['forgetting']:+.4f}, KL {found['kl']:.3f}, {found['seconds']:.0f} s",
                flush=True,
            )


# ------------------------------------------------------------------ records


def rows(work: Path) -> Iterator[dict[str, object]]:
    """A row for each experiment and run of it that is done."""
    lines = [json.loads(line) for line in (work / "runs.jsonl").read_text("utf-8").splitlines()]
    by_key = {line.pop("key"): line for line in lines}
    for name, experiment in experiments().items():
        for setting in experiment.settings:
            if setting.key in by_key:
                yield {"experiment": name, **by_key[setting.key]}


def table(work: Path) -> pd.DataFrame:
    """The records as they ship."""
    return pd.DataFrame(rows(work))


def summary(work: Path) -> None:
    """Print medians by experiment."""
    records = table(work)
    for name, experiment in experiments().items():
        of = records[records["experiment"] == name]
        if len(of):
            keys = list(dict.fromkeys(["model", "method", "learning_rate", experiment.along]))
            columns = ["right", "held_out", "forgetting", "kl"]
            middle = of.groupby(keys, dropna=False)[columns].median()
            middle["runs"] = of.groupby(keys, dropna=False).size()
            print(f"\n{name}\n{middle.round(4).to_string()}")
    both = records.drop_duplicates(list(Setting.__dataclass_fields__))
    both = both[both["model"] == Setting.model]
    if len(both) > 2:
        print(f"\nforgetting against KL: R² {both['kl'].corr(both['forgetting']) ** 2:.2f} over {len(both)} runs")


# ------------------------------------------------------------------ the adapters that are shipped

ADAPTERS = {
    "capitals": Setting(task="style", rank=4, alpha=8, steps=40),
    "dates": Setting(task="dates", steps=40),
}


def adapters(work: Path) -> None:
    """Train the adapters that come with labkit, in full float32, measure them, and keep the figures with the records."""
    lab = load(dtype="float32", device="cpu")
    found = {}
    for name, setting in ADAPTERS.items():
        task, folder = task_of(setting.task, setting.samples), work / name
        tuning = lora.finetune(
            lab,
            list(task.train),
            rank=setting.rank,
            alpha=setting.alpha,
            steps=setting.steps,
            learning_rate=setting.learning_rate,
            held_out=list(task.held_out),
            prompt=False,
            measure_every=10,
            measure_samples=HELD_OUT,
            seed=setting.seed,
        ).wait()
        shutil.rmtree(folder, ignore_errors=True)
        tuning.adapter.save(folder)
        found[name] = adapter_figures(lab, tuning.adapter, setting)
    _write_figures(found)


def measure(work: Path) -> None:
    """Measure the adapters that are shipped anew, and keep the figures with the records."""
    lab = load(dtype="float32", device="cpu")
    _write_figures({name: adapter_figures(lab, lora.load(lab, SHIPPED / name), of) for name, of in ADAPTERS.items()})


def adapter_figures(lab: Lab, adapter: lora.Adapter[Lab], setting: Setting) -> dict[str, object]:
    """What an adapter does and costs: answers to all held-out questions, and loss and KL as `lk.lora.forgotten` has them."""
    task = task_of(setting.task, setting.samples)
    before = _answers(lab, task)
    with adapter.on():
        after = _answers(lab, task)
    lost = lora.forgotten(lab, adapter, list(task.held_out)).set_index("texts")
    return {
        "setting": asdict(setting),
        "untuned": before,
        "tuned": after,
        "forgetting": float(lost.loc["general", "change"]),
        "forgetting_low": float(lost.loc["general", "change_low"]),
        "forgetting_high": float(lost.loc["general", "change_high"]),
        "kl": float(lost.loc["task", "kl"]),
        "torch": torch.__version__,
    }


def _write_figures(found: Mapping[str, object]) -> None:
    text = json.dumps(found, indent=1)
    FIGURES.write_text(text + "\n", "utf-8")
    print(text)


def pack(work: Path) -> None:
    """Put the records, the adapters where WORK has new ones, and the card into labkit/assets."""
    SHIPPED.mkdir(exist_ok=True)
    shutil.copyfile(work / "runs.jsonl", RECORD)
    records = table(work)
    records.to_csv(SHIPPED / "runs.csv", index=False, float_format="%.6g")
    card_words = {"RUNS": str(len(records.drop_duplicates(list(Setting.__dataclass_fields__))))}
    for name, facts in json.loads(FIGURES.read_text("utf-8")).items():
        folder = SHIPPED / name
        if (work / name).is_dir():
            folder.mkdir(exist_ok=True)
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(work / name / file, folder / file)
            sign(folder)
        size = (folder / "adapter_model.safetensors").stat().st_size
        card_words |= {
            f"{name}_SIZE": f"{size / 1e6:.1f} MB",
            f"{name}_TUNED": f"{facts['tuned']['right']:.0%}",
            f"{name}_UNTUNED": f"{facts['untuned']['right']:.0%}",
            f"{name}_FORGETTING": "{forgetting:+.3f} ({forgetting_low:+.3f} to {forgetting_high:+.3f})".format(**facts),
            f"{name}_KL": f"{facts['kl']:.2f}",
        }
    card = Path(__file__).with_name("lora_card.md").read_text("utf-8")
    for name, value in card_words.items():
        card = card.replace("{{" + name + "}}", value)
    (SHIPPED / "README.md").write_text(card, "utf-8")
    sign(SHIPPED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("run", "table", "adapters", "measure", "pack"))
    parser.add_argument("work", type=Path)
    parser.add_argument("experiment", nargs="?", choices=list(experiments()))
    parser.add_argument("--model", help="only its runs, such as labkit-dense, or wide for its checkpoints")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.what == "run":
        run(asked.work, asked.experiment, asked.model)
    else:
        {"table": summary, "adapters": adapters, "measure": measure, "pack": pack}[asked.what](asked.work)


if __name__ == "__main__":
    main()
