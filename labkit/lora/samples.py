"""What a model is tuned on: prompts with completions, conversations or plain texts, read from lists, files and datasets."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.trace.input import Message, check_characters

Kind = Literal["prompt", "messages", "text"]
Row: TypeAlias = Mapping[str, object]

KINDS: tuple[Kind, ...] = ("prompt", "messages", "text")
COLUMNS = ("prompt", "completion", "messages", "text", "instruction", "input", "output", "tools")
SHARE_GPT = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool"}  # its roles, in today's words
CONTAINED = 40  # normalised characters from which a text that stands within another counts as the same

__all__ = ["Sample", "divided", "overlapping", "read"]

_FORMS = (
    'rows of {"prompt": ..., "completion": ...}, of {"messages": [...]}, of {"text": ...} or of Alpaca\'s {"instruction": '
    '..., "input": ..., "output": ...}, lists of messages, or texts'
)


@dataclass(frozen=True)
class Sample:
    """One thing to learn from.

    kind: "prompt" (a prompt with its completion), "messages" (a conversation) or "text" (plain text).
    given: how many of the messages, from the first, are context alone, so that nothing in them is learnt.
    tools: the tools a conversation was held with, as the chat template takes them.
    """

    kind: Kind
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()
    text: str = ""
    given: int = 0
    tools: tuple[Row, ...] = ()

    @property
    def question(self) -> str:
        """What is to be answered: the prompt, the messages before the last of the assistant's, or the text itself."""
        if self.kind == "prompt":
            return self.prompt
        if self.kind == "text":
            return self.text
        last = max((i for i, message in enumerate(self.messages) if message.get("role") == "assistant"), default=-1)
        return "\n".join(map(_message_text, self.messages[:last] if last > 0 else self.messages))

    @property
    def whole(self) -> str:
        """All its text."""
        if self.kind == "messages":
            return "\n".join(map(_message_text, self.messages))
        return self.text if self.kind == "text" else f"{self.prompt}\n{self.completion}"

    @property
    def answers(self) -> list[tuple[str, str]]:
        """(what the user said last, the answer to it) of each answer in it; none of plain text."""
        if self.kind == "prompt":
            return [(self.prompt, self.completion)]
        found, asked = [], ""
        for message in self.messages:
            if message.get("role") == "user":
                asked = _message_text(message)
            elif message.get("role") == "assistant":
                calls = message.get("tool_calls") or ""
                found.append((asked, f"{_message_text(message)}{calls and json.dumps(calls, default=str)}"))
        return found


def read(data: object, *, columns: Mapping[str, str] | None = None) -> list[Sample]:
    """Samples, from any of the usual forms of training data.

    data: a list of {"prompt", "completion"}, of {"messages": [...]} or lists of messages, of {"text"} or texts; the path of a
        .jsonl, .json or .csv file with such rows; a Dataset of datasets; a DataFrame. Prompt and completion may be lists of
        messages themselves: then only the completion's are learnt. Rows of Alpaca ("instruction", "input", "output": Taori et
        al. 2023) become prompts, the input beneath the instruction, without the frame that Alpaca put around them. "tools" may
        stand beside messages. Other columns are not read.
    columns: where the data's columns have other names, {"prompt": "question", "completion": "answer"}.
    Raises BadInput for columns it can't find, rows of several kinds, samples that are empty, and what is no text.
    """
    if isinstance(data, Sequence) and not isinstance(data, str) and data and all(isinstance(s, Sample) for s in data):
        return _of_one_kind([_checked(cast(Sample, sample), f"item {i}") for i, sample in enumerate(data)])
    if hasattr(data, "train") and hasattr(data, "held_out"):
        raise BadInput("This is a task with what is held out of it; give task.train, and held_out=task.held_out.")
    rows, source = _rows(data)
    if not rows:
        raise BadInput(f"{source} holds no samples; give {_FORMS}.")
    names = _names(columns, rows)
    return _of_one_kind([_sample(row, names, f"{source}, item {i}") for i, row in enumerate(rows)])


def divided(samples: Sequence[Sample], share: float, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and `share` of them held out, drawn by the seed; those with one question stay on one side.

    What would be in the training data all the same, as `overlapping` finds it, goes back there.
    """
    share, rng = checks.fraction("held_out", share, zero=False, one=False), np.random.default_rng(checks.seed(seed))
    questions = [_normalised(sample.question) for sample in samples]
    distinct = list(dict.fromkeys(questions))
    if len(distinct) < 2:
        raise BadInput(
            f"Of {len(distinct)} sample{'s' * (len(distinct) != 1)} none can be held out; give at least two, or held_out=None."
        )
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    out = {distinct[i] for i in rng.permutation(len(distinct))[:count]}
    while out:
        train = [sample for sample, question in zip(samples, questions, strict=True) if question not in out]
        held_out = [sample for sample, question in zip(samples, questions, strict=True) if question in out]
        back = {_normalised(held_out[i].question) for i in overlapping(train, held_out)}
        if not back:
            return train, held_out
        out -= back
    raise BadInput(
        "None of the samples can be held out, since the training data would hold what was drawn all the same (the same answers "
        "to the same questions, or one text within another); take out what stands there twice, or give held_out other samples."
    )


def overlapping(train: Sequence[Sample], others: Sequence[Sample]) -> list[int]:
    """Which of the others are in the training data: by index, ascending.

    Compared without case, width and kinds of space. One is in it that asks the same question, whose every answer is given
    there to the same message of the user's, whatever stands before, or whose text, of 40 characters or more, stands within a
    training sample or has one within it.
    """
    asked = {_normalised(sample.question) for sample in train}
    answered = {pair for sample in train for pair in _answers(sample)}
    texts = [_normalised(sample.whole) for sample in train]
    joined = "\n".join(texts)
    long = [text for text in dict.fromkeys(texts) if len(text) >= CONTAINED]
    found = []
    for i, sample in enumerate(others):
        whole = _normalised(sample.whole)
        within = len(whole) >= CONTAINED and (whole in joined or any(text in whole for text in long))
        answers = _answers(sample)
        if within or _normalised(sample.question) in asked or (answers and answers <= answered):
            found.append(i)
    return found


# rows -----------------------------------------------------------------------------------------------------------------


def _rows(data: object) -> tuple[list[object], str]:
    """(the rows, what they came from)."""
    if isinstance(data, str | Path):
        return _of_file(data)
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame
        return list(data.to_dict("records")), "The table"
    if isinstance(data, Mapping):
        if data and all(hasattr(part, "column_names") for part in data.values()):
            raise BadInput(f"This holds several datasets; give one of them: data[{next(iter(data))!r}].")
        raise BadInput(f"Training data is a list, and this is a dictionary; give {_FORMS}.")
    if hasattr(data, "column_names") and not hasattr(data, "__len__"):
        raise BadInput("This dataset is a stream, whose samples can't be counted; give list(data.take(1000)).")
    if not isinstance(data, Iterable) or isinstance(data, bytes):
        raise BadInput(f"data={checks.shown(data)} can't be read; give {_FORMS}, or the path of such a file.")
    rows = list(data)
    if rows and all(isinstance(row, Mapping) and "role" in row and "content" in row for row in rows):
        raise BadInput("This is a single conversation; put it into a list: [messages].")
    return rows, "The data"


def _of_file(data: str | Path) -> tuple[list[object], str]:
    path = Path(data)
    readers = {".jsonl": _of_jsonl, ".json": _of_json, ".csv": _of_csv}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise BadInput(
            f"{checks.shown(str(data))} is no path of a .jsonl, .json or .csv file; put a single text into a list: [text]."
        )
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is not in UTF-8; save it in UTF-8 first.") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path.name} can't be read ({getattr(error, 'strerror', None) or error}); check its path."
        ) from error
    return readers[suffix](text, path.name), path.name


def _of_jsonl(text: str, name: str) -> list[object]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not at U+2028 and the like, which may stand within a text
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise BadInput(f"Line {number} of {name} is no JSON ({error}); each line is to be one row.") from error
    return rows


def _of_json(text: str, name: str) -> list[object]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{name} is no JSON ({error}); a file with a row a line is to be named .jsonl.") from error
    if not isinstance(rows, list):
        raise BadInput(f"{name} holds no list; it is to hold a list of {_FORMS}.")
    return rows


def _of_csv(text: str, name: str) -> list[object]:
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows: list[object] = []
        for row in lines:
            if None in row or None in row.values():
                raise BadInput(
                    f"Line {lines.line_num} of {name} has not as many fields as the first; put texts in quotes."
                )
            rows.append(row)
    except csv.Error as error:
        raise BadInput(f"Line {lines.line_num} of {name} is no CSV ({error}); put texts in double quotes.") from error
    return rows


def _names(columns: Mapping[str, str] | None, rows: Sequence[object]) -> dict[str, str]:
    """The data's own name of each column. Raises BadInput for names that mean nothing here or stand nowhere."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        checks.refuse("columns", columns, 'a dictionary, such as {"prompt": "question", "completion": "answer"}')
    there = sorted({str(name) for row in rows if isinstance(row, Mapping) for name in row})
    for ours, theirs in columns.items():
        checks.one_of("columns", ours, COLUMNS, problem="names no column that is read")
        if theirs not in there:
            has = checks.listed(map(repr, there)) or "no columns"
            raise BadInput(f"The data has no column {theirs!r}{checks.near(theirs, there)}; it has {has}.")
    return dict(columns)


# one sample -----------------------------------------------------------------------------------------------------------


def _sample(row: object, names: Mapping[str, str], where: str) -> Sample:
    if isinstance(row, str):
        return _checked(Sample("text", text=row), where)
    if isinstance(row, Sequence) and not isinstance(row, bytes) and row and all(isinstance(m, Mapping) for m in row):
        return _checked(Sample("messages", messages=_messages(row, where)), where)
    if not isinstance(row, Mapping):
        raise BadInput(f"{where} is a {type(row).__name__}, which can't be learnt from; give {_FORMS}.")
    got = {ours: row[theirs] for ours in COLUMNS if (theirs := names.get(ours, ours)) in row}
    if "conversations" in row and "messages" not in got:
        got["messages"] = row["conversations"]
    if "prompt" in got and "completion" in got:
        return _checked(_prompted(got, where), where)
    if "messages" in got:
        made = Sample("messages", messages=_messages(got["messages"], where), tools=_tools(got, where))
        return _checked(made, where)
    if "instruction" in got and "output" in got:
        more = _text(got.get("input") or "", "input", where)
        prompt = _text(got["instruction"], "instruction", where) + (f"\n\n{more}" if more.strip() else "")
        return _checked(Sample("prompt", prompt=prompt, completion=_text(got["output"], "output", where)), where)
    if "text" in got and "completion" not in got:
        return _checked(Sample("text", text=_text(got["text"], "text", where)), where)
    has = [str(name) for name in row]
    missing = (
        [name for name in ("prompt", "completion") if name not in got] if {"prompt", "completion"} & set(got) else []
    )
    lacks = f", but no {missing[0]!r}" if missing else ""
    guess = next((hint for name in has if (hint := checks.near(name, COLUMNS, cutoff=0.75))), "")
    raise BadInput(
        f"{where} has the columns {checks.listed(map(repr, has)) or 'none'}{lacks}{guess}, and samples are {_FORMS}; name the "
        'columns: columns={"prompt": "question", "completion": "answer"}.'
    )


def _prompted(got: Row, where: str) -> Sample:
    prompt, completion = got["prompt"], got["completion"]
    if not (_is_list(prompt) and _is_list(completion)):
        return Sample(
            "prompt", prompt=_text(prompt, "prompt", where), completion=_text(completion, "completion", where)
        )
    before, after = _messages(prompt, where), _messages(completion, where)
    return Sample("messages", messages=before + after, given=len(before), tools=_tools(got, where))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _messages(value: object, where: str) -> tuple[Message, ...]:
    """Messages as they are today; those of ShareGPT ("from", "value") are put into today's words."""
    if isinstance(value, str):  # a field of a CSV file
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadInput(f"{where}: messages are to be a list, and this text is no JSON ({error}).") from error
    if not isinstance(value, list | tuple) or not all(isinstance(message, Mapping) for message in value):
        raise BadInput(
            f"{where}: messages are to be a list of {{'role': ..., 'content': ...}}, not {checks.shown(value)}."
        )
    found: list[Message] = []
    for message in value:
        if "from" in message and "value" in message:
            message = {"role": SHARE_GPT.get(str(message["from"]), message["from"]), "content": message["value"]}
        # a Dataset fills in what a message does not have
        message = {name: part for name, part in message.items() if part is not None or name == "role"}
        if not isinstance(message.get("role"), str) or not {"content", "tool_calls"} & set(message):
            raise BadInput(f"{where}: a message needs 'role' and 'content', and this has not: {checks.shown(message)}")
        found.append(message)
    return tuple(found)


def _tools(got: Row, where: str) -> tuple[Row, ...]:
    tools = got.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise BadInput(f"{where}: tools are to be a list, and this text is no JSON ({error}).") from error
    if not tools:
        return ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadInput(f"{where}: tools are to be a list of dictionaries, not {checks.shown(tools)}.")
    return tuple(tools)


def _text(value: object, column: str, where: str) -> str:
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    if not isinstance(value, str):
        is_a = "is missing" if missing else f"is a {type(value).__name__}, and no text"
        raise BadInput(f"{where}: {column!r} {is_a}; leave the row out, or give it as text.")
    return value


def _checked(sample: Sample, where: str) -> Sample:
    """Raise BadInput for a sample that is empty or holds half characters."""
    checks.one_of("kind", sample.kind, KINDS)
    parts = {"prompt": ("prompt", "completion"), "text": ("text",), "messages": ()}[sample.kind]
    for name in parts:
        if not _text(getattr(sample, name), name, where).strip():
            raise BadInput(f"{where}: the {name} is empty, so there is nothing to learn; leave the row out.")
    if sample.kind == "messages":
        if not sample.messages:
            raise BadInput(f"{where}: the conversation is empty, so there is nothing to learn; leave the row out.")
        for i, message in enumerate(sample.messages):
            content = message.get("content")
            if (not content or (isinstance(content, str) and not content.strip())) and not message.get("tool_calls"):
                raise BadInput(f"{where}: message {i}, of the {message.get('role')}, is empty; leave it out.")
    try:
        for value in (sample.prompt, sample.completion, sample.text, *sample.messages):
            check_characters(value)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return sample


def _of_one_kind(samples: list[Sample]) -> list[Sample]:
    counts = Counter(sample.kind for sample in samples)
    if len(counts) > 1:
        firsts = {kind: next(i for i, sample in enumerate(samples) if sample.kind == kind) for kind in counts}
        told = checks.listed(f"item {i} is of kind {kind!r}" for kind, i in firsts.items())
        raise BadInput(f"Samples are to be of one kind, and {told}; train on one kind at a time.")
    return samples


# what counts as the same ----------------------------------------------------------------------------------------------


def _message_text(message: Message) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)


def _answers(sample: Sample) -> set[tuple[str, str]]:
    return {(_normalised(asked), _normalised(answer)) for asked, answer in sample.answers}


def _normalised(text: str) -> str:
    """Without what case, width and spaces tell apart."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
