"""The adapter view: texts and KL at the scales that are set, the base's text written once, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fuzz
import numpy as np
import pytest
from tuned import BASE, DATA, SECONDS, TUNED, AdapterWriter, until

import labkit as lk
from labkit.views.adapter_view import AdapterView

PROMPT = "3 May 2025"


def made(writer: AdapterWriter, values: tuple[float, ...] = (1.0, 0.0)) -> AdapterView:
    return AdapterView(writer, ["dates", "style"], PROMPT, values=values, limits=(-1.0, 2.0))


@pytest.fixture
def writer() -> AdapterWriter:
    return AdapterWriter()


@pytest.fixture
def view(writer: AdapterWriter) -> Iterator[AdapterView]:
    view = made(writer)
    assert view.wait(SECONDS)
    yield view
    view.close()
    assert view.wait(SECONDS)


def test_both_texts_and_what_differs(view: AdapterView, writer: AdapterWriter) -> None:
    assert view.base is not None
    assert view.tuned is not None
    assert (view.base.tokens, view.tuned.tokens) == (BASE, TUNED)
    assert np.frombuffer(view.kl, "<f4").tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert view.shown["tuned"]["differ"] == [0, 1, 2, 3, 4]
    assert view.shown["mean"] == 1.0
    assert writer.calls == [(PROMPT, (0.0, 0.0)), (PROMPT, (1.0, 0.0))]
    assert view.status["state"] == "done"


def test_another_scale_asks_for_the_text_with_adapters_alone(view: AdapterView, writer: AdapterWriter) -> None:
    view.scales = {"dates": -0.5, "style": 2.0}
    assert view.shown["old"]
    assert view.tuned is None, "what is there belongs to other scales"
    assert view.wait(SECONDS)
    assert writer.calls[2:] == [(PROMPT, (-0.5, 2.0))]
    assert view.shown["of"] == [-0.5, 2.0]
    assert not view.shown["old"]
    view.scales = {}
    assert view.wait(SECONDS)
    assert view.scales == {"dates": 0.0, "style": 0.0}
    assert view.tuned is None
    assert len(writer.calls) == 3, "the base's text is known"
    view.prompt = "another"
    assert view.wait(SECONDS)
    assert writer.calls[3:] == [("another", (0.0, 0.0))]


def test_a_slider_under_way_asks_once(view: AdapterView, writer: AdapterWriter) -> None:
    for value in np.linspace(0, 1.5, 30):
        view.values = [float(value), 0.0]
    assert view.wait(SECONDS)
    assert writer.calls[2:] == [(PROMPT, (1.5, 0.0))]


def test_the_base_goes_on_while_a_slider_moves() -> None:
    writer = AdapterWriter()
    writer.hold = True
    view = made(writer)
    for _ in range(2):
        writer.let.release()
    until(lambda: writer.given == 2)
    view.values = [0.5, 0.0]
    writer.hold = False
    assert view.wait(SECONDS)
    assert writer.calls == [(PROMPT, (0.0, 0.0)), (PROMPT, (0.5, 0.0))]
    view.close()


def test_stop_keeps_what_there_is_and_again_writes_it_anew(writer: AdapterWriter) -> None:
    view = made(writer)
    assert view.wait(SECONDS)
    writer.hold = True
    view.values = [0.5, 0.0]
    for _ in range(3):
        writer.let.release()
    until(lambda: writer.given == 3 and view.tuned is not None)
    view.stop()
    assert view.wait(SECONDS)
    assert view.status == {"state": "stopped", "message": "stopped after 3 tokens"}
    assert view.tuned is not None
    assert view.tuned.tokens == TUNED[:3]
    assert view.shown["base"]["differ"] == [0, 1, 2], "held against as much of the base's text"
    writer.hold = False
    view.again()
    assert view.wait(SECONDS)
    assert view.tuned.tokens == TUNED
    view.close()


def test_an_error_is_told_and_takes_the_text_away(view: AdapterView, writer: AdapterWriter) -> None:
    writer.error = lk.Unavailable("The lab was closed; load it again.")
    view.values = [0.25, 0.0]
    assert view.wait(SECONDS)
    assert view.status == {"state": "failed", "message": "The lab was closed; load it again."}
    assert view.shown["tuned"] is None
    assert view.shown["base"]["count"] == len(BASE)


def test_the_table_has_both_texts(view: AdapterView) -> None:
    table = view.table
    assert table["token"].tolist() == [*BASE, *TUNED]
    assert table["scale of dates"].tolist() == [0.0] * len(BASE) + [1.0] * len(TUNED)
    assert table["kl"].tolist() == [0.0] * len(BASE) + [0.0, 0.5, 1.0, 1.5, 2.0]
    assert table["differs"].sum() == len(view.shown["base"]["differ"]) + len(view.shown["tuned"]["differ"])


@pytest.mark.parametrize("values", [[1.0], [0.0, 2.5], [float("nan"), 0.0], [-1.1, 0.0]])
def test_scales_out_of_range_are_refused(view: AdapterView, values: list[float]) -> None:
    with pytest.raises(lk.BadInput):
        view.values = values
    assert view.values == [1.0, 0.0]


def test_names_that_are_not_there_are_refused(view: AdapterView) -> None:
    with pytest.raises(lk.BadInput, match='"dates" or "style"'):
        view.scales = {"date": 1.0}


# with a model -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def adapters(lab: lk.Lab) -> list[Any]:
    settings: dict[str, Any] = {"batch": 4, "steps": 4, "learning_rate": 0.05, "prompt": False, "general": False}
    return [lk.lora.finetune(lab, DATA, rank=rank, **settings).wait().adapter for rank in (2, 4)]


def test_texts_and_kl_are_the_model_s(lab: lk.Lab, adapters: list[Any]) -> None:
    one, two = adapters
    view = lk.views.adapter(lab, {"one": one, "two": two}, "the cat", scales=[2.0, -0.5], tokens=6)
    assert view.wait(60)
    assert view.base is not None
    assert view.tuned is not None
    plain = lab.generate("the cat", max_new_tokens=6)
    assert view.base.tokens == tuple(plain.tokens)
    with one.on(2.0), two.on(-0.5):
        made = lab.generate("the cat", max_new_tokens=6)
        after = lab.trace([*made.prompt_ids, *made.ids], keep="logits").logits
    before = lab.trace([*made.prompt_ids, *made.ids], keep="logits").logits
    assert view.tuned.tokens == tuple(made.tokens)
    p, q = (logits[len(made.prompt_ids) - 1 : -1].double().log_softmax(-1) for logits in (before, after))
    assert view.tuned.kl == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), abs=1e-9)
    assert max(view.tuned.kl) > 1e-4
    view.scales = {"one": 1.0}
    assert view.wait(60)
    with one.on():
        assert view.tuned.tokens == tuple(lab.generate("the cat", max_new_tokens=6).tokens)
    view.close()
    assert lab.generate("the cat", max_new_tokens=6).ids == plain.ids, "nothing is left on"


def test_what_is_no_adapter_of_the_lab_is_refused(lab: lk.Lab, adapters: list[Any]) -> None:
    other = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="other")
    one, two = adapters
    for given, told in (
        ([], "1 to 6"),
        ([one] * 7, "1 to 6"),
        ([one, two], "called"),
        ("file", "no adapter"),
        (3, "no adapter"),
    ):
        with pytest.raises(lk.BadInput, match=told):
            lk.views.adapter(lab, given, "the cat")
    with pytest.raises(lk.BadInput, match="another lab"):
        lk.views.adapter(other, one, "the cat")
    for settings in ({"limits": (0.5, 2)}, {"limits": 3}, {"scales": 3.0}, {"scales": [1.0, 1.0]}, {"tokens": 0}):
        with pytest.raises(lk.BadInput, match=next(iter(settings))):
            lk.views.adapter(lab, one, "the cat", **settings)
    with pytest.raises(lk.BadInput, match="prompt"):
        lk.views.adapter(lab, one, " ")
