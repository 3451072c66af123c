"""Several samples in one row, as TRL packs them: which stand together, and whether the model keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.probing import COARSEST, TOLERANCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

LENGTHS = (11, 6)  # tokens of the two samples with which a model is tried

__all__ = ["check_apart", "packed_batch", "packed_rows", "strategy"]


def strategy(packing: bool | str) -> str | None:
    """TRL's name of the packing that is asked for, None for none. Raises BadInput where it would mix samples."""
    if packing is False or packing is None:
        return None
    if packing is True or packing == "bfd":
        return "bfd"
    if packing == "wrapped":
        raise BadInput(
            "packing='wrapped' lets samples in one row see each other and cuts them at its end; give packing=True, which keeps "
            "them apart and whole."
        )
    checks.refuse("packing", packing, "True or False")


def packed_rows(lengths: Sequence[int], row_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Which samples stand in each row that TRL packs: its own packing, on each token's sample in place of its id.

    lengths: tokens of each sample.
    """
    import datasets
    from trl.data_utils import pack_dataset

    whose = datasets.Dataset.from_dict({"input_ids": [[i] * length for i, length in enumerate(lengths)]})
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        packed = pack_dataset(whose, row_tokens, "bfd")
    finally:
        if shown:
            datasets.enable_progress_bars()
    return tuple(tuple(dict.fromkeys(row)) for row in packed["input_ids"])


def packed_batch(samples: Sequence[Sequence[int]]) -> dict[str, torch.Tensor | int]:
    """A row of samples as TRL's collator hands it to the model: positions begin anew with each, and there is no mask.

    Importing the collator itself takes seconds; a test holds the two together.
    """
    lengths = torch.tensor([len(ids) for ids in samples])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32)
    longest = int(lengths.max())
    return {
        "input_ids": torch.tensor([[i for ids in samples for i in ids]]),
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in samples])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        "seq_idx": torch.repeat_interleave(torch.arange(len(samples), dtype=torch.int32), lengths)[None],
    }


def check_apart(lab: LabLike) -> None:
    """Raise Unavailable where two samples in a row are not to the model what each is alone; found by trying it."""
    model = running.language_model(lab.model)
    with lab.turn(), running.prepared(model), torch.no_grad():
        if not _keeps_apart(model):
            raise Unavailable(
                f"{lab.name} can't be trained on packed rows: tried with two samples in one, it does not compute what it "
                f"computes for each alone (its family, {lab.family}, lets them reach each other or takes no such rows); leave "
                "packing out."
            )


def _keeps_apart(model: PreTrainedModel) -> bool:
    rows = running.embedding_rows(model)
    texts = [[(7919 * (23 * number + i) + 5) % rows for i in range(n)] for number, n in enumerate(LENGTHS)]

    def logits(samples: Sequence[Sequence[int]]) -> torch.Tensor:
        batch = {
            name: value.to(model.device) if isinstance(value, torch.Tensor) else value
            for name, value in packed_batch(samples).items()
        }
        found: torch.Tensor = model(**batch, use_cache=False).logits[0].float()
        return found

    alone = torch.cat([running.forward(model, [text]).all_logits[0].float() for text in texts])
    try:
        together = logits(texts)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # that says nothing of packing
    except Exception:  # whatever a modeling file raises where it takes no such row
        return False
    tolerance = TOLERANCE.get(model.dtype, COARSEST) * float(alone.abs().max())
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=0.0, atol=tolerance)
