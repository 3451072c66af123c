"""The Trace: what one forward pass left behind. It owns its data: no model is needed to read it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, overload

import torch

from labkit import checks
from labkit.errors import BadInput, BadModelFile, Unavailable
from labkit.trace import instruments
from labkit.trace.instruments import INSTRUMENTS, KEEP, filled
from labkit.trace.patterns import LayerAttention, pattern, window

__all__ = [
    "DEFAULT_KEEP",
    "FORMAT",
    "KEEP",
    "LayerAttention",
    "Routes",
    "Trace",
    "check_predicts",
    "checked_keep",
    "pattern",
    "token_loss",
    "window",
]

FORMAT = 2
READ = (1, 2)  # the formats that can be opened
DEFAULT_KEEP = ("attention", "logits")
GRADIENT = "gradient"  # before an instrument's name, in a file


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


class _Counts:
    """A number that layers may differ in: (layers,) numbers, or one for all, in; out the one of all.

    Raises Unavailable where layers differ, since one number would be wrong for some of them.
    """

    def __set_name__(self, owner: type[object], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, trace: None, owner: type[object]) -> _Counts: ...
    @overload
    def __get__(self, trace: Trace, owner: type[object]) -> int: ...
    def __get__(self, trace: Trace | None, owner: type[object]) -> int | _Counts:
        if trace is None:
            raise AttributeError(self.name)  # so that the field has no default
        given = vars(trace)[self.name]
        if isinstance(given, int):
            return given
        different = {number for number in given if number}
        if len(different) > 1:
            raise Unavailable(
                f"The layers of {trace.model} differ in their {self.name.replace('_', '-')}; use "
                f"trace.{self.name}_of(layer)."
            )
        return next(iter(different), 0)

    def __set__(self, trace: Trace, value: int | Sequence[int]) -> None:
        vars(trace)[self.name] = value if isinstance(value, int) else tuple(value)


@dataclass(frozen=True, repr=False)
class Trace:
    """One forward pass over T tokens, observed.

    tokens, ids: the T tokens the model saw (token 0 first).  model: its name.  layers: their number.
    heads, kv_heads: numbers of heads and key-value heads, where all layers that attend have as many; where they differ
        these raise Unavailable, and `heads_of(layer)`, `kv_heads_of(layer)` say each layer's.
    keep: what was captured; what was not raises Unavailable with the argument that would.
    reasons: why what this model does not have can't be had; layer_reasons: the same of single layers.
    special: the ids among these that are special tokens of the tokenizer, such as one that starts a text.
    causal: no token looks at later ones, so that the logits after a token are a prediction of the next.
    scalar: what `gradients=` gave for this text, or None.
    What is kept: {keep}. Any of it, by name: `trace.tensor(name, layer, head)`; by which derivatives were taken:
    `trace.gradient(name, layer, head)`.
    """

    tokens: list[str]
    ids: list[int]
    model: str
    family: str
    layers: int
    heads: _Counts = _Counts()
    kv_heads: _Counts = _Counts()
    keep: tuple[str, ...]  # type: ignore[misc]  # _Counts gives no default: it raises AttributeError for the class
    reasons: dict[str, str]  # type: ignore[misc]
    _logits: torch.Tensor | None = None
    _attention: dict[int, LayerAttention] = field(default_factory=dict)
    _layered: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    _routes: Routes | None = None
    notes: tuple[str, ...] = ()
    special: tuple[int, ...] = ()
    _windows: dict[int, int | None] = field(default_factory=dict, compare=False)
    layer_reasons: dict[str, dict[int, str]] = field(default_factory=dict)
    causal: bool = True
    scalar: float | None = None
    _gradients: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)

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
        Raises Unavailable for a model that looks both ways: it has seen the token it would be predicting.
        """
        self._require("logits")
        check_predicts(self.causal, self.model)
        assert self._logits is not None
        return token_loss(self._logits, self.ids)

    def next(self, position: int = -1, k: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, probabilities) of the k most probable tokens after a position."""
        logits = self.logits
        position = checks.index("token", position, len(self.ids), of="this text has")
        best = logits[position].softmax(-1).topk(checks.whole("k", k, 1, logits.shape[-1]))
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
        found = self.attention_parts(layer)
        if head is not None:
            head = self._checked("head", head, found.heads)
        return pattern(found, head=head, rows=_rows(rows, len(self.ids)))

    def attention_parts(self, layer: int) -> LayerAttention:
        """What the patterns of a layer are computed from: queries, keys, mask, scaling, sink and softcap.

        For measures that go through patterns block by block. Raises as `attention` does.
        """
        self._require("attention")
        layer = self._checked("layer", layer, self.layers)
        if layer not in self._attention:
            raise self._missing("attention", layer)
        return self._attention[layer]

    def layer_number(self, layer: int) -> int:
        """A layer's number from 0; negative ones count from the end. Raises BadInput for one that is not there."""
        return self._checked("layer", layer, self.layers)

    def heads_of(self, layer: int) -> int:
        """How many heads a layer has; 0 for one without attention."""
        return self._count("heads", layer)

    def kv_heads_of(self, layer: int) -> int:
        """How many key-value heads a layer has; 0 for one without attention."""
        return self._count("kv_heads", layer)

    def layers_with(self, name: str) -> list[int]:
        """The layers that an instrument was kept of; [0] for what there is once in a pass. Raises Unavailable without it."""
        row = self._row(name)
        if row.per == "pass":
            return [0]
        if row.keep == "attention":
            return sorted(self._attention)
        return list(self.routes.layers) if name == "routes" else sorted(self._layered.get(name, {}))

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
        return self.tensor("queries", layer, head)

    def keys(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(kv_heads, T, d_head), or (T, d_head) for a key-value head: after rotary embedding."""
        return self.tensor("keys", layer, head)

    def values(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(kv_heads, T, d_value), or (T, d_value) for a key-value head."""
        return self.tensor("values", layer, head)

    def state(self, layer: int) -> torch.Tensor:
        """(T, *state): the recurrent state of a layer after each token.

        (T, d_inner, d_state) of Mamba, (T, heads, d_head, d_state) of Mamba-2, (T, heads, d_key, d_value) of a gated delta rule,
        (T, d, 3) of RWKV v4: the sum of values, the sum of weights, and the exponent both are to be multiplied with. What a
        layer's short convolution or token shift keeps beside it, its last inputs, is not in it.
        """
        return self.tensor("state", layer)

    def head_output(self, layer: int, head: int | None = None) -> torch.Tensor:
        """(heads, T, d_value), or (T, d_value): attention-weighted values, before the output projection."""
        return self.tensor("head_output", layer, head)

    # the residual stream -----------------------------------------------------------------------------------------

    @property
    def embedding(self) -> torch.Tensor:
        """(T, d_embedding): the rows of the input embedding, before positions, factors and norms that come before layer 0."""
        return self.tensor("embedding")

    def residual(self, i: int) -> torch.Tensor:
        """(T, d_model) entering layer i; i = number of layers: leaving the last, before the final norm."""
        return self.tensor("residual", i)

    def attention_output(self, layer: int) -> torch.Tensor:
        """(T, d_model): what the attention of a layer added to the residual stream."""
        return self.tensor("attention_output", layer)

    def mlp_output(self, layer: int) -> torch.Tensor:
        """(T, d_model): what the MLP (or mixture of experts) of a layer added to the residual stream."""
        return self.tensor("mlp_output", layer)

    def mlp_neurons(self, layer: int) -> torch.Tensor:
        """(T, d_mlp): the MLP's neurons after the activation, what its last projection is given."""
        return self.tensor("mlp_neurons", layer)

    @property
    def routes(self) -> Routes:
        """What the routers of a mixture of experts decided."""
        self._require("routes")
        assert self._routes is not None
        return self._routes

    # any instrument, and derivatives -----------------------------------------------------------------------------

    def tensor(self, name: str, layer: int | None = None, head: int | None = None) -> torch.Tensor:
        """What an instrument kept, by its name: the same as the method or property of that name, also where there is none.

        layer: which; not for logits and embedding, of which there is one in a pass.  head: of instruments with heads.
        Raises BadInput for a name, layer or head that is not there, Unavailable for what was not kept or can't be had.
        """
        row = self._row(name)
        if name == "attention":
            return self.attention(self._layer_of(row, layer), head)
        if name == "logits":
            self._layer_of(row, layer)
            return self._head_of(row, self.logits, head)
        if name == "routes":
            raise BadInput("Routes are several tensors; use trace.routes.experts, .weights and .logits.")
        at = self._layer_of(row, layer)
        if row.keep == "attention":
            if at not in self._attention:
                raise self._missing(name, at)
            a = self._attention[at]
            found = a.query if name == "queries" else a.key
            assert found is not None
        else:
            by_layer = self._layered.get(name, {})
            if at not in by_layer:
                raise self._missing(name, at)
            found = by_layer[at]
        return self._head_of(row, found, head)

    def gradient(self, name: str, layer: int | None = None, head: int | None = None) -> torch.Tensor:
        """The derivative of the scalar that `lab.trace(..., gradients=fn)` was given, by an instrument; of its shape.

        What the scalar does not depend on has a derivative of zero. Where an edit was on, by the value after it.
        Raises BadInput for a name, layer or head that is not there, Unavailable where no derivative was taken by it.
        """
        row = instruments.named(name)
        if row.put is None:
            others = ", ".join(r.name for r in INSTRUMENTS if r.put is not None)
            raise Unavailable(f"No derivative can be taken by {name}, which can only be seen; use one of {others}.")
        self._row(name)
        if self.scalar is None:
            raise Unavailable(
                "This trace was taken without derivatives; take it with lab.trace(..., gradients=fn), where fn(logits) gives "
                "the scalar."
            )
        at = self._layer_of(row, layer)
        by_layer = self._gradients.get(name, {})
        if at not in by_layer:
            raise self._missing(name, at)
        return self._head_of(row, by_layer[at], head)

    # to disk -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the trace to one safetensors file; `Trace.load` opens it without the model."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, object] = {
            "format": FORMAT,
            "tokens": self.tokens,
            "ids": self.ids,
            "model": self.model,
            "family": self.family,
            "layers": self.layers,
            "heads": vars(self)["heads"],
            "kv_heads": vars(self)["kv_heads"],
            "keep": self.keep,
            "reasons": self.reasons,
            "layer_reasons": self.layer_reasons,
            "notes": self.notes,
            "special": self.special,
            "causal": self.causal,
            "scalar": self.scalar,
        }
        for row in INSTRUMENTS:
            if row.storage is not None:
                more, told = row.storage.save(row.name, self)
                tensors |= more
                facts |= told
        for name, by_layer in self._gradients.items():
            tensors |= {f"{GRADIENT}.{name}.{layer}": value for layer, value in by_layer.items()}
        target = Path(path).expanduser()
        partial = target.with_name(target.name + ".partial")
        try:
            save_file(_apart(tensors), partial, metadata={"labkit": json.dumps(facts)})
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
            if facts["format"] not in READ:
                raise BadModelFile(f"{path} was saved by another version of labkit; trace the text again.")
            fields: instruments.Fields = {}
            for row in INSTRUMENTS:
                if row.storage is not None:
                    _merge(fields, row.storage.open(row.name, tensors, facts))
            gradients: dict[str, dict[int, torch.Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{GRADIENT}."):
                    _, name, layer = key.split(".")
                    gradients.setdefault(name, {})[int(layer)] = value
            reasons = {name: {int(i): r for i, r in by.items()} for name, by in facts.get("layer_reasons", {}).items()}
            return Trace(
                **{n: facts[n] for n in ("tokens", "ids", "model", "family", "layers", "heads", "kv_heads", "reasons")},
                keep=tuple(facts["keep"]),
                notes=tuple(facts["notes"]),
                special=tuple(facts.get("special", ())),  # files of before have none
                layer_reasons=reasons,
                causal=facts.get("causal", True),
                scalar=facts.get("scalar"),
                _gradients=gradients,
                **fields,
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
        return checks.index(what, index, count, of=f"{self.model} has")

    def _count(self, what: Literal["heads", "kv_heads"], layer: int) -> int:
        layer = self._checked("layer", layer, self.layers)
        given = vars(self)[what]
        return int(given) if isinstance(given, int) else int(given[layer])

    def _row(self, name: str) -> instruments.Instrument:
        """The row of an instrument that was kept."""
        row = instruments.named(name)
        if (reason := self.reasons.get(name)) is not None:
            raise Unavailable(f"{name} can't be had from {self.model}: {reason}.")
        self._require(row.keep)
        return row

    def _layer_of(self, row: instruments.Instrument, layer: int | None) -> int:
        if row.per == "pass":
            if layer not in (None, 0):
                raise BadInput(f"{row.name} has no layer {layer!r}: there is one in a pass; leave the layer out.")
            return 0
        if layer is None:
            raise BadInput(f"{row.name} is of a layer; give its number, 0 to {self.layers - 1}.")
        boundary = row.per == "boundary"
        return self._checked(row.name if boundary else "layer", layer, self.layers + boundary)

    def _head_of(self, row: instruments.Instrument, whole: torch.Tensor, head: int | None) -> torch.Tensor:
        if head is None:
            return whole
        if row.heads is None:
            raise BadInput(f"{row.name} has no heads; leave the head out.")
        return whole[self._checked("head", head, whole.shape[0])]

    def _missing(self, what: str, layer: int) -> Unavailable:
        """Why a layer does not have what others have."""
        row = instruments.named(what)
        for name in (what, row.keep):
            if (reason := self.layer_reasons.get(name, {}).get(layer)) is not None:
                return Unavailable(f"{what} can't be had from layer {layer} of {self.model}: {reason}.")
        there = self.layers_with(what)
        return Unavailable(f"Layer {layer} of this {self.family} has no {what}; these layers do: {there}.")


Trace.__doc__ = filled(Trace.__doc__)


def _apart(tensors: instruments.Tensors) -> instruments.Tensors:
    """Tensors on the CPU as a safetensors file takes them: contiguous, and none in memory that another one has too."""
    found: instruments.Tensors = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _merge(fields: instruments.Fields, more: instruments.Fields) -> None:
    """Put an instrument's fields to those of others; what is by instrument comes together."""
    for name, value in more.items():
        there = fields.get(name)
        fields[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value


def check_predicts(causal: bool, model: str) -> None:
    """Raise Unavailable for a model that looks both ways, whose logits have no loss of the next token."""
    if not causal:
        raise Unavailable(
            f"{model} looks at later tokens too, so its logits are no predictions of the next and have no such loss; "
            "use trace.logits."
        )


def token_loss(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """(T,) float32 on the CPU, nats: the cross entropy of each token given those before it; the first is NaN.

    logits: (T, vocabulary), of any float dtype, on any device.
    """
    loss = torch.full((len(ids),), math.nan)
    following = torch.tensor(ids[1:], dtype=torch.long, device=logits.device)
    loss[1:] = torch.nn.functional.cross_entropy(logits[:-1].float(), following, reduction="none").cpu()
    return loss


def _rows(rows: Sequence[int] | slice | None, length: int) -> torch.Tensor | None:
    if rows is None:
        return None
    return torch.tensor(checks.indices("rows", "token", rows, length, of="this text has"), dtype=torch.long)


def checked_keep(keep: str | Sequence[str]) -> tuple[str, ...]:
    """What is to be captured, each known. Raises BadInput with near matches."""
    given = [keep] if isinstance(keep, str) else checks.series("keep", keep, f"one or several of {', '.join(KEEP)}")
    wanted = (checks.one_of("keep", name, KEEP, problem="is nothing that can be kept") for name in given)
    return tuple(dict.fromkeys(wanted))
