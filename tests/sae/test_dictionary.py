"""Autoencoders compute what sae-lens's own do, without waiting for it, and know where they belong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dictionaries
import numpy as np
import pytest
import torch
from dictionaries import FEATURES, PLAIN, WIDTH, K, folder, library_folder, make_lab
from torch import Tensor

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, Feature

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def activations(*shape: int, seed: int = 3) -> Tensor:
    return 1.5 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def by_formula(kind: str, x: Tensor, *, subtracts: bool = True) -> tuple[Tensor, Tensor]:
    """Activations and reconstruction of the random autoencoder, row by row."""
    w = dictionaries.weights(kind)
    found = torch.zeros(len(x), FEATURES)
    for row, vector in enumerate(x):
        before = (vector - w["b_dec"] * subtracts) @ w["W_enc"] + w["b_enc"]
        for feature in before.argsort(descending=True)[: K if kind == "topk" else FEATURES].tolist():
            if before[feature] > (w["threshold"][feature] if kind == "jumprelu" else 0.0):
                found[row, feature] = before[feature]
    return found, found @ w["W_dec"] + w["b_dec"]


# the arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("subtracts", [True, False])
def test_the_plain_kinds_compute_their_formula(kind: str, subtracts: bool, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path, kind, changed={"apply_b_dec_to_input": subtracts}))
    x = activations(20)
    wanted, rebuilt = by_formula(kind, x, subtracts=subtracts)
    found = sae.encode(x)
    torch.testing.assert_close(found, wanted, **TOLERANCE)
    assert 0 < int((found > 0).sum(-1).min()) <= int((found > 0).sum(-1).max()) < FEATURES
    torch.testing.assert_close(sae.decode(found), rebuilt, **TOLERANCE)
    torch.testing.assert_close(sae.reconstruct(x), rebuilt, **TOLERANCE)
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 1, 4)])
def test_any_number_of_dimensions_goes(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path, kind))
    x = activations(*shape)
    flat = x.reshape(-1, WIDTH)
    for function, width in ((sae.encode, FEATURES), (sae.reconstruct, WIDTH), (sae.pre_activations, FEATURES)):
        found = function(x)
        assert found.shape == (*shape, width)
        torch.testing.assert_close(found.reshape(-1, width), function(flat), **TOLERANCE)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_active_ones_are_those_of_encode_the_largest_first(kind: str, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path, kind))
    with torch.no_grad():
        sae.encoder_bias -= 1.5  # so that some rows have fewer features than k
    x = torch.cat([activations(12), 0.4 * activations(2)])
    values, indices = sae.active(x)
    dense = sae.encode(x)
    counts = (dense > 0).sum(-1)
    assert values.shape == indices.shape == (14, K if kind == "topk" else int(counts.max()))
    assert torch.equal((indices >= 0).sum(-1), counts)
    assert counts.min() < counts.max()
    assert bool((values[:, :-1] >= values[:, 1:]).all())
    assert not values[indices < 0].any()
    again = torch.zeros(14, FEATURES + 1).scatter(-1, indices % (FEATURES + 1), values)[:, :-1]  # -1 is the last column
    torch.testing.assert_close(again, dense, **TOLERANCE)


def test_half_precision_comes_back_as_float32(tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path))
    x = activations(4).bfloat16()
    assert torch.equal(sae.encode(x), sae.encode(x.float()))
    assert sae.reconstruct(x).dtype == torch.float32


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("width", [WIDTH - 1, 1, FEATURES])
def test_vectors_of_another_width_are_refused(kind: str, width: int, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path / "it", kind))
    for function in (sae.encode, sae.reconstruct, sae.active, sae.pre_activations):
        with pytest.raises(BadInput, match=f"reads vectors of 32 numbers, and these have {width}"):
            function(torch.zeros(3, width))


# and sae-lens's own ----------------------------------------------------------------------------------------------------

LIBRARY = [
    ("topk", {"k": 5}),
    ("topk", {"k": 5, "apply_b_dec_to_input": False}),
    ("jumprelu", {}),
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
]
OTHERS = [
    ("gated", {}),
    ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    ("gated", {"normalize_activations": "layer_norm", "apply_b_dec_to_input": False}),
    ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True, "normalize_activations": "constant_norm_rescale"}),
    ("abstopk", {"k": 5}),
    ("abstopk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"k": 5, "normalize_activations": "layer_norm"}),
    ("matching_pursuit", {"max_iterations": 5}),
]


def assert_equals_library(sae: SAE, library: Any) -> None:
    x = activations(30)
    with torch.no_grad():
        wanted, rebuilt = library.encode(x), library(x)
        assert bool((wanted > 0).any())
        assert bool((wanted < 0).any()) == sae.signed
        torch.testing.assert_close(sae.encode(x), wanted, **TOLERANCE)
        torch.testing.assert_close(sae.reconstruct(x), rebuilt, **TOLERANCE)
        values, indices = sae.active(x)
        found = torch.zeros(30, FEATURES + 1).scatter(-1, indices % (FEATURES + 1), values)[:, :-1]
        torch.testing.assert_close(found, wanted, **TOLERANCE)
    assert len(sae) == sae.features == FEATURES
    assert sae.d_in == WIDTH


@pytest.mark.parametrize("kind", PLAIN)
def test_a_folder_written_by_hand_is_the_same_to_sae_lens(kind: str, tmp_path: Path, sae_lens: Any) -> None:
    path = folder(tmp_path / "it", kind)
    sae = lk.sae.load(path)
    library = sae_lens.SAE.load_from_disk(path)
    assert_equals_library(sae, library)
    x = activations(5)
    torch.testing.assert_close(sae.decode(sae.encode(x)), library.decode(library.encode(x)).detach(), **TOLERANCE)
    torch.testing.assert_close(sae.sae.W_enc.detach(), sae.encoder)  # the library's own is at hand
    assert type(sae.sae) is type(library)
    assert sae.sae is sae.sae


@pytest.mark.parametrize(("kind", "settings"), LIBRARY)
def test_a_folder_written_by_sae_lens_is_computed_here(
    kind: str, settings: dict[str, Any], tmp_path: Path, sae_lens: Any
) -> None:
    path = library_folder(tmp_path / "it", kind, **settings)
    sae = lk.sae.load(path)
    assert sae._library is None
    assert (sae.architecture, sae.layer, sae.k) == (kind, 1, settings.get("k"))
    assert_equals_library(sae, sae_lens.SAE.load_from_disk(path))


@pytest.mark.parametrize(("kind", "settings"), OTHERS)
def test_other_kinds_are_as_sae_lens_computes_them(
    kind: str, settings: dict[str, Any], tmp_path: Path, sae_lens: Any
) -> None:
    path = library_folder(tmp_path / "it", kind, **settings)
    sae = lk.sae.load(path)
    library = sae_lens.SAE.load_from_disk(path)
    assert type(sae.sae) is type(library)
    assert_equals_library(sae, library)
    x = activations(5)
    normalized = settings.get("normalize_activations", "none") != "none"
    assert sae.linear == (not normalized and kind in ("standard", "topk", "jumprelu", "abstopk"))
    if normalized:  # what the activations add up to depends on the token
        with pytest.raises(BadInput, match=r"normalizes each token .*; use sae\.reconstruct\(x\)"):
            sae.decode(sae.encode(x))
    else:
        torch.testing.assert_close(sae.decode(sae.encode(x)), library.decode(library.encode(x)).detach(), **TOLERANCE)
        one = torch.nn.functional.one_hot(torch.tensor(4), FEATURES).float()
        with torch.no_grad():
            adds = library.decode(one) - library.decode(0 * one)
        torch.testing.assert_close(sae[4].direction, adds, **TOLERANCE)
    assert sae.layer == 1
    if sae.linear:  # and what the detector reads is the pre-activation
        read = x - sae.decoder_bias if sae.subtracts_bias else x
        constant = sae.pre_activations(0 * x)[:, 4] - (read * 0 + (0 * x - sae.decoder_bias)) @ sae[4].detector
        torch.testing.assert_close(sae.pre_activations(x)[:, 4], read @ sae[4].detector + constant, **TOLERANCE)
    if kind in ("gated", "matching_pursuit"):
        with pytest.raises(BadInput, match="no single pre-activation"):
            sae.pre_activations(x)
    # a second reconstruction of the same tokens, and one of others in between, are the same
    first = sae.reconstruct(x)
    found = sae.active(x)
    sae.encode(2 * x)
    torch.testing.assert_close(sae.reconstruction(x, *found), first, **TOLERANCE)
    with pytest.raises(BadInput, match="reads vectors of 32 numbers"):
        sae.encode(torch.zeros(2, 31))


def test_old_configurations_that_keep_the_k_largest_do_so_here(tmp_path: Path, sae_lens: Any) -> None:
    """Before sae-lens 6 these called themselves standard, and named the k largest as their activation function."""
    path = folder(tmp_path / "it", "standard")
    old = {
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "old",
        "hook_name": "blocks.1.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 6},
    }
    (path / "cfg.json").write_text(json.dumps(old))
    sae = lk.sae.load(path)
    assert (sae.model, sae.layer) == ("old", 1)
    assert int((sae.encode(activations(9)) > 0).sum(-1).max()) == 6
    assert_equals_library(sae, sae_lens.SAE.load_from_disk(path))


IMPORTS = """
import sys
import labkit.sae
assert "torch" not in sys.modules, "labkit.sae imports torch"
from labkit.sae import dictionary, interventions, loading, reading, sparse, training
heavy = [name for name in ("sae_lens", "transformer_lens", "wandb") if name in sys.modules]
assert not heavy, heavy
"""


def test_the_room_does_not_import_sae_lens() -> None:
    """It takes ten seconds and more. In a process of its own: in this one others have imported it."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", PLAIN)
def test_the_plain_kinds_are_used_without_sae_lens(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("sae_lens.")] + ["sae_lens"]:
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it now gets an ImportError
    lab = make_lab()
    sae = lk.sae.load(folder(tmp_path, kind))
    feature = lk.sae.features(lab, sae, "t5 t6 t7").strongest(1)[0][0]
    with lab.edit(lk.steer(feature, 2.0), lk.clamp(sae[3], 1.0), lk.sae.splice(sae)):
        lab.trace("t5 t6 t7")
    with pytest.raises(ImportError):
        _ = sae.sae


# features by number ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sae(tmp_path: Path) -> SAE:
    return lk.sae.load(folder(tmp_path / "an-autoencoder"))


def test_a_feature_is_its_row_and_its_column(sae: SAE) -> None:
    w = dictionaries.weights("topk")
    for index in (0, 7, FEATURES - 1, np.int64(7)):
        feature = sae[index]
        assert isinstance(feature, Feature)
        assert feature.index == index
        assert type(feature.index) is int
        assert torch.equal(feature.direction, w["W_dec"][index])
        assert torch.equal(feature.detector, w["W_enc"][:, index])
        assert feature == sae[int(index)]
    assert sae[3] != sae[4]
    assert [f.index for f in sae] == list(range(FEATURES))


@pytest.mark.parametrize("index", [FEATURES, 10**30, -1, -FEATURES])
def test_a_feature_that_is_not_there(sae: SAE, index: int) -> None:
    with pytest.raises(BadInput, match=r"There is no feature .* has features 0 to 79\."):
        sae[index]


@pytest.mark.parametrize("index", [True, False, 1.0, "3", None, slice(0, 3)])
def test_a_feature_asked_for_by_no_number(sae: SAE, index: Any) -> None:
    with pytest.raises(BadInput, match=r"There is no feature .* has features 0 to 79"):
        sae[index]


def test_it_tells_what_it_is(tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path / "it", model="tiny"))
    assert repr(sae).startswith("SAE(")
    for part in ("80 features of tiny", "entering layer 1", "topk 8"):
        assert part in repr(sae)
    assert "Feature(5" in repr(sae[5])
    assert "an unnamed model" in repr(lk.sae.load(folder(tmp_path / "other", "jumprelu")))


# where features are defined --------------------------------------------------------------------------------------------


def test_defined_is_all_but_the_first_and_the_outliers(tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path / "it", measured={"typical_norm": 2.0, "outlier": 3.0}))
    assert (sae.typical_norm, sae.outlier) == (2.0, 3.0)
    x = torch.nn.functional.normalize(activations(6), dim=-1)
    lengths = torch.tensor([1.0, 1.0, 5.99, 6.01, 100.0, 0.0])
    assert sae.defined(x * lengths[:, None]).tolist() == [False, True, True, False, False, True]
    assert sae.defined(x[:0]).tolist() == []
    plain = lk.sae.load(folder(tmp_path / "plain"))  # which does not say what is typical
    assert plain.defined(x * lengths[:, None]).tolist() == [False, True, True, True, True, True]


# which model it belongs to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama2", "gpt2", "gpt_neox", "mpt"])
def test_belongs_to_a_model_of_its_width_depth_and_name(family: str, tmp_path: Path) -> None:
    lab = make_lab(family)
    for layer in (0, 1, 2):
        lk.sae.load(folder(tmp_path / "it", layer=layer)).belongs(lab)
        lk.sae.load(folder(tmp_path / "it", layer=layer, model=family)).belongs(lab)
    with pytest.raises(
        BadInput, match=r"reads 33 numbers a token and .* has 32: they don't belong together; load the model"
    ):
        lk.sae.load(folder(tmp_path / "it", d_in=33)).belongs(lab)
    with pytest.raises(BadInput, match=rf"enters layer 3 and {family} has 2 layers: .*; load lk\.load\('gpt5'\)"):
        lk.sae.load(folder(tmp_path / "it", layer=3, model="gpt5")).belongs(lab)


def test_another_models_autoencoder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    lab, path = make_lab(), str(folder(tmp_path / "it", model="somebody/other-model"))
    sae = lk.sae.load(path)
    with pytest.raises(BadInput, match="was trained on somebody/other-model, and this is llama2") as caught:
        sae.belongs(lab)
    assert "load lk.load('somebody/other-model')" in str(caught.value)
    assert f"lk.sae.load({path!r}, model='llama2')" in str(caught.value)
    with pytest.raises(BadInput, match="was trained on"):
        lk.sae.features(lab, sae, "t5 t6")
    renamed = lk.sae.load(path, model="llama2")  # as the message says
    assert renamed.model == "llama2"
    renamed.belongs(lab)


@pytest.mark.parametrize(
    ("model", "name", "same"),
    [
        ("gpt2-small", "openai-community/gpt2", True),
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b", True),
        ("qwen3-0.6b", "/somewhere/me/Qwen3-0.6B.gguf", True),
        ("gpt2-small", "gpt2-medium", False),
        ("qwen3-0.6b", "qwen3-1.7b", False),
    ],
)
def test_one_model_has_several_names(model: str, name: str, same: bool, tmp_path: Path) -> None:
    tiny = make_lab()
    lab = lk.Lab(tiny.model, tiny.tokenizer, name=name)
    sae = lk.sae.load(folder(tmp_path / "it", model=model))
    if same:
        sae.belongs(lab)
    else:
        with pytest.raises(BadInput, match="its features would mean nothing here"):
            sae.belongs(lab)


@pytest.mark.parametrize("kind", PLAIN)
def test_one_trained_on_a_centred_stream_reads_a_centred_stream(kind: str, tmp_path: Path) -> None:
    """As gpt2-small-res-jb was: what all of a token's numbers share is taken away before, and put back afterwards."""
    options = {"hook_name": "blocks.1.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = lk.sae.load(folder(tmp_path / "it", kind, changed={"metadata": options}))
    plain = lk.sae.load(folder(tmp_path / "plain", kind))
    assert sae.centred
    assert not plain.centred
    x = activations(7)
    mean = x.mean(-1, keepdim=True)
    torch.testing.assert_close(sae.encode(x), plain.encode(x - mean), **TOLERANCE)
    torch.testing.assert_close(sae.reconstruct(x), plain.reconstruct(x - mean) + mean, **TOLERANCE)
