"""Second load of the default model against transformers opening the GGUF file it came from."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from common import compare, report
from transformers import AutoModelForCausalLM, AutoTokenizer

import labkit as lk
from labkit.models import catalog, resolve, store


def labkit_load() -> None:
    lk.load(device="cpu", fresh=True).close()


def transformers_load() -> None:
    stored = store.find(catalog.DEFAULT)
    assert stored is not None
    original = next(Path(stored.folder).glob("*.gguf"))
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stderr(quiet):
        AutoModelForCausalLM.from_pretrained(original.parent, gguf_file=original.name, dtype=torch.float32)
        AutoTokenizer.from_pretrained(original.parent, gguf_file=original.name)


if __name__ == "__main__":
    resolve.prepare(catalog.MODELS[catalog.DEFAULT])
    labkit_load()  # the peers' imports are not part of either
    report(
        [
            compare(
                "second load of the default model",
                ("lk.load()", labkit_load),
                ("transformers from GGUF", transformers_load),
                rounds=3,
                warm_up=0,
            )
        ]
    )
