"""The lens view: what a lens reads is what is sent, one lens or two, and also while the text is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from lenses_by_hand import HandLens

import labkit as lk
from labkit.circuits import JacobianLens
from labkit.views.chart import Chart
from labkit.views.lens_view import LensView

SECONDS = 60
TOKENS = ["The", " cat", " sat", " on"]


@pytest.fixture(scope="module")
def lab() -> Iterator[lk.Lab]:
    made = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    yield made
    made.close()


@pytest.fixture(scope="module")
def trace(lab: lk.Lab) -> lk.Trace:
    return lab.trace([5, 9, 12, 30, 5], keep=("residual", "logits"))


def cells(view: LensView) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (columns, lenses, layers, k), probabilities, divergences."""
    shape = (len(view.tokens), len(view.facts["kinds"]), len(view.facts["layers"]))
    places = np.frombuffer(view.places, "<i4").reshape(*shape, -1)
    texts = np.array([*view.texts, ""], object)
    return (
        texts[places],
        np.frombuffer(view.probabilities, "<f4").reshape(*shape, -1),
        np.frombuffer(view.divergences, "<f4").reshape(shape),
    )


def test_every_cell_is_what_the_lens_reads() -> None:
    one, two = HandLens(TOKENS), HandLens(TOKENS, kind="jacobian", first=1)
    view = lk.views.lens([one, two], k=3)
    assert isinstance(view, LensView)
    tokens, probabilities, divergences = cells(view)
    assert tokens.shape == (4, 2, 7, 3)
    for position in range(4):
        for i, lens in enumerate((one, two)):
            for layer in lens.layers:
                top = lens.top(layer, position, 3)
                assert tokens[position, i, layer].tolist() == [token for token, _, _ in top]
                assert probabilities[position, i, layer] == pytest.approx([p for _, _, p in top], abs=1e-6)
    assert (tokens[:, 1, 0] == "").all(), "where a lens does not read there is nothing"
    assert np.isnan(divergences).all()
    assert (view.kind, view.beside) == ("logit", "jacobian")
    table = view.table
    assert len(table) == 4 * 3 * (7 + 6)
    view.close()


def test_readings_of_a_lab_bring_their_divergence(lab: lk.Lab, trace: lk.Trace) -> None:
    reading = lk.lens(lab, trace, kind="logit")
    view = lk.views.lens(reading, k=4)
    tokens, probabilities, divergences = cells(view)
    frame = lk.logit_lens(lab, trace, k=4).table
    for row in frame.to_dict("records"):
        at = row["position"], 0, row["layer"]
        assert tokens[at].tolist() == list(row["top_tokens"])
        assert probabilities[at] == pytest.approx(row["top_probabilities"], abs=1e-6)
        assert divergences[at] == pytest.approx(row["kl"], abs=1e-5)
    assert view.facts["model"] == "tiny"
    view.close()


@pytest.mark.parametrize("kinds", ["logit", ["jacobian", "logit"]])
def test_what_is_read_while_it_is_written_is_what_is_read_afterwards(lab: lk.Lab, kinds: Any) -> None:
    depth, d = len(lab.anatomy.layers), lab.config.hidden_size
    torch.manual_seed(0)
    fitted = JacobianLens(
        {layer: torch.randn(d, d) for layer in range(1, depth)}, prompts=1, model="tiny", layers=depth
    )
    view = lk.views.lens(lab, prompt="abc", kind=kinds, fitted=fitted, k=3, max_new_tokens=6, chat=False)
    assert view.wait(SECONDS)
    assert view.status["state"] == "done", view.status
    assert view.status["message"] == "6 tokens written; the model did not read the last"
    run = lab.generate("abc", max_new_tokens=6, chat=False)
    ids = [*run.prompt_ids, *run.ids][:-1]  # after the last one nothing was read
    again = lab.trace(ids, keep=("residual", "logits"))
    names = [kinds] if isinstance(kinds, str) else kinds
    readings = [lk.lens(lab, again, kind=name, lens=fitted if name == "jacobian" else None) for name in names]
    after = lk.views.lens(readings, k=3)
    assert view.tokens == after.tokens
    assert view.written == 5
    for live, then in zip(cells(view), cells(after), strict=True):
        if live.dtype == object:
            assert (live == then).all()
        else:
            assert np.allclose(live, then, atol=2e-5, equal_nan=True)
    assert not any(module._forward_hooks for module in lab.model.modules())
    view.close()
    after.close()


def test_fewer_layers_are_read_when_asked_for(lab: lk.Lab) -> None:
    depth = len(lab.anatomy.layers)
    view = lk.views.lens(lab, prompt="abc", k=2, max_new_tokens=3, chat=False, layers=[1])
    assert view.wait(SECONDS)
    assert (view.facts["layers"], view.facts["depth"]) == ([1, depth], depth)
    few = f", read after 2 of them, {len(view.tokens)} tokens" if depth > 2 else f", {len(view.tokens)} tokens"
    assert view._describe() == f"logit: {depth} layers{few}"
    tokens, _probabilities, divergences = cells(view)
    run = lab.generate("abc", max_new_tokens=3, chat=False)
    again = lab.trace([*run.prompt_ids, *run.ids][:-1], keep=("residual", "logits"))
    after = lk.views.lens(lk.lens(lab, again, kind="logit"), k=2)
    assert after.facts["layers"] == list(range(depth + 1))
    assert after.facts["extent"] == f"{depth} layers", "what enters the first is a row, and no layer"
    assert (tokens == cells(after)[0][:, :, [1, depth]]).all()
    assert np.allclose(divergences, cells(after)[2][:, :, [1, depth]], atol=2e-5)
    assert (divergences[..., 1] == 0).all(), "the last is the model's own"
    view.close()
    after.close()


def test_edits_are_in_force_while_it_is_written_and_are_read(lab: lk.Lab) -> None:
    edit = lk.patch("residual[1]", lambda states: -states)
    view = lk.views.lens(lab, prompt="abc", edits=[edit], k=2, max_new_tokens=4, chat=False)
    assert view.wait(SECONDS)
    with lab.edit(edit):
        run = lab.generate("abc", max_new_tokens=4, chat=False)
        ids = [*run.prompt_ids, *run.ids][:-1]
        after = lk.views.lens(lk.lens(lab, lab.trace(ids, keep=("residual", "logits")), kind="logit"), k=2)
    assert (cells(view)[0] == cells(after)[0]).all()
    assert np.allclose(cells(view)[1], cells(after)[1], atol=2e-5)
    plain = lk.views.lens(lk.lens(lab, lab.trace(ids, keep=("residual", "logits")), kind="logit"), k=2)
    assert not np.allclose(cells(view)[1], cells(plain)[1], atol=2e-5)
    for each in (view, after, plain):
        each.close()


def test_a_stop_keeps_what_was_written(lab: lk.Lab) -> None:
    seen = threading.Event()
    view = lk.views.lens(lab, prompt="abc", max_new_tokens=400, chat=False)
    view.observe(lambda change: seen.set() if view.written >= 2 else None, names="version")
    assert seen.wait(SECONDS)
    view.stop()
    assert view.wait(SECONDS)
    assert view.status["state"] == "stopped"
    assert 2 <= view.written < 399
    assert not any(module._forward_hooks for module in lab.model.modules())
    view.typed = "ab"
    view._write = None
    with pytest.raises(lk.BadInput, match="a view of a lab"):
        view.write()
    view.close()


def test_an_error_while_writing_is_said_and_leaves_nothing_behind(lab: lk.Lab) -> None:
    view = lk.views.lens(lab, prompt="abc", max_new_tokens=-1, chat=False)
    assert view.wait(SECONDS)
    assert view.status["state"] == "failed"
    assert "max_new_tokens" in view.status["message"]
    assert not any(module._forward_hooks for module in lab.model.modules())
    view.close()


def test_a_table_is_still_a_chart(lab: lk.Lab, trace: lk.Trace) -> None:
    found = lk.logit_lens(lab, trace)
    for frame in (found, found.table, found[found["position"] > 2], lk.lens(lab, trace, kind="logit").rows()):
        assert isinstance(lk.views.lens(frame, colour="next", title="x"), Chart)


def test_names_tell_two_lenses_of_a_kind_apart() -> None:
    view = lk.views.lens([HandLens(TOKENS), HandLens(TOKENS, seed=1)])
    assert view.facts["kinds"] == ["logit 1", "logit 2"]
    view.close()
    view = lk.views.lens({"mine": HandLens(TOKENS), "yours": HandLens(TOKENS)})
    assert view.facts["kinds"] == ["mine", "yours"]
    view.kind = "yours"
    view.beside = ""
    with pytest.raises(lk.BadInput, match="kind='other' is not shown here"):
        view.kind = "other"
    view.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "views.lens shows"),
        ([], "views.lens shows"),
        ([HandLens(TOKENS), HandLens([*TOKENS, "!"])], "different texts"),
        (SimpleNamespace(top=lambda *_: [], layers=2), "which text"),
        (SimpleNamespace(top=lambda *_: [], tokens=["a"]), "which layers"),
    ],
)
def test_what_is_no_lens_is_refused(given: Any, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.views.lens(given)


def test_a_prompt_needs_a_lab_and_a_lens_that_is_there(lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="give the lab first"):
        lk.views.lens(HandLens(TOKENS), prompt="a")
    with pytest.raises(lk.Unavailable, match="no Jacobian lens for tiny"):
        lk.views.lens(lab, prompt="a", kind="jacobian")
