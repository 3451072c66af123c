"""Which file another engine runs in a lab's place, and the engine kept for it.

A GGUF file serves a model only where it holds that model's weights: the file it was opened from, or the original that the
store keeps of a catalogue's model. For others one is written, once for the same weights, and kept in the store. What the
file would lack (an edit, an adapter, another library's quantization) is refused, since another model would answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from labkit.errors import BadModelFile, Unavailable
from labkit.generation import llama_cpp
from labkit.generation.llama_cpp import LlamaCpp
from labkit.models import files, gguf_metadata, origin, store
from labkit.models.memory import human_bytes
from labkit.models.resolve import say
from labkit.models.reuse import state_of
from labkit.trace.adding import is_added_to
from labkit.trace.building import has_peft_layers
from labkit.trace.edits import is_edited
from labkit.trace.running import forget_steppers, language_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import BuiltLab

WriteFile = Callable[["BuiltLab", Path], object]
FILE = "model.gguf"  # of what was written for a lab


@dataclass(frozen=True)
class Served:
    """A model's file, opened. state: of the model when it was, as `reuse.state_of` counts it.  written: for this model."""

    llama: LlamaCpp
    description: str
    state: int
    written: bool

    @contextlib.contextmanager
    def feed(self) -> Iterator[_Reading]:
        with ThreadPoolExecutor(1, "labkit-llama.cpp") as worker:  # what is under way is waited for at the end
            yield _Reading(self.llama, worker)


class _Reading:
    """A file opened by llama.cpp as the loop has it: it reads in a thread of its own while a token is recorded."""

    ahead = True

    def __init__(self, llama: LlamaCpp, worker: ThreadPoolExecutor) -> None:
        self.start = llama.start
        self._llama, self._worker = llama, worker

    def read(self, id_: torch.Tensor) -> Callable[[], torch.Tensor]:
        return self._worker.submit(self._llama.read, [int(id_)]).result


def engine_of(lab: BuiltLab, write: WriteFile) -> Served:
    """The engine of a lab's model, opened once and kept until `close`. To be called in the lab's turn.

    write: writes a lab as a GGUF file, for a model that has none.
    Raises Unavailable, with the remedy, where llama.cpp is not installed or would run another model than the lab's.
    """
    llama_cpp.check_there()
    model = language_model(lab.model)
    if is_edited(model):
        raise Unavailable(
            f"An edit is on {lab.name}, and llama.cpp would run the model without it; leave the `with` block, or use "
            "engine='transformers'."
        )
    if is_added_to(model) or has_peft_layers(lab.model):
        raise Unavailable(
            f"An adapter is on {lab.name}, and llama.cpp would run the model without it; leave the `with` block, merge it, "
            "or use engine='transformers'."
        )
    with _LOCK:
        there = _SERVED.get(model)
        state = state_of(model)
        if there is not None and there.state == state:
            return there
        close(model)
        own = _own_file(lab, model)
        file = _written(lab, write) if own is None else own
        if there is not None and there.written and there.llama.path != file:  # of weights that the model no longer has
            shutil.rmtree(there.llama.path.parent, ignore_errors=True)
        kind = precision(file)
        llama = LlamaCpp(file, cache="F32" if kind == "F32" else "F16")
        served = Served(llama, f"llama.cpp ({file.name}, {kind}, cache {llama.cache})", state, own is None)
        _SERVED[model] = served
        weakref.finalize(model, llama.close)  # also at exit, before llama.cpp goes
        return served


def close(model: PreTrainedModel) -> None:
    """Close the engine that is kept for a model, and let go of its compiled steps."""
    inner = language_model(model)
    forget_steppers(inner)
    with _LOCK:
        served = _SERVED.pop(inner, None)
    if served is not None:
        served.llama.close()


def precision(file: Path) -> str:
    """The type that most weights of a file have, such as "Q4_1"."""
    weights: Counter[str] = Counter()
    for tensor in files.read_gguf_header(file).tensors:
        weights[tensor.ggml_type] += tensor.elements
    return weights.most_common(1)[0][0]


def _own_file(lab: BuiltLab, model: torch.nn.Module) -> Path | None:
    file = origin.gguf_of(model)
    if file is None or not file.exists():
        return None
    kept = store.find(file.parent.name)
    if kept is not None and kept.folder == file.parent and (wrong := store.problems(kept, only=(".gguf",))):
        raise BadModelFile(
            f"The file that llama.cpp would run for {lab.name} is damaged ({wrong[0]}); make it again with "
            f"`labkit get {lab.name}`."
        )
    return file


def _written(lab: BuiltLab, write: WriteFile) -> Path:
    """A file of the lab's weights in the store, written where there is none of the very same."""
    try:
        gguf_metadata.architecture_of(lab.config)
    except Unavailable as error:
        raise Unavailable(
            f"llama.cpp needs a GGUF file of {lab.name}, and none can be written: names and order of the tensors of "
            f"{lab.family} are not known here; load a .gguf file of it, or use engine='transformers'."
        ) from error
    name = f"gguf-{_digest(lab)}"
    with store.locked(name):
        kept = store.find(name)
        if kept is None or store.problems(kept, only=(".gguf",)):
            size = sum(tensor.nbytes for tensor in lab.model.state_dict().values())
            say(f"Writing {lab.name} as a GGUF file for llama.cpp, once ({human_bytes(size)}).")

            def make(folder: Path) -> store.Manifest:
                write(lab, folder / FILE)
                return store.Manifest(name=name, source=f"written from {lab.name}", licence=lab.licence or "", files={})

            kept = store.put(name, make, bytes_needed=size)
    return kept.folder / FILE


def _digest(lab: BuiltLab) -> str:
    """Of all that the file would hold: configuration, vocabulary and weights."""
    found = hashlib.blake2b(digest_size=16)
    config = {key: value for key, value in lab.config.to_dict().items() if not key.startswith("_")}
    found.update(json.dumps(config, sort_keys=True, default=str).encode())
    found.update(json.dumps(lab.tokenizer.get_vocab(), sort_keys=True).encode())
    found.update(str(lab.tokenizer.chat_template).encode())
    for name, tensor in lab.model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


_LOCK = threading.RLock()
_SERVED: weakref.WeakKeyDictionary[torch.nn.Module, Served] = weakref.WeakKeyDictionary()
