"""One sample as token ids, and which of them are learnt: those that the model would have to write itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from labkit.errors import BadInput, Unavailable
from labkit.lora.samples import Sample
from labkit.trace.input import Message, as_ids, encode, marked, rendered, wants_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Labelled", "Labeller"]

_ANCHORS = ("\n", "a", "0", ".")  # what a text is tokenized behind, so that it gets no space of its own


@dataclass(frozen=True)
class Labelled:
    """ids: of the sample.  turns: where what is learnt begins and ends, a pair for each answer."""

    ids: list[int]
    turns: list[tuple[int, int]]


@dataclass
class Labeller:
    """Makes ids of samples for one model.

    ends: the tokens at which the model stops writing; the first of them that the tokenizer names as its own is put behind
        what no template ends.
    template: arguments for the chat template, as `generate` takes them.
    """

    tokenizer: PreTrainedTokenizerBase
    ends: Sequence[int]
    template: Mapping[str, object] = field(default_factory=dict)

    @property
    def end(self) -> int | None:
        """The token that is put behind a completion or text that no template ends; None where the model has none."""
        own = self.tokenizer.eos_token_id
        return own if own in self.ends else next(iter(self.ends), None)

    def label(self, sample: Sample) -> Labelled:
        """The ids of a sample. Raises BadInput where it can't be told what the model is to write."""
        if sample.kind == "text":
            return self.text(sample.text)
        if sample.kind == "messages":
            return self._conversation(list(sample.messages), sample.given, sample.tools)
        if wants_template(self.tokenizer, sample.prompt, None):
            messages: list[Message] = [
                {"role": "user", "content": sample.prompt},
                {"role": "assistant", "content": sample.completion},
            ]
            return self._conversation(messages, 0, ())
        return self._plain(sample.prompt, sample.completion)

    def text(self, text: str, *, ended: bool = True) -> Labelled:
        """Plain text, learnt from its second token on: the first follows from nothing. ended: with the end token behind it."""
        ids = as_ids(self.tokenizer, text, chat=False, context=None)
        if ended and self.end is not None and ids[-1] != self.end:
            ids = [*ids, self.end]
        return Labelled(ids, [(1, len(ids))])

    # a prompt without a template --------------------------------------------------------------------------------------

    def _plain(self, prompt: str, completion: str) -> Labelled:
        end = self.end
        if end is None:
            raise Unavailable(
                "This model has no token at which it stops, so it can't learn where an answer ends; set "
                "lab.model.generation_config.eos_token_id and lab.tokenizer.eos_token, or train on plain texts."
            )
        completion = completion.removesuffix(self._named(end))  # some data has it already
        self._check_ends(completion)
        before = encode(self.tokenizer, prompt, chat=None).ids
        whole = as_ids(self.tokenizer, prompt + completion, chat=False, context=None)
        ids = whole if whole[: len(before)] == before else self._continued(before, completion, whole)
        ids = ids if ids[-1] == end else [*ids, end]
        return Labelled(ids, [(len(before), len(ids))])

    # conversations ----------------------------------------------------------------------------------------------------

    def _conversation(self, messages: list[Message], given: int, tools: Sequence[Mapping[str, object]]) -> Labelled:
        """A conversation as the template writes it; learnt is what stands between an invitation to answer and the next turn."""
        template = {**self.template, **({"tools": list(tools)} if tools else {})}
        ids = as_ids(self.tokenizer, messages, chat=None, context=None, template=template)
        answers = [i for i in range(given, len(messages)) if messages[i].get("role") == "assistant"]
        if not answers:
            return Labelled(ids, [])
        if answers[0] == 0:
            raise BadInput(
                "it begins with the assistant's turn, which answers nothing; put a user's message before it."
            )
        for i in answers:
            self._check_ends(str(messages[i].get("content", "")))
        try:
            borders = self._borders(messages, answers, template)
        except BadInput as error:
            marks = marked(self.tokenizer, messages, template=template)
            if marks is None or given:
                raise BadInput(
                    f"{error} So it can't be told which tokens the model is to write; give each answer as a sample of its own, "
                    "or a template that marks them with {% generation %}: lab.tokenizer.chat_template = ..."
                ) from None
            found = _runs(marks)
            if found and found[0][0] == 1:  # what begins every text or turn is no prompt
                found[0] = (0, found[0][1])
            return Labelled(ids, found)
        turns = []
        for i in answers:
            before = encode(self.tokenizer, messages[:i], chat=None, template=template).ids
            after = ids
            if i + 1 < len(messages):
                after = as_ids(self.tokenizer, messages[: i + 1], chat=None, context=None, template=template)
            if ids[: len(before)] != before or ids[: len(after)] != after:
                return self._in_pieces(messages, answers[0], borders, template, ids)
            turns.append((len(before), len(after)))
        return Labelled(ids, turns)

    def _borders(
        self, messages: list[Message], answers: Sequence[int], template: Mapping[str, object]
    ) -> list[tuple[str, str]]:
        """For each answer the text up to it, invitation included, and up to its end. Raises BadInput where no prefix is one."""
        whole = rendered(self.tokenizer, messages, answer=False, template=template)
        found = []
        for i in answers:
            before = rendered(self.tokenizer, messages[:i], answer=True, template=template)
            after = whole
            if i + 1 < len(messages):
                after = rendered(self.tokenizer, messages[: i + 1], answer=False, template=template)
            if not whole.startswith(before):
                raise BadInput(
                    f"the chat template writes what stands before message {i} in another way when it asks for an answer than "
                    "with the answer behind it."
                )
            if not whole.startswith(after) or len(after) <= len(before):
                raise BadInput(f"the chat template writes message {i} in another way when more messages follow.")
            found.append((before, after))
        return [*found, (whole, whole)]

    def _in_pieces(
        self,
        messages: list[Message],
        first: int,
        borders: list[tuple[str, str]],
        template: Mapping[str, object],
        whole: list[int],
    ) -> Labelled:
        """Ids of a conversation in which a turn's tokens would merge with those before it: each turn tokenized by itself."""
        ids = encode(self.tokenizer, messages[:first], chat=None, template=template).ids
        turns = []
        for (before, after), (following, _) in itertools.pairwise(borders):
            begin = len(ids)
            ids = self._continued(ids, after[len(before) :], whole)
            turns.append((begin, len(ids)))
            ids = self._continued(ids, following[len(after) :], whole)
        return Labelled(ids, turns)

    # pieces -----------------------------------------------------------------------------------------------------------

    def _continued(self, before: list[int], text: str, whole: list[int]) -> list[int]:
        """Ids with those of a text behind them, as a model would write it there: no token reaches over the border.

        whole: ids of all of it, merged tokens included, which spell the same.
        """
        if not text:
            return before
        wanted = self._spelt(whole)
        for anchor in ("", *_ANCHORS):
            alone, with_text = self._ids(anchor), self._ids(anchor + text)
            if with_text[: len(alone)] == alone:
                ids = before + with_text[len(alone) :]
                if wanted.startswith(self._spelt(ids)):
                    return ids
        raise BadInput(
            "its prompt and answer can't be told apart: their tokens merge where they meet, and this tokenizer writes the answer "
            "otherwise by itself; end the prompt with a line break or a word."
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else []

    def _spelt(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _named(self, end: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(end))

    @cached_property
    def _end_names(self) -> list[str]:
        """The names of end tokens that are no plain text: of a line break, which ends for some, answers are full."""
        special = self.tokenizer.get_added_vocab()
        return [name for name in map(self._named, self.ends) if name in special]

    def _check_ends(self, answer: str) -> None:
        """Raise BadInput for an answer that holds the text of an end token: the model would learn to stop within it."""
        for name in self._end_names:
            if name in answer:
                raise BadInput(
                    f"its answer holds {name!r}, the token that ends a turn, so it would end there; take it out."
                )


def _runs(marks: Sequence[bool]) -> list[tuple[int, int]]:
    """Where marks are set, as (begin, end)."""
    edges = [i for i in range(len(marks) + 1) if (i < len(marks) and marks[i]) != (i > 0 and marks[i - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))
