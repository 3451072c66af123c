"""Train the sparse autoencoder that labkit ships: TopK, on the residual stream of the default model before layer 15.

    python -m labkit.recipes.texts gather WORK/texts    # once; the same texts as for the mixture of experts
    python -m labkit.recipes.sae prepare WORK           # token ids, in the order they are read
    python -m labkit.recipes.sae harvest WORK           # activations, about 1.15 kB a token; goes on where it was
    python -m labkit.recipes.sae train   WORK           # goes on where it was
    python -m labkit.recipes.sae pack    WORK           # in half precision into labkit/assets/labkit-sae, with the record
    python -m labkit.recipes.sae index   WORK           # where each feature is active, beside it
    python -m labkit.recipes.sae measure WORK           # on held-out text, into its card

The model is transformers' own, run in bfloat16 as far as the hook on layer 15 and no further. The first position of a
piece of text, and every position whose norm is over ten times the median, is left out: there a model parks attention,
and one such vector outweighs a hundred others. The autoencoder and its training step are sae-lens's TopKTrainingSAE and
SAETrainer; what is added is a decoder that reads only the chosen rows, which gives the same numbers with less work.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit.models.shipped import ASSETS
from labkit.recipes import texts
from labkit.recipes.signing import sign
from labkit.sae import indexing, loading, saving, training
from labkit.trace import running

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDER = ASSETS / loading.SHIPPED
RECORD = Path(__file__).parent / "records" / "sae.jsonl"
QUALITY = "quality.json"
SEED = 0
LAYER = 15
MODEL = "smollm2-135m-instruct"
LENGTH = 256  # tokens of a piece of text
PIECES_A_FILE = 1_024
SHARED = 0.05  # of a passage's text that stands in training documents too, from which on it is left out for comparison
LOSS_DOCUMENTS = 12  # held-out passages of each kind on which the model's loss is measured
BATCH = 16  # pieces
OUTLIER = 10.0  # times the median norm
SETTINGS = training.Settings(features=4_608, k=32, tokens=19_500_000, learning_rate=3e-3, seed=SEED)  # three passes
TOKENS = {  # of each kind at most: all there is of English, so that it leads
    "prose": 2_400_000,
    "encyclopaedia": 2_400_000,
    "python": 1_600_000,
    "mathematics": 900_000,
    "chinese": 800_000,
}


def prepare(work: Path) -> None:
    """Write WORK/pieces.npy, (pieces, LENGTH) token ids in the order they are read, and the kind of each."""
    import labkit as lk

    tokenizer = lk.load().tokenizer
    between = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # what parted documents when the model was trained
    assert isinstance(between, int)
    rows, kinds = [], []
    for number, kind in enumerate(texts.KINDS):
        documents = texts.load(work / "texts", "train", kind)
        order = np.random.default_rng([SEED, number]).permutation(len(documents))
        stream: list[int] = []
        for place in order:
            if len(stream) >= TOKENS[kind]:
                break
            stream += [*tokenizer(documents[place]["text"], add_special_tokens=False)["input_ids"], between]
        pieces = min(len(stream), TOKENS[kind]) // LENGTH
        rows.append(np.array(stream[: pieces * LENGTH], dtype=np.uint16).reshape(pieces, LENGTH))
        kinds += [number] * pieces
        print(f"{kind:14} {pieces * LENGTH:10,} tokens", flush=True)
    order = np.random.default_rng(SEED).permutation(len(kinds))
    np.save(work / "pieces.npy", np.concatenate(rows)[order])
    np.save(work / "kinds.npy", np.array(kinds, dtype=np.uint8)[order])


def activations(model: PreTrainedModel, ids: torch.Tensor, layer: int = LAYER) -> torch.Tensor:
    """(batch, tokens, d_model): the residual stream entering `layer`, for token ids of one length."""
    module, rows = model.get_submodule(f"model.layers.{layer}"), ids.tolist()
    groups = running.groups(model, [len(row) for row in rows], tokens=ids.numel(), in_order=True)
    return torch.cat([running.forward(model, [rows[i] for i in group], upto=module).reached for group in groups])


def kept(x: torch.Tensor) -> torch.Tensor:
    """(batch, tokens) bool: not the first position, and no norm over OUTLIER times the median of the batch."""
    norms = x.float().norm(dim=-1)
    mask: torch.Tensor = norms <= OUTLIER * norms[:, 1:].median()
    mask[:, 0] = False
    return mask


def harvest(work: Path, *, device: str | None = None) -> None:
    """Write WORK/activations/N.npy, (kept, d_model) float16, and N-kept.npy, (pieces, LENGTH): which tokens they are."""
    import labkit as lk

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = work / "activations"
    folder.mkdir(exist_ok=True)
    pieces = np.load(work / "pieces.npy")
    model = lk.load(fresh=True).model  # its own, since it is changed
    whole: torch.nn.Module = model  # transformers wraps `to` in what types don't follow
    whole.to(device=device, dtype=torch.bfloat16)
    for number in range(-(-len(pieces) // PIECES_A_FILE)):
        path = folder / f"{number:03d}.npy"
        if path.exists():
            continue
        began, values, masks = time.perf_counter(), [], []
        mine = torch.from_numpy(pieces[number * PIECES_A_FILE : (number + 1) * PIECES_A_FILE].astype(np.int64))
        for ids in mine.split(BATCH):
            x = activations(model, ids.to(device))
            mask = kept(x)
            values.append(x[mask].to(device="cpu", dtype=torch.float16).numpy())
            masks.append(mask.cpu().numpy())
        np.save(folder / f"{number:03d}-kept.npy", np.concatenate(masks))
        part = folder / f"{number:03d}.part"
        with part.open("wb") as file:
            np.save(file, np.concatenate(values))
        part.replace(path)
        rate = mine.numel() / (time.perf_counter() - began)
        out = mine.numel() - sum(map(len, values))
        print(
            json.dumps({"file": number, "tokens": mine.numel(), "left_out": out, "per_second": round(rate)}), flush=True
        )


@dataclass
class Activations:
    """All that was harvested, read from disk as it is needed."""

    files: list[np.ndarray]  # each (kept, d_model) float16

    @classmethod
    def load(cls, work: Path) -> Activations:
        return cls([np.load(path, mmap_mode="r") for path in sorted((work / "activations").glob("[0-9]*[0-9].npy"))])

    def __post_init__(self) -> None:
        self.ends = np.cumsum([len(file) for file in self.files])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, places: np.ndarray) -> torch.Tensor:
        """(len(places), d_model) float32, in the order asked for."""
        out = np.empty((len(places), self.files[0].shape[1]), dtype=np.float16)
        file = np.searchsorted(self.ends, places, side="right")
        for number in np.unique(file):
            mine = file == number
            out[mine] = self.files[number][places[mine] - (self.ends[number] - len(self.files[number]))]
        return torch.from_numpy(out).float()

    def batch(self, step: int, size: int) -> torch.Tensor:
        """What step `step` reads: a function of the step alone. Each pass over all rows has an order of its own."""
        turn, place = divmod(step, len(self) // size)
        if getattr(self, "_turn", None) != turn:
            self._turn, self._order = turn, np.random.default_rng([SEED, turn]).permutation(len(self))
        return self.rows(self._order[place * size : (place + 1) * size])


def train(work: Path, *, stop_after: int | None = None) -> None:
    """Train to the last step, going on from the last checkpoint where there is one; WORK/trained holds the result."""
    data = Activations.load(work)
    checkpoint, record = work / "checkpoint", work / "record.jsonl"
    sample = data.rows(np.random.default_rng(SEED).integers(0, len(data), 100_000))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    last = checkpoint if checkpoint.exists() else None
    trainer = training.start(sample.shape[1], SETTINGS, sample, device=device, checkpoint=last)
    first = trainer.n_training_steps
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    record.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= first), "utf-8")
    began = time.perf_counter()
    with record.open("a", encoding="utf-8") as file:
        if not first:
            run = {"rows": len(data), "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
            file.write(json.dumps({"step": 0} | asdict(SETTINGS) | run) + "\n")
        for step in training.steps(trainer, lambda number: data.batch(number, SETTINGS.batch)):
            if step.step <= 10 or step.step % 50 == 0 or step.step == SETTINGS.steps:
                rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(step).items()}
                rounded["per_second"] = round((step.step - first) * SETTINGS.batch / (time.perf_counter() - began))
                file.write(json.dumps(rounded) + "\n")
                file.flush()
                print(rounded, flush=True)
            if step.step % 500 == 0 and step.step < SETTINGS.steps:
                _save(trainer, checkpoint)
            if step.step == stop_after:
                return
    metadata = trainer.sae.cfg.metadata
    metadata.model_name, metadata.hook_name, metadata.context_size = MODEL, f"blocks.{LAYER}.hook_resid_pre", LENGTH
    trainer.sae.save_inference_model(work / "trained")


def pack(work: Path) -> None:
    """Write weights in half precision and the configuration, as sae-lens reads them, and copy the record."""
    from safetensors.torch import load_file, save_file

    FOLDER.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in load_file(work / "trained" / saving.WEIGHTS).items()}
    save_file(weights, FOLDER / saving.WEIGHTS)
    config = json.loads((work / "trained" / saving.CONFIG).read_text("utf-8"))
    config["normalize_activations"] = "none"  # the scale it was trained with is in its biases
    config["metadata"]["labkit"] = {"typical_norm": round(typical_norm(work), 2), "outlier": OUTLIER}
    (FOLDER / saving.CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    shutil.copy(work / "record.jsonl", RECORD)
    finish()


def index(work: Path) -> None:
    """Find the shipped autoencoder's features in all that was harvested: dashboards and search are made of it."""
    sae = loading.from_folder(FOLDER, name="labkit-sae")
    pieces, kinds = np.load(work / "pieces.npy"), np.load(work / "kinds.npy")
    collector = indexing.Collector(len(sae), texts.KINDS, of=sae.fingerprint)
    for number, file in enumerate(Activations.load(work).files):
        mine = slice(number * PIECES_A_FILE, (number + 1) * PIECES_A_FILE)
        found = [sae.active(torch.from_numpy(np.array(rows)).float()) for rows in np.array_split(file, 64)]
        collector.add(
            pieces[mine],
            np.load(work / "activations" / f"{number:03d}-kept.npy"),
            kinds[mine],
            torch.cat([indices for _, indices in found]).numpy().astype(np.uint16),
            torch.cat([values for values, _ in found]).half().numpy(),
        )
        print(f"file {number}: {len(file):,} tokens", flush=True)
    collector.finish().save(FOLDER / indexing.FILE)
    finish()


def measure(work: Path) -> None:
    """Evaluate what is shipped on the held-out passages, in float32; also without those that share text with the training's."""
    import labkit as lk
    from labkit.sae import quality

    lab = lk.load(dtype="float32", device="cpu")
    sae = loading.from_folder(FOLDER, name="labkit-sae")
    everything = quality.evaluate(lab, sae, lk.moe.texts(), losses=False)
    some = quality.evaluate(lab, sae, lk.moe.texts(LOSS_DOCUMENTS))
    alone = {
        kind: [p.text for p, (share, _) in zip(lk.moe.passages(kind), shares, strict=True) if share <= SHARED]
        for kind, shares in texts.shared(work / "texts").items()
    }
    apart = quality.evaluate(lab, sae, alone, against=(), losses=False)
    found = {
        "dead": everything.dead,
        "tokens": everything.tokens,
        "left_out": everything.left_out,
        "components": everything.components,
        "passages": LOSS_DOCUMENTS,
        "unexplained": everything.table[["way", "kind", "tokens", "unexplained", "l0"]].to_dict("records"),
        "losses": some.table.to_dict("records"),
        "apart": apart.table[["kind", "tokens", "unexplained"]].to_dict("records"),
    }
    (FOLDER / QUALITY).write_text(json.dumps(_rounded(found), indent=1) + "\n", "utf-8")
    for each in (everything, some, apart):
        print(each.table.round(4).to_string())
    finish()


def finish() -> None:
    """Write the card, its figures taken from what was measured, and the checksums."""
    if (FOLDER / QUALITY).exists():
        (FOLDER / "README.md").write_text(card(), "utf-8")
    sign(FOLDER)


def card() -> str:
    """The card, from the record and the measured quality."""
    lines = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()]
    quality = json.loads((FOLDER / QUALITY).read_text("utf-8"))
    left = {(row["way"], row["kind"]): row for row in quality["unexplained"]}
    cost = {(row["way"], row["kind"]): row for row in quality["losses"]}
    apart = {row["kind"]: row for row in quality["apart"]}
    rows = [
        f"| {kind} | {left['sae', kind]['tokens']:,} | {left['sae', kind]['unexplained']:.3f} "
        f"| {apart[kind]['unexplained']:.3f} | {cost['sae', kind]['tokens']:,} | {cost['sae', kind]['loss']:.3f} "
        f"| {cost['sae', kind]['increase']:+.3f} ({cost['sae', kind]['low']:+.3f} to {cost['sae', kind]['high']:+.3f}) "
        f"| {cost['sae', kind]['loss_recovered']:.1%} |"
        for kind in (*texts.KINDS, "all")
    ]

    def mean(of: dict[str, dict[str, float]], name: str) -> float:
        return float(np.mean([of[kind][name] for kind in texts.KINDS]))

    own_left, own_cost = ({kind: table["sae", kind] for kind in texts.KINDS} for table in (left, cost))
    rows.append(
        f"| mean of the kinds | | {mean(own_left, 'unexplained'):.3f} | {mean(apart, 'unexplained'):.3f} | "
        f"| {mean(own_cost, 'loss'):.3f} | {mean(own_cost, 'increase'):+.3f} | {mean(own_cost, 'loss_recovered'):.1%} |"
    )
    ways = [
        f"| {NAMES[way]} | {left[way, 'all']['unexplained']:.3f} | {cost[way, 'all']['increase']:+.3f} "
        f"| {cost[way, 'all']['loss_recovered']:.1%} |"
        for way in NAMES
        if (way, "all") in left
    ]
    first = lines[0]
    return (
        (Path(__file__).parent / "sae_card.md")
        .read_text("utf-8")
        .format(
            features=SETTINGS.features,
            k=SETTINGS.k,
            layer=LAYER,
            rows=first["rows"],
            tokens=SETTINGS.steps * SETTINGS.batch,
            steps=SETTINGS.steps,
            batch=SETTINGS.batch,
            rate=f"{SETTINGS.learning_rate:g}",
            length=LENGTH,
            outlier=OUTLIER,
            megabytes=sum(f.stat().st_size for f in FOLDER.iterdir() if f.suffix == ".safetensors") / 1e6,
            kinds="\n".join(rows),
            chinese=left["sae", "chinese"]["tokens"] / left["sae", "all"]["tokens"],
            ways="\n".join(ways),
            dead=f"{quality['dead']:.1%}",
            left_out=quality["left_out"],
            counted=quality["tokens"],
            passages=quality["passages"],
        )
    )


NAMES = {
    "sae": "this autoencoder",
    "principal components": "as many principal components, fitted to the same passages",
    "untrained": "an untrained autoencoder of the same sizes",
    "mean": "the mean",
    "zero": "zero",
}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def typical_norm(work: Path) -> float:
    """The median norm of what was harvested."""
    data = Activations.load(work)
    return float(data.rows(np.random.default_rng(SEED).integers(0, len(data), 100_000)).norm(dim=-1).median())


def _save(trainer: training.Trainer, folder: Path) -> None:
    """A checkpoint that is there whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    trainer.save_checkpoint(part.name, base_path=part.parent)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "harvest", "train", "pack", "index", "measure"))
    parser.add_argument("--stop-after", type=int, help="end `train` after so many steps")
    parser.add_argument("work", type=Path)
    asked = parser.parse_args(arguments)
    if asked.what == "train":
        train(asked.work, stop_after=asked.stop_after)
    else:
        {"prepare": prepare, "harvest": harvest, "pack": pack, "index": index, "measure": measure}[asked.what](
            asked.work
        )


if __name__ == "__main__":
    main()
