"""Any small model of a family that transformers opens from GGUF, written as such a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fuzz

if TYPE_CHECKING:
    import torch

BYTES = [f"<0x{b:02X}>" for b in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *BYTES, "a", "b", "c", "▁", "<|eot|>"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(PIECES),
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def model_of(family: str, **more: Any) -> Any:
    """A random model, its weights wide enough that positions matter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | more))
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, 0, 0.3)
    return model.eval()


def write(
    path: Path,
    model: Any,
    architecture: str,
    said: Mapping[str, Any] | None = None,
    *,
    tensors: Mapping[str, Sequence[float]] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model into a float32 file. said: more metadata of the architecture; tokenizer: of the tokenizer."""
    import gguf
    import numpy as np

    config = model.config
    heads = config.num_attention_heads
    epsilon = getattr(config, "rms_norm_eps", None)
    other = getattr(config, "layer_norm_eps", None) or getattr(config, "norm_epsilon", None)
    known: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": 10000.0,
        "vocab_size": len(PIECES),
    }
    known |= {"attention.layer_norm_rms_epsilon": epsilon} if epsilon else {"attention.layer_norm_epsilon": other}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (known | dict(said or {})).items():
        _add(writer, f"{architecture}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([-float(i) for i in range(len(PIECES))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 4 + [3])
    for name, id_ in (("bos", 1), ("eos", 2), ("unknown", 0)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id_)
    for key, value in (tokenizer or {}).items():
        _add(writer, f"tokenizer.{key}", value)
    arch = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = bool(config.tie_word_embeddings)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            weight = fuzz._interleaved(weight, heads if "q_proj" in name else config.num_key_value_heads)
        if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            weight = weight + 1
        stem, suffix = name.rsplit(".", 1)
        found = names.get_name(stem)
        assert found is not None, name
        writer.add_tensor(f"{found}.{suffix}", np.ascontiguousarray(weight.numpy()))
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, np.asarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def logits_of(model: Any, ids: Sequence[int]) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0]
