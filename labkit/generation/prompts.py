"""From what a user gives (text, messages, ids) to the ids a model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.errors import BadInput, Unavailable

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model sees it."""

    given: str | list[dict[str, Any]]
    ids: list[int]


def is_batch(prompt: Any) -> bool:
    """Whether this is a list of prompts rather than one: a list of texts, or of lists of messages."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and bool(prompt)
        and not isinstance(prompt[0], Mapping)
    )


def encode(tokenizer: Any, prompt: Prompt, *, chat: bool | None) -> Encoded:
    """Tokenize one prompt.

    chat None: the chat template where the model has one; True insists on it; False takes the text as it is. A list of
    messages always needs the template. Raises BadInput for an empty prompt or malformed messages, Unavailable where a
    template is needed and there is none.
    """
    if chat not in (None, True, False):
        raise BadInput(
            f"chat={chat!r} can't be used; it is to be True, False or None (the template where there is one)."
        )
    template = bool(getattr(tokenizer, "chat_template", None))
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadInput("The prompt is empty; give the model at least one word to start from.")
        if chat is False or (chat is None and not template):
            return _checked(prompt, list(tokenizer(prompt, verbose=False).input_ids))
        messages = [{"role": "user", "content": prompt}]
        given: str | list[dict[str, Any]] = prompt
    else:
        messages = _checked_messages(prompt)
        given = messages
        if chat is False:
            raise BadInput("A list of messages needs the chat template; pass a plain text with chat=False.")
    if not template:
        raise Unavailable(
            "This model has no chat template; give a plain text with chat=False, or set tokenizer.chat_template."
        )
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    except Exception as error:  # a template may raise whatever it likes, mostly on roles it does not know
        raise BadInput(
            f"The model's chat template refused these messages ({error}); check their roles and order."
        ) from error
    return _checked(given, list(ids))


def _checked(given: str | list[dict[str, Any]], ids: list[int]) -> Encoded:
    if not ids:
        raise BadInput("The prompt has no tokens in this model's vocabulary; give it other text.")
    return Encoded(given, [int(i) for i in ids])


def _checked_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, Sequence):
        raise BadInput(
            f"A prompt is a text or a list of messages, and this is a {type(messages).__name__}; give one of those."
        )
    if not messages:
        raise BadInput(
            "The prompt is empty; give a text or a list of messages such as [{'role': 'user', 'content': 'Hi'}]."
        )
    for message in messages:
        if not isinstance(message, str | Mapping):
            kind = type(message).__name__
            raise BadInput(
                f"A prompt is a text or a list of messages, and this list holds a {kind}; trace takes token ids."
            )
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise BadInput(f"A message needs 'role' and 'content', and this has not: {str(message)[:80]}")
    if not any(str(m["content"] or "").strip() for m in messages):
        raise BadInput("All messages are empty; give the model at least one word to start from.")
    return [dict(m) for m in messages]


def check_length(encoded: Encoded, context: int | None) -> None:
    """Raise BadInput when a prompt leaves no room for a single new token in the model's context."""
    if context is not None and len(encoded.ids) >= context:
        raise BadInput(
            f"The prompt has {len(encoded.ids):,} tokens and the model's context holds {context:,}, with no room for an "
            f"answer; shorten the prompt to {context - 1:,} tokens or fewer."
        )
