"""From what a user says to the ids a model sees: the same for generate, stream, next_logits and trace."""

from __future__ import annotations

from typing import Any

import fuzz
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.trace.input import as_ids, each_of, encode, is_many

TEMPLATE = (
    "{{ bos_token }}{% if tools %}tools: {% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}()"
    "{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking is false %} !{% endif %}{% endif %}"
)
HELLO = [{"role": "user", "content": "the cat"}]
CALL = {"function": {"name": "look", "arguments": {}}}


@pytest.fixture
def tokenizer() -> Any:
    """A byte-level tokenizer that puts its start token before every text."""
    made = fuzz.tiny_tokenizer()
    start = (made.bos_token, made.bos_token_id)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A", special_tokens=[start]
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def lab(tokenizer: Any) -> lk.Lab:
    return lk.Lab(fuzz.tiny_model(), tokenizer, name="tiny")


IDS = [5, 6, 7, 8]


@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        tuple(IDS),
        torch.tensor(IDS),
        torch.tensor([IDS]),
        np.array(IDS),
        np.array([IDS], dtype=np.int32),
        [torch.tensor(i) for i in IDS],
        [np.int64(i) for i in IDS],
        {"input_ids": IDS},
        {"input_ids": torch.tensor([IDS]), "attention_mask": torch.ones(1, 4)},
        {"input_ids": [[0, 0, *IDS]], "attention_mask": [[0, 0, 1, 1, 1, 1]]},
        {"input_ids": [*IDS, 0], "attention_mask": [1, 1, 1, 1, 0]},
    ],
)
def test_ids_are_taken_as_they_are(lab: lk.Lab, ids: Any) -> None:
    """By every way of running, whatever `chat` says: the continuation is that of transformers' own generate."""
    prompt = torch.tensor([IDS])
    expected = lab.model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, do_sample=False
    )[0, 4:].tolist()
    for chat in (None, False):
        gen = lab.generate(ids, chat=chat, max_new_tokens=3)
        assert (gen.prompt_ids, gen.ids, gen.prompt) == (IDS, expected, IDS)
    assert "".join(lab.stream(ids, max_new_tokens=3)) == gen.text
    with torch.no_grad():
        logits = lab.model(prompt).logits[0]
    assert torch.allclose(lab.next_logits(ids), logits[-1], atol=1e-5)
    assert lab.trace(ids, keep="logits").ids == IDS


@pytest.mark.parametrize("index", [None, [5, 6], ["one", "two"]])
def test_a_series_is_read_whatever_its_index(lab: lk.Lab, index: Any) -> None:
    """As what is left of a DataFrame's column after some rows were taken out."""
    texts, ids = pd.Series(["the cat", "a dog"], index=index), pd.Series(IDS[:2], index=index)
    apart = [lab.trace(text, keep="logits").ids for text in texts]
    assert [trace.ids for trace in lab.trace(texts, keep="logits")] == apart
    assert [gen.prompt_ids for gen in lab.generate(texts, chat=False, max_new_tokens=1)] == apart
    assert lab.trace(ids, keep="logits").ids == IDS[:2]


@pytest.mark.parametrize(
    "prompt",
    ["a \ud83d b", [{"role": "user", "content": "a \udce9"}], ["fine", "\udfff"], [{"role": "\ud800", "content": ""}]],
)
def test_half_a_character_is_refused(lab: lk.Lab, prompt: Any) -> None:
    for run in (lab.generate, lab.trace, lambda what: [list(lab.stream(one)) for one in each_of(what)]):
        with pytest.raises(BadInput, match=r"holds U\+D[8-9A-F]..*encode"):
            run(prompt)


def test_content_in_parts_goes_to_templates_that_read_it(lab: lk.Lab, tokenizer: Any) -> None:
    """A template that does not would write Python's list into the prompt."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "the cat"}]}]
    with pytest.raises(BadInput, match="does not read a message's content in parts"):
        lab.generate(parts)
    with pytest.raises(BadInput, match="does not read a message's content in parts"):
        lab.trace(parts)
    tokenizer.chat_template = (
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    )
    assert lab.trace(parts, keep="logits").ids == tokenizer("the cat", add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "rows",
    [
        [IDS, IDS[:2]],
        [torch.tensor(IDS), np.array(IDS[:2])],
        (tuple(IDS), IDS[:2]),
        {"input_ids": torch.tensor([IDS, [0, 0, *IDS[:2]]]), "attention_mask": torch.tensor([[1] * 4, [0, 0, 1, 1]])},
        [{"input_ids": IDS}, {"input_ids": [IDS[:2]]}],
    ],
)
def test_rows_of_ids_are_a_list(lab: lk.Lab, rows: Any) -> None:
    assert [gen.prompt_ids for gen in lab.generate(rows, max_new_tokens=1)] == [IDS, IDS[:2]]
    assert [trace.ids for trace in lab.trace(rows, keep="logits")] == [IDS, IDS[:2]]
    assert {row for row, _ in lab.stream(rows, max_new_tokens=4)} <= {0, 1}
    with pytest.raises(BadInput, match="single prompt"):
        lab.next_logits(rows)


def test_rows_of_a_tensor_and_of_what_a_tokenizer_gives(lab: lk.Lab, tokenizer: Any) -> None:
    both = torch.tensor([IDS, IDS[::-1]])
    for rows in (both, both.numpy()):
        assert [gen.prompt_ids for gen in lab.generate(rows, max_new_tokens=1)] == both.tolist()
        assert [trace.ids for trace in lab.trace(rows, keep="logits")] == both.tolist()
    tokenizer.padding_side = "left"
    texts = ["the cat", "the dog ran up the tree"]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    alone = [tokenizer(text).input_ids for text in texts]
    assert [gen.prompt_ids for gen in lab.generate(encoded, max_new_tokens=1)] == alone
    assert lab.trace(tokenizer(texts[0], return_tensors="pt"), keep="logits").ids == alone[0]
    assert [t.ids for t in lab.trace(np.array(texts), keep="logits")] == alone


def test_one_and_many() -> None:
    single = ["a", IDS, torch.tensor(IDS), torch.tensor([IDS]), HELLO, {"input_ids": [IDS]}, [], "", 7, None, [1.5]]
    many = [["a"], [IDS], [HELLO, HELLO], [torch.tensor(IDS)], torch.tensor([IDS, IDS]), {"input_ids": [IDS, IDS]}]
    assert not any(is_many(each) for each in single)
    assert all(is_many(each) for each in many)
    assert each_of("a") == ["a"]
    assert each_of(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("space", ["\n", " ", "   \n\t", "\u3000", "\u200b"])
def test_white_space_has_tokens_like_any_other_text(lab: lk.Lab, tokenizer: Any, space: str) -> None:
    plain = tokenizer(space).input_ids
    assert lab.generate(space, chat=False, max_new_tokens=1).prompt_ids == plain
    assert lab.trace(space, keep="logits").ids == plain
    messages = [{"role": "user", "content": space}]
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert lab.generate(space, max_new_tokens=1).prompt_ids == wanted
    assert lab.generate(messages, max_new_tokens=1).prompt_ids == wanted


def test_an_empty_text_is_run_where_the_tokenizer_gives_it_a_token(lab: lk.Lab, tokenizer: Any) -> None:
    assert lab.generate("", chat=False, max_new_tokens=1).prompt_ids == [tokenizer.bos_token_id]
    with pytest.raises(BadInput, match="empty"):
        lab.generate("", max_new_tokens=1)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(BadInput, match="empty"):
        lab.generate("", chat=False)
    with pytest.raises(BadInput, match="nothing to trace"):
        lab.trace("")


@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}, {"tools": [{"type": "function", **CALL}]}])
def test_arguments_reach_the_chat_template(lab: lk.Lab, tokenizer: Any, arguments: dict[str, Any]) -> None:
    wanted = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, **arguments)["input_ids"]
    for prompt in ("the cat", HELLO):
        gen = lab.generate(prompt, template=arguments, max_new_tokens=1)
        assert gen.prompt_ids == wanted
        list(lab.stream(prompt, template=arguments, max_new_tokens=1))
        assert lab.last_generation.prompt_ids == wanted
        assert torch.equal(lab.next_logits(prompt, template=arguments), lab.next_logits(wanted))
    untold = tokenizer.apply_chat_template(HELLO, **arguments)["input_ids"]
    assert lab.trace(HELLO, keep="logits", template=arguments).ids == untold
    assert lab.trace("the cat", keep="logits", chat=True, template=arguments).ids == untold


def test_the_last_message_can_be_continued(lab: lk.Lab, tokenizer: Any) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "sat on the"}]
    wanted = tokenizer.apply_chat_template(messages, continue_final_message=True)["input_ids"]
    assert lab.generate(messages, template={"continue_final_message": True}, max_new_tokens=1).prompt_ids == wanted


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("the cat", {"template": {"enable_thinkng": False}}, "does not read enable_thinkng.*enable_thinking"),
        ("the cat", {"template": {"documents": []}}, "does not read documents"),
        ("the cat", {"template": {"return_tensors": "pt"}}, "settled here"),
        ("the cat", {"template": {"tokenize": False}}, "settled here"),
        ("the cat", {"template": ["enable_thinking"]}, "as a dictionary"),
        ("the cat", {"template": {"enable_thinking": False}, "chat": False}, "does not go through one"),
        (IDS, {"template": {"enable_thinking": False}}, "does not go through one"),
        (HELLO, {"chat": False}, "needs the chat template"),
        ([*HELLO, "and"], {}, "beside messages"),
        ([{"role": "user"}], {}, "'role' and 'content'"),
        ([1, -5], {}, "no token -5"),
        ([1, 2.5], {}, "whole numbers"),
        (torch.ones(3), {}, "whole numbers"),
        (torch.ones(2, dtype=torch.bool), {}, "whole numbers"),
        (torch.ones(1, 1, 3, dtype=torch.int64), {}, "one row"),
        (torch.tensor(3), {}, "one row"),
        ({"role": "user", "content": "a"}, {}, r"into a list: \[message\]"),
        (torch.zeros(0, dtype=torch.int64), {}, "empty"),
        (object(), {}, "this is a object"),
    ],
)
def test_what_can_not_be_run_is_said(lab: lk.Lab, prompt: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        lab.generate(prompt, **options)


def test_without_a_template(lab: lk.Lab, tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(Unavailable, match="chat template"):
        lab.trace(HELLO)
    with pytest.raises(BadInput, match="does not go through one"):
        lab.generate("the cat", template={"enable_thinking": False})
    wanted = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, chat_template=TEMPLATE)["input_ids"]
    assert lab.generate(HELLO, template={"chat_template": TEMPLATE}, max_new_tokens=1).prompt_ids == wanted


def test_a_templated_text_given_back_gets_no_second_start_token(lab: lk.Lab, tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    wanted = tokenizer(text, add_special_tokens=False).input_ids
    assert wanted.count(tokenizer.bos_token_id) == 1
    for chat in (None, False):
        assert lab.generate(text, chat=chat, max_new_tokens=1).prompt_ids == wanted
    assert lab.trace(text, keep="logits").ids == wanted
    with pytest.raises(BadInput, match="chat=False"):
        lab.generate(text, chat=True)
    start = tokenizer.bos_token
    twice = tokenizer(f"{start}{start}the cat", add_special_tokens=False).input_ids
    assert lab.trace(f"{start}{start}the cat", keep="logits").ids == twice, "what was written twice stays"
    other = tokenizer.eos_token
    assert lab.trace(f"{other}the cat", keep="logits").ids == tokenizer(f"{other}the cat").input_ids


@pytest.mark.parametrize(
    "single", ["<|im_start|> <|endoftext|> $A", "<|im_start|> $A <|im_end|>", "$A <|im_end|>", "$A"]
)
def test_what_a_tokenizer_puts_around_a_text_is_put_once(single: str) -> None:
    made = fuzz.tiny_tokenizer()
    known = [(token, made.convert_tokens_to_ids(token)) for token in fuzz.SPECIAL_TOKENS]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=known)
    before = "".join(part for part in single.split("$A")[0].split())
    plain = made("the cat", add_special_tokens=False).input_ids
    whole = made("the cat").input_ids
    front = whole[: whole.index(plain[0])]
    assert as_ids(made, "the cat", chat=False, context=None) == whole
    assert as_ids(made, f"{before}the cat", chat=False, context=None) == whole
    assert as_ids(made, f"{before}{before}the cat", chat=False, context=None) == [*front, *whole]


def test_messages_with_tool_calls_in_place_of_content(lab: lk.Lab, tokenizer: Any) -> None:
    for message in (
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ):
        messages = [*HELLO, message, {"role": "tool", "content": "42"}]
        wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert lab.generate(messages, max_new_tokens=1).prompt_ids == wanted
        assert lab.trace(messages, keep="logits").ids == tokenizer.apply_chat_template(messages)["input_ids"]
        alone = lab.generate([message], max_new_tokens=1)
        assert alone.prompt_ids == tokenizer.apply_chat_template([message], add_generation_prompt=True)["input_ids"]


def test_a_generation_is_gone_on_with(lab: lk.Lab) -> None:
    first = lab.generate(IDS, max_new_tokens=3)
    second = lab.generate(first, max_new_tokens=3)
    assert second.prompt_ids == [*IDS, *first.ids]
    assert [*first.ids, *second.ids] == lab.generate(IDS, max_new_tokens=6).ids
    assert lab.trace(first, keep="logits").ids == second.prompt_ids


@given(text=st.text(max_size=30))
def test_what_has_tokens_is_run_with_the_ids_of_the_tokenizer(text: str) -> None:
    tokenizer = fuzz.tiny_tokenizer()
    ids = tokenizer(text).input_ids
    if ids:
        assert encode(tokenizer, text, chat=False).ids == ids
    else:
        with pytest.raises(BadInput, match="empty"):
            encode(tokenizer, text, chat=False)
