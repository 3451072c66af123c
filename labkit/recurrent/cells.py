"""What stands in attention's place, from scratch: cells whose memory of a text is a state of fixed size.

Each cell maps (batch, T, d_model) to the same, and each in two forms that give the same numbers: `forward` computes all tokens
at once, `step` one token from the state before it. A cell made by `Cell.of(module)` has the weights of transformers' own layer
and gives its outputs; `start(batch)` is the state before the first token.
"""

from __future__ import annotations

import math
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import checks
from labkit.errors import BadInput

__all__ = ["MLSTM", "Attention", "Hybrid", "Mamba", "Mamba2", "RWKVTime", "scan", "scan_in_turn", "state_bytes"]

State = tuple[Tensor, ...]
Cell = TypeVar("Cell", bound=nn.Module)


def scan_in_turn(decay: Tensor, write: Tensor) -> Tensor:
    """h_t = decay_t · h_(t-1) + write_t, from h = 0: all states, token after token. decay, write: (batch, T, ...)."""
    state, states = torch.zeros_like(write[:, 0]), []
    for a, b in zip(decay.unbind(1), write.unbind(1), strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states, 1)


def scan(decay: Tensor, write: Tensor) -> Tensor:
    """The same states in log2 T rounds over all tokens at once, which is what hardware likes (Hillis and Steele 1986).

    Two steps in a row are one: h -> a2 (a1 h + b1) + b2 has decay a1 a2 and write a2 b1 + b2. So after a round that joins each
    token's step with that of the token 1, 2, 4, ... before, each has twice as many steps in it.
    """
    reach, length = 1, write.shape[1]
    while reach < length:
        before = F.pad(write[:, :-reach], (0, 0) * (write.ndim - 2) + (reach, 0))
        write = write + decay * before
        kept = F.pad(decay[:, :-reach], (0, 0) * (decay.ndim - 2) + (reach, 0))
        decay, reach = decay * kept, 2 * reach
    return write


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel's mixture of its last few inputs. x: (batch, T, d); weight: (d, 1, width)."""
    width = weight.shape[-1]
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    return F.conv1d(padded, weight, bias, groups=weight.shape[0]).transpose(1, 2)


def _convolved_step(x: Tensor, last: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The newest input alone. x: (batch, d); last: (batch, d, width - 1), the inputs before it. Returns (output, last)."""
    window = torch.cat([last, x[..., None]], -1)
    mixed = (window * weight[:, 0]).sum(-1)
    return mixed if bias is None else mixed + bias, window[..., 1:]


class Mamba(nn.Module):
    """A selective state space (S6): Gu and Dao 2023, arXiv 2312.00752, algorithm 2.

    Each of d_inner channels has d_state numbers of memory, h. A token says by delta how far time moves for each channel, by
    B what is written and by C what is read:

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t        y_t = C_t · h_t + D x_t

    Parameters are named as in transformers' MambaMixer. State: (last inputs of the convolution, h (batch, d_inner, d_state)).
    """

    def __init__(self, d_model: int, *, d_state: int = 16, width: int = 4, expand: int = 2) -> None:
        _check_sizes(d_model, d_state=d_state, width=width, expand=expand)
        super().__init__()
        d_inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, width, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))  # S4D-real
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        _first_steps(self.dt_proj.bias)

    @classmethod
    def of(cls, mixer: nn.Module) -> Self:
        """With the weights of transformers' MambaMixer (without biases on its large matrices, as released models are)."""
        weights = _weights(mixer, "MambaMixer")
        (d_inner, d_state), d_model = weights["A_log"].shape, weights["out_proj.weight"].shape[0]
        width = weights["conv1d.weight"].shape[-1]
        cell = cls(d_model, d_state=d_state, width=width, expand=d_inner // d_model)
        rank = weights["dt_proj.weight"].shape[1]
        cell.x_proj = nn.Linear(d_inner, rank + 2 * d_state, bias=False)
        cell.dt_proj = nn.Linear(rank, d_inner)
        return _filled(cell, weights)

    def chosen(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the tokens choose: decay and write (..., d_inner, d_state), read (..., d_state). x: (..., d_inner)."""
        rank, d_state = self.dt_proj.in_features, self.A_log.shape[1]
        time, write, read = self.x_proj(x).split([rank, d_state, d_state], -1)
        delta = F.softplus(self.dt_proj(time))[..., None]
        return torch.exp(-delta * self.A_log.exp()), delta * write[..., None, :] * x[..., None], read

    def forward(self, hidden: Tensor, *, in_turn: bool = False) -> Tensor:
        x, gate = self.in_proj(hidden).chunk(2, -1)
        x = F.silu(_convolved(x, self.conv1d.weight, self.conv1d.bias))
        decay, write, read = self.chosen(x)
        states = scan_in_turn(decay, write) if in_turn else scan(decay, write)
        y = (states @ read[..., None])[..., 0] + self.D * x
        return _linear(self.out_proj, y * F.silu(gate))

    def start(self, batch: int = 1) -> State:
        d_inner, d_state = self.A_log.shape
        zeros = self.A_log.new_zeros
        return zeros(batch, d_inner, self.conv1d.kernel_size[0] - 1), zeros(batch, d_inner, d_state)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        last, h = state
        x, gate = self.in_proj(hidden).chunk(2, -1)
        x, last = _convolved_step(x, last, self.conv1d.weight, self.conv1d.bias)
        x = F.silu(x)
        decay, write, read = self.chosen(x)
        h = decay * h + write
        y = (h @ read[..., None])[..., 0] + self.D * x
        return _linear(self.out_proj, y * F.silu(gate)), (last, h)


class Mamba2(nn.Module):
    """A state space whose heads have one decay each (SSD): Dao and Gu 2024, arXiv 2405.21060.

    A head's state is a matrix (d_head, d_state): h_t = a_t h_(t-1) + (delta_t x_t) B_tᵀ, read as h_t C_t. With one decay a
    head all tokens are computed as attention is: the weight of token s for t is (C_t · B_s) a_(s+1) ... a_t, without softmax.

    Parameters are named as in transformers' Mamba2Mixer. State: (last inputs of the convolution, h).
    """

    def __init__(
        self, d_model: int, *, heads: int = 4, d_state: int = 16, groups: int = 1, width: int = 4, expand: int = 2
    ) -> None:
        _check_sizes(expand * d_model, heads, d_state=d_state, groups=groups, width=width)
        super().__init__()
        d_inner = expand * d_model
        mixed = d_inner + 2 * groups * d_state  # x, B and C all pass the convolution
        self.heads, self.groups, self.d_state, self.eps = heads, groups, d_state, 1e-5
        self.in_proj = nn.Linear(d_model, d_inner + mixed + heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, width, groups=mixed)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.ParameterDict({"weight": nn.Parameter(torch.ones(d_inner))})
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        _first_steps(self.dt_bias)

    @classmethod
    def of(cls, mixer: nn.Module) -> Self:
        """With the weights of transformers' Mamba2Mixer (without biases on its large matrices, as released models are)."""
        weights = _weights(mixer, "Mamba2Mixer")
        d_model, d_inner = weights["out_proj.weight"].shape
        heads, groups = weights["A_log"].shape[0], int(mixer.n_groups)  # type: ignore[arg-type]
        width, mixed = weights["conv1d.weight"].shape[-1], weights["conv1d.weight"].shape[0]
        d_state = (mixed - d_inner) // (2 * groups)
        cell = cls(d_model, heads=heads, d_state=d_state, groups=groups, width=width, expand=d_inner // d_model)
        cell.eps = float(mixer.norm.variance_epsilon)  # type: ignore[union-attr, arg-type]
        return _filled(cell, weights)

    def parts(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(gate, what passes the convolution, delta (..., heads)) of (..., d_model)."""
        d_inner = self.out_proj.in_features
        gate, mixed, time = self.in_proj(hidden).split([d_inner, self.conv1d.in_channels, self.heads], -1)
        return gate, mixed, F.softplus(time + self.dt_bias)

    def by_head(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., heads, d_head), B and C (..., heads, d_state), of what has passed the convolution."""
        d_inner, n = self.out_proj.in_features, self.groups * self.d_state
        x, write, read = F.silu(mixed).split([d_inner, n, n], -1)
        each = self.heads // self.groups  # heads that share their B and C
        write, read = (b.unflatten(-1, (self.groups, -1)).repeat_interleave(each, -2) for b in (write, read))
        return x.unflatten(-1, (self.heads, -1)), write, read

    def weights(self, delta: Tensor, write: Tensor, read: Tensor) -> Tensor:
        """(batch, heads, T, T): how much token t reads of delta_s x_s; 0 for later ones."""
        passed = (-self.A_log.exp() * delta).cumsum(1).transpose(1, 2)  # log of all decays up to a token
        between = passed[..., :, None] - passed[..., None, :]
        later = torch.ones_like(between[0, 0], dtype=torch.bool).triu(1)
        return torch.einsum("bthn,bshn->bhts", read, write) * between.masked_fill(later, -math.inf).exp()

    def forward(self, hidden: Tensor, *, in_turn: bool = False) -> Tensor:
        gate, mixed, delta = self.parts(hidden)
        x, write, read = self.by_head(_convolved(mixed, self.conv1d.weight, self.conv1d.bias))
        given = delta[..., None] * x
        if in_turn:
            decay = (-self.A_log.exp() * delta).exp()[..., None, None]
            states = scan_in_turn(decay, given[..., None] * write[..., None, :])
            y = (states @ read[..., None])[..., 0]
        else:
            y = torch.einsum("bhts,bshp->bthp", self.weights(delta, write, read), given)
        return self._out(y + self.D[:, None] * x, gate)

    def _out(self, y: Tensor, gate: Tensor) -> Tensor:
        y = (y.flatten(-2) * F.silu(gate)).unflatten(-1, (self.groups, -1))
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return _linear(self.out_proj, self.norm["weight"] * y.flatten(-2))

    def start(self, batch: int = 1) -> State:
        zeros, d_head = self.A_log.new_zeros, self.out_proj.in_features // self.heads
        last = zeros(batch, self.conv1d.in_channels, self.conv1d.kernel_size[0] - 1)
        return last, zeros(batch, self.heads, d_head, self.d_state)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        last, h = state
        gate, mixed, delta = self.parts(hidden)
        mixed, last = _convolved_step(mixed, last, self.conv1d.weight, self.conv1d.bias)
        x, write, read = self.by_head(mixed)
        decay = (-self.A_log.exp() * delta).exp()[..., None, None]
        h = decay * h + (delta[..., None] * x)[..., None] * write[..., None, :]
        y = (h @ read[..., None])[..., 0] + self.D[:, None] * x
        return self._out(y, gate), (last, h)


class RWKVTime(nn.Module):
    """Time mixing of RWKV v4: Peng et al. 2023, arXiv 2305.13048, equations 11 to 16.

    Each channel keeps a mean of the values so far, weighted by exp(key), older ones less by exp(-w) a token; the newest has
    a weight of its own, exp(u + key):

        wkv_t = (sum_(s<t) e^(k_s - (t-1-s) w) v_s + e^(u + k_t) v_t) / (the same without v)

    So all tokens at once are a softmax over the tokens before, each channel by itself. Parameters are named as in transformers'
    RwkvSelfAttention (w = exp(time_decay), u = time_first). State: (last input, sum of values, sum of weights, and m: both
    sums are to be multiplied with exp(m), so that none overflows).
    """

    def __init__(self, d_model: int, d_attention: int | None = None) -> None:
        _check_sizes(d_model)
        super().__init__()
        d = d_attention or d_model
        share = torch.arange(d_model) / d_model
        self.time_decay = nn.Parameter(-5 + 8 * (torch.arange(d) / max(d - 1, 1)) ** 0.7)
        self.time_first = nn.Parameter(torch.full((d,), math.log(0.3)))
        self.time_mix_key, self.time_mix_value, self.time_mix_receptance = (
            nn.Parameter(share.clone().reshape(1, 1, -1)) for _ in range(3)
        )
        self.key, self.value, self.receptance = (nn.Linear(d_model, d, bias=False) for _ in range(3))
        self.output = nn.Linear(d, d_model, bias=False)

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """With the weights of transformers' RwkvSelfAttention."""
        weights = _weights(module, "RwkvSelfAttention")
        return _filled(cls(weights["output.weight"].shape[0], weights["output.weight"].shape[1]), weights)

    def asked(self, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(receptance, key, value) of mixtures of an input and the one before it."""
        mixes = (self.time_mix_receptance, self.time_mix_key, self.time_mix_value)
        r, k, v = (now * mix[0, 0] + before * (1 - mix[0, 0]) for mix in mixes)
        return self.receptance(r).sigmoid(), self.key(k), self.value(v)

    def forward(self, hidden: Tensor, *, in_turn: bool = False) -> Tensor:
        if in_turn:
            state, outputs = self.start(len(hidden)), []
            for x in hidden.unbind(1):
                y, state = self.step(x, state)
                outputs.append(y)
            return torch.stack(outputs, 1)
        receptance, key, value = self.asked(hidden, F.pad(hidden[:, :-1], (0, 0, 1, 0)))
        at = torch.arange(hidden.shape[1])
        age = (at[:, None] - at - 1)[..., None]  # of token s, seen from t: 0 for the one before, -1 for itself
        logits = key[:, None] - age * self.time_decay.exp()
        logits = torch.where(age < 0, key[:, None] + self.time_first, logits).masked_fill(age < -1, -math.inf)
        wkv = (logits.softmax(2) * value[:, None]).sum(2)
        return _linear(self.output, receptance * wkv)

    def start(self, batch: int = 1) -> State:
        last = self.key.weight.new_zeros(batch, self.key.in_features)
        sums = self.key.weight.new_zeros(batch, self.key.out_features)
        return last, sums, sums, sums - 1e38

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        last, values, weights, m = state
        receptance, key, value = self.asked(hidden, last)
        top = torch.maximum(m, self.time_first + key)
        old, new = (m - top).exp(), (self.time_first + key - top).exp()
        y = (old * values + new * value) / (old * weights + new)
        top = torch.maximum(m - self.time_decay.exp(), key)
        old, new = (m - self.time_decay.exp() - top).exp(), (key - top).exp()
        return _linear(self.output, receptance * y), (hidden, old * values + new * value, old * weights + new, top)


class MLSTM(nn.Module):
    """The matrix cell of xLSTM: Beck et al. 2024, arXiv 2405.04517, equations 19 to 27; xLSTM 7B has this one alone.

    Each head stores values at keys in a matrix, by an input gate exp(i) and a forget gate sigmoid(f), and a vector n of the keys
    alone to divide by:

        C_t = f_t C_(t-1) + i_t k_t v_tᵀ      n_t = f_t n_(t-1) + i_t k_t      h_t = q_tᵀ C_t / max(|q_tᵀ n_t|, 1)

    Parameters are named as in transformers' xLSTMLayer. State: (C (batch, heads, d_key, d_value), n, m (batch, heads): C and n
    are to be multiplied with exp(m), so that no gate overflows).
    """

    def __init__(self, d_model: int, *, heads: int = 4, d_key: int | None = None, soft_cap: float = 15.0) -> None:
        _check_sizes(d_model, heads)
        super().__init__()
        keys = heads * (d_key or d_model // heads)
        self.heads, self.soft_cap, self.eps, self.norm_eps = heads, soft_cap, 1e-6, 1e-6
        self.q, self.k = (nn.Linear(d_model, keys, bias=False) for _ in range(2))
        self.v, self.ogate_preact, self.out_proj = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.igate_preact, self.fgate_preact = (nn.Linear(d_model, heads) for _ in range(2))
        self.multihead_norm = nn.ParameterDict({"weight": nn.Parameter(torch.ones(d_model))})
        with torch.no_grad():
            self.fgate_preact.bias.copy_(torch.linspace(3, 6, heads))  # begins by keeping

    @classmethod
    def of(cls, layer: nn.Module) -> Self:
        """With the weights of transformers' xLSTMLayer (its matrices apart and without biases, values as wide as the model)."""
        weights, config = _weights(layer, "xLSTMLayer"), layer.config
        heads = weights["igate_preact.bias"].shape[0]
        d_key, d_model = weights["q.weight"].shape[0] // heads, weights["out_proj.weight"].shape[0]
        cell = cls(d_model, heads=heads, d_key=d_key, soft_cap=float(config.gate_soft_cap))  # type: ignore[union-attr, arg-type]
        cell.eps, cell.norm_eps = float(config.eps), float(config.norm_eps)  # type: ignore[union-attr, arg-type]
        return _filled(cell, weights)

    def asked(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """(query, key, value (..., heads, d), log of the input gate, log of the forget gate (..., heads)) of (..., d_model)."""
        query, key, value = (part(hidden).unflatten(-1, (self.heads, -1)) for part in (self.q, self.k, self.v))
        enter, keep = (
            self.soft_cap * torch.tanh(gate(hidden) / self.soft_cap) for gate in (self.igate_preact, self.fgate_preact)
        )
        return query * query.shape[-1] ** -0.5, key, value, enter, F.logsigmoid(keep)

    def forward(self, hidden: Tensor, *, in_turn: bool = False) -> Tensor:
        if in_turn:
            state, outputs = self.start(len(hidden)), []
            for x in hidden.unbind(1):
                y, state = self.step(x, state)
                outputs.append(y)
            return torch.stack(outputs, 1)
        query, key, value, enter, keep = self.asked(hidden)
        kept = keep.cumsum(1).transpose(1, 2)  # log of all forget gates up to a token, (batch, heads, T)
        logs = kept[..., :, None] - kept[..., None, :] + enter.transpose(1, 2)[..., None, :]
        logs = logs.masked_fill(torch.ones_like(logs[0, 0], dtype=torch.bool).triu(1), -math.inf)
        m = torch.maximum(logs.amax(-1), kept)
        weights = torch.einsum("bthd,bshd->bhts", query, key) * (logs - m[..., None]).exp()
        below = torch.maximum(weights.sum(-1).abs(), (-m).exp()) + self.eps
        return self._out(torch.einsum("bhts,bshd->bthd", weights / below[..., None], value), hidden)

    def _out(self, h: Tensor, hidden: Tensor) -> Tensor:
        h = F.layer_norm(h, h.shape[-1:], eps=self.norm_eps).flatten(-2) * self.multihead_norm["weight"]
        return _linear(self.out_proj, self.ogate_preact(hidden).sigmoid() * h)

    def start(self, batch: int = 1) -> State:
        zeros, heads = self.q.weight.new_zeros, self.heads
        d_key, d_value = self.q.out_features // heads, self.v.out_features // heads
        return zeros(batch, heads, d_key, d_value), zeros(batch, heads, d_key), zeros(batch, heads)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        matrix, vector, m = state
        query, key, value, enter, keep = self.asked(hidden)
        top = torch.maximum(keep + m, enter)
        old, new = (keep + m - top).exp()[..., None], (enter - top).exp()[..., None]
        matrix = old[..., None] * matrix + new[..., None] * key[..., :, None] * value[..., None, :]
        vector = old * vector + new * key
        below = torch.maximum((query * vector).sum(-1).abs(), (-top).exp()) + self.eps
        h = (query[..., None, :] @ matrix)[..., 0, :] / below[..., None]
        return self._out(h, hidden), (matrix, vector, top)


class Attention(nn.Module):
    """Causal attention in the same clothes, to compare with: its state are all keys and values so far, and grows.

    width: of a short convolution over its input, as the state spaces have one; 0 for none. State: (last inputs of the
    convolution, keys, values (batch, heads, T, d_head)).
    """

    def __init__(self, d_model: int, *, heads: int = 4, width: int = 0) -> None:
        _check_sizes(d_model, heads)
        super().__init__()
        self.heads, self.width = heads, width
        self.conv1d = nn.Conv1d(d_model, d_model, width, groups=d_model) if width else None
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def _by_head(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(hidden).chunk(3, -1))
        return q, k, v

    def forward(self, hidden: Tensor) -> Tensor:
        if self.conv1d is not None:
            hidden = hidden + F.silu(_convolved(hidden, self.conv1d.weight, self.conv1d.bias))
        q, k, v = self._by_head(hidden)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _linear(self.out_proj, y.transpose(1, 2).flatten(-2))

    def start(self, batch: int = 1) -> State:
        zeros, d_model = self.qkv.weight.new_zeros, self.qkv.in_features
        none = zeros(batch, self.heads, 0, d_model // self.heads)
        return zeros(batch, d_model, max(self.width - 1, 0)), none, none

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        last, keys, values = state
        if self.conv1d is not None:
            mixed, last = _convolved_step(hidden, last, self.conv1d.weight, self.conv1d.bias)
            hidden = hidden + F.silu(mixed)
        q, k, v = self._by_head(hidden[:, None])
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        y = F.scaled_dot_product_attention(q, keys, values)
        return _linear(self.out_proj, y.transpose(1, 2).flatten(-2)[:, 0]), (last, keys, values)


class Hybrid(nn.Module):
    """A state space, then attention, each behind a norm and added to the stream, as Jamba and its kind put them by turns.

    The one carries the gist along at a fixed size, the other looks things up. State: of the first, then of the second.
    """

    def __init__(self, d_model: int, *, heads: int = 4, d_state: int = 16) -> None:
        super().__init__()
        self.space = Mamba2(d_model, heads=heads, d_state=d_state, expand=1)
        self.attention = Attention(d_model, heads=heads)
        self.norms = nn.ModuleList(nn.RMSNorm(d_model) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.space(self.norms[0](hidden))
        return hidden + _linear(self.attention, self.norms[1](hidden))

    def start(self, batch: int = 1) -> State:
        return (*self.space.start(batch), *self.attention.start(batch))

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """One token. hidden: (batch, d_model). Returns (output, the state after it)."""
        y, space = self.space.step(self.norms[0](hidden), state[:2])
        hidden = hidden + y
        y, attention = self.attention.step(self.norms[1](hidden), state[2:])
        return hidden + y, (*space, *attention)


def state_bytes(state: State) -> int:
    """What a state takes."""
    return sum(part.numel() * part.element_size() for part in state)


def _first_steps(bias: Tensor, shortest: float = 1e-3, longest: float = 0.1) -> None:
    """Fill a bias so that softplus of it lies between two time steps, evenly on a logarithmic scale (Gu et al. 2022)."""
    with torch.no_grad():
        delta = torch.exp(torch.rand_like(bias) * math.log(longest / shortest) + math.log(shortest))
        bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # softplus backwards


def _weights(layer: nn.Module, kind: str) -> dict[str, Tensor]:
    """A layer's weights. By its class: others hold weights of the same names and shapes, and normalise what these do not."""
    own = type(layer)
    if kind not in (each.__name__ for each in own.__mro__):
        raise BadInput(f"This cell takes the weights of transformers' {kind}, and {own.__name__} computes otherwise.")
    act = getattr(layer, "activation", "silu")
    low, high = getattr(layer, "time_step_limit", None) or (0.0, math.inf)
    if act not in ("silu", "swish") or low > 0 or high < math.inf:
        raise BadInput(
            f"This {kind} has the activation {act!r} and time steps from {low:g} to {high:g}; the cell has silu and no limit."
        )
    return layer.state_dict()


def _check_sizes(d_model: int, heads: int = 1, **more: int) -> None:
    """Raise BadInput for sizes below one, and a width that heads don't divide."""
    for name, value in {"d_model": d_model, "heads": heads, **more}.items():
        checks.whole(name, value, 1)
    if d_model % heads:
        checks.refuse("heads", heads, f"what divides {d_model}")


def _filled(cell: Cell, weights: dict[str, Tensor]) -> Cell:
    try:
        cell.load_state_dict(weights)
    except RuntimeError as error:  # torch names each tensor over many lines
        raise BadInput(
            f"A {type(cell).__name__} cell has no place for all of this layer's weights, such as biases."
        ) from error
    return cell.to(next(iter(weights.values())).dtype)


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y
