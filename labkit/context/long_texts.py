"""Long documents, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput, NotEnoughMemory
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes, model_memory
from labkit.models.texts import KINDS, passages
from labkit.trace import running
from labkit.trace.input import as_ids

if TYPE_CHECKING:
    import torch

    from labkit.trace.lab_like import LabLike

CHUNK = 512  # tokens read at a time: a CPU gains nothing from more


def long_documents(lab: LabLike, tokens: int, documents: int = 5) -> list[list[int]]:
    """Token ids of long documents made of the shipped passages: those of one kind after another, all of other passages.

    tokens: of each.  documents: how many; their kinds take turns. What a passage tells of the one before is its kind and little
    else, so a model gains less from far tokens here than in a book.
    Raises BadInput where there are not so many passages.
    """
    tokens, documents = checks.whole("tokens", tokens, 2), checks.whole("documents", documents, 1)
    left = {kind: [passage.text for passage in passages(kind)] for kind in KINDS}
    found: list[list[int]] = []
    for number in range(documents):
        order = [KINDS[(number + step) % len(KINDS)] for step in range(len(KINDS))]
        ids = next((ids for kind in order if (ids := _joined(lab, left[kind], tokens)) is not None), None)
        if ids is None:
            raise BadInput(
                f"The shipped passages make {number} documents of {tokens:,} tokens and no more; ask for so many, or give texts "
                "of your own."
            )
        found.append(ids)
    return found


def _joined(lab: LabLike, texts: list[str], tokens: int) -> list[int] | None:
    """So many tokens of some of these texts, which are then taken away; None where they have fewer."""
    ids: list[int] = []
    for count, text in enumerate(texts):
        more = as_ids(lab.tokenizer, text if not ids else "\n\n" + text, chat=False, context=None)
        starts = ids and more[:1] == ids[:1] and more[0] in set(getattr(lab.tokenizer, "all_special_ids", None) or ())
        ids += more[1:] if starts else more
        if len(ids) >= tokens:
            del texts[: count + 1]
            return ids[:tokens]
    return None


def as_documents(lab: LabLike, texts: object, tokens: int, documents: int) -> list[list[int]]:
    """Documents of ids cut to so many tokens: the shipped ones for None, else texts or ids, each long enough."""
    if texts is None:
        return long_documents(lab, tokens, documents)
    given = checks.series("texts", texts, "a list of texts or of token ids")
    found = [as_ids(lab.tokenizer, each, chat=False, context=None) for each in given]
    short = next((place for place, ids in enumerate(found) if len(ids) < tokens), None)
    if not found or short is not None:
        has = f"document {short} has {len(found[short]):,}" if short is not None else "there is none"
        raise BadInput(
            f"Every document is to have {tokens:,} tokens, and {has}; give longer ones, or ask for fewer tokens."
        )
    return [ids[:tokens] for ids in found]


def check_room(lab: LabLike, tokens: int, *, chunk: int = CHUNK) -> None:
    """Raise NotEnoughMemory, before anything is run, where a text of so many tokens would not fit beside what is loaded."""
    per_token, free = bytes_a_token(lab), free_bytes(str(lab.device))
    fixed = 3 * 4 * chunk * running.embedding_rows(lab.model)  # logits of a chunk, and what their loss needs
    mask = 4 * chunk  # and one for each key
    if (needed := fixed + tokens * (per_token + mask)) > free:
        fits = max(int((free - fixed) / (per_token + mask)), 0)
        raise NotEnoughMemory(
            f"{tokens:,} tokens need {human_bytes(needed)} for the cache and a pass of {lab.name}, and {human_bytes(free)} are "
            f"free; {fits:,} tokens would fit."
        )


def bytes_a_token(lab: LabLike) -> int:
    """Of the cache, as `lk.memory` computes it; 0 where that is not known."""
    one, two = (model_memory(lab.model, tokens=tokens).kv_cache_bytes or 0 for tokens in (1, 2))
    return two - one


def checked_lengths(name: str, value: object, *, least: int = 1) -> list[int]:
    """Numbers of tokens, one or several, from short to long and each once."""
    given: Sequence[object] = (
        [value] if checks.as_whole(value) is not None else checks.series(name, value, "numbers of tokens")
    )
    found = sorted({checks.whole(name, each, least) for each in given})
    if not found:
        checks.refuse(name, value, "at least one number of tokens")
    return found


def read_losses(lab: LabLike, ids: Sequence[int], *, chunk: int = CHUNK, cached: bool = True) -> np.ndarray:
    """(T − 1,) float64: nats of each token but the first, of a text read a chunk at a time with a cache, or in one pass.

    The caller has the lab's turn. Raises Unavailable for a model that can't read on from a cache.
    """
    import torch

    if not cached:
        logits = running.forward(lab.model, [ids]).all_logits[0, :-1].float()
        return _nats(logits, torch.as_tensor(ids[1:], device=logits.device))
    reader = running.reader(lab.model, len(ids))
    parts = []
    for start in range(0, len(ids), chunk):
        end = min(start + chunk, len(ids))
        logits = reader.read(ids[:end], last=end - start).float()
        wanted = torch.as_tensor(list(ids[start + 1 : end + 1]), device=logits.device)
        parts.append(_nats(logits[: len(wanted)], wanted))
    return np.concatenate(parts)


def _nats(logits: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    from torch.nn.functional import cross_entropy

    return np.asarray(cross_entropy(logits, wanted, reduction="none").double().cpu().numpy())
