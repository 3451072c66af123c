"""labkit.lora.read: every form of training data gives the same samples, and what can't be learnt from is refused."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit as lk
from labkit.lora.samples import Sample, divided, overlapping, read

PAIRS = [("What is 1 + 1?", "2"), ('Say "Grüß Gott",\nplease', "Grüß Gott 👋"), ("a\u2028b", "c, d")]
ROWS = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
SAMPLES = [Sample("prompt", prompt=prompt, completion=completion) for prompt, completion in PAIRS]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_form_gives_the_same_samples(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    table = pd.DataFrame(ROWS)
    table.to_csv(tmp_path / "data.csv", index=False)
    forms = {
        "rows": ROWS,
        "samples": SAMPLES,
        "jsonl": written(tmp_path, "data.jsonl", f"\ufeff{lines}\n\n"),
        "json": str(written(tmp_path, "data.json", json.dumps(ROWS))),
        "csv": tmp_path / "data.csv",
        "dataset": datasets.Dataset.from_list(ROWS),
        "table": table,
        "alpaca": [{"instruction": p, "input": None, "output": c, "text": "a frame"} for p, c in PAIRS],
    }
    for name, form in forms.items():
        assert read(form) == SAMPLES, name
    assert lk.lora.read is read


def test_alpaca_s_input_stands_beneath_the_instruction() -> None:
    (sample,) = read([{"instruction": "Translate.", "input": "Haus", "output": "house"}])
    assert (sample.prompt, sample.completion) == ("Translate.\n\nHaus", "house")


def test_columns_of_other_names() -> None:
    data = [{"question": p, "reply": c, "id": 3} for p, c in PAIRS]
    assert read(data, columns={"prompt": "question", "completion": "reply"}) == SAMPLES
    with pytest.raises(
        lk.BadInput, match=r"no column 'questoin' \(did you mean 'question'\?\); it has 'id', 'question'"
    ):
        read(data, columns={"prompt": "questoin", "completion": "reply"})
    with pytest.raises(lk.BadInput, match="names no column that is read"):
        read(data, columns={"prmpt": "question"})


def test_conversations() -> None:
    (expected,) = read([TALK])
    assert expected.kind == "messages"
    assert [dict(message) for message in expected.messages] == TALK
    forms = [
        [{"messages": TALK}],
        datasets.Dataset.from_list([{"messages": TALK}]),
        [{"messages": json.dumps(TALK)}],
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}],
    ]
    for form in forms:
        assert read(form) == [expected]
    (context,) = read([{"prompt": TALK, "completion": TALK}])
    assert (context.given, len(context.messages)) == (2, 4)


def test_what_a_dataset_fills_in_is_left_out_of_messages() -> None:
    mixed = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]},
    ]
    (sample,) = read([{"messages": [{**{"content": None, "tool_calls": None}, **message} for message in mixed]}])
    assert [dict(message) for message in sample.messages] == mixed


def test_texts(tmp_path: Path) -> None:
    expected = [Sample("text", text="One text."), Sample("text", text="另一个")]
    assert read(["One text.", "另一个"]) == expected
    assert read([{"text": "One text."}, {"text": "另一个"}]) == expected


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "holds no samples"),
        ("just a text", "put a single text into a list"),
        ("missing.jsonl", "can't be read"),
        (TALK, "put it into a list: \\[messages\\]"),
        ({"prompt": "a", "completion": "b"}, "this is a dictionary"),
        ({"train": datasets.Dataset.from_list(ROWS)}, r"data\['train'\]"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), r"take\(1000\)"),
        (7, "can't be read"),
        (lk.lora.tasks.dates(2, 1), "give task.train"),
        ([7], "item 0 is a int"),
        ([{"prompt": "a"}], "no 'completion'"),
        ([{"promt": "a", "completion": "b"}], r"did you mean 'prompt'\?"),
        ([{"question": "a", "answer": "b"}], "columns="),
        ([{"prompt": "a", "completion": 5}], "'completion' is a int"),
        ([{"prompt": "a", "completion": None}], "'completion' is missing"),
        ([*ROWS, {"prompt": "a", "completion": " \n"}], "item 3: the completion is empty"),
        ([{"prompt": "", "completion": "b"}], "the prompt is empty"),
        (["text", ""], "item 1: the text is empty"),
        ([{"messages": []}], "the conversation is empty"),
        ([{"messages": [{"role": "user", "content": ""}, TALK[1]]}], "message 0, of the user, is empty"),
        ([{"messages": [{"content": "Hi"}]}], "needs 'role'"),
        ([{"messages": "no json"}], "no JSON"),
        ([{"messages": [7]}], "are to be a list"),
        ([{"messages": TALK, "tools": 5}], "tools are to be a list"),
        ([ROWS[0], "text"], "item 0 is of kind 'prompt' and item 1 is of kind 'text'"),
        ([{"prompt": "a\ud800", "completion": "b"}], "half of a surrogate pair"),
        ([{"prompt": "a", "completion": "b\udfff"}], "half of a surrogate pair"),
    ],
)
def test_what_can_t_be_learnt_from_is_refused(data: object, match: str) -> None:
    with pytest.raises(lk.BadInput, match=match):
        read(data)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": ', "Line 2 of a.jsonl is no JSON"),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}', "is to be named .jsonl"),
        ("a.json", '{"prompt": "a"}', "holds no list"),
        ("a.csv", "prompt,completion\na,b,c\n", "not as many fields"),
        ("a.csv", "prompt,completion\na\n", "not as many fields"),
        ("a.csv", 'prompt,completion\n"a,b\n', "no CSV"),
        ("a.csv", "", "holds no samples"),
        ("a.txt", "a", "no path of a .jsonl, .json or .csv file"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(lk.BadInput, match=match):
        read(written(tmp_path, name, text))


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "Grüße"}'.encode("latin-1"))
    with pytest.raises(lk.BadInput, match="UTF-8"):
        read(tmp_path / "a.jsonl")


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_files_hold_any_text(pairs: list[tuple[str, str]]) -> None:
    import tempfile

    rows = [{"prompt": f"p{p}", "completion": f"c{c}"} for p, c in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "data.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        assert [{"prompt": s.prompt, "completion": s.completion} for s in read(path)] == rows


def test_held_out_questions_are_apart() -> None:
    data = [{"prompt": f"Question {i % 20}", "completion": str(i)} for i in range(60)]
    train, held_out = divided(read(data), 0.25, seed=1)
    assert len(train) + len(held_out) == 60
    assert len({sample.prompt for sample in held_out}) == 5
    assert not {sample.prompt for sample in train} & {sample.prompt for sample in held_out}
    assert divided(read(data), 0.25, seed=1) == (train, held_out)
    assert divided(read(data), 0.25, seed=2) != (train, held_out)
    with pytest.raises(lk.BadInput, match="none can be held out"):
        divided(read(data[:1]), 0.5)


def test_overlap_is_found_whatever_case_and_spaces() -> None:
    train = read([{"prompt": "What  is\n1 + 1?", "completion": "2"}])
    asked = ["what is 1 + 1?", "What is 1 - 1?", "ＷＨＡＴ is 1 + 1?"]
    assert overlapping(train, read([{"prompt": p, "completion": "other"} for p in asked])) == [0, 2]
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Something else"}]
    assert overlapping(read([TALK]), read([talk])) == [0]


def said(*turns: tuple[str, str], system: str = "") -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return before + [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def test_a_short_conversation_within_another_overlaps() -> None:
    greeting, sky = ("Hi", "Hello"), ("Why is it blue?", "The air.")
    train = read([said(greeting, sky), said(("What is 1 + 1?", "2"), system="Be brief.")])
    others = {
        "the first turn": said(greeting),
        "the last turn": said(sky),
        "another system prompt": said(("what is 1 + 1?", "2"), system="Count."),
        "turns of two conversations": said(("What is 1 + 1?", "2"), sky),
    }
    for name, talk in others.items():
        assert overlapping(train, read([talk])) == [0], name
    apart = [said(greeting, ("Why is it red?", "Rust.")), said(("What is 1 + 1?", "two"), system="Count.")]
    assert overlapping(train, read(apart)) == []  # what is asked there is not answered in the training data


def test_calls_of_tools_are_answers_too() -> None:
    def called(tool: str) -> list[dict[str, object]]:
        call = {"type": "function", "function": {"name": tool, "arguments": {}}}
        return [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "", "tool_calls": [call]}]

    train = read([[{"role": "system", "content": "Work."}, *called("find")]])
    assert overlapping(train, read([called("find"), called("open")])) == [0]


def test_what_is_drawn_is_never_in_the_training_data() -> None:
    talks = [said((f"Question {i % 10}", f"Answer {i % 10}"), system=f"Style {i // 10}.") for i in range(20)]
    talks += [said((f"Alone {i}", f"Reply {i}")) for i in range(10)]
    train, held_out = divided(read(talks), 0.5, seed=3)
    assert held_out
    assert overlapping(train, held_out) == []
    assert len(train) + len(held_out) == 30
    with pytest.raises(lk.BadInput, match="None of the samples can be held out"):
        divided(read([said(("a", "b"), system=f"Style {i}.") for i in range(4)]), 0.5)


def test_a_text_within_another_overlaps() -> None:
    long = "The quick brown fox jumps over the lazy dog, and then it goes home."
    texts = read([f"Once: {long} Truly.", "Short."])
    assert overlapping(texts, read([long, "A short.", "Other words altogether, of which none stand there."])) == [0]
    assert overlapping(read([long]), texts) == [0]
    assert overlapping(read([{"prompt": "Go on.", "completion": f"{long} End."}]), read([long])) == [0]
