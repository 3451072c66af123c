"""The cache folder: prepared models, each in a folder of its own with a manifest of checksums.

A folder appears whole or not at all: it is made beside its place under a lock and moved in with one rename, so that a
process killed half-way leaves nothing that a later one could take for a model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from labkit.errors import BadModelFile, LabError, NotEnoughDisk
from labkit.models.files import sha256

MANIFEST = "manifest.json"
FORMAT = 1  # raised when stored folders of an older labkit have to be made again


@dataclass(frozen=True)
class Manifest:
    """What a stored model is and what its files must be. files: name -> (bytes, sha256)."""

    name: str
    source: str
    licence: str
    files: dict[str, tuple[int, str]]
    made_with: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Stored:
    """A model in the store."""

    folder: Path
    manifest: Manifest

    @property
    def bytes_on_disk(self) -> int:
        return sum(size for size, _ in self.manifest.files.values())


def cache_dir() -> Path:
    """The folder that holds everything labkit keeps: $LABKIT_CACHE, else the user's cache folder."""
    import platformdirs

    configured = os.environ.get("LABKIT_CACHE")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("labkit", appauthor=False))


def models_dir() -> Path:
    return cache_dir() / "models"


def find(name: str) -> Stored | None:
    """The stored model of this name, or None when there is none or its manifest can't be read."""
    folder = models_dir() / name
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            return None
        raw["files"] = {file: (int(size), str(digest)) for file, (size, digest) in raw["files"].items()}
        return Stored(folder, Manifest(**raw))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def problems(stored: Stored, *, only: tuple[str, ...] | None = None) -> list[str]:
    """What is wrong with a stored model's files (sizes, then checksums), a short phrase each; empty when intact.

    only: file name endings to look at, such as (".safetensors",); all files by default.
    """
    found = []
    for name, (size, digest) in stored.manifest.files.items():
        if only and not name.endswith(only):
            continue
        path = stored.folder / name
        try:
            actual = path.stat().st_size
            if actual != size:
                found.append(f"{name} has {actual:,} bytes instead of {size:,}")
            elif sha256(path) != digest:
                found.append(f"{name} has another sha256 than when it was stored")
        except OSError as error:
            found.append(f"{name} can't be read ({error.strerror})")
    return found


@contextlib.contextmanager
def locked(name: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the one lock for preparing `name`, across processes. on_wait is called once if another holds it."""
    import filelock

    folder = models_dir()
    _make_folder(folder)
    lock = filelock.FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if on_wait:
            on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def put(name: str, make: Callable[[Path], Manifest], *, bytes_needed: int) -> Stored:
    """Store what `make` writes into the empty folder it is handed. To be called with the lock of `name` held.

    make returns a manifest whose `files` may be empty: sizes and checksums are taken here, from the disk.
    Raises NotEnoughDisk before anything is written when bytes_needed aren't free, or when the disk fills up meanwhile.
    """
    parent = models_dir()
    _make_folder(parent)
    for left_over in parent.glob(
        f".{name}.partial-*"
    ):  # from a process that was killed: the lock is ours, so it is dead
        shutil.rmtree(left_over, ignore_errors=True)
    free = shutil.disk_usage(parent).free
    if free < bytes_needed:
        raise NotEnoughDisk(_disk_message(name, bytes_needed, free, parent))
    partial = parent / f".{name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        manifest = make(partial)
        files = {
            path.relative_to(partial).as_posix(): (path.stat().st_size, sha256(path))
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(**{**asdict(manifest), "files": files})
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
        final = parent / name
        if final.exists():  # a damaged or outdated copy: moved aside first, since a rename can't replace a full folder
            old = parent / f".{name}.partial-old-{os.getpid()}-{time.time_ns()}"
            final.rename(old)
            partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if _is_disk_full(error):
            raise NotEnoughDisk(_disk_message(name, bytes_needed, shutil.disk_usage(parent).free, parent)) from error
        raise
    stored = find(name)
    if stored is None:
        raise BadModelFile(f"{name} was stored but can't be read back from {final}; see whether the disk is sound.")
    return stored


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NotEnoughDisk(
                f"No space is left for the cache folder {folder}; set LABKIT_CACHE to another."
            ) from error
        raise LabError(
            f"The cache folder {folder} can't be made ({error.strerror}); set LABKIT_CACHE to a folder you may write to."
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is the cause. Libraries wrap the system's error, some keep only its words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_message(name: str, needed: int, free: int, folder: Path) -> str:
    return (
        f"Storing {name} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free in {folder}; free some space "
        "or set LABKIT_CACHE to a folder on another disk."
    )
