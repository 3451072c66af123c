"""Labs written as GGUF files: read back with equal values by transformers, near-equal by llama.cpp, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzz
import pytest
import tokenizers_of_kinds
import torch

import labkit as lk
from labkit.errors import BadInput, ModelNotFound, Unavailable
from labkit.generation.llama_cpp import LlamaCpp
from labkit.models import gguf_writing
from labkit.quantization import contents, quantize, write_gguf

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe")
TEXT = "the cat and the dog ran, where 12 trees were"


def lab_of(family: str, tokenizer: Any = None, **more: Any) -> lk.Lab:
    """A tiny random model of a family, its weights wide enough that positions and orders matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer or fuzz.tiny_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 3,  # rows that no token has
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": family in ("qwen2", "qwen3"),
        **({"sliding_window": None} if family == "mistral" else {}),
        **(
            {"norm_topk_prob": True, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
            if family.endswith("moe")
            else {}
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | more))
        for name, weight in model.named_parameters():
            torch.nn.init.normal_(weight, float("norm" in name), 0.2)
    return lk.Lab(model.eval(), tokenizer, name=f"tiny {family}", licence="Apache-2.0")


def logits(lab: lk.Lab, text: str = TEXT) -> torch.Tensor:
    return lab.trace(text, keep="logits").logits


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_back_equal(family: str, tmp_path: Path) -> None:
    lab = lab_of(family)
    found = write_gguf(lab, tmp_path / "model.gguf")
    assert set(found.table["type"]) == {"F32"}
    assert list(tmp_path.iterdir()) == [tmp_path / "model.gguf"], "nothing else is left behind"
    read = lk.load(tmp_path / "model.gguf", fresh=True)
    assert read.family == ("llama" if family == "mistral" else family)
    assert read.licence == "Apache-2.0"
    ours, theirs = dict(lab.model.named_parameters()), dict(read.model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(logits(lab), logits(read))
    for text in (TEXT, "Ünï 中\n\n  x", "<|im_start|>user<|im_end|>"):
        assert lab.tokenizer(text).input_ids == read.tokenizer(text).input_ids
    assert read.tokenizer.chat_template == lab.tokenizer.chat_template
    assert read.tokenizer.eos_token_id == lab.tokenizer.eos_token_id


def test_llama_cpp_says_nearly_the_same(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp needs: pip install xllamacpp")
    for family in FAMILIES:
        lab = lab_of(family)
        write_gguf(lab, tmp_path / f"{family}.gguf")
        wanted = logits(lab)[-1].log_softmax(-1)
        # a wrong order of rows, rotation or norm is off by whole nats
        for cache, tolerance in (("F16", 0.1), ("F32", 1e-3)):
            with LlamaCpp(tmp_path / f"{family}.gguf", cache=cache) as engine:
                found = engine.start(lab.tokenizer(TEXT).input_ids).log_softmax(-1)
            assert torch.allclose(found, wanted, atol=tolerance), (family, cache)


def test_the_name_in_the_file_is_told_where_the_file_has_another(tmp_path: Path) -> None:
    lab = lab_of("llama")
    for name, told in (("A model of my own", True), ("same", False)):
        write_gguf(lab, tmp_path / "same.gguf", "q8_0", name=name, overwrite=True)
        read = lk.load(tmp_path / "same.gguf", fresh=True)
        assert any(f"calls its model {name!r}" in note for note in read.notes) == told


def test_byte_fallback_tokenizers_are_written_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    legacy = tokenizers_of_kinds.KINDS["llama"]()
    with pytest.raises(
        Unavailable, match="makes other tokens"
    ):  # a space before a first space, which no reader puts there
        write_gguf(lab_of("llama", legacy), tmp_path / "sp.gguf")
    pieces = ["<unk>", "<s>", "</s>", "<|im_end|>", *tokenizers_of_kinds.BYTES, "▁", "a", "b", "▁▁", "▁a", "ab"]
    merges = [("▁", "▁"), ("▁", "a"), ("a", "b")]
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = legacy.backend_tokenizer.decoder
    tokenizer = tokenizers_of_kinds._wrapped(made)
    lab = lab_of("llama", tokenizer)
    write_gguf(lab, tmp_path / "sp.gguf")
    read = lk.load(tmp_path / "sp.gguf", fresh=True)
    for text in ("hi there!", "é世😀 xyz", "  ab a b"):
        assert tokenizer(text).input_ids == read.tokenizer(text).input_ids


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"])
def test_a_format_has_the_values_that_quantize_gives(format: str, tmp_path: Path) -> None:
    lab = lab_of("llama")
    found = write_gguf(lab, tmp_path / "m.gguf", format)
    of_layers = found.table[found.table["layer"].notna() & (found.table["matrix"] != "")]
    assert set(of_layers["type"]) == {format.upper()}
    small = quantize(lab, format, progress=False)
    assert torch.equal(logits(lk.load(tmp_path / "m.gguf", fresh=True)), logits(small))
    # and the lab that is packed already gives the same file, not one rounded twice
    write_gguf(small, tmp_path / "again.gguf", name=lab.name)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_integers_in_groups_become_blocks_of_the_same_values(tmp_path: Path) -> None:
    lab = lab_of("qwen3")
    for bits, size, wanted in ((4, 32, "Q4_0"), (3, 64, "Q4_0"), (5, 32, "Q5_0"), (8, 32, "Q8_0")):
        small = quantize(lab, f"int{bits}", group_size=size, symmetric=True, modules="q_proj", progress=False)
        found = write_gguf(small, tmp_path / f"{bits}.gguf")
        assert set(found.table.loc[found.table["matrix"] == "attn_q", "type"]) == {wanted}
        assert torch.equal(logits(lk.load(tmp_path / f"{bits}.gguf", fresh=True)), logits(small))


def test_values_that_no_block_holds_are_written_in_full_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = quantize(lab_of("llama"), "nf4", progress=False)
    found = write_gguf(small, tmp_path / "m.gguf")
    assert set(found.table["type"]) == {"F32"}
    assert "no blocks that hold the values of nf4" in capsys.readouterr().err
    assert torch.equal(logits(lk.load(tmp_path / "m.gguf", fresh=True)), logits(small))


def test_scaled_columns_are_written_in_full(tmp_path: Path) -> None:
    """Blocks have no place for what activation-aware scaling multiplies the columns by."""
    lab = lab_of("llama")
    text = ["".join(TEXT for _ in range(40))]
    small = quantize(lab, "q4_0", method="awq", calibration=text, progress=False)
    write_gguf(small, tmp_path / "m.gguf")
    assert torch.allclose(logits(lk.load(tmp_path / "m.gguf", fresh=True)), logits(small), atol=1e-4)


def test_a_mix_with_a_head_of_its_own(tmp_path: Path) -> None:
    lab = lab_of("qwen2", intermediate_size=80)  # 80 is no multiple of 32
    mix = {"model.layers.0.*": "q8_0", "model.layers.1.*": "q4_0", "model.layers.1.self_attn.q_proj": "f16"}
    found = write_gguf(lab, tmp_path / "m.gguf", mix, head="q8_0").table.set_index("module")
    assert found.loc["blk.0.attn_q.weight", "type"] == "Q8_0"
    assert found.loc["blk.1.attn_k.weight", "type"] == "Q4_0"
    assert found.loc["blk.1.attn_q.weight", "type"] == "F16"
    assert found.loc["token_embd.weight", "type"] == "Q8_0"
    assert found.loc["blk.0.ffn_down.weight", "type"] == "F32"
    assert "80" in found.loc["blk.0.ffn_down.weight", "why"]
    assert found.loc["blk.0.attn_q.bias", "type"] == "F32"
    read = lk.load(tmp_path / "m.gguf", fresh=True)
    whole = {f"model.layers.{i}.*": f for i, f in enumerate(("q8_0", "q4_0"))} | {
        "model.layers.1.self_attn.q_proj": None
    }
    small = quantize(lab, whole, head="q8_0", progress=False)
    assert torch.allclose(logits(read), logits(small), atol=0.02)  # but for the one in 16 bits
    assert not torch.allclose(logits(read), logits(lab), atol=0.02)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    for dtype, wanted in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        lab = lab_of("llama")
        lab.model.to(dtype)
        found = write_gguf(lab, tmp_path / f"{wanted}.gguf").table
        assert set(found.loc[found["matrix"] != "", "type"]) == {wanted}
        read = lk.load(tmp_path / f"{wanted}.gguf", dtype=dtype, fresh=True)
        assert all(torch.equal(a, b) for a, b in zip(lab.model.parameters(), read.model.parameters(), strict=True))


def test_a_file_tells_its_own_types_and_a_name_that_lies(tmp_path: Path) -> None:
    lab = lab_of("llama")
    found = write_gguf(lab, tmp_path / "model-Q4_0.gguf", {"q_proj": "q4_0"})
    assert "the file's name says Q4_0" in found.warnings[0]
    told = contents(str(tmp_path / "model-Q4_0.gguf"))
    assert told.table.equals(found.table)
    by_type = told.table.groupby("type")["bytes"].sum()
    assert by_type["Q4_0"] == 2 * 64 * 64 // 32 * 18
    assert told.size_bytes == by_type.sum()
    assert told.share_quantized == pytest.approx(2 * 64 * 64 / told.table["weights"].sum())
    read = lk.load(tmp_path / "model-Q4_0.gguf", fresh=True)
    assert any("model-Q4_0.gguf" in warning for warning in contents(read).warnings)
    write_gguf(lab, tmp_path / "honest.gguf", "q4_0")
    assert contents(tmp_path / "honest.gguf").warnings == ()
    with pytest.raises(ModelNotFound):
        contents(tmp_path / "none.gguf")


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 5000.0}
    refused = {
        "rotary scaling": lab_of("llama", rope_parameters=yarn),
        "bias": lab_of("llama", attention_bias=True),
        "hidden_act": lab_of("llama", hidden_act="gelu"),
        "sliding_window": lab_of("mistral", sliding_window=16),
        "norm_topk_prob": lab_of("qwen3_moe", norm_topk_prob=False),
        "kind WordPiece": lab_of("llama", tokenizers_of_kinds.KINDS["wordpiece"]()),
    }
    for reason, lab in refused.items():
        with pytest.raises(Unavailable, match=reason):
            write_gguf(lab, path)
    with pytest.raises(Unavailable, match="family phi"):
        write_gguf(lab_of("phi"), path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path, tiny_lab: lk.Lab) -> None:
    (tmp_path / "there.gguf").write_bytes(b"precious")
    with pytest.raises(BadInput, match="overwrite=True"):
        write_gguf(tiny_lab, tmp_path / "there.gguf")
    with pytest.raises(BadInput, match=r"does not end in \.gguf"):
        write_gguf(tiny_lab, tmp_path / "model.bin")
    with pytest.raises(BadInput, match="nf4"):
        write_gguf(tiny_lab, tmp_path / "m.gguf", "nf4")
    with pytest.raises(BadInput, match="q_projj"):
        write_gguf(tiny_lab, tmp_path / "m.gguf", {"q_projj": "q4_0"})
    with pytest.raises(BadInput, match="quantized already"):
        write_gguf(quantize(tiny_lab, "q8_0", progress=False), tmp_path / "m.gguf", "q4_0")
    assert (tmp_path / "there.gguf").read_bytes() == b"precious"


def test_a_file_that_is_not_finished_leaves_the_old_one(
    tmp_path: Path, tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"precious")

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_writing, "_check", broken)
    with pytest.raises(KeyboardInterrupt):
        write_gguf(tiny_lab, path, overwrite=True)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_a_type_cannot_hold_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    lab = lab_of("llama")
    with torch.no_grad():
        lab.model.get_submodule("model.layers.0.self_attn.q_proj").weight[0, 0] = 1e6
    with pytest.raises(lk.BadInput, match="values that F16 can't hold"):
        write_gguf(lab, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.glob("*.gguf"))
