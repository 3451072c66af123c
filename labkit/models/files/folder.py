"""A model folder in Hugging Face's layout: is it whole, and can it be opened without running anything?"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from labkit.errors import LabError, ModelNotFound
from labkit.models.files.common import Json, brief, open_file, read_json, refuse, shown
from labkit.models.files.safetensors_header import MAX_HEADER_BYTES, SafetensorsHeader, read_safetensors_header

_MAX_CONFIG_BYTES = 16 << 20
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZERS = (
    *(("tokenizer.json",), ("tokenizer.model",), ("spiece.model",), ("sentencepiece.bpe.model",)),
    *(("vocab.json", "merges.txt"), ("vocab.txt",), ("tekken.json",)),
)


@dataclass(frozen=True)
class FolderFacts:
    """A model folder in Hugging Face's layout, as its files describe it.

    config: config.json.  weight_files: relative to path.  weight_bytes: as stored.
    parameters: numbers stored, packed ones counted as they are stored; None for pickled weights.
    dtypes: as safetensors spells them; empty for pickled weights.
    needs_remote_code: the folder brings Python code of its own (auto_map).  licence: from README.md, if it says.
    """

    path: Path
    config: Json
    model_type: str
    weight_files: tuple[str, ...]
    weight_bytes: int
    parameters: int | None
    dtypes: frozenset[str]
    has_tokenizer: bool
    needs_remote_code: bool
    pickled: bool
    licence: str | None


def check_folder(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> FolderFacts:
    """Is this folder a whole model that can be opened without running anything?

    Pickled weights can run any code when they are opened, so they need allow_pickle=True.
    Raises ModelNotFound when there is no such folder, BadModelFile when something in it is missing, damaged or refused.
    """
    folder = Path(path)
    if not folder.exists():
        raise ModelNotFound(f"There is no folder {shown(str(folder))}; check the path.")
    if not folder.is_dir():
        refuse(folder, "is a file where a model folder is needed", remedy="give the folder it lies in")
    config = _config(folder)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        refuse(
            folder / "config.json",
            "doesn't say which model this is (model_type)",
            remedy="fetch config.json again, or add the model_type its authors name",
        )
    files = _safetensors_files(folder)
    headers = [read_safetensors_header(folder / name) for name in files]
    if headers:
        _check_config_sizes(folder, config, headers)
    else:
        files = _pickled_files(folder, allow_pickle)
    tokenizer_config = folder / "tokenizer_config.json"
    remote = "auto_map" in config or (
        tokenizer_config.is_file() and "auto_map" in read_json(tokenizer_config, _MAX_CONFIG_BYTES)
    )
    return FolderFacts(
        path=folder,
        config=config,
        model_type=model_type,
        weight_files=tuple(files),
        weight_bytes=sum(h.weight_bytes for h in headers) or sum((folder / name).stat().st_size for name in files),
        parameters=sum(header.parameters for header in headers) if headers else None,
        dtypes=frozenset(dtype for header in headers for dtype, _, _ in header.tensors.values()),
        has_tokenizer=any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS),
        needs_remote_code=remote,
        pickled=not headers,
        licence=_licence(folder / "README.md"),
    )


def read_config(folder: Path, name: str = "config.json") -> Json | None:
    """A folder's configuration, or None where there is none that can be read."""
    try:
        return read_json(folder / name, _MAX_CONFIG_BYTES)
    except LabError:
        return None


def _config(folder: Path) -> Json:
    config = folder / "config.json"
    if config.is_file():
        return read_json(config, _MAX_CONFIG_BYTES)
    if (folder / "adapter_config.json").is_file():
        refuse(folder, "holds an adapter, not a whole model", remedy="load the model it was trained on first")
    if gguf := sorted(file.name for file in folder.glob("*.gguf")):
        refuse(folder, "holds a GGUF file and no config.json", remedy=f"load the file itself: {shown(gguf[0])}")
    refuse(
        folder,
        "has no config.json, so it is no model folder",
        remedy="give the folder that holds config.json, or fetch the model again",
    )


def _safetensors_files(folder: Path) -> list[str]:
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (folder / "model.safetensors.index.json").is_file():
        return []
    by_shard = _shards(folder, folder / "model.safetensors.index.json")
    for shard, names in by_shard.items():
        held = read_safetensors_header(folder / shard).tensors
        if absent := [name for name in names if name not in held]:
            refuse(
                folder / shard,
                f"lacks {len(absent):,} of the weights the index places there, such as {shown(absent[0])}",
            )
    return sorted(by_shard)


def _shards(folder: Path, index: Path) -> dict[str, list[str]]:
    """Which weights the index places in which file; every file exists and lies in the folder."""
    weight_map = read_json(index, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        refuse(index, "has no weight_map, so nothing says which shard holds what")
    by_shard: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _stays_inside(shard):
            refuse(index, f"places weight {shown(name)} in {shown(str(shard))}, outside of the folder")
        by_shard.setdefault(shard, []).append(name)
    for shard in by_shard:
        if not (folder / shard).is_file():
            refuse(folder, f"lacks the shard {shown(shard)} that {index.name} names", remedy="fetch that file")
    return by_shard


def _stays_inside(name: str) -> bool:
    """A relative path that names a file below the folder, on any system."""
    if not name or "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        return False
    return ".." not in PurePosixPath(name).parts and len(os.fsencode(name)) <= 255


def _pickled_files(folder: Path, allow_pickle: bool) -> list[str]:
    pickled = sorted(
        file.name for file in folder.iterdir() if file.suffix in _PICKLED and file.name != "training_args.bin"
    )
    if not pickled:
        if gguf := sorted(file.name for file in folder.glob("*.gguf")):
            refuse(folder, "holds its weights as GGUF", remedy=f"load the file itself: {shown(gguf[0])}")
        refuse(
            folder, "has a config.json and no weights", remedy="fetch model.safetensors, or its shards and their index"
        )
    if not allow_pickle:
        refuse(
            folder,
            f"holds its weights only as a pickle ({shown(pickled[0])}), which can run any code when it is opened",
            remedy="convert it to safetensors, or pass allow_pickle=True if you trust whoever made it",
        )
    if (folder / "pytorch_model.bin").is_file():
        return ["pytorch_model.bin"]
    if (folder / "pytorch_model.bin.index.json").is_file():
        return sorted(_shards(folder, folder / "pytorch_model.bin.index.json"))
    refuse(
        folder,
        f"holds {shown(pickled[0])}, a pickle under a name that transformers doesn't open",
        remedy="load it with torch and save the model with save_pretrained",
    )


def _check_config_sizes(folder: Path, config: Json, headers: list[SafetensorsHeader]) -> None:
    """The sizes in the config must be seen in the weights: a wrong zero must not build a model of terabytes."""
    sizes = {size for header in headers for _, shape, _ in header.tensors.values() for size in shape}
    n_tensors = sum(len(header.tensors) for header in headers)
    for key in ("hidden_size", "vocab_size", "num_hidden_layers"):
        if key not in config:
            continue
        value = config[key]
        if type(value) is not int or value <= 0:
            refuse(folder / "config.json", f"has {key} = {brief(value)} where a positive whole number is needed")
        if (value > n_tensors) if key == "num_hidden_layers" else (value not in sizes):
            refuse(
                folder / "config.json",
                f"has {key} = {value:,}, which doesn't fit the weights beside it",
                remedy="fetch config.json and the weights of the same model again",
            )


def _licence(readme: Path) -> str | None:
    """The licence in a model card's front matter: its name where it has one of its own."""
    if not readme.is_file():
        return None
    with open_file(readme) as handle:
        lines = handle.read(1 << 16).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if match := re.fullmatch(r"(license|license_name):\s*(?:-\s*)?(.+?)\s*", line):
            found[match[1]] = match[2].strip("\"'[]")
    licence = found.get("license")
    return found.get("license_name", licence) if licence == "other" else licence
