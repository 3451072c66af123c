"""What a tokenizer is made of: its steps, as its own file tells them, its merges and its scores.

Fast tokenizers are read from the JSON they are saved as (Hugging Face tokenizers, `Tokenizer.to_str`). Slow ones, which are
Python of their own, tell nothing of their steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from labkit import checks
from labkit.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from labkit.trace.lab_like import TracingLab

Part = Mapping[str, object]

_NORMALIZERS = {
    "NFC": "composes characters (NFC), so that letters written in two parts become one",
    "NFD": "takes characters apart (NFD), a letter and its accent",
    "NFKC": "replaces characters by compatible ones (NFKC): ligatures, full-width and circled letters become plain ones",
    "NFKD": "replaces characters by compatible ones and takes them apart (NFKD)",
    "Lowercase": "makes all letters small",
    "StripAccents": "takes accents away",
    "Strip": "takes white space off the ends",
    "Nmt": "turns control characters into spaces or drops them",
    "Precompiled": "replaces characters by a table of SentencePiece's, usually NFKC with white space made even",
}


@dataclass(frozen=True)
class Pipeline:
    """A tokenizer's steps.

    model: "BPE", "Unigram", "WordPiece", "WordLevel", or the class of a slow tokenizer.  merges: pairs in the order they were
    learnt, () where there are none.  made: by piece, the number of the merge that first makes it.  scores: by piece, its log
    probability, of a Unigram model.  byte_level, byte_fallback, prefix_space, ignore_merges, dropout, suffix, prefix: as named
    in the tokenizer's file.  changes: sentences on what it changes of a text before it splits it.
    """

    model: str
    fast: bool
    merges: tuple[tuple[str, str], ...] = ()
    made: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    byte_level: bool = False
    byte_fallback: bool = False
    prefix_space: bool = False
    ignore_merges: bool = False
    dropout: float = 0.0
    prefix: str = ""
    suffix: str = ""
    unknown: str = ""
    changes: tuple[str, ...] = ()


_KEPT: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Pipeline]] = WeakKeyDictionary()


def pipeline(tokenizer: PreTrainedTokenizerBase) -> Pipeline:
    """The steps of a tokenizer, read once and kept until tokens are added to it."""
    try:
        size, found = _KEPT.get(tokenizer, (-1, None))
        if found is None or size != len(tokenizer):
            _KEPT[tokenizer] = len(tokenizer), (found := _read(tokenizer))
    except TypeError:  # one that can't be a key, or has no length
        return _read(tokenizer)
    return found


def backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The fast tokenizer beneath; None for a slow one."""
    beneath = getattr(tokenizer, "backend_tokenizer", None)
    return cast("Tokenizer", beneath) if hasattr(beneath, "to_str") else None


def _read(tokenizer: PreTrainedTokenizerBase) -> Pipeline:
    beneath = backend(tokenizer)
    unknown = str(getattr(tokenizer, "unk_token", None) or "")
    if beneath is None:
        return Pipeline(type(tokenizer).__name__, fast=False, unknown=unknown)
    saved = json.loads(beneath.to_str())
    model: Part = saved["model"]
    parts = {name: list(_parts(saved.get(name))) for name in ("normalizer", "pre_tokenizer", "decoder")}
    before = [*parts["normalizer"], *parts["pre_tokenizer"]]
    merges = tuple(_pair(each) for each in cast("Sequence[object]", model.get("merges") or ()))
    prefix = str(model.get("continuing_subword_prefix") or "")
    made: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        made.setdefault(left + right.removeprefix(prefix), rank)
    entries = cast("Sequence[tuple[str, float]]", model["vocab"]) if model["type"] == "Unigram" else ()
    prefix_space = any(
        part.get("add_prefix_space") is True
        or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") in ("always", "first"))
        or part["type"] == "Prepend"
        for part in before
    )
    return Pipeline(
        str(model["type"]),
        fast=True,
        merges=merges,
        made=made,
        scores={piece: float(score) for piece, score in entries},
        byte_level=any(part["type"] == "ByteLevel" for part in [*before, *parts["decoder"]]),
        byte_fallback=bool(model.get("byte_fallback")),
        prefix_space=prefix_space,
        ignore_merges=bool(model.get("ignore_merges")),
        dropout=float(cast("float", model.get("dropout") or 0.0)),
        prefix=prefix,
        suffix=str(model.get("end_of_word_suffix") or ""),
        unknown=str(model.get("unk_token") or unknown),
        changes=tuple(_changes(before)),
    )


def _pair(merge: object) -> tuple[str, str]:
    """A merge; older files write both pieces in one text."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else cast("Sequence[str]", merge)
    return left, right


def _parts(given: object) -> Iterator[Part]:
    """The steps of a normalizer, a pre-tokenizer or a decoder, sequences opened."""
    if not isinstance(given, Mapping):
        return
    inner = next((given[name] for name in ("normalizers", "pretokenizers", "decoders") if name in given), None)
    if inner is None:
        yield given
        return
    for part in cast("Sequence[object]", inner):
        yield from _parts(part)


def _changes(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        kind = str(part["type"])
        if kind in _NORMALIZERS:
            yield _NORMALIZERS[kind]
        elif kind == "BertNormalizer":
            settings = {
                "clean_text": "drops control characters",
                "handle_chinese_chars": "puts spaces around Chinese characters",
                "strip_accents": "takes accents away",
                "lowercase": "makes all letters small",
            }
            yield from (said for name, said in settings.items() if part.get(name))
            if part.get("strip_accents") is None and part.get("lowercase"):
                yield "takes accents away"
        elif kind == "Replace":
            pattern = part.get("pattern")
            old = next(iter(pattern.values()), "") if isinstance(pattern, Mapping) else str(pattern)
            if (old, part.get("content")) != (" ", "▁"):
                yield f"replaces {old!r} by {part.get('content')!r}"


def tokenizer_of(given: object) -> tuple[PreTrainedTokenizerBase, TracingLab | None, str]:
    """(tokenizer, lab or None, a name to show) of a lab, a transformers tokenizer or one of the tokenizers library.

    Raises BadInput for anything else.
    """
    if hasattr(given, "tokenizer") and hasattr(given, "trace"):
        lab = cast("TracingLab", given)
        return lab.tokenizer, lab, lab.name
    if callable(given) and hasattr(given, "convert_ids_to_tokens"):
        tokenizer = cast("PreTrainedTokenizerBase", given)
        return tokenizer, None, Path(tokenizer.name_or_path or "").name or type(tokenizer).__name__
    if hasattr(given, "to_str") and hasattr(given, "token_to_id"):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=cast("Tokenizer", given)), None, "tokenizer"
    raise BadInput(f"{checks.shown(given)} is neither a lab nor a tokenizer; give lk.load(...) or its .tokenizer.")
