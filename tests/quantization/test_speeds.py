"""Tokens a second: that all stands beside them which tells why; times themselves are never asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_gguf_export import lab_of

from labkit.errors import BadInput, ModelNotFound
from labkit.quantization import contents, quantize, speed, write_gguf


def test_labs_in_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    lab = lab_of("qwen3")  # tied: the embedding is the head, and read whole
    small = quantize(lab, "int8", backend="torch", progress=False)
    found = speed([lab, small], tokens=4, rounds=2)
    table = found.table.set_index("model")
    assert list(table.index) == [lab.name, small.name]
    assert (table["engine"] == "transformers").all()
    assert not table["compiled"].any()
    assert table.loc[lab.name, "format"] == "float32"
    assert table.loc[lab.name, "relative"] == 1
    assert table.loc[lab.name, "bytes_per_token"] == contents(lab).size_bytes == table.loc[lab.name, "weight_bytes"]
    assert table.loc[small.name, "weight_bytes"] == contents(small).size_bytes
    assert (table["limit"] * table["bytes_per_token"]).round(-3).nunique() == 1
    assert table["share_of_limit"].equals(table["tokens_per_second"] / table["limit"])
    assert found.bandwidth > 0
    assert table["opening_bytes"].isna().all()
    assert (table["running_bytes"] >= 0).all()
    assert found.process_bytes > 50e6
    assert "resident memory" in repr(found)
    assert "cache" in repr(found)


def test_what_a_token_reads() -> None:
    moe = lab_of("qwen3_moe")  # untied, 2 of 4 experts for a token
    table = contents(moe).table
    experts = table.loc[table["module"].str.contains("experts"), "bytes"].sum()
    embedding = table.loc[table["module"] == "model.embed_tokens.weight", "bytes"].sum()
    row = speed({"mixture": moe}, tokens=2, rounds=1).table.iloc[0]
    assert row["bytes_per_token"] == table["bytes"].sum() - embedding - experts / 2


def test_llama_cpp_beside_transformers(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp needs: pip install xllamacpp")
    lab = lab_of("qwen3_moe")
    written = write_gguf(lab, tmp_path / "m.gguf", "q8_0")
    table = speed({"lab": lab, "file": tmp_path / "m.gguf"}, tokens=3, rounds=1).table.set_index("model")
    assert list(table["engine"]) == ["transformers", "llama.cpp"]
    assert table.loc["file", "weight_bytes"] == written.size_bytes
    experts = written.table.loc[written.table["module"].str.contains("_exps"), "bytes"].sum()
    embedding = written.table.loc[written.table["module"] == "token_embd.weight", "bytes"].sum()
    assert table.loc["file", "bytes_per_token"] == written.size_bytes - embedding - experts / 2
    assert (table["tokens_per_second"] > 0).all()
    assert table["opening_bytes"].isna().tolist() == [True, False]


def test_bad_arguments(tmp_path: Path) -> None:
    lab = lab_of("llama")
    with pytest.raises(BadInput, match="one name"):
        speed([lab, lab])
    with pytest.raises(BadInput, match="models"):
        speed([])
    with pytest.raises(BadInput, match="tokens"):
        speed(lab, tokens=0)
    with pytest.raises(BadInput, match="tokens=1000000"):
        speed(lab, tokens=10**6)
    with pytest.raises(BadInput, match=r"tokens=300 .* context=256"):
        speed(lab, tokens=300)
    with pytest.raises(ModelNotFound):
        speed(tmp_path / "none.gguf")
