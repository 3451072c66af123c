"""The models that come with labkit itself, in labkit/assets: no network is needed for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import BadModelFile

ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True)
class ShippedModel:
    """Its folder under labkit/assets has its name; SHA256.json there holds the checksum of every file that is read.

    tokenizer_of: another shipped model whose tokenizer it was trained with and has; "" where its own folder holds one.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    licence: str
    parameters: int
    tokenizer_of: str = ""

    @property
    def path(self) -> Path:
        return ASSETS / self.name

    @property
    def tokenizer_path(self) -> Path:
        """The folder that holds its tokenizer."""
        return ASSETS / (self.tokenizer_of or self.name)

    @property
    def bytes_on_disk(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())


MODELS = {
    "labkit-moe": ShippedModel(
        name="labkit-moe",
        title="labkit's mixture of experts",
        aliases=("moe",),
        licence="Apache-2.0",
        parameters=9_354_048,
    ),
    "labkit-dense": ShippedModel(
        name="labkit-dense",
        title="labkit's dense model beside the mixture",
        aliases=(),
        licence="Apache-2.0",
        parameters=3_124_032,
    ),
    "labkit-squeeze": ShippedModel(
        name="labkit-squeeze",
        title="labkit's small model to quantize",
        aliases=(),
        licence="Apache-2.0",
        parameters=1_836_416,
        tokenizer_of="labkit-dense",
    ),
    "labkit-squeeze-early": ShippedModel(
        name="labkit-squeeze-early",
        title="the same early in its training",
        aliases=(),
        licence="Apache-2.0",
        parameters=1_836_416,
        tokenizer_of="labkit-dense",
    ),
    "labkit-ternary": ShippedModel(
        name="labkit-ternary",
        title="the same trained with ternary weights",
        aliases=(),
        licence="Apache-2.0",
        parameters=1_836_416,
        tokenizer_of="labkit-dense",
    ),
}


def find(name: str) -> ShippedModel | None:
    """The shipped model of this name or alias (any case), or None."""
    wanted = name.lower()
    return next((m for m in MODELS.values() if wanted in (m.name, *m.aliases)), None)


def problems(model: ShippedModel) -> list[str]:
    """What is missing or changed among the files of a shipped model; empty when all is as it was shipped."""
    lent = problems(MODELS[model.tokenizer_of]) if model.tokenizer_of else []
    if lent:
        return [f"{model.tokenizer_of}, whose tokenizer it has: {lent[0]}"]
    return _problems(model.path)


def _problems(folder: Path) -> list[str]:
    from labkit.models.files import sha256

    try:
        sums = json.loads((folder / "SHA256.json").read_text("utf-8"))
    except (OSError, ValueError):
        return [f"{folder / 'SHA256.json'} can't be read"]
    found = []
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif sha256(file) != expected:
            found.append(f"{name} is not what was shipped")
    return found


def checked(model: ShippedModel) -> Path:
    """The model's folder, every file as it was shipped. Raises BadModelFile otherwise."""
    if wrong := problems(model):
        raise BadModelFile(f"{model.name}, which comes with labkit, is damaged ({wrong[0]}); install labkit again.")
    return model.path


ADAPTERS = {f"labkit-{name}": ASSETS / "labkit-lora" / name for name in ("capitals", "dates")}
ADAPTERS["labkit-refusal"] = ASSETS / "labkit-refusal"
"""Adapters of the default model, by the name under which `lk.lora.load` knows them."""


LENS = "labkit-lens"  # of the default model


def checked_lens() -> Path:
    """The folder of the shipped lens, every file as it was shipped. Raises BadModelFile otherwise."""
    if wrong := _problems(ASSETS / LENS):
        raise BadModelFile(f"{LENS}, which comes with labkit, is damaged ({wrong[0]}); install labkit again.")
    return ASSETS / LENS


def checked_adapter(name: str) -> Path | None:
    """The folder of a shipped adapter, every file as it was shipped; None for another name. Raises BadModelFile."""
    folder = ADAPTERS.get(name.lower())
    if folder is not None and (wrong := _problems(folder)):
        raise BadModelFile(f"{name}, which comes with labkit, is damaged ({wrong[0]}); install labkit again.")
    return folder
