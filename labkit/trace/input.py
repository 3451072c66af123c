"""From what a user says (a text, messages, token ids, a Generation) to the ids a model sees: the one place for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Number
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from labkit.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = Mapping[str, object]
Ids: TypeAlias = "Sequence[int] | torch.Tensor | np.ndarray[tuple[int, ...], np.dtype[np.integer]]"
Text: TypeAlias = "str | Sequence[Message] | Ids | Mapping[str, object] | Continued"  # one thing to run, of any form
One: TypeAlias = "str | list[int] | tuple[int, ...] | Sequence[Message] | Continued"
Many: TypeAlias = (
    "list[str] | tuple[str, ...] | list[list[int]] | list[list[dict[str, str]]] | Sequence[list[Message]]"
    " | Sequence[Continued]"
)
Given: TypeAlias = str | list[dict[str, object]] | list[int]

# arguments of apply_chat_template that say how ids come back: that is settled here
_OURS = frozenset(
    {
        *("conversation", "tokenize", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("padding", "truncation", "max_length"),
    }
)
# those that have a meaning whatever the template says
_ANY_TEMPLATE = frozenset({"chat_template", "continue_final_message", "sanitize_control_tokens", "tokenizer_kwargs"})
_SURROGATE = re.compile("[\ud800-\udfff]")

_EMPTY_PROMPT = "The prompt is empty; give a text, messages such as [{'role': 'user', 'content': 'Hi'}], or token ids."
_EMPTY_TEXT = "There is nothing to trace: the text is empty; give at least one token."


@runtime_checkable
class Continued(Protocol):
    """A prompt and what was generated after it: a Generation, which is run on as one text."""

    prompt_ids: list[int]
    ids: list[int]


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model sees it. given: the text, the messages or the ids it was made of."""

    given: Given
    ids: list[int]


# one or many ----------------------------------------------------------------------------------------------------------


def is_many(what: object) -> bool:
    """Whether this is a list of things to run, rather than one text, list of ids, list of messages or Generation.

    Rows of ids (a tensor or array of two dimensions, what a tokenizer gives for several texts) are many unless there
    is a single one.
    """
    if isinstance(what, Mapping):
        return "input_ids" in what and len(_rows_of(what)) != 1
    if (dimensions := getattr(what, "ndim", None)) is not None:
        if dimensions == 1:
            first = next(iter(what), None)  # type: ignore[call-overload] # of a pandas Series too, whatever its index
            return isinstance(first, str)  # an array of texts
        return bool(dimensions > 1 and len(what) != 1)  # type: ignore[arg-type] # every array has a length
    if isinstance(what, str | bytes) or not isinstance(what, Sequence) or not what:
        return False
    return not _is_part(what[0])


def each_of(what: object) -> list[object]:
    """The things to run, one by one: the elements of what is many, otherwise the thing itself."""
    if not is_many(what):
        return [what]
    return list(_rows_of(what)) if isinstance(what, Mapping) else list(what)  # type: ignore[call-overload] # many


def as_texts(texts: object, name: str = "texts") -> list[object]:
    """Several things to trace, as a list.

    Raises BadInput for a single one: a text would be read letter by letter, and ids as texts of one token each.
    """
    try:
        single = isinstance(texts, (str, bytes, Mapping, Continued))
        found = None if single else list(texts)  # type: ignore[call-overload] # tried, since many things can be
    except TypeError:  # nothing that can be gone through
        found = None
    if found is None or (found and _is_part(found[0])):
        raise BadInput(
            f"{name} are to be a list of texts, and this is no such list; put a single text into one: [text]."
        )
    return list(found)


def as_kinds(texts: object) -> dict[str, list[object]]:
    """Texts by kind; a list of texts, or what a tokenizer gives for one, is of one kind, "texts".

    Raises BadInput for anything else.
    """
    if isinstance(texts, Mapping) and "input_ids" in texts:  # its fields are no kinds of text
        texts = each_of(texts)
    kinds = dict(texts) if isinstance(texts, Mapping) else {"texts": texts}
    return {
        kind: as_texts(some, f"texts of kind {kind!r}" if texts is not some else "texts")
        for kind, some in kinds.items()
    }


def _is_part(what: object) -> bool:
    """Whether this is a token id or a message, of which one text is made."""
    if isinstance(what, Mapping):
        return "input_ids" not in what
    return not isinstance(what, str) and (isinstance(what, Number) or getattr(what, "ndim", None) == 0)


# one text to ids ------------------------------------------------------------------------------------------------------


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: object,
    *,
    chat: bool | None,
    template: Mapping[str, object] | None = None,
) -> Encoded:
    """One prompt, ready for the model to go on from.

    chat: None uses the chat template where the model has one, True insists on it, False takes a text as it is. Messages
        always need the template; ids and Generations are taken as they are. A text that begins with the model's start
        token has been through the template: it is taken as it is, and gets no second one.
    template: arguments for the chat template, such as {"enable_thinking": False, "tools": [...]}.
    Raises BadInput for a prompt without tokens, malformed messages and arguments the template does not read,
    Unavailable where a template is needed and there is none.
    """
    return _encode(tokenizer, prompt, chat=chat, template=template, answer=True)


def as_ids(
    tokenizer: PreTrainedTokenizerBase,
    what: object,
    *,
    chat: bool | None,
    context: int | None,
    template: Mapping[str, object] | None = None,
) -> list[int]:
    """The ids of one thing to trace: what `encode` takes, with no invitation to answer put behind messages.

    Raises BadInput when it is empty, longer than context, or of an unknown kind.
    """
    ids = _encode(tokenizer, what, chat=chat, template=template, answer=False).ids
    if context is not None and len(ids) > context:
        raise BadInput(f"The text has {len(ids):,} tokens and the model's context holds {context:,}; shorten it.")
    return ids


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    answer: bool,
    template: Mapping[str, object] | None = None,
) -> str:
    """The text that the chat template makes of messages, of which `encode` (answer=True) and `as_ids` take the ids.

    answer: whether the invitation to answer stands behind them.  Raises as `encode` does.
    """
    checked = _checked_messages(messages, _EMPTY_TEXT)
    options = _template_options(tokenizer, dict(template or {}), answer=answer)
    try:
        return str(tokenizer.apply_chat_template(checked, tokenize=False, **options))  # type: ignore[arg-type]
    except Exception as error:  # a template may raise whatever it likes
        raise _refused(error) from error


def marked(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, template: Mapping[str, object] | None = None
) -> list[bool] | None:
    """Which of the ids of messages (`as_ids`) the chat template itself marks as the assistant's, by {% generation %}.

    None where it marks none.
    """
    checked = _checked_messages(messages, _EMPTY_TEXT)
    options = _template_options(tokenizer, dict(template or {}), answer=False)
    tools, other = options.get("tools"), options.get("chat_template")
    if not re.search(r"{%-?\s*generation\b", str(tokenizer.get_chat_template(other, tools))):  # type: ignore[arg-type]
        return None
    try:
        encoded = tokenizer.apply_chat_template(
            checked,  # type: ignore[arg-type]
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **options,  # type: ignore[arg-type]
        )
    except Exception as error:
        raise _refused(error) from error
    return [bool(mark) for mark in encoded["assistant_masks"]]  # type: ignore[call-overload, index]


def check_length(encoded: Encoded, context: int | None) -> None:
    """Raise BadInput when a prompt leaves no room for a single new token in the model's context."""
    if context is not None and len(encoded.ids) >= context:
        raise BadInput(
            f"The prompt has {len(encoded.ids):,} tokens and the model's context holds {context:,}, with no room for an "
            f"answer; shorten the prompt to {context - 1:,} tokens or fewer."
        )


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    what: object,
    *,
    chat: bool | None,
    template: Mapping[str, object] | None,
    answer: bool,
) -> Encoded:
    if chat not in (None, True, False):
        raise BadInput(
            f"chat={chat!r} can't be used; it is to be True, False or None (the template where there is one)."
        )
    if template is not None and not isinstance(template, Mapping):
        raise BadInput(
            f"template={template!r} can't be used; give the chat template's arguments as a dictionary, such as "
            '{"enable_thinking": False}.'
        )
    empty = _EMPTY_PROMPT if answer else _EMPTY_TEXT
    check_characters(what)
    given: Given
    messages: list[dict[str, object]] | None
    if isinstance(what, str):
        given = what
        messages = [{"role": "user", "content": what}] if wants_template(tokenizer, what, chat) else None
        if messages is not None and not what:
            raise BadInput(empty)
        ids = [] if messages is not None else _tokenized(tokenizer, what)
    elif isinstance(what, Sequence) and what and isinstance(what[0], Mapping) and "input_ids" not in what[0]:
        if answer and chat is False:
            raise BadInput("A list of messages needs the chat template; pass a plain text with chat=False.")
        given = messages = _checked_messages(what, empty)
    else:
        messages, ids = None, _given_ids(tokenizer, what)
        given = ids
    if messages is not None:
        ids = _templated(tokenizer, messages, dict(template or {}), answer=answer)
    elif template:
        raise BadInput(
            "template= goes to the chat template, and this prompt does not go through one; leave it out, or give the "
            "text or the messages themselves, with chat=True."
        )
    if not ids:
        raise BadInput(empty)
    return Encoded(given, [int(i) for i in ids])


# token ids ------------------------------------------------------------------------------------------------------------


def _given_ids(tokenizer: PreTrainedTokenizerBase, what: object) -> list[int]:
    """Token ids as they were given. Raises BadInput for what is none."""
    if isinstance(what, Continued):
        return [*what.prompt_ids, *what.ids]
    row: object = what
    if isinstance(what, Mapping) and "input_ids" in what:
        row = _rows_of(what)[0]
    elif hasattr(what, "tolist"):
        row = what.tolist()
        if isinstance(row, list) and len(row) == 1 and isinstance(row[0], list):
            row = row[0]
        if not isinstance(row, list) or any(isinstance(element, list) for element in row):
            raise BadInput("Token ids are to be one row; for several texts give a list of rows.")
    elif isinstance(what, str | bytes | Mapping) or not isinstance(what, Sequence):
        hint = "put the message into a list: [message]" if isinstance(what, Mapping) else "give one of those"
        raise BadInput(
            f"What is run is a text or a list of messages, token ids or a Generation, and this is a "
            f"{type(what).__name__}; {hint}."
        )
    ids = [_as_id(element) for element in row] if isinstance(row, Sequence) else [None]
    if None in ids:
        raise BadInput(
            "What is run is a text or a list of messages, or token ids, which are whole numbers, and this is neither; "
            "give one of those."
        )
    found = [i for i in ids if i is not None]
    if bad := [i for i in found if i < 0]:
        raise BadInput(f"There is no token {bad[0]}: this vocabulary has tokens 0 to {len(tokenizer) - 1}.")
    return found


def _as_id(value: object) -> int | None:
    """A token id as a number, or None for anything else."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _rows_of(encoding: Mapping[str, object]) -> list[object]:
    """The rows of ids in what a tokenizer gives, without what its attention mask calls padding."""
    ids, mask = (_as_lists(encoding.get(key)) for key in ("input_ids", "attention_mask"))
    if not isinstance(ids, list) or not ids or not isinstance(ids[0], list):
        return [ids] if mask is None else [_unpadded(ids, mask)]
    masks = mask if isinstance(mask, list) and len(mask) == len(ids) else [None] * len(ids)
    return [_unpadded(row, kept) for row, kept in zip(ids, masks, strict=True)]


def _unpadded(row: object, mask: object) -> object:
    if isinstance(row, list) and isinstance(mask, list) and len(mask) == len(row):
        return [i for i, kept in zip(row, mask, strict=True) if kept]
    return row


def _as_lists(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


def check_characters(what: object) -> None:
    """Raise BadInput for a text, or a message's, with half a character, which no tokenizer takes.

    Files read with errors="surrogateescape" and cut JSON have them.
    """
    if isinstance(what, str):
        if (bad := _SURROGATE.search(what)) is not None:
            raise BadInput(
                f"The text holds U+{ord(bad[0]):04X} at character {bad.start()}, half of a surrogate pair, which is no "
                'character; take such out with text.encode("utf-8", "replace").decode().'
            )
    elif isinstance(what, Mapping):
        for value in what.values():
            check_characters(value)
    elif isinstance(what, list | tuple) and what and isinstance(what[0], str | Mapping):
        for part in what:
            check_characters(part)


# texts and messages ---------------------------------------------------------------------------------------------------


def wants_template(tokenizer: PreTrainedTokenizerBase, text: str, chat: bool | None) -> bool:
    """Whether a text is to be put into the chat template."""
    if chat is False or (chat is None and not getattr(tokenizer, "chat_template", None)):
        return False
    start = getattr(tokenizer, "bos_token", None)
    if not isinstance(start, str) or not start or not text.startswith(start):
        return True
    if chat is None:  # it has been through the template already
        return False
    raise BadInput(
        f"The text begins with {start!r}, the token that begins a text, and the chat template would put another before "
        "it; pass chat=False for a text that has been through the template."
    )


def _tokenized(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text, with what the tokenizer puts before one unless the text has it already."""
    ids = list(tokenizer(text, verbose=False).input_ids)
    special = [token for token in getattr(tokenizer, "all_special_tokens", None) or () if token]
    if not text.startswith(tuple(special)) or not special:
        return ids
    plain = list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    for added in range(len(ids) - len(plain), 0, -1):  # how many tokens stand before the text's own
        if ids[added : added + len(plain)] == plain:
            return ids[added:] if plain[:added] == ids[:added] else ids
    return ids


def _templated(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, object]], arguments: dict[str, object], *, answer: bool
) -> list[int]:
    options = _template_options(tokenizer, arguments, answer=answer)
    in_parts = [str(message["content"]) for message in messages if isinstance(message.get("content"), list | tuple)]
    written = ""
    try:
        if in_parts:
            written = str(tokenizer.apply_chat_template(messages, tokenize=False, **options))  # type: ignore[arg-type]
        encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)  # type: ignore[arg-type]
    except Exception as error:  # a template may raise whatever it likes, mostly on roles it does not know
        raise _refused(error) from error
    if any(part in written for part in in_parts):
        raise BadInput(
            "This model's chat template does not read a message's content in parts: it would write the list itself into the "
            "prompt; give the content as one text."
        )
    ids = encoded["input_ids"]  # type: ignore[call-overload, index]
    return [int(i) for i in ids]


def _template_options(
    tokenizer: PreTrainedTokenizerBase, arguments: dict[str, object], *, answer: bool
) -> dict[str, object]:
    """What the chat template is called with. Raises where there is none, or it would not read an argument."""
    if bad := sorted(_OURS & set(arguments)):
        raise BadInput(
            f"template={{{bad[0]!r}: ...}} says how ids are handed back, which is settled here; leave it out."
        )
    chosen = arguments.get("chat_template") or getattr(tokenizer, "chat_template", None)
    if not chosen:
        raise Unavailable(
            "This model has no chat template; give a plain text with chat=False, or set tokenizer.chat_template."
        )
    _check_read(tokenizer, arguments)
    continues = bool(arguments.get("continue_final_message"))
    return {"add_generation_prompt": answer and not continues} | arguments


def _refused(error: Exception) -> BadInput:
    return BadInput(f"The model's chat template refused these messages ({error}); check their roles and order.")


def _check_read(tokenizer: PreTrainedTokenizerBase, arguments: dict[str, object]) -> None:
    """Raise BadInput for an argument that the template never reads: it would change nothing, without a word."""
    asked = set(arguments) - _ANY_TEMPLATE
    if not asked:
        return
    try:
        from jinja2 import meta
        from transformers.utils.chat_template_utils import _compile_jinja_template

        tools, other = arguments.get("tools"), arguments.get("chat_template")
        source = tokenizer.get_chat_template(other, tools)  # type: ignore[arg-type]
        read = meta.find_undeclared_variables(_compile_jinja_template(source).environment.parse(source))
    except Exception:  # what can't be read is left to the template itself, which says what is wrong with it
        return
    if unread := sorted(asked - read - {"add_generation_prompt"}):
        known = sorted(read - {"messages", "raise_exception", "strftime_now", *_special_names(tokenizer)})
        raise BadInput(
            f"This model's chat template does not read {', '.join(unread)}, so nothing would change; it reads "
            f"{', '.join(known) or 'the messages alone'}."
        )


def _special_names(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return set(getattr(tokenizer, "special_tokens_map", None) or ())


def _checked_messages(messages: Sequence[object], empty: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise BadInput(
                f"A prompt is a text or a list of messages, and this list holds a {type(message).__name__} beside "
                "messages; give one kind."
            )
        if "role" not in message or not {"content", "tool_calls"} & set(message):
            raise BadInput(
                f"A message needs 'role' and 'content' (or 'tool_calls'), and this has not: {str(message)[:80]}"
            )
        found.append(dict(message))
    if not any(value for m in found for name, value in m.items() if name != "role"):
        raise BadInput(empty)
    return found
