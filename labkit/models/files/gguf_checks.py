"""Does a GGUF file make one model: do its metadata, its tensors and its vocabulary agree with each other?"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from labkit.models.files.common import FETCH_AGAIN, brief, refuse, shown
from labkit.models.files.gguf_header import ArraySummary, GgufHeader, read_gguf_strings

# Dense decoders whose every block holds the same tensors, with head_count heads of one size.
_PLAIN = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "starcoder2", "granite"}
)
_PLAIN_TOP = frozenset({"token_embd", "output", "output_norm", "rope_freqs", "rope_factors_long", "rope_factors_short"})
_PLAIN_BLOCK = frozenset(
    {
        *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"),
        *("attn_rot_embd", "post_attention_norm", "rope_freqs"),
        *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm"),
        *("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
    }
)
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)")
_PARAMETER = re.compile(r"(.+)\.(?:weight|bias)")
_OLD_EXPERT = re.compile(r"(ffn_(?:gate|up|down))\.\d+")
_MAX_CONTEXT = 1 << 27


def check_gguf_architecture(header: GgufHeader) -> None:
    """Do the metadata and the tensors' shapes describe one and the same model?

    So that nothing builds a model of the size a damaged header names. Checks what every decoder has (blocks, width,
    heads, vocabulary) and, for the plain dense ones, that every block holds the same known tensors in the right shapes.
    Raises BadModelFile.
    """
    _ArchitectureCheck(header).run()


class _ArchitectureCheck:
    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.shapes = {tensor.name: tensor.shape for tensor in header.tensors}
        self.blocks: dict[int, set[str]] = {}
        self.architecture = header.architecture or ""

    def bad(self, what: str, remedy: str = FETCH_AGAIN) -> NoReturn:
        refuse(self.header.path, what, remedy=remedy)

    def run(self) -> None:
        self._kind()
        self._block_count()
        self.width = self._positive("embedding_length")
        self._numbers()
        self._vocabulary()
        self._heads()
        self._feed_forward()
        if self.architecture in _PLAIN:
            self._plain_names()

    def _kind(self) -> None:
        metadata = self.header.metadata
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", self.architecture):
            self.bad("has no usable general.architecture, so nothing says which model it is")
        if (parts := metadata.get("split.count", 0)) not in (0, 1):
            self.bad(
                f"is one of {str(parts)[:20]} parts of a model", "join the parts with `llama-gguf-split --merge` first"
            )
        if (kind := metadata.get("general.type", "model")) != "model":
            self.bad(f"holds {shown(str(kind))} where a whole model is needed", "load the model's own file")
        if not self.shapes:
            self.bad("holds no tensors")

    def key(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def get(self, key: str) -> Any:
        return self.header.metadata.get(self.key(key))

    def _positive(self, key: str, limit: int = 1 << 31) -> int:
        value = self.get(key)
        if type(value) is not int or not 0 < value < limit:
            self.bad(f"has {self.architecture}.{key} = {brief(value)} where a positive whole number is needed")
        return value

    def _per_layer(self, key: str, least: int) -> int | None:
        """A whole number, or one a layer; None where layers differ (the values are still checked)."""
        value = self.get(key)
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(value) != len(self.blocks):
            self.bad(f"has {len(value):,} values of {self.architecture}.{key} for {len(self.blocks):,} layers")
        for one in values:
            if type(one) is not int or not least <= one < 1 << 31:
                self.bad(f"has {self.architecture}.{key} = {brief(one)} where a positive whole number is needed")
        return values[0] if len(set(values)) == 1 else None

    def _block_count(self) -> None:
        for name in self.shapes:
            if match := _BLOCK.fullmatch(name):
                self.blocks.setdefault(int(match[1]), set()).add(match[2])
        announced = self._positive("block_count")
        if sorted(self.blocks) != list(range(len(self.blocks))):
            missing = next(index for index in range(len(self.blocks)) if index not in self.blocks)
            self.bad(f"holds tensors of layer {max(self.blocks):,} but none of layer {missing:,}")
        if announced != len(self.blocks):
            self.bad(f"announces {announced:,} layers and holds the tensors of {len(self.blocks):,}")

    def _numbers(self) -> None:
        # Without these a loader falls back on its own, and the model is silently another.
        epsilons = {self.key("attention.layer_norm_rms_epsilon"), self.key("attention.layer_norm_epsilon")}
        if self.architecture in _PLAIN and not epsilons & set(self.header.metadata):
            self.bad(f"has no {min(epsilons, key=len)}")
        if self.get("context_length") is not None or self.architecture in _PLAIN:
            self._positive("context_length", _MAX_CONTEXT)
        for key, limit in (
            ("attention.layer_norm_rms_epsilon", 1.0),
            ("attention.layer_norm_epsilon", 1.0),
            ("rope.freq_base", 1e12),
        ):
            value = self.get(key)
            if value is not None and not (isinstance(value, int | float) and 0 < value < limit):
                self.bad(f"has {self.architecture}.{key} = {brief(value)} where a number from 0 to {limit:g} is needed")

    def _vocabulary(self) -> None:
        metadata, shape = self.header.metadata, self.shapes.get("token_embd.weight")
        if shape is None or len(shape) != 2:
            self.bad("has no embedding matrix (token_embd.weight)")
        rows, width = shape
        if width != self.width:
            self.bad(f"has an embedding of width {width:,} where embedding_length is {self.width:,}")
        if (announced := self.get("vocab_size")) not in (None, rows):
            self.bad(f"has {self.architecture}.vocab_size = {brief(announced)} and {rows:,} rows in the embedding")
        if (output := self.shapes.get("output.weight")) not in (None, shape):
            self.bad(f"has an output matrix of shape {output} where {shape} is needed")
        for name in ("tokens", "scores", "token_type"):
            values = metadata.get(f"tokenizer.ggml.{name}")
            if values is not None and not (isinstance(values, tuple | ArraySummary) and len(values) == rows):
                length = f"{len(values):,}" if isinstance(values, tuple | ArraySummary) else "no list of"
                self.bad(f"has {length} tokenizer.ggml.{name} for {rows:,} rows of the embedding")
        for key, value in metadata.items():
            if not re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key):
                continue
            if type(value) is not int or not 0 <= value < rows:
                self.bad(f"has {shown(key)} = {brief(value)} with a vocabulary of {rows:,}")

    def _heads(self) -> None:
        projections = {
            index: [self.shapes.get(f"blk.{index}.attn_{part}.weight") for part in "qkv"] for index in self.blocks
        }
        if not any(q for q, _, _ in projections.values()) and self.get("attention.head_count") in (None, 0):
            return  # no attention by that name: a state space model, say
        heads = self._per_layer("attention.head_count", least=0 if self.architecture not in _PLAIN else 1)
        kv_heads = heads
        if self.get("attention.head_count_kv") is not None:
            kv_heads = self._per_layer("attention.head_count_kv", least=0 if self.architecture not in _PLAIN else 1)
        if not heads or not kv_heads:
            return
        if heads % kv_heads:
            self.bad(f"has {heads:,} query heads that can't share {kv_heads:,} key-value heads evenly")
        for index, (q, k, v) in projections.items():
            for name, shape, n in (("attn_q", q, heads), ("attn_k", k, kv_heads), ("attn_v", v, kv_heads)):
                if shape is not None and (len(shape) != 2 or shape[0] % n):
                    self.bad(f"has blk.{index}.{name} of shape {shape}, which {n:,} heads can't share")
        if self.architecture in _PLAIN:
            self._head_size(heads, kv_heads, projections)

    def _head_size(self, heads: int, kv_heads: int, projections: dict[int, list[tuple[int, ...] | None]]) -> None:
        """One head size throughout: loaders take it from whichever key they know."""
        if self.get("attention.key_length") is not None:
            size = self._positive("attention.key_length")
        elif self.width % heads:
            self.bad(f"has a width of {self.width:,} that {heads:,} heads can't share")
        else:
            size = self.width // heads
        for index, shapes in projections.items():
            wanted = ((heads, self.width), (kv_heads, self.width), (kv_heads, self.width))
            for part, shape, (n, width) in zip("qkv", shapes, wanted, strict=True):
                if shape is not None and shape != (n * size, width):
                    self.bad(
                        f"has blk.{index}.attn_{part} of shape {shape} where {n:,} heads of {brief(size)} over "
                        f"{width:,} are announced"
                    )
        rotary = self.get("rope.dimension_count")
        if rotary is not None and (type(rotary) is not int or not 0 < rotary <= size or rotary % 2):
            self.bad(f"has rope.dimension_count = {brief(rotary)} with heads of {size:,}")
        if self.architecture in ("llama", "mistral") and rotary not in (None, size):
            self.bad(f"has rope.dimension_count = {brief(rotary)} with heads of {size:,}")

    def _feed_forward(self) -> None:
        dense = {index: self.shapes.get(f"blk.{index}.ffn_up.weight") for index in self.blocks}
        if self.get("feed_forward_length") is not None or any(dense.values()):
            inner = self._per_layer("feed_forward_length", least=0 if self.architecture not in _PLAIN else 1)
            for index, shape in dense.items():
                # Gate and up may be fused, so twice the length is right too.
                if shape is not None and inner and shape not in ((inner, self.width), (2 * inner, self.width)):
                    self.bad(f"has blk.{index}.ffn_up of shape {shape} where {(inner, self.width)} is announced")
        experts, used = self.get("expert_count") or 0, self.get("expert_used_count") or 0
        stacked = {name: shape for name, shape in self.shapes.items() if re.search(r"\.ffn_\w+_exps\.weight$", name)}
        if stacked or experts:
            if type(experts) is not int or type(used) is not int or not 0 < used <= experts:
                self.bad(f"announces {brief(experts)} experts of which {brief(used)} are used")
            for name, shape in stacked.items():
                if len(shape) != 3 or shape[0] != experts:
                    self.bad(f"has {shown(name)} of shape {shape} for {experts:,} experts")

    def _plain_names(self) -> None:
        """A renamed tensor would be ignored, and the weight it holds left random: so every name must be known."""
        for name in self.shapes:
            block = _BLOCK.fullmatch(name)
            stem = _PARAMETER.fullmatch(block[2] if block else name)
            base = _OLD_EXPERT.sub(r"\1", stem[1]) if stem else ""
            if base not in (_PLAIN_BLOCK if block else _PLAIN_TOP):
                self.bad(f"holds a tensor {shown(name)} that no {self.architecture} model has")
        first = self.blocks[0]
        for index, names in self.blocks.items():
            if names != first:
                odd = min(names ^ first)
                holder, other = (index, 0) if odd in names else (0, index)
                self.bad(f"has {shown(odd)} in layer {holder:,} and not in layer {other:,}")
        # OLMo 2 normalizes after, not before.
        needed = ["attn_output"] if self.architecture == "olmo2" else ["attn_output", "attn_norm", "ffn_norm"]
        if "attn_qkv.weight" not in first:
            needed += ["attn_q", "attn_k", "attn_v"]
        if "ffn_gate_inp.weight" not in first:  # a router: the experts' names are many
            needed += ["ffn_up", "ffn_down"]
        for wanted in needed:
            if f"{wanted}.weight" not in first:
                self.bad(f"has no {wanted}.weight in its layers")
        for name, shape in self.shapes.items():
            if name.endswith((".attn_norm.weight", ".ffn_norm.weight", "output_norm.weight")) and shape != (
                self.width,
            ):
                self.bad(f"has {shown(name)} of shape {shape} where ({self.width},) is needed")
        if "output_norm.weight" not in self.shapes:
            self.bad("has no final norm (output_norm.weight)")


_TOKENIZER_MODELS = ("gpt2", "llama", "t5", "gemma4")  # those transformers builds from a GGUF file


def check_gguf_tokenizer(header: GgufHeader) -> None:
    """Can a tokenizer be built: a known kind, one text a token and none twice, merges of tokens into tokens?

    Reads the vocabulary from the file again. Raises BadModelFile.
    """
    metadata, path = header.metadata, header.path
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _TOKENIZER_MODELS:
        refuse(
            path,
            f"names {brief(kind)} as its tokenizer where {', '.join(_TOKENIZER_MODELS)} can be built",
            remedy="fetch the file again, or load the model from its folder of safetensors",
        )
    tokens = _texts(header, "tokenizer.ggml.tokens")
    vocabulary = set(tokens)
    if not tokens or len(vocabulary) != len(tokens):
        seen: set[str] = set()
        twice = next((token for token in tokens if token in seen or seen.add(token)), None)  # type: ignore[func-returns-value]
        refuse(path, "has an empty vocabulary" if twice is None else f"has the token {shown(twice)} twice")
    if "tokenizer.ggml.merges" in metadata:
        for index, merge in enumerate(_texts(header, "tokenizer.ggml.merges")):
            parts = merge.split(" ")
            if len(parts) != 2:
                refuse(path, f"has a merge {index:,}, {shown(merge)}, that is no pair of tokens")
            for token in (*parts, parts[0] + parts[1]):
                if token not in vocabulary:
                    refuse(path, f"has a merge {index:,}, {shown(merge)}, whose {shown(token)} is no token")
    elif kind == "gpt2":
        refuse(path, "has a tokenizer of byte pairs without merges (tokenizer.ggml.merges)")
    elif not isinstance(metadata.get("tokenizer.ggml.scores"), tuple | ArraySummary):
        refuse(path, "has neither merges nor scores for its tokens")


def _texts(header: GgufHeader, key: str) -> list[str]:
    try:
        return read_gguf_strings(header, key)
    except KeyError:
        refuse(header.path, f"has no list of texts {key}, so it has no tokenizer")
