"""Recurrent layers: where a state is carried from token to token, seen and changed on its way.

transformers' modeling files call their recurrences as functions of the file (`mamba_selective_scan`, `mamba2_chunk_scan`, ...),
which may be a kernel or run over whole chunks of tokens and hand out the last state alone. While a layer is listened to, such
a name stands for a function that goes through the tokens one by one, by the recurrence as its paper writes it, and shows the
state after each. Where nothing is changed, the output is still that of the function itself, to the bit.

Nothing here is a table of architectures: a layer has a state where it calls one of these functions, once, and where the
recurrence gives what the function gives on a few tokens; the anatomy tries that.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ChunkScan",
    "GatedDelta",
    "Listener",
    "Recurrence",
    "SelectiveScan",
    "Steps",
    "Wkv",
    "compared",
    "functions_of",
    "is_visited",
    "listening",
    "steps_of",
]

Function = Callable[..., object]
Given = Mapping[str, object]  # the arguments of a call, by name
Visit = Callable[[int, int, Tensor], "Tensor | None"]  # token, of how many, state (batch, ...); another state, or None


class Steps(Protocol):
    """One call of a recurrence, token by token. `tokens`: how many.  `start`: the state before them, (batch, ...)."""

    tokens: int
    start: Tensor

    def after(self, state: Tensor, token: int) -> Tensor:
        """The state after a token."""
        ...

    def read(self, before: Tensor, after: Tensor, token: int) -> Tensor:
        """What comes out at a token."""
        ...

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        """What the function returns, given the tokens' outputs and the last state."""
        ...


def _tensor(given: Given, name: str) -> Tensor:
    return cast(Tensor, given[name])


def _optional(given: Given, name: str) -> Tensor | None:
    return cast("Tensor | None", given.get(name))


def _time_steps(given: Given, bias: str, shape: tuple[int, ...]) -> Tensor:
    """The time steps, after bias and softplus."""
    dt = _tensor(given, "dt")
    if (shift := _optional(given, bias)) is not None:
        dt = dt + shift.to(dt.dtype).reshape(shape)
    return F.softplus(dt) if given.get("dt_softplus") or given.get("delta_softplus") else dt


class SelectiveScan:
    """Mamba's, all tokens (Gu and Dao 2023): h = exp(dt A) h + dt B x, y = C h + D x. State (batch, d_inner, d_state)."""

    def __init__(self, given: Given) -> None:
        self.given, self.x, self.A = given, _tensor(given, "hidden_states"), _tensor(given, "A")
        self.dt = _time_steps(given, "delta_bias", (-1, 1))
        self.B, self.C = (_tensor(given, name).transpose(1, 2) for name in ("B", "C"))
        batch, d_inner, self.tokens = self.x.shape
        self.start = self.x.new_zeros(batch, d_inner, self.A.shape[-1])

    def after(self, state: Tensor, token: int) -> Tensor:
        dt = self.dt[:, :, token, None]
        write = dt * self.B[:, None, token].float() * self.x[:, :, token, None].float()
        return torch.exp(self.A[None] * dt) * state + write

    def read(self, _before: Tensor, after: Tensor, token: int) -> Tensor:
        return torch.matmul(after.to(self.x.dtype), self.C[:, token, :, None])[:, :, 0]

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        y = torch.stack(list(outputs), -1)
        if (D := _optional(self.given, "D")) is not None:
            y = y + self.x * D[None, :, None]
        if (gate := _optional(self.given, "z")) is not None:
            y = y * F.silu(gate)
        return (y, state) if self.given.get("return_last_state") else y


class _SelectiveStep:
    """Mamba's, one token; the state it is given is written over."""

    tokens = 1

    def __init__(self, given: Given) -> None:
        self.given, self.x = given, _tensor(given, "hidden_states")
        self.dt = _time_steps(given, "dt_bias", (-1,)).float()[..., None]
        self.start = _tensor(given, "state").clone()

    def after(self, state: Tensor, _token: int) -> Tensor:
        write = self.dt * _tensor(self.given, "B").float()[:, None] * self.x.float()[..., None]
        return state.float() * torch.exp(self.dt * _tensor(self.given, "A").float()) + write

    def read(self, _before: Tensor, after: Tensor, _token: int) -> Tensor:
        C = _tensor(self.given, "C")
        return torch.matmul(after.to(C.dtype), C.unsqueeze(-1)).squeeze(-1)

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        return _one_token(self.given, outputs[0], self.x, state)


def _one_token(given: Given, y: Tensor, x: Tensor, state: Tensor) -> Tensor:
    old = _tensor(given, "state")
    with torch.no_grad():
        old.copy_(state.to(old.dtype))
    if (D := _optional(given, "D")) is not None:
        y = y + x * D
    if (gate := _optional(given, "z")) is not None:
        y = y * F.silu(gate)
    return y.to(x.dtype)


class ChunkScan:
    """Mamba-2's, all tokens (Dao and Gu 2024): one decay a head. State (batch, heads, d_head, d_state)."""

    def __init__(self, given: Given) -> None:
        self.given, self.x = given, _tensor(given, "hidden_states").float()
        low, high = cast("tuple[float, float]", given.get("dt_limit") or (0.0, float("inf")))
        self.dt = _time_steps(given, "dt_bias", (-1,)).clamp(low, high).float()
        batch, self.tokens, heads, d_head = self.x.shape
        self.B, self.C = (
            part.float().repeat_interleave(heads // part.shape[2], 2)
            for part in (_tensor(given, "B"), _tensor(given, "C"))
        )
        self.decay = torch.exp(_tensor(given, "A").float() * self.dt)[..., None, None]
        before = _optional(given, "initial_states")
        self.start = self.x.new_zeros(batch, heads, d_head, self.B.shape[-1]) if before is None else before.to(self.x)

    def after(self, state: Tensor, token: int) -> Tensor:
        write = (self.dt[:, token, :, None] * self.x[:, token])[..., None] * self.B[:, token, :, None]
        return self.decay[:, token] * state + write

    def read(self, _before: Tensor, after: Tensor, token: int) -> Tensor:
        return torch.matmul(after, self.C[:, token, :, :, None])[..., 0]

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        y = torch.stack(list(outputs), 1)
        if (D := _optional(self.given, "D")) is not None:
            y = y + D[..., None] * self.x
        return (y, state) if self.given.get("return_final_states") else y


class _HeadStep:
    """Mamba-2's, one token; the state it is given is written over."""

    tokens = 1

    def __init__(self, given: Given) -> None:
        self.given, self.x = given, _tensor(given, "hidden_states")
        self.dt = _time_steps(given, "dt_bias", tuple(_tensor(given, "dt").shape[1:]))[..., None]
        self.start = _tensor(given, "state").clone()
        batch, heads, _ = self.x.shape
        self.B, self.C = (
            part.reshape(batch, part.shape[1], 1, -1)
            .expand(-1, -1, heads // part.shape[1], -1)
            .reshape(batch, heads, -1)
            for part in (_tensor(given, "B"), _tensor(given, "C"))
        )

    def after(self, state: Tensor, _token: int) -> Tensor:
        decay = torch.exp(self.dt.float() * _tensor(self.given, "A").float())
        return state * decay + self.dt * self.B[:, :, None] * self.x[..., None]

    def read(self, _before: Tensor, after: Tensor, _token: int) -> Tensor:
        return torch.matmul(after.to(self.C.dtype), self.C[..., None])[..., 0]

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        return _one_token(self.given, outputs[0], self.x, state)


class GatedDelta:
    """The gated delta rule (Yang et al. 2024, arXiv 2412.06464): what is stored at a key is corrected, not added to.

    State (batch, heads, d_key, d_value): S = g S + k (beta (v - kᵀ g S))ᵀ, y = qᵀ S.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        query, key, value = (_tensor(given, name) for name in ("query", "key", "value"))
        self.dtype = query.dtype
        each = value.shape[2] // key.shape[2]
        query, key = (part.repeat_interleave(each, 2) for part in (query, key))
        query, key, self.value = (part.transpose(1, 2).float() for part in (query, key, value))
        if given.get("use_qk_l2norm_in_kernel"):
            query, key = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (query, key))
        self.query, self.key = query * query.shape[-1] ** -0.5, key
        self.beta, self.decay = (_tensor(given, name).transpose(1, 2).float() for name in ("beta", "g"))
        batch, heads, self.tokens, d_key = key.shape
        before = _optional(given, "initial_state")
        self.start = key.new_zeros(batch, heads, d_key, value.shape[-1]) if before is None else before.to(key).clone()

    def after(self, state: Tensor, token: int) -> Tensor:
        state = state * self.decay[:, :, token].exp()[..., None, None]
        key = self.key[:, :, token, :, None]
        wrong = self.value[:, :, token] - (state * key).sum(-2)
        return state + key * (wrong * self.beta[:, :, token, None])[..., None, :]

    def read(self, _before: Tensor, after: Tensor, token: int) -> Tensor:
        read: Tensor = (after * self.query[:, :, token, :, None]).sum(-2)
        return read

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        return torch.stack(list(outputs), 1).to(self.dtype), state if self.given.get("output_final_state") else None


class Wkv:
    """RWKV v4's (Peng et al. 2023): two sums, weighted by exp(key). State (batch, d, 3), as transformers keeps it.

    The three: the sum of values, the sum of weights, and the exponent both are to be multiplied with. What comes out at a
    token is read from the state before it and the token itself, so a change of a state shows from the next token on.
    """

    def __init__(self, given: Given) -> None:
        self.given, self.key, self.value = given, _tensor(given, "key"), _tensor(given, "value")
        self.decay, self.first = -torch.exp(_tensor(given, "time_decay")), _tensor(given, "time_first")
        batch, self.tokens, d = self.key.shape
        before = cast("Sequence[Tensor] | None", given.get("state"))
        if before is None:
            zeros = self.key.new_zeros(batch, d, dtype=torch.float32)
            before = (zeros, zeros, zeros - 1e38)
        self.start = torch.stack(list(before), -1)

    def after(self, state: Tensor, token: int) -> Tensor:
        values, weights, exponent = state.unbind(-1)
        key = self.key[:, token].float()
        top = torch.maximum(exponent + self.decay, key)
        old, new = torch.exp(exponent + self.decay - top), torch.exp(key - top)
        return torch.stack([old * values + new * self.value[:, token], old * weights + new, top], -1)

    def read(self, before: Tensor, _after: Tensor, token: int) -> Tensor:
        values, weights, exponent = before.unbind(-1)
        key = self.key[:, token].float()
        top = torch.maximum(exponent, key + self.first)
        old, new = torch.exp(exponent - top), torch.exp(key + self.first - top)
        return (old * values + new * self.value[:, token]) / (old * weights + new)

    def returned(self, outputs: Sequence[Tensor], state: Tensor) -> object:
        wanted = self.given.get("return_state") or self.given.get("state") is not None
        return torch.stack(list(outputs), 1).to(self.key.dtype), list(state.unbind(-1)) if wanted else None


FUNCTIONS: Mapping[str, Callable[[Given], Steps]] = {
    "mamba_selective_scan": SelectiveScan,
    "mamba_selective_state_update": _SelectiveStep,
    "mamba2_chunk_scan": ChunkScan,
    "mamba2_selective_state_update": _HeadStep,
    "torch_chunk_gated_delta_rule": GatedDelta,
    "torch_recurrent_gated_delta_rule": GatedDelta,
    "rwkv_linear_attention": Wkv,
}


@dataclass(frozen=True)
class Recurrence:
    """That of a layer. module: the one that calls it.  function: its name.  shape: of the state of one text."""

    module: nn.Module
    function: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the state of one text."""
        return torch.Size(self.shape).numel()


def steps_of(name: str, function: Function, args: Sequence[object], keywords: Mapping[str, object]) -> Steps:
    """A call of one of these functions, token by token. Raises TypeError where it is called with what is not known."""
    bound = inspect.signature(function).bind(*args, **keywords).arguments
    more = bound.pop("kwargs", {})
    if unknown := [key for key, value in more.items() if value is not None and key in ("seq_idx", "cu_seqlens")]:
        raise TypeError(f"packed texts ({unknown[0]})")
    return FUNCTIONS[name](bound)


def stepped(steps: Steps, visits: Sequence[Visit]) -> tuple[object, bool]:
    """(what the function returns, whether a visit changed a state). Each visit is shown each state and may return another."""
    state, outputs, changed = steps.start, [], False
    for token in range(steps.tokens):
        before, state = state, steps.after(state, token)
        for visit in visits:
            new = visit(token, steps.tokens, state)
            if new is not None:
                state, changed = new, True
        outputs.append(steps.read(before, state, token))
    return steps.returned(outputs, state), changed


def compared(steps: Steps, returned: object) -> float:
    """How far the recurrence is from what its function returned: the norm of the difference by that of the output."""
    own, _ = stepped(steps, ())
    one, other = (each[0] if isinstance(each, tuple | list) else each for each in (own, returned))
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return float("inf")
    if not bool(other.isfinite().all()):
        return 0.0  # a broken weight, of which a trace says so itself
    return float((one.float() - other.float()).norm() / (other.float().norm() + 1e-30))


# standing in the functions' place -------------------------------------------------------------------------------------

Look = Callable[
    [nn.Module, str, "Steps | None", object], None
]  # who called what; None where it can't be followed; its output


class Listener(NamedTuple):
    """visit: is shown each state, and may return another.  look: is shown each call when it is over."""

    visit: Visit | None = None
    look: Look | None = None


_lock = threading.Lock()
_listeners: dict[int, list[Listener]] = {}  # by id of a module, in the order they came
_replaced: dict[tuple[str, str], tuple[Function, int]] = {}  # (file, name): the function itself, how many listen


def functions_of(module: nn.Module) -> list[str]:
    """The names of the recurrences in the file of a module's class."""
    file = sys.modules.get(type(module).__module__)
    return [name for name in FUNCTIONS if callable(getattr(file, name, None))]


@contextlib.contextmanager
def listening(modules: Iterable[nn.Module], listener: Listener) -> Iterator[None]:
    """While inside, a listener hears each call of a recurrence that these modules make themselves, in whatever thread.

    Calls of other modules go to the function as if nothing were there. All listeners of a module share one walk along the tokens,
    in the order they came, so that the later ones see what the earlier ones changed.
    """
    with contextlib.ExitStack() as stack:
        for module in dict.fromkeys(modules):
            if not functions_of(module):
                continue
            _listeners.setdefault(id(module), []).append(listener)
            stack.callback(_deaf, module, listener)
            for name in functions_of(module):
                _replace(type(module).__module__, name)
                stack.callback(_restore, type(module).__module__, name)
        yield


def is_visited(module: nn.Module) -> bool:
    """Whether states of a module are shown to something that may change them, as an edit does."""
    return any(each.visit is not None for each in _listeners.get(id(module), ()))


def _deaf(module: nn.Module, listener: Listener) -> None:
    _listeners[id(module)].remove(listener)
    if not _listeners[id(module)]:
        del _listeners[id(module)]


def _replace(file: str, name: str) -> None:
    with _lock:
        function, count = _replaced.get((file, name), (getattr(sys.modules[file], name), 0))
        if count == 0:
            setattr(sys.modules[file], name, _standing_for(name, function))
        _replaced[file, name] = (function, count + 1)


def _restore(file: str, name: str) -> None:
    with _lock:
        function, count = _replaced.pop((file, name))
        if count > 1:
            _replaced[file, name] = (function, count - 1)
        else:
            setattr(sys.modules[file], name, function)


def _standing_for(name: str, function: Function) -> Function:
    @functools.wraps(function)
    def call(*args: object, **keywords: object) -> object:
        # a recurrence is called from a module's own forward, which is how it is told whose it is: hooks around the module would
        # not be told of an interrupt, and take the next call for its own
        caller = sys._getframe(1).f_locals.get("self")
        listeners = _listeners.get(id(caller), []) if isinstance(caller, nn.Module) else []
        if not listeners or not isinstance(caller, nn.Module):
            return function(*args, **keywords)
        visits = [each.visit for each in listeners if each.visit is not None]
        looks = [each.look for each in listeners if each.look is not None]
        try:
            steps: Steps | None = steps_of(name, function, args, keywords)
        except (TypeError, KeyError, RuntimeError, ValueError, IndexError):
            if visits:
                raise
            steps = None  # a call of another form than is known, which who looks will say
        output, changed = stepped(steps, visits) if steps is not None and visits else (None, False)
        if not changed:
            output = function(*args, **keywords)
        for look in looks:
            look(caller, name, steps, output)
        return output

    return call
