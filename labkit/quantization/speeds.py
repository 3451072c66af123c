"""How fast labs and GGUF files generate, beside what memory allows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from labkit import checks
from labkit.errors import BadInput
from labkit.generation.llama_cpp import LlamaCpp
from labkit.models import files
from labkit.models.memory import human_bytes
from labkit.models.resident import Growth, resident_bytes
from labkit.quantization.counting import chosen_share, share_of
from labkit.quantization.inventory import contents
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

COLUMNS = (
    "model",
    "engine",
    "format",
    "compiled",
    "tokens_per_second",
    "relative",
    "weight_bytes",
    "opening_bytes",
    "running_bytes",
    "bytes_per_token",
    "limit",
    "share_of_limit",
)
_PROBE_BYTES = 256 << 20  # more than a cache holds
_PROMPT = 16  # tokens
MOST_TOKENS = 4_096  # of a round


@dataclass(frozen=True, eq=False, repr=False)
class Speed(Result):
    """How fast each model generates one token after the other; `speed` tells the columns of the table.

    bandwidth: bytes a second that this machine reads from memory in a sum over a large tensor, measured between the models.
    threads: of each engine.  tokens: generated in each round.  rounds: whose median is told.
    process_bytes: resident memory of this whole process at the end: Python, its libraries and all these models together.
    """

    bandwidth: float
    process_bytes: int
    threads: int
    tokens: int
    rounds: int

    def _title(self) -> str:
        return (
            f"Tokens a second, one text, {self.tokens} tokens after {_PROMPT}, medians of {self.rounds} rounds, "
            f"{self.threads} thread{'s' * (self.threads != 1)}"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"memory gave {human_bytes(int(self.bandwidth))} a second in the same run: limit is that, divided by the bytes "
            "read for a token; a model that fits into the processor's cache may pass it",
            "weight_bytes are counted from the tensors; opening_bytes and running_bytes are how far the process's resident "
            f"memory rose, which was {human_bytes(self.process_bytes)} at the end with all that is in it",
        )


def speed(
    models: Mapping[str, object] | Sequence[object],
    *,
    tokens: int = 32,
    rounds: int = 3,
    context: int = 256,
) -> Speed:
    """Tokens a second of labs and GGUF files in one run, beside the limit that reading the weights sets.

    models: labs, or paths of GGUF files, which llama.cpp runs (the package xllamacpp). A table {name: model}, or a list.
    tokens: to generate in each round, greedily, from the same 16 ids.  rounds: models take turns, so that a slow minute of
        the machine falls on all of them.
    Returns a row for each: engine ("transformers", "llama.cpp"); format, the type of most weights; compiled, whether
        torch.compile made the module's step; tokens_per_second; relative, to the first model; weight_bytes, counted from
        the tensors that hold the weights; opening_bytes, by how much this process's resident memory (psutil) grew as the
        file was opened, NaN for a lab, which is in memory already; running_bytes, how far above what it was it rose while
        the first tokens were generated: cache, buffers, weights unpacked for a product; NaN for a lab that is not on the
        CPU. Memory that the process had freed and kept is used again and not seen there, so both are lower bounds;
        bytes_per_token, of all weights that a token reads: not the embedding, of which it reads one row, unless it is the
        output head too, and of the experts only the chosen share; limit, tokens a second if reading them took all the time;
        share_of_limit.
    Raises BadInput, ModelNotFound and BadModelFile for what is no lab and no sound file, Unavailable without xllamacpp.

    Why 4 bits can be several times faster, or slower: a generated token multiplies every matrix with one vector, two
    operations a weight, so the time goes into fetching weights from memory. A product that unpacks 4 bits in registers
    fetches about a seventh of float32's bytes, scales included: torch's int4, bitsandbytes' NF4 in bfloat16, llama.cpp. It is
    faster by less than that, since unpacking, the head in 16 bits and all that is no product take their time as before, and
    share_of_limit falls. Where a library unpacks the whole matrix into memory first and then multiplies it as before, the
    bytes of float32 are written and read besides the packed ones: labkit's own grids, torchao's int8 and bitsandbytes' int8 on a
    CPU do so, and are slower than the unquantized model, with share_of_limit near nothing. They save memory, not time. A
    prompt is another matter: each weight is used for all of its tokens, so arithmetic counts and not memory. And a model
    that is small enough spends its time outside products, in Python and in starting operations.
    """
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        single = isinstance(models, str | os.PathLike) or hasattr(models, "model")
        found = [models] if single else checks.series("models", models, "labs and paths of GGUF files")
        named = {_name(each): each for each in found}
        if len(named) < len(found):
            raise BadInput("Two of these models have one name; give a table {name: model}.")
    if not named:
        checks.refuse("models", models, "at least one lab or GGUF file")
    tokens = checks.whole("tokens", tokens, 1, MOST_TOKENS)
    rounds, context = checks.whole("rounds", rounds, 1), checks.whole("context", context, 1)
    if context < _PROMPT + tokens:
        raise BadInput(
            f"tokens={tokens} after a prompt of {_PROMPT} are more than context={context}; give fewer tokens, or a context of "
            f"{_PROMPT + tokens}."
        )
    for each in named.values():
        if not isinstance(each, str | os.PathLike):
            check_lab(each)
        else:
            files.read_gguf_header(Path(each).expanduser())  # what is wrong with a file is said before anything runs
    threads = torch.get_num_threads()
    seconds: dict[str, list[float]] = {name: [] for name in named}
    bandwidths: list[float] = []
    engines: dict[str, LlamaCpp] = {}
    grown: dict[str, tuple[float, float]] = {}
    try:
        for name, each in named.items():
            opening = float("nan")
            if isinstance(each, str | os.PathLike):
                with Growth() as growth:
                    engines[name] = LlamaCpp(Path(each).expanduser(), threads=threads, context=context)
                opening = float(growth.now)
            with Growth() as growth:  # the times are taken later, without it
                _seconds(each, engines.get(name), min(4, tokens))
            grown[name] = opening, float(growth.most) if _is_on_cpu(each) else float("nan")
        for _ in range(rounds):
            bandwidths.append(read_bandwidth())
            for name, each in named.items():
                seconds[name].append(_seconds(each, engines.get(name), tokens))
    finally:
        for engine in engines.values():
            engine.close()
    taken = {name: median(each) for name, each in seconds.items()}
    return _result(named, taken, grown, median(bandwidths), tokens, rounds)


def _result(
    named: Mapping[str, object],
    seconds: Mapping[str, float],
    grown: Mapping[str, tuple[float, float]],
    bandwidth: float,
    tokens: int,
    rounds: int,
) -> Speed:
    import pandas as pd

    first = next(iter(seconds.values()))
    rows = []
    for name, each in named.items():
        held = contents(cast("LabLike | str", each))
        by_type = held.table.groupby("type")["weights"].sum()
        a_token = bytes_per_token(each, held.table)
        limit = bandwidth / a_token
        rows.append(
            {
                "model": name,
                "engine": "llama.cpp" if isinstance(each, str | os.PathLike) else "transformers",
                "format": by_type.idxmax(),
                "compiled": _is_compiled(each),
                "tokens_per_second": 1 / seconds[name],
                "relative": first / seconds[name],
                "weight_bytes": held.size_bytes,
                "opening_bytes": grown[name][0],
                "running_bytes": grown[name][1],
                "bytes_per_token": a_token,
                "limit": limit,
                "share_of_limit": 1 / seconds[name] / limit,
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return Speed(
        table,
        bandwidth=bandwidth,
        process_bytes=resident_bytes(),
        threads=torch.get_num_threads(),
        tokens=tokens,
        rounds=rounds,
    )


def _is_on_cpu(model: object) -> bool:
    return isinstance(model, str | os.PathLike) or cast("LabLike", model).device.type == "cpu"


def _name(model: object) -> str:
    return Path(model).name if isinstance(model, str | os.PathLike) else str(getattr(model, "name", model))


def _seconds(model: object, engine: LlamaCpp | None, tokens: int) -> float:
    """Of a token, the prompt left out."""
    ids = list(range(1, _PROMPT + 1))  # any will do
    if engine is not None:
        return engine.seconds_per_token(ids, tokens)
    lab = cast("LabLike", model)
    with lab.turn():
        return _decoded(lab.model, ids, tokens)


class _Clock(StoppingCriteria):
    """When each token was there."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.at.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _decoded(model: PreTrainedModel, ids: list[int], tokens: int) -> float:
    clock = _Clock()
    config = GenerationConfig(max_new_tokens=tokens + 1, do_sample=False, use_cache=True)
    running.generate(
        model,
        [ids],
        config,
        processors=lambda _: LogitsProcessorList(),
        criteria=StoppingCriteriaList([clock]),
        compiled=running.is_compiled(model),
    )
    return (clock.at[-1] - clock.at[0]) / (len(clock.at) - 1)


def _is_compiled(model: object) -> bool:
    return not isinstance(model, str | os.PathLike) and running.is_compiled(cast("LabLike", model).model)


def bytes_per_token(model: object, table: pd.DataFrame) -> float:
    """Bytes of weights: without an embedding of which one row is looked up, and of the experts those that are chosen."""
    size = table["bytes"].astype(float)
    if isinstance(model, str | os.PathLike):
        said = files.read_gguf_header(Path(model).expanduser())
        embedding = "token_embd.weight" if "output.weight" in set(table["module"]) else None
        used, there = (said.metadata.get(f"{said.architecture}.expert_{what}") for what in ("used_count", "count"))
        chosen = share_of(used, there)
        experts = table["module"].str.contains("_exps.")
    else:
        lab = cast("LabLike", model)
        inner = running.language_model(lab.model)
        names = {id(module): name for name, module in lab.model.named_modules()}
        first, last = inner.get_input_embeddings(), inner.get_output_embeddings()
        tied = last is not None and _same(first, last)
        embedding = None if tied else f"{names.get(id(first))}.weight"
        chosen = chosen_share(lab.config)
        experts = table["module"].str.contains(r"\.experts\.")
    size[table["module"] == embedding] = 0.0
    return float((size * experts.map({True: chosen, False: 1.0})).sum())


def _same(first: torch.nn.Module, last: torch.nn.Module) -> bool:
    """Whether embedding and head hold one tensor, packed or not."""
    mine, theirs = ({id(t) for t in [*m.parameters(), *m.buffers()]} for m in (first, last))
    return bool(mine & theirs)


def read_bandwidth(device: str | torch.device = "cpu", *, size_bytes: int = _PROBE_BYTES, passes: int = 3) -> float:
    """Bytes a second, read from a device's memory: passes of a sum over a tensor that no cache holds."""
    device = torch.device(device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    values = torch.ones(size_bytes // 4, dtype=torch.float32, device=device)
    values.sum()
    wait()
    began = time.perf_counter()
    for _ in range(passes):
        values.sum()
    wait()
    return passes * size_bytes / (time.perf_counter() - began)
