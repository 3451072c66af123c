"""What enters a layer is what a Trace says, for one text or many, and the features found are the autoencoder's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dictionaries import FEATURES, PLAIN, folder, hooks, make_lab
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.sae.reading import Features, residual, residuals
from labkit.trace import running

TEXT = "t5 t99 t17 t30 t42 t8 t61 t5 t3 t77 t20 t11"
TEXTS = ["t5 t6 t7", TEXT, "t9", "t80 t81 t82 t83 t84 t85 t86", "t9 t10"]
OF_A_KIND = (
    "llama3",
    "gpt2",
    "gpt_neox",
    "gemma2",
    "gemma3",
    "qwen2",
    "mistral",
    "opt",
    "bloom",
    "falcon_multi_query",
    "gpt_oss",
    "granitemoe",
)


def rows(texts: list[str] = TEXTS) -> list[list[int]]:
    return [[int(word[1:]) for word in text.split()] for text in texts]


# the residual stream ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted({*OF_A_KIND, *FAMILIES, *UNUSUAL}))
def test_it_is_what_a_trace_says_and_texts_run_together_are_as_one_by_one(family: str) -> None:
    lab = make_lab(family)
    if reason := lab.support().get("residual"):
        assert family not in OF_A_KIND, reason
        for layer in (0, 1, len(lab.anatomy.layers)):  # and refused alike
            with pytest.raises(Unavailable, match=re.escape(reason)):
                residual(lab, TEXT, layer)
        return
    before = hooks(lab.model)
    whole = lab.trace(TEXT, keep="residual")
    alone = {text: lab.trace(text, keep="residual") for text in TEXTS}
    layers = len(lab.anatomy.layers)
    for layer in range(layers + 1):
        found = residual(lab, TEXT, layer)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        torch.testing.assert_close(found, whole.residual(layer).float(), rtol=1e-6, atol=1e-6)
        together = list(residuals(lab, rows(), layer))
        assert [len(x) for x in together] == [3, 12, 1, 7, 2]
        for text, x in zip(TEXTS, together, strict=True):
            wanted = alone[text].residual(layer).float()
            torch.testing.assert_close(x, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    assert float((whole.residual(0) - whole.residual(layers)).abs().max()) > 0.1  # layers are not all alike
    assert hooks(lab.model) == before
    torch.testing.assert_close(lab.trace(TEXT, keep="residual").residual(layers), whole.residual(layers))


def test_texts_are_what_a_trace_takes() -> None:
    lab = make_lab()
    wanted = residual(lab, TEXT, 1)
    ids = rows([TEXT])[0]
    for what in (ids, torch.tensor(ids), torch.tensor([ids])):
        assert torch.equal(residual(lab, what, 1), wanted)
    for bad in ("", [], "t5 " * 129):
        with pytest.raises(BadInput):
            residual(lab, bad, 1)


def test_layers_after_do_not_run() -> None:
    lab = make_lab()
    lab.anatomy  # noqa: B018  found before, by a pass of its own
    ran = []
    handles = [
        layer.module.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(lab.anatomy.layers)
    ]
    for layer, wanted in ((0, []), (1, [0]), (2, [0, 1])):
        ran.clear()
        residual(lab, TEXT, layer)
        assert ran == wanted
    for handle in handles:
        handle.remove()


def test_a_layers_number_may_be_numpys() -> None:
    lab = make_lab()
    assert torch.equal(residual(lab, TEXT, np.int64(1)), residual(lab, TEXT, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [-1, 3, 100, 1.0, True, "1"])
def test_a_layer_that_is_not_there(layer: Any) -> None:
    lab = make_lab()
    with pytest.raises(
        BadInput, match=f"layer={layer!r} can't be used; give a layer that it enters in llama2, 0 to 1, or 2 for"
    ):
        residual(lab, TEXT, layer)
    with pytest.raises(BadInput, match="or 2 for what leaves the last"):
        list(residuals(lab, rows(), layer))


def test_as_many_rows_as_fit_run_in_a_pass_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    wanted = list(residuals(lab, rows(), 1))
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", 14)
    shapes = []
    lab.anatomy  # noqa: B018
    running.answers_in_lists(lab.model)
    handle = lab.model.model.register_forward_pre_hook(
        lambda _m, _a, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    found = list(residuals(lab, rows(), 1))
    handle.remove()
    # 3 and 12 don't fit in 14; nor do 12 and 1, 24 with the padding; 1 and 7 do, 14; 7 and 2 don't with them
    assert shapes == [(1, 3), (1, 12), (2, 7), (1, 2)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    shapes.clear()
    monkeypatch.setitem(running.TOKENS_A_PASS, "cpu", 5)  # a row longer than that runs alone
    assert [len(x) for x in residuals(lab, rows(), 1)] == [3, 12, 1, 7, 2]
    assert list(residuals(lab, [], 1)) == []


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_nothing_is_left_on_a_model_that_breaks(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    wanted = residual(lab, TEXT, layer)
    before = hooks(lab.model)

    class Broken(Exception):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(lab.model.model.embed_tokens, "forward", fail)
        with pytest.raises(Broken):
            residual(lab, TEXT, layer)
    assert hooks(lab.model) == before
    assert torch.equal(residual(lab, TEXT, layer), wanted)


@pytest.mark.parametrize("family", ["llama2", "gpt2", "granitemoe"])
def test_edits_in_force_are_seen(family: str) -> None:
    lab = make_lab(family)
    added = torch.linspace(-1, 1, 32)
    for layer in (0, 1, 2):
        plain = residual(lab, TEXT, layer)
        with lab.edit(lk.patch(f"residual[{layer}] @ 2:", lambda x: x + added)):
            changed = residual(lab, TEXT, layer)
            many = list(residuals(lab, rows(["t5 t6", TEXT]), layer))
            torch.testing.assert_close(changed, lab.trace(TEXT, keep="residual").residual(layer), rtol=1e-5, atol=1e-5)
        assert torch.equal(changed[:2], plain[:2])
        torch.testing.assert_close(changed[2:], plain[2:] + added)
        torch.testing.assert_close(many[1], changed, rtol=1e-5, atol=1e-5)
        assert torch.equal(residual(lab, TEXT, layer), plain)
    with lab.edit(lk.ablate_head(0, 1)):
        assert not torch.equal(residual(lab, TEXT, 1), plain)


def test_half_precision_comes_as_float32() -> None:
    lab = make_lab(dtype=torch.bfloat16)
    found = residual(lab, TEXT, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, lab.trace(TEXT, keep="residual").residual(2).float())


# features of a text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
def test_features_are_those_the_autoencoder_finds_in_the_residual_stream(kind: str, tmp_path: Path) -> None:
    lab = make_lab()
    for layer in (0, 1, 2):
        sae = lk.sae.load(folder(tmp_path / "it", kind, layer=layer))
        found = lk.sae.features(lab, sae, TEXT)
        x = lab.trace(TEXT, keep="residual").residual(layer)
        dense = sae.encode(x)
        assert isinstance(found, Features)
        assert found.tokens == [f"t{i} " for i in found.ids]
        assert found.ids == rows([TEXT])[0]
        assert len(found) == 12
        assert found.defined.tolist() == [False] + [True] * 11
        # each feature by itself: what encode says, and NaN at the first token
        for feature in range(FEATURES):
            of = found.of(feature)
            assert bool(of[0].isnan())
            torch.testing.assert_close(of[1:], dense[1:, feature], rtol=1e-5, atol=1e-5)
        assert torch.equal(found.of(sae[7])[1:], found.of(7)[1:])
        # token by token
        assert found.top(0) == []
        for token in range(1, 12):
            strongest = dense[token].topk(3)
            top = found.top(token, 3)
            assert [f.index for f, _ in top] == strongest.indices.tolist()
            torch.testing.assert_close(torch.tensor([v for _, v in top]), strongest.values, rtol=1e-5, atol=1e-5)
            assert len(found.top(token, 1_000)) == int((dense[token] > 0).sum())
        assert found.top(-1) == found.top(11)
        assert found.top(-12) == []
        assert len(found.top(5)) == 5
        # what is left over
        left = (x - sae.reconstruct(x)).square().sum(-1) / (x - sae.decoder_bias).square().sum(-1)
        assert bool(found.unexplained[0].isnan())
        torch.testing.assert_close(found.unexplained[1:], left[1:], rtol=1e-4, atol=1e-5)


def test_the_strongest_anywhere_and_the_table(tmp_path: Path) -> None:
    lab, sae = make_lab(), lk.sae.load(folder(tmp_path / "it"))
    found = lk.sae.features(lab, sae, TEXT)
    dense = sae.encode(lab.trace(TEXT, keep="residual").residual(1))
    dense[0] = 0.0
    peaks = dense.max(0)
    order = peaks.values.topk(6)
    strongest = found.strongest(6)
    assert [f.index for f, _, _ in strongest] == order.indices.tolist()
    assert [token for _, _, token in strongest] == peaks.indices[order.indices].tolist()
    torch.testing.assert_close(torch.tensor([v for _, v, _ in strongest]), order.values, rtol=1e-5, atol=1e-5)
    assert len(found.strongest(1_000)) == int((peaks.values > 0).sum())
    table = found.table
    assert list(table.columns) == ["position", "token", "feature", "activation"]
    assert len(table) == int((dense > 0).sum())
    for row in table.itertuples():
        assert row.token == found.tokens[row.position]
        assert row.activation == pytest.approx(float(dense[row.position, row.feature]), rel=1e-5)


def test_tokens_of_an_outlying_norm_have_no_features(tmp_path: Path) -> None:
    lab = make_lab()
    norms = lab.trace(TEXT, keep="residual").residual(1).norm(dim=-1)
    typical = float(norms.median())
    threshold = float(norms[1:].sort().values[-3:-1].mean())  # above it are two tokens
    sae = lk.sae.load(folder(tmp_path / "it", measured={"typical_norm": typical, "outlier": threshold / typical}))
    found = lk.sae.features(lab, sae, TEXT)
    wanted = norms <= threshold
    wanted[0] = False
    assert int((~wanted[1:]).sum()) == 2
    assert torch.equal(found.defined, wanted)
    for token in range(12):
        assert bool(found.top(token)) == bool(wanted[token])
    out = (~wanted).nonzero().flatten().tolist()
    assert not set(found.table["position"]) & set(out)
    assert not {token for _, _, token in found.strongest(1_000)} & set(out)
    assert torch.equal(found.of(3).isnan(), ~wanted)
    assert torch.equal(found.unexplained.isnan(), ~wanted)
    assert not found.values[~wanted].any()


def test_a_list_of_texts_and_edits(tmp_path: Path) -> None:
    lab, sae = make_lab(), lk.sae.load(folder(tmp_path / "it"))
    many = lk.sae.features(lab, sae, TEXTS)
    assert [f.ids for f in many] == rows()
    for one, text in zip(many, TEXTS, strict=True):
        alone = lk.sae.features(lab, sae, text)
        assert torch.equal(one.indices, alone.indices)
        torch.testing.assert_close(one.values, alone.values, rtol=1e-5, atol=1e-5)
    assert many[2].top(0) == []  # a text of one token
    assert many[2].strongest() == []
    assert len(many[2].table) == 0
    assert lk.sae.features(lab, sae, [TEXT])[0].ids == many[1].ids
    with lab.edit(lk.clamp(sae[9], 50.0)):
        changed = lk.sae.features(lab, sae, TEXT)
    assert [changed.top(token, 1)[0][0].index for token in range(1, 12)] == [9] * 11
    assert [many[1].top(token, 1)[0][0].index for token in range(1, 12)] != [9] * 11


def test_what_a_tokenizer_gives_for_several_texts_is_these_texts(tmp_path: Path) -> None:
    lab, sae = make_lab("llama3"), lk.sae.load(folder(tmp_path / "sae"))
    ids = rows()[1:3]
    width = max(map(len, ids))
    given = {
        "input_ids": [row + [0] * (width - len(row)) for row in ids],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in ids],
    }
    found, expected = lk.sae.features(lab, sae, given), lk.sae.features(lab, sae, ids)
    assert [each.ids for each in found] == ids
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.values, other.values)


def test_another_autoencoders_feature_is_refused_and_an_equal_ones_is_taken(tmp_path: Path) -> None:
    lab, sae = make_lab(), lk.sae.load(folder(tmp_path / "it"))
    found = lk.sae.features(lab, sae, TEXT)
    at_work = found.strongest(1)[0][0].index
    other = replace(sae, name="other", decoder=sae.decoder.roll(1, 0))
    with pytest.raises(BadInput, match=rf"Feature\({at_work}, 'other'\) is of another autoencoder than these features"):
        found.of(other[at_work])
    for equal in (lk.sae.load(folder(tmp_path / "copy")), replace(sae, decoder=sae.decoder.clone(), name="copy")):
        torch.testing.assert_close(found.of(equal[at_work]), found.of(at_work), equal_nan=True)
    assert float(found.of(at_work)[1:].max()) > 0
    torch.testing.assert_close(found.of(other[at_work].index), found.of(at_work), equal_nan=True)  # a number is its own


@pytest.mark.parametrize(
    ("what", "shown"), [("labkit-sae", "'labkit-sae'"), (3, "3"), (None, "a NoneType"), (torch.ones(3), "a Tensor")]
)
def test_features_are_those_of_an_autoencoder(what: Any, shown: str) -> None:
    with pytest.raises(BadInput, match=rf"This takes an autoencoder, such as lk\.sae\.load\(\), and {shown} is none"):
        lk.sae.features(make_lab(), what, TEXT)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    lab, sae = make_lab(), lk.sae.load(folder(tmp_path / "it"))
    found = lk.sae.features(lab, sae, TEXT)
    for token in (12, -13):
        with pytest.raises(BadInput, match=f"no token {token}: this text has tokens 0 to 11"):
            found.top(token)
    with pytest.raises(BadInput, match="no feature 80"):
        found.of(80)
    assert repr(found).startswith("Features(12 tokens")
    for bad in ("", []):
        with pytest.raises(BadInput, match="nothing to trace"):
            lk.sae.features(lab, sae, bad)
    wide = lk.Lab(build(FAMILIES["gpt2"]), Tokens(), name="gpt2")
    with pytest.raises(BadInput, match="was trained on llama2"):
        lk.sae.features(wide, lk.sae.load(folder(tmp_path / "other", model="llama2")), TEXT)
