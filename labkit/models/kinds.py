"""What kind of model a folder holds, told from its configuration: one that labkit opens, or another, named as what it is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from labkit.errors import BadInput, Unavailable
from labkit.models.files import read_config

if TYPE_CHECKING:
    import torch

_HEADS = {
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForMultipleChoice": "a chooser between answers",
    "ForQuestionAnswering": "a finder of answers in a text",
    "ForNextSentencePrediction": "a classifier of pairs of sentences",
    "RewardModel": "a model of rewards",
    "ForAudioClassification": "a classifier of sounds",
    "ForImageClassification": "a classifier of pictures",
    "ForObjectDetection": "a finder of things in pictures",
    "ForCTC": "a recognizer of speech",
}


def opened_with(folder: Path) -> str:
    """The name of the transformers class that opens this folder's model.

    Raises Unavailable for a model that is no causal language model, saying what it is and the way that works. A folder
    whose configuration can't be read, or whose model type is not known, is left to the checks that follow.
    """
    _refuse_by_files(folder)
    config = read_config(folder)
    if config is None:
        return "AutoModelForCausalLM"
    return _by_config(folder.resolve().name, config)


def _by_config(name: str, config: Mapping[str, object]) -> str:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    kind = config.get("model_type")
    architectures = config.get("architectures")
    written = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or "auto_map" in config:
        return "AutoModelForCausalLM"
    for ending, what in _HEADS.items():
        if written.endswith(ending):
            _refuse(name, f"{what} ({written}): its output is no token", written)
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.get("is_encoder_decoder", _default(kind, "is_encoder_decoder")) and not written.endswith("ForCausalLM"):
        _refuse(name, f"an encoder and a decoder ({written or kind})", written or "AutoModelForSeq2SeqLM")
    encoder = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if encoder and not config.get("is_decoder", _default(kind, "is_decoder")):
        _refuse(name, f"an encoder that reads a text in both directions ({written or kind})", written or "AutoModel")
    if causal:
        base = written.endswith("Model") and not written.endswith("LMHeadModel")
        if base and not config.get("tie_word_embeddings", _default(kind, "tie_word_embeddings")):
            _refuse(name, f"a text model without the matrix that makes tokens of its output ({written})", written)
        return "AutoModelForCausalLM"
    for mapping, opener in (
        ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "AutoModelForImageTextToText"),
        ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "AutoModelForMultimodalLM"),
    ):
        if kind in getattr(auto, mapping, {}):
            text = config.get("text_config")
            if isinstance(text, Mapping) and text.get(
                "is_encoder_decoder", _default(text.get("model_type"), "is_encoder_decoder")
            ):
                _refuse(name, f"a model of pictures over an encoder and a decoder ({written or kind})", written)
            return opener
    _refuse(name, f"of the kind {written or kind}, no causal language model", written or "AutoModel")


def _refuse_by_files(folder: Path) -> None:
    name = folder.resolve().name
    if (folder / "model_index.json").is_file():
        raise Unavailable(
            f"{name} is a pipeline that makes pictures or sound (diffusers), no causal language model; open it with "
            "diffusers' DiffusionPipeline."
        )
    whole = (folder / "config.json").is_file()
    if not whole and (folder / "adapter_config.json").is_file():
        base = (read_config(folder, "adapter_config.json") or {}).get("base_model_name_or_path") or "the model below it"
        raise Unavailable(
            f"{name} is an adapter, not a whole model: load the model it was trained on ({base}), then "
            "lk.Lab(peft.PeftModel.from_pretrained(lab.model, folder), lab.tokenizer)."
        )
    if not whole and (folder / "modules.json").is_file():
        raise Unavailable(
            f"{name} makes vectors of texts (sentence-transformers), no tokens; open it with "
            "sentence_transformers.SentenceTransformer."
        )


def _refuse(name: str, what: str, opener: str) -> NoReturn:
    raise Unavailable(
        f"{name} is {what}, and labkit looks into causal language models; open it with transformers' {opener or 'AutoModel'}. "
        "A causal language model inside of it goes into lk.Lab(model, tokenizer)."
    )


def _default(kind: object, field: str) -> object:
    """What a family's configuration says where config.json does not."""
    from transformers import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    try:
        return getattr(CONFIG_MAPPING[kind](), field, None)
    except Exception:  # a configuration that can't be made of its defaults has none
        return None


def check_attention(implementation: str | None) -> None:
    """Raise BadInput for an attention implementation that transformers does not know."""
    if implementation is None or (isinstance(implementation, str) and "/" in implementation):
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})
    if implementation not in known and not str(implementation).startswith("paged|"):
        near = difflib.get_close_matches(str(implementation), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}."
        raise BadInput(f"attn_implementation={implementation!r} is not known to transformers; {hint}")


def check_has_numbers(model: torch.nn.Module) -> None:
    """Raise Unavailable for a model of which a part lies on the meta device, where tensors have no numbers."""
    if (where := _without_numbers(model, "", hooked=False)) is not None:
        raise Unavailable(
            f"{where} lies on torch's meta device, where tensors have a shape and no numbers; load the weights first, "
            "with lk.load(...) or from_pretrained(...)."
        )


def _without_numbers(module: torch.nn.Module, path: str, *, hooked: bool) -> str | None:
    """The first weight without numbers, unless accelerate brings them when the module runs."""
    hooked = hooked or getattr(module, "_hf_hook", None) is not None
    if not hooked:
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.is_meta:
                return f"{path}{name}"
        for name, child in module._modules.items():
            if child is not None and (found := _without_numbers(child, f"{path}{name}.", hooked=False)) is not None:
                return found
    return None
