"""All heads of a model, measured: on a text, and on repeated random tokens where copying heads show themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.attention.sweep import HeadMeasures, measures
from labkit.errors import BadInput
from labkit.trace.input import is_many
from labkit.trace.record import Trace

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike, TracingLab

ON_REPEATED = ("induction", "duplicate")


def repeated(lab_or_vocabulary: LabLike | int, length: int = 50, times: int = 2, seed: int = 0) -> list[int]:
    """Token ids of a block of different random tokens, repeated: what can be predicted there can only be copied.

    lab_or_vocabulary: a Lab, or a number of tokens to draw from. From a Lab no special tokens are drawn, and what its
        tokenizer puts before every text (a beginning-of-text token, mostly) stands once before the first block, since
        that is what the model has seen at the first place; a tokenizer that puts nothing there adds nothing here.
    length: tokens in the block, two at least.  times: how often it stands there.
    Olsson et al. 2022, "In-context Learning and Induction Heads". Raises BadInput when there are too few tokens.
    """
    length, times, seed = checks.whole("length", length, 2), checks.whole("times", times, 1), checks.seed(seed)
    before, drawable = _drawable(lab_or_vocabulary)
    if len(drawable) < length:
        raise BadInput(
            f"There are {len(drawable):,} tokens to draw {length:,} different ones from; ask for a shorter block."
        )
    context = getattr(lab_or_vocabulary, "context", None)
    if context is not None and len(before) + length * times > context:
        raise BadInput(
            f"{times} blocks of {length:,} tokens are more than the {context:,} that the model's context holds; "
            "ask for a shorter block."
        )
    block = np.random.default_rng(seed).choice(drawable, length, replace=False)
    return before + [int(i) for i in block] * times


def heads(lab: TracingLab, text: object = None, *, length: int = 50, seed: int = 0) -> HeadMeasures:
    """The measures of all heads of a model: one row a head; `labkit.attention.MEASURES` says what the columns mean.

    text: entropy, distance, first, previous and own are measured on it (a text, token ids, messages, a Generation, or a
        Trace that kept its attention). Induction and duplicate are measured on repeated random tokens (`repeated`) of a
        block of `length`, where nothing but the repetition helps. None: all are measured there.
    The result's `uniform` holds, for each measure, what a head would score on the same tokens that looks evenly at all it
    may see; tokens and repeated_tokens say how many there were.
    Raises BadInput for what can't be used, Unavailable where the model's attention can't be had.
    """
    if is_many(text):
        raise BadInput("heads measures one text; call it once for each.")
    if isinstance(text, Mapping | int | float):
        raise BadInput(f"heads takes a text, token ids, messages, a Generation or a Trace, and {text!r} is none.")
    # a text that can't be used is said before anything runs
    trace = text if text is None or isinstance(text, Trace) else lab.trace(text, keep="attention")
    assert not isinstance(trace, list)
    copied = lab.trace(repeated(lab, length, 2, seed), keep="attention")
    found = measures(copied)
    if trace is not None:
        on_text = measures(trace)
        if not found[["layer", "head"]].equals(on_text[["layer", "head"]]):
            raise BadInput(
                f"The trace is of {trace.model}, whose heads are not those of {lab.name}; trace the text again."
            )
        again = {name: found.uniform[name] for name in ON_REPEATED}
        table = on_text.table.assign(**{name: found[name] for name in ON_REPEATED})
        found = replace(on_text, table=table, uniform={**on_text.uniform, **again})
    return replace(found, model=lab.name, repeated_tokens=len(copied))


def _drawable(lab_or_vocabulary: LabLike | int) -> tuple[list[int], np.ndarray]:
    """(what stands before a text, the ids that may be drawn)."""
    if (size := checks.as_whole(lab_or_vocabulary)) is not None:
        return [], np.arange(max(0, size))
    if isinstance(lab_or_vocabulary, int) or not hasattr(lab_or_vocabulary, "tokenizer"):
        raise BadInput(f"repeated takes a Lab or a vocabulary's size, and {lab_or_vocabulary!r} is neither.")
    tokenizer, model = lab_or_vocabulary.tokenizer, lab_or_vocabulary.model
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", ())}
    special |= {
        int(i) for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if getattr(t, "special", False)
    }
    before: list[int] = []
    try:
        around = [int(i) for i in tokenizer("a").input_ids]
    except NotImplementedError:  # one that only names tokens
        around = []
    for id_ in around:
        if id_ not in special:
            break
        before.append(id_)
    from labkit.trace import running

    rows = min(len(tokenizer), running.embedding_rows(model))
    return before, np.setdiff1d(np.arange(rows), np.array(sorted(special), dtype=np.int64))
