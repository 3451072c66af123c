"""How much memory a computation takes, counted exactly."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that come into being inside it and are still alive; `peak` is the most at one time.

    It sees what operators return. Buffers inside an operator stay unseen, which is why torch's own fused attention is
    not measured with it: it would look better than it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self.now: int = 0
        self.peak: int = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        held = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), held)
        return out

    def _count(self, storage: torch.UntypedStorage, held: set[int]) -> None:
        key = storage._cdata
        if key in held or key in self._alive:  # a view, or written in place
            return
        self._alive.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def peak_bytes(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> int:
    """The most bytes of tensors alive at one time while function runs, its inputs not counted, its output counted."""
    live = LiveBytes()
    with torch.no_grad(), live:
        function(*inputs)
    return live.peak
