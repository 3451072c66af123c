"""Steering, clamping and splicing change what they say, where they say, and nothing else; also while generating."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dictionaries import FEATURES, PLAIN, WIDTH, folder, hooks, library_folder, make_lab, weights
from torch import Tensor

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, residual

TEXT = "t5 t99 t17 t30 t42 t8 t61 t5 t3 t77 t20 t11"
LABS = ("llama2", "gpt2", "gpt_neox")


@pytest.fixture(scope="module")
def labs() -> dict[str, lk.Lab]:
    return {family: make_lab(family) for family in LABS}


@pytest.fixture
def lab(labs: dict[str, lk.Lab]) -> Any:
    """The tiny Llama; whatever a test does, nothing is left on it."""
    before, hooked = logits(labs["llama2"]), hooks(labs["llama2"].model)
    yield labs["llama2"]
    assert hooks(labs["llama2"].model) == hooked
    assert torch.equal(logits(labs["llama2"]), before)


@pytest.fixture
def sae(tmp_path: Path) -> SAE:
    return lk.sae.load(folder(tmp_path / "it"))


def logits(lab: lk.Lab, text: Any = TEXT) -> Tensor:
    return lab.trace(text, keep="logits").logits


def stream(lab: lk.Lab, *edits: lk.Edit, layer: int = 1, text: Any = TEXT) -> Tensor:
    """(T, d) entering a layer under edits."""
    with lab.edit(*edits):
        return lab.trace(text, keep="residual").residual(layer)


# steer -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", LABS)
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("strength", [3.5, -40.0])
def test_steering_adds_the_direction_after_the_first_token(
    family: str, layer: int, strength: float, labs: dict[str, lk.Lab], tmp_path: Path
) -> None:
    lab = labs[family]
    sae = lk.sae.load(folder(tmp_path / "it", layer=layer))
    plain = stream(lab, layer=layer)
    changed = stream(lab, lk.steer(sae[12], strength), layer=layer)
    assert torch.equal(changed[0], plain[0])
    torch.testing.assert_close(changed[1:], plain[1:] + strength * weights("topk")["W_dec"][12], rtol=1e-5, atol=1e-5)
    if layer:
        assert torch.equal(stream(lab, lk.steer(sae[12], strength), layer=layer - 1), stream(lab, layer=layer - 1))
    with lab.edit(lk.steer(sae[12], strength)):
        steered = logits(lab)
    assert torch.equal(steered[0], logits(lab)[0])
    assert bool(((steered - logits(lab)).abs().amax(-1)[1:] > 1e-3).all())


def test_a_strength_of_zero_changes_nothing(lab: lk.Lab, sae: SAE) -> None:
    plain = logits(lab)
    for feature in (sae[0], sae[41], torch.ones(WIDTH)):
        layer = 1 if isinstance(feature, Tensor) else None
        with lab.edit(lk.steer(feature, 0, layer=layer)):
            assert torch.equal(logits(lab), plain)


def test_a_direction_of_ones_own_is_taken_at_length_1(lab: lk.Lab) -> None:
    own = torch.arange(1.0, WIDTH + 1)
    for given in (own, own.double(), 1e-3 * own, own.clone().requires_grad_()):
        for layer in (0, 2):
            changed = stream(lab, lk.steer(given, 2.5, layer=layer), layer=layer)
            plain = stream(lab, layer=layer)
            assert torch.equal(changed[0], plain[0])
            torch.testing.assert_close(
                changed[1:] - plain[1:], (2.5 * own / own.norm()).expand(11, -1), rtol=0, atol=1e-4
            )


def test_steering_single_tokens(lab: lk.Lab, sae: SAE) -> None:
    plain = stream(lab)
    changed = stream(lab, lk.steer(sae[3], 2.0, tokens="0,4:6"))
    moved = [i for i in range(12) if not torch.equal(changed[i], plain[i])]
    assert moved == [0, 4, 5]


def test_numbers_of_several_kinds_are_strengths(lab: lk.Lab, sae: SAE) -> None:
    wanted = stream(lab, lk.steer(sae[3], 2.0))
    for strength in (2, np.float32(2.0), np.int64(2), torch.tensor(2.0)):
        assert torch.equal(stream(lab, lk.steer(sae[3], strength)), wanted)


NO_NUMBERS = [math.nan, math.inf, -math.inf, True, False, "strong", "5", b"5", None, [1.0], 1j, 10**400, torch.ones(2)]


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=lambda v: str(v)[:10])
def test_a_strength_or_value_that_is_no_number(bad: Any, sae: SAE) -> None:
    with pytest.raises(BadInput, match=r"strength is to be a number, and .* is none\."):
        lk.steer(sae[3], bad)
    with pytest.raises(BadInput, match=r"value is to be a number, and .* is none\."):
        lk.clamp(sae[3], bad)


def test_what_cannot_be_steered(lab: lk.Lab, sae: SAE) -> None:
    own = torch.ones(WIDTH)
    for bad in (None, True, -1, 1.0, "1"):
        with pytest.raises(BadInput, match="needs the layer it is added before"):
            lk.steer(own, 1.0, layer=bad)
    for what in (3, "happy", [1.0] * WIDTH, sae, torch.ones(2, WIDTH), torch.tensor(1.0)):
        with pytest.raises(BadInput, match=r"steer takes a feature, such as sae\[1234\], or a direction"):
            lk.steer(what, 1.0, layer=1)
    for broken in (torch.zeros(WIDTH), own * math.nan, own * math.inf):
        with pytest.raises(BadInput, match="no length, or numbers that are none"):
            lk.steer(broken, 1.0, layer=1)
    with pytest.raises(BadInput, match="Feature 5 lives at layer 1; leave layer away"):
        lk.steer(sae[5], 1.0, layer=2)
    assert lk.steer(sae[5], 1.0, layer=1).where == lk.steer(sae[5], 1.0).where
    with pytest.raises(BadInput), lab.edit(lk.steer(own, 1.0, layer=7)):
        pass


# clamp -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("family", LABS)
def test_after_a_clamp_the_encoder_reads_the_value(
    kind: str, family: str, labs: dict[str, lk.Lab], tmp_path: Path
) -> None:
    lab = labs[family]
    sae = lk.sae.load(folder(tmp_path / "it", kind))
    plain = stream(lab)
    for index in (0, 33, 79):
        changed = stream(lab, lk.clamp(sae[index], 25.0))
        torch.testing.assert_close(sae.encode(changed)[1:, index], torch.full((11,), 25.0), rtol=0, atol=1e-4)
        assert torch.equal(changed[0], plain[0])
        # only along the feature's direction
        direction = sae[index].direction / sae[index].direction.norm()
        moved = changed - plain
        torch.testing.assert_close(moved, (moved @ direction)[:, None] * direction, rtol=0, atol=1e-4)
        small = stream(lab, lk.clamp(sae[index], 0.3))  # too small for topk to keep, but there
        torch.testing.assert_close(sae.pre_activations(small)[1:, index], torch.full((11,), 0.3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", PLAIN)
def test_clamping_to_0_switches_off_where_it_is_on_and_leaves_the_rest(kind: str, lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path / "it", kind))
    plain = stream(lab)
    before = sae.encode(plain)
    mixed = [i for i in range(FEATURES) if 2 <= int((before[1:, i] > 0).sum()) <= 9 and not before[1:, i].all()][:6]
    assert len(mixed) == 6
    for index in mixed:
        changed = stream(lab, lk.clamp(sae[index], 0))
        on = before[:, index] > 0
        on[0] = False
        assert torch.equal(changed[~on], plain[~on])  # to the bit
        assert bool((changed[on] != plain[on]).any(-1).all())
        assert float(sae.encode(changed)[1:, index].max()) < 1e-4


@pytest.mark.parametrize("kind", PLAIN)
def test_a_clamp_on_a_centred_stream_reaches_its_value(kind: str, tmp_path: Path) -> None:
    """Rows of the decoder with a mean of their own: the encoder does not see that part of what is added."""
    lab = make_lab("gpt2")  # whose norms take the mean away as well
    given = weights(kind)
    given["W_dec"] = given["W_dec"] + 0.1
    options = {"hook_name": "blocks.1.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    path = folder(tmp_path / "it", kind, tensors=given, changed={"metadata": options})
    sae = lk.sae.load(path)
    assert sae.centred
    plain = stream(lab)
    for index in (0, 33, 79):
        direction = sae[index].direction
        assert float(direction.mean().abs()) > 0.05
        changed = stream(lab, lk.clamp(sae[index], 25.0))
        torch.testing.assert_close(sae.pre_activations(changed)[1:, index], torch.full((11,), 25.0), rtol=0, atol=1e-3)
        torch.testing.assert_close(sae.encode(changed)[1:, index], torch.full((11,), 25.0), rtol=0, atol=1e-3)
        unit = direction / direction.norm()  # along the whole direction, its mean with it
        moved = changed - plain
        torch.testing.assert_close(moved, (moved @ unit)[:, None] * unit, rtol=0, atol=1e-3)


def test_a_feature_that_only_shifts_a_centred_stream_cannot_be_set(tmp_path: Path) -> None:
    given = weights("topk")
    given["W_dec"][5] = 1.0
    given["W_enc"][:, 5] = 1.0
    options = {"hook_name": "blocks.1.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = lk.sae.load(folder(tmp_path / "it", tensors=given, changed={"metadata": options}))
    with pytest.raises(BadInput, match="Feature 5 hardly reads its own direction"):
        lk.clamp(sae[5], 1.0)


def test_clamp_refuses_what_it_cannot_set(lab: lk.Lab, sae: SAE, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be clamped to -1: activations are at least 0; to push it away, steer"):
        lk.clamp(sae[3], -1)
    for what in (3, torch.ones(WIDTH), sae):
        with pytest.raises(BadInput, match="takes a feature, such as"):
            lk.clamp(what, 1.0)
    blind = weights("topk")
    blind["W_enc"][:, 5] -= (
        blind["W_dec"][5] * (blind["W_enc"][:, 5] @ blind["W_dec"][5]) / blind["W_dec"][5].square().sum()
    )
    blind["W_enc"][:, 6] *= -1
    other = lk.sae.load(folder(tmp_path / "blind", tensors=blind))
    for index in (5, 6):
        with pytest.raises(BadInput, match=f"Feature {index} hardly reads its own direction"):
            lk.clamp(other[index], 1.0)
    lk.clamp(other[7], 1.0)


# splice ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("family", LABS)
def test_spliced_with_its_error_nothing_changes(
    kind: str, family: str, labs: dict[str, lk.Lab], tmp_path: Path
) -> None:
    lab = labs[family]
    for layer in (0, 1, 2):
        sae = lk.sae.load(folder(tmp_path / "it", kind, layer=layer))
        plain, x = logits(lab), stream(lab, layer=layer)
        with lab.edit(lk.sae.splice(sae, error=True)):
            torch.testing.assert_close(logits(lab), plain, rtol=0, atol=1e-4)
        changed = stream(lab, lk.sae.splice(sae), layer=layer)
        assert torch.equal(changed[0], x[0])
        torch.testing.assert_close(changed[1:], sae.reconstruct(x)[1:], rtol=1e-5, atol=1e-5)
        assert bool(((changed - x).abs().amax(-1)[1:] > 1e-2).all())


def test_outliers_are_not_spliced(lab: lk.Lab, tmp_path: Path) -> None:
    x = stream(lab)
    norms = x.norm(dim=-1)
    threshold = float(norms[1:].sort().values[-3:-1].mean())
    sae = lk.sae.load(folder(tmp_path / "it", measured={"typical_norm": threshold / 2, "outlier": 2.0}))
    changed = stream(lab, lk.sae.splice(sae))
    same = (changed == x).all(-1)
    assert torch.equal(same, (norms > threshold) | (torch.arange(12) == 0))
    assert int(same.sum()) == 3


@pytest.mark.usefixtures("sae_lens")
def test_other_kinds_steer_and_splice_and_say_that_they_cannot_clamp(lab: lk.Lab, tmp_path: Path) -> None:
    sae = lk.sae.load(library_folder(tmp_path / "it", "gated"))
    plain = stream(lab)
    torch.testing.assert_close(stream(lab, lk.steer(sae[4], 2.0))[1:], plain[1:] + 2.0 * sae[4].direction)
    torch.testing.assert_close(stream(lab, lk.sae.splice(sae))[1:], sae.reconstruct(plain)[1:], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="of kind gated, whose features can't be set one by one; use steer"):
        lk.clamp(sae[4], 1.0)


# together --------------------------------------------------------------------------------------------------------------


def test_edits_compose_in_their_order(lab: lk.Lab, sae: SAE) -> None:
    plain = stream(lab)
    one, other = sae[3].direction, sae[50].direction
    both = stream(lab, lk.steer(sae[3], 2.0), lk.steer(sae[50], -4.0))
    torch.testing.assert_close(both[1:], plain[1:] + 2.0 * one - 4.0 * other, rtol=1e-5, atol=1e-5)
    last = stream(lab, lk.steer(sae[3], 9.0), lk.clamp(sae[3], 25.0))  # the clamp has the last word
    torch.testing.assert_close(sae.encode(last)[1:, 3], torch.full((11,), 25.0), rtol=0, atol=1e-4)
    first = stream(lab, lk.clamp(sae[3], 25.0), lk.steer(sae[3], 9.0))
    torch.testing.assert_close(first[1:], last[1:] + 9.0 * one, rtol=1e-4, atol=1e-4)
    with lab.edit(lk.steer(sae[3], 2.0)), lab.edit(lk.steer(sae[50], -4.0)):  # and nested
        assert torch.equal(lab.trace(TEXT, keep="residual").residual(1), both)
        assert torch.equal(residual(lab, TEXT, 1), both)
    torch.testing.assert_close(
        stream(lab, lk.sae.splice(sae), lk.ablate_head(0, 1))[0], stream(lab, lk.ablate_head(0, 1))[0]
    )


def test_several_texts_at_once_are_as_one_by_one(lab: lk.Lab, sae: SAE) -> None:
    texts = [TEXT, "t9", "t4 t5", "t80 t81 t82 t83 t84"]
    edits = (lk.steer(sae[3], 2.0), lk.clamp(sae[40], 20.0), lk.sae.splice(sae))
    with lab.edit(*edits):
        together = lab.trace(texts, keep="residual")
        for text, trace in zip(texts, together, strict=True):
            alone = lab.trace(text, keep="residual")
            torch.testing.assert_close(trace.residual(2), alone.residual(2), rtol=1e-4, atol=1e-4)
    one = lab.trace("t9", keep="residual").residual(2)
    assert torch.equal(stream(lab, *edits, layer=2, text="t9"), one)  # nothing comes after the first token


def test_edits_are_gone_after_an_exception(lab: lk.Lab, sae: SAE) -> None:
    plain = logits(lab)
    with pytest.raises(KeyError), lab.edit(lk.steer(sae[3], 5.0), lk.clamp(sae[4], 9.0), lk.sae.splice(sae)):  # noqa: PT012
        assert not torch.equal(logits(lab), plain)
        raise KeyError
    assert torch.equal(logits(lab), plain)


@pytest.mark.parametrize("which", ["steer", "own direction", "clamp", "splice"])
def test_another_width_is_refused(which: str, lab: lk.Lab, tmp_path: Path) -> None:
    wide = lk.sae.load(folder(tmp_path / "wide", d_in=48))
    edit = {
        "steer": lambda: lk.steer(wide[3], 1.0),
        "own direction": lambda: lk.steer(torch.ones(48), 1.0, layer=1),
        "clamp": lambda: lk.clamp(wide[3], 1.0),
        "splice": lambda: lk.sae.splice(wide),
    }[which]()
    plain = logits(lab)
    with pytest.raises(BadInput, match=r"48 numbers.* 32"), lab.edit(edit):
        logits(lab)
    assert torch.equal(logits(lab), plain)


@pytest.mark.parametrize("which", ["steer", "clamp", "splice"])
def test_another_models_autoencoder_is_refused_before_anything_is_changed(
    which: str, lab: lk.Lab, tmp_path: Path
) -> None:
    other = lk.sae.load(folder(tmp_path / "other", model="another-model"))
    edit = {"steer": lk.steer(other[3], 1.0), "clamp": lk.clamp(other[3], 1.0), "splice": lk.sae.splice(other)}[which]
    ran = []
    with pytest.raises(BadInput, match="was trained on another-model, and this is llama2"), lab.edit(edit):
        ran.append(1)
    assert not ran
    own = lk.sae.load(folder(tmp_path / "own", model=lab.name))
    with lab.edit(
        {"steer": lk.steer(own[3], 1.0), "clamp": lk.clamp(own[3], 1.0), "splice": lk.sae.splice(own)}[which]
    ):
        logits(lab)


def test_a_direction_of_ones_own_is_of_no_model(lab: lk.Lab, sae: SAE) -> None:
    """What is a tensor can't be checked, not even a feature's; what is a feature is."""
    for own in (torch.ones(WIDTH), sae[3].direction):
        edit = lk.steer(own, 1.0, layer=1)
        assert edit.check is None
        with lab.edit(edit):
            logits(lab)
    for edit in (lk.steer(sae[3], 1.0), lk.clamp(sae[3], 1.0), lk.sae.splice(sae)):
        assert edit.check == sae.belongs


def test_all_are_checked_before_any_is_in_force(lab: lk.Lab, sae: SAE, tmp_path: Path) -> None:
    other = lk.sae.load(folder(tmp_path / "other", model="another-model"))
    before = hooks(lab.model)
    with (
        pytest.raises(BadInput, match="was trained on another-model"),
        lab.edit(lk.steer(sae[3], 9.0), lk.ablate_head(0, 1), lk.clamp(other[3], 1.0)),
    ):
        pytest.fail("what is refused ran")
    assert hooks(lab.model) == before


def test_splice_takes_an_autoencoder(sae: SAE) -> None:
    for what in (sae[3], 3, None):
        with pytest.raises(BadInput, match="takes an autoencoder"):
            lk.sae.splice(what)


def test_a_model_in_half_precision(tmp_path: Path) -> None:
    lab = make_lab(dtype=torch.bfloat16)
    sae = lk.sae.load(folder(tmp_path / "it"))
    plain = stream(lab)
    assert torch.equal(plain, plain.bfloat16().to(plain.dtype))  # no finer than the model's numbers
    size = float(plain.abs().max())
    with lab.edit(lk.steer(sae[3], 0)):
        assert torch.equal(logits(lab), logits(make_lab(dtype=torch.bfloat16)))
    steered = stream(lab, lk.steer(sae[3], 4.0)).float()
    torch.testing.assert_close(steered[1:], plain[1:].float() + 4.0 * sae[3].direction, rtol=0, atol=0.02 * size)
    clamped = stream(lab, lk.clamp(sae[3], 30.0)).float()
    torch.testing.assert_close(sae.encode(clamped)[1:, 3], torch.full((11,), 30.0), rtol=0.02, atol=0)
    rebuilt = stream(lab, lk.sae.splice(sae)).float()
    torch.testing.assert_close(rebuilt[1:], sae.reconstruct(plain)[1:], rtol=0.02, atol=0.02 * size)
    assert torch.equal(stream(lab, lk.sae.splice(sae, error=True)), plain)
    off = stream(lab, lk.clamp(sae[3], 0))
    on = sae.encode(plain)[:, 3] > 0
    on[0] = False
    assert torch.equal(off[~on], plain[~on])


# while generating ------------------------------------------------------------------------------------------------------


def generated(lab: lk.Lab, tokens: int, cache: bool = True) -> tuple[list[int], Tensor, list[Tensor]]:
    """Ids of the text in all, the scores of each step, and what entered layer 1 in each pass, after the edits."""
    seen: list[Tensor] = []

    def keep(_module: Any, args: Any, keywords: Any) -> None:
        seen.append((args[0] if args else keywords["hidden_states"])[0].detach().clone())

    handle = lab.anatomy.layers[1].module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        prompt = torch.tensor([[5, 99, 17, 30]])
        out = lab.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            use_cache=cache,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        handle.remove()
    return out.sequences[0].tolist(), torch.cat(out.logits), seen


@pytest.mark.parametrize("family", LABS)
@pytest.mark.parametrize("which", ["steer", "clamp", "splice"])
def test_generating_with_a_cache_is_as_reading_the_whole_text_anew(
    family: str, which: str, labs: dict[str, lk.Lab], sae: SAE
) -> None:
    lab = labs[family]
    edit = {"steer": lk.steer(sae[12], 30.0), "clamp": lk.clamp(sae[12], 30.0), "splice": lk.sae.splice(sae)}[which]
    unedited, plain_scores, _ = generated(lab, 6)
    with lab.edit(edit):
        ids, scores, seen = generated(lab, 6)
        again, uncached, _ = generated(lab, 6, cache=False)
        whole = lab.trace(ids, keep=("residual", "logits"))
    assert [len(x) for x in seen] == [4, 1, 1, 1, 1, 1]  # the cache is used
    assert ids == again
    torch.testing.assert_close(scores, uncached, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, whole.logits[3:9], rtol=1e-4, atol=1e-4)
    x = torch.cat(seen)
    torch.testing.assert_close(x, whole.residual(1)[:9], rtol=1e-4, atol=1e-4)
    # and against the unedited model's stream on the same tokens: the first token as it was, all others changed
    plain = lab.trace(ids, keep="residual").residual(1)[:9]
    torch.testing.assert_close(x[0], plain[0], rtol=1e-5, atol=1e-5)
    if which == "steer":
        torch.testing.assert_close(x[1:], plain[1:] + 30.0 * sae[12].direction, rtol=1e-4, atol=1e-4)
    elif which == "clamp":
        torch.testing.assert_close(sae.encode(x)[1:, 12], torch.full((8,), 30.0), rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(x[1:], sae.reconstruct(plain)[1:], rtol=1e-4, atol=1e-4)
    assert float((scores[0] - plain_scores[0]).abs().max()) > 1e-2
    assert ids[:4] == unedited[:4]


def test_labs_own_generate_is_steered(tiny_lab: lk.Lab, sae: SAE) -> None:
    """Each token chosen is the most probable one of the steered model that reads all before it anew."""
    prompt = "the cat sat on the"
    edit = lk.steer(sae[12], 60.0)
    plain = tiny_lab.generate(prompt, max_new_tokens=5, chat=False)
    with tiny_lab.edit(edit):
        steered = tiny_lab.generate(prompt, max_new_tokens=5, chat=False)
        ids = list(steered.prompt_ids)
        for step, chosen in enumerate(steered.ids):
            scores = tiny_lab.trace(ids, keep="logits").logits[-1].log_softmax(-1)
            assert int(scores.argmax()) == chosen
            assert float(scores[chosen]) == pytest.approx(float(steered.logprobs[step]), abs=1e-4)
            ids.append(chosen)
    assert len(steered.ids) == 5
    assert abs(float(steered.logprobs[0] - plain.logprobs[0])) > 1e-3 or steered.ids[0] != plain.ids[0]
    with tiny_lab.edit(lk.steer(sae[12], 0)):
        again = tiny_lab.generate(prompt, max_new_tokens=5, chat=False)
    assert again.ids == plain.ids
    assert torch.equal(again.logprobs, plain.logprobs)
