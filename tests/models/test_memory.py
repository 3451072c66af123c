"""Counts and cache bytes against independent ones: formulas by hand, and tiny real models that are really run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, MIXED, PUBLISHED
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel

from labkit.errors import BadInput, LabError, ModelNotFound
from labkit.models import published, shipped
from labkit.models.memory import (
    PARTS,
    Memory,
    _count_parts,
    human_bytes,
    memory,
    model_memory,
    named_config,
    skeleton,
    what_fits,
)

# ------------------------------------------------------------------------------------------------ published models


def entry(name: str) -> published.Published:
    found = published.get(name)
    assert found is not None
    return found


def leading(value: int, digits: int) -> int:
    """value rounded to its first digits."""
    unit = 10 ** (len(str(value)) - digits)
    return round(value / unit) * unit


FIRST_OF_ITS_TYPE = {entry(name).config["model_type"]: name for name in published.names()}.values()


@pytest.mark.parametrize("name", published.names())
def test_published_counts(name: str) -> None:
    known = entry(name)
    config = known.config
    parts = _count_parts(skeleton(named_config(name)[1]))
    assert known.parameters == sum(parts.values())
    if name in FIRST_OF_ITS_TYPE:  # those of a family have its cache, told by the tiny models below
        need = memory(name, tokens=64)
        assert need.parts == parts
        assert need.kv_cache_bytes is not None
        assert need.weight_bytes >= 2 * known.parameters
    if known.stated is None:  # of more than the language model, or of less than a rounded number would tell
        assert "publisher" in known.source or "stated" in known.source
        return
    # A checkpoint may hold more than the model: a tied matrix again, or rotary frequencies in each layer.
    more = known.stated - known.parameters
    if more == config["vocab_size"] * config.get("hidden_size", 0):
        assert "unembedding" not in parts
    elif config["model_type"] == "llama" and more > 0:
        head = config["hidden_size"] // config["num_attention_heads"]
        assert more == config["num_hidden_layers"] * head // 2
    else:
        digits = len(str(known.stated).rstrip("0"))
        assert leading(known.parameters, digits) == known.stated


def test_publishers_counts_that_are_widely_known() -> None:
    assert memory("llama-2-7b").parameters == 6_738_415_616
    assert memory("mixtral-8x7b").parameters == 46_702_792_704
    assert memory("gpt2").parameters == 124_439_808


@pytest.mark.parametrize(
    ("name", "stated"),
    [("mixtral-8x7b", 12.9e9), ("qwen3-30b-a3b", 3.3e9), ("olmoe-1b-7b", 1.3e9), ("qwen1.5-moe-a2.7b", 2.7e9)],
)
def test_active_parameters_are_those_stated(name: str, stated: float) -> None:
    assert memory(name).active_parameters == pytest.approx(stated, rel=0.02)


@pytest.mark.parametrize(("name", "stated"), [("gpt-oss-20b", 3.61e9), ("gpt-oss-120b", 5.13e9)])
def test_active_parameters_where_the_publisher_leaves_the_embedding_out(name: str, stated: float) -> None:
    need = memory(name)
    assert need.active_parameters - need.parts["embeddings"] == pytest.approx(stated, abs=0.005e9)


def test_shared_experts_are_active_whole() -> None:
    need = memory("deepseek-v3")
    parts, config = need.parts, entry("deepseek-v3").config
    routed = config["num_hidden_layers"] - config["first_k_dense_replace"]
    expert = 3 * config["hidden_size"] * config["moe_intermediate_size"]
    assert parts["shared experts"] == routed * expert
    assert parts["experts"] == routed * config["n_routed_experts"] * expert
    assert need.active_parameters == need.parameters - routed * (256 - 8) * expert
    assert need.active_parameters == pytest.approx(37e9, rel=0.02)


@pytest.mark.parametrize(
    "name", ["llama-2-7b", "llama-2-70b", "llama-3.1-8b", "llama-3.2-1b", "smollm2-135m", "mistral-7b"]
)
def test_parts_of_llama_by_hand(name: str) -> None:
    config = entry(name).config
    d, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", d // heads)
    by_hand = {
        "embeddings": config["vocab_size"] * d,
        "attention": layers * (2 * d * heads * head + 2 * d * shared * head),
        "mlp": layers * 3 * d * inner,
        "norms": (2 * layers + 1) * d,
    }
    if not config.get("tie_word_embeddings"):
        by_hand["unembedding"] = config["vocab_size"] * d
    assert memory(name).parts == by_hand


@pytest.mark.parametrize(
    ("name", "per_token"),
    [("llama-2-7b", 524_288), ("llama-2-70b", 327_680), ("llama-3.1-8b", 131_072), ("qwen2.5-0.5b", 12_288)],
)
def test_cache_of_full_attention_by_hand(name: str, per_token: int) -> None:
    need = memory(name, tokens=1000, batch=3)
    assert need.kv_bytes_per_token == per_token
    assert need.kv_cache_bytes == 3 * 1000 * per_token


def test_cache_with_windows_by_hand() -> None:
    # gemma-3-1b: 22 layers with a window of 512, 4 without; one key-value head of 256; 2 bytes
    need = memory("gemma-3-1b", tokens=8192)
    assert need.kv_cache_bytes == (22 * 511 + 4 * 8192) * 2 * 256 * 2
    assert need.kv_bytes_per_token == 26 * 2 * 256 * 2
    assert any("22 of 26 layers" in note for note in need.notes)
    # use_sliding_window=False in the configuration: the window it names is not used
    assert memory("qwen2.5-7b", tokens=200_000).kv_cache_bytes == 200_000 * 28 * 4 * 2 * 128 * 2


def test_latent_cache() -> None:
    need = memory("deepseek-v3", tokens=100, batch=2)
    assert need.latent_cache_bytes == 2 * 100 * 61 * (512 + 64) * 2
    assert any("Latent attention" in note for note in need.notes)
    assert memory("llama-2-7b").latent_cache_bytes is None


def test_repeated_heads_are_told() -> None:
    need = memory("falcon-40b", tokens=10)
    assert need.kv_bytes_per_token is not None
    if need.kv_bytes_per_token > 60 * 8 * 2 * 64 * 2:
        assert any("8 key-value heads repeated to 128" in note for note in need.notes)
    assert not any("repeated" in note for note in memory("falcon-7b", tokens=10).notes)


# ----------------------------------------------------------------------------- tiny real models, built and really run

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FALCON = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **TOKENS}
MODELS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "llama tied": {**SMALL, "model_type": "llama", "tie_word_embeddings": True},
    "llama head_dim": {**SMALL, "model_type": "llama", "head_dim": 16},
    "mistral": {**SMALL, "sliding_window": 6},
    "mistral no window": {**SMALL, "model_type": "mistral", "sliding_window": None},
    "mixtral": {**SMALL, **EXPERTS, "sliding_window": None},
    "qwen2": {**SMALL, "use_sliding_window": False, "sliding_window": 6},
    "qwen2 window": {
        **SMALL, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1
    },
    "qwen2_moe": {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3": {**SMALL, "head_dim": 16},
    "qwen3_moe": {**SMALL, **EXPERTS, "head_dim": 16},
    "phi3": {**SMALL, "sliding_window": 5},
    "falcon": {**FALCON, "multi_query": True, "new_decoder_architecture": False},
    "falcon heads": {**FALCON, "model_type": "falcon", "multi_query": False, "new_decoder_architecture": False},
    "falcon new": {**FALCON, "model_type": "falcon", "num_kv_heads": 2, "new_decoder_architecture": True},
    "gemma2": {**SMALL, "head_dim": 16, "sliding_window": 6},
    "gemma3_text": {**SMALL, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 6},
    "olmo2": SMALL,
    "olmoe": {**SMALL, **EXPERTS},
    "gpt2": {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **TOKENS},
    "gpt_neox": {**SMALL},
    "gpt_bigcode": {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **TOKENS},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4, **TOKENS},
    "mpt": {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, **TOKENS},
    "deepseek_v2": {**LATENT, "topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "gpt_oss": {**SMALL, **EXPERTS, "head_dim": 16, "sliding_window": 6},
    "smollm3": {**SMALL, "use_sliding_window": False},
    "granitemoe": {**SMALL, **EXPERTS},
    "llama4_text": {
        **SMALL, **EXPERTS, "head_dim": 8, "intermediate_size_mlp": 48, "attention_chunk_size": 6,
        "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
    },
    "mamba": {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **TOKENS},
    "mamba2": {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 8,
        "n_groups": 2, "chunk_size": 8, **TOKENS,
    },
    "qwen3_next": {
        **SMALL, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
}  # fmt: skip


SCALED = {name: {"model_type": family.model_type, **family.fields} for name, family in (PUBLISHED | MIXED).items()}
MODELS |= SCALED


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    fields = dict(MODELS[name])
    config = AutoConfig.for_model(fields.pop("model_type", name), **fields)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def held_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(held_bytes(item) for item in items)


def real_cache_bytes(model: Any, tokens: int, batch: int) -> int:
    """Bytes of every tensor that the cache of a real forward pass holds."""
    ids = torch.randint(3, 96, (batch, tokens), generator=torch.Generator().manual_seed(1))
    if model.config.model_type == "recurrent_gemma":  # its states lie in the modules, and it hands no cache back
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=ids, use_cache=True, past_key_values=cache)
        blocks = [block for block in model.modules() if hasattr(block, "rg_lru")]
        states = sum(held_bytes([block.conv1d_state, block.rg_lru.recurrent_states]) for block in blocks)
        return states + sum(held_bytes([layer.keys, layer.values]) for layer in cache.layers if hasattr(layer, "keys"))
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    if model.config.model_type == "xlstm":
        return held_bytes(output.cache_params.rnn_state)
    cache = output.get("past_key_values", None) or output.get("cache_params", None)
    kept = [{k: v for k, v in vars(layer).items() if k != "_sliding_window_tensor"} for layer in cache.layers]
    return sum(held_bytes(value) for layer in kept for value in layer.values())


@pytest.mark.parametrize("name", MODELS)
def test_cache_is_that_of_a_real_model(name: str) -> None:
    model = build(name)
    sizes = ((3, 1), (3, 2), (5, 1), (6, 1), (7, 2), (12, 1), (20, 2))
    for tokens, batch in ((3, 1), (7, 2), (20, 1)) if name in SCALED else sizes:
        expected = real_cache_bytes(model, tokens, batch)
        assert expected > 0
        need = memory(model.config, tokens=tokens, batch=batch, dtype="float32")
        assert need.kv_cache_bytes == expected, (tokens, batch)


HALVES = ["llama", "gemma2", "mamba", "mamba2", "qwen3_next", "gpt_oss", "deepseek_v3", *MIXED]


@pytest.mark.parametrize("name", HALVES)
def test_cache_in_half_precision(name: str) -> None:
    model = build(name, torch.bfloat16)
    for tokens, batch in ((4, 1), (12, 2)):
        need = memory(model.config, tokens=tokens, batch=batch, dtype="bfloat16")
        assert need.kv_cache_bytes == real_cache_bytes(model, tokens, batch)


@pytest.mark.parametrize("name", MODELS)
def test_counts_are_those_of_a_real_model(name: str) -> None:
    model = build(name)
    need = memory(model.config, dtype="float32")
    assert need.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert set(need.parts) <= set(PARTS)
    assert sum(need.parts.values()) == need.parameters
    per_layer = model.config.model_type == "gemma4_text" and model.config.hidden_size_per_layer_input
    assert bool(need.parts.get("other", 0)) == bool(
        per_layer
    )  # projections of the inputs that each layer has of its own
    loaded = model_memory(model, tokens=5, batch=2)
    assert loaded.weight_bytes == need.weight_bytes
    assert loaded.parameters == need.parameters
    assert loaded.kv_cache_bytes == memory(model.config, tokens=5, batch=2, dtype="float32").kv_cache_bytes


def test_expert_share_by_hand() -> None:
    need = memory({"model_type": "mixtral", **MODELS["mixtral"]})
    expert = 3 * 32 * 48
    assert need.parts["experts"] == 3 * 4 * expert
    assert need.parts["router"] == 3 * 4 * 32
    assert need.active_parameters == need.parameters - 3 * 2 * expert


def test_recurrent_state_does_not_grow() -> None:
    short, long = (memory({"model_type": "mamba", **MODELS["mamba"]}, tokens=tokens) for tokens in (2, 100_000))
    assert short.kv_cache_bytes == long.kv_cache_bytes
    assert short.kv_bytes_per_token == 0
    assert any("does not grow" in note for note in short.notes)


def test_unknown_cache_says_why() -> None:
    need = memory(FAMILIES["dbrx"].fields | {"model_type": "dbrx"})
    assert need.kv_cache_bytes is None
    assert need.total_bytes == need.weight_bytes
    assert any("dbrx" in note for note in need.notes)
    assert "not known" in str(need)


# --------------------------------------------------------------------------------------------------- what is asked


def test_every_way_to_ask(tmp_path: Path) -> None:
    fields = {"model_type": "llama", **MODELS["llama"]}
    config = AutoConfig.for_model(**fields)
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    model = build("llama")
    answers = [memory(what) for what in (fields, config, folder, str(folder), model)]
    assert len({(need.parameters, need.kv_cache_bytes) for need in answers}) == 1
    assert answers[2].name == "my model"
    assert memory("Meta-Llama/LLAMA-2-7b-HF").name == "llama-2-7b"


def test_asking_changes_nothing() -> None:
    config = AutoConfig.for_model("llama", **MODELS["llama"])
    before, state = config.to_dict(), torch.get_rng_state()
    memory(config)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.empty(1).device.type == "cpu"


def test_configurations_that_differ_are_not_confused() -> None:
    one, two = ({"model_type": "llama", **SMALL, "num_hidden_layers": layers} for layers in (2, 3))
    assert memory(one).parameters < memory(two).parameters


def test_quantized_configuration_counts_the_trained_weights() -> None:
    config = AutoConfig.for_model("llama", **MODELS["llama"])
    plain = memory(config).parameters
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert memory(config).parameters == plain


@pytest.mark.parametrize(
    ("dtype", "name", "bits", "cache"),
    [
        ("float32", "float32", 32, "float32"),
        ("fp16", "float16", 16, "float16"),
        (torch.bfloat16, "bfloat16", 16, "bfloat16"),
        ("int8", "int8", 8, "bfloat16"),
        (torch.int8, "int8", 8, "bfloat16"),
        ("int4", "int4", 4, "bfloat16"),
    ],
)
def test_dtypes(dtype: Any, name: str, bits: int, cache: str) -> None:
    need = memory("smollm2-135m", dtype=dtype, tokens=100)
    assert (need.dtype, need.cache_dtype) == (name, cache)
    assert need.weight_bytes == need.parameters * bits // 8
    assert need.kv_cache_bytes == 100 * 30 * 2 * 3 * 64 * (4 if cache == "float32" else 2)
    assert need.total_bytes == need.weight_bytes + need.kv_cache_bytes


def test_cache_dtype() -> None:
    half = memory("smollm2-135m", dtype="int4")
    assert half.kv_cache_bytes is not None
    assert memory("smollm2-135m", dtype="int4", cache_dtype="float32").kv_cache_bytes == 2 * half.kv_cache_bytes
    assert memory("smollm2-135m", cache_dtype=torch.int8).kv_cache_bytes == half.kv_cache_bytes // 2


@pytest.mark.parametrize("name", ["labkit-moe", "moe", "labkit-dense"])
def test_a_shipped_model_is_counted_by_its_name(name: str) -> None:
    ours = shipped.find(name)
    assert ours is not None
    need = memory(name, tokens=100)
    assert need.parameters == ours.parameters
    assert need.name == ours.name


def test_unknown_name_has_near_matches() -> None:
    with pytest.raises(ModelNotFound, match=r"llama-2-7b.*AutoConfig\.from_pretrained"):
        memory("lama-2-7b")
    with pytest.raises(ModelNotFound, match="did you mean labkit-moe"):
        memory("labkit-mo")
    with pytest.raises(ModelNotFound, match="qwen3-8b"):
        memory("Qwen/Qwen3-8")
    with pytest.raises(ModelNotFound, match="gpt2"):
        memory("zzzzzzzzzz")


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ({"hidden_size": 3}, {}),
        ({"model_type": "no-such-type"}, {}),
        ({"model_type": "t5"}, {}),
        ({"model_type": "lama"}, {}),
        ({"model_type": "llama", "hidden_size": "wide"}, {}),
        ({"model_type": "llama", **SMALL, "num_attention_heads": 0}, {}),
        (12, {}),
        ("gpt2", {"dtype": "float7"}),
        ("gpt2", {"cache_dtype": "float7"}),
        ("gpt2", {"tokens": -1}),
        ("gpt2", {"tokens": 1.5}),
        ("gpt2", {"batch": 0}),
        ("gpt2", {"batch": True}),
    ],
)
def test_bad_input_is_one_sentence(what: Any, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        memory(what, **options)
    assert isinstance(caught.value, LabError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


LLAMA, MIXTRAL = (entry(name).config for name in ("llama-3.2-1b", "mixtral-8x7b"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": 10**9}, "more than the 100,000,000"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": 100_000}, "more than the 2,000"),  # transformers would build them one by one
        ({"num_attention_heads": -1}, "num_attention_heads is -1"),
        ({"num_key_value_heads": 5}, "32 query heads can't share 5"),
        ({"head_dim": -64}, "head_dim is -64"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"vocab_size": 1.5}, "vocab_size"),
        ({"num_hidden_layers": "7"}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"rope_parameters": {"rope_type": "nope"}}, "nope"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "9 experts are chosen for a token, of 8"),
        (MIXTRAL | {"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        (MIXTRAL | {"sliding_window": -5}, "sliding_window is -5"),
        (entry("deepseek-v3").config | {"n_group": 7}, "256 experts can't be dealt evenly to 7 groups"),
        (entry("gemma-2-2b").config | {"sliding_window": 0}, "through which no layer would see a token"),
        ({"model_type": "qwen"}, r"memory\('qwen-7b'\)"),
        ({"model_type": "kimi_k2"}, "DeepSeek-V3's architecture"),
    ],
)
def test_what_no_model_can_have_is_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        memory(LLAMA | fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_damaged_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json"):
        memory(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BadInput, match=r"config\.json") as caught:
        memory(tmp_path)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_no_tokens_no_cache() -> None:
    assert memory("gpt2", tokens=0).kv_cache_bytes == 0
    assert memory("mamba-130m", tokens=0).kv_cache_bytes == 0


# --------------------------------------------------------------------------------------------------- a loaded model


def test_loaded_model_counts_tied_weights_once() -> None:
    model = build("llama tied")
    need = model_memory(model, tokens=4)
    assert "unembedding" not in need.parts
    assert need.weight_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (need.dtype, need.cache_dtype) == ("float32", "float32")


def test_weights_that_share_their_storage_count_once() -> None:
    model = build("llama")
    plain = model_memory(model, tokens=4).weight_bytes
    weight = model.model.embed_tokens.weight
    model.lm_head.weight = torch.nn.Parameter(weight.data)  # another tensor, the same bytes
    assert model_memory(model, tokens=4).weight_bytes == plain - 4 * weight.numel()


def test_loaded_model_on_meta_is_counted_too() -> None:
    config = AutoConfig.for_model("llama", **MODELS["llama"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    need = model_memory(model, tokens=4)
    assert need.weight_bytes == 2 * need.parameters
    assert need.cache_dtype == "float16"


class OwnConfig(PretrainedConfig):
    model_type = "own"


class OwnModel(PreTrainedModel):
    """A class that no AutoModel knows."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.embed = torch.nn.Embedding(10, 4)
        self.mlp = torch.nn.Linear(4, 4)
        self.post_init()


def test_a_class_of_ones_own_has_its_weights_counted() -> None:
    need = model_memory(OwnModel(OwnConfig()), tokens=4)
    assert need.parts == {"embeddings": 40, "mlp": 20}
    assert need.weight_bytes == 240
    assert need.kv_cache_bytes is None
    assert "'own' is no causal language model" in need.notes[0]
    with pytest.raises(BadInput, match="'own'"):
        memory(OwnConfig())


def test_parameters_beyond_the_configuration_are_counted() -> None:
    model = build("llama")
    plain = model_memory(model, tokens=4)
    model.model.layers[0].self_attn.adapter = torch.nn.Linear(32, 5, bias=False)
    more = model_memory(model, tokens=4)
    assert more.parameters == plain.parameters + 160
    assert more.weight_bytes == plain.weight_bytes + 640
    assert more.parts["other"] == 160
    assert any("160 parameters more" in note for note in more.notes)


def test_quantized_weights_count_as_stored() -> None:
    model = build("llama")
    plain = model_memory(model, tokens=4)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    linear = [p.numel() for n, p in model.named_parameters() if n.endswith(("_proj.weight", "lm_head.weight"))]
    need = model_memory(quantized, tokens=4)
    assert need.parameters == plain.parameters
    assert need.weight_bytes == plain.weight_bytes - 3 * sum(linear) + len(linear) * (4 + 8)  # scale, zero point
    assert "qint8" in need.dtype


class Packed(torch.Tensor):
    """A tensor that shows one shape and stores others, as torchao's quantized weights do."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scales: torch.Tensor) -> Packed:
        shape = (codes.shape[0], codes.shape[1] * 2)
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)  # type: ignore[attr-defined,no-any-return]

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor) -> None:
        self.codes, self.scales = codes, scales

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scales"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scales)
        raise NotImplementedError(func)


def test_packed_tensors_count_what_they_store() -> None:
    model = build("llama")
    plain = model_memory(model, tokens=4)
    weight = model.model.layers[0].mlp.gate_proj.weight
    packed = Packed(
        torch.zeros(weight.shape[0], weight.shape[1] // 2, dtype=torch.uint8), torch.zeros(weight.shape[0], 1)
    )
    model.model.layers[0].mlp.gate_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    saved = weight.numel() * 4 - (weight.numel() // 2 + weight.shape[0] * 4)
    assert model_memory(model, tokens=4).weight_bytes == plain.weight_bytes - saved


# ---------------------------------------------------------------------------------------------------- what would fit


def test_what_fits() -> None:
    free = 20 * 2**30
    phrases = what_fits("llama-2-13b", free)
    assert [phrase.split(" (")[0] for phrase in phrases[:2]] == ["llama-2-13b in int8", "llama-2-13b in int4"]
    others = [phrase.split(" ")[0] for phrase in phrases[2:]]
    assert len(others) == 3
    sizes = [memory(name, tokens=2048).total_bytes for name in others]
    assert all(size <= free for size in sizes)
    larger = [name for name in published.names() if entry(name).parameters > entry(others[0]).parameters]
    assert all(2 * entry(name).parameters > free or memory(name, tokens=2048).total_bytes > free for name in larger)
    assert what_fits("llama-2-13b", 1000) == []


def test_what_fits_by_count_alone() -> None:
    phrases = what_fits("my-model.Q8_0", 3 * 2**30, parameters=2**30)
    assert phrases[:3] == [
        "my-model.Q8_0 in bfloat16 (2.00 GiB)",
        "my-model.Q8_0 in int8 (1.00 GiB)",
        "my-model.Q8_0 in int4 (512 MiB)",
    ]
    with pytest.raises(ModelNotFound):
        what_fits("my-model.Q8_0", 3 * 2**30)


# -------------------------------------------------------------------------------------------------------- how it looks


def test_text() -> None:
    text = str(memory("mixtral-8x7b", tokens=4096, batch=2))
    assert repr(memory("mixtral-8x7b", tokens=4096, batch=2)) == text
    for piece in (
        "46,702,792,704",
        "active",
        "experts",
        "87.0 GiB",
        "2 sequences of 4,096 tokens",
        "1.00 GiB",
        "128 KiB",
    ):
        assert piece in text
    assert "more than the 1,024 positions" in str(memory("gpt2", tokens=1025))
    assert "positions" not in str(memory("gpt2", tokens=1024))


def test_html_is_escaped_and_self_contained() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    shown = Memory(
        hostile, 10, 10, {hostile: 10}, 20, None, None, None, 1, 1, hostile, "float32", (hostile,)
    )._repr_html_()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 4
    assert "http" not in shown
    assert "<script" not in shown
    assert "var(--jp-ui-font-color1, inherit)" in shown
    assert "KV cache" in memory("gpt2")._repr_html_()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (200 * 2**20, "200 MiB"),
        (2**30, "1.00 GiB"),
        (2**40, "1,024.0 GiB"),
    ],
)
def test_human_bytes(size: int, text: str) -> None:
    assert human_bytes(size) == text
