"""A lens read while the text is written: its columns are those of a trace of the finished text."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits.jacobian_lens import JacobianLens

IDS = [(7 * i * i + 3 * i + 1) % 60 + 3 for i in range(12)]


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    family = FAMILIES["llama3"]
    return lk.Lab(
        build(dataclasses.replace(family, fields={**family.fields, "num_hidden_layers": 3})), Tokens(), name="tiny"
    )


@pytest.fixture(scope="module")
def fitted(lab: lk.Lab) -> JacobianLens:
    width, draw = lab.config.hidden_size, torch.Generator().manual_seed(3)
    return JacobianLens(
        {i: torch.eye(width) + 0.3 * torch.randn(width, width, generator=draw) for i in (1, 2)}, 1, "tiny", 3
    )


def _hooks(lab: lk.Lab) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lab.model.modules())


@pytest.mark.parametrize("edited", [False, True])
def test_the_columns_are_those_of_the_finished_text(lab: lk.Lab, fitted: JacobianLens, edited: bool) -> None:
    columns: list[Any] = []
    edits = [lk.patch("residual[1] @ 1:", lambda x: x * 1.5)] if edited else []
    with lab.edit(*edits):
        made, prompt = lk.circuits.generate_with_lens(lab, IDS, columns.append, lens=fitted, k=3, max_new_tokens=5)
        trace = lab.trace([*made.prompt_ids, *made.ids], keep=("residual", "logits"))
    whole = lk.lens(lab, trace, lens=fitted)
    assert [one.position for one in columns] == list(range(len(IDS) - 1, len(IDS) + 4))
    for one in columns:
        assert one.token == trace.tokens[one.position]
        assert (one.written_id, one.written) == (trace.ids[one.position + 1], trace.tokens[one.position + 1])
        expected = whole.column(one.position, k=3)
        assert list(one.layers) == [1, 2, 3]
        for layer, tops in one.layers.items():
            assert [t.id for t in tops] == [t.id for t in expected[layer]]
            assert [t.probability for t in tops] == pytest.approx([t.probability for t in expected[layer]], abs=1e-5)
        assert one.layers[3][0].id == one.written_id  # greedy
        far = whole.rows([1, 2, 3]).table
        far = far[far.position == one.position].set_index("layer").kl
        assert one.kl == pytest.approx(far.to_dict(), abs=1e-5)
    assert len(prompt.trace) == len(IDS)
    before = whole.rows(k=2).table.query("position < @at", local_dict={"at": len(IDS)}).reset_index(drop=True)
    read = prompt.rows(k=2).table
    columns_alike = ["layer", "position", "top_id"]
    assert read[columns_alike].equals(before[columns_alike])
    assert read.kl.tolist() == pytest.approx(before.kl.tolist(), abs=1e-5)
    assert _hooks(lab) == 0


def test_some_layers_the_logit_lens_and_an_early_end(lab: lk.Lab) -> None:
    stop, columns = threading.Event(), []

    def seen(one: Any) -> None:
        columns.append(one)
        if len(columns) == 2:
            stop.set()

    made, _ = lk.circuits.generate_with_lens(
        lab, IDS, seen, kind="logit", layers=[0, -1], max_new_tokens=9, stop_event=stop
    )
    assert (len(made.ids), made.finish_reason) == (2, "stopped")
    assert all(list(one.layers) == [0, 3] for one in columns)


def test_nothing_is_run_twice(lab: lk.Lab, fitted: JacobianLens) -> None:
    """A pass over the prompt and one for each token but the last, as without a lens."""

    def passes(run: Any) -> list[int]:
        widths: list[int] = []
        seen = lab.model.get_input_embeddings().register_forward_hook(
            lambda _m, given, _o: widths.append(given[0].shape[-1])
        )
        try:
            run()
        finally:
            seen.remove()
        return widths

    lab.generate(IDS, max_new_tokens=4)
    plain = passes(lambda: lab.generate(IDS, max_new_tokens=4))
    assert passes(lambda: lk.circuits.generate_with_lens(lab, IDS, id, lens=fitted, max_new_tokens=4)) == plain


def test_nothing_is_left_after_an_error(lab: lk.Lab, fitted: JacobianLens) -> None:
    def broken(_one: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        lk.circuits.generate_with_lens(lab, IDS, broken, lens=fitted, max_new_tokens=3)
    assert _hooks(lab) == 0


def test_what_cannot_be_followed_is_refused(lab: lk.Lab, fitted: JacobianLens) -> None:
    def run(prompt: Any = IDS, seen: Any = print, **settings: Any) -> None:
        lk.circuits.generate_with_lens(lab, prompt, seen, **{"lens": fitted, "max_new_tokens": 2, **settings})

    with pytest.raises(lk.BadInput, match="leave speculation away"):
        run(speculation="prompt_lookup")
    with pytest.raises(lk.BadInput, match="single prompt"):
        run(prompt=[IDS, IDS])
    with pytest.raises(lk.BadInput, match="on_column"):
        run(seen=None)
    with pytest.raises(lk.BadInput, match="no matrix for layer 0"):
        run(layers=[0])
    with pytest.raises(lk.BadInput, match="k=0"):
        run(k=0)
    with pytest.raises(lk.Unavailable, match="ships no Jacobian lens"):
        run(lens=None)
