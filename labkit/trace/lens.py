"""From the residual stream to logits: the logit lens, and which part of the model wrote how much of a logit.

Both read a Trace and the way from the last residual to the logits: final norm, unembedding, and what an architecture does
besides (a projection between the two, a factor, a softcap). That way is taken to be known only when it turns the trace's
own last residual into the trace's own logits; else Unavailable is raised, so nothing here can be quietly wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace.probing import TOLERANCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.lab_like import LabLike
    from labkit.trace.record import Trace

CHECKED_POSITIONS = 16
CHUNK = 2**24  # logits held at once: 64 MiB of float32
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # as configurations name it
UNSATURATED = 0.9  # of the cap: above, a capped logit says little of the one before
PROBE_SIZE = 64.0  # large beside any norm's epsilon, small enough for float16


# the logit lens -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """What the model would say after each layer; `logit_lens` tells the columns of its table.

    model: its name.  layers: how many it has, so the rows of this layer are the model's own prediction.
    """

    model: str
    layers: int

    def _title(self) -> str:
        return f"Logit lens of {self.model}: {self.layers} layers"


def logit_lens(lab: LabLike, trace: Trace, *, k: int = 1) -> LogitLens:
    """What the model would say if it stopped at each layer: every residual, through the final norm and unembedding.

    trace: kept with "residual" and "logits". k: how many of the most probable tokens are given.
    Costs layers + 1 unembeddings of the text.
    Returns a `LogitLens`, whose table has a row per layer i = 0..layers and position: layer (i: the residual entering layer
    i; i = layers is the model's own prediction), position, token (at this position), top_token, top_id, top_probability;
    next_token, next_id: the one that actually follows in the text, its rank (how many tokens are held more probable) and
    logprob (nats), all missing at the last position; kl (nats): KL(the model's own prediction || this layer's). For k > 1
    also top_tokens, top_ids, top_probabilities: tuples of k. Logits that are not numbers give missing values; rank and
    logprob are missing, too, where a model looks both ways, since it has seen the token that follows.
    What it can show: when a prediction first becomes readable in the directions the model writes its answer in. What it
    can't: what the model "knows" at a layer. Early layers may keep the same information in other directions, so a poor
    reading is no sign of ignorance, and the final norm is used where it was never trained to be; a reading is a
    correlation, not a cause (patching tells causes).
    Raises Unavailable when something was not kept or the way to the logits is not found, BadInput for a bad k.
    Logit lens: nostalgebraist 2020; its limits: Belrose et al. 2023.
    """
    ending = ending_of(lab, trace, ("residual", "logits"))
    frame = lens_frame(lab, trace, ending, range(trace.layers + 1), trace.residual, k=k)
    return LogitLens(frame, trace.model, trace.layers)


def lens_frame(
    lab: LabLike,
    trace: Trace,
    ending: Ending,
    layers: Sequence[int],
    state: Callable[[int], torch.Tensor],
    *,
    k: int = 1,
) -> pd.DataFrame:
    """The table of `logit_lens` for any lens: what is read where the last residual would be.

    state: of a layer, (T, d_model), taken for the last residual.  Where the trace kept no logits, they come from its last state.
    """
    own = trace.logits if "logits" in trace.keep else None
    vocabulary = (ending.logits(trace.residual(trace.layers)[:1]) if own is None else own).shape[-1]
    k = checks.whole("k", k, 1, vocabulary)
    memo: dict[int, str] = {}
    following = torch.tensor([*trace.ids[1:], 0])
    rows: list[dict[str, object]] = []
    step = max(1, CHUNK // vocabulary)
    for start in range(0, len(trace), step):
        chunk = slice(start, min(start + step, len(trace)))
        logits = ending.logits(trace.residual(trace.layers)[chunk]) if own is None else own[chunk]
        final = logits.log_softmax(-1)
        likely, entropy = likelihoods(final)
        target = following[chunk].to(final.device)[:, None]
        for i in layers:
            lens = ending.logits(state(i)[chunk]).to(final.device)
            total = lens.logsumexp(-1)
            kl = divergence(likely, entropy, lens, total).tolist()
            best = lens.topk(k)
            chosen = lens.gather(-1, target)
            rank = (lens > chosen).sum(-1).tolist()
            logprob = (chosen[:, 0] - total).tolist()
            broken = (~total.isfinite()).tolist()
            probability = (best.values - total[:, None]).exp()
            ids, probabilities = best.indices.tolist(), probability.tolist()
            for at, position in enumerate(range(chunk.start, chunk.stop)):
                row: dict[str, object] = {"layer": i, "position": position, "token": trace.tokens[position]}
                if not broken[at]:
                    texts = token_strings(lab.tokenizer, ids[at], memo=memo)
                    row |= {"top_token": texts[0], "top_id": ids[at][0], "top_probability": probabilities[at][0]}
                    row |= {"kl": kl[at]}
                    if k > 1:
                        row |= {"top_tokens": tuple(texts), "top_ids": tuple(ids[at])}
                        row |= {"top_probabilities": tuple(probabilities[at])}
                if position + 1 < len(trace):
                    row |= {"next_id": trace.ids[position + 1], "next_token": trace.tokens[position + 1]}
                    row |= {"rank": rank[at], "logprob": logprob[at]} if trace.causal and not broken[at] else {}
                rows.append(row)
    columns = ["layer", "position", "token", "top_token", "top_id", "top_probability"]
    columns += ["next_token", "next_id", "rank", "logprob", "kl"]
    columns += ["top_tokens", "top_ids", "top_probabilities"] if k > 1 else []
    frame = pd.DataFrame(rows, columns=columns).sort_values(["layer", "position"], ignore_index=True)
    frame = frame.astype({"top_id": "Int64", "next_id": "Int64", "rank": "Int64"})
    frame = frame.astype({"top_probability": "float64", "logprob": "float64", "kl": "float64"})
    return frame


def likelihoods(final: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, vocabulary) probabilities, and (n,) their entropy in nats, of log-probabilities."""
    likely = final.exp()
    return likely, -torch.where(likely > 0, likely * final, 0).sum(-1)


def divergence(likely: torch.Tensor, entropy: torch.Tensor, lens: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """(n,) nats: KL(the model's own prediction || a lens's), from its `likelihoods`.

    lens: (n, vocabulary) logits; total: (n,) their logsumexp.
    """
    expected = (likely * lens).sum(-1)
    if bool(expected.isnan().any()):  # a vocabulary with tokens ruled out: 0 · -inf
        expected = torch.where(likely > 0, likely * lens, 0).sum(-1)
    return (total - expected - entropy).clamp_min(0)  # rounding can put it a hair below


def lens_logits(lab: LabLike, trace: Trace, layers: int | Sequence[int] | None = None) -> torch.Tensor:
    """The lens's logits themselves: (T, vocabulary) float32 for one layer, (len(layers), T, vocabulary) for several.

    layers: 0..layers as in `logit_lens`, negative from the end; None is all of them (4 bytes each: (layers + 1) · T ·
    vocabulary). Raises BadInput for a layer that is not there, and Unavailable as `logit_lens` does.
    """
    ending = ending_of(lab, trace, ("residual", "logits"))
    if (one := checks.as_whole(layers)) is not None:
        return ending.logits(trace.residual(one))
    there = trace.layers + 1
    wanted = range(there) if layers is None else checks.indices("layers", "layer", layers, there, of="the lens reads")
    if not wanted:
        raise BadInput(f"layers is empty; choose from 0 to {trace.layers}.")
    return torch.stack([ending.logits(trace.residual(i)) for i in wanted])


# direct logit attribution ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(Result):
    """Which parts of the model wrote a logit; `logit_attribution` tells the columns of its table.

    logit: that of the token at the position, or the difference of two.  total: the sum of the rows.  token, token_id: whose
    logit; against, against_id: less that of which token, or None.  by: "layer" or "head".  model: its name.
    softcap: where the model caps its logits, the cap; the logit before it is attributed. Else None.
    """

    logit: float
    total: float
    token: str
    token_id: int
    against: str | None
    against_id: int | None
    position: int
    by: str
    softcap: float | None
    model: str

    def _title(self) -> str:
        over = "" if self.against is None else f" over {self.against!r}"
        return f"Attribution of the logit of {self.token!r}{over} after token {self.position}, {self.model}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"sum": {"contribution": self.total}}


def logit_attribution(
    lab: LabLike,
    trace: Trace,
    *,
    position: int = -1,
    token: str | int | None = None,
    against: str | int | None = None,
    by: Literal["layer", "head"] = "layer",
) -> LogitAttribution:
    """Which parts of the model wrote a logit: direct logit attribution.

    position: whose prediction. token: a single token's text or id; by default the model's own first choice there.
    against: another token; then the difference of the two logits is attributed, which what moves all logits alike leaves
    untouched. by: "layer" (attention and MLP of each) or "head" (each head, and what is left of its layer's attention: the
    biases). trace: kept with "residual", "attention_output", "mlp_output" and "logits"; by="head" also "head_output".
    Returns a `LogitAttribution`, whose table has the rows component ("embedding", "attention", "mlp", "head",
    "attention_bias"; "layer" where a layer has but one part; "norm_bias" and "unembedding_bias" where the model has them),
    layer, head (missing where there is none), contribution (logits). The contributions sum to the logit: to 1e-4 of the
    largest logit in float32, less exactly in bfloat16 and float16, whose residual stream is itself rounded. Where the
    model caps its logits, the logit before the cap is attributed, since the cap is not linear.
    The final norm's scale is taken as it was in this pass, as usual; so a contribution is the part's direct effect only,
    and what it does by way of later layers is theirs. Norms after the attention (gemma2, olmo2) are treated the same way
    when heads are asked for.
    Raises BadInput for a position or token that is not there, Unavailable when something was not kept or the parts don't
    add up to the logit. Direct logit attribution: Elhage et al. 2021; frozen scale: Wang et al. 2023.
    """
    by = checks.one_of("by", by, ("layer", "head"), problem="is no way to attribute a logit")
    needed = ("residual", "attention_output", "mlp_output", "logits", *(("head_output",) if by == "head" else ()))
    ending = ending_of(lab, trace, needed)
    position = checks.index("position", position, len(trace), of="this text has")
    last = trace.residual(trace.layers)[position]
    raw = ending.uncapped(last[None])[0].double().cpu()
    wanted = int(raw.argmax()) if token is None else token_id(lab.tokenizer, len(raw), token)
    other = None if against is None else token_id(lab.tokenizer, len(raw), against)
    if wanted == other:
        raise BadInput(
            "token and against are the same token, and the difference of their logits is zero; choose another."
        )
    logit = float(raw[wanted] - (raw[other] if other is not None else 0.0))
    direction, constant = ending.read_out(last, wanted)
    if other is not None:
        minus, minus_constant = ending.read_out(last, other)
        direction, constant = direction - minus, constant - minus_constant
    norm = _frozen(ending.norm, last)

    parts = _parts(lab, trace, position, by)
    vectors = torch.stack([vector for *_, vector in parts])
    values = (norm.linear(vectors) @ direction).tolist()
    rows = [(name, layer, head, value) for (name, layer, head, _), value in zip(parts, values, strict=True)]
    rows += [("norm_bias", None, None, float(norm.bias @ direction))] if bool(norm.bias.any()) else []
    rows += [("unembedding_bias", None, None, constant)] if constant else []

    frame = pd.DataFrame(rows, columns=["component", "layer", "head", "contribution"])
    frame = frame.astype({"layer": "Int64", "head": "Int64"})
    total = float(frame.contribution.sum())
    if not abs(total - logit) <= _tolerance(last) * float(raw.abs().max()):
        raise Unavailable(
            f"The parts of this {trace.family} sum to {total:.4g} and its logit is {logit:.4g}: something between its "
            "layers is not seen here; look at lk.patching, which needs no such sum."
        )
    named = [None if i is None else token_strings(lab.tokenizer, [i])[0] for i in (wanted, other)]
    return LogitAttribution(
        frame,
        logit=logit,
        total=total,
        token=str(named[0]),
        token_id=wanted,
        against=named[1],
        against_id=other,
        position=position,
        by=by,
        softcap=ending.softcap,
        model=trace.model,
    )


_Part = tuple[str, int | None, int | None, torch.Tensor]  # component, layer, head, what it wrote: (d_model,) float64


def _parts(lab: LabLike, trace: Trace, position: int, by: str) -> list[_Part]:
    """All that was added up to the last residual at a position."""

    def at(whole: torch.Tensor) -> torch.Tensor:
        return whole[position].double().cpu()

    parts: list[_Part] = [("embedding", None, None, at(trace.residual(0)))]
    for i, layer in enumerate(lab.anatomy.layers):
        if layer.attention is None and layer.mlp is None:
            parts.append(("layer", i, None, at(trace.residual(i + 1)) - at(trace.residual(i))))
        if layer.attention is not None:
            if by == "head" and layer.attention_module is not None:
                parts += _heads(lab.anatomy, trace, i, position)
            else:
                parts.append(("attention", i, None, at(trace.attention_output(i))))
        if layer.mlp is not None:
            parts.append(("mlp", i, None, at(trace.mlp_output(i))))
    return parts


def _heads(anatomy: Anatomy, trace: Trace, i: int, position: int) -> list[_Part]:
    """What each head of a layer added, and the bias: the attention's output taken apart.

    Each head goes alone through the output projection. Where a norm comes before it (bitnet) or after (gemma2, olmo2),
    its scale is taken as it was in this pass, and then all of it is linear.
    """
    layer = anatomy.layers[i]
    expected = trace.attention_output(i)[position].double().cpu()
    heads = trace.head_output(i)[:, position]
    count, width = heads.shape
    alone = torch.zeros(count, count * width, dtype=heads.dtype, device=heads.device)
    for head in range(count):
        alone[head, head * width : (head + 1) * width] = heads[head]
    projection = layer.output_projection
    tolerance = _tolerance(heads)
    befores = (None, *_norms(layer.attention_module)) if projection is not None else ()
    afters = (None,) if layer.attention in (layer.attention_module, projection) else (None, layer.attention)
    for before in befores:
        for after in afters:
            split = _through(projection, before, after, alone)
            if split is None:
                continue
            vectors, bias = split[0] * anatomy.multiplier, split[1] * anatomy.multiplier
            if (vectors.sum(0) + bias - expected).norm() <= tolerance * expected.norm():
                found: list[_Part] = [("head", i, head, vectors[head]) for head in range(count)]
                return [*found, ("attention_bias", i, None, bias)] if bool(bias.any()) else found
    raise Unavailable(
        f"The heads of layer {i} of this {trace.family} don't add up to what its attention wrote (a gate or an edit stands "
        "between); attribute by='layer'."
    )


@torch.no_grad()
def _through(
    projection: nn.Module | None, before: nn.Module | None, after: nn.Module | None, alone: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(heads, d_model) and (d_model,): heads and bias behind norm, projection and norm; None if they don't fit together.

    alone: (heads, heads · d_value), a row a head.
    """
    try:
        scaled, shift = alone, torch.zeros_like(alone[:1])
        if before is not None:
            first = _frozen(before, alone.sum(0))
            scaled, shift = first.linear(alone).to(alone), first.bias[None].to(alone)
        constant = _run(projection, shift).double().cpu()[0]
        zero = _run(projection, torch.zeros_like(shift)).double().cpu()[0]
        vectors = _run(projection, scaled).double().cpu() - zero
        if after is not None:
            second = _frozen(after, _run(projection, scaled.sum(0, keepdim=True) + shift)[0])
            vectors, constant = second.linear(vectors), second.linear(constant[None])[0] + second.bias
    except (Unavailable, RuntimeError, ValueError):
        return None
    return vectors, constant


def _norms(module: nn.Module | None) -> list[nn.Module]:
    return [m for m in module.children() if "norm" in type(m).__name__.lower()] if module is not None else []


def neuron_contributions(
    lab: LabLike, trace: Trace, neurons: Sequence[tuple[int, int]], token: int, *, position: int = -1
) -> dict[tuple[int, int], float]:
    """What single neurons of the MLPs wrote on a logit themselves: the rows "mlp" of `logit_attribution` taken apart.

    trace: kept with "residual", "mlp_output", "mlp_neurons" and "logits".  neurons: (layer, neuron) each, from 0.  token: an id.
    Returns {(layer, neuron): contribution}, logits: the neuron's activation times its column of the last projection, read out as
    there, with the scales of norms held. Those of all neurons of a layer, and the projection's bias, sum to the MLP's
    contribution; a layer where they don't (something stands between) is left out.
    Raises as `logit_attribution` does.
    """
    ending = ending_of(lab, trace, ("residual", "mlp_output", "mlp_neurons", "logits"))
    position = checks.index("position", position, len(trace), of="this text has")
    last = trace.residual(trace.layers)[position]
    direction, _ = ending.read_out(last, token)
    norm = _frozen(ending.norm, last)
    by_layer: dict[int, list[int]] = {}
    for i, neuron in neurons:
        by_layer.setdefault(i, []).append(neuron)
    found: dict[tuple[int, int], float] = {}
    for i, chosen in by_layer.items():
        vectors = _neurons(lab.anatomy, trace, i, position, chosen)
        if vectors is not None:
            found |= zip([(i, neuron) for neuron in chosen], (norm.linear(vectors) @ direction).tolist(), strict=True)
    return found


def _neurons(anatomy: Anatomy, trace: Trace, i: int, position: int, chosen: Sequence[int]) -> torch.Tensor | None:
    """(chosen, d_model): what neurons of a layer added; None where its neurons don't add up to what its MLP wrote."""
    layer = anatomy.layers[i]
    if layer.down_projection is None:
        return None
    values = trace.mlp_neurons(i)[position]
    alone = torch.zeros(len(chosen) + 1, len(values), dtype=values.dtype, device=values.device)
    alone[range(len(chosen)), list(chosen)] = values[list(chosen)]
    alone[-1] = values  # all others together
    alone[-1, list(chosen)] = 0
    expected = trace.mlp_output(i)[position].double().cpu()
    for after in (None, layer.mlp):
        split = _through(layer.down_projection, None, after, alone)
        if split is None:
            continue
        vectors, bias = split[0] * anatomy.multiplier, split[1] * anatomy.multiplier
        if (vectors.sum(0) + bias - expected).norm() <= _tolerance(values) * expected.norm():
            return vectors[:-1]
    return None


@torch.no_grad()
def head_writes(anatomy: Anatomy, layer: int, head: int, like: torch.Tensor) -> torch.Tensor | None:
    """(d_value, d_model): a head's part of the output projection, so that its outputs times this are what it writes.

    like: outputs of the head, (T, d_value).  A norm before or after the projection is not in it. None where the layer's output
    projection is not known, or takes something else.
    """
    here = anatomy.layers[layer]
    if here.output_projection is None or not here.heads:
        return None
    width = like.shape[-1]
    basis = torch.zeros(width + 1, here.heads * width, dtype=like.dtype, device=like.device)  # the last row: its bias
    basis[:width, head * width : (head + 1) * width] = torch.eye(width, dtype=like.dtype)
    try:
        found = _run(here.output_projection, basis)
    except RuntimeError:
        return None
    return (found[:-1] - found[-1]).float().cpu() * anatomy.multiplier


# the way from the last residual to the logits -------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """The way from the last residual to the logits.

    Final norm, projection to the unembedding's width (opt), unembedding, factor, softcap.
    """

    norm: nn.Module | None
    projection: nn.Module | None
    unembedding: nn.Module
    dtype: torch.dtype
    factor: float = 1.0
    softcap: float | None = None

    def unembedded(self, x: torch.Tensor) -> torch.Tensor:
        """Behind the norm: from its output (..., d_model) to (..., vocabulary), before factor and cap."""
        x = x.to(self.dtype)
        return _run(self.unembedding, x if self.projection is None else _run(self.projection, x))

    def uncapped(self, residual: torch.Tensor, *, grad: bool = False) -> torch.Tensor:
        """(n, d_model) to (n, vocabulary) float32. grad: keep what autograd needs."""
        with torch.enable_grad() if grad else torch.no_grad():
            x = residual if self.norm is None else _run(self.norm, residual)
            return self.unembedded(x).float() * self.factor

    def logits(self, residual: torch.Tensor, *, grad: bool = False) -> torch.Tensor:
        return self.capped(self.uncapped(residual, grad=grad))

    def capped(self, raw: torch.Tensor) -> torch.Tensor:
        """What the softcap makes of what `uncapped` gives."""
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)

    def direction(self, like: torch.Tensor, token: int) -> torch.Tensor:
        """(d_model,) float64: along which a last residual `like`, (d_model,), raises a token's logit, the norm's scale held."""
        row, _ = self.read_out(like, token)
        norm = _frozen(self.norm, like)
        direction = row * norm.gain
        return direction - direction.mean() if norm.centred else direction

    def read_out(self, like: torch.Tensor, token: int) -> tuple[torch.Tensor, float]:
        """(d_model,) float64 and a constant: a token's logit is their product with the norm's output, plus the constant.

        The gradient of one logit, so that whatever kind of linear module the unembedding is, its row is found.
        """
        with torch.inference_mode(False), torch.enable_grad():
            origin = torch.zeros(like.shape[-1], dtype=self.dtype, device=like.device, requires_grad=True)
            out = self.unembedded(origin[None])[0, token]
            if not out.requires_grad:
                raise Unavailable(
                    "This unembedding is quantized in a way that hides its rows; attribute on the float model."
                )
            (row,) = torch.autograd.grad(out, origin)
        return row.double().cpu() * self.factor, float(out.detach()) * self.factor


def ending_of(lab: LabLike, trace: Trace, needed: Sequence[str]) -> Ending:
    """The way to the logits, proved on the trace's own last residual. Raises Unavailable when it is not found."""
    for what in needed:
        if what in trace.reasons:
            raise Unavailable(f"{what} can't be had from {trace.model}: {trace.reasons[what]}.")
    if missing := [what for what in needed if what not in trace.keep]:
        names = ", ".join(map(repr, needed))
        raise Unavailable(
            f"{' and '.join(missing)} not kept in this trace; take it with lab.trace(..., keep=({names}))."
        )
    if len(lab.anatomy.layers) != trace.layers:
        raise BadInput(
            f"This trace has {trace.layers} layers and the lab's model {len(lab.anatomy.layers)}: it was taken from another "
            "model; give the lab it came from."
        )
    if lab.anatomy.unembedding is None:
        raise Unavailable(
            f"{trace.model} has no unembedding (it gives no logits over tokens); load a causal language model."
        )
    least, most = trace.logits.aminmax(dim=-1)  # both NaN where one is
    numbers = (least.isfinite() & most.isfinite()).nonzero()[:, 0]
    if not len(numbers):
        first = next((i for i in range(trace.layers + 1) if not bool(trace.residual(i).isfinite().all())), None)
        where = ": the embedding is none" if first == 0 else f": the residual is none after layer {(first or 0) - 1}"
        raise Unavailable(
            f"No logit of this trace is a number{'' if first is None else where}; check the weights there."
        )
    chosen = numbers[
        torch.linspace(0, len(numbers) - 1, min(len(numbers), CHECKED_POSITIONS)).long().to(numbers.device)
    ]
    residual = trace.residual(trace.layers)
    return proved(lab, residual[chosen.to(residual.device)], trace.logits[chosen])


def proved(lab: LabLike, residual: torch.Tensor, logits: torch.Tensor) -> Ending:
    """The way to the logits, proved on some positions' last residuals, (n, d_model), and logits, (n, vocabulary).

    Raises Unavailable where it does not turn the one into the other.
    """
    model, anatomy = lab.model, lab.anatomy
    if anatomy.unembedding is None:
        raise Unavailable(
            f"{lab.name} has no unembedding (it gives no logits over tokens); load a causal language model."
        )
    ending = Ending(
        anatomy.final_norm, _projection(model, anatomy, residual.shape[-1]), anatomy.unembedding, model.dtype
    )
    truth = logits.double().cpu()
    tolerance = _tolerance(residual)
    try:
        plain = ending.uncapped(residual)
        raw = plain.double().cpu()
    except RuntimeError as error:
        raise Unavailable(_no_way(lab)) from error
    config = model.config.get_text_config()
    caps = [float(cap) for name in SOFTCAPS if (cap := getattr(config, name, None))]
    for softcap in (*caps, None):
        factor = _factor(raw, truth, softcap, tolerance)
        found = Ending(ending.norm, ending.projection, ending.unembedding, ending.dtype, factor, softcap)
        if raw.shape != truth.shape:
            break
        off = (found.capped(plain * factor).double().cpu() - truth).abs().max()
        if bool(off <= tolerance * truth.abs().max()):
            return found
    raise Unavailable(_no_way(lab))


def _no_way(lab: LabLike) -> str:
    return (
        f"The final norm and unembedding don't turn the last residual of this {lab.family} into its logits: the trace is of "
        "another model, or of this one before a change or under an edit, or its architecture does more at the end than is "
        "known here; trace the text anew with this lab."
    )


def _factor(raw: torch.Tensor, truth: torch.Tensor, softcap: float | None, tolerance: float) -> float:
    """What the unembedding's output is multiplied by (granite, cohere), by least squares; 1 where it is nearly that."""
    if raw.shape != truth.shape:
        return 1.0
    if softcap is not None:
        clear = truth.abs() < UNSATURATED * softcap
        raw, truth = raw[clear], softcap * torch.atanh(truth[clear] / softcap)
    factor = float((raw * truth).sum() / (raw * raw).sum()) if raw.numel() and bool(raw.any()) else 1.0
    return 1.0 if abs(factor - 1.0) <= tolerance / 10 else factor


def _projection(model: nn.Module, anatomy: Anatomy, width: int) -> nn.Module | None:
    """The linear map of a model whose residual stream is wider or narrower than its unembedding (opt-350m)."""
    inside = {part for layer in anatomy.layers for part in layer.module.modules()}
    weight = getattr(anatomy.unembedding, "weight", None)
    wanted = getattr(anatomy.unembedding, "in_features", None) or (weight.shape[-1] if weight is not None else width)
    if wanted == width:
        return None
    maps = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside and m is not anatomy.unembedding]
    return next((m for m in maps if (m.in_features, m.out_features) == (width, wanted)), None)


@dataclass(frozen=True)
class _Frozen:
    """A norm as it acted in one pass, its scale held fixed: an affine map."""

    gain: torch.Tensor
    bias: torch.Tensor
    centred: bool

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        """(n, d) float64 without the bias."""
        x = x.double().cpu()
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain


def _frozen(norm: nn.Module | None, x: torch.Tensor) -> _Frozen:
    """The affine map that a norm is at x, (d,), if its scale is held fixed.

    Found by trying rather than by name: at zero a norm gives its bias; at a vector of equal magnitudes, its gain; and
    where adding a constant to the input changes nothing, it centres (LayerNorm; RMSNorm does not). Raises Unavailable
    when the norm at x is not what follows from these.
    """
    size = x.shape[-1]
    if norm is None:
        return _Frozen(torch.ones(size).double(), torch.zeros(size).double(), centred=False)

    def out(value: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return _run(norm, value[None, None])[0, 0].double().cpu()

    tolerance = _tolerance(x)
    signs = torch.ones_like(x)
    signs[1::2] = -1
    bias = out(torch.zeros_like(x))
    slope = torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) * PROBE_SIZE
    flat, lifted = out(slope), out(slope + PROBE_SIZE)
    centred = bool((flat - lifted).norm() <= 10 * tolerance * (flat - bias).norm())
    probe = (signs * PROBE_SIZE).double().cpu()
    probe = probe - probe.mean() if centred else probe
    gain = (out(signs * PROBE_SIZE) - bias) / probe * probe.pow(2).mean().sqrt()
    here = x.double().cpu()
    here = (here - here.mean() if centred else here) * gain
    actual = out(x) - bias
    scale = (actual @ here) / (here @ here) if bool(here.any()) else torch.tensor(0.0).double()
    if not (actual - scale * here).norm() <= tolerance * actual.norm():
        raise Unavailable(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, so its scale can't be held fixed."
        )
    return _Frozen(gain * scale, bias, centred)


def _run(module: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """A module's forward without its hooks: an edit that is on would change what is read here."""
    assert module is not None
    place = next((p.device for p in module.parameters() if p.device.type != "meta"), x.device)
    found: torch.Tensor = module.forward(x.to(place))
    return found


def _tolerance(x: torch.Tensor) -> float:
    return max(TOLERANCE.get(x.dtype, TOLERANCE[torch.bfloat16]), 1e-6)  # a trace's logits are float32 at best


def token_id(tokenizer: PreTrainedTokenizerBase, size: int, token: str | int) -> int:
    """The id of a single token given by text or id. Raises BadInput with how a text of several splits."""
    if checks.as_whole(token) is not None:
        return checks.index("token", token, size, of="this vocabulary has", negative=False)
    if not isinstance(token, str):
        raise BadInput(f"A token is given by its text or its id, and {token!r} is neither.")
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) != 1:
        pieces = " + ".join(repr(piece) for piece in token_strings(tokenizer, ids)) or "nothing"
        spaced = tokenizer(f" {token}", add_special_tokens=False).input_ids if ids and not token.startswith(" ") else []
        hint = f"; with a space before it, {' ' + token!r} is one" if len(spaced) == 1 else ""
        raise BadInput(f"{token!r} is {len(ids)} tokens, {pieces}{hint}; give a single token, or its id.")
    return int(ids[0])
