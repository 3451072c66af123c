"""A merged model for others: a transformers folder, a GGUF file, a repository on the hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labkit.errors import BadInput, BadModelFile
from labkit.models.sources import hub_endpoint
from labkit.quantization.bases import hub_name
from labkit.quantization.gguf_export import write_gguf

if TYPE_CHECKING:
    from labkit.lora.adapters import Adapter
    from labkit.trace.lab_like import BuiltLab

__all__ = ["exported", "pushed", "write_folder"]


def exported(
    adapter: Adapter[Any],
    path: Path,
    *,
    format: str | Mapping[str, str] | None,
    scale: float,
    dtype: str | None,
    overwrite: bool,
) -> Path:
    """Merge and write; `Adapter.export` says the rest."""
    as_file = path.suffix.lower() == ".gguf"
    if not as_file and format is not None:
        raise BadInput(f"format={format!r} is of a GGUF file, and {path.name} will be a folder; end the path in .gguf.")
    _check_free(path, overwrite)
    merged = adapter.merge(scale=scale, dtype=dtype)
    if as_file:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(merged, path, format, overwrite=overwrite)
    else:
        write_folder(merged, path, base_name=hub_name(adapter.lab), overwrite=overwrite)
    return path


def write_folder(lab: BuiltLab, folder: Path, *, base_name: str | None, overwrite: bool = False) -> None:
    """Write a lab's model, tokenizer and a short README. The folder is there whole, its weights read back, or not at all.

    base_name: of the model it was made from, or None; no path of this machine is written.
    """
    _check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with lab.turn():
            lab.model.save_pretrained(part)
            _check_read_back(lab, part)
        lab.tokenizer.save_pretrained(part)
        base = f"base_model: {base_name}\n" if base_name else ""
        (part / "README.md").write_text(
            f"---\nlibrary_name: transformers\n{base}tags:\n- lora\n- merged\n---\n", "utf-8"
        )
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise BadInput(f"{path.name} is there already; give another path, or overwrite=True.")
    if (
        path.is_dir()
        and path.suffix.lower() != ".gguf"
        and not (path / "config.json").is_file()
        and any(path.iterdir())
    ):
        raise BadInput(f"{path.name} is a folder of other things, which labkit does not overwrite; give another path.")


def _check_read_back(lab: BuiltLab, folder: Path) -> None:
    """Raise BadModelFile unless the files hold every tensor of the model, as it is; what is tied stands there once."""
    from safetensors import safe_open

    held = dict(lab.model.named_parameters(remove_duplicate=False))
    seen: set[int] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no dict
                there = held.get(name)
                if there is not None and not torch.equal(opened.get_tensor(name), there.detach().cpu()):
                    raise BadModelFile(f"{name} was written otherwise than it is; nothing was kept: try again.")
                if there is not None:
                    seen.add(id(there))
    if missing := [name for name, value in held.items() if id(value) not in seen]:
        raise BadModelFile(f"{missing[0]} was not written by transformers' save_pretrained; nothing was kept.")


def pushed(adapter: Adapter[Any], repo_id: str, *, merged: bool, private: bool | None, token: str | bool | None) -> str:
    """Upload an adapter or its merged model; `Adapter.push_to_hub` says the rest."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub_endpoint(), token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "upload"
        _ = adapter.export(folder) if merged else adapter.save(folder)
        where = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=where.repo_id, folder_path=folder, commit_message=f"Upload {adapter.name}")
    return str(where)
