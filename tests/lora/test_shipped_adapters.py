"""The adapters that come with labkit: whole, of the default model, and able to do what their card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import labkit as lk
from labkit.lora.tasks import shouting
from labkit.models import shipped


@pytest.mark.real_model
def test_dates_are_written_as_on_the_card(default_lab: lk.Lab) -> None:
    adapter = lk.lora.load(default_lab, "labkit-dates")
    assert not adapter.notes, "its base is known by its fingerprint"
    task = lk.lora.tasks.dates(held_out=20)
    before = lk.lora.exact_match(default_lab, task, items=12)
    with adapter.on():
        after = lk.lora.exact_match(default_lab, task, items=12)
    assert (before.share, after.share) == (0, pytest.approx(1, abs=0.17))


@pytest.mark.real_model
def test_capitals_change_the_style_of_an_answer(default_lab: lk.Lab) -> None:
    question = "What is the capital of Italy?"
    assert shouting(default_lab.generate(question, max_new_tokens=8).text) < 0.5
    with lk.lora.load(default_lab, "labkit-capitals").on():
        assert shouting(default_lab.generate(question, max_new_tokens=8).text) == 1


def test_another_base_is_refused(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.LabError):
        lk.lora.load(tiny_lab, "labkit-dates")


def test_a_changed_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lab: lk.Lab) -> None:
    folder = shutil.copytree(shipped.ADAPTERS["labkit-capitals"], tmp_path / "capitals")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16}))
    monkeypatch.setitem(shipped.ADAPTERS, "labkit-capitals", folder)
    with pytest.raises(lk.LabError, match=r"adapter_config\.json is not what was shipped.*install labkit again"):
        lk.lora.load(tiny_lab, "labkit-capitals")


def test_a_name_that_is_nothing_tells_of_them(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.LabError, match="labkit-capitals, labkit-dates and labkit-refusal"):
        lk.lora.load(tiny_lab, "labkit-caps/")
