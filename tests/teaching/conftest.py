"""Progress of a test is the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.teaching import progress


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "progress" / "progress.json"
    monkeypatch.setenv("LABKIT_PROGRESS", str(file))
    monkeypatch.setattr(progress, "_in_memory", {})
    monkeypatch.setattr(progress, "_said", set())
    return file
