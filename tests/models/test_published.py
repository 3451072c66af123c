"""The table of published models: well formed, found by any of its names, and read without torch."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest

from labkit.models import published

ENTRIES = [entry for name in published.names() if (entry := published.get(name))]


def test_families_are_there() -> None:
    types = {entry.config["model_type"] for entry in ENTRIES}
    dense = {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "falcon",
        "gemma2",
        "gemma3_text",
        "olmo2",
        "gpt2",
        "gpt_neox",
    }
    assert dense | {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss", "smollm3"} <= types


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_complete(entry: published.Published) -> None:
    assert entry.name == entry.name.lower()
    assert entry.hub_id.count("/") == 1
    assert entry.parameters > 0
    assert entry.stated is None or entry.stated > 0
    assert entry.licence
    assert len(entry.source) > 20
    assert "model_type" in entry.config
    released = datetime.date.fromisoformat(entry.released if len(entry.released) == 10 else f"{entry.released}-01")
    assert released <= datetime.date.fromisoformat(entry.taken)


def test_no_name_means_two_models() -> None:
    every = [key.lower() for entry in ENTRIES for key in (entry.name, entry.hub_id, *entry.aliases)]
    assert len(every) == len(set(every))
    assert published.keys() == {key: published.get(key).name for key in every}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["llama-2-7b", " LLAMA-2-7B ", "meta-llama/Llama-2-7b-hf", "META-LLAMA/llama-2-7b-HF"])
def test_found_by_any_name(name: str) -> None:
    entry = published.get(name)
    assert entry is not None
    assert entry.name == "llama-2-7b"
    assert entry.hub_id == "meta-llama/Llama-2-7b-hf"


def test_an_alias_is_never_answered_with_another_hub_id() -> None:
    chat = published.get("qwen/qwen2.5-0.5b-instruct")
    assert chat is not None
    assert (chat.name, chat.hub_id) == ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct")
    plain = published.get("qwen2.5-0.5b")
    assert plain is not None
    assert plain.hub_id == "Qwen/Qwen2.5-0.5B"
    short = published.get("tinyllama")
    assert short is not None
    assert short.hub_id == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def test_unknown_is_none() -> None:
    assert published.get("no-such-model") is None
    assert published.get("") is None


def test_table_can_not_be_spoilt() -> None:
    first = published.get("gpt2")
    assert first is not None
    first.config["n_layer"] = 1
    second = published.get("gpt2")
    assert second is not None
    assert second.config["n_layer"] == 12


def test_reading_needs_the_standard_library_alone() -> None:
    code = (
        "import sys\nfrom labkit.models import published\npublished.get('gpt2')\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
