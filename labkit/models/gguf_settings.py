"""What a GGUF file says of its model and transformers' reader passes over: set in the configuration, told, or refused.

transformers builds a configuration from a short list of metadata keys for each architecture. A rotary scaling, a
softcap or a norm's epsilon that is not in its list is dropped without a word, and the model is another one. Here every
key of the file's architecture is accounted for: read by transformers, set here, without effect, or told in a note.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from labkit.errors import Unavailable
from labkit.models.files import GgufHeader, GgufTensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# metadata key -> names of the configuration field it is, the first that the configuration has
_FIELDS: dict[str, tuple[str, ...]] = {
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("v_head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "router_logit_softcapping": ("router_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "residual_scale": ("residual_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "expert_weights_norm": ("norm_topk_prob",),
    "use_parallel_residual": ("use_parallel_residual",),
    "context_length": ("max_position_embeddings", "n_positions"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "vocab_size": ("vocab_size",),
}
# nothing follows from these: said of the making of the file, or checked against the tensors before
_WITHOUT_EFFECT = frozenset(
    {
        "vocab_size",
        "tensor_data_layout",
        "rope.scaling.finetuned",
        "attention.relative_buckets_count",
        "expert_gating_func",
    }
)
_NEUTRAL_SCALES = frozenset({"logit_scale", "residual_scale", "embedding_scale", "expert_weights_scale"})  # at 1
_GATING = {1: "softmax", 2: "sigmoid"}

# pre-tokenizers that split as GPT-2's does, up to digits, which their merges keep apart
_SPLIT_AS_GPT2 = frozenset(
    {*("default", "gpt-2", "smollm", "starcoder", "refact", "phi-2", "mpt", "olmo", "jais", "trillion", "command-r")}
    | {"codeshell", "exaone", "minerva-7b", "granite-docling", "llama-spm"}
)


def configured(header: GgufHeader, config: PreTrainedConfig) -> tuple[str, ...]:
    """Set in `config` what the file says and transformers did not read; returns notes of what can't be set.

    Raises Unavailable for what would make another model of it: rotary scalings that can't be computed, experts or
    attention in both directions that transformers does not build from a GGUF file.
    """
    return _Configuring(header, config).run()


def check_opened_by_transformers(header: GgufHeader) -> None:
    """Raise Unavailable for an architecture that transformers does not open from a GGUF file."""
    import transformers
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    known = {_plain(name) for name in GGUF_CONFIG_MAPPING if name not in ("general", "tokenizer")}
    known |= {_plain(name) for name in _new_readers()}
    architecture = header.architecture or ""
    if _plain(architecture) not in known:
        raise Unavailable(
            f"{header.path.name} holds a model of the architecture {architecture!r}, which transformers "
            f"{transformers.__version__} does not open from GGUF; give the model's folder of safetensors."
        )
    if architecture in ("t5", "umt5", "t5encoder"):
        raise Unavailable(
            f"{header.path.name} holds an encoder and a decoder ({architecture}), no causal language model; open it with "
            "transformers' AutoModelForSeq2SeqLM."
        )


def check_rotary(model: PreTrainedModel, config: PreTrainedConfig, name: str) -> None:
    """Raise Unavailable where a rotary scaling was asked for and no part of the opened model computes it."""
    wanted = {kind for rope in _ropes(config) if (kind := rope.get("rope_type", "default")) != "default"}
    computed: set[object] = set()
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        computed |= set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    if missing := {str(kind) for kind in wanted} - {str(kind) for kind in computed}:
        raise Unavailable(
            f"{name} asks for a rotary scaling ({', '.join(sorted(missing))}) that transformers' "
            f"{type(model).__name__} does not compute; give the model's folder of safetensors."
        )


class _Configuring:
    def __init__(self, header: GgufHeader, config: PreTrainedConfig) -> None:
        self.header, self.config = header, config
        self.architecture = header.architecture or ""
        prefix = f"{self.architecture}."
        self.said = {k.removeprefix(prefix): v for k, v in header.metadata.items() if k.startswith(prefix)}
        self.read = _read_by_transformers(header)
        self.notes: list[str] = []

    def refuse(self, what: str, remedy: str = "give the model's folder of safetensors") -> NoReturn:
        raise Unavailable(f"{self.header.path.name} {what}; {remedy}.")

    def run(self) -> tuple[str, ...]:
        self._refusals()
        for key, value in self.said.items():
            if key.startswith("rope.") or (key in self.read and key != "expert_feed_forward_length"):
                continue
            self._field(key, value)
        padding = getattr(self.config, "pad_token_id", None)
        if isinstance(padding, int) and padding >= self.config.vocab_size:  # the family's own, not this file's
            self.config.pad_token_id = None
        self._gemma_scale()
        self._base()
        self._partial()
        self._scaling()
        return tuple(self.notes)

    def _refusals(self) -> None:
        if self.said.get("attention.causal") is False:
            self.refuse("attends in both directions: an encoder, no causal language model", "use it with transformers")
        experts = self.said.get("expert_count")
        if experts and not any(getattr(self.config, name, None) for name in _FIELDS["expert_count"]):
            self.refuse(
                f"holds a mixture of {experts} experts, which transformers does not open from a GGUF file of this "
                f"architecture ({self.architecture})"
            )

    def _field(self, key: str, value: object) -> None:
        field = next((name for name in _FIELDS.get(key, ()) if hasattr(self.config, name)), None)
        if field == "sliding_window" and not value:
            value = None
        if key == "attention.sliding_window" and getattr(self.config, "use_sliding_window", True) is False:
            field = None  # the family has windows and does not use them
        if field is not None and not isinstance(value, tuple | str):
            setattr(self.config, field, value)
        elif key == "attention.value_length" and value == (self.said.get("attention.key_length") or self._head_size()):
            return
        elif key not in _WITHOUT_EFFECT and value and not (key in _NEUTRAL_SCALES and value == 1):
            self._tell(key, value)

    def _tell(self, key: str, value: object) -> None:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        self.notes.append(
            f"the file says {self.architecture}.{key} = {shown}, which transformers does not read from GGUF: the model "
            "is computed without it"
        )

    def _gemma_scale(self) -> None:
        """The largest Gemma 2 and 3 scale attention by another width than their heads'; no key says so."""
        blocks = {"gemma2": 46, "gemma3": 62}.get(self.architecture)
        if blocks is not None and self.said.get("block_count") == blocks:
            self.config.query_pre_attn_scalar = self.config.hidden_size // self.config.num_attention_heads

    # rotary embedding -------------------------------------------------------------------------------------------------

    def _head_size(self) -> int:
        size = getattr(self.config, "head_dim", None)
        if not isinstance(size, int):
            heads = getattr(self.config, "num_attention_heads", None) or 1
            size = self.config.hidden_size // heads
        return int(size)

    def _rope(self) -> dict[str, object] | None:
        """The rotary parameters a scaling goes into; of layers of two kinds those that attend to everything."""
        ropes = getattr(self.config, "rope_parameters", None)
        if not isinstance(ropes, dict):
            return None
        nested = ropes.get("full_attention")
        return nested if isinstance(nested, dict) else ropes

    def _base(self) -> None:
        """How far apart the rotations are, for families where transformers does not read it."""
        rope = self._rope()
        local = (getattr(self.config, "rope_parameters", None) or {}).get("sliding_attention")
        for key, target in (("rope.freq_base", rope), ("rope.freq_base_swa", local)):
            value = self.said.get(key)
            if value is None:
                continue
            if isinstance(target, dict):
                target["rope_theta"] = float(value)
            elif key not in self.read:
                self._tell(key, value)

    def _partial(self) -> None:
        """How much of a head is rotated."""
        rotated, rope = self.said.get("rope.dimension_count"), self._rope()
        nested = rope is not getattr(self.config, "rope_parameters", None)
        if not isinstance(rotated, int) or rope is None or nested or "rope.dimension_sections" in self.said:
            return
        share = rotated / self._head_size()
        now = rope.get("partial_rotary_factor", getattr(self.config, "partial_rotary_factor", None)) or 1.0
        if self.read.get("rope.dimension_count") is None and share != now:
            rope["partial_rotary_factor"] = share
            if hasattr(self.config, "partial_rotary_factor"):
                self.config.partial_rotary_factor = share

    def _scaling(self) -> None:
        told = {key.removeprefix("rope.scaling."): v for key, v in self.said.items() if key.startswith("rope.scaling.")}
        factor = told.pop("factor", self.said.get("rope.scale_linear"))
        kind = told.pop("type", "linear" if factor not in (None, 0, 1) else "none")
        told.pop("finetuned", None)
        original = told.pop("original_context_length", None)
        factors = self._factors("rope_freqs")
        if factor is not None and not 0 <= (_number(factor) or 0.0) < math.inf:
            self.refuse(f"asks for a rotary scaling by the factor {factor}, which is no number to scale by")
        scale = _number(factor) or 1.0
        attention = _number(told.pop("attn_factor", None)) or 1.0
        if "rope.dimension_sections" in self.said and "rope.dimension_sections" not in self.read:
            self.refuse("rotates by several positions at once (rope.dimension_sections), which is not read from GGUF")
        asked = kind not in ("none", None) or factors is not None
        rope = self._rope()
        if not asked:
            self._leftover(told, kind)
            return
        if rope is None:
            self.refuse(f"asks for a rotary scaling ({kind}) in an architecture without rotary positions")
        context = int(self.config.max_position_embeddings)
        scaled: dict[str, object] | None
        if kind in ("none", "linear", None):
            scaled = self._linear(scale if kind == "linear" else 1.0, factors, context)
        elif factors is not None:
            self.refuse(f"has a rotary scaling ({kind}) and factors for each frequency (rope_freqs) at once")
        elif kind == "yarn":
            scaled = self._yarn(told, scale, attention, original or context)
            attention = 1.0
        elif kind in ("longrope", "su"):
            scaled = self._longrope(attention if "rope.scaling.attn_factor" in self.said else None, original)
            attention = 1.0
        else:
            self.refuse(f"asks for a rotary scaling of the kind {kind!r}, which is not computed from GGUF")
        if attention != 1.0:
            self.refuse(f"scales attention by {attention:g} beside a rotary scaling of the kind {kind!r}")
        self._leftover(told, kind)
        if scaled is not None:
            for name in ("factor", "short_factor", "long_factor", "original_max_position_embeddings"):
                rope.pop(name, None)
            rope.update(scaled)

    def _leftover(self, told: dict[str, object], kind: object) -> None:
        if kind == "yarn" and told.get("yarn_log_multiplier"):
            self.refuse("asks for yarn's attention scale by a logarithm of its own (yarn_log_multiplier)")
        if told.get("alpha"):
            self.refuse("asks for a rotary scaling by alpha, which is not computed from GGUF")
        neutral = {0, 1, None} | ({32} if kind != "yarn" else set())
        for key, value in told.items():
            if kind == "yarn" and value not in neutral:
                self._tell(f"rope.scaling.{key}", value)

    def _linear(self, scale: float, factors: list[float] | None, context: int) -> dict[str, object] | None:
        if factors is None or all(f == 1 for f in factors):
            return {"rope_type": "linear", "factor": scale} if scale != 1 else None
        # llama 3's scaling is kept as what each frequency is divided by: longrope's factors, the same at every length
        each = [f * scale for f in factors]
        return _long(each, each, attention=1.0, original=context)

    def _yarn(self, told: dict[str, object], scale: float, attention: float, original: object) -> dict[str, object]:
        if (extrapolation := told.pop("yarn_ext_factor", None)) not in (None, 1, -1):
            self.refuse(f"mixes yarn's two ways by {extrapolation} (yarn_ext_factor), where transformers knows 1 alone")
        attention *= _number(told.pop("yarn_attn_factor", None)) or 1.0
        rope: dict[str, object] = {
            "rope_type": "yarn",
            "factor": scale,
            "original_max_position_embeddings": int(original) if isinstance(original, int | float) else original,
        }
        for name in ("beta_fast", "beta_slow"):
            if value := _number(told.pop(f"yarn_{name}", None)):
                rope[name] = value
        if attention != 1.0:
            rope["attention_factor"] = attention * (0.1 * math.log(scale) + 1 if scale > 1 else 1.0)
        return rope

    def _longrope(self, attention: float | None, original: object) -> dict[str, object]:
        long, short = self._factors("rope_factors_long"), self._factors("rope_factors_short")
        if long is None or short is None:
            self.refuse("asks for the rotary scaling longrope and holds no rope_factors_long and rope_factors_short")
        length = int(original) if isinstance(original, int | float) and original else None
        if length is None:
            self.refuse("asks for the rotary scaling longrope and does not say the original context length")
        if hasattr(self.config, "original_max_position_embeddings"):
            self.config.original_max_position_embeddings = length
        return _long(short, long, attention=attention, original=length)

    def _factors(self, name: str) -> list[float] | None:
        """A tensor of factors, one for each rotary frequency."""
        tensors = [t for t in self.header.tensors if t.name.removesuffix(".weight").rsplit(".", 1)[-1] == name]
        if not tensors:
            return None
        values = [_numbers(self.header, tensor) for tensor in tensors]
        found = values[0]
        rotated = self.said.get("rope.dimension_count") or self._head_size()
        if any(other != found for other in values):
            self.refuse(f"has {name} that differ between layers")
        if found is None or len(found) != rotated // 2 or not all(math.isfinite(f) and f > 0 for f in found):
            self.refuse(
                f"has {name} of shape {tensors[0].shape} ({tensors[0].ggml_type}) where {rotated // 2} positive factors "
                "are needed, one for each rotary frequency"
            )
        return found


def _long(
    short: Sequence[float], long: Sequence[float], *, attention: float | None, original: int
) -> dict[str, object]:
    scaled = {
        "rope_type": "longrope",
        "short_factor": list(short),
        "long_factor": list(long),
        "original_max_position_embeddings": original,
    }
    return scaled if attention is None else scaled | {"attention_factor": attention}


def _numbers(header: GgufHeader, tensor: GgufTensor) -> list[float] | None:
    """The values of a small tensor of floats; None for one that is packed otherwise."""
    code = {"F32": "f", "F16": "e", "F64": "d"}.get(tensor.ggml_type)
    if code is None or tensor.elements > 1 << 16:
        return None
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return list(struct.unpack(f"<{tensor.elements}{code}", file.read(tensor.n_bytes)))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _plain(architecture: str) -> str:
    return architecture.replace("-", "").replace("_", "")


def _ropes(config: PreTrainedConfig) -> list[dict[str, object]]:
    ropes = getattr(config, "rope_parameters", None)
    if not isinstance(ropes, dict):
        return []
    nested = [rope for rope in ropes.values() if isinstance(rope, dict)]
    return nested or [ropes]


_Reader = Callable[[dict[str, object], tuple[str, ...]], object]


def _new_readers() -> dict[str, _Reader]:
    """transformers' own functions from metadata to a configuration, for the architectures that have one."""
    try:
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    except ImportError:  # an older transformers has the one table for all
        return {}
    return dict(GGUF_CONFIG_ARCHS)


class _Noted(dict[str, object]):
    """Metadata that notes which of its keys are asked for."""

    def __init__(self, values: dict[str, object]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:
        self.asked.add(key)
        return super().get(key, default)


def _read_by_transformers(header: GgufHeader) -> dict[str, str | None]:
    """The keys that transformers reads for this architecture, and the field each goes into; None where it is dropped."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    architecture = header.architecture or ""
    if reader := _new_readers().get(architecture):
        lengths = {
            k: len(v) if k.startswith("tokenizer.") and hasattr(v, "__len__") else v for k, v in header.metadata.items()
        }
        noted = _Noted(lengths)
        reader(noted, tuple(tensor.name for tensor in header.tensors))
        return {key.removeprefix(f"{architecture}."): key for key in noted.asked}
    tables = cast("Mapping[str, Mapping[str, str | None]]", GGUF_CONFIG_MAPPING)
    for name, fields in tables.items():
        if _plain(name) == _plain(architecture):
            kept: dict[str, str | None] = {key: field for key, field in fields.items() if field is not None}
            if architecture == "gpt2":  # fields its configuration does not have
                kept = {key: field for key, field in kept.items() if field not in ("n_ctx", "feed_forward_length")}
            return kept
    return {}


# the tokenizer --------------------------------------------------------------------------------------------------------


def completed_tokenizer(header: GgufHeader, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Give the tokenizer what the file says of it and transformers passes over; returns notes of what can't be given."""
    metadata = header.metadata
    notes: list[str] = []
    named = {
        key.removeprefix("tokenizer.chat_template."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.chat_template.") and isinstance(value, str)
    }
    default = metadata.get("tokenizer.chat_template")
    if named:
        whole = {"default": default, **named} if isinstance(default, str) else named
        tokenizer.chat_template = whole
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        pre = metadata.get("tokenizer.ggml.pre", "default")
        if isinstance(pre, str) and pre not in _SPLIT_AS_GPT2 | _known_splits():
            notes.append(
                f"the file splits text as {pre!r} before its pairs are merged, which transformers does not know: it is "
                "split as GPT-2 does, and some ids may be others"
            )
    for flag, name in (("add_bos_token", "bos_token_id"), ("add_eos_token", "eos_token_id")):
        wanted, token = metadata.get(f"tokenizer.ggml.{flag}"), getattr(tokenizer, name, None)
        if metadata.get("tokenizer.ggml.model") == "gemma4" or not isinstance(wanted, bool) or token is None:
            continue
        if _adds(tokenizer, flag, token) is not wanted:
            if hasattr(tokenizer, flag):
                setattr(tokenizer, flag, wanted)
            if _adds(tokenizer, flag, token) is not wanted:
                notes.append(f"the file says {flag} = {wanted}, which this tokenizer does not follow")
    if metadata.get("tokenizer.ggml.add_space_prefix") is False and metadata.get("tokenizer.ggml.model") == "llama":
        _without_space_prefix(tokenizer)
        if _begins_with_space(tokenizer):
            notes.append("the file puts no space before a text, and this tokenizer does")
    return tuple(notes)


def end_tokens(header: GgufHeader) -> list[int]:
    """The tokens that end a text or a turn: a file names them apart, and transformers reads the first alone."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = (header.metadata.get(f"tokenizer.ggml.{name}") for name in names)
    return list(dict.fromkeys(id_ for id_ in found if isinstance(id_, int) and not isinstance(id_, bool)))


def _known_splits() -> set[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return set()
    return set(GGUF_PRE_TOKENIZER_SPLITS)


def _adds(tokenizer: PreTrainedTokenizerBase, flag: str, token: object) -> bool:
    ids = list(tokenizer("a").input_ids)
    return bool(ids) and ids[0 if flag == "add_bos_token" else -1] == token


def _begins_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a", add_special_tokens=False).input_ids
    return bool(ids) and str(tokenizer.convert_ids_to_tokens(ids[0])).startswith("▁")


def _without_space_prefix(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import decoders, normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _begins_with_space(tokenizer):
        return
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = None
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
