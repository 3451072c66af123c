"""What a mixture of experts costs: the parameters it holds, and those active on a token.

Parameters are counted from the architecture as transformers builds it, on torch's meta device (see
labkit.models.memory), so a model that would never fit is counted to the last weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from labkit import checks
from labkit.markup import escaped, html_table
from labkit.models import memory as counting
from labkit.models.config import CHOSEN, EXPERTS, first_number
from labkit.models.memory import Memory, as_lines, human_bytes, memory, model_memory

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.models.memory import Countable

OPERATIONS_PER_WEIGHT = 2  # a multiplication and an addition


@dataclass(frozen=True, repr=False)
class Costs:
    """What one token costs a model, and what all of it takes.

    parameters: all the model holds, tied weights once.
    active_parameters: those a token passes through: everything but the experts it does not choose. The embedding table
        counts whole here, as with Mixtral, OLMoE and Qwen.
    active_without_embeddings: the same less the embedding table, of which a token reads one row. OpenAI counts gpt-oss
        so, and DeepSeek's 37B is this number. A table that is also the unembedding works on every token and stays in.
    active_parts: active_parameters by part ("experts", "attention", "embeddings", ...).
    routed_layers of layers have a router, with experts to choose from, chosen for a token; shared_experts: those that
        every token passes through beside them. All 0 in a dense model, whose parameters are all active.
    dense_twin: parameters of a dense model of the same depth and width, whose one feed-forward part is as wide as the
        experts active on a token together, shared ones among them: active_parameters without the routers.
    bytes_16, bytes_4: of all parameters at 16 and at 4 bits, without the scales that a real 4-bit format adds.
    operations: of one token, multiplications and additions: 2 for each parameter of active_without_embeddings, and
        attention_operations.
    attention_operations: the scores of one token with the tokens before it and itself, and the sum of their values, at
        the end of a text of `tokens` tokens; in layers with a window only those inside. None where the attention is of
        a kind not known here, and operations then leaves it out.
    """

    name: str
    parameters: int
    active_parameters: int
    active_without_embeddings: int
    active_parts: dict[str, int]
    layers: int
    routed_layers: int
    experts: int
    chosen: int
    shared_experts: int
    dense_twin: int
    tokens: int
    attention_operations: int | None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def share_active(self) -> float:
        """active_parameters of parameters, 0 to 1."""
        return self.active_parameters / self.parameters

    @property
    def bytes_16(self) -> int:
        return self.parameters * 2

    @property
    def bytes_4(self) -> int:
        return -(-self.parameters // 2)

    @property
    def operations(self) -> int:
        return OPERATIONS_PER_WEIGHT * self.active_without_embeddings + (self.attention_operations or 0)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("parameters", f"{self.parameters:,}")]
        active = f"{self.active_parameters:,} ({self.share_active:.1%})"
        if not self.experts:
            known = "experts" not in self.active_parts
            active = "all: a dense model" if known else "all, as far as is known: how many experts are chosen is not"
        rows += [("active for a token", active)]
        rows += [(f"  {part}", f"{count:,}") for part, count in self.active_parts.items()]
        rows += [("active without the embedding table", f"{self.active_without_embeddings:,}")]
        if self.experts:
            shared = f", beside {self.shared_experts} shared" if self.shared_experts else ""
            rows += [
                ("routed layers", f"{self.routed_layers} of {self.layers}"),
                ("experts", f"{self.experts}, {self.chosen} chosen for a token{shared}"),
                ("dense twin", f"{self.dense_twin:,}"),
            ]
        rows += [("weights at 16 bits", human_bytes(self.bytes_16)), ("weights at 4 bits", human_bytes(self.bytes_4))]
        where = f"of a token after {self.tokens:,}" if self.attention_operations is not None else "without attention"
        rows += [(f"operations {where}", f"{self.operations:,}")]
        return rows

    def __str__(self) -> str:
        return as_lines(self.name, self._rows(), self.notes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escaped(note)}</li>" for note in self.notes)
        rows = html_table(self._rows(), caption=self.name, labelled=True, right=[1])
        return f"<div>{rows}{f'<ul>{notes}</ul>' if notes else ''}</div>"


def costs(what: object, *, tokens: int = 2048) -> Costs | pd.DataFrame:
    """What a token costs a model, a mixture of experts or a dense one.

    what: a Lab, a published name (labkit.models.published.names()), a folder or a configuration, as lk.memory takes
        them; or a list of these, which gives a DataFrame with a row for each name, its columns the fields of Costs.
    tokens: the length of the text at whose end the token stands; attention costs more the longer it is.
    Raises ModelNotFound for a name that is not known, BadInput for anything that can't be counted.
    """
    tokens = checks.whole("tokens", tokens, 1)
    if isinstance(what, list | tuple):
        return _table([_costs(one, tokens) for one in what])
    return _costs(what, tokens)


def _table(all_costs: Sequence[Costs]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for one in all_costs:
        row = asdict(one)
        for name in ("active_parts", "notes"):
            del row[name]
        computed = {name: getattr(one, name) for name in ("share_active", "bytes_16", "bytes_4", "operations")}
        rows.append(row | computed)
    return pd.DataFrame(rows, columns=["name", *COLUMNS]).set_index("name")


COLUMNS = (
    "parameters",
    "active_parameters",
    "share_active",
    "active_without_embeddings",
    "layers",
    "routed_layers",
    "experts",
    "chosen",
    "shared_experts",
    "dense_twin",
    "bytes_16",
    "bytes_4",
    "tokens",
    "attention_operations",
    "operations",
)


def _costs(what: object, tokens: int) -> Costs:
    model: Countable = getattr(what, "model", what) if hasattr(what, "tokenizer") else what  # type: ignore[assignment]
    held: PreTrainedModel | None = model if hasattr(model, "named_modules") else None  # type: ignore[assignment]
    found: Memory = model_memory(held, tokens=1) if held is not None else memory(model, tokens=1)
    skeleton = held if held is not None else _skeleton(model)
    config = skeleton.config.get_text_config()
    parts = dict(found.parts)
    routed_layers = _routed_layers(skeleton)
    experts, chosen = _experts(what, config) if routed_layers else (0, 0)
    shared = 0
    if experts and parts.get("shared experts"):
        shared = first_number(config, "n_shared_experts", "num_shared_experts") or 1
    if experts:
        parts["experts"] = parts["experts"] * chosen // experts
    active = sum(parts.values())
    unembedding = skeleton.get_output_embeddings()
    tied = unembedding is None or unembedding.weight is skeleton.get_input_embeddings().weight
    attention = _attention_operations(config, tokens)
    # of memory's notes those on the weights; the cache is not counted here
    notes = [n for n in found.notes if "parameters" in n or ("how many experts" in n and not experts)]
    if attention is None:
        notes.append(f"The attention of {config.model_type} is of a kind not known here; operations leaves it out.")
    return Costs(
        name=str(getattr(what, "name", found.name)) if hasattr(what, "tokenizer") else found.name,
        parameters=found.parameters,
        active_parameters=active,
        active_without_embeddings=active - (0 if tied else parts.get("embeddings", 0)),
        active_parts=parts,
        layers=int(config.num_hidden_layers),
        routed_layers=routed_layers if experts else 0,
        experts=experts,
        chosen=chosen,
        shared_experts=shared,
        dense_twin=active - (parts.get("router", 0) if experts else 0),
        tokens=tokens,
        attention_operations=attention,
        notes=tuple(notes),
    )


def _skeleton(what: Countable) -> PreTrainedModel:
    _, config = counting.named_config(what)
    built: PreTrainedModel = counting.skeleton(config)
    return built


def _experts(what: object, config: PreTrainedConfig) -> tuple[int, int]:
    """(experts of a layer, chosen for a token); 0 and 0 where neither the configuration nor the routers tell."""
    experts, chosen = first_number(config, *EXPERTS), first_number(config, *CHOSEN)
    if (not experts or not chosen) and hasattr(what, "anatomy"):
        routers = [layer.router for layer in what.anatomy.layers if layer.router is not None]
        experts, chosen = (routers[0].experts_count, routers[0].top_k) if routers else (0, 0)
    return (experts, chosen) if experts and chosen else (0, 0)


def _routed_layers(model: PreTrainedModel) -> int:
    """How many layers hold experts. A layer is known by the number in its path, as in model.layers.3.mlp.experts."""
    layers = set()
    for path, module in model.named_modules():
        if counting.part(path, type(module).__name__) == "experts" and any(True for _ in module.parameters()):
            layers.add(next((name for name in path.split(".") if name.isdigit()), path))
    return len(layers)


def _attention_operations(config: PreTrainedConfig, tokens: int) -> int | None:
    """Operations of the scores and of the sum of values, all layers, for the last of `tokens` tokens.

    Latent attention (DeepSeek) is counted with keys and values expanded to every head, as transformers computes it.
    """
    layers, heads = int(config.num_hidden_layers), first_number(config, "num_attention_heads")
    if heads is None or not hasattr(config, "hidden_size"):
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and not set(kinds) <= {"full_attention", "sliding_attention"}:
        return None
    if first_number(config, "kv_lora_rank"):
        width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    else:
        width = 2 * (first_number(config, "head_dim") or config.hidden_size // heads)
    window = first_number(config, "sliding_window")
    in_window = tokens if window is None else min(tokens, window)
    # without kinds of layers a window, where there is one, holds in all
    sliding = layers if kinds is None else sum(kind == "sliding_attention" for kind in kinds)
    seen = sliding * in_window + (layers - sliding) * tokens
    return int(OPERATIONS_PER_WEIGHT * heads * width * seen)
