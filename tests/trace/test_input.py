"""What counts as several texts, and what as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from labkit.errors import BadInput
from labkit.trace.input import as_kinds, as_texts


@pytest.mark.parametrize(
    "texts",
    [
        ["one", "two"],
        ("one",),
        [[1, 2], [3]],
        [torch.tensor([1, 2]), torch.tensor([3])],
        [[{"role": "user", "content": "hello"}]],
        [],
    ],
)
def test_lists_of_texts_stay_as_they_are(texts: Any) -> None:
    assert as_texts(texts) == list(texts)


def test_whatever_can_be_gone_through_is_a_list() -> None:
    assert as_texts(text for text in ("one", "two")) == ["one", "two"]
    assert as_texts(np.array(["one", "two"])) == ["one", "two"]
    assert len(as_texts(torch.ones(3, 4, dtype=torch.int64))) == 3


@pytest.mark.parametrize(
    "single",
    [
        "a text",
        b"a text",
        [1, 2, 3],
        torch.tensor([1, 2, 3]),
        np.array([1, 2, 3]),
        [{"role": "user", "content": "hello"}],
        {"role": "user"},
        None,
        7,
        torch.tensor(7),
    ],
)
def test_a_single_text_is_refused_with_the_remedy(single: Any) -> None:
    with pytest.raises(BadInput, match=r"present are to be a list of texts.*put a single text into one: \[text\]"):
        as_texts(single, "present")


def test_kinds_and_what_has_none() -> None:
    assert as_kinds({"prose": ("one",), "code": ["two"]}) == {"prose": ["one"], "code": ["two"]}
    assert as_kinds(["one"]) == {"texts": ["one"]}
    assert as_kinds({}) == {}
    padded = {"input_ids": [[5, 6, 7], [8, 0, 0]], "attention_mask": [[1, 1, 1], [1, 0, 0]]}
    assert as_kinds(padded) == {"texts": [[5, 6, 7], [8]]}, "what a tokenizer gives has fields, and no kinds of text"
    with pytest.raises(BadInput, match="texts of kind 'prose' are to be a list"):
        as_kinds({"prose": "one"})
    with pytest.raises(BadInput, match=r"^texts are to be a list"):
        as_kinds("one")
