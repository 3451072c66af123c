"""Multiplications that ternary weights leave, against counts by hand."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

import labkit as lk
from labkit.quantization import multiplications

# width 4, feed-forward 8, 2 query heads of 2 sharing one key-value head
WIDTHS = {
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "num_hidden_layers": 1,
    "vocab_size": 10,
}


def row(found: lk.quantization.Multiplications, block: str, tokens: int) -> dict[str, float]:
    table = found.table
    return dict(table[(table["block"] == block) & (table["tokens"] == tokens)].iloc[0])


def test_a_small_block_by_hand() -> None:
    found = multiplications(LlamaConfig(**WIDTHS), tokens=3)
    one = row(found, "transformer", 3)
    assert one["matrices"] == 16 + 8 + 8 + 16 + 3 * 32  # q, k, v, o; gate, up, down
    # three tokens see 1, 2 and 3 keys, 2 on average: 2 heads, each 2 for a score, 1 scaled, 1 normalized, 2 for the value
    assert one["attention"] == 2 * 2 * (2 + 1 + 1 + 2)
    assert one["norms"] == 2 * (4 + 1 + 4 + 4)
    assert one["gates"] == 8 + 8  # SiLU, gate · up
    assert one["positions"] == 2 * (4 + 2)  # queries and keys, by cosine and sine
    assert one["scales"] == 4 + 2 + 2 + 4 + 8 + 8 + 4
    assert one["full_precision"] == 144 + 24 + 26 + 16 + 12
    assert one["ternary"] == 24 + 26 + 16 + 12 + 32
    assert one["become_additions"] == pytest.approx(144 / 222)
    assert one["left"] == pytest.approx(110 / 222)
    other = row(found, "matmul-free", 3)
    assert other["matrices"] == 4 * 16 + 3 * 32  # f, c, g, o; gate, up, down
    assert (other["attention"], other["positions"]) == (0, 0)
    assert other["norms"] == 3 * 13 + 25  # before f, c, g; before o; before gate, up; before down
    assert other["gates"] == 4 * 4 + 2 * 8
    assert other["scales"] == 4 * 4 + 2 * 8 + 4
    assert other["full_precision"] == 160 + 64 + 32
    assert other["ternary"] == 64 + 32 + 36
    assert found.unembedding == 40


def test_attention_grows_with_the_text_and_the_other_block_does_not() -> None:
    found = multiplications("llama-2-7b", tokens=(128, 4_096, 65_536))
    shares = found.table.set_index(["block", "tokens"])["become_additions"]
    assert shares["transformer", 128] > 0.99 > shares["transformer", 4_096] > shares["transformer", 65_536]
    assert shares["transformer", 65_536] < 0.5
    assert shares["matmul-free"].nunique() == 1
    assert shares["matmul-free", 128] > shares["transformer", 128]
    matrices = found.table.set_index("block").loc["transformer", "matrices"].iloc[0]
    assert 32 * matrices + 4096 * 32_000 * 2 + (2 * 32 + 1) * 4096 == 6_738_415_616  # all its parameters


def test_windows_and_normed_heads() -> None:
    seen = row(multiplications(MistralConfig(**WIDTHS, sliding_window=2), tokens=4), "transformer", 4)
    assert seen["attention"] == pytest.approx((1 + 2 + 2 + 2) / 4 * 12)
    normed = row(multiplications(Qwen3Config(**WIDTHS), tokens=1), "transformer", 1)
    assert normed["norms"] == 26 + 3 * (2 + 1 + 2 + 2)


def test_a_lab_is_counted_by_its_name() -> None:
    lab = lk.load("labkit-dense")
    found = multiplications(lab, tokens=[256])
    assert found.name == "labkit-dense"
    assert row(found, "transformer", 256)["matrices"] == sum(
        p.numel() for n, p in lab.model.model.layers[0].named_parameters() if p.ndim == 2
    )
    assert "head" in repr(found)


def test_what_cant_be_counted_is_refused() -> None:
    with pytest.raises(lk.BadInput, match="not all of LLaMA's kind"):
        multiplications(GPT2Config())
    mixed = Qwen3Config(**(WIDTHS | {"num_hidden_layers": 2}), layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(lk.BadInput, match="not all of LLaMA's kind"):
        multiplications(mixed)
    for tokens in (0, [], [1.5], "many"):
        with pytest.raises(lk.BadInput, match="tokens="):
            multiplications(LlamaConfig(**WIDTHS), tokens=tokens)  # type: ignore[arg-type]
    with pytest.raises(lk.ModelNotFound):
        multiplications("llama-2-8b")
