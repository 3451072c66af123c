"""Fit the Jacobian lens that labkit ships: of the default model, on one thread, a text at a time.

    python -m labkit.recipes.texts gather WORK/texts     # once; the same texts as for the mixture of experts
    python -m labkit.recipes.lens agree WORK             # whether bfloat16 will do: on two texts, beside float32
    python -m labkit.recipes.lens fit   WORK             # goes on where it was; may be stopped at any time
    python -m labkit.recipes.lens pack  WORK             # what there is, into labkit/assets/labkit-lens, with the record
    python -m labkit.recipes.lens measure WORK           # beside other lenses on held-out text, into its card

Every prompt is LENGTH tokens of another document of those that labkit's own models are trained on; the passages that come
with labkit, on which lenses are compared, are of documents that were set aside. The model runs in bfloat16, which takes half
the time of float32; `agree` shows what that changes. WORK/sums.safetensors holds the sums of the Jacobians of the prompts at
even and at odd places, whole after each prompt, so that the two halves can be compared and the fit can go on later. What is
shipped has eight bits a number, with a scale for every 32 of a row; `measure` says what that costs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.jacobians import LENGTH, text_jacobians
from labkit.circuits.lens_comparing import lens_quality
from labkit.circuits.lens_files import FILE, SHIPPED_MODEL, load_lens, write
from labkit.circuits.lens_fitting import lens_of_sums
from labkit.models.shipped import ASSETS, LENS
from labkit.models.texts import texts as held_out_texts
from labkit.quantization.bases import base_of
from labkit.recipes import texts
from labkit.recipes.signing import sign

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from labkit.lab import Lab

SEED = 0
MODEL = SHIPPED_MODEL
KINDS = ("prose", "encyclopaedia", "python")  # in turn; the model was hardly trained on the others
CHARACTERS = 2_000  # of a document, from which LENGTH tokens are taken: enough in every kind
FOLDER = ASSETS / LENS
RECORD = Path(__file__).parent / "records" / "lens.jsonl"
QUALITY, DIFFERENCES, COST = "quality.csv", "differences.csv", "cost.json"
DOCUMENTS = 10  # held-out passages of each kind, on which lenses are compared
MEASURED = tuple(range(1, 30, 2))  # layers
STORED_AT = (5, 15, 25)  # layers at which the cost of eight bits is measured
SUMS = "sums.safetensors"
HALVES = ("even", "odd")
TRIED_ROWS = tuple(range(5, 576, 18))  # on which `agree` compares


class Prompt(NamedTuple):
    kind: str
    title: str
    ids: list[int]


def prompts(work: Path, tokenizer: PreTrainedTokenizerBase, start: int = 0) -> Iterator[Prompt]:
    """The prompts from a place on, one of each kind in turn: LENGTH tokens of a document, from a line drawn by the seed."""
    documents = {kind: texts.load(work / "texts", "train", kind) for kind in KINDS}
    orders = {k: np.random.default_rng([SEED, i]).permutation(len(documents[k])) for i, k in enumerate(KINDS)}
    for place in range(start, len(KINDS) * min(map(len, documents.values()))):
        kind = KINDS[place % len(KINDS)]
        document = documents[kind][orders[kind][place // len(KINDS)]]
        text = document["text"]
        at = int(np.random.default_rng([SEED, place]).integers(0, max(1, len(text) - CHARACTERS)))
        at = text.find("\n", at) + 1 if at and "\n" in text[at : at + CHARACTERS // 4] else at
        ids = tokenizer(text[at : at + CHARACTERS], add_special_tokens=False)["input_ids"][:LENGTH]
        yield Prompt(kind, document["title"], ids)


def load_sums(work: Path) -> tuple[dict[str, torch.Tensor], int]:
    """({"even", "odd": (layers − 1, d_model, d_model) float32, the sums}, of how many prompts together)."""
    with safe_open(work / SUMS, "pt") as file:
        return {half: file.get_tensor(half) for half in HALVES}, int(file.metadata()["prompts"])


def _save_sums(work: Path, sums: dict[str, torch.Tensor], count: int) -> None:
    """There whole or not at all."""
    part = work / f"{SUMS}.part"
    save_file(sums, part, metadata={"prompts": str(count)})
    part.replace(work / SUMS)


def _lab(dtype: str) -> Lab:
    import labkit as lk

    lab = lk.load(dtype=dtype, device="cpu", fresh=True)
    lab.model.requires_grad_(False)
    return lab


def fit(work: Path, *, stop_after: int | None = None) -> None:
    """Add up the Jacobians of one prompt after another; stop_after: so many in all."""
    lab, record = _lab("bfloat16"), work / "record.jsonl"
    sums, done = load_sums(work) if (work / SUMS).exists() else ({}, 0)
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    record.write_text("".join(f"{line}\n" for line in lines[: done + 1]), "utf-8")
    with record.open("a", encoding="utf-8") as file:
        if not done:
            run = {"model": MODEL, "dtype": "bfloat16", "length": LENGTH, "seed": SEED, "kinds": KINDS}
            run |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
            file.write(json.dumps(run) + "\n")
        for number, prompt in enumerate(prompts(work, lab.tokenizer, done), done):
            if number == stop_after:
                return
            began = time.perf_counter()
            with lab.turn():
                found = text_jacobians(lab, prompt.ids)
            half = HALVES[number % 2]
            sums = sums or {name: torch.zeros_like(found) for name in HALVES}
            mean = (sums["even"] + sums["odd"]) / max(number, 1)
            sums[half] += found
            _save_sums(work, sums, number + 1)
            middle = len(found) // 2
            off = float((found - mean)[middle].norm() / mean[middle].norm()) if number else None
            line = {"prompt": number, "kind": prompt.kind, "title": prompt.title, "tokens": len(prompt.ids)}
            line |= {"norm": float(found[middle].norm()), "off_the_mean": off, "seconds": time.perf_counter() - began}
            line = {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            print(line, flush=True)


def agree(work: Path) -> None:
    """Print, by layer, how far bfloat16 is from float32 on two prompts, and how far the prompts are from each other."""
    found: dict[str, list[torch.Tensor]] = {}
    for dtype in ("float32", "bfloat16"):
        lab = _lab(dtype)
        some = [prompt for prompt, _ in zip(prompts(work, lab.tokenizer), range(2), strict=False)]
        with lab.turn():
            found[dtype] = [text_jacobians(lab, prompt.ids, rows=TRIED_ROWS) for prompt in some]
        lab.close()
    exact, rounded = (torch.stack(found[dtype]) for dtype in ("float32", "bfloat16"))
    size = exact.pow(2).sum((0, 2, 3))
    rounding = ((rounded - exact).pow(2).sum((0, 2, 3)) / size).sqrt()
    sampling = ((exact[0] - exact[1]).pow(2).sum((1, 2)) / size).sqrt()
    for layer, (a, b) in enumerate(zip(rounding.tolist(), sampling.tolist(), strict=True)):
        print(f"layer {layer:2}: rounding {a:.3f}, the difference of the prompts {b:.3f}")


def fitted(work: Path) -> JacobianLens:
    """The lens of all prompts so far, in float32."""
    sums, done = load_sums(work)
    return lens_of_sums(sums["even"], sums["odd"], done, MODEL, base=base_of(_lab("float32")))


def pack(work: Path) -> None:
    """Write the lens in eight bits, the record of its fit, and the checksums."""
    whole = fitted(work)
    write(whole, FOLDER / FILE, bits=8)
    shutil.copy(work / "record.jsonl", RECORD)
    shipped = load_lens(FOLDER / FILE)
    off = [float((shipped.jacobians[i] - m).norm() / m.norm()) for i, m in whole.jacobians.items()]
    print(f"{whole!r}; eight bits change a matrix by {min(off):.4f} to {max(off):.4f} of its norm")
    sign(FOLDER)


def measure(work: Path) -> None:
    """Compare the shipped lens with others on the held-out passages, and with itself in float32; write the card."""
    lab, shipped, whole = _lab("float32"), load_lens(FOLDER / FILE), fitted(work)
    held = held_out_texts(DOCUMENTS)
    some = {kind: held[kind] for kind in KINDS}
    found = lens_quality(lab, some, lens=shipped, layers=MEASURED, positions=12)
    found.table.round(4).to_csv(FOLDER / QUALITY, index=False)
    found.differences.round(4).to_csv(FOLDER / DIFFERENCES, index=False)
    few = {kind: held[kind][:2] for kind in KINDS}
    exact, stored = (
        lens_quality(lab, few, lens=one, layers=STORED_AT, positions=12, progress=False) for one in (whole, shipped)
    )
    names = ["kl", "next", "later"]
    off = (exact.table[names] - stored.table[names]).abs()[: len(STORED_AT)].max()
    (FOLDER / COST).write_text(
        json.dumps({name: round(float(off[name]), 4) for name in names}, indent=1) + "\n", "utf-8"
    )
    finish()


def finish() -> None:
    """Write the card from what was measured, and the checksums."""
    (FOLDER / "README.md").write_text(card(), "utf-8")
    sign(FOLDER)


def card() -> str:
    """The card, its figures from the lens, the record and the tables beside it."""
    lens = load_lens(FOLDER / FILE)
    lines = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()][1 : lens.prompts + 1]
    table, differences = pd.read_csv(FOLDER / QUALITY), pd.read_csv(FOLDER / DIFFERENCES)
    cells = {(row["way"], row["layer"]): row for _, row in table[table["way"] != "unigram"].iterrows()}
    prior = table[table["way"] == "unigram"].iloc[0]
    layers = sorted({int(layer) for _, layer in cells})
    rows = []
    for layer in layers:
        shown = [f"{cells[way, layer][measure]:.2f}" for measure in ("kl", "next", "later") for way in SHOWN]
        rows.append(f"| {layer} | {lens.agreement[layer]:.2f} | {' | '.join(shown)} |")
    of_none = " | | | ".join(f"{prior[measure]:.2f}" for measure in ("kl", "next", "later"))
    rows.append(f"| unigram | | {of_none} | | |")
    over = differences[differences["against"] == "logit"]
    said = []
    for measure, name in (("kl", "KL"), ("next", "the next token"), ("later", "later tokens")):
        here = over[over["measure"] == measure]
        better = here.loc[here["high"] < 0, "layer"].tolist()
        worse = here.loc[here["low"] > 0, "layer"].tolist()
        said.append(
            f"- {name}: the Jacobian lens is better at {_listed(better, layers)}, worse at {_listed(worse, layers)}"
        )
    template = (Path(__file__).parent / "lens_card.md").read_text("utf-8")
    return template.format(
        prompts=lens.prompts,
        length=LENGTH,
        megabytes=(FOLDER / FILE).stat().st_size / 1e6,
        cost=", ".join(
            f"{value:.3f} ({name})" for name, value in json.loads((FOLDER / COST).read_text("utf-8")).items()
        ),
        minutes=sum(line["seconds"] for line in lines) / 60,
        documents=DOCUMENTS * len(KINDS),
        kinds=", ".join(KINDS),
        low=min(lens.agreement.values()),
        high=max(lens.agreement.values()),
        rows="\n".join(rows),
        said="\n".join(said),
    )


SHOWN = ("jacobian", "logit", "shuffled")


def _listed(some: list[int], layers: list[int]) -> str:
    """ "all of these layers", "layers 25 and 29", "no layer"."""
    if len(some) in (0, len(layers)):
        return "all of these layers" if some else "no layer"
    return f"layer{'s' * (len(some) > 1)} {checks.listed(some)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("agree", "fit", "pack", "measure", "finish"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--stop-after", type=int, help="end `fit` when it has so many prompts")
    arguments = parser.parse_args()
    if arguments.what == "fit":
        fit(arguments.work, stop_after=arguments.stop_after)
    elif arguments.what == "finish":
        finish()
    else:
        {"agree": agree, "pack": pack, "measure": measure}[arguments.what](arguments.work)
