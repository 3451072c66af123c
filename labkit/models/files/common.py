"""What every reader of a file shares: opening it, refusing it in one sentence, its JSON and its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeAlias

from labkit.errors import BadModelFile, ModelNotFound

FETCH_AGAIN = "fetch the file again"

Json: TypeAlias = dict[str, Any]  # what a file says, whatever that is: every value is checked where it is read


def refuse(path: Path, what: str, *, at: int | None = None, remedy: str = FETCH_AGAIN) -> NoReturn:
    """Raise BadModelFile: which file, what is wrong, where, and what to do."""
    place = "" if at is None else f" at byte {at:,}"
    raise BadModelFile(f"{shown(path.name)}{place} {what}; {remedy}.")


def shown(name: str) -> str:
    """A name out of a file as it may stand in a message: on one line, escaped, not too long."""
    return repr(name if len(name) <= 60 else name[:57] + "...")


def brief(value: object) -> str:
    """A metadata value as it may stand in a message."""
    if value is None:
        return "nothing"
    if type(value) is int:
        return f"{value:,}"
    return shown(str(value)) if not isinstance(value, float) else f"{value:g}"


def sha256(path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits. progress is called with (bytes done, bytes in all) as it goes.

    Raises ModelNotFound when there is no such file.
    """
    file = Path(path)
    done, digest = 0, hashlib.sha256()
    with open_file(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        while chunk := handle.read(4 << 20):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, size)
    return digest.hexdigest()


def open_file(path: Path) -> BinaryIO:
    """The file, open for reading, once it is known to be one: a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ModelNotFound(f"There is no file {shown(str(path))}; check the path.") from error
    if stat.S_ISDIR(mode):
        refuse(path, "is a folder where a file is needed", remedy="give the path of the file in it")
    if not stat.S_ISREG(mode):
        refuse(path, "is a device or a pipe where a file is needed", remedy="save it as a file first")
    try:
        return path.open("rb")
    except OSError as error:
        refuse(path, f"can't be read ({error.strerror})", remedy="check that you may read it")


def refuse_kind(path: Path, head: bytes, wanted: str) -> None:
    """Name the frequent mix-ups; returns when it is none of them."""
    if head.startswith(b"version https://git-lfs"):
        refuse(path, "is a Git LFS pointer, not the file itself", remedy="run `git lfs pull` where it was cloned")
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        refuse(path, f"is a web page, not {wanted}", remedy="fetch the file by its direct address")
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        refuse(path, f"is a zip archive or a pickle, not {wanted}", remedy="unpack it, or convert it to safetensors")
    if head.startswith(b"GGUF") and wanted != "a GGUF file":
        refuse(path, f"is a GGUF file, not {wanted}", remedy="give it a name that ends in .gguf")


def read_json(path: Path, limit: int) -> Json:
    with open_file(path) as handle:
        if (size := os.fstat(handle.fileno()).st_size) > limit:
            refuse(path, f"has {size:,} bytes where {limit:,} are the most")
        return parse_json(path, handle.read(limit + 1), "text")


def parse_json(path: Path, text: bytes, what: str) -> Json:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            refuse(path, f"has the entry {shown(twice)} twice")
        return entries

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        refuse(path, f"has a {what} that is not JSON")
    if not isinstance(value, dict):
        refuse(path, f"has a {what} that is no JSON object")
    return value
