"""What a cfg.json of any version of sae-lens says, in one form; and the reason where labkit can't honour it.

Three forms are read: that of sae-lens 6 (facts about the model under `metadata`), the flat one before it (hook_name,
activation_fn_str, k among activation_fn_kwargs), and the first of all (hook_point, hook_point_layer). A checkpoint of a
training run has the settings of the training under the same names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.errors import BadModelFile, Unavailable

__all__ = ["COMPUTED", "Described", "described"]

COMPUTED = ("standard", "jumprelu", "topk", "abstopk", "gated")  # by labkit itself; other kinds by sae-lens's own class
NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm")  # what becomes of a token before it is encoded
AVERAGE, WHITENED = "expected_average_only_in", "covariance_whitening"  # of these the numbers lie beside cfg.json
_BATCH = ("batchtopk", "matryoshka_batchtopk")  # kinds of training, used as jumprelu afterwards
_FEATURES_MOST = 10_000_000
_LENS = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")
_MODULE = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:layers|h|blocks|block|layer)\.(\d+)(?:\.(input|output))?")
_NOT_TEXT = re.compile(r"vision|visual|audio|encoder", re.IGNORECASE)


@dataclass(frozen=True)
class Described:
    """What cfg.json says.

    architecture: of COMPUTED, or another of sae-lens's.  batched: it was trained with the k largest of a batch, and its
    files are of the training: the threshold of all features is their topk_threshold.  normalization: of NORMALIZATIONS,
    AVERAGE or WHITENED.  finetuned: its
    files may hold a factor for each feature.  context: tokens of a text in the training.  The rest as the fields of `SAE`.
    """

    architecture: str
    d_in: int
    features: int
    layer: int
    model: str | None
    k: int | None
    batched: bool
    normalization: str
    subtracts_bias: bool
    rescaled: bool
    finetuned: bool
    centred: bool
    begins: bool | None
    positions: tuple[int | None, ...] | None
    context: int | None
    leaves_out: bool | tuple[int, ...]
    typical_norm: float | None
    outlier: float | None


def described(config: Mapping[str, object], name: str, where: str = "cfg.json") -> Described:
    """What a configuration says.

    name: what the autoencoder is called in messages.  where: what its file is called there.
    Raises BadModelFile for a damaged one, and Unavailable for what labkit can't read or compute rightly.
    """
    metadata = _mapping(config.get("metadata"))
    flat = config.get("metadata") is None  # as all were before sae-lens 6
    said = {**config, **{key: value for key, value in metadata.items() if value is not None}}
    architecture = config.get("architecture") or "standard"
    if not isinstance(architecture, str):
        raise BadModelFile(f"{where} has no architecture by name; save it again with sae-lens.")
    d_in, features = _whole(config, "d_in", where), _whole(config, "d_sae", where)
    architecture, k = _kept(config, architecture, name, where)
    _check_kind(config, said, architecture, name)
    if k is not None and k > features:
        raise BadModelFile(f"{where} keeps {k:,} of {features:,} features; it can keep at most all.")
    layer = _layer(said, name)
    measured = _mapping(metadata.get("labkit"))
    options = _mapping(said.get("model_from_pretrained_kwargs"))
    begins = said.get("prepend_bos", True if flat else None)
    return Described(
        architecture="jumprelu" if architecture in _BATCH else architecture,
        d_in=d_in,
        features=features,
        layer=layer,
        model=_model(said.get("model_name"), options),
        k=k,
        batched=architecture in _BATCH,
        normalization=_normalization(config.get("normalize_activations"), name),
        subtracts_bias=bool(config.get("apply_b_dec_to_input", True)),
        rescaled=architecture in ("topk", "abstopk", *_BATCH)
        and bool(config.get("rescale_acts_by_decoder_norm", False)),
        finetuned=bool(config.get("finetuning_scaling_factor", False)),
        centred=bool(options.get("center_writing_weights")),
        begins=begins if isinstance(begins, bool) else None,
        positions=_positions(said.get("seqpos_slice"), where),
        context=context if isinstance(context := said.get("context_size"), int) else None,
        leaves_out=_left_out(said.get("exclude_special_tokens")),
        typical_norm=_number(measured.get("typical_norm")),
        outlier=_number(measured.get("outlier")),
    )


def _kept(config: Mapping[str, object], architecture: str, name: str, where: str) -> tuple[str, int | None]:
    """(the kind, how many features are kept): before sae-lens 6 one that keeps the k largest called itself standard."""
    options = _mapping(config.get("activation_fn_kwargs"))
    function = config.get("activation_fn", config.get("activation_fn_str")) or "relu"
    if function == "topk" and architecture == "standard" and options.get("k") is not None:
        architecture = "topk"
    if options.get("signed"):
        raise Unavailable(
            f"{name} keeps the sign of its k largest activations, and sae-lens takes it for one that keeps none below 0; "
            "give one whose architecture is abstopk."
        )
    if function not in ("relu", architecture):
        raise Unavailable(
            f"{name} has the activation function {function!r} in a {architecture} autoencoder, which sae-lens no longer "
            "computes: it would take relu; give one with relu, topk or jumprelu."
        )
    if architecture not in ("topk", "abstopk"):
        return architecture, None
    return architecture, _whole(options if config.get("k") is None and "k" in options else config, "k", where)


def _check_kind(config: Mapping[str, object], said: Mapping[str, object], architecture: str, name: str) -> None:
    """Raises Unavailable for what no residual stream goes into and comes out of, a token at a time."""
    if "transcoder" in architecture or config.get("d_out") is not None or said.get("hook_name_out"):
        raise Unavailable(
            f"{name} is a transcoder: it computes what one place of the model makes of another, and labkit attaches "
            "autoencoders, which rebuild what they read; give one of these."
        )
    if architecture == "temporal":
        raise Unavailable(
            f"{name} is of kind temporal: the features of a token depend on the tokens before it, and labkit reads each "
            "token by itself; give one of another kind."
        )
    if config.get("reshape_activations") not in (None, "none"):
        raise Unavailable(
            f"{name} reads the heads of an attention layer side by side ({config['reshape_activations']}), and labkit "
            "attaches autoencoders of the residual stream; give one for blocks.N.hook_resid_pre."
        )


def _layer(said: Mapping[str, object], name: str) -> int:
    """Which layer's input is read, as trace.residual counts."""
    hook = said.get("hook_name", said.get("hook_point"))
    if isinstance(hook, str) and "{layer}" in hook:  # a template, in the first versions
        hook = hook.replace("{layer}", str(said.get("hook_layer", said.get("hook_point_layer"))))
    head = said.get("hook_head_index", said.get("hook_point_head_index"))
    what = f"reads {hook!r}" if isinstance(hook, str) else "does not say where it reads"
    if isinstance(hook, str) and head is None:
        if found := _LENS.fullmatch(hook):
            return int(found[1]) + (found[2] in ("resid_post", "out"))
        if (found := _MODULE.fullmatch(hook)) and not _NOT_TEXT.search(hook):
            return int(found[1]) + (found[2] != "input")  # a module's output, unless it says otherwise
    elif isinstance(hook, str):
        what += f" of head {head!r}"
    raise Unavailable(
        f"{name} {what}, and labkit attaches autoencoders of the residual stream where it enters or leaves a layer; "
        "give one for blocks.N.hook_resid_pre or blocks.N.hook_resid_post."
    )


def _model(name: object, options: Mapping[str, object]) -> str | None:
    """The model's name, with the checkpoint of its training where it is not the last."""
    if not name:
        return None
    for key in ("revision", "checkpoint_value", "checkpoint_index"):
        if options.get(key) not in (None, "main"):
            return f"{name}, {key.replace('_value', '').replace('_', ' ')} {options[key]}"
    return str(name)


def _normalization(value: object, name: str) -> str:
    if isinstance(value, bool) or value is None:  # so in the first versions
        value = AVERAGE if value else "none"
    if value not in (*NORMALIZATIONS, AVERAGE, WHITENED):
        raise Unavailable(f"{name} normalizes what it reads by {value!r}, which labkit does not know; give another.")
    return str(value)


def _positions(value: object, where: str) -> tuple[int | None, ...] | None:
    if not isinstance(value, list | tuple) or all(each is None for each in value):
        return None
    whole = all(each is None or (isinstance(each, int) and not isinstance(each, bool)) for each in value)
    if not whole or len(value) > 3 or value[2:] == [0]:
        raise BadModelFile(f"{where} says {json.dumps(value)[:60]} where seqpos_slice is to be a slice of positions.")
    return tuple(value)


def _left_out(value: object) -> bool | tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(each for each in value if isinstance(each, int))
    return bool(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _whole(config: Mapping[str, object], key: str, where: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _FEATURES_MOST:
        said = "nothing" if key not in config else repr(value)[:60]
        raise BadModelFile(f"{where} says {said} where {key} is to be a whole number above zero.")
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None
