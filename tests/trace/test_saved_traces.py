"""Traces saved by the version before the table of instruments (format 1) open as that version read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import labkit as lk

FOLDER = Path(__file__).parents[1] / "data" / "traces_format_1"
FILES = {
    "attention": "windows, softcap and grouped heads (gemma2), with logits",
    "sink": "attention sinks (gpt_oss)",
    "patterns": "patterns of a family off the interface (bloom), with logits and heads' outputs",
    "routes": "routes of a mixture (mixtral)",
    "everything": "all that could be kept, dense and routed layers in turns (qwen3_moe)",
}


@pytest.fixture(scope="module")
def read_then() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "read_by_the_version_that_saved_them.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_saved_trace_reads_as_then(name: str, read_then: dict[str, torch.Tensor], tmp_path: Path) -> None:
    trace = lk.Trace.load(FOLDER / f"{name}.safetensors")
    again = lk.Trace.load(trace.save(tmp_path / "again.safetensors"))  # in the format of now
    wanted = {key.partition(".")[2]: value for key, value in read_then.items() if key.partition(".")[0] == name}
    assert wanted
    for one in (trace, again):
        for key, expected in wanted.items():
            what, _, rest = key.partition(".")
            if what == "routes":
                found = getattr(one.routes, rest)
            elif what in ("loss", "logits"):
                found = getattr(one, what)
            else:
                found = getattr(one, what)(int(rest))
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, equal_nan=True)
        assert one.special == (1,)
        assert one.tokens[1] == "t5 "
        assert (one.heads, one.heads_of(0)) == (4, 4)
        assert one.kv_heads == one.kv_heads_of(1)
        assert one.causal
        assert one.scalar is None
        with pytest.raises(lk.Unavailable, match="mlp_neurons"):
            one.mlp_neurons(0)


def test_every_kind_is_there() -> None:
    formats = set()
    for name in FILES:
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
            formats.add(json.loads(file.metadata()["labkit"])["format"])
    assert formats == {1}


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    with safe_open(FOLDER / "routes.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["labkit"]) | {"format": 99}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors, tmp_path / "t.safetensors", metadata={"labkit": json.dumps(facts)})
    with pytest.raises(lk.BadModelFile, match="another version"):
        lk.Trace.load(tmp_path / "t.safetensors")
