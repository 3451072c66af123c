"""Train small models to quantize: whether a model that has read more has less room to quantize, and what ternary costs.

    python -m labkit.recipes.texts gather WORK/texts         # once; the same texts as for the mixture of experts
    python -m labkit.recipes.squeeze prepare WORK            # token ids
    python -m labkit.recipes.squeeze train   WORK wide       # also: narrow, tiny, ternary; goes on where it was
    python -m labkit.recipes.squeeze measure WORK            # every checkpoint in every format, into the records
    python -m labkit.recipes.squeeze pack    WORK            # into labkit/assets, with cards

`wide`, `narrow` and `tiny` are transformers' own Qwen3 class, four layers of width 128, 64 and 32, in full precision;
`ternary` is `wide` trained through its rounding: the matrices in its layers are rounded to −s, 0 and s, s their mean
magnitude (absmean, BitNet b1.58, Ma et al. 2024), in every forward pass, and the gradient goes straight through to what
was rounded (Bengio et al. 2013). Activations are not rounded. All four read the same pieces in the same order, with the
same settings; the tokenizer is labkit-dense's.

The learning rate is constant after its warm-up, so that checkpoints along the way differ in what they have read and not
in how far the rate has come down. Over the last fifth of the steps it falls to nothing; of what is shipped `narrow` alone
was trained so far, which shows that apart.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer
from torch.nn.utils import parametrize
from transformers import Qwen3Config, Qwen3ForCausalLM

from labkit import statistics
from labkit.models.shipped import ASSETS
from labkit.models.texts import texts as held_out_texts
from labkit.quantization import formats
from labkit.quantization.grids import Format
from labkit.recipes import pretraining, texts
from labkit.recipes.signing import sign
from labkit.trace import running

SEED = 0
STEPS, WARM_UP, STEADY = 3_000, 100, 0.8  # the rate is constant until this share of the steps
LENGTH, EACH = 256, 2  # tokens a piece, pieces of each kind a step
OPTIMIZING = pretraining.Optimizing(learning_rate=2e-3, weight_decay=0.1, betas=(0.9, 0.95), clip=1.0)
CHECKPOINTS = (100, 400, 800, 1_200, 1_600, 2_000, 2_400, 3_000)  # the last is STEPS
WIDTHS = {"wide": 128, "narrow": 64, "tiny": 32, "ternary": 128}
LAST = {"wide": 2_400, "narrow": 3_000, "tiny": 1_200, "ternary": 2_400}  # so far went the runs that are shipped
TOKENIZER = ASSETS / "labkit-dense"
SHIPPED = ASSETS / "labkit-squeeze"


def build(name: str) -> Qwen3ForCausalLM:
    """An untrained model in float32, the same for the same width."""
    torch.manual_seed(SEED)
    width = WIDTHS[name]
    config = Qwen3Config(
        vocab_size=8_192,
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        intermediate_size=3 * width,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Qwen3ForCausalLM(config)


# ------------------------------------------------------------------ training


class _Straight(torch.autograd.Function):
    """The second argument, with the gradient going to the first."""

    @staticmethod
    def forward(_ctx: object, _weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(_ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class Ternary(torch.nn.Module):
    """A weight rounded to −s, 0, s with s its mean magnitude; the gradient passes as if it had not been rounded."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        plain = weight.detach()
        scale = plain.abs().mean().clamp_min(1e-8)
        found: torch.Tensor = _Straight.apply(weight, (plain / scale).round().clamp(-1, 1) * scale)  # type: ignore[no-untyped-call]
        return found


def round_in_training(model: Qwen3ForCausalLM) -> None:
    """Let every matrix in the model's layers be rounded by `Ternary` in every forward pass."""
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            parametrize.register_parametrization(module, "weight", Ternary())


def prepare(work: Path) -> None:
    """Write the training ids of each kind, by the tokenizer of labkit-dense."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    pretraining.encode(tokenizer, {kind: texts.load(work / "texts", "train", kind) for kind in texts.KINDS}, work)


def learning_rate(step: int) -> float:
    """Up in a straight line over the warm-up, constant, and down in a straight line to nothing from STEADY on."""
    falling = (STEPS - step) / (STEPS * (1 - STEADY))
    return OPTIMIZING.learning_rate * min((step + 1) / WARM_UP, 1.0, falling)


def train(work: Path, name: str, *, stop_after: int | None = None, device: str | None = None) -> None:
    """Train a model to its LAST step or `stop_after`, going on from where it was; WORK/NAME/STEP.safetensors are checkpoints."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    ids, model = pretraining.load_ids(work), build(name)
    if name == "ternary":
        round_in_training(model)
    model.to(device)  # type: ignore[arg-type]

    def losses(step: int) -> pretraining.Losses:
        tokens = pretraining.pieces(ids, step, length=LENGTH, each=EACH, seed=SEED).to(device)
        states = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        loss = pretraining.mean_cross_entropy(
            states[:, :-1].flatten(0, 1), model.lm_head.weight, tokens[:, 1:].flatten()
        )
        return loss, loss, {}

    pretraining.train(
        work / name,
        model,
        losses,
        OPTIMIZING,
        steps=STEPS,
        learning_rate=learning_rate,
        checkpoints=CHECKPOINTS,
        checkpoint=lambda step: _keep(model, name, work / name / f"{step}.safetensors"),
        run={"model": name, "tokens_a_step": LENGTH * EACH * len(texts.KINDS)},
        stop_after=LAST[name] if stop_after is None else stop_after,
    )


def _keep(model: Qwen3ForCausalLM, name: str, path: Path) -> None:
    """Write the model as it computes: of one that is rounded in training, the rounded weights."""
    plain = build(name)
    with torch.no_grad():
        modules = dict(model.named_modules())
        for key, value in plain.named_parameters():
            owner, _, leaf = key.rpartition(".")
            value.copy_(getattr(modules[owner], leaf))
    save_model(plain, str(path))


# ------------------------------------------------------------------ measuring

FORMATS = ("int8", "int4", "int3", "int2", "ternary")
GROUP = 32  # weights that share a scale and a zero point; ternary has one scale for a matrix, as in its training
DOCUMENTS = 20  # held-out passages of each kind
CHARACTERS = 350  # of a passage, 180 of Chinese: no more than about LENGTH tokens
EARLY = 400  # the step beside which later ones are set
DRAWS = 2_000


def passages() -> dict[str, list[str]]:
    """The text that all is measured on, by kind: the beginnings of shipped passages, of documents that were held out."""
    return held_out_texts(DOCUMENTS, characters=CHARACTERS)


def quantizer(name: str) -> Format:
    """The format of a name in FORMATS: integers with a zero point in groups of GROUP, ternary by matrix."""
    return formats.of(name) if name == "ternary" else formats.of(name, group_size=GROUP, symmetric=False)


def quantized(model: Qwen3ForCausalLM, how: Format) -> float:
    """Round every matrix in the model's layers to nearest, in place; the embedding stays. Bits a weight of these, scales too."""
    bits = weights = 0.0
    with torch.no_grad():
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                packed = how.pack(module.weight)
                module.weight.copy_(packed.unpack())
                bits, weights = bits + 8 * packed.size_bytes, weights + module.weight.numel()
    return bits / weights


def document_losses(model: Qwen3ForCausalLM, rows: list[list[int]]) -> np.ndarray:
    """(documents,) the sum over each document of the losses of its tokens, in nats; nothing is asked of the first."""
    found = np.zeros(len(rows))
    for group in running.groups(model, [len(row) for row in rows], tokens=4_096):
        logits = running.forward(model, [torch.tensor(rows[i]) for i in group]).all_logits
        for place, i in enumerate(group):
            targets = torch.tensor(rows[i][1:])
            found[i] = torch.nn.functional.cross_entropy(
                logits[place, : len(targets)].float(), targets, reduction="sum"
            ).item()
    return found


def measure(work: Path) -> None:
    """Measure every checkpoint up to LAST, in every format; what was measured is not run again.

    Writes WORK/losses.npz, {"model/step/format": (documents,)}, and labkit/assets/labkit-squeeze/{squeezed,ternary}.csv.
    """
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    rows = [tokenizer.encode(text).ids for of_kind in passages().values() for text in of_kind]
    path = work / "losses.npz"
    losses = dict(np.load(path)) if path.exists() else {}
    for name in WIDTHS:
        for step in CHECKPOINTS:
            weights = work / name / f"{step}.safetensors"
            for how in ("float32", *(FORMATS if name != "ternary" else ())):
                if f"{name}/{step}/{how}" in losses or not weights.exists() or step > LAST[name]:
                    continue
                model = build(name)
                load_model(model, str(weights))
                bits = 32.0 if how == "float32" else quantized(model, quantizer(how))
                losses[f"{name}/{step}/{how}"] = document_losses(model.eval(), rows)
                losses[f"bits/{how}"] = np.array(bits)
            np.savez(path, **losses)
            print(name, step, flush=True)
    for file, table in (("squeezed.csv", squeezed(losses, rows)), ("ternary.csv", ternary(losses, rows))):
        SHIPPED.mkdir(parents=True, exist_ok=True)
        table.round(5).to_csv(SHIPPED / file, index=False)


class Means:
    """Mean losses of a token, each kind of text counting the same, and of documents drawn again within their kinds."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.kind_of = np.repeat(np.arange(len(texts.KINDS)), DOCUMENTS)
        self.counts = np.array([len(row) - 1 for row in rows], dtype=np.float64)
        drawn = statistics.resampled(self.kind_of, DRAWS, np.random.default_rng(SEED))
        self.weights = np.concatenate([np.ones((1, len(rows))), drawn])

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """(1 + draws,) from the summed loss of each document; the first is of the documents as they are."""
        kinds = [self.kind_of == number for number in range(len(texts.KINDS))]
        of_kinds = [self.weights[:, k] @ sums[k] / (self.weights[:, k] @ self.counts[k]) for k in kinds]
        means: np.ndarray = np.mean(of_kinds, axis=0)
        return means


def _with_interval(name: str, means: np.ndarray) -> dict[str, float]:
    low, high = statistics.interval(means[1:])
    return {name: float(means[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def squeezed(losses: dict[str, np.ndarray], rows: list[list[int]]) -> pd.DataFrame:
    """A row for each model, checkpoint and format; `labkit.quantization.recorded_squeeze` tells the columns."""
    means, found = Means(rows), []
    of = {key: means(sums) for key, sums in losses.items() if not key.startswith("bits/")}

    def change(model: str, step: int, how: str) -> np.ndarray:
        difference: np.ndarray = of[f"{model}/{step}/{how}"] - of[f"{model}/{step}/float32"]
        return difference

    for name in (name for name in WIDTHS if name != "ternary"):
        parameters = sum(p.numel() for p in build(name).parameters())
        for step in (step for step in CHECKPOINTS if f"{name}/{step}/float32" in of):
            for how in FORMATS:
                row = {
                    "model": name,
                    "parameters": parameters,
                    "step": step,
                    "tokens": step * LENGTH * EACH * len(texts.KINDS),
                    "format": how,
                    "bits": float(losses[f"bits/{how}"]),
                    "original_loss": float(of[f"{name}/{step}/float32"][0]),
                    "loss": float(of[f"{name}/{step}/{how}"][0]),
                }
                row |= _with_interval("loss_change", change(name, step, how))
                row["low"], row["high"] = row.pop("loss_change_low"), row.pop("loss_change_high")
                if f"{name}/{EARLY}/{how}" in of:
                    row |= _with_interval("growth", change(name, step, how) - change(name, EARLY, how))
                if name != "wide" and f"wide/{step}/{how}" in of:
                    row |= _with_interval("beyond_wide", change(name, step, how) - change("wide", step, how))
                found.append(row)
    return pd.DataFrame(found)


WAYS = {
    "full precision": "wide/{}/float32",
    "rounded after": "wide/{}/ternary",
    "trained through": "ternary/{}/float32",
}


def ternary(losses: dict[str, np.ndarray], rows: list[list[int]]) -> pd.DataFrame:
    """A row for each checkpoint and way to have ternary matrices, beside full precision.

    loss: nats a token.  cost: how much more than in full precision.
    """
    means, found = Means(rows), []
    for step in (step for step in CHECKPOINTS if all(key.format(step) in losses for key in WAYS.values())):
        of = {way: means(losses[key.format(step)]) for way, key in WAYS.items()}
        for way, loss in of.items():
            row = {"step": step, "tokens": step * LENGTH * EACH * len(texts.KINDS), "way": way}
            row |= _with_interval("loss", loss)
            row |= _with_interval("cost", loss - of["full precision"])
            found.append(row)
    return pd.DataFrame(found)


# ------------------------------------------------------------------ into labkit/assets

RECORDS = Path(__file__).parent / "records"
PACKED = {
    "labkit-squeeze": ("wide", LAST["wide"]),
    "labkit-squeeze-early": ("wide", EARLY),
    "labkit-ternary": ("ternary", LAST["ternary"]),
}
CARDS = {
    "labkit-squeeze-early": """# labkit-squeeze-early: labkit-squeeze when it had read little

`lk.load("labkit-squeeze-early")` opens it: the same model after {early:,} of {steps:,} steps, for comparing what rounding
costs it. Figures, data, licence (Apache-2.0) and limits: `../labkit-squeeze/README.md`. Its tokenizer is labkit-dense's.
""",
    "labkit-ternary": """# labkit-ternary: trained with ternary matrices

`lk.load("labkit-ternary")` opens it: the size, texts, order and settings of labkit-squeeze, but the matrices in its layers were
rounded to −s, 0 and s, s their mean magnitude, in every forward pass of the training, and the gradient went straight through.
What is stored is the rounded matrices, three values each; the embedding and the activations are not rounded. Figures,
data, licence (Apache-2.0) and limits: `../labkit-squeeze/README.md`. Its tokenizer is labkit-dense's.
""",
}


def pack(work: Path) -> None:
    """Write the models in half precision, the records of their trainings, and the cards; `measure` comes before."""
    for name, last in LAST.items():
        lines = (work / name / "record.jsonl").read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] < last]
        (RECORDS / f"squeeze-{name}.jsonl").write_text("".join(kept), "utf-8")
    for shipped, (name, step) in PACKED.items():
        model = build(name)
        load_model(model, str(work / name / f"{step}.safetensors"))
        model.half().save_pretrained(ASSETS / shipped)
        text = CARDS[shipped].format(early=EARLY, steps=LAST["wide"]) if shipped in CARDS else card()
        (ASSETS / shipped / "README.md").write_text(text, "utf-8")
        sign(ASSETS / shipped)


def card() -> str:
    """The card of labkit-squeeze, its figures taken from the tables and records beside it."""
    table, ways = pd.read_csv(SHIPPED / "squeezed.csv"), pd.read_csv(SHIPPED / "ternary.csv")
    names = list(dict.fromkeys(table["model"]))
    steps_of = {name: sorted(table.loc[table["model"] == name, "step"].unique()) for name in names}
    rows_of = {
        (name, step): rows.set_index("format") for (name, step), rows in table.groupby(["model", "step"], sort=False)
    }
    common = min(steps[-1] for steps in steps_of.values())
    late = {name: sorted({common, min(steps[-1], int(STEADY * STEPS)), steps[-1]}) for name, steps in steps_of.items()}
    bits = table.groupby("format")["bits"].first()

    def every_format(name: str, step: int, column: str) -> list[str]:
        return [_figure(rows_of[name, step], how, column) for how in FORMATS]

    by_step = []
    for name in names:
        lines = [
            [
                f"{step:,}",
                f"{rows['tokens'].iloc[0]:,}",
                f"{rows['original_loss'].iloc[0]:.3f}",
                *every_format(name, step, "loss_change"),
            ]
            for step in steps_of[name]
            for rows in (rows_of[name, step],)
        ]
        by_step.append(f"`{name}`:\n\n{_rows(['steps', 'tokens', 'loss', *FORMATS], lines)}")
    return (
        (Path(__file__).parent / "squeeze_card.md")
        .read_text("utf-8")
        .format(
            parameters=int(table.loc[table["model"] == "wide", "parameters"].iloc[0]),
            tokens=LAST["wide"] * LENGTH * EACH * len(texts.KINDS),
            last=LAST["wide"],
            steady=int(STEADY * STEPS),
            steps=STEPS,
            early=EARLY,
            group=GROUP,
            documents=DOCUMENTS,
            bits=", ".join(f"{how} {bits[how]:.2f}" for how in FORMATS),
            machine=_machine(pretraining.read(RECORDS / "squeeze-wide.jsonl")),
            sizes=_rows(
                ["model", "width", "parameters", "steps", "loss in float32"],
                [
                    [
                        name,
                        str(WIDTHS[name]),
                        f"{rows_of[name, step]['parameters'].iloc[0]:,}",
                        f"{step:,}",
                        f"{rows_of[name, step]['original_loss'].iloc[0]:.3f}",
                    ]
                    for name, steps in steps_of.items()
                    for step in steps[-1:]
                ],
            ),
            by_step="\n\n".join(by_step),
            growth=_rows(
                ["model", "at step", *FORMATS],
                [[name, f"{to:,}", *every_format(name, to, "growth")] for name in names for to in late[name]],
            ),
            against_wide=_rows(
                ["model", "at step", *FORMATS],
                [
                    [name, f"{at:,}", *every_format(name, at, "beyond_wide")]
                    for name in names
                    if name != "wide"
                    for at in (EARLY, *late[name])
                    if at <= LAST["wide"]
                ],
            ),
            ways=_rows(
                ["steps", "full precision", "rounded after", "cost", "trained through", "cost"],
                [
                    [
                        f"{step:,}",
                        f"{of.loc['full precision', 'loss']:.3f}",
                        f"{of.loc['rounded after', 'loss']:.3f}",
                        _figure(of, "rounded after", "cost"),
                        f"{of.loc['trained through', 'loss']:.3f}",
                        _figure(of, "trained through", "cost"),
                    ]
                    for step, of in ((s, rows.set_index("way")) for s, rows in ways.groupby("step"))
                ],
            ),
        )
    )


def _machine(record: list[dict[str, Any]]) -> str:
    threads, minutes = record[0]["threads"], max(line.get("seconds", 0) for line in record) / 60
    return f"{record[0]['device']} with {threads} thread{'s' * (threads > 1)}, {minutes:.0f} minutes by the clock"


def _figure(table: pd.DataFrame, row: object, column: str) -> str:
    """ "0.123 (0.100 to 0.150)"."""
    ends = ("low", "high") if column == "loss_change" else (f"{column}_low", f"{column}_high")
    value, low, high = (float(table.loc[row, c]) for c in (column, *ends))
    value, low, high = (round(number, 3) + 0.0 for number in (value, low, high))  # no −0.000
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "train", "measure", "pack"))
    parser.add_argument("work", type=Path)
    parser.add_argument("model", nargs="?", choices=tuple(WIDTHS), default="wide")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps (a short run)")
    arguments = parser.parse_args()
    if arguments.what == "prepare":
        prepare(arguments.work)
    elif arguments.what == "train":
        train(arguments.work, arguments.model, stop_after=arguments.stop_after)
    elif arguments.what == "measure":
        measure(arguments.work)
    else:
        pack(arguments.work)
