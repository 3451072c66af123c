"""What all tests share: tiny models, a cache folder of their own, and the default model where only a real one will do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest
from hypothesis import settings

import labkit as lk
from labkit.models import catalog, store

settings.register_profile("labkit", deadline=None)  # a busy machine is not a failure
settings.load_profile("labkit")


LONGEST = (
    "notebooks/test_notebooks",
    "browser/test_attention_notebook",
    "browser/test_jupyterlab",
    "test_live_panel_page",
    "test_lora_pages",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that none of them is left over at the end for one process alone."""

    def place(item: pytest.Item) -> int:
        return next((i for i, part in enumerate(LONGEST) if part in item.path.as_posix()), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer, saved as a safetensors folder. Not to be changed: copy it first."""
    return fuzz.tiny_folder(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def tiny_lab() -> lk.Lab:
    """A lab around a fresh tiny Llama."""
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LABKIT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def _default_labs() -> Iterator[list[lk.Lab]]:
    labs: list[lk.Lab] = []
    yield labs
    for lab in labs:
        lab.close()


@pytest.fixture
def default_lab(_default_labs: list[lk.Lab]) -> lk.Lab:
    """The default model, loaded once; and again where a test of `lk.reset` has closed it."""
    if store.find(catalog.DEFAULT) is None:
        pytest.fail("the default model is not here; run: labkit get default")
    if not _default_labs or _default_labs[-1].closed:
        _default_labs.append(lk.load(fresh=True))
    return _default_labs[-1]


@pytest.fixture
def tiny_wheel_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A catalogue entry whose wheel, in a find-links folder, holds a tiny GGUF: the whole way of lk.load() in a second."""
    import hashlib
    import zipfile

    links = tmp_path / "links"
    links.mkdir()
    gguf = fuzz.tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    wheel = links / "labkit_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("labkit_tiny/tiny.gguf", gguf)
        zipped.writestr(
            "labkit_tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: labkit-tiny\nVersion: 1.0\n"
        )
        zipped.writestr(
            "labkit_tiny-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        zipped.writestr("labkit_tiny-1.0.dist-info/RECORD", "")
    source = catalog.Wheel(
        requirement="labkit-tiny==1.0",
        member="labkit_tiny/tiny.gguf",
        bytes=len(gguf),
        sha256=hashlib.sha256(gguf).hexdigest(),
        download_bytes=wheel.stat().st_size,
    )
    model = catalog.CatalogModel(
        name="tiny-wheel",
        title="Tiny",
        aliases=("tiny-alias",),
        licence="Apache-2.0",
        wheel=source,
        parameters=1000,
        stored_bytes=10_000_000,
        original="nobody/tiny",
        published="tiny",
        note="",
    )
    monkeypatch.setitem(catalog.MODELS, model.name, model)
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return model
