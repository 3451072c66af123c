"""Merged models as files that others open: a transformers folder, a GGUF file, an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import logits, peft_of

import labkit as lk
from labkit.lora import exporting


@pytest.fixture
def adapter(tiny_lab: lk.Lab) -> Any:
    tiny_lab.model.config._name_or_path = "/secret/place/model"
    return lk.lora.taken(peft_of(tiny_lab, target_modules=["q_proj", "down_proj", "lm_head"]), tiny_lab, "mine")


def test_a_transformers_folder(adapter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter.export(tmp_path / "merged")
    assert "tested" in capsys.readouterr().out
    lab = lk.load(folder, fresh=True)
    with adapter.on():
        expected = logits(adapter.lab.model)
        text = adapter.lab.generate("the cat", max_new_tokens=8).text
    torch.testing.assert_close(logits(lab.model), expected, rtol=1e-5, atol=1e-5)
    assert lab.generate("the cat", max_new_tokens=8).text == text
    assert not any(b"/secret" in file.read_bytes() for file in folder.iterdir())
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(lk.BadInput, match="overwrite=True"):
        adapter.export(folder)
    adapter.export(folder, overwrite=True, scale=0.5)
    with adapter.on(0.5):
        torch.testing.assert_close(
            logits(lk.load(folder, fresh=True).model), logits(adapter.lab.model), rtol=1e-5, atol=1e-5
        )
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.txt").write_text("years of work")
    with pytest.raises(lk.BadInput, match="other things"):
        adapter.export(tmp_path / "others", overwrite=True)


def test_a_gguf_file(adapter: Any, tmp_path: Path) -> None:
    file = adapter.export(tmp_path / "new" / "merged.gguf")
    with adapter.on():
        expected = logits(adapter.lab.model)
    torch.testing.assert_close(logits(lk.load(file, fresh=True).model), expected, rtol=1e-5, atol=1e-5)
    small = adapter.export(tmp_path / "small.gguf", format="q8_0")
    assert small.stat().st_size < file.stat().st_size
    with pytest.raises(lk.BadInput, match=r"end the path in \.gguf"):
        adapter.export(tmp_path / "folder", format="q8_0")


def test_what_is_written_wrongly_is_not_kept(adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = adapter.merge(progress=False)
    real = merged.model.save_pretrained

    def spoilt(folder: Path) -> None:
        with torch.no_grad():
            merged.model.model.norm.weight.add_(1)
            real(folder)
            merged.model.model.norm.weight.sub_(1)

    monkeypatch.setattr(merged.model, "save_pretrained", spoilt)
    with pytest.raises(lk.BadModelFile, match="otherwise than it is"):
        exporting.write_folder(merged, tmp_path / "merged", base_name=None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("merged", [False, True])
def test_push_to_hub_hands_over_what_is_saved(adapter: Any, merged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    sent: dict[str, Any] = {}

    class Where(str):
        repo_id = "somebody/mine"

    class Api:
        def __init__(self, **settings: Any) -> None:
            sent["settings"] = settings

        def create_repo(self, repo_id: str, **settings: Any) -> Where:
            sent["made"] = (repo_id, settings)
            return Where("https://hub.example/somebody/mine")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> None:
            sent["files"] = {file.name for file in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert adapter.push_to_hub("mine", private=True, merged=merged) == "https://hub.example/somebody/mine"
    assert sent["made"] == ("mine", {"private": True, "exist_ok": True})
    expected = {"model.safetensors", "config.json", "tokenizer.json"} if merged else {"adapter_model.safetensors"}
    assert expected <= sent["files"]
