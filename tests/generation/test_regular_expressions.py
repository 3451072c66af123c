"""Python's regular expressions as llguidance is handed them, against `re` itself."""

from __future__ import annotations

import json
import re
from typing import Any

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import BadInput
from labkit.generation import forms, regular

pytestmark = pytest.mark.filterwarnings("ignore:Possible")  # of sets that may come to mean more, and mean the old here
TOKENIZER = fuzz.tiny_tokenizer()
CHARACTERS = "abzAZkKsSßſéÉ019٣_- .\n\t\x1c\x85\u00a0日\u212a[]^$&~|\\/{}\"'"


def accepts(form: Any, text: str) -> bool:
    read = forms.read(form)
    assert read is not None
    return forms.FormMasks(read, TOKENIZER, [2], 1).accepts(text)


EXPRESSIONS = [
    r"\d{3}-\d{4}",
    r"[[a]+",
    r"[a&&b]",
    r"[!--a]",
    r"[]a]",
    r"[^]a]",
    r"a{,2}b",
    r"a{2}",
    r"(ab|)*?c",
    r"^a|b$",
    r"\Aab\Z",
    r"(?P<one>a)(?:b)",
    r"\w\W\s\S\d\D",
    r"[\w.-]+",
    r"[^\W\d]+",
    r".",
    r"(?s:.)",
    r"(?i:k)s",
    r"(?x) a  b # so",
    r"a|ab|abc",
    r"\x41é日",
    r"a/b",
    r"\.\*\\",
    r"\\n\n",
    r"{a}",
    re.compile("straße", re.IGNORECASE),
    re.compile("[a-k]s", re.IGNORECASE),
    re.compile("[^k]", re.IGNORECASE),
    re.compile(r"\w+\s\d", re.ASCII),
    re.compile("a.b", re.DOTALL),
    re.compile("^ab$", re.MULTILINE),
    re.compile("a b  # c", re.VERBOSE),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_accepted_is_what_re_matches_whole(expression: Any, data: st.DataObject) -> None:
    """Texts that match, the same with a character changed, and any others."""
    pattern = re.compile(expression)
    text = data.draw(st.one_of(st.from_regex(pattern, fullmatch=True), st.text(CHARACTERS, max_size=8)))
    at, other = data.draw(st.integers(0, len(text))), data.draw(st.sampled_from(CHARACTERS))
    for one in (text, text[:at] + other + text[at + 1 :]):
        if one.isprintable() or one.isascii() or len(one) < 20:
            assert accepts(expression, one) == bool(pattern.fullmatch(one)), one


@pytest.mark.parametrize("name", [r"\w", r"\d", r"\s", "(?i)k", "(?i)s", "(?i)é", "."])
def test_sets_of_characters_are_pythons(name: str) -> None:
    """Every character of the first planes' beginnings, in one pass over the compiled set."""
    pattern, held = re.compile(name), forms.read(name)
    assert held is not None
    masks = forms.FormMasks(held, TOKENIZER, [2], 1)
    codes = [
        *range(0x530),
        *range(0x660, 0x66A),
        *range(0x2000, 0x2070),
        0x1680,
        0x212A,
        0x3000,
        0x4E00,
        0xFEFF,
        0x1D7D8,
    ]
    wrong = [chr(code) for code in codes if masks.accepts(chr(code)) != bool(pattern.fullmatch(chr(code)))]
    assert wrong == []


@pytest.mark.parametrize(
    "pattern", ["^a", "a$", "b", "", "^$", "^a|b$", "(^a|b)c", "^(ab|c)+$", "a.c", r"^\s*x", "(a|)b"]
)
@settings(max_examples=20)
@given(text=st.text("abcx \n", max_size=6))
def test_a_schemas_pattern_is_searched_for(pattern: str, text: str) -> None:
    found = bool(re.search(pattern.replace("$", r"\Z"), text))
    assert accepts({"type": "string", "pattern": pattern}, json.dumps(text)) == found


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (r"(a)\1", "back-reference"),
        ("a(?=b)", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"a\b", r"\\b"),
        ("a++", "possessive"),
        ("(?>a)b", "atomic"),
        ("a^b", r"\^ after the beginning"),
        ("a$b", r"\$ before the end"),
        ("(a)?(?(1)b|c)", "condition"),
        ("(a", "no regular expression.*place 0"),
        ("a{3,2}", "no regular expression"),
        ("[\ud800]", "surrogate"),
        ("(" * 4000 + ")" * 4000, "nested too deeply"),
        (re.compile(b"a"), "of bytes"),
        (re.compile("[\x00-\uffff]", re.IGNORECASE), "without regard to case"),
        ("[^\\s\\S]", "Nothing"),
    ],
)
def test_what_no_automaton_decides_is_refused_by_name(expression: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        accepts(expression, "a")
    assert len(str(caught.value)) < 400


def test_literals() -> None:
    text = "".join(chr(code) for code in range(32, 127)) + "é日😀\n"
    assert accepts([text], text)
    assert re.fullmatch(r"(\\u\{[0-9a-f]+\}|[0-9A-Za-z])*", regular.literal(text))
