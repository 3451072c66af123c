"""What a model consists of, without any of it: modules, shapes, cache and operations by layer, read off once a configuration.

The architecture is built on torch's meta device and described; what a cache holds and which operations a pass takes is seen
by passing two tokens through it there. Of published models that was done beforehand (`counted.json`), so that a plan of one
does not wait for it; the record is of one version of transformers, and with another it is done anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

from labkit.errors import LabError
from labkit.models import published
from labkit.models.config import CHOSEN, EXPERTS, KEY_VALUE_HEADS, QUERY_HEADS, context_length, first_number
from labkit.models.config import field as of_config
from labkit.models.flops import Flops, Pairs, flops
from labkit.models.memory import (
    ConfigKey,
    Countable,
    LayerCache,
    fingerprint,
    measure_cache,
    named_config,
    part,
    skeleton,
    text_config,
)
from labkit.quantization.counting import named_shapes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
COUNTED = Path(__file__).with_name("counted.json")
# bits of an element of the cache; each 32 share a scale of 16 bits and a zero point of one code, as `quantization.cached` has it
CACHE_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.75, "int4": 4.625, "int2": 2.5625}

__all__ = ["Module", "Structure", "Weight", "record", "structure"]


@dataclass(frozen=True)
class Weight:
    """A parameter. shape: (..., outputs, inputs).  which: "layer", "experts", "head", "tied", "embedding" or "other".

    layer: the layer it is in, None outside of them.  part: as `lk.memory` has it.  kept: a constant that is stored with the
    weights (a buffer), whatever precision they have.
    """

    name: str
    shape: tuple[int, ...]
    which: str
    part: str
    layer: int | None
    kept: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Module:
    """A module: its path, its class, and by the names it has for them the weights that it holds."""

    path: str
    kind: str
    weights: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Structure:
    """A model's parts.

    width: of the residual stream.  vocabulary: rows of the unembedding.  layers: paths of the layers, in order.
    whole: classes of modules that transformers never splits over devices.
    cache: what each layer keeps of one sequence; None where it can't be told, and notes say why.  flops: None likewise.
    experts, chosen: of a mixture's layer, and of those for a token; None in a dense model.
    heads: of its queries, None where layers differ.  shared: into how many parts the cache can be dealt: its key-value heads, 1
    where all heads read the same; None where that is not told.
    positions: tokens it was made for.  activation: of the MLP, in transformers' name.
    """

    parameters: int
    width: int
    vocabulary: int
    weights: tuple[Weight, ...]
    modules: tuple[Module, ...]
    layers: tuple[str, ...]
    whole: tuple[str, ...]
    cache: tuple[LayerCache, ...] | None
    flops: Flops | None
    experts: int | None
    chosen: int | None
    positions: int | None
    activation: str
    notes: tuple[str, ...]
    heads: int | None = None
    shared: int | None = None

    @property
    def active_parameters(self) -> int:
        """Those one token passes through: of routed experts the chosen share."""
        share = self.chosen / self.experts if self.experts and self.chosen else 1.0
        each = (w.elements * share if w.which == "experts" else w.elements for w in self.weights if not w.kept)
        return round(sum(each))


def structure(what: Countable) -> tuple[str, Structure]:
    """(name, structure) of what `lk.memory` takes."""
    name, config = named_config(what)
    return name, _structure(ConfigKey(fingerprint(config), config))


@lru_cache(maxsize=64)
def _structure(key: ConfigKey) -> Structure:
    model = skeleton(key.config)
    config = text_config(key.config)
    layers = _layers(model, config)
    cache_layers, operations, notes = _counted(key, model)
    named = _weights(model, layers)
    return Structure(
        parameters=sum(w.elements for w in named if not w.kept),
        width=first_number(config, "hidden_size", "n_embd", "d_model") or 0,
        vocabulary=first_number(config, "vocab_size") or 0,
        weights=tuple(named),
        modules=tuple(_modules(model, {w.name for w in named})),
        layers=layers,
        whole=tuple(sorted(model._no_split_modules or ())),
        cache=cache_layers,
        flops=operations,
        experts=first_number(config, *EXPERTS),
        chosen=first_number(config, *CHOSEN),
        positions=context_length(config),
        activation=next((str(a) for name in ACTIVATIONS if (a := of_config(config, name))), ""),
        notes=notes,
        heads=first_number(config, *QUERY_HEADS),
        shared=_shared(config, cache_layers or ()),
    )


def _shared(config: PreTrainedConfig, layers: Sequence[LayerCache]) -> int | None:
    """Key-value heads, as far as the cache has them: latents are one for all heads, and so are Falcon-7B's keys."""
    rank, rotary = first_number(config, "kv_lora_rank"), first_number(config, "qk_rope_head_dim")
    if rank and rotary and any(layer.growing == rank + rotary for layer in layers):
        return 1
    if of_config(config, "multi_query") is True and of_config(config, "new_decoder_architecture") is not True:
        return 1
    return first_number(config, *KEY_VALUE_HEADS) or first_number(config, *QUERY_HEADS)


def _layers(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[str, ...]:
    """Paths of the decoder layers: the longest list of modules of the size the configuration names, else the longest."""
    from torch import nn

    lists = [(path, len(m)) for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    count = first_number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    fitting = [each for each in lists if each[1] == count] or sorted(lists, key=lambda each: -each[1])
    return tuple(f"{fitting[0][0]}.{i}" for i in range(fitting[0][1])) if fitting else ()


def _weights(model: PreTrainedModel, layers: Sequence[str]) -> list[Weight]:
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    numbers = {path: i for i, path in enumerate(layers)}
    base = layers[0].rpartition(".")[0] if layers else ""

    def layer_of(name: str) -> int | None:
        if not base or not name.startswith(f"{base}."):
            return None
        return numbers.get(f"{base}.{name[len(base) + 1 :].partition('.')[0]}")

    def part_of(name: str, which: str) -> str:
        owner = name.rpartition(".")[0]
        return {"tied": "embeddings", "embedding": "embeddings", "head": "unembedding"}.get(which) or part(
            owner, kinds[owner]
        )

    found = [
        Weight(name, tuple(shape), which, part_of(name, which), layer_of(name))
        for name, shape, which in named_shapes(model)
    ]
    for path, module in model.named_modules():
        for name, tensor in module._buffers.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                whole = f"{path}.{name}" if path else name
                found.append(Weight(whole, tuple(tensor.shape), "other", "other", layer_of(whole), kept=True))
    return found


def _modules(model: PreTrainedModel, known: set[str]) -> Iterator[Module]:
    first: dict[int, str] = {}
    for path, module in model.named_modules():
        held = []
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            whole = f"{path}.{name}" if path else name
            if value is not None and (whole in known or id(value) in first):
                held.append((name, first.setdefault(id(value), whole)))
        yield Module(path, type(module).__name__, tuple(held))


def proxy(described: Structure, size: Mapping[str, int], beside: Mapping[str, int], root: str = "Model") -> nn.Module:
    """Modules of the same names and classes on the meta device whose weights have `size` bytes each, tied ones shared.

    beside: bytes that a module, by its path, keeps besides (a layer's cache).
    """
    import torch
    from torch import nn

    def tensor(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8, device="meta")

    kinds: dict[str, type[nn.Module]] = {}
    made: dict[str, nn.Parameter] = {}
    found: dict[str, nn.Module] = {}
    for module in described.modules:
        own = kinds.setdefault(module.kind, type(module.kind, (nn.Module,), {}))()
        for name, weight in module.weights:
            if weight not in made:
                made[weight] = nn.Parameter(tensor(size[weight]), requires_grad=False)
            own._parameters[name] = made[weight]
        if beside.get(module.path):
            own._buffers["kept_beside"] = tensor(beside[module.path])
        found[module.path] = own
        if module.path:
            above, _, name = module.path.rpartition(".")
            found[above]._modules[name] = own
    return found[""]


# what was counted beforehand --------------------------------------------------------------------------------------------


def _counted(
    key: ConfigKey, model: PreTrainedModel
) -> tuple[tuple[LayerCache, ...] | None, Flops | None, tuple[str, ...]]:
    recorded = _recorded().get(_digest(key))
    if recorded is not None:
        return _from_record(recorded)
    return _count(key, model)


def _count(
    key: ConfigKey, model: PreTrainedModel
) -> tuple[tuple[LayerCache, ...] | None, Flops | None, tuple[str, ...]]:
    layers, notes = measure_cache(model, text_config(key.config))
    try:
        operations = flops(key.config)
    except LabError as error:
        return layers, None, (*notes, str(error))
    more = tuple(note for note in operations.notes if note not in notes)
    return layers, replace(operations, name="", notes=()), (*notes, *more)


def _digest(key: ConfigKey) -> str:
    return hashlib.sha256(key.text.encode()).hexdigest()[:16]


@cache
def _recorded() -> dict[str, dict[str, object]]:
    if not COUNTED.is_file():
        return {}
    found: dict[str, dict[str, object]] = json.loads(COUNTED.read_text(encoding="utf-8"))
    return found


def _from_record(row: Mapping[str, object]) -> tuple[tuple[LayerCache, ...] | None, Flops | None, tuple[str, ...]]:
    runs = cast("list[list[list[int | None]]] | None", row["cache"])
    layers = None if runs is None else tuple(LayerCache(*each) for each in _unrolled(runs))  # type: ignore[arg-type]
    counted = cast("dict[str, object] | None", row["flops"])
    operations = None
    if counted is not None:
        pairs = tuple(Pairs(*each) for each in _unrolled(cast("list[list[list[int | None]]]", counted["attention"])))  # type: ignore[arg-type]
        operations = Flops(
            "",
            cast("int", counted["weights"]),
            cast("int", counted["unembedding"]),
            pairs,
            cast("int", counted["state"]),
        )
    return layers, operations, tuple(cast("list[str]", row["notes"]))


def published_cache(name: str, tokens: int, batch: int, precision: str) -> int | None:
    """Bytes of a published model's cache, of the record alone; None where it is not there."""
    row = _rows_by_name().get(name)
    if row is None or row["cache"] is None:
        return None
    layers = _from_record(row)[0] or ()
    return math.ceil(batch * sum(layer.size_bytes(tokens, CACHE_BITS[precision] / 8) for layer in layers))


@cache
def _rows_by_name() -> dict[str, dict[str, object]]:
    return {name: row for row in _recorded().values() for name in cast("list[str]", row["names"])}


def record(names: Iterable[str] = ()) -> int:
    """Count published models (all by default) and write the record anew. Returns how many are in it."""
    rows: dict[str, dict[str, object]] = {}
    for name in sorted(names or published.names()):
        _, config = named_config(name)
        key = ConfigKey(fingerprint(config), config)
        if (same := rows.get(_digest(key))) is not None:  # models of one configuration
            cast("list[str]", same["names"]).append(name)
            continue
        layers, operations, notes = _count(key, skeleton(config))
        row: dict[str, object] = {"names": [name], "notes": notes}
        row["cache"] = None if layers is None else _rolled([list(vars(each).values()) for each in layers])
        row["flops"] = operations and {
            "weights": operations.weights,
            "unembedding": operations.unembedding,
            "state": operations.state,
            "attention": _rolled([[each.each, each.window] for each in operations.attention]),
        }
        rows[_digest(key)] = row
    lines = ",\n".join(f" {json.dumps(digest)}: {json.dumps(row)}" for digest, row in rows.items())
    COUNTED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    _recorded.cache_clear()
    _rows_by_name.cache_clear()
    return len(rows)


def _rolled(rows: Sequence[list[int | None]]) -> list[list[list[int | None] | int]]:
    """Runs of equal rows: [how many, the row]."""
    return [[len(list(same)), row] for row, same in groupby(rows)]


def _unrolled(runs: Sequence[Sequence[object]]) -> list[list[int | None]]:
    return [cast("list[int | None]", row) for count, row in runs for _ in range(cast("int", count))]
