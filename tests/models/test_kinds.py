"""Folders of every kind of model: opened where their text model is a causal language model, else named as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, BadModelFile, Unavailable
from labkit.models.config import KEY_VALUE_HEADS, QUERY_HEADS, by_layer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
SEQ2SEQ = {"d_model": 32, "vocab_size": 320, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
T5 = SEQ2SEQ | {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = SEQ2SEQ | {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "bos_token_id": 1, "max_position_embeddings": 128}
SIGHT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
SIGHT |= {"image_size": 28, "patch_size": 14}

OTHERS = {
    "BERT": ("AutoModelForMaskedLM", "bert", SIZES, "both directions.*BertForMaskedLM"),
    "BERT without its head": ("AutoModel", "bert", SIZES, "both directions.*BertModel"),
    "RoBERTa": ("AutoModelForMaskedLM", "roberta", SIZES, "both directions"),
    "ModernBERT": ("AutoModelForMaskedLM", "modernbert", SIZES | {"global_attn_every_n_layers": 1}, "both directions"),
    "T5": ("AutoModelForSeq2SeqLM", "t5", T5, "an encoder and a decoder.*T5ForConditionalGeneration"),
    "BART": ("AutoModelForSeq2SeqLM", "bart", BART, "an encoder and a decoder"),
    "a classifier": ("AutoModelForSequenceClassification", "llama", SIZES, "a classifier of texts"),
    "a classifier of tokens": ("AutoModelForTokenClassification", "llama", SIZES, "a classifier of tokens"),
    "answers": ("AutoModelForQuestionAnswering", "llama", SIZES, "a finder of answers"),
    "a bare text model": ("AutoModel", "llama", SIZES, "without the matrix.*LlamaModel"),
    "pictures": ("AutoModel", "clip_vision_model", SIGHT, "no causal language model"),
    "speech": ("AutoModelForSpeechSeq2Seq", "whisper", BART | {"num_mel_bins": 8}, "an encoder and a decoder"),
}


def saved(folder: Path, auto: str, family: str, sizes: dict[str, Any]) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(family, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, auto).from_config(config)
    model.save_pretrained(folder)
    fuzz.tiny_tokenizer().save_pretrained(folder)
    return model.eval()


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(Unavailable, match=message) as error:
        lk.load(folder, **options)
    sentence = str(error.value)
    assert "damaged" not in sentence
    assert "fetch" not in sentence
    assert "open it with" in sentence or "lk.Lab(" in sentence


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_named_with_the_way_that_works(tmp_path: Path, kind: str) -> None:
    auto, family, sizes, message = OTHERS[kind]
    saved(tmp_path, auto, family, sizes)
    refused(tmp_path, message)


LLAVA = {"text_config": SIZES | {"model_type": "llama"}, "vision_config": SIGHT | {"model_type": "clip_vision_model"}}
QWEN = {
    "text_config": SIZES
    | {
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    },
    "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 32},
}


@pytest.mark.parametrize(
    ("family", "sizes"), [("llava", LLAVA | {"image_token_index": 90}), ("qwen2_5_vl", QWEN), ("qwen2_vl", QWEN)]
)
def test_vision_language_folders_open_and_their_logits_are_right(
    tmp_path: Path, family: str, sizes: dict[str, Any]
) -> None:
    if family == "qwen2_vl":
        sight = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
        sizes = sizes | {"vision_config": sight}
    model = saved(tmp_path, "AutoModelForImageTextToText", family, sizes)
    lab = lk.load(tmp_path)
    ids = list(range(3, 15))
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    assert torch.allclose(lab.trace(ids, keep="logits").logits, expected, atol=1e-4)
    assert len(lab.generate(ids, max_new_tokens=2).ids) == 2
    assert "tokens in the vocabulary" in repr(lab)


def test_a_bert_that_looks_back_only_and_tied_bare_models_open(tmp_path: Path) -> None:
    saved(tmp_path / "bert", "AutoModelForCausalLM", "bert", SIZES | {"is_decoder": True})
    assert lk.load(tmp_path / "bert").family == "bert"
    model = saved(tmp_path / "tied", "AutoModel", "llama", SIZES | {"tie_word_embeddings": True})
    lab = lk.load(tmp_path / "tied")
    with torch.no_grad():
        last = model(torch.tensor([[3, 4, 5]])).last_hidden_state[0]
    expected = last @ model.get_input_embeddings().weight.T
    assert torch.allclose(lab.trace([3, 4, 5], keep="logits").logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model_index.json": "{}"}, "diffusers"),
        (
            {"adapter_config.json": '{"base_model_name_or_path": "nobody/base"}'},
            r"an adapter.*nobody/base.*lk\.Lab\(peft",
        ),
        ({"modules.json": "[]"}, "sentence-transformers"),
    ],
)
def test_folders_of_other_libraries(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    refused(tmp_path, message)


@pytest.mark.parametrize("implementation", ["sdap", "flash", "Eager", 7])
def test_a_misspelt_attention_implementation(tiny_folder: Path, implementation: Any) -> None:
    with pytest.raises(BadInput, match=r"attn_implementation=.* is not known"):
        lk.load(tiny_folder, attn_implementation=implementation)


def test_a_misspelt_device_map(tiny_folder: Path) -> None:
    with pytest.raises(BadInput, match="device_map='atuo'"):
        lk.load(tiny_folder, device_map="atuo")


def test_an_attention_that_can_not_be_seen_into_says_so(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder, attn_implementation="flex_attention", fresh=True)
    assert lab.support()["attention"] is not None
    with pytest.raises(Unavailable):
        lab.trace([1, 2, 3])


def test_a_setting_misspelt_in_the_configuration_is_no_damage(tmp_path: Path) -> None:
    folder = fuzz.tiny_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "sillu"}))
    with pytest.raises(BadModelFile, match=r"config\.json.*sillu") as error:
        lk.load(folder)
    assert "damaged" not in str(error.value)


# models without numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["whole", "one layer", "one weight"])
def test_a_model_without_numbers_is_refused(part: str) -> None:
    model = fuzz.tiny_model()
    if part == "whole":
        model.to("meta")
    elif part == "one layer":
        model.model.layers[1].to("meta")
    else:
        model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.to("meta"))
    with pytest.raises(Unavailable, match=r"meta device.*no numbers"):
        lk.Lab(model, fuzz.tiny_tokenizer())


def test_a_model_that_loses_its_numbers_later(tiny_lab: lk.Lab) -> None:
    tiny_lab.model.to("meta")
    for run in (
        lambda: tiny_lab.trace([1, 2]),
        lambda: tiny_lab.generate([1, 2]),
        lambda: list(tiny_lab.stream([1, 2])),
        lambda: tiny_lab.next_logits([1, 2]),
    ):
        with pytest.raises(Unavailable, match="meta device"):
            run()


def test_weights_that_accelerate_brings_are_no_meta_weights() -> None:
    from accelerate import cpu_offload

    model = fuzz.tiny_model()
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, 3]])).logits[0]
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.lm_head.weight.is_meta
    lab = lk.Lab(model, fuzz.tiny_tokenizer())
    assert torch.allclose(lab.trace([1, 2, 3], keep="logits").logits, expected, atol=1e-5)


# heads by layer -------------------------------------------------------------------------------------------------------

GEMMA4 = SIZES | {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
}
LAGUNA = SIZES | {
    "num_attention_heads_per_layer": [4, 8],
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MLA = SIZES | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4}
MLA |= {"qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
MLA |= {"topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16, "n_shared_experts": 1, "head_dim": 4}
MISTRAL = SIZES | {"num_key_value_heads": 2, "sliding_window": 8}

CACHED = {"gemma4_text": GEMMA4, "laguna": LAGUNA, "deepseek_v3": MLA, "mistral": MISTRAL}


@pytest.mark.parametrize("family", CACHED)
@pytest.mark.parametrize("tokens", [3, 6, 20])
def test_bytes_are_those_of_a_cache_that_was_filled(family: str, tokens: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **CACHED[family])).eval()
    lab = lk.Lab(model, fuzz.tiny_tokenizer(), name=family)
    with torch.no_grad():
        cache = model(torch.arange(tokens)[None] + 3, use_cache=True).past_key_values
    held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert lab.memory(tokens=tokens).kv_cache_bytes == sum(t.numel() * t.element_size() for t in held)
    assert family in repr(lab)
    assert family in lab._repr_html_()


def test_the_card_names_heads_by_layer() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    gemma = AutoConfig.for_model("gemma4_text", **GEMMA4)
    laguna = AutoConfig.for_model("laguna", **LAGUNA)
    assert (by_layer(gemma, *QUERY_HEADS), by_layer(gemma, *KEY_VALUE_HEADS)) == ((4, 4), (2, 1))
    assert (by_layer(laguna, *QUERY_HEADS), by_layer(laguna, *KEY_VALUE_HEADS)) == ((4, 8), (2, 2))
    card = repr(lk.Lab(AutoModelForCausalLM.from_config(gemma).eval(), fuzz.tiny_tokenizer(), name="g"))
    assert (
        "4 query heads sharing 2 key-value heads in layer 0; 4 query heads sharing 1 key-value head in layer 1" in card
    )
