"""The grammar of places: what is written is what is meant, and what can't be read is said with what could."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import BadInput, Unavailable
from labkit.trace.instruments import BY_NAME
from labkit.trace.places import HEADED, NAMES, Place, Span, parse

LAYERS, HEADS, KV_HEADS = 6, 4, 2


def read(text: str) -> Place:
    return parse(text, LAYERS, HEADS, KV_HEADS)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("residual[5]", Place("residual", 5)),
        ("residual[6]", Place("residual", 6)),  # leaving the last layer
        ("residual[-1]", Place("residual", 6)),
        ("residual[5] @ 3", Place("residual", 5, None, (3,))),
        ("attention_output[5] @ 2:7", Place("attention_output", 5, None, (Span(2, 7),))),
        ("mlp_output[*]", Place("mlp_output")),
        ("head_output[5, 3] @ 1,4,-1", Place("head_output", 5, 3, (1, 4, -1))),
        ("head_output[5]", Place("head_output", 5)),
        ("head_output[*, 3]", Place("head_output", None, 3)),
        ("queries[-1,-1]", Place("queries", 5, 3)),
        ("keys[5, 1]", Place("keys", 5, 1)),
        ("  values [ 0 , 0 ]@:3 , -2: ", Place("values", 0, 0, (Span(None, 3), Span(-2, None)))),
        ("logits", Place("logits")),
        ("logits @ -1", Place("logits", None, None, (-1,))),
        ("residual[0] @ :", Place("residual", 0, None, (Span(None, None),))),
    ],
)
def test_places_are_read(text: str, place: Place) -> None:
    assert read(text) == place
    assert hash(read(text)) == hash(place)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("residal[5]", "did you mean 'residual'"),
        ("Residual[5]", "did you mean 'residual'"),
        ("head_outputs[5, 3]", "did you mean 'head_output'"),
        ("query[5, 3]", "did you mean 'queries'"),
        ("blocks.5.hook_z", "can't be read"),
        ("", "can't be read"),
        ("residual[5", "can't be read"),
        ("residual[5]]", "can't be read"),
        ("residual[5] 3", "can't be read"),
        ("residual[[5]]", "can't be read"),
        ("residual", r"names no layer; write residual\[0\]"),
        ("residual[]", "'' is no layer"),
        ("residual[five]", "'five' is no layer"),
        ("residual[1.0]", "'1.0' is no layer"),
        ("residual[7]", "there is no layer 7; layers are 0 to 6"),
        ("mlp_output[6]", "there is no layer 6; layers are 0 to 5"),
        ("mlp_output[-7]", "there is no layer -7"),
        ("residual[5, 3]", "a layer and no head"),
        ("head_output[5, 3, 1]", "a layer and a head"),
        ("head_output[5, 4]", "there is no head 4; heads are 0 to 3"),
        ("keys[5, 2]", "there is no key-value head 2; key-value heads are 0 to 1"),
        ("logits[5]", "logits have no layer"),
        ("residual[5] @", "'' names no tokens"),
        ("residual[5] @ x", "'x' names no tokens"),
        ("residual[5] @ 1,,2", "'' names no tokens"),
        ("residual[5] @ 1:2:3", "'1:2:3' names no tokens"),
        ("residual[5] @ 7:2", "no tokens in 7:2"),
        ("residual[5] @ -2:-2", "no tokens in -2:-2"),
        ("residual[5] @ :0", "no tokens in :0"),
        ("residual[5] @ 1, 1", "a token twice"),
        (5, "is written as a text"),
        (None, "is written as a text"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read(text)


@pytest.mark.parametrize("text", ["attention[5, 3]", "pattern[5, 3]", "routes[2]"])
def test_what_can_only_be_seen_has_a_reason_and_a_remedy(text: str) -> None:
    with pytest.raises(Unavailable, match=r"patch (head|mlp)_output"):
        read(text)


def test_heads_that_are_not_known_are_not_checked() -> None:
    assert parse("head_output[0, 99]", 2).head == 99
    with pytest.raises(BadInput, match="count from 0"):
        parse("head_output[0, -1]", 2)


def test_positions() -> None:
    assert read("logits").positions(3) == [0, 1, 2]
    assert read("logits @ 4,1,-1").positions(6) == [4, 1, 5]
    assert read("logits @ 5,-1").positions(6) == [5]  # the same token
    assert read("logits @ 2:5").positions(3) == [2, 3, 4]  # 3 and 4 are still to come
    assert read("logits @ 2:").positions(4) == [2, 3]
    assert read("logits @ -2:").positions(1) == [0]
    assert read("logits @ :-1").positions(4) == [0, 1, 2]
    assert read("logits @ -5").positions(4) == []


tokens = st.one_of(
    st.integers(-50, 50),
    st.builds(Span, st.none() | st.integers(0, 20), st.none() | st.integers(21, 40)),
    st.builds(Span, st.none() | st.integers(-40, -21), st.none() | st.integers(-20, -1)),
)


@given(
    name=st.sampled_from(NAMES),
    layer=st.none() | st.integers(0, LAYERS - 1),
    head=st.none() | st.integers(0, KV_HEADS - 1),
    chosen=st.none() | st.lists(tokens, min_size=1, max_size=4, unique=True).map(tuple),
)
def test_a_place_is_read_back_from_its_own_writing(
    name: str, layer: int | None, head: int | None, chosen: tuple[int | Span, ...] | None
) -> None:
    place = Place(name, None if BY_NAME[name].per == "pass" else layer, head if name in HEADED else None, chosen)
    assert read(str(place)) == place


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadInput, Unavailable):
        assert isinstance(read(text), Place)
