"""Arguments checked in one way: what counts as what, and the sentences."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit import checks
from labkit.errors import BadInput

ONES = (1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor([1]), pd.Series([1]).iloc[0])
NO_WHOLE = (
    True,
    np.True_,
    torch.tensor(True),
    np.array(True),
    1.0,
    np.float64(1),
    "1",
    None,
    [1],
    torch.tensor(1.0),
    1j,
)
NO_NUMBER = (True, np.True_, torch.tensor(True), "1", None, [1.0], 1j, math.nan, math.inf, np.float32("nan"), pd.NA)
NO_NUMBER += (torch.empty((), device="meta"),)


@pytest.mark.parametrize("value", ONES, ids=repr)
def test_whole_numbers_become_pythons_own(value):
    found = checks.whole("draws", value, 1)
    assert (found, type(found)) == (1, int)
    assert type(checks.index("layer", value, 3)) is int


@pytest.mark.parametrize("value", NO_WHOLE, ids=repr)
def test_what_is_no_whole_number(value):
    assert checks.as_whole(value) is None
    with pytest.raises(BadInput, match="can't be used; give a whole number from 0"):
        checks.whole("draws", value, 0)
    with pytest.raises(BadInput, match="There is no layer"):
        checks.index("layer", value, 3)
    with pytest.raises(BadInput, match=r"seed=.* can't be used; give a whole number from 0"):
        checks.seed(value)


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2), torch.tensor(0.5, requires_grad=True)],
)
def test_numbers_become_floats(value):
    for found in (
        checks.number("noise", value, 0),
        checks.fraction("share", value),
        checks.number("x", value, above=0),
    ):
        assert (found, type(found)) == (0.5, float)


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_what_is_no_number(value):
    assert checks.as_number(value) is None
    with pytest.raises(BadInput, match="can't be used; give a number"):
        checks.number("noise", value)
    with pytest.raises(BadInput, match="a number from 0 to 1"):
        checks.fraction("share", value)


def test_a_number_too_large_for_a_float_is_none():
    assert checks.as_number(10**400) is None
    assert checks.as_number(Decimal("1")) is None  # no Real: Python keeps decimals apart


@given(st.integers(-5, 5), st.integers(-3, 0), st.integers(0, 3))
def test_a_range_includes_its_ends(value, least, most):
    if least <= value <= most:
        assert checks.whole("n", value, least, most) == value
        assert checks.number("n", value, least, most) == value
    else:
        with pytest.raises(BadInput, match=f"n={value} can't be used; give a whole number from {least} to {most}"):
            checks.whole("n", value, least, most)
        with pytest.raises(BadInput, match=f"give a number from {least} to {most}"):
            checks.number("n", value, least, most)


@given(st.integers(-8, 8), st.integers(0, 6))
def test_an_index_is_that_of_a_list(value, count):
    try:
        expected = range(count)[value]
    except IndexError:
        expected = None
    if expected is None:
        with pytest.raises(BadInput, match=f"There is no token {value}: "):
            checks.index("token", value, count)
    else:
        assert checks.index("token", value, count) == expected
    if value < 0:
        with pytest.raises(BadInput):
            checks.index("token", value, count, negative=False)


def test_texts_are_one_or_several():
    assert checks.texts("stop", "ab") == ("ab",)
    assert checks.texts("stop", ["ab", "c"]) == checks.texts("stop", ("ab", "c")) == ("ab", "c")
    assert checks.texts("stop", None) == checks.texts("stop", []) == ()


@given(st.none() | st.integers(-8, 8), st.none() | st.integers(-8, 8), st.integers(0, 6))
def test_indices_are_those_of_a_list(start, stop, count):
    assert checks.indices("rows", "token", slice(start, stop), count) == list(range(count))[start:stop]
    several = [i for i in (start, stop) if i is not None and -count <= i < count]
    assert checks.indices("rows", "token", np.array(several, dtype=np.int64), count) == [i % count for i in several]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: checks.indices("rows", "row", [5], 5, of="it has"), "There is no row 5: it has rows 0 to 4."),
        (lambda: checks.indices("rows", "row", [0, True], 5), "There is no row True: there are rows 0 to 4."),
        (
            lambda: checks.indices("rows", "row", "01", 5),
            "rows='01' can't be used; give a list of whole numbers, or a slice.",
        ),
        (
            lambda: checks.indices("rows", "row", slice("a"), 5),
            "rows=slice(None, 'a', None) can't be used; give a slice of whole numbers.",
        ),
        (
            lambda: checks.texts("stop", ["a", ""]),
            "stop=['a', ''] can't be used; give a text or a list of texts, none of them empty.",
        ),
        (
            lambda: checks.texts("stop", [3]),
            "stop=[3] can't be used; give a text or a list of texts, none of them empty.",
        ),
        (lambda: checks.whole("draws", 0, 1), "draws=0 can't be used; give a whole number from 1."),
        (lambda: checks.whole("n", np.int64(9), None, 1_000), None),
        (lambda: checks.whole("n", 2_000, None, 1_000), "n=2000 can't be used; give a whole number up to 1,000."),
        (lambda: checks.whole("k", np.float64(2), 1), "k=2.0 can't be used; give a whole number from 1."),
        (lambda: checks.number("rate", 0, above=0), "rate=0 can't be used; give a number above 0."),
        (lambda: checks.number("rate", 2, above=0, most=1), "rate=2 can't be used; give a number above 0 and up to 1."),
        (lambda: checks.number("noise", "1", 0, wanted="a fraction"), "noise='1' can't be used; give a fraction."),
        (lambda: checks.fraction("p", 0, zero=False), "p=0 can't be used; give a number above 0 and up to 1."),
        (lambda: checks.fraction("p", 1, one=False), "p=1 can't be used; give a number from 0 and below 1."),
        (lambda: checks.fraction("p", 1, zero=False, one=False), "p=1 can't be used; give a number between 0 and 1."),
        (lambda: checks.seed(2**64), f"seed={2**64} can't be used; give a whole number from 0 to {checks.SEEDS:,}."),
        (
            lambda: checks.one_of("how", "dorp", ("drop", "forbid")),
            "how='dorp' can't be used (did you mean 'drop'?); give \"drop\" or \"forbid\".",
        ),
        (lambda: checks.one_of("how", None, ("a", "b", "c")), 'how=None can\'t be used; give "a", "b" or "c".'),
        (
            lambda: checks.one_of("at", "Heads", ("head", "mlp"), problem="is no place", wanted="a place"),
            "at='Heads' is no place (did you mean 'head'?); give a place.",
        ),
        (
            lambda: checks.index("position", 7, 7, of="this text has"),
            "There is no position 7: this text has positions 0 to 6.",
        ),
        (lambda: checks.index("layer", 1, 1), "There is no layer 1: the only one is 0."),
        (
            lambda: checks.index("feature", 0, 0, remedy="train one"),
            "There is no feature 0: there are none; train one.",
        ),
        (
            lambda: checks.pair("expert", (1, True)),
            "An expert is given as (layer, expert), two whole numbers, and (1, True)",
        ),
        (lambda: checks.pair("head", "53"), "A head is given as (layer, head), two whole numbers, and '53' is none."),
        (lambda: checks.pair("head", (1, 2, 3)), "(1, 2, 3) is none."),
        (
            lambda: checks.series("keeps", "16", "a list of numbers"),
            "keeps='16' can't be used; give a list of numbers.",
        ),
        (lambda: checks.series("keeps", 16, "a list of numbers"), "keeps=16 can't be used; give a list of numbers."),
    ],
)
def test_sentences(call, sentence):
    if sentence is None:
        assert call() == 9
        return
    with pytest.raises(BadInput) as raised:
        call()
    assert sentence in str(raised.value)


def test_what_is_passed_on():
    assert checks.one_of("how", np.str_("drop"), ["forbid", "drop"]) == "drop"
    assert checks.pair("head", np.array([3, -1])) == (3, -1)
    assert checks.pair("head", [torch.tensor(3), np.uint8(1)]) == (3, 1)
    assert checks.series("keeps", (n for n in (3, 2)), "numbers") == [3, 2]
    assert checks.whole("n", -(10**30)) == -(10**30)


def test_near_names_and_lists():
    assert checks.near("residuals", ("residual", "mlp")) == " (did you mean 'residual'?)"
    assert checks.near("abc1", ("abc2", "abc3"), most=2, quoted=False) in (
        " (did you mean abc2 or abc3?)",
        " (did you mean abc3 or abc2?)",
    )
    assert checks.near(None, ()) == checks.near(5, ("residual",)) == ""
    assert (checks.listed([]), checks.listed([1]), checks.listed("abc", "or")) == ("", "1", "a, b or c")


def test_a_long_value_is_not_shown_whole():
    with pytest.raises(BadInput) as raised:
        checks.whole("ids", torch.arange(10_000).reshape(100, 100), 0)
    assert "\n" not in str(raised.value)
    with pytest.raises(BadInput) as text:
        checks.one_of("by", "x" * 10_000, ("usage",))
    assert max(len(str(raised.value)), len(str(text.value))) < 400
