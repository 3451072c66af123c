"""Models whose layers differ: attention in some, a state or a convolution in others. And every published configuration,
scaled down, from a saved folder to generated text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from families import MIXED, PUBLISHED, Tokens, build

import labkit as lk
from labkit.trace.record import KEEP

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77, 12, 30, 9, 58, 71, 20, 11, 46]
SHORT = TEXT[:11]
NEW = 5


@cache
def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(MIXED[name]), Tokens(), name=name)


@pytest.fixture(params=MIXED)
def lab(request: pytest.FixtureRequest) -> lk.Lab:
    return lab_of(request.param)


def available(lab: lk.Lab) -> tuple[str, ...]:
    return tuple(name for name in KEEP if lab.support()[name] is None)


def test_looking_leaves_the_logits_bit_for_bit(lab: lk.Lab) -> None:
    with torch.no_grad():
        plain = lab.model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    assert torch.equal(lab.trace(TEXT, keep=available(lab)).logits, plain.float())


def test_patterns_are_eagers_in_the_layers_that_have_attention(lab: lk.Lab) -> None:
    if lab.support()["attention"] is not None:
        assert lab.name == "xlstm-7b"
        return
    trace = lab.trace(TEXT, keep=("attention", "values", "head_output"))
    other = build(MIXED[lab.name], implementation="eager")
    other.load_state_dict(lab.model.state_dict())
    with torch.no_grad():
        everything = other(input_ids=torch.tensor([TEXT]), use_cache=False, output_attentions=True).attentions
    expected = [pattern[0] for pattern in everything if pattern is not None and pattern.dim() == 4]
    with_attention = trace.layers_with("attention")
    assert len(expected) == len(with_attention) > 0
    for layer, pattern in zip(with_attention, expected, strict=True):
        assert torch.allclose(trace.attention(layer), pattern.float(), atol=1e-5)
        values = trace.values(layer).repeat_interleave(trace.heads_of(layer) // trace.kv_heads_of(layer), 0)
        assert torch.allclose(trace.attention(layer) @ values.float(), trace.head_output(layer).float(), atol=1e-4)
    for layer in set(range(trace.layers)) - set(with_attention):
        with pytest.raises(lk.Unavailable, match="these layers do"):
            trace.attention(layer)


def test_the_residual_stream_adds_up_where_parts_are_known(lab: lk.Lab) -> None:
    keep = available(lab)
    if "attention_output" not in keep or "mlp_output" not in keep:
        reason = lab.support()["attention_output"] or lab.support()["mlp_output"]
        assert reason is not None
        assert "look at" in reason
        return
    trace = lab.trace(TEXT, keep=("residual", "attention_output", "mlp_output"))
    parts = {name: trace.layers_with(name) for name in ("attention_output", "mlp_output")}
    checked = 0
    for i in range(trace.layers):
        found = [trace.tensor(name, i) for name, layers in parts.items() if i in layers]
        whole = len(found) == 2 or (lab.name.startswith("nemotron") and len(found) == 1)  # one part a layer
        if whole:
            assert torch.allclose(
                trace.residual(i) + torch.stack(found).sum(0), trace.residual(i + 1), atol=1e-4, rtol=1e-4
            )
            checked += 1
    assert checked > 0


def test_a_list_is_traced_as_each_text_alone(lab: lk.Lab) -> None:
    keep = available(lab)
    alone = lab.trace(SHORT, keep=keep)
    _, short = lab.trace([TEXT, SHORT], keep=keep)
    assert torch.allclose(short.logits, alone.logits, atol=1e-4)
    for name in ("residual", "head_output", "attention_output", "mlp_output"):
        for layer in alone.layers_with(name) if name in keep else ():
            assert torch.allclose(short.tensor(name, layer), alone.tensor(name, layer), atol=1e-4), (name, layer)


def test_an_edit_in_one_layer_moves_the_logits_and_goes(lab: lk.Lab) -> None:
    before = lab.trace(TEXT, keep="logits").logits
    last = len(lab.anatomy.layers) - 1
    with lab.edit(lk.patch(f"residual[{last}]", 0.0)):
        assert not torch.allclose(lab.trace(TEXT, keep="logits").logits, before, atol=1e-3)
    assert torch.equal(lab.trace(TEXT, keep="logits").logits, before)


@pytest.mark.parametrize("name", PUBLISHED | MIXED)
def test_from_a_saved_folder_to_generated_text(name: str, tmp_path: Path) -> None:
    """What lk.load opens generates what plain transformers does with the same weights, greedily and from its own cache."""
    model: Any = build((PUBLISHED | MIXED)[name])
    model.save_pretrained(tmp_path)
    fuzz.tiny_tokenizer().save_pretrained(tmp_path)
    lab = lk.load(tmp_path, device="cpu")
    ids = torch.tensor([SHORT])
    with torch.no_grad():
        there, here = (each(input_ids=ids, use_cache=False).logits for each in (lab.model, model))
        assert torch.allclose(there, here, atol=1e-5)  # how weights lie in memory decides the last digit
        expected = SHORT
        for _ in range(NEW):  # no cache, no loop of transformers': one pass after another
            expected = [
                *expected,
                int(model(input_ids=torch.tensor([expected]), use_cache=False).logits[0, -1].argmax()),
            ]
    written = lab.generate(SHORT, max_new_tokens=NEW).ids
    assert written == expected[len(SHORT) :][: len(written)]
    assert len(written) == NEW or written[-1] == 2


def test_all_layers_see_all_tokens_though_one_row_of_logits_is_asked_for() -> None:
    """Gemma 4's last layers take over keys and values, and transformers gives them the last token alone."""
    lab = lk.Lab(build(PUBLISHED["gemma-4-e2b"]), Tokens(), name="gemma 4")
    trace = lab.trace(TEXT, keep=("residual", "attention"))
    assert {tuple(trace.residual(layer).shape) for layer in range(trace.layers + 1)} == {(len(TEXT), 32)}
    assert {tuple(trace.attention(layer).shape) for layer in range(trace.layers)} == {(4, len(TEXT), len(TEXT))}
    plain = lab.generate(TEXT, max_new_tokens=3).ids
    with lab.edit(lk.patch("residual[3] @ 4", 100.0)):  # of a token whose keys and values nobody reads any more
        assert lab.generate(TEXT, max_new_tokens=3).ids == plain
    with lab.edit(lk.patch("residual[1] @ 4", 100.0)):
        edited = lab.trace(TEXT, keep="residual").residual(4)
    assert not torch.allclose(edited[-1], trace.residual(4)[-1], atol=1e-3)
    with lab.edit(lk.patch("residual[3]", lambda _: 1 / 0)), pytest.raises(ZeroDivisionError):
        lab.trace(TEXT)
    assert not [name for module in lab.model.modules() for name in vars(module) if name.startswith("_maybe_slice")]
