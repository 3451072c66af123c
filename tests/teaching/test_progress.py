"""The progress file: two processes, damage, folders that can't be written, and reset, which leaves it alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.teaching import progress
from labkit.teaching.exercises import all_exercises


def solve(id: str) -> None:
    assert lk.check(id, all_exercises()[id].reference).passed


def rows() -> dict[str, progress.Row]:
    return {row.notebook: row for row in lk.progress().rows}


def test_the_table_over_all_notebooks() -> None:
    assert rows()["02_attention"] == progress.Row("02_attention", 8, 0, 0, 0, 0)
    solve("attention.causal_mask")
    lk.check("attention.rotate", lambda *_: None)
    lk.exercise("attention.cache_bytes").solution()
    lk.predict("attention.guess", "How many?").lock(3)
    lk.predict("later.guess", "How many?").lock(3)
    assert rows()["02_attention"] == progress.Row("02_attention", 8, 1, 1, 1, 1)
    assert rows()["01_first_look"] == progress.Row("01_first_look", 4, 0, 0, 0, 0)
    assert rows()["later"].predictions == 1
    assert "1 of 8" in repr(lk.progress())
    assert "1 of 8" in lk.progress()._repr_html_()


def test_nothing_is_cleared_but_on_request() -> None:
    for id in ("attention.causal_mask", "attention.cache_bytes", "first_look.weights_bytes"):
        solve(id)
    said = lk.progress(clear="attention.causal_mask").said
    assert said == "Cleared: attention.causal_mask."
    assert rows()["02_attention"].solved == 1
    lk.progress(clear="02_attention")
    assert (rows()["02_attention"].solved, rows()["01_first_look"].solved) == (0, 1)
    with pytest.raises(lk.BadInput, match="did you mean"):
        lk.progress(clear="attention.causal_mosk")
    with pytest.raises(lk.BadInput, match="takes True"):
        lk.progress(clear=None)  # type: ignore[arg-type]
    assert rows()["01_first_look"].solved == 1
    lk.progress(clear=True)
    assert rows()["01_first_look"].solved == 0


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"exercises": 3}', '{"exercises": {"a": 1}, "predictions": {}}', "\0", "[" * 99999]
)
def test_a_damaged_file_is_set_aside_and_said(
    progress_file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    progress_file.parent.mkdir()
    progress_file.write_text(content)
    solve("attention.causal_mask")
    (aside,) = progress_file.parent.glob("progress.damaged-*.json")
    assert aside.read_text() == content
    assert f"set aside as {aside.name}" in caplog.text
    assert json.loads(progress_file.read_text())["exercises"]["attention.causal_mask"]["solved"] is True


def test_what_was_done_under_an_exercise_s_former_id_still_counts(progress_file: Path) -> None:
    progress_file.parent.mkdir()
    old = {"sae.share_unexplained": {"tried": 2, "solved": True, "unaided": True}}
    progress_file.write_text(json.dumps({"version": 1, "exercises": old, "predictions": {}}))
    assert progress.exercise_record("sae.fraction_unexplained")["solved"] is True
    assert lk.check("sae.share_unexplained", ...).id == "sae.fraction_unexplained"
    assert rows()["07_sparse_autoencoders"].solved == 1
    lk.check("sae.share_unexplained", lambda x, reconstruction: None)
    kept = json.loads(progress_file.read_text())["exercises"]
    assert kept == {"sae.fraction_unexplained": {"tried": 3, "solved": True, "unaided": True}}


def test_two_processes_lose_nothing(progress_file: Path) -> None:
    code = """
import sys
from labkit.teaching import progress
for i in range(40):
    progress.predicted(f"{sys.argv[1]}.{i}", "number", i)
"""
    environment = {**os.environ, "LABKIT_PROGRESS": str(progress_file)}
    both = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in ("a", "b")]
    assert [process.wait(120) for process in both] == [0, 0]
    kept = json.loads(progress_file.read_text())["predictions"]
    assert len(kept) == 80
    assert [
        p.name for p in progress_file.parent.iterdir() if p.name.startswith(".progress.json.") and p.suffix != ".lock"
    ] == []


def test_where_nothing_can_be_written_the_session_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a_file").write_text("in the way")
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "a_file" / "progress.json"))
    solve("attention.causal_mask")
    solve("attention.cache_bytes")
    assert rows()["02_attention"].solved == 2
    assert caplog.text.count("Set LABKIT_PROGRESS") == 1
    assert {record.name for record in caplog.records} == {"labkit"}


def test_a_write_that_fails_leaves_the_old_file(
    progress_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    solve("attention.causal_mask")
    before = progress_file.read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.json, "dump", full)
    solve("attention.cache_bytes")
    assert progress_file.read_text() == before
    assert rows()["02_attention"].solved == 2
    assert "No space left" in caplog.text


def test_reset_ends_edits_closes_labs_seeds_and_keeps_progress(
    tiny_lab: lk.Lab, progress_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solve("attention.causal_mask")
    before = progress_file.read_text()
    model = tiny_lab.model
    inputs = torch.tensor([[1, 2, 3]])
    plain = model(inputs).logits
    block = tiny_lab.edit(lk.ablate_head(0, 0))
    block.__enter__()  # as a cell that was interrupted leaves it
    assert not torch.equal(model(inputs).logits, plain)
    lk.reset(seed=3)
    assert torch.equal(model(inputs).logits, plain)
    assert tiny_lab.closed
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    said = capsys.readouterr().out
    assert said.startswith("Reset: 1 edit ended, ")
    assert said.endswith("seeds set to 3.\n")
    assert said.count("\n") == 1
    lk.reset(seed=3)
    assert capsys.readouterr().out == "Reset: seeds set to 3.\n"
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
    assert progress_file.read_text() == before
    block.__exit__(None, None, None)


def test_reset_ends_an_edit_that_another_thread_left_on(tiny_lab: lk.Lab) -> None:
    import threading

    block = tiny_lab.edit(lk.ablate_head(0, 0))
    thread = threading.Thread(target=block.__enter__)
    thread.start()
    thread.join()
    done = threading.Thread(target=lk.reset, daemon=True)
    done.start()
    done.join(30)
    assert not done.is_alive(), "reset waits for a thread that has ended"
    assert tiny_lab.closed
    block.__exit__(None, None, None)
