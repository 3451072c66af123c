"""Heads measured: on a model whose heads are known by construction, on tiny models of chance, and on the default one."""

from __future__ import annotations

import sys
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from characters import Characters
from induction_model import HEADS, INDUCTION, LETTERS, PREVIOUS, VOCABULARY, induction_lab, induction_model
from traces import random_trace

import labkit as lk
from labkit.attention import ablation, effects, heads, knockout, measures, repeated
from labkit.models.tokens import token_strings

LENGTH = 20


# tokens that repeat ---------------------------------------------------------------------------------------------------


def test_repeated_tokens_are_a_block_of_different_ones_again_and_again() -> None:
    ids = repeated(1000, 30, 3, seed=4)
    assert ids[:30] == ids[30:60] == ids[60:]
    assert len(set(ids)) == 30
    assert all(type(i) is int and 0 <= i < 1000 for i in ids)
    assert ids == repeated(1000, 30, 3, seed=4)
    assert ids != repeated(1000, 30, 3, seed=5)
    assert sorted(repeated(7, 7, 1)) == list(range(7))


def test_no_special_token_is_drawn_and_what_begins_a_text_begins_it(tiny_lab: lk.Lab) -> None:
    special = set(tiny_lab.tokenizer.all_special_ids)
    everything = len(tiny_lab.tokenizer) - len(special)
    tiny_lab.model.config.max_position_embeddings = 4096
    ids = repeated(tiny_lab, everything)
    assert len(ids) == 2 * everything
    assert set(ids) == set(range(len(tiny_lab.tokenizer))) - special
    from tokenizers.processors import TemplateProcessing

    start = tiny_lab.tokenizer.bos_token_id
    tiny_lab.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert repeated(tiny_lab, 5) == [start, *repeated(tiny_lab, 5)[1:6], *repeated(tiny_lab, 5)[1:6]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"length": 1}, "length=1"),
        ({"length": True}, "length=True"),
        ({"times": 0}, "times=0"),
        ({"seed": -1}, "seed=-1"),
        ({"length": 400}, "shorter block"),
        ({"length": 100}, "context holds"),
    ],
)
def test_repeated_refuses(tiny_lab: lk.Lab, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        repeated(tiny_lab, **arguments)


def test_repeated_of_something_else() -> None:
    for wrong in ("llama", None, True, 2.5):
        with pytest.raises(lk.BadInput, match=r"takes a Lab or a vocabulary's size"):
            repeated(wrong)


# the model made by hand -----------------------------------------------------------------------------------------------


def test_the_model_made_by_hand_copies() -> None:
    lab = induction_lab()
    ids = repeated(lab, LENGTH)
    trace = lab.trace(ids)
    assert trace.logits[LENGTH:-1].argmax(-1).tolist() == ids[LENGTH + 1 :]
    assert trace.loss[LENGTH + 1 :].max() < 1e-3
    with torch.no_grad():  # the model itself, without labkit
        logits = induction_model()(torch.tensor([ids])).logits[0]
    assert logits[LENGTH:-1].argmax(-1).tolist() == ids[LENGTH + 1 :]
    following, _ = lab.trace("jumpingjum").next(k=1)
    assert token_strings(lab.tokenizer, following.tolist()) == ["p"]


def test_its_two_heads_are_found_and_no_others() -> None:
    found = heads(induction_lab(), length=LENGTH)
    frame, uniform = found.set_index(["layer", "head"]), found.uniform
    assert frame.loc[PREVIOUS, "previous"] == pytest.approx(1, abs=1e-6)
    assert frame.loc[PREVIOUS, "distance"] == pytest.approx(1, abs=1e-5)
    assert frame.loc[PREVIOUS, "induction"] == pytest.approx(0, abs=1e-6)
    assert frame.loc[INDUCTION, "induction"] == pytest.approx(1, abs=1e-6)
    assert frame.loc[INDUCTION, "duplicate"] == pytest.approx(0, abs=1e-6)
    assert frame.loc[INDUCTION, "previous"] < 0.1
    others = frame.drop([PREVIOUS, INDUCTION])
    assert len(others) == 2 * HEADS - 2
    for name, chance in uniform.items():
        assert others[name].tolist() == pytest.approx([chance] * len(others), rel=1e-4), name
    assert uniform["induction"] < 0.05


@pytest.mark.parametrize("head", [PREVIOUS, INDUCTION])
def test_without_either_of_them_it_copies_no_more(head: tuple[int, int]) -> None:
    lab = induction_lab()
    chance = np.log(VOCABULARY)
    result = knockout(lab, [head], length=LENGTH, draws=10)
    assert result.second.intact < 1e-3
    assert result.second.without == pytest.approx(chance, rel=0.05)
    losses = effects(lab, repeated(lab, LENGTH), loss_from=LENGTH + 1, progress=False).set_index(["layer", "head"])
    assert losses.loc[head, "loss_change"] == pytest.approx(chance, rel=0.05)
    assert losses["loss_change"].drop([PREVIOUS, INDUCTION]).abs().max() < 1e-3
    for draw, loss in zip(result.drawn, result.second.others, strict=True):
        assert head not in draw
        copies = not {PREVIOUS, INDUCTION} & set(draw)
        assert loss == pytest.approx(0 if copies else chance, abs=0.2)
    assert result.share == np.mean([loss >= result.second.without for loss in result.second.others])


def test_the_ablation_of_a_view_takes_its_word_away() -> None:
    lab = induction_lab()
    take = ablation(lab, "abcabcab")
    assert take.tokens == list("abcabcab")
    effect = take([INDUCTION])
    assert effect is not None
    assert effect.next[0][0] == "c"
    assert effect.next[0][1] == pytest.approx(1, abs=1e-6)
    assert effect.next[0][2] == pytest.approx(1 / VOCABULARY)
    assert effect.loss_change[4:] == pytest.approx([np.log(VOCABULARY)] * 4, abs=1e-4)


# on a text ------------------------------------------------------------------------------------------------------------


def test_a_text_and_repeated_tokens_each_give_their_columns(tiny_lab: lk.Lab) -> None:
    text = "the cat sat on the mat"
    frame = heads(tiny_lab, text, length=10, seed=3)
    on_text = measures(tiny_lab.trace(text))
    copied = measures(tiny_lab.trace(repeated(tiny_lab, 10, seed=3)))
    for name in on_text.columns:
        source = copied if name in ("induction", "duplicate") else on_text
        assert frame[name].tolist() == source[name].tolist()
        if name in frame.attrs["uniform"]:
            assert frame.attrs["uniform"][name] == source.attrs["uniform"][name]
    assert frame["entropy"].tolist() != copied["entropy"].tolist()
    assert frame.attrs["tokens"] == len(tiny_lab.trace(text))
    assert frame.attrs["repeated_tokens"] == 20
    assert frame.attrs["model"] == "tiny"
    alone = heads(tiny_lab, length=10, seed=3)
    assert alone.equals(copied)
    assert heads(tiny_lab, tiny_lab.trace(text), length=10, seed=3).equals(frame)
    assert heads(tiny_lab, tiny_lab.trace(text).ids, length=10, seed=3).equals(frame)


def test_heads_refuses() -> None:
    lab = lk.Lab(fuzz.tiny_model(), fuzz.tiny_tokenizer(), name="tiny")
    for wrong, said in (
        (["a", "b"], "one text"),
        ("", "empty"),
        (3, "takes a text"),
        ([9999], "no token 9999"),
        (random_trace(4, layers=3), "whose heads are not those of tiny"),
    ):
        with pytest.raises(lk.BadInput, match=said):
            heads(lab, wrong, length=5)
    with pytest.raises(lk.Unavailable, match="was not kept"):
        heads(lab, lab.trace("the cat", keep="logits"), length=5)
    with pytest.raises(lk.BadInput, match="context holds"):
        heads(lab, length=100)


def test_the_room_is_reached_from_the_package() -> None:
    assert lk.attention.heads is heads
    assert callable(lk.attention.sweep)
    assert sys.modules["labkit.attention.sweep"].__name__ == "labkit.attention.sweep"
    for name in lk.attention.__all__:
        assert hasattr(lk.attention, name)


def test_importing_the_room_imports_no_table_or_model_library() -> None:
    import subprocess

    program = (
        "import sys, labkit.attention; print(*[n for n in ('pandas', 'transformers', 'plotly') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# the same from eager attention ----------------------------------------------------------------------------------------


def from_eager(attentions: Any, ids: list[int]) -> dict[str, np.ndarray]:
    """name -> one number a head, from the patterns that transformers gives out."""
    n, found = len(ids), {}
    own = torch.arange(n)
    same = torch.tensor(ids)[:, None] == torch.tensor(ids)[None]
    earlier = same.tril(-1)
    followed = torch.zeros(n, n, dtype=torch.bool)
    followed[:, 1:] = earlier[:, :-1]
    followed = followed.tril(-1)
    for pattern in attentions:
        p = pattern[0].double()
        values = {
            "entropy": torch.special.entr(p).sum(-1)[:, 2:].mean(1),
            "distance": (p * (own[:, None] - own[None])).sum(-1)[:, 2:].mean(1),
            "first": p[:, 2:, 0].mean(1),
            "previous": p.diagonal(-1, 1, 2)[:, 1:].mean(1),
            "own": p.diagonal(0, 1, 2)[:, 2:].mean(1),
        }
        for name, mask in (("induction", followed), ("duplicate", earlier)):
            rows = mask.any(1)
            values[name] = (p * mask).sum(-1)[:, rows].mean(1)
        for name, value in values.items():
            found.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def test_the_measures_are_those_of_eager_attention() -> None:
    lab = lk.Lab(fuzz.tiny_model(), fuzz.tiny_tokenizer(), name="tiny")
    eager = fuzz.tiny_model()
    eager.set_attn_implementation("eager")
    ids = [*repeated(lab, 15), 9, 9, 40]
    with torch.no_grad():
        expected = from_eager(eager(torch.tensor([ids]), output_attentions=True).attentions, ids)
    got = measures(lab.trace(ids))
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=1e-5, err_msg=name)


@pytest.mark.real_model
def test_the_measures_are_those_of_eager_attention_on_the_default_model(default_lab: lk.Lab) -> None:
    eager = lk.load(fresh=True, attn_implementation="eager")
    ids = repeated(default_lab, 40)
    with torch.no_grad():
        expected = from_eager(
            eager.model(torch.tensor([ids], device=eager.device), output_attentions=True).attentions, ids
        )
    got = heads(default_lab, length=40)
    for name, values in expected.items():
        # distances and entropies are no shares: they are as large as tens of tokens
        np.testing.assert_allclose(got[name], values, atol=1e-5, rtol=1e-5, err_msg=name)
    eager.close()


# the default model ----------------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_the_default_model_has_copying_heads_and_needs_them(default_lab: lk.Lab) -> None:
    frame = heads(default_lab)
    best = frame.sort_values("induction", ascending=False).head(5)
    chosen = [(int(layer), int(head)) for layer, head in zip(best["layer"], best["head"], strict=True)]
    chance = frame.attrs["uniform"]["induction"]
    print(best[["layer", "head", "induction", "previous", "first"]].to_string(), f"\nchance {chance:.4f}")
    assert best["induction"].min() > 20 * chance
    assert frame["induction"].median() < 2 * chance
    result = knockout(default_lab, chosen, draws=10)
    for name, half in (("copied", result.second), ("first block", result.first)):
        print(f"{name}: {half.intact:.3f}, without {half.without:.3f}, others {np.round(sorted(half.others), 3)}")
    assert result.second.intact < result.first.intact / 2  # it copies
    assert result.second.without > result.second.intact + 1
    assert result.second.without > np.median(result.second.others) + 1
    assert abs(result.first.without - result.first.intact) < 1  # where there is nothing to copy, little is lost


def test_letters_are_a_tokenizer() -> None:
    """The stand-in does what the tests rely on."""
    letters = Characters(LETTERS)
    assert letters.decode(letters("hallo").input_ids) == "hallo"
    assert len(letters.alphabet) == len(letters) == VOCABULARY
