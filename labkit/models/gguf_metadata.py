"""What a GGUF file has to say of a model so that transformers and llama.cpp build the same one: settings, names, vocabulary.

llama.cpp names architectures, settings and tensors its own way, and stores some matrices in another order of rows. Only
families are here whose names and orders are known and of which everything can be said; what a file can't say is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from labkit.errors import Unavailable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# family in transformers -> architecture in llama.cpp; a Mistral without a window computes as a Llama, and is read as one
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}

Value = bool | int | float | str | list[str] | list[float] | list[int]
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # ggml's types of tokens
_KEYS = {  # of the configuration -> of the file, after the architecture's name
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_experts_per_tok": "expert_used_count",
}
# how texts are split before pairs are merged, by names that both readers know; which one it is, is found by trying
_SPLITS = ("gpt-2", "smollm", "qwen2", "llama-bpe", "tekken", "gpt-4o")


@dataclass(frozen=True)
class Piece:
    """One tensor of the file. parameter: whose rows it holds, rows of the second-last dimension.

    rows: which of them, in the file's order; None for all as they are.
    """

    name: str
    parameter: str
    rows: torch.Tensor | None = None


def architecture_of(config: PreTrainedConfig) -> str:
    """llama.cpp's name of the architecture. Raises Unavailable for a family that is not written."""
    family = str(config.model_type)
    if family not in ARCHITECTURES:
        raise Unavailable(
            f"A model of the family {family} can't be written as GGUF here, since names and order of its tensors are known "
            f"for {', '.join(ARCHITECTURES)} alone; use llama.cpp's own converter on the model's folder."
        )
    return ARCHITECTURES[family]


def settings(config: PreTrainedConfig, *, name: str, licence: str | None) -> dict[str, Value]:
    """The metadata of the file, apart from the vocabulary. Raises Unavailable for settings that no key can say."""
    architecture, family = architecture_of(config), str(config.model_type)
    if name == "mistral":  # by which transformers takes a Llama for a Mistral, and then reads none of its tensors
        name = "Mistral"
    said: dict[str, Value] = {"general.name": name}
    if licence:
        said["general.license"] = licence
    for field, key in _KEYS.items():
        value = getattr(config, field, None)
        if value is not None:
            said[f"{architecture}.{key}"] = value
    head = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if architecture != "qwen2" or head != config.hidden_size // config.num_attention_heads:
        said |= {f"{architecture}.attention.{kind}_length": head for kind in ("key", "value")}
    if architecture == "llama":
        said["llama.rope.dimension_count"] = head
    if family == "qwen3_moe":
        said["qwen3moe.expert_count"] = config.num_local_experts
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope.get("rope_theta"), int | float):
        _refuse(config, "has no single base of its rotary embedding")
    said[f"{architecture}.rope.freq_base"] = float(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        said |= {f"{architecture}.rope.scaling.type": "linear", f"{architecture}.rope.scaling.factor": rope["factor"]}
    elif kind != "default":
        _refuse(config, f"has a rotary scaling ({kind}) that is not written")
    return said


def _refuse(config: PreTrainedConfig, what: str) -> NoReturn:
    raise Unavailable(
        f"This model ({config.model_type}) {what}; use llama.cpp's own converter on the model's folder of safetensors."
    )


# tensors --------------------------------------------------------------------------------------------------------------


def pieces(config: PreTrainedConfig, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Piece]:
    """The tensors of the file. shapes: of the model's parameters, by name, tied ones once.

    Raises Unavailable for a parameter that has no place in the file or would not be read back.
    """
    import gguf
    import torch

    architecture = architecture_of(config)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for parameter, shape in shapes.items():
        stem, _, suffix = parameter.rpartition(".")
        if suffix == "gate_up_proj" and len(shape) == 3:
            half, place = shape[-2] // 2, stem.replace("mlp.experts", "mlp.experts.{}_proj")
            for part, start in (("gate", 0), ("up", half)):
                found = names.get_name(place.format(part))
                assert found is not None
                yield Piece(f"{found}.weight", parameter, torch.arange(start, start + half))
            continue
        if suffix not in ("weight", "bias"):  # fused experts
            stem, suffix = parameter, "weight"
        found = names.get_name(stem)
        if found is None or (suffix == "bias" and architecture != "qwen2"):
            _refuse(config, f"has a parameter {parameter} that has no place in such a file")
        yield Piece(f"{found}.{suffix}", parameter, _order(config, architecture, found, shape))


def _order(config: PreTrainedConfig, architecture: str, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
    """llama.cpp turns neighbouring pairs of a Llama's queries and keys, transformers pairs half a head apart."""
    import torch

    if architecture != "llama" or not name.endswith((".attn_q", ".attn_k")):
        return None
    heads = config.num_attention_heads if name.endswith(".attn_q") else config.num_key_value_heads
    return torch.arange(shape[0]).view(heads, 2, shape[0] // heads // 2).transpose(1, 2).reshape(-1)


# the tokenizer --------------------------------------------------------------------------------------------------------


def vocabularies(tokenizer: PreTrainedTokenizerBase, rows: int) -> Iterator[dict[str, Value]]:
    """What a file may say of a tokenizer, the likeliest first: which one gives the same ids is to be tried.

    rows: of the embedding; the vocabulary is filled up to it. Raises Unavailable for a kind that no file can hold.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        _no_tokenizer(tokenizer, "is none of the tokenizers library")
    told: dict[str, Any] = json.loads(backend.to_str())
    model = told["model"]
    if model["type"] != "BPE":
        _no_tokenizer(tokenizer, f"is of the kind {model['type']}, and byte pairs (BPE) are written alone")
    if len(tokenizer) > rows:
        _no_tokenizer(tokenizer, f"has {len(tokenizer):,} tokens where the embedding has {rows:,} rows")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens, types = _tokens(tokenizer, told, rows)
    said: dict[str, Value] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if merges:
        said["tokenizer.ggml.merges"] = merges
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for key, name in names.items():
        if (id_ := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            said[f"tokenizer.ggml.{key}_token_id"] = id_
    ids = list(tokenizer("a").input_ids)
    said["tokenizer.ggml.add_bos_token"] = bool(ids) and ids[0] == tokenizer.bos_token_id is not None
    said["tokenizer.ggml.add_eos_token"] = bool(ids) and ids[-1] == tokenizer.eos_token_id is not None and len(ids) > 1
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        said |= {f"tokenizer.chat_template.{name}": text for name, text in template.items() if name != "default"}
        template = template.get("default")
    if template:
        said["tokenizer.chat_template"] = template
    if model.get("byte_fallback"):
        rank = {merge.replace(" ", ""): -float(place) for place, merge in reversed(list(enumerate(merges)))}
        last = -float(len(merges))
        first = str(tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False).input_ids[0]))
        yield said | {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": [rank.get(token, last) for token in tokens],
            "tokenizer.ggml.add_space_prefix": first.startswith("▁"),
        }
        return
    digits = '"Digits"' in json.dumps(told.get("pre_tokenizer"))
    for split in sorted(_SPLITS, key=lambda name: not (digits and name == "smollm")):
        yield said | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": split}


def _tokens(tokenizer: PreTrainedTokenizerBase, told: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    by_id = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    added = {each["id"]: each["special"] for each in told["added_tokens"]}
    unknown, fallback = tokenizer.unk_token_id, bool(told["model"].get("byte_fallback"))
    tokens, types = [], []
    for id_ in range(rows):
        token = by_id.get(id_)
        tokens.append(f"[PAD{id_}]" if token is None else token)
        if token is None:
            types.append(_UNUSED)
        elif fallback and id_ == unknown:
            types.append(_UNKNOWN)
        elif id_ in added:
            types.append(_CONTROL if added[id_] else _USER_DEFINED)
        elif fallback and len(token) == 6 and token.startswith("<0x"):
            types.append(_BYTE)
        else:
            types.append(_NORMAL)
    return tokens, types


def _no_tokenizer(tokenizer: PreTrainedTokenizerBase, what: str) -> NoReturn:
    raise Unavailable(
        f"The tokenizer ({type(tokenizer).__name__}) can't be written into a GGUF file, since it {what}; use llama.cpp's "
        "own converter on the model's folder."
    )
