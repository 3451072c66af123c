"""Autoencoders and their indexes saved by the first version still open, and give the numbers that version gave.

The files under tests/data/saved were written by labkit before its words were changed; expected.json holds what it computed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionaries import make_lab

import labkit as lk

SAVED = Path(__file__).parents[1] / "data" / "saved"
EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text("utf-8"))


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard"])
def test_an_autoencoder_computes_what_it_did(kind: str) -> None:
    sae, wanted = lk.sae.load(SAVED / f"sae-{kind}"), EXPECTED[kind]
    assert sae.fingerprint == wanted["fingerprint"]
    for fact in ("layer", "k", "typical_norm", "centred"):
        assert getattr(sae, fact) == wanted[fact]
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(sae.encode(x).sum(-1), torch.tensor(wanted["encoded"]))
    torch.testing.assert_close(sae.reconstruct(x).sum(-1), torch.tensor(wanted["reconstruction"]))


def test_an_index_and_what_is_read_from_it_are_as_they_were() -> None:
    lab, sae = make_lab("llama2"), lk.sae.load(SAVED / "sae-topk")
    found, wanted = lk.sae.index(lab, sae), EXPECTED["index"]
    for name in ("counts", "largest", "kind_sums"):
        assert getattr(found, name).tolist() == wanted[name]
    assert [list(found.kinds), list(found.kind_tokens), found.of] == [wanted[k] for k in ("kinds", "kind_tokens", "of")]
    assert found.of == sae.fingerprint
    board, wanted = lk.sae.dashboard(lab, sae[3]), EXPECTED["dashboard"]
    assert [board.density, board.largest] == [wanted["density"], wanted["largest"]]
    assert {kind: list(shares) for kind, shares in board.kinds.items()} == wanted["kinds"]
    shown = [[list(e.tokens), e.peak, e.kind, pytest.approx(e.activation)] for e in board.examples]
    assert shown == wanted["examples"]


def test_features_of_a_text_are_those_of_before() -> None:
    lab, sae, wanted = make_lab("llama2"), lk.sae.load(SAVED / "sae-topk"), EXPECTED["features"]
    found = lk.sae.features(lab, sae, wanted["ids"])
    assert found.indices.tolist() == wanted["indices"]
    torch.testing.assert_close(found.values, torch.tensor(wanted["values"]), rtol=1e-5, atol=1e-5)


def test_progress_is_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By topic, whatever the notebooks' names and numbers are now."""
    shutil.copy(SAVED / "progress.json", tmp_path / "progress.json")
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "progress.json"))
    done = {
        row.notebook.partition("_")[2]: [row.solved, row.solution_seen, row.tried, row.predictions]
        for row in lk.progress().rows
    }
    wanted = {notebook.partition("_")[2]: counts for notebook, *counts in EXPECTED["progress"]}
    for notebook, counts in wanted.items():
        assert done[notebook] == counts, notebook
