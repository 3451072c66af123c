"""What the recipes that train a language model from nothing share: token ids, batches, the loop, and its record.

A step's batch and learning rate are functions of the step alone, so that a run that was interrupted goes on as if it had
not been.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from labkit.recipes import texts

# ------------------------------------------------------------------ token ids


def encode(tokenizer: Tokenizer, documents: Mapping[str, Sequence[texts.Document]], folder: Path) -> None:
    """Write the token ids of all documents of each kind, one after the other, to FOLDER/KIND.npy (uint16)."""
    for kind, held in documents.items():
        ids = [np.array(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch([d["text"] for d in held])]
        np.save(folder / f"{kind}.npy", np.concatenate(ids))
        tokens, characters = sum(map(len, ids)), sum(len(d["text"]) for d in held)
        print(f"{kind:14} {tokens:11,} tokens, {characters / tokens:.2f} characters each")


def load_ids(folder: Path) -> dict[str, np.ndarray]:
    """{kind: token ids}, as `encode` wrote them."""
    return {kind: np.load(folder / f"{kind}.npy") for kind in texts.KINDS}


def pieces(ids: Mapping[str, np.ndarray], step: int, *, length: int, each: int, seed: int) -> torch.Tensor:
    """(kinds · each, length): what step `step` reads of every kind; a function of the step alone.

    Each piece starts with the start token, id 0. All pieces of a kind are read once, in an order of their own each time
    round, before one is read again.
    """
    rows = []
    for number, kind in enumerate(texts.KINDS):
        there = (len(ids[kind]) - 1) // (length - 1)
        for k in range(each):
            turn, place = divmod(step * each + k, there)
            order = np.random.default_rng([seed, number, length, turn]).permutation(there)
            at = int(order[place]) * (length - 1)
            rows.append(np.concatenate([[0], ids[kind][at : at + length - 1]]))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


# ------------------------------------------------------------------ loss


class _MeanCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of rows·weightᵀ, a few rows at a time, gradients found on the way: logits stay in the cache."""

    ROWS = 256

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        of_rows, of_weight, total = torch.empty_like(rows), torch.zeros_like(weight), rows.new_zeros(())
        for start in range(0, len(rows), _MeanCrossEntropy.ROWS):
            some, wanted = rows[start : start + _MeanCrossEntropy.ROWS], targets[start : start + _MeanCrossEntropy.ROWS]
            logits = some @ weight.T
            normalizer = logits.logsumexp(-1, keepdim=True)
            total += (normalizer - logits.gather(1, wanted[:, None])).sum()
            gradient = logits.sub_(normalizer).exp_()
            gradient[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
            torch.mm(gradient, weight, out=of_rows[start : start + _MeanCrossEntropy.ROWS])
            of_weight.addmm_(gradient.T, some)
        ctx.save_for_backward(of_rows.div_(len(rows)), of_weight.div_(len(rows)))
        return total / len(rows)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        of_rows, of_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * of_rows, gradient * of_weight, None


def mean_cross_entropy(rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of rows (n, d) read by an output head (vocabulary, d), for targets (n,).

    The same as `F.cross_entropy(rows @ weight.T, targets)`, in about 60 % of the time of a step on a CPU, where the
    logits of a whole batch fit no cache. Differentiable once.
    """
    loss: torch.Tensor = _MeanCrossEntropy.apply(rows, weight, targets)  # type: ignore[no-untyped-call]
    return loss


# ------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Optimizing:
    """AdamW's settings. The embedding and vectors are not decayed."""

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    clip: float

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim > 1 and "embed" not in n)]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=True)


Losses = tuple[torch.Tensor, torch.Tensor, Mapping[str, float]]  # what is minimized; its cross-entropy; more to record


def train(
    folder: Path,
    model: torch.nn.Module,
    losses: Callable[[int], Losses],
    optimizing: Optimizing,
    *,
    steps: int,
    learning_rate: Callable[[int], float],
    checkpoints: Collection[int],
    checkpoint: Callable[[int], Mapping[str, object] | None],
    run: Mapping[str, object] | None = None,
    stop_after: int | None = None,
) -> None:
    """Train to the last step, going on from FOLDER/state.pt where there is one; FOLDER/record.jsonl is the record.

    losses: what a step minimizes, the model in training mode.  checkpoint: called before the steps named in `checkpoints`
    (and after the last); what it returns stands in the record.  run: the record's first line.
    """
    device = next(model.parameters()).device
    optimizer = optimizing.optimizer(model)
    step, seconds = 0, 0.0
    record, saved = folder / "record.jsonl", folder / "state.pt"
    folder.mkdir(parents=True, exist_ok=True)
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        _keep_record_until(record, step)
    else:
        machine = {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
        write(record, {"step": 0, "steps": steps, **(run or {}), **machine})
    last = steps if stop_after is None else min(steps, stop_after)
    began = time.perf_counter() - seconds
    while True:
        if step in checkpoints and (line := checkpoint(step)) is not None:
            write(record, {"step": step, **line})
        if step >= last:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        model.train()
        whole, loss, more = losses(step)
        whole.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optimizing.clip)
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is {loss.item()} at step {step}: start again from the last checkpoint")
        if step % 10 == 0:
            line = {"loss": loss.item(), "gradient_norm": norm.item(), "seconds": time.perf_counter() - began}
            write(record, {"step": step, **line, **more})
        step += 1
        if step % 100 == 0 or step == last:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            _save(saved, state | {"seconds": time.perf_counter() - began})


def finished(folder: Path, steps: int) -> dict[str, torch.Tensor]:
    """The state of the model after the last step. Ends the program where the training has not come there."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    if state["step"] != steps:
        raise SystemExit(
            f"the training of {folder.name} has come to step {state['step']} of {steps}; go on with `train` first"
        )
    model: dict[str, torch.Tensor] = state["model"]
    return model


def _save(path: Path, state: Mapping[str, object]) -> None:
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


# ------------------------------------------------------------------ the record


def write(path: Path, line: Mapping[str, object]) -> None:
    """Add a line to a record, floats to five digits after the point, and print it."""
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")
    print(rounded, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; none where there is no record."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _keep_record_until(path: Path, step: int) -> None:
    """Lines of steps that will be run again are taken out of the record, so that it has each step once."""
    kept = [line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] < step]
    path.write_text("".join(line + "\n" for line in kept), "utf-8")
