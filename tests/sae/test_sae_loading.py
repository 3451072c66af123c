"""Autoencoders come from folders and releases; what is damaged or unknown is refused with a reason, and nothing is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dictionaries
import pytest
import safetensors.torch
import torch
from dictionaries import FEATURES, PLAIN, WIDTH, folder, library_folder
from safetensors.torch import load_file, save_file

import labkit as lk
from labkit.errors import BadInput, BadModelFile, ModelNotFound, Unavailable
from labkit.sae import loading


def weights_file(path: Path) -> Path:
    return path / "sae_weights.safetensors"


def change(path: Path, **entries: Any) -> None:
    """Entries of cfg.json set otherwise, or taken away (None)."""
    settings = json.loads((path / "cfg.json").read_text()) | entries
    (path / "cfg.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def change_weights(path: Path, function: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(weights_file(path))
    function(tensors)
    save_file(tensors, weights_file(path))


# from a folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
def test_a_folder_is_read_as_it_is_written(kind: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", kind, model="tiny", measured={"typical_norm": 4.5, "outlier": 3})
    for asked in (path, str(path)):
        sae = lk.sae.load(asked)
        assert sae.name == str(path)
        assert (sae.model, sae.layer, sae.architecture) == ("tiny", 1, kind)
        assert (sae.d_in, sae.features, len(sae)) == (WIDTH, FEATURES, FEATURES)
        assert (sae.typical_norm, sae.outlier) == (4.5, 3.0)
        assert sae.k == (dictionaries.K if kind == "topk" else None)
        assert sae.folder == path
        w = dictionaries.weights(kind)
        for found, key in (
            (sae.encoder, "W_enc"),
            (sae.encoder_bias, "b_enc"),
            (sae.decoder, "W_dec"),
            (sae.decoder_bias, "b_dec"),
        ):
            assert torch.equal(found, w[key])
        assert torch.equal(sae.threshold, w["threshold"]) if kind == "jumprelu" else sae.threshold is None


def test_a_folder_below_the_working_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "below" / "it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("below/it", "./below/it", Path("below") / "it", "~/below/it"):
        assert len(lk.sae.load(name)) == FEATURES


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.7.hook_resid_pre", 7),
        ("blocks.0.hook_resid_post", 1),
        ("blocks.11.hook_resid_post", 12),
    ],
)
def test_the_layer_is_the_one_it_enters(hook: str, layer: int, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", changed={"metadata": {"hook_name": hook}})
    assert lk.sae.load(path).layer == layer
    old = folder(tmp_path / "old", changed={"metadata": None, "hook_name": hook, "model_name": "gpt2-small"})
    assert lk.sae.load(old).layer == layer
    assert lk.sae.load(old).model == "gpt2-small"


def test_the_model_named_in_the_call_comes_first(tmp_path: Path) -> None:
    named, unnamed = folder(tmp_path / "a", model="theirs"), folder(tmp_path / "b")
    assert lk.sae.load(named).model == "theirs"
    assert lk.sae.load(named, model="mine").model == "mine"
    assert lk.sae.load(unnamed).model is None
    assert lk.sae.load(unnamed, model="mine").model == "mine"


def test_weights_in_half_precision_and_further_tensors(tmp_path: Path) -> None:
    tensors = {k: v.bfloat16() for k, v in dictionaries.weights("topk").items()}
    sae = lk.sae.load(folder(tmp_path / "it", tensors=tensors | {"scale": torch.tensor([torch.nan])}))
    assert sae.encoder.dtype == torch.float32
    assert torch.equal(sae.encoder, tensors["W_enc"].float())


@pytest.mark.parametrize("value", ["3", [3], -1.0, 0, None, float("nan")])
def test_a_norm_that_is_no_number_counts_as_not_said(value: Any, tmp_path: Path) -> None:
    sae = lk.sae.load(folder(tmp_path / "it", measured={"typical_norm": value, "outlier": 3.0}))
    assert (sae.typical_norm, sae.outlier) == (None, 3.0)


# damaged folders -------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    data = weights_file(path).read_bytes()
    weights_file(path).write_bytes(data[: len(data) // 2])


def set_nan(value: float, key: str) -> Callable[[Path], None]:
    return lambda path: change_weights(path, lambda t: t[key].view(-1).__setitem__(-1, value))


def reshaped(key: str, *shape: int) -> Callable[[Path], None]:
    return lambda path: change_weights(path, lambda t: t.__setitem__(key, torch.zeros(shape)))


BEFORE_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {  # nothing of the weights may be read
    "no cfg.json": (lambda p: (p / "cfg.json").unlink(), r"it has no cfg\.json"),
    "no weights": (lambda p: weights_file(p).unlink(), r"it has no sae_weights\.safetensors"),
    "weights are a folder": (lambda p: (weights_file(p).unlink(), weights_file(p).mkdir()), "has no sae_weights"),
    "cfg.json is a list": (lambda p: (p / "cfg.json").write_text("[1, 2]"), "no JSON object"),
    "cfg.json is empty": (lambda p: (p / "cfg.json").write_text(""), "not JSON"),
    "cfg.json is cut off": (lambda p: (p / "cfg.json").write_text('{"d_in": 3'), "not JSON"),
    "cfg.json is no text": (lambda p: (p / "cfg.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "cfg.json is huge": (lambda p: (p / "cfg.json").write_text(" " * 1_000_001), "1,000,001 bytes"),
    "d_in as text": (lambda p: change(p, d_in="32"), "says '32' where d_in is to be a whole number"),
    "no d_in": (lambda p: change(p, d_in=None), "says nothing where d_in"),
    "d_in as bool": (lambda p: change(p, d_in=True), "says True where d_in"),
    "d_sae as float": (lambda p: change(p, d_sae=80.0), r"says 80\.0 where d_sae"),
    "d_sae below zero": (lambda p: change(p, d_sae=-80), "says -80 where d_sae"),
    "huge d_sae": (lambda p: change(p, d_sae=10**12), "says 1000000000000 where d_sae"),
    "large d_sae": (
        lambda p: change(p, d_sae=10**7),
        r"W_enc has shape \[32, 80\] where cfg.json asks for \[32, 10000000\]",
    ),
    "architecture as number": (lambda p: change(p, architecture=3), "no architecture by name"),
    "no k": (lambda p: change(p, k=None), "says nothing where k"),
    "k as text": (lambda p: change(p, k="8"), "says '8' where k"),
    "k is zero": (lambda p: change(p, k=0), "says 0 where k"),
    "k above all": (lambda p: change(p, k=81), "keeps 81 of 80 features"),
    "weights cut off": (cut, "cut off or damaged"),
    "weights empty": (lambda p: weights_file(p).write_bytes(b""), "ends after 0 bytes"),
    "weights are a web page": (lambda p: weights_file(p).write_text("<!doctype html>" + " " * 99), "web page"),
    "no W_dec": (lambda p: change_weights(p, lambda t: t.pop("W_dec")), "has no W_dec"),
    "no b_enc": (lambda p: change_weights(p, lambda t: t.pop("b_enc")), "has no b_enc"),
    "W_dec the wrong way round": (
        reshaped("W_dec", WIDTH, FEATURES),
        r"W_dec has shape \[32, 80\] where .* \[80, 32\]",
    ),
    "b_dec too short": (reshaped("b_dec", WIDTH - 1), r"b_dec has shape \[31\]"),
    "b_enc with a dimension more": (reshaped("b_enc", 1, FEATURES), r"b_enc has shape \[1, 80\]"),
}


def refused(path: Path, said: str, error: type[Exception] = BadModelFile) -> None:
    with pytest.raises(error, match=said) as caught:
        lk.sae.load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("case", BEFORE_WEIGHTS)
def test_a_damaged_folder_is_refused_before_weights_are_read(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, said = BEFORE_WEIGHTS[case]
    path = folder(tmp_path / "it")
    damage(path)
    monkeypatch.setattr(safetensors.torch, "load_file", lambda *_: pytest.fail("the weights were read"))
    refused(path, said)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_refused(kind: str, value: float, tmp_path: Path) -> None:
    for key in dictionaries.weights(kind):
        path = folder(tmp_path / "it", kind)
        set_nan(value, key)(path)
        refused(path, rf"{key} has numbers that are none")


def test_jumprelu_needs_its_thresholds(tmp_path: Path) -> None:
    path = folder(tmp_path / "it", "jumprelu")
    change_weights(path, lambda t: t.pop("threshold"))
    refused(path, "has no threshold")


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.3.hook_mlp_out", "it reads 'blocks.3.hook_mlp_out'"),
        ("blocks.3.attn.hook_z", "it reads"),
        ("blocks.3.hook_resid_mid", "it reads"),
        ("blocks.-1.hook_resid_pre", "it reads"),
        ("blocks.3.hook_resid_pre.extra", "it reads"),
        (None, "does not say where it reads"),
        (3, "does not say where it reads"),
    ],
)
def test_what_reads_something_else_is_unavailable(hook: Any, said: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", changed={"metadata": {"hook_name": hook}})
    refused(path, f"{said}.*labkit attaches autoencoders of the residual stream", Unavailable)


@pytest.mark.parametrize("name", ["gone", "gone/cfg.json"])
def test_a_path_to_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for asked in (tmp_path / name, str(tmp_path / name), f"./{name}", f"../{name}"):
        with pytest.raises(ModelNotFound, match=r"There is no folder .*; give one with cfg\.json"):
            lk.sae.load(asked)


def test_a_file_is_not_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cfg\.json is a file; give the folder"):
        lk.sae.load(folder(tmp_path / "it") / "cfg.json")


@pytest.mark.parametrize("name", [None, "labkit-sae", "a folder", "a path"])
def test_which_of_a_release_is_no_question_to_a_single_one(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path / "it")
    asked = {"a folder": str(path), "a path": path}.get(name or "", name)
    monkeypatch.setattr(loading, "from_folder", lambda *_, **__: pytest.fail("it was opened"))
    said = rf"sae_id says which autoencoder of a release, and {asked or 'labkit-sae'} is a single one; leave it away"
    with pytest.raises(BadInput, match=said):
        lk.sae.load(asked, sae_id="blocks.8.hook_resid_pre")


@pytest.mark.parametrize("name", [3, 3.0, True, b"labkit-sae", ["labkit-sae"], {}])
def test_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(BadInput, match=f"asked for by name or folder, and a {type(name).__name__} is neither"):
        lk.sae.load(name)


# the shipped one -------------------------------------------------------------------------------------------------------


def test_the_shipped_one_is_checked_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.models.files.common import sha256

    path = folder(tmp_path / "labkit-sae", model="labkit-dense")
    monkeypatch.setattr(loading, "ASSETS", tmp_path)

    def damaged() -> None:
        for name in (None, "labkit-sae"):
            with pytest.raises(
                BadModelFile, match=r"labkit-sae, which comes with labkit, is damaged.*install labkit again"
            ):
                lk.sae.load(name)

    damaged()  # without sums
    files = ("cfg.json", "sae_weights.safetensors")
    (path / "SHA256.json").write_text(json.dumps({file: sha256(path / file) for file in files}))
    for name in (None, "labkit-sae"):
        sae = lk.sae.load(name)
        assert (sae.name, sae.model) == ("labkit-sae", "labkit-dense")
    assert lk.sae.load(model="mine").model == "mine"
    for file in files:
        whole = (path / file).read_bytes()
        (path / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        damaged()
        (path / file).unlink()
        damaged()
        (path / file).write_bytes(whole)
    assert len(lk.sae.load()) == FEATURES
    (path / "SHA256.json").write_text("[]")
    damaged()


# through sae-lens ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sae_lens")
class TestThroughTheLibrary:
    def test_damaged_folders_of_other_kinds_are_refused(self, tmp_path: Path) -> None:
        path = library_folder(tmp_path / "it", "gated")
        change(
            path,
            metadata={
                "hook_name": "blocks.0.hook_resid_post",
                "labkit": {"typical_norm": 4, "outlier": 3},
                "sae_lens_version": "6.1.0",
            },
        )
        sae = lk.sae.load(path, model="mine")
        assert (sae.model, sae.typical_norm, sae.outlier) == ("mine", 4.0, 3.0)
        whole = weights_file(path).read_bytes()

        def restored(damage: Callable[[Path], Any], said: str, error: type[Exception] = BadModelFile) -> None:
            damage(path)
            refused(path, said, error)
            weights_file(path).write_bytes(whole)

        restored(cut, "cut off or damaged")
        restored(lambda p: change_weights(p, lambda t: t.pop("W_dec")), "it/sae_weights.safetensors has no W_dec")
        restored(reshaped("b_gate", 3), r"b_gate has shape \[3\] where cfg.json asks for \[80\]")
        restored(set_nan(torch.nan, "r_mag"), "r_mag has numbers that are none")
        change(path, metadata={"hook_name": "blocks.0.hook_mlp_out"})
        refused(path, "reads 'blocks.0.hook_mlp_out'", Unavailable)

    def test_a_kind_nobody_knows(self, tmp_path: Path) -> None:
        refused(folder(tmp_path / "it", changed={"architecture": "heptagonal"}), "sae-lens can't open it .*heptagonal")

    @pytest.mark.parametrize(
        ("name", "near"),
        [("gpt2-small-res-jbb", "gpt2-small-res-jb"), ("gemma-scope-2b-pt-re", "gemma-scope-2b-pt-res")],
    )
    def test_an_unknown_release_lists_near_names(self, name: str, near: str) -> None:
        with pytest.raises(ModelNotFound, match=f"no sae-lens release called '{name}'; near it are .*{near}"):
            lk.sae.load(name)

    def test_an_unknown_release_like_no_other(self) -> None:
        with pytest.raises(ModelNotFound, match="labkit-sae"):
            lk.sae.load("0000000000")
        with pytest.raises(ModelNotFound, match="no folder and no sae-lens release called 'no/such/folder'"):
            lk.sae.load("no/such/folder")

    @pytest.mark.parametrize(
        ("sae_id", "said"), [(None, "has several autoencoders"), ("blocks.99", "has no 'blocks.99'")]
    )
    def test_a_release_lists_what_it_has(self, sae_id: str | None, said: str) -> None:
        with pytest.raises(BadInput, match=f"{said}; give sae_id as one of 'blocks.0.hook_resid_pre', .* more"):
            lk.sae.load("gpt2-small-res-jb", sae_id=sae_id)

    def test_without_a_network_it_says_so_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as without one, but never waiting
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"gpt2-small-res-jb could not be fetched .*needs a network") as caught:
            lk.sae.load("gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")
        assert time.monotonic() - begun < 20
        assert "\n" not in str(caught.value)
        assert "lk.sae.load() needs none" in str(caught.value)

    def test_a_release_is_opened_and_goes_by_the_name_it_is_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sae_lens: Any
    ) -> None:
        library = sae_lens.SAE.load_from_disk(folder(tmp_path / "it", model="gpt2-small"))
        asked = []
        monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda *given: asked.append(given) or library)
        sae = lk.sae.load("gpt2-small-res-jb", sae_id="blocks.1.hook_resid_pre")
        assert sae.name == "gpt2-small-res-jb/blocks.1.hook_resid_pre"
        assert (sae.model, sae.layer, sae.architecture, sae.k) == ("gpt2-small", 1, "topk", dictionaries.K)
        assert sae.sae is library
        x = torch.randn(6, WIDTH)
        torch.testing.assert_close(sae.encode(x), library.encode(x).detach())
        torch.testing.assert_close(sae.reconstruct(x), library(x).detach())
        # the remedy for a model of another name writes that name
        assert lk.sae.load(sae.name, model="mine").model == "mine"
        assert asked == [("gpt2-small-res-jb", "blocks.1.hook_resid_pre")] * 2

    def test_a_release_that_reads_something_else_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sae_lens: Any
    ) -> None:
        path = folder(
            tmp_path / "it", changed={"metadata": {"hook_name": "blocks.1.hook_mlp_out", "sae_lens_version": "6.1.0"}}
        )
        library = sae_lens.SAE.load_from_disk(path)
        monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda *_: library)
        with pytest.raises(Unavailable, match=r"gpt2-small-res-jb/blocks.* reads 'blocks.1.hook_mlp_out'"):
            lk.sae.load("gpt2-small-res-jb", sae_id="blocks.1.hook_resid_pre")
