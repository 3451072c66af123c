"""What a token costs: published figures, tiny models counted by hand, and dense ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build
from torch.utils.flop_counter import FlopCounterMode

import labkit as lk
from labkit.moe.sizes import COLUMNS, Costs, costs

BILLION = 1e9

# (total, active, whether the publisher counts the embedding table as active), in billions as published
STATED = {
    "mixtral-8x7b": ("46.7", "12.9", True),  # Jiang et al. 2024 round to 47 and 13; Mistral's announcement has these
    "mixtral-8x22b": ("141", "39", True),
    "qwen1.5-moe-a2.7b": ("14.3", "2.7", True),
    "olmoe-1b-7b": ("6.9", "1.3", True),
    "deepseek-v3": ("671", "37", False),
    "gpt-oss-20b": ("20.9", "3.6", False),
    "gpt-oss-120b": ("116.8", "5.1", False),
}


def lab(name: str, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    return lk.Lab(build(type(family)(family.model_type, family.fields | fields)), Tokens(), name=name)


def rounded(count: int, like: str) -> str:
    return f"{count / BILLION:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", STATED)
def test_counts_agree_with_what_was_published(name: str) -> None:
    total, active, with_embeddings = STATED[name]
    found = costs(name)
    assert isinstance(found, Costs)
    assert rounded(found.parameters, total) == total
    counted = found.active_parameters if with_embeddings else found.active_without_embeddings
    assert rounded(counted, active) == active


def test_qwen3_is_published_cut_off_not_rounded() -> None:
    found = costs("qwen3-30b-a3b")
    assert rounded(found.parameters, "30.5") == "30.5"
    assert found.active_parameters // 10**8 == 33
    assert (found.experts, found.chosen, found.routed_layers, found.shared_experts) == (128, 8, 48, 0)


def test_deepseek_has_dense_layers_first_and_a_shared_expert() -> None:
    found = costs("deepseek-v3")
    assert (found.layers, found.routed_layers, found.experts, found.chosen, found.shared_experts) == (61, 58, 256, 8, 1)
    # 3 dense layers of 18,432; in the others one shared and 8 chosen experts of 2,048, all three matrices each
    assert found.active_parts["mlp"] == 3 * 3 * 7168 * 18432
    assert found.active_parts["experts"] == 58 * 8 * 3 * 7168 * 2048
    assert found.active_parts["shared experts"] == 58 * 3 * 7168 * 2048


def test_the_parts_are_the_active_parameters() -> None:
    for name in STATED:
        found = costs(name)
        assert sum(found.active_parts.values()) == found.active_parameters
        assert found.bytes_16 == 2 * found.parameters == 4 * found.bytes_4


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v3"])
def test_operations_are_those_of_a_pass(name: str) -> None:
    """Counted by torch while the model reads; every token's attention is over the whole square under eager attention."""
    tiny = lab(name)
    tiny.model.set_attn_implementation("eager")
    found, tokens = costs(tiny, tokens=24), 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny.model.set_experts_implementation("eager")
        tiny.model(input_ids=torch.arange(1, tokens + 1)[None], use_cache=False)
    # norms and biases work entry by entry, which torch does not count
    entries = sum(p.numel() for p in tiny.model.parameters() if p.dim() == 1)
    assert found.attention_operations is not None
    assert counter.get_total_flops() == tokens * (found.operations - 2 * entries)


def test_a_loaded_lab_is_counted_as_it_is() -> None:
    tiny = lab("qwen3_moe")
    found = costs(tiny)
    held = sum(p.numel() for p in tiny.model.parameters())
    experts = sum(p.numel() for n, p in tiny.model.named_parameters() if ".experts." in n)
    assert found.name == "qwen3_moe"
    assert found.parameters == held
    assert found.active_parameters == held - experts // 2
    assert found.active_without_embeddings == held - experts // 2 - 100 * 32
    assert found.dense_twin == held - experts // 2 - 2 * 4 * 32
    assert (found.layers, found.routed_layers, found.experts, found.chosen) == (2, 2, 4, 2)


def test_the_dense_twin_is_a_model_that_can_be_built() -> None:
    from transformers import MistralConfig

    twin = MistralConfig(**FAMILIES["mistral"].fields | {"intermediate_size": 2 * 48})
    dense = costs(twin)
    assert costs(lab("mixtral")).dense_twin == dense.parameters == dense.dense_twin == dense.active_parameters


def test_the_recipe_for_small_models_makes_a_fair_comparison() -> None:
    """The shipped mixture's dense comparison has the parameters of its dense twin."""
    from labkit.recipes.moe import build as trained

    fine, dense = trained("fine"), trained("dense")
    assert costs(lk.Lab(fine, Tokens())).dense_twin == sum(p.numel() for p in dense.parameters())


def test_a_tied_table_works_on_every_token() -> None:
    tied, untied = costs(lab("mixtral", tie_word_embeddings=True)), costs(lab("mixtral"))
    assert tied.active_without_embeddings == tied.active_parameters
    assert untied.active_without_embeddings == untied.active_parameters - 100 * 32
    assert tied.operations == untied.operations


def test_a_dense_model_is_all_active() -> None:
    for found in (costs("llama-3.1-8b"), costs(lab("qwen3"))):
        assert found.active_parameters == found.parameters == found.dense_twin
        assert found.share_active == 1.0
        assert (found.experts, found.chosen, found.routed_layers, found.shared_experts) == (0, 0, 0, 0)
    assert "dense model" in str(found)


def test_a_window_bounds_what_attention_costs() -> None:
    short, long = costs("gpt-oss-20b", tokens=128), costs("gpt-oss-20b", tokens=12_800)
    assert short.attention_operations == 24 * 2 * 64 * 2 * 64 * 128
    assert long.attention_operations == 12 * 2 * 64 * 2 * 64 * (128 + 12_800)
    assert long.operations - short.operations == long.attention_operations - short.attention_operations


def test_what_is_not_attention_is_left_out_and_said() -> None:
    found = costs(lab("mamba"))
    assert found.attention_operations is None
    assert "leaves it out" in str(found)


def test_a_list_is_a_table() -> None:
    frame = costs(["mixtral-8x7b", lab("olmoe"), "llama-3.2-1b"], tokens=100)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame.index) == ["mixtral-8x7b", "olmoe", "llama-3.2-1b"]
    assert list(frame["experts"]) == [8, 4, 0]
    assert frame["share_active"].between(0, 1).all()
    assert list(frame["operations"]) == [
        costs(n, tokens=100).operations for n in ("mixtral-8x7b", lab("olmoe"), "llama-3.2-1b")
    ]
    assert tuple(costs([]).columns) == COLUMNS


def test_html_is_escaped() -> None:
    tiny = lab("olmoe")
    tiny.name = "<script>alert(1)</script>"
    assert "<script>" not in costs(tiny)._repr_html_()


@pytest.mark.parametrize(
    ("what", "tokens", "error"),
    [
        ("no-such-model", 10, lk.ModelNotFound),
        ("gpt2", 0, lk.BadInput),
        ("gpt2", True, lk.BadInput),
        (3, 10, lk.BadInput),
    ],
)
def test_what_cannot_be_counted(what: Any, tokens: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        costs(what, tokens=tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_sparse_where_it_has_experts(name: str) -> None:
    found = costs(lab(name))
    assert (found.experts > 0) == (found.active_parameters < found.parameters) == ("experts" in found.active_parts)
    assert 0 <= found.routed_layers <= found.layers
    assert (found.routed_layers > 0) == (found.experts > 0)
    if found.experts:
        assert 0 < found.chosen < found.experts
        assert found.dense_twin < found.active_parameters
