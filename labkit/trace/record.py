"""The Trace: what one forward pass left behind. It owns its data: no model is needed to read it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from labkit.errors import BadInput, BadModelFile, Unavailable

FORMAT = 1
KEEP = ("attention", "logits", "values", "head_output", "attention_output", "mlp_output", "residual", "routes")
DEFAULT_KEEP = ("attention", "logits")


@dataclass(frozen=True)
class LayerAttention:
    """What one layer's attention was computed from. Either query and key, or the pattern itself.

    query: (heads, T, d_head), after rotary embedding.  key: (kv_heads, T, d_head); each serves heads // kv_heads heads.
    mask: None for plain causal; (T, T) bool, True where a query (row) may see a key; or (1 | heads, T, T), added to the
        scores.  sink: (heads,) scores of a place outside the text that takes part of the attention.
    softcap: scores are softcap · tanh(scores / softcap).  pattern: (heads, T, T), for architectures off the interface.
    """

    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    scaling: float = 1.0
    mask: torch.Tensor | None = None
    sink: torch.Tensor | None = None
    softcap: float | None = None
    pattern: torch.Tensor | None = None


@dataclass(frozen=True)
class Routes:
    """What the routers of a mixture of experts decided. k experts are chosen for each token in each routed layer.

    experts: (T, routed layers, k) int64.  weights: (T, routed layers, k) float32, as they multiply the experts' outputs.
    logits: (T, routed layers, experts) float32.  layers: which layers of the model have a router.
    Where layers choose different numbers, as after lk.moe.choose(2, layer=2), k is the largest; a layer that chooses fewer
    has, after those it chose, -1 as expert and 0 as weight. `chosen` says how many each layer chooses.
    """

    experts: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor
    layers: tuple[int, ...]

    @property
    def chosen(self) -> tuple[int, ...]:
        """How many experts each routed layer chooses for a token."""
        return tuple(int(n) for n in (self.experts >= 0).sum(-1).amax(0))


@dataclass(frozen=True, repr=False)
class Trace:
    """One forward pass over T tokens, observed.

    tokens, ids: the T tokens the model saw (token 0 first).  model: its name.  layers, heads: their numbers.
    keep: what was captured; what was not raises Unavailable with the argument that would.
    special: the ids among these that are special tokens of the tokenizer, such as one that starts a text.
    """

    tokens: list[str]
    ids: list[int]
    model: str
    family: str
    layers: int
    heads: int
    kv_heads: int
    keep: tuple[str, ...]
    reasons: dict[str, str]
    _logits: torch.Tensor | None = None
    _attention: dict[int, LayerAttention] = field(default_factory=dict)
    _layered: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    _routes: Routes | None = None
    notes: tuple[str, ...] = ()
    special: tuple[int, ...] = ()
    _windows: dict[int, int | None] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        text = "".join(self.tokens)
        shown = text if len(text) <= 50 else text[:47] + "..."
        return f"Trace({shown!r}, {len(self.ids)} tokens, {self.model}, keep={self.keep})"

    # what came out -----------------------------------------------------------------------------------------------

    @property
    def logits(self) -> torch.Tensor:
        """(T, vocabulary) float32: the scores for the token after each position."""
        self._require("logits")
        assert self._logits is not None
        return self._logits.float()

    @property
    def loss(self) -> torch.Tensor:
        """(T,) float32, nats: how surprised the model was by each token, given those before it.

        The first has nothing before it and is NaN; `loss[1:].mean()` is the usual loss of the text.
        """
        self._require("logits")
        assert self._logits is not None
        return token_loss(self._logits, self.ids)

    def next(self, position: int = -1, k: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, probabilities) of the k most probable tokens after a position."""
        position = self._checked("token", position, len(self.ids))
        if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= self.logits.shape[-1]:
            raise BadInput(f"next(k={k!r}) can't be given; ask for 1 to {self.logits.shape[-1]:,} tokens.")
        best = self.logits[position].softmax(-1).topk(int(k))
        return best.indices, best.values

    # attention ---------------------------------------------------------------------------------------------------

    def attention(
        self, layer: int, head: int | None = None, *, rows: Sequence[int] | slice | None = None
    ) -> torch.Tensor:
        """Attention probabilities: (T, T) for a head, (heads, T, T) for a layer, float32; row = query, column = key.

        rows: only these queries; the rest is not computed. Rows sum to 1, or less where the architecture has a sink.
        Raises Unavailable when attention was not kept or can't be had, BadInput for a layer or head that is not there.
        """
        self._require("attention")
        layer = self._checked("layer", layer, self.layers)
        if head is not None:
            head = self._checked("head", head, self.heads)
        if layer not in self._attention:
            raise Unavailable(
                f"Layer {layer} of this {self.family} has no attention; {self._layers_with('_attention')}."
            )
        return pattern(self._attention[layer], head=head, rows=_rows(rows, len(self.ids)))

    def window(self, layer: int) -> int | None:
        """How many tokens a query of this layer may see, itself included, where a sliding window bounds them.

        None where it may see all before it in this text, or where only patterns were kept.
        """
        self._require("attention")
        a = self._attention.get(self._checked("layer", layer, self.layers))
        if a is None or a.mask is None:
            return None
        if id(a.mask) not in self._windows:  # layers of a kind share their mask
            self._windows[id(a.mask)] = window(a.mask)
        return self._windows[id(a.mask)]

    def queries(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(heads, T, d_head), or (T, d_head) for a head: after rotary embedding, before scaling."""
        return self._operand("queries", layer, head, self.heads)

    def keys(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(kv_heads, T, d_head), or (T, d_head) for a key-value head: after rotary embedding."""
        return self._operand("keys", layer, head, self.kv_heads)

    def values(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(kv_heads, T, d_value), or (T, d_value) for a key-value head."""
        return self._head_of("values", layer, head, self.kv_heads)

    def head_output(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(heads, T, d_value), or (T, d_value): attention-weighted values, before the output projection."""
        return self._head_of("head_output", layer, head, self.heads)

    # the residual stream -----------------------------------------------------------------------------------------

    def residual(self, i: int) -> torch.Tensor:
        """(T, d_model) entering layer i; i = number of layers: leaving the last, before the final norm."""
        self._require("residual")
        return self._layered["residual"][self._checked("residual", i, self.layers + 1)]

    def attention_output(self, layer: int) -> torch.Tensor:
        """(T, d_model): what the attention of a layer added to the residual stream."""
        return self._at("attention_output", layer)

    def mlp_output(self, layer: int) -> torch.Tensor:
        """(T, d_model): what the MLP (or mixture of experts) of a layer added to the residual stream."""
        return self._at("mlp_output", layer)

    @property
    def routes(self) -> Routes:
        self._require("routes")
        assert self._routes is not None
        return self._routes

    # to disk -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the trace to one safetensors file; `Trace.load` opens it without the model."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors, layers = {}, {}
        if self._logits is not None:
            tensors["logits"] = self._logits
        shared: dict[int, str] = {}
        for layer, a in self._attention.items():
            entry: dict[str, Any] = {"scaling": a.scaling, "softcap": a.softcap}
            for name in ("query", "key", "mask", "sink", "pattern"):
                value = getattr(a, name)
                if value is None:
                    continue
                stored = shared.get(id(value)) or f"attention.{layer}.{name}"  # layers of a kind share their mask
                shared[id(value)] = stored
                tensors[stored] = value
                entry[name] = stored
            layers[str(layer)] = entry
        for name, by_layer in self._layered.items():
            tensors |= {f"{name}.{layer}": value for layer, value in by_layer.items()}
        if self._routes is not None:
            tensors |= {f"routes.{n}": getattr(self._routes, n) for n in ("experts", "weights", "logits")}
        facts = {
            "format": FORMAT,
            "tokens": self.tokens,
            "ids": self.ids,
            "model": self.model,
            "family": self.family,
            "layers": self.layers,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "keep": self.keep,
            "reasons": self.reasons,
            "notes": self.notes,
            "special": self.special,
            "attention": layers,
            "routed": self._routes.layers if self._routes else None,
        }
        target = Path(path).expanduser()
        partial = target.with_name(target.name + ".partial")
        try:
            on_disk = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(on_disk, partial, metadata={"labkit": json.dumps(facts)})
            partial.replace(target)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise BadInput(
                f"The trace can't be written to {target} ({error}); give a file in a folder that is there."
            ) from error
        return target

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Open a saved trace. Raises BadModelFile when the file is not one."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path).expanduser(), framework="pt") as file:
                facts = json.loads((file.metadata() or {})["labkit"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if facts["format"] != FORMAT:
                raise BadModelFile(f"{path} was saved by another version of labkit; trace the text again.")
            attention = {
                int(layer): LayerAttention(**{n: tensors[v] if isinstance(v, str) else v for n, v in entry.items()})
                for layer, entry in facts["attention"].items()
            }
            layered: dict[str, dict[int, torch.Tensor]] = {}
            for name, value in tensors.items():
                kind, _, layer = name.partition(".")
                if kind in ("values", "head_output", "attention_output", "mlp_output", "residual"):
                    layered.setdefault(kind, {})[int(layer)] = value
            routed = facts["routed"]
            routes = None
            if routed is not None:
                routes = Routes(
                    experts=tensors["routes.experts"],
                    weights=tensors["routes.weights"],
                    logits=tensors["routes.logits"],
                    layers=tuple(routed),
                )
            return Trace(
                **{n: facts[n] for n in ("tokens", "ids", "model", "family", "layers", "heads", "kv_heads", "reasons")},
                keep=tuple(facts["keep"]),
                notes=tuple(facts["notes"]),
                special=tuple(facts.get("special", ())),  # files of before have none
                _logits=tensors.get("logits"),
                _attention=attention,
                _layered=layered,
                _routes=routes,
            )
        except FileNotFoundError as error:
            raise BadInput(f"There is no file {path}; give the path that trace.save returned.") from error
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise BadModelFile(
                f"{path} is no trace saved by labkit, or it is damaged; trace the text again."
            ) from error

    # checking ----------------------------------------------------------------------------------------------------

    def _require(self, what: str) -> None:
        if what in self.reasons:
            raise Unavailable(f"{what} can't be had from {self.model}: {self.reasons[what]}.")
        if what not in self.keep:
            raise Unavailable(f"{what} was not kept in this trace; take it with lab.trace(..., keep=({what!r}, ...)).")

    def _checked(self, what: str, index: int, count: int) -> int:
        if isinstance(index, bool) or not isinstance(index, Integral) or not -count <= index < count:
            raise BadInput(f"There is no {what} {index!r}: {self.model} has {what} 0 to {count - 1}.")
        return int(index) % count

    def _at(self, what: str, layer: int) -> torch.Tensor:
        self._require(what)
        layer = self._checked("layer", layer, self.layers)
        found = self._layered[what]
        if layer not in found:
            raise Unavailable(f"Layer {layer} of this {self.family} has no {what}; these layers do: {sorted(found)}.")
        return found[layer]

    def _head_of(self, what: str, layer: int, head: int | None, count: int) -> torch.Tensor:
        whole = self._at(what, layer)
        return whole if head is None else whole[self._checked("head", head, count)]

    def _operand(self, what: str, layer: int, head: int | None, count: int) -> torch.Tensor:
        self._require("attention")
        if what in self.reasons:
            raise Unavailable(f"{what} can't be had from {self.model}: {self.reasons[what]}.")
        layer = self._checked("layer", layer, self.layers)
        if layer not in self._attention:
            raise Unavailable(
                f"Layer {layer} of this {self.family} has no attention; {self._layers_with('_attention')}."
            )
        found = self._attention[layer].query if what == "queries" else self._attention[layer].key
        assert found is not None
        return found if head is None else found[self._checked("head", head, count)]

    def _layers_with(self, what: str) -> str:
        return f"these layers do: {sorted(getattr(self, what))}"


def token_loss(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """(T,) float32 on the CPU, nats: the cross entropy of each token given those before it; the first is NaN.

    logits: (T, vocabulary), of any float dtype, on any device.
    """
    loss = torch.full((len(ids),), math.nan)
    following = torch.tensor(ids[1:], dtype=torch.long, device=logits.device)
    loss[1:] = torch.nn.functional.cross_entropy(logits[:-1].float(), following, reduction="none").cpu()
    return loss


def window(mask: torch.Tensor) -> int | None:
    """The width of a sliding window: each query sees itself and the width − 1 tokens before it. None for other masks.

    mask: (T, T) bool, True where a query may see a key; or (..., T, T), added to the scores.
    """
    allowed = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
    allowed = allowed.reshape(-1, *allowed.shape[-2:])[0]
    width = int(allowed[-1].sum())
    banded = torch.ones_like(allowed).tril().triu(1 - width)
    return width if width < len(allowed) and bool((allowed == banded).all()) else None


def pattern(a: LayerAttention, *, head: int | None = None, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Attention probabilities of one layer, float32.

    a.query: (heads, T, d_head).  a.key: (kv_heads, T, d_head); each serves heads // kv_heads query heads.
    Returns (heads, rows, T), or (rows, T) for one head; rows sum to 1 over the keys a query may see, less with a sink.
    Scaled dot-product attention, Vaswani et al. 2017, eq. 1; grouped heads, Ainslie et al. 2023; softcap, Gemma Team 2024.
    """
    if a.pattern is not None:
        whole = a.pattern if head is None else a.pattern[head : head + 1]
        chosen = (whole if rows is None else whole[:, rows]).float()
        return chosen if head is None else chosen[0]
    assert a.query is not None
    assert a.key is not None
    length = a.query.shape[1]
    group = a.query.shape[0] // a.key.shape[0]
    query = a.query if head is None else a.query[head : head + 1]
    key = a.key if head is None else a.key[head // group : head // group + 1]
    rows = torch.arange(length) if rows is None else rows
    rows = rows.to(query.device)
    # heads that share a key are one long list of queries to it: the keys need not be repeated
    together = query[:, rows].float().reshape(key.shape[0], query.shape[0] // key.shape[0] * len(rows), query.shape[-1])
    scores = (together @ key.float().transpose(-1, -2) * a.scaling).reshape(query.shape[0], len(rows), key.shape[1])
    if a.softcap is not None:
        scores = a.softcap * torch.tanh(scores / a.softcap)
    if a.mask is None:
        allowed = torch.arange(key.shape[1], device=rows.device)[None] <= rows[:, None]
        scores = scores.masked_fill(~allowed, -torch.inf)
    elif a.mask.dtype is torch.bool:
        scores = scores.masked_fill(~a.mask[..., rows, :], -torch.inf)
    else:
        mask = a.mask if head is None or a.mask.shape[0] == 1 else a.mask[head : head + 1]
        scores = scores + mask[:, rows].float()
    if a.sink is not None:
        sink = (a.sink if head is None else a.sink[head : head + 1]).float()
        scores = torch.cat([scores, sink[:, None, None].expand(-1, scores.shape[1], 1)], -1)
        probabilities = scores.softmax(-1)[..., :-1]
    else:
        probabilities = scores.softmax(-1)
    return probabilities if head is None else probabilities[0]


def _rows(rows: Sequence[int] | slice | None, length: int) -> torch.Tensor | None:
    if rows is None:
        return None
    if not isinstance(rows, slice):
        if not isinstance(rows, Iterable) or not all(isinstance(r, Integral) and not isinstance(r, bool) for r in rows):
            raise BadInput(f"rows={rows!r} can't be used; give a list of whole numbers, or a slice.")
        rows = [int(r) for r in rows]
    chosen = torch.arange(length)[rows] if isinstance(rows, slice) else torch.tensor(rows, dtype=torch.long)
    if len(chosen) and not (-length <= int(chosen.min()) and int(chosen.max()) < length):
        raise BadInput(f"rows={list(rows)!r} goes outside the text: tokens are 0 to {length - 1}.")  # type: ignore[arg-type]
    return chosen % length


def checked_keep(keep: str | Sequence[str]) -> tuple[str, ...]:
    """What is to be captured, each known. Raises BadInput with near matches."""
    if not isinstance(keep, Iterable):
        raise BadInput(f"keep={keep!r} can't be used; give one or several of {', '.join(KEEP)}.")
    wanted = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in wanted:
        if name not in KEEP:
            close = difflib.get_close_matches(str(name), KEEP, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise BadInput(f"keep={name!r} is nothing that can be kept{hint}; there are {', '.join(KEEP)}.")
    return tuple(dict.fromkeys(wanted))
