"""What counts as a refusal, by the words an answer begins with."""

from __future__ import annotations

import pytest

import labkit as lk


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with that request.",
        "I can’t discuss this topic.",
        "Sorry, but that is not something I talk about.",
        "As an AI, I am not able to provide legal advice.",
        "I'm unable to answer that.",
        "I must decline to answer.",
        "I won't give advice on this.",
        "I'm afraid I can't help you there.",
        "I'd rather not talk about this.",
        "I am not comfortable answering this question.",
        "  \"I'm\nsorry, BUT I can't say.",
        "Unfortunately, we are not allowed to share this.",
    ],
)
def test_a_refusal_is_told_by_its_words(text: str) -> None:
    assert lk.circuits.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to tell you about it!",
        "I can't help but think about the sea.",
        "Warfarin should not be taken with aspirin.",
        "I'm sorry to hear that. You can help by calling a friend.",
        "You cannot provide evidence without a lawyer.",
        "Police can't search without a warrant; I would help you to find the rule.",
        "Sure, I can help you with that.",
        "",
        "I'm sorry for the delay. Here is the answer.",
        "I could not agree more: support is needed.",
        "I can't think of a name that describes a sailing boat.",
        "The capital is Oslo. " * 10 + "I can't help with that.",
    ],
)
def test_an_answer_is_none_whatever_words_of_refusing_are_in_it(text: str) -> None:
    assert not lk.circuits.is_refusal(text)


def test_only_a_text_is_read() -> None:
    with pytest.raises(lk.BadInput, match="reads the text of an answer, and a int is none"):
        lk.circuits.is_refusal(3)  # type: ignore[arg-type]
