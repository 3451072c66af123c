"""Train the mixture of experts that labkit ships, and two models to compare it with, on five kinds of text.

    python -m labkit.recipes.texts gather WORK/texts       # once
    python -m labkit.recipes.moe prepare WORK              # tokenizer and token ids
    python -m labkit.recipes.moe train   WORK fine         # also: coarse, dense; interrupted runs go on where they were
    python -m labkit.recipes.moe pack    WORK              # into labkit/assets, with the record
    python -m labkit.recipes.moe effects WORK              # what each expert's loss would cost, into labkit/assets

All three models have the same depth, width, attention and tokens, and the same number of parameters active on a token:
`fine` chooses 4 of 32 experts of width 64, `coarse` 2 of 16 of width 128, `dense` has one feed-forward part of width 256.
They are transformers' own Qwen3-MoE and Qwen3 classes. Every step reads 5,120 tokens, as many of each kind of text:
twenty pieces of 256 at first, five pieces of 1,024 in the last fifth of the steps. What keeps the experts in use is the
balancing loss of Switch Transformer (Fedus et al. 2021, eq. 4), 0.01 times, taken over all tokens of a step, so that an
expert may take all of one kind of text; beside it the router z-loss of ST-MoE (Zoph et al. 2022), 0.001 times. No token
is dropped. On a GPU, `train WORK fine --steps 20000` reads more: everything that depends on the number of steps follows.
"""

import argparse
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from labkit.recipes import pretraining, texts
from labkit.recipes.signing import sign
from labkit.trace import running

SEED = 0
VOCABULARY = 8_192
START = "<|endoftext|>"  # before every document, and the first token of every piece
STEPS, WARM_UP = 1_600, 100
PIECES = ((0.8, 256, 4), (1.0, 1_024, 1))  # (until this share of the steps, tokens a piece, pieces of each kind a step)
OPTIMIZING = pretraining.Optimizing(learning_rate=2e-3, weight_decay=0.1, betas=(0.9, 0.95), clip=1.0)
BALANCE, Z = 0.01, 0.001
CHECKPOINTS = (0, 25, 50, 100, 200, 400, 600, 800, 1_000, 1_200, 1_400, 1_600)  # the last is STEPS

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXPERTS = {"fine": (32, 4, 64), "coarse": (16, 2, 128)}  # experts, chosen, width of each


def build(name: str) -> Any:  # of two classes, whose .to and .half carry no types of use
    """An untrained model in float32, the same for the same name."""
    torch.manual_seed(SEED)
    if name == "dense":
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE))
    experts, chosen, width = EXPERTS[name]
    config = Qwen3MoeConfig(
        **SHAPE,
        num_experts=experts,
        num_experts_per_tok=chosen,
        moe_intermediate_size=width,
        norm_topk_prob=True,
        router_aux_loss_coef=BALANCE,
    )
    config._experts_implementation = "grouped_mm"
    return Qwen3MoeForCausalLM(config)


# ------------------------------------------------------------------ tokens


def prepare(work: Path) -> None:
    """Train the tokenizer on as many characters of every kind, and write the training ids of each kind."""
    documents = {kind: texts.load(work / "texts", "train", kind) for kind in texts.KINDS}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_equal_shares(documents, 2_500_000), trainer)
    start = tokenizer.token_to_id(START)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, start)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=START, pad_token=START, model_max_length=2_048
    ).save_pretrained(work / "tokenizer")
    pretraining.encode(tokenizer, documents, work)


def _equal_shares(documents: dict[str, list[texts.Document]], most: int) -> Iterator[str]:
    for held in documents.values():
        total = 0
        for document in held:
            if total < most:
                yield document["text"]
            total += len(document["text"])


def batch(ids: dict[str, np.ndarray], step: int) -> torch.Tensor:
    """(pieces, tokens): what step `step` reads; a function of the step alone, so that a run can be resumed."""
    length, each = next((n, k) for share, n, k in PIECES if step < share * STEPS)
    first = 0 if length == PIECES[0][1] else int(PIECES[0][0] * STEPS)
    return pretraining.pieces(ids, step - first, length=length, each=each, seed=SEED)


# ------------------------------------------------------------------ training


def balancing_loss(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """experts · sum over experts of (share of choices it got) · (mean probability it was given); 1 when even.

    logits: (tokens, experts).  chosen: (tokens, k).  Fedus et al. 2021, eq. 4, with k choices a token.
    """
    experts = logits.shape[-1]
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (share * logits.softmax(-1).mean(0)).sum()


@contextlib.contextmanager
def routers(model: torch.nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """(logits, chosen experts) of every router, layer by layer, appended at each forward pass."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append((output[0], output[2])))
        for name, module in model.named_modules()
        if name.endswith("mlp.gate")
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def learning_rate(step: int) -> float:
    """Up in a straight line over the warm-up, then down in a straight line to nothing."""
    return OPTIMIZING.learning_rate * min((step + 1) / WARM_UP, (STEPS - step) / (STEPS - WARM_UP))


def train(work: Path, name: str, *, stop_after: int | None = None, device: str | None = None) -> None:
    """Train model `name` to the last step, going on from the last checkpoint where there is one."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = work / name
    ids, model, held_out = pretraining.load_ids(work), build(name).to(device), HeldOut.load(work)

    def losses(step: int) -> pretraining.Losses:
        tokens = batch(ids, step).to(device)
        with routers(model) as seen:
            logits = model(input_ids=tokens, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        balance = sum((balancing_loss(r, c) for r, c in seen), torch.zeros((), device=device))
        z = sum((r.logsumexp(-1).square().mean() for r, _ in seen), torch.zeros((), device=device))
        more = {"balance": balance.item() / len(seen), "z": z.item() / len(seen)} if seen else {}
        return loss + BALANCE * balance + Z * z, loss, more

    pretraining.train(
        folder,
        model,
        losses,
        OPTIMIZING,
        steps=STEPS,
        learning_rate=learning_rate,
        checkpoints=CHECKPOINTS,
        checkpoint=lambda step: held_out.measure(model, folder / f"choices-{step}.npy"),
        stop_after=stop_after,
    )


# ------------------------------------------------------------------ measuring along the way


@dataclass
class HeldOut:
    """The passages that labkit ships, as token ids, by kind: each starts with the start token."""

    ids: dict[str, list[torch.Tensor]]

    @classmethod
    def load(cls, work: Path) -> "HeldOut":
        tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
        return cls(
            {
                kind: [torch.tensor([tokenizer.encode(d["text"]).ids]) for d in texts.passages(work / "texts", kind)]
                for kind in texts.KINDS
            }
        )

    def measure(self, model: PreTrainedModel, choices: Path) -> dict[str, object]:
        """Loss of each kind (nats a token, all tokens of all passages), load, and the choices written to a file.

        choices: (tokens, layers, k) uint8, the tokens of all passages in order, kinds in the order of KINDS.
        """
        losses, chosen = {}, []
        for kind, passages in self.ids.items():
            total = count = 0.0
            for ids in passages:
                with routers(model) as seen:
                    output = running.forward(model, list(ids))
                logits, ids = output.all_logits, output.ids
                total += F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum").item()
                count += ids.shape[1] - 1
                if seen:
                    chosen.append(torch.stack([c for _, c in seen], dim=1).to("cpu", torch.uint8))
            losses[kind] = round(total / count, 5)
        report: dict[str, object] = {"held_out": losses}
        if chosen:
            every = torch.cat(chosen)
            np.save(choices, every.numpy())
            experts = int(model.config.num_experts)
            load = torch.stack([torch.bincount(layer.flatten().int(), minlength=experts) for layer in every.unbind(1)])
            shares = load / load.sum(1, keepdim=True)
            report["max_violation"] = [round(float(v), 3) for v in shares.amax(1) * experts - 1]
        return report


# ------------------------------------------------------------------ into labkit/assets

ASSETS = Path(__file__).parents[1] / "assets"
RECORDS = Path(__file__).parent / "records"
DENSE_CARD = """# labkit-dense: the dense model beside labkit-moe

`lk.load("labkit-dense")` opens it: Qwen3 class, the same depth, width, attention, tokenizer, texts, order and settings as
labkit-moe, with one feed-forward part of width 256 where that chooses 4 of 32 experts of width 64. It is here to be compared
with, and can do even less. Figures, data, licence (Apache-2.0) and limits: `../labkit-moe/README.md`.
"""
SAMPLE = 1_000  # tokens whose choices are shipped, evenly spread over all passages


def pack(work: Path) -> None:
    """Write the models that are trained to the end in half precision, the choices along the way, the records and cards."""
    RECORDS.mkdir(exist_ok=True)
    for name in ("fine", "coarse", "dense"):
        if (work / name / "record.jsonl").exists():
            shutil.copy(work / name / "record.jsonl", RECORDS / f"moe-{name}.jsonl")
    moe = _pack_model(work, "fine", ASSETS / "labkit-moe")
    choices = {step: np.load(work / "fine" / f"choices-{step}.npy") for step in CHECKPOINTS}
    at = np.linspace(0, len(choices[0]) - 1, SAMPLE).round().astype(int)
    save_file({str(step): np.ascontiguousarray(c[at]) for step, c in choices.items()}, moe / "choices.safetensors")
    (moe / "README.md").write_text(card(), "utf-8")
    dense = _pack_model(work, "dense", ASSETS / "labkit-dense")
    (dense / "README.md").write_text(DENSE_CARD, "utf-8")
    for folder in (moe, dense):
        sign(folder)


def _pack_model(work: Path, name: str, folder: Path) -> Path:
    state = pretraining.finished(work / name, STEPS)
    folder.mkdir(parents=True, exist_ok=True)
    model = build(name)
    model.load_state_dict(state)
    model.half().save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").save_pretrained(folder)
    return folder


def effects() -> None:
    """Measure what dropping each expert of the shipped model does, and write it beside the model."""
    import labkit as lk

    lab = lk.load("labkit-moe", dtype="float32", device="cpu")
    some = {kind: [text[:600] for text in passages] for kind, passages in lk.moe.texts(12).items()}
    table = lk.moe.effects(lab, some)
    columns = ["layer", "expert", "kind", "loss_change", "low", "high"]
    table[columns].round(5).to_csv(ASSETS / "labkit-moe" / "effects.csv", index=False)
    sign(ASSETS / "labkit-moe")


def card() -> str:
    """The model's card, its figures taken from the records."""
    records = {name: pretraining.read(RECORDS / f"moe-{name}.jsonl") for name in ("fine", "coarse", "dense")}
    complete = {name: lines for name, lines in records.items() if lines and lines[-1]["step"] == STEPS}
    last = {name: lines[-1] for name, lines in complete.items()}
    fine = records["fine"]
    tokens_a_step = PIECES[0][1] * PIECES[0][2] * len(texts.KINDS)
    model = build("fine")
    parameters = sum(p.numel() for p in model.parameters())
    experts, chosen, width = EXPERTS["fine"]
    resting = (experts - chosen) * 3 * width * SHAPE["hidden_size"] * SHAPE["num_hidden_layers"]
    head = "| kind | " + " | ".join(complete) + " |\n|---|" + "---|" * len(complete) + "\n"
    rows = [[kind, *(f"{last[n]['held_out'][kind]:.3f}" for n in complete)] for kind in texts.KINDS]
    means = {n: float(np.mean(list(last[n]["held_out"].values()))) for n in complete}
    rows.append(["mean of the five", *(f"{means[n]:.3f}" for n in complete)])
    gains = [f"{means[n] - means['fine']:+.3f} nats for `{n}`" for n in complete if n != "fine"]
    return (
        (Path(__file__).parent / "moe_card.md")
        .read_text("utf-8")
        .format(
            parameters=parameters,
            active=parameters - resting,
            megabytes=(ASSETS / "labkit-moe" / "model.safetensors").stat().st_size / 1e6,
            tokens=STEPS * tokens_a_step,
            steps=STEPS,
            seconds=f"{max(line.get('seconds', 0) for line in fine) / 60:.0f} minutes by the clock",
            device=f"{fine[0]['device']} with {fine[0]['threads']} thread{'s' * (fine[0]['threads'] > 1)}",
            losses=head + "\n".join(f"| {' | '.join(row)} |" for row in rows),
            difference="Mean against `fine`: " + ", ".join(gains) + "." if gains else "",
            violation=", ".join(f"{v:.2f}" for v in last["fine"]["max_violation"]),
            untrained=", ".join(f"{v:.2f}" for v in next(x for x in fine if "max_violation" in x)["max_violation"]),
            sample=SAMPLE,
            checkpoints=len(CHECKPOINTS),
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "train", "pack", "effects"))
    parser.add_argument("work", type=Path)
    parser.add_argument("model", nargs="?", choices=("fine", "coarse", "dense"), default="fine")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the whole training")
    parser.add_argument("--stop-after", type=int, help="stop after this many steps (a short run)")
    arguments = parser.parse_args()
    if arguments.steps != STEPS:
        CHECKPOINTS = tuple(sorted({step * arguments.steps // STEPS for step in CHECKPOINTS}))
        STEPS = arguments.steps
    if arguments.what == "prepare":
        prepare(arguments.work)
    elif arguments.what == "train":
        train(arguments.work, arguments.model, stop_after=arguments.stop_after)
    elif arguments.what == "pack":
        pack(arguments.work)
    else:
        effects()
