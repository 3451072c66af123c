"""Is everything here that the notebooks need? One finding a line, each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from labkit.workshop import places

Level = Literal["ok", "warning", "problem"]

NEEDED_MEMORY_BYTES = 2 * 2**30  # the default model with a notebook's own objects
NEEDED_DISK_BYTES = 2**30
INSTALL = "in the project's folder: make lab, or pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """One line of the report. remedy is empty when nothing is to be done."""

    subject: str
    level: Level
    text: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """All findings, in the order a beginner would need them. Never raises: a check that fails is a finding."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _device,
        _memory,
        _disk,
        _cache,
        _default_model,
        _front_end,
        _browser,
    ]
    for check in checks:
        try:
            yield check()
        except Exception as error:  # one broken corner of a machine must not hide the rest of the report
            yield Finding(check.__name__.strip("_"), "problem", f"could not be looked at: {error}")


def _python() -> Finding:
    text = f"{platform.python_version()} ({platform.system()} {platform.machine()}), {sys.executable}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "problem", text, "use Python 3.11, 3.12 or 3.13")
    return Finding("python", "ok", text)


def _packages() -> Finding:
    """The installed packages against labkit's ranges, and against the versions it was tested with."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    wrong, drifted = [], []
    tested = places.constraints()
    for line in metadata.requires("labkit") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = Version(metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is outside {requirement.specifier}")
        elif (pin := tested.get(canonicalize_name(requirement.name))) and Version(installed.public) != Version(pin):
            drifted.append(f"{requirement.name} {installed} (tested: {pin})")
    if wrong:
        return Finding(
            "packages",
            "problem",
            "; ".join(wrong),
            INSTALL,
        )
    if drifted:
        return Finding("packages", "warning", f"in range, but not as tested: {'; '.join(drifted)}")
    told = "as tested" if tested else "in range (the list of tested versions comes with the project's folder)"
    return Finding("packages", "ok", told)


def _device() -> Finding:
    from labkit.models import hardware

    return Finding("device", "ok", hardware.describe_device("auto"))


def _memory() -> Finding:
    from labkit.models import hardware

    free = hardware.free_bytes("cpu")
    text = f"{free / 2**30:.1f} GiB free"
    if free < NEEDED_MEMORY_BYTES:
        return Finding("memory", "warning", text, "close other programs or kernels: the default model wants 2 GiB")
    return Finding("memory", "ok", text)


def _disk() -> Finding:
    from labkit.models import store

    folder = next(p for p in (store.cache_dir(), *store.cache_dir().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < NEEDED_DISK_BYTES:
        return Finding("disk", "warning", text, "free some space, or set LABKIT_CACHE to a folder on another disk")
    return Finding("disk", "ok", text)


def _cache() -> Finding:
    from labkit.models import store

    folder = store.cache_dir()
    if not os.access(next(p for p in (folder, *folder.parents) if p.exists()), os.W_OK):
        return Finding(
            "cache", "problem", f"{folder} can't be written", "set LABKIT_CACHE to a folder you may write to"
        )
    return Finding("cache", "ok", str(folder))


def _default_model() -> Finding:
    from labkit.models import catalog, store

    stored = store.find(catalog.DEFAULT)
    if stored is None:
        return Finding("default model", "problem", f"{catalog.DEFAULT} is not here yet", "labkit get default")
    if problems := store.problems(stored):
        return Finding("default model", "problem", f"{catalog.DEFAULT}: {problems[0]}", "labkit get default")
    return Finding("default model", "ok", f"{catalog.DEFAULT}, intact, {stored.bytes_on_disk / 1e6:.0f} MB")


def _front_end() -> Finding:
    versions = {name: _version(name) for name in ("jupyterlab", "ipywidgets", "anywidget", "plotly")}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding(
            "front end",
            "problem",
            f"{', '.join(missing)} missing",
            INSTALL,
        )
    return Finding("front end", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _browser() -> Finding:
    found = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None
    )
    if found:
        return Finding("browser for tests", "ok", found)
    if not (Path.cwd() / "tests" / "browser").is_dir():
        return Finding("browser for tests", "ok", "none found; only the project's own tests need one")
    return Finding("browser for tests", "warning", "no chromium found", "make browser, or install chromium yourself")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
