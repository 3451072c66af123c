"""What is saved is opened again, by labkit and by sae-lens, and is the same; what is there already stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dictionaries import PLAIN, WIDTH, folder, make_lab
from planted import detectors
from torch import Tensor

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, Settings

TOLERANCE = {"rtol": 0, "atol": 1e-5}
WEIGHTS = ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold")
FACTS = ("model", "layer", "architecture", "k", "subtracts_bias", "centred", "typical_norm", "outlier")


def in_memory(kind: str, path: Path, **fields: Any) -> SAE:
    """A random one without a folder, of a layer, a model and a measure of its own."""
    given = {"layer": 3, "model": "tiny", "typical_norm": 4.5, "outlier": 3.0, "folder": None}
    return replace(lk.sae.load(folder(path, kind)), **(given | fields))


def vectors(count: int = 30) -> Tensor:
    return 1.5 * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))


def same_weights(one: SAE, other: SAE) -> None:
    for name in WEIGHTS:
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None), name
        assert first is None or torch.equal(first, second), name


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"centred": True},
        {"subtracts_bias": False},
        {"layer": 0, "model": None, "typical_norm": None, "outlier": None},
    ],
    ids=["measured", "centred", "bias left in", "nothing known"],
)
def test_it_is_read_as_it_was_saved(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    sae = in_memory(kind, tmp_path / "given", **fields)
    path = sae.save(tmp_path / "deep" / "down" / "saved")
    assert path == tmp_path / "deep" / "down" / "saved"
    assert sorted(each.name for each in path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert [each.name for each in path.parent.iterdir()] == ["saved"]  # no ".part" beside it
    again = lk.sae.load(path)
    same_weights(again, sae)
    assert [getattr(again, name) for name in FACTS] == [getattr(sae, name) for name in FACTS]
    assert (again.threshold is None) == (kind != "jumprelu")
    assert again.folder == path
    assert again.fingerprint == sae.fingerprint
    torch.testing.assert_close(again.reconstruct(vectors()), sae.reconstruct(vectors()))


def test_a_name_may_be_text_and_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert in_memory("topk", tmp_path / "given").save("~/saved") == tmp_path / "saved"
    assert lk.sae.load("~/saved").layer == 3


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("subtracts", [True, False])
def test_sae_lens_opens_it_and_encodes_the_same(kind: str, subtracts: bool, tmp_path: Path, sae_lens: Any) -> None:
    sae = in_memory(kind, tmp_path / "given", subtracts_bias=subtracts)
    library = sae_lens.SAE.load_from_disk(sae.save(tmp_path / "saved"))
    assert library.cfg.architecture() == kind
    wanted = library.encode(vectors()).detach()
    assert bool((wanted > 0).any())
    torch.testing.assert_close(sae.encode(vectors()), wanted, **TOLERANCE)
    torch.testing.assert_close(sae.reconstruct(vectors()), library(vectors()).detach(), **TOLERANCE)


def test_sae_lens_knows_where_it_reads(tmp_path: Path, sae_lens: Any) -> None:
    sae = in_memory("topk", tmp_path / "given", centred=True)
    for library in (sae_lens.SAE.load_from_disk(sae.save(tmp_path / "saved")), sae.sae):
        assert (library.cfg.metadata.model_name, library.cfg.metadata.hook_name) == ("tiny", "blocks.3.hook_resid_pre")
    sae.sae.save_model(tmp_path / "again")
    again = lk.sae.load(tmp_path / "again")
    assert [getattr(again, name) for name in FACTS] == [getattr(sae, name) for name in FACTS]


@pytest.mark.parametrize("kind", PLAIN)
def test_one_made_in_memory_has_sae_lenss_own(kind: str, tmp_path: Path, sae_lens: Any) -> None:
    sae = in_memory(kind, tmp_path / "given")
    library = sae.sae
    assert isinstance(library, sae_lens.SAE)
    assert sae.sae is library  # made once
    assert sae.folder is None  # what it was written to is gone
    torch.testing.assert_close(library.W_dec.detach(), sae.decoder)
    torch.testing.assert_close(library.encode(vectors()).detach(), sae.encode(vectors()), **TOLERANCE)


@pytest.mark.usefixtures("sae_lens")
def test_what_was_trained_is_saved_and_has_sae_lenss_own(tmp_path: Path) -> None:
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(0)) + 3
    run = lk.sae.train(x, Settings(features=40, k=4, tokens=2_000, batch=100), layer=5, model="tiny")
    with pytest.raises(StopIteration) as end:  # noqa: PT012
        while True:
            next(run)
    sae: SAE = end.value.value
    assert sae.folder is None
    torch.testing.assert_close(sae.sae.encode(x).detach(), sae.encode(x), **TOLERANCE)
    again = lk.sae.load(sae.save(tmp_path / "mine"))
    same_weights(again, sae)
    assert (again.layer, again.model, again.k) == (5, "tiny", 4)
    torch.testing.assert_close(again.encode(x), sae.encode(x))


def test_half_precision_is_saved_in_full(tmp_path: Path) -> None:
    sae = in_memory("topk", tmp_path / "given")
    half = replace(sae, decoder=sae.decoder.bfloat16().requires_grad_())
    again = lk.sae.load(half.save(tmp_path / "saved"))
    assert torch.equal(again.decoder, half.decoder.float())


# what is refused -------------------------------------------------------------------------------------------------------


def test_what_is_there_stays_untouched(tmp_path: Path) -> None:
    sae = in_memory("topk", tmp_path / "given")
    there = folder(tmp_path / "there", "jumprelu")
    before = {each.name: each.read_bytes() for each in there.iterdir()}
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("text")
    for path in (there, str(there), empty, file):
        with pytest.raises(BadInput, match=rf"{Path(path).name} is there already; give another name, or remove it"):
            sae.save(path)
    assert {each.name: each.read_bytes() for each in there.iterdir()} == before
    assert list(empty.iterdir()) == []
    assert file.read_text() == "text"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "file", "given", "there"]


def test_a_save_that_breaks_off_leaves_no_folder_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = in_memory("topk", tmp_path / "given")

    def full(_tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"the beginning")
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="no space left"):
            sae.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    same_weights(lk.sae.load(sae.save(tmp_path / "saved")), sae)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["given", "saved"]


@pytest.mark.parametrize("kind", ["matching_pursuit", "matryoshka"])
def test_a_kind_that_sae_lens_computes_is_not_saved_here(kind: str, tmp_path: Path) -> None:
    sae = in_memory("topk", tmp_path / "given", architecture=kind)
    with pytest.raises(BadInput, match=rf"of kind {kind}; save it with sae-lens: sae\.sae\.save_model"):
        sae.save(tmp_path / "saved")
    assert [each.name for each in tmp_path.iterdir()] == ["given"]


# which one it is -------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_the_decoder(tmp_path: Path) -> None:
    sae = in_memory("topk", tmp_path / "given")
    assert sae.fingerprint == replace(sae, decoder=sae.decoder.clone(), name="another", layer=7).fingerprint
    assert sae.fingerprint == replace(sae, decoder=sae.decoder.double().T.contiguous().T).fingerprint
    changed = sae.decoder.clone()
    changed[-1, -1] += 1e-3
    assert sae.fingerprint != replace(sae, decoder=changed).fingerprint


def test_one_in_memory_is_renamed_where_it_is() -> None:
    lab = make_lab()
    sae = detectors(lab, model="another")
    with pytest.raises(BadInput, match=r"if it is the same model under another name, say so: sae\.model = 'llama2'"):
        sae.belongs(lab)
    sae.model = "llama2"  # as the message says
    sae.belongs(lab)
