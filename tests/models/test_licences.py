"""The table of licences: one for every published model, with a line and a source, found by any name."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import pandas as pd
import pytest

import labkit as lk
from labkit.models import published
from labkit.models.licences import Licence, licence

TABLE = json.loads(resources.files("labkit.models").joinpath("licences.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", published.names())
def test_every_model_has_its_terms(name: str) -> None:
    terms = licence(name)
    assert terms.weights in ("free", "conditions", "research")
    assert {terms.data, terms.code} <= {"yes", "part", "no"}
    assert terms.allows.endswith(".")
    assert len(terms.source) > 10
    assert bool(terms.open_source) == (name in TABLE["openness"])
    assert terms.allows in repr(terms)
    assert "<table" in terms._repr_html_()


def test_nothing_in_the_table_is_unused() -> None:
    assert set(TABLE["licences"]) == {entry.licence for name in published.names() if (entry := published.get(name))}
    assert set(TABLE["openness"]) | set(TABLE["formerly"]) <= set(published.names())


def test_clauses_the_articles_speak_of() -> None:
    assert "700 million" in licence("meta-llama/Llama-2-70b-chat-hf").allows
    assert "10 % of revenue" in licence("falcon-40b").formerly
    assert licence("falcon-40b").name == "Apache-2.0"
    assert "hosted service" in licence("falcon-180b").allows
    assert licence("falcon-180b").formerly == ""
    assert licence("llama-7b").weights == "research"
    assert "100 million" in licence("qwen-7b").allows
    fully = {
        name
        for name in published.names()
        if (licence(name).weights, licence(name).data, licence(name).code) == ("free", "yes", "yes")
    }
    assert {"olmo-7b", "olmo-2-7b", "olmo-3-7b", "olmoe-1b-7b", "pythia-1b", "amber", "k2-65b"} <= fully
    assert not fully & {"llama-2-7b", "mistral-7b", "qwen3-8b", "gemma-2-2b", "phi-4", "gpt-oss-20b", "deepseek-v3"}


def test_a_name_that_exists_nowhere_has_near_matches() -> None:
    with pytest.raises(lk.ModelNotFound, match="did you mean llama-2-7b"):
        lk.licence("lama-2-7b")
    with pytest.raises(lk.ModelNotFound, match="lists those known"):
        lk.licence("zzzzzzzzzz")
    with pytest.raises(lk.ModelNotFound):
        lk.licence("\x1b[31m" * 100)
    assert isinstance(lk.licence("gpt2"), Licence)


def test_the_table_makes_a_data_frame() -> None:
    table = pd.DataFrame(published.table())
    assert list(table["name"]) != sorted(table["name"])
    assert set(table["name"]) == set(published.names())
    assert not table.isna().any().any()
    assert {"family", "parameters", "released", "licence", "allows", "weights", "data", "code", "source"} <= set(table)


def test_reading_needs_the_standard_library_alone() -> None:
    code = (
        "import sys\nfrom labkit.models import published\npublished.table()\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
