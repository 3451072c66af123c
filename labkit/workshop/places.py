"""Where the project's own files are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def project_root() -> Path | None:
    """The checkout labkit runs from, or None when it is installed."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def notebooks() -> Path:
    """The folder of the notebook series."""
    root = project_root()
    return root / "notebooks" if root else PACKAGE / "_notebooks"


def constraints() -> dict[str, str]:
    """Package name (normalized) -> the exact version labkit was tested with; empty where the list is not at hand."""
    from packaging.utils import canonicalize_name

    root = project_root()
    path = root / "constraints.txt" if root else PACKAGE / "_constraints.txt"
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].split(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}
