"""From what a user wants traced to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from labkit.errors import BadInput, Unavailable


def is_many(what: Any) -> bool:
    """Whether this is a list of things to trace, rather than one text, list of ids, list of messages or Generation."""
    if isinstance(what, str | bytes) or not isinstance(what, Sequence) or not what:
        return False
    return not isinstance(what[0], Integral | Mapping)


def as_texts(texts: Any, name: str = "texts") -> list[Any]:
    """Several things to trace, as a list.

    Raises BadInput for a single one: a text would be read letter by letter, and ids as texts of one token each.
    """
    try:
        found = None if isinstance(texts, str | bytes | Mapping) or hasattr(texts, "prompt_ids") else list(texts)
    except TypeError:  # nothing that can be gone through
        found = None
    if found is None or (found and not isinstance(found[0], str) and _is_part(found[0])):
        raise BadInput(
            f"{name} are to be a list of texts, and this is no such list; put a single text into one: [text]."
        )
    return found


def _is_part(what: Any) -> bool:
    """Whether this is a token id or a message, of which one text is made."""
    return isinstance(what, Integral | Mapping) or getattr(what, "ndim", 1) == 0


def as_kinds(texts: Any) -> dict[str, list[Any]]:
    """Texts by kind; a list of texts is of one kind, "texts". Raises BadInput for anything else."""
    kinds = dict(texts) if isinstance(texts, Mapping) else {"texts": texts}
    return {
        kind: as_texts(some, f"texts of kind {kind!r}" if texts is not some else "texts")
        for kind, some in kinds.items()
    }


def as_ids(tokenizer: Any, what: Any, *, chat: bool, context: int | None) -> list[int]:
    """The ids of one thing to trace. Raises BadInput when it is empty, too long, or of an unknown kind."""
    if hasattr(what, "prompt_ids") and hasattr(what, "ids"):
        ids = [*what.prompt_ids, *what.ids]
    elif isinstance(what, str):
        ids = _templated(tokenizer, [{"role": "user", "content": what}]) if chat else list(tokenizer(what).input_ids)
    elif hasattr(what, "tolist"):
        ids = what.tolist()
        if not isinstance(ids, list) or (len(ids) > 1 and isinstance(ids[0], list)):
            raise BadInput("Token ids are to be one row; for several texts give a list of rows.")
        ids = ids[0] if ids and isinstance(ids[0], list) and len(ids) == 1 else ids
    elif isinstance(what, Sequence) and what and isinstance(what[0], Mapping):
        ids = _templated(tokenizer, [dict(m) for m in what])
    elif isinstance(what, Sequence) and not isinstance(what, bytes):
        ids = [int(i) if isinstance(i, Integral) and not isinstance(i, bool) else i for i in what]
    else:
        raise BadInput(f"A {type(what).__name__} can't be traced; give a text, token ids, messages or a Generation.")
    if not ids:
        raise BadInput("There is nothing to trace: the text is empty; give at least one token.")
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise BadInput("Token ids are to be whole numbers; give a list of them, or a text.")
    size = len(tokenizer)
    if bad := [i for i in ids if i < 0]:
        raise BadInput(f"There is no token {bad[0]}: this vocabulary has tokens 0 to {size - 1}.")
    if context is not None and len(ids) > context:
        raise BadInput(f"The text has {len(ids):,} tokens and the model's context holds {context:,}; shorten it.")
    return ids


def _templated(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise Unavailable("This model has no chat template; trace a plain text, or set tokenizer.chat_template.")
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
