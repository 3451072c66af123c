"""An adapter as a folder in peft's format: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, BadModelFile, DownloadFailed, ModelNotFound
from labkit.models.files.common import Json, read_json
from labkit.models.files.safetensors_header import read_safetensors_header
from labkit.models.resolve import is_path_like
from labkit.models.shipped import ADAPTERS, checked_adapter
from labkit.models.sources import hub_endpoint

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = ["CONFIG", "WEIGHTS", "Files", "changes_base", "checked_config", "read", "where", "write"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_KEY = "labkit_base"  # in the metadata of the weights' file
COPY_KEY = "labkit_trained_beside"  # there too
_COPY = "a quantized copy"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_CONFIG_LIMIT = 10_000_000  # bytes
_OF_TRAINING = re.compile(r"\.lora_\w+\.(?!(?:weight|bias)$)[\w-]+(?:\.(?:weight|bias))?$")  # with an adapter's name
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# settings by which peft computes something else than W + scaling · B A (or DoRA), with what they are called
_OTHER = {
    "target_parameters": "updates of fused parameters",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "trainable_token_indices": "single trained tokens",
    "megatron_config": "Megatron's layers",
}


@dataclass(frozen=True)
class Files:
    """What is read of a folder. base: the text that `write` was given, or None; on_a_copy: as `write` was given it."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    base: str | None
    on_a_copy: bool = False


def where(source: str | os.PathLike[str], *, revision: str | None, token: str | bool | None) -> Path:
    """The folder of an adapter: a path, the name of one that comes with labkit, or a hub name, whose two files are fetched.

    Raises ModelNotFound, BadModelFile, DownloadFailed.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    text = os.fspath(source)
    if (shipped := checked_adapter(text)) is not None:
        return shipped
    if isinstance(source, os.PathLike) or is_path_like(text) or not _HUB_NAME.fullmatch(text):
        raise ModelNotFound(
            f"There is no folder {checks.shown(text)}; give the folder that adapter.save() or peft wrote, a hub name "
            f"(owner/name), or an adapter that comes with labkit: {checks.listed(ADAPTERS)}."
        )
    return _fetched(text, revision, token)


def _fetched(name: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    endpoint = hub_endpoint()
    try:
        for file in (CONFIG, WEIGHTS):
            there = hf_hub_download(name, file, revision=revision, token=token, endpoint=endpoint)
        return Path(there).parent
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{name} is gated: accept its licence on its page at {endpoint}/{name}, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{name} is not on {endpoint}, or it is private; check the name, or log in with `hf auth login`."
        ) from error
    except EntryNotFoundError as error:
        raise BadModelFile(
            f"{name} has no {file}, so it is no adapter in safetensors; look for another upload of it."
        ) from error
    except OSError as error:
        raise DownloadFailed(
            f"{name} can't be fetched from {endpoint} ({str(error).splitlines()[0][:200]}); try again, or give a folder."
        ) from error


def read(folder: Path) -> Files:
    """The two files of a folder, checked. Raises BadModelFile for what is damaged, a pickle, or no LoRA."""
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file():
        raise BadModelFile(f"{folder.name} has no {CONFIG}, so it is no adapter; give the folder that holds it.")
    config = checked_config(read_json(folder / CONFIG, _CONFIG_LIMIT), folder.name)
    file = folder / WEIGHTS
    if not file.is_file():
        if pickled := next((name for name in _PICKLES if (folder / name).is_file()), None):
            raise BadModelFile(
                f"{folder.name} holds its weights as a pickle ({pickled}), which can run code when opened; save it again "
                "with peft's save_pretrained(..., safe_serialization=True)."
            )
        raise BadModelFile(f"{folder.name} has no {WEIGHTS}; save the adapter again.")
    header = read_safetensors_header(file)
    tensors = load_file(file)
    for name, value in tensors.items():
        if _OF_TRAINING.search(name):
            raise BadModelFile(
                f"{folder.name} names its tensors as a model in training does ({name}), and peft would read none of them; save "
                "the adapter with peft's save_pretrained, or with labkit."
            )
        if not value.is_floating_point():
            raise BadModelFile(
                f"{folder.name} has a tensor that holds no real numbers ({name}); save the adapter again."
            )
        if not bool(value.isfinite().all()):
            raise BadModelFile(f"{folder.name} has NaN or infinity in {name}; its training diverged: train it again.")
    return Files(config, tensors, header.metadata.get(BASE_KEY), header.metadata.get(COPY_KEY) == _COPY)


def checked_config(fields: Json, name: str) -> LoraConfig:
    """A LoraConfig of what a file says. Raises BadModelFile for another kind of adapter than LoRA and DoRA."""
    from dataclasses import fields as fields_of

    from peft import LoraConfig

    kind = fields.get("peft_type")
    if kind != "LORA":
        raise BadModelFile(
            f"{name} is an adapter of the kind {checks.shown(kind)}; labkit reads LoRA, rsLoRA and DoRA."
        )
    known = {each.name for each in fields_of(LoraConfig)} - {"runtime_config", "peft_type"}
    try:
        config = LoraConfig(**{key: value for key, value in fields.items() if key in known})
    except (TypeError, ValueError, KeyError) as error:
        raise BadModelFile(f"{name} has an {CONFIG} that peft can't read ({error}); save the adapter again.") from error
    if not isinstance(config.r, int) or checks.as_number(config.lora_alpha) is None:
        raise BadModelFile(
            f"{name} has an {CONFIG} without a rank and an alpha that are numbers; save the adapter again."
        )
    if unknown := sorted(key for key in set(fields) - known - {"runtime_config", "peft_type"} if fields[key]):
        raise BadModelFile(
            f"{name} has a setting that this version of peft doesn't know ({checks.some(unknown)}), so it may compute something "
            "else than LoRA; upgrade peft and labkit, or save the adapter again without it."
        )
    for key, what in _OTHER.items():
        if fields.get(key):
            raise BadModelFile(f"{name} uses {what} ({key}), which labkit doesn't compute; use peft itself for it.")
    if changes_base(config):
        raise BadModelFile(
            f"{name} belongs to a base that was changed before training (init_lora_weights="
            f"{checks.shown(config.init_lora_weights)}), and says nothing of the change; save it with labkit, or with peft's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    return config


def changes_base(config: LoraConfig) -> bool:
    """Whether the initialization takes something out of the base's weights, as PiSSA, OLoRA and LoftQ do."""
    way = config.init_lora_weights
    return isinstance(way, str) and way not in ("gaussian", "eva", "orthogonal")


def write(
    folder: Path,
    config: LoraConfig,
    tensors: Mapping[str, torch.Tensor],
    *,
    base: str,
    base_name: str | None,
    on_a_copy: bool = False,
) -> None:
    """Write the two files and a short README. Each appears whole; a new folder appears with all of them or not at all.

    base_name: of the model on the hub, or None; no path of this machine is written.  on_a_copy: it was trained beside a
    quantized copy of its base.
    """
    from safetensors.torch import save_file

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder.name} is a file; give another name for the adapter's folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        beside = {COPY_KEY: _COPY} if on_a_copy else {}
        save_file(kept, part / WEIGHTS, metadata={"format": "pt", BASE_KEY: base, **beside})
        (part / CONFIG).write_text(_config_text(config, base_name), "utf-8")
        (part / "README.md").write_text(_readme(base_name), "utf-8")
        part.chmod(0o755)
        if folder.exists():
            for file in part.iterdir():
                file.replace(folder / file.name)
        else:
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _config_text(config: LoraConfig, base_name: str | None) -> str:
    fields = dict(config.to_dict())  # type: ignore[no-untyped-call]
    fields.pop("runtime_config", None)
    fields |= {"base_model_name_or_path": base_name, "inference_mode": True, "auto_mapping": None, "revision": None}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    return json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n"


def _readme(base_name: str | None) -> str:
    base = f"base_model: {base_name}\n" if base_name else ""
    return f"---\nlibrary_name: peft\n{base}tags:\n- lora\n---\n"
