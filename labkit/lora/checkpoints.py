"""A run as it stands between two steps, on disk: what goes on from there goes on as it would have.

Tensors are in safetensors files and the rest in JSON. A checkpoint appears with one rename, so that whatever ends the
process, the folder holds the last whole one.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from labkit.errors import BadInput, BadModelFile

_NAME = re.compile(r"checkpoint-(\d{6,})")
_PARTIAL = ".partial-"
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
Json = Mapping[str, object]


@dataclass(frozen=True)
class Checkpoint:
    """weights: by name, all that is trained (and, where frozen weights depend on it, what the adapter began with).

    optimizer: its state_dict; schedule: the schedule's.  generator: the state of the run's own random draws.
    history: of the steps so far; samples: (step, text).  identity: what the run is; another one can't go on from here.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Json
    schedule: Json
    generator: torch.Tensor
    history: Sequence[Json]
    samples: Sequence[tuple[int, str]]
    identity: Json


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a folder and take the earlier ones away."""
    from safetensors.torch import save_file

    name = f"checkpoint-{checkpoint.step:06d}"
    partial = folder / f"{_PARTIAL}{name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors, rest = _apart(checkpoint.optimizer)
    save_file({name: _plain(tensor) for name, tensor in checkpoint.weights.items()}, partial / _WEIGHTS)
    save_file({"generator": checkpoint.generator, **tensors}, partial / _OPTIMIZER)
    state = {
        "step": checkpoint.step,
        "optimizer": rest,
        "schedule": checkpoint.schedule,
        "history": [{key: _json_number(value) for key, value in row.items()} for row in checkpoint.history],
        "samples": list(checkpoint.samples),
        "identity": checkpoint.identity,
    }
    (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    partial.replace(place)
    for each in folder.iterdir():
        if each != place and (_NAME.fullmatch(each.name) or each.name.startswith(_PARTIAL)):
            shutil.rmtree(each, ignore_errors=True)


def there(folder: Path) -> bool:
    """Whether a folder has a checkpoint."""
    return folder.is_dir() and any(_NAME.fullmatch(each.name) for each in folder.iterdir())


def latest(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint of a folder; None where there is none. Raises BadModelFile for one that can't be read."""
    from safetensors.torch import load_file

    found = [each for each in folder.iterdir() if _NAME.fullmatch(each.name)] if folder.is_dir() else []
    if not found:
        return None
    place = max(found, key=lambda each: int(each.name.rpartition("-")[2]))
    try:
        state = json.loads((place / _STATE).read_text(encoding="utf-8"))
        tensors = load_file(place / _OPTIMIZER)
        generator = tensors.pop("generator")
        return Checkpoint(
            step=int(state["step"]),
            weights=load_file(place / _WEIGHTS),
            optimizer=_together(tensors, state["optimizer"]),
            schedule=state["schedule"],
            generator=generator,
            history=[
                {key: math.nan if value is None else value for key, value in row.items()} for row in state["history"]
            ],
            samples=[(int(step), str(text)) for step, text in state["samples"]],
            identity=state["identity"],
        )
    except Exception as error:  # whatever a damaged file makes of the readers
        raise BadModelFile(f"{place} can't be read as a checkpoint; delete it, and run without resume=True.") from error


def check_same(folder: Path, there: Json, now: Json) -> None:
    """Raise BadInput where a checkpoint is of another run, with the first setting that differs."""
    for key in now:
        if there.get(key) != now[key]:
            old, new = there.get(key), now[key]
            what = f"{key}={old!r}, and this run has {new!r}" if len(repr((old, new))) < 200 else f"another {key}"
            raise BadInput(f"The checkpoint in {folder} is of a run with {what}; give the same, or another folder.")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _apart(state: Json) -> tuple[dict[str, torch.Tensor], Json]:
    """The tensors of an optimiser's state by "parameter/name", and all else."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, object]] = {}
    each = state["state"]
    assert isinstance(each, Mapping)
    for parameter, fields in each.items():
        for name, value in fields.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}/{name}"] = _plain(value)
            else:
                numbers.setdefault(str(parameter), {})[name] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def _together(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Json:
    state: dict[int, dict[str, object]] = {}
    for parameter, fields in rest["numbers"].items():
        state.setdefault(int(parameter), {}).update(fields)
    for key, tensor in tensors.items():
        parameter, _, name = key.partition("/")
        state.setdefault(int(parameter), {})[name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}


def _json_number(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
