"""What a long text costs: bytes kept and time, by length, for models of equal size that remember in different ways."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from labkit import checks
from labkit.errors import BadInput, NotEnoughMemory, Unavailable
from labkit.models.hardware import free_bytes
from labkit.models.memory import cache_bytes, human_bytes, model_memory
from labkit.results import Result
from labkit.trace import running

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.trace.lab_like import LabLike

__all__ = ["LengthCosts", "comparable_models", "length_costs"]

TOKENS = (64, 256, 1024)
CONTEXT = 16_384
SHARE = 0.8  # of free memory that a run may take
WORKING_ROWS = 64  # of the model's width: what a pass holds of each token beside its cache, at most, roughly


@dataclass(frozen=True, eq=False, repr=False)
class LengthCosts(Result):
    """What reading and going on cost, by length.

    table: a row for each model and length: model, family, parameters, tokens, state_bytes (of keys, values and states that a
        run left, read off them), computed_bytes (`lk.memory`; missing where it is not known), read_seconds (the pass over the
        text), step_seconds (a new token after it), both medians.
    repeats, new_tokens: runs of each, and tokens written in a run.  threads: torch's.
    """

    repeats: int
    new_tokens: int
    threads: int

    def _title(self) -> str:
        return f"What a text costs by its length, medians of {self.repeats} runs with {self.threads} threads"

    def _remarks(self) -> Sequence[str]:
        return ("Times are those of transformers' own code here; kernels for a GPU have others. Bytes are the same.",)


def comparable_models(d_model: int = 128) -> dict[str, PreTrainedModel]:
    """Three random models with as many weights, within 1 %: {"attention": ..., "state space": ..., "hybrid": ...}.

    attention: Llama, 4 layers.  state space: Mamba-2, 8 layers, which have no MLPs.  hybrid: Granite's (GraniteMoeHybrid without
    experts), Mamba-2 and attention by turns, 4 layers. In float32, byte-sized vocabulary; the widths of the MLPs make them
    equal. For costs, which don't depend on what weights are; their text is noise.
    """
    from transformers import AutoModelForCausalLM

    d_model = checks.whole("d_model", d_model, 64)
    if d_model % 64:
        checks.refuse("d_model", d_model, "a multiple of 64")
    target = _count(_config("state space", d_model, 0))
    models: dict[str, PreTrainedModel] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind in ("attention", "state space", "hybrid"):
            # the number of weights is linear in the width of the MLPs
            one, two = (_count(_config(kind, d_model, width)) for width in (64, 128))
            width = 64 if one == two else round(64 + (target - one) * 64 / (two - one))
            models[kind] = AutoModelForCausalLM.from_config(_config(kind, d_model, width), dtype=torch.float32).eval()
    return models


def _config(kind: str, d_model: int, mlp: int) -> PreTrainedConfig:
    from transformers import AutoConfig

    common: dict[str, object] = {"vocab_size": 256, "hidden_size": d_model, "tie_word_embeddings": True}
    common |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    heads = d_model // 32
    attention = {
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": mlp,
        "num_hidden_layers": 4,
    }
    attention |= {"max_position_embeddings": CONTEXT}
    if kind == "attention":
        return AutoConfig.for_model("llama", **common, **attention)
    space = {"d_state": 32, "n_groups": 1, "expand": 2, "chunk_size": 64}
    n, head = d_model // 32, 64
    if kind == "state space":
        space["state_size"] = space.pop("d_state")
        return AutoConfig.for_model("mamba2", **common, **space, num_heads=n, head_dim=head, num_hidden_layers=8)
    own: dict[str, object] = {f"mamba_{name}": value for name, value in space.items()} | {
        "mamba_n_heads": n,
        "mamba_d_head": head,
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": mlp,
    }
    return AutoConfig.for_model("granitemoehybrid", **common, **attention, **own)


def _count(config: PreTrainedConfig) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


def length_costs(
    models: Mapping[str, LabLike | PreTrainedModel] | None = None,
    tokens: int | Sequence[int] = TOKENS,
    *,
    new_tokens: int = 8,
    repeats: int = 3,
) -> LengthCosts:
    """What texts of several lengths leave behind in a model, and how long they take, measured.

    models: labs or models by name; `comparable_models()` when None.  tokens: lengths.
    new_tokens: written after each text, to time a step.  repeats: runs of each, lengths by turns; the first is not counted.
    Raises BadInput for lengths that can't be used or that a model has no room for, NotEnoughMemory before anything is run
    where a text would not fit, Unavailable for a model that generates without a cache.
    """
    import pandas as pd

    given = comparable_models() if models is None else models
    if not isinstance(given, Mapping) or not given:
        raise BadInput('models is a mapping of names to labs, such as {"llama": lab}; give at least one.')
    lengths = [tokens] if checks.as_whole(tokens) is not None else checks.series("tokens", tokens, "numbers of tokens")
    counts = [checks.whole("tokens", each, 1) for each in lengths]
    if not counts:
        checks.refuse("tokens", tokens, "at least one number of tokens")
    new_tokens, repeats = checks.whole("new_tokens", new_tokens, 2), checks.whole("repeats", repeats, 1)
    labs = {str(name): _model(one) for name, one in given.items()}
    for name, model in labs.items():
        _check(name, model, max(counts) + new_tokens)
    rows = []
    for name, one in given.items():
        model = labs[str(name)]
        with _turn(one):
            for count in counts:
                told = model_memory(model, tokens=count)
                runs = [_run(name, model, count, new_tokens) for _ in range(repeats + 1)][1:]
                rows.append(
                    {
                        "model": name,
                        "family": str(model.config.get_text_config().model_type),
                        "parameters": told.parameters,
                        "tokens": count,
                        "state_bytes": _left(name, model, count),
                        "computed_bytes": told.kv_cache_bytes,
                        "read_seconds": statistics.median(read for read, _ in runs),
                        "step_seconds": statistics.median(step for _, step in runs),
                    }
                )
    table = pd.DataFrame(rows).astype({"computed_bytes": "Int64"})
    return LengthCosts(table, repeats, new_tokens, torch.get_num_threads())


def _model(given: object) -> PreTrainedModel:
    model = getattr(given, "model", None) if hasattr(given, "tokenizer") else given
    if not hasattr(model, "config") or not hasattr(model, "forward"):
        raise BadInput(f"models holds labs or transformers models, and a {type(given).__name__} is none.")
    found: PreTrainedModel = model  # type: ignore[assignment]
    return found


def _turn(given: object) -> contextlib.AbstractContextManager[None]:
    """A lab's turn; a bare model has none."""
    turn = getattr(given, "turn", None) if hasattr(given, "tokenizer") else None
    return contextlib.nullcontext() if turn is None else turn()


def _check(name: str, model: PreTrainedModel, tokens: int) -> None:
    room = running.room(model)
    if room is not None and tokens > room:
        raise BadInput(f"The context of {name} holds {room:,} tokens, the new ones included; give lengths below that.")
    width = int(getattr(model.config.get_text_config(), "hidden_size", 0))
    cache = model_memory(model, tokens=tokens).kv_cache_bytes or 0
    needed, free = cache + WORKING_ROWS * width * 4 * tokens, free_bytes(str(model.device))
    if needed > SHARE * free:
        raise NotEnoughMemory(
            f"A text of {tokens:,} tokens takes about {human_bytes(needed)} in {name}, and {human_bytes(free)} are free; "
            "give shorter ones."
        )


class _Clock(StoppingCriteria):
    """Notes when each token is there, and stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_keywords: object) -> torch.BoolTensor:
        self.times.append(time.perf_counter())
        going: torch.BoolTensor = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[assignment]
        return going


def _ids(model: PreTrainedModel, count: int) -> list[int]:
    rows = running.embedding_rows(model)
    return [(7919 * i + 3) % rows for i in range(count)]


def _run(name: str, model: PreTrainedModel, count: int, new_tokens: int) -> tuple[float, float]:
    """(seconds of reading, of a new token, the median of those after the first)."""
    clock = _Clock()
    began = time.perf_counter()
    running.generate(
        model,
        [_ids(model, count)],
        GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, use_cache=True),
        processors=lambda _padding: LogitsProcessorList(),
        criteria=StoppingCriteriaList([clock]),
    )
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    if not steps:
        raise Unavailable(
            f"{name} wrote a single token, so no step of it can be timed; look at its generation settings."
        )
    return clock.times[0] - began, statistics.median(steps)


def _left(name: str, model: PreTrainedModel, count: int) -> int:
    sharing = running.Sharing(keep=True)
    running.generate(
        model,
        [_ids(model, count)],
        GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=True),
        processors=lambda _padding: LogitsProcessorList(),
        criteria=StoppingCriteriaList(),
        sharing=sharing,
    )
    if sharing.cache is None:
        raise Unavailable(f"{name} has no cache to measure: {sharing.why}.")
    return cache_bytes(sharing.cache)
