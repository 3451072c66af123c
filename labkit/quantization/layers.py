"""Modules whose weights are packed: they compute what they did, with the weights unpacked while they run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import SupportsIndex, cast

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.quantization.grids import Packed

COLUMNS = "column_scale"


def effective(packed: Packed, scale: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values of a packed weight, its columns multiplied by what belongs to them."""
    return packed.unpack(dtype) if scale is None else (packed.unpack() * scale.float()).to(dtype)


class PackedWeight(nn.Module):
    """One weight as it is stored: what its grid keeps, as buffers. Modules that share a weight share one of these.

    packed: what is stored, of the shape (..., outputs, inputs).  dtype: of the values it gives.
    transposed: the module wants (..., inputs, outputs).  scale: what the unpacked columns are multiplied by, or None.
    Moving the model to another device moves the buffers; converting it changes the dtype of what is given, and not the
    precision of what is stored.
    """

    def __init__(
        self, packed: Packed, dtype: torch.dtype, transposed: bool = False, scale: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.format, self.stored_shape, self.dtype, self.transposed = packed.format, packed.shape, dtype, transposed
        for name, tensor in packed.stored.items():
            self.register_buffer(name, tensor)
        self.register_buffer(COLUMNS, scale)

    @property
    def packed(self) -> Packed:
        stored = {name: each for name, each in self._buffers.items() if each is not None and name != COLUMNS}
        return Packed(self.format, self.stored_shape, stored)

    @property
    def shape(self) -> torch.Size:
        """As the module has it."""
        *experts, outputs, inputs = self.stored_shape
        return torch.Size((*experts, inputs, outputs)) if self.transposed else self.stored_shape

    @property
    def column_factors(self) -> torch.Tensor | None:
        """(inputs,), what the unpacked columns are multiplied by; None for nothing."""
        return self._buffers[COLUMNS]

    def unpacked(self) -> torch.Tensor:
        """The values, of the shape and dtype the module computes with."""
        weight = effective(self.packed, self._buffers[COLUMNS], self.dtype)
        return weight.transpose(-1, -2) if self.transposed else weight

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PackedWeight:
        for name, tensor in self._buffers.items():
            if tensor is not None:
                moved = fn(tensor)
                self._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self._device())).dtype
        return self

    def _device(self) -> torch.device:
        return next(tensor.device for tensor in self._buffers.values() if tensor is not None)

    def extra_repr(self) -> str:
        return f"{self.format.name}, {tuple(self.stored_shape)}"


class Unpacked(torch.Tensor):
    """The values of a packed weight, to be read: what is computed from them is a plain tensor, and writing into them is refused,
    since it would change a copy that nothing computes with."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        written = args[0] if args and _writes(func) else named.get("out")
        if isinstance(written, cls):
            raise Unavailable(
                "This weight is packed in few bits: what is written into it would be lost. Merge an adapter "
                "(merge_and_unload) before the model is quantized, or leave it beside the packed weights, where it works."
            )
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **named)
            of = args[0] if args else None
            if isinstance(found, torch.Tensor) and isinstance(of, cls) and _same_memory(found, of):
                return found.as_subclass(cls)
            return found.as_subclass(torch.Tensor) if isinstance(found, cls) else found

    def __deepcopy__(self, memo: dict[int, object]) -> torch.Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(torch.Tensor).clone()

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        with torch._C.DisableTorchFunctionSubclass():
            found: str | tuple[object, ...] = self.as_subclass(torch.Tensor).__reduce_ex__(protocol)
            return found


_NO_WRITING = {"requires_grad_", "retain_grad", "share_memory_", "rename_"}
_IN_PLACE = {f"__{name}__" for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "setitem")}


def _writes(func: Callable[..., object]) -> bool:
    """Whether a function of tensors changes its first argument: `add_`, `+=`, `[...] =`, `.data =`."""
    name = getattr(func, "__name__", "")
    if name == "__set__":
        return getattr(getattr(func, "__self__", None), "__name__", "") == "data"
    return name in _IN_PLACE or (name.endswith("_") and not name.startswith("_") and name not in _NO_WRITING)


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.device.type == "meta" or other.device.type == "meta":
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class PackedModule(nn.Module):
    """What a module becomes when weights of it are packed: its own class, each such parameter a property that unpacks.

    What reads `weight` works as before, and what writes into it is refused. While the module runs, each weight is unpacked
    once.
    """

    packed_parameters: tuple[str, ...] = ()
    base_class: type[nn.Module] = nn.Module

    @property
    def packed(self) -> dict[str, Packed]:
        """What is stored, by the name of the parameter it stands for."""
        return {name: self.packed_weight(name).packed for name in self.packed_parameters}

    @property
    def packed_shapes(self) -> dict[str, torch.Size]:
        """The shapes of the parameters, as the module computes with them."""
        return {name: self.packed_weight(name).shape for name in self.packed_parameters}

    def packed_weight(self, name: str) -> PackedWeight:
        return cast(PackedWeight, self._modules[f"packed_{name}"])

    def forward(self, *args: object, **named: object) -> object:
        with self._unpacked_once():
            return super().forward(*args, **named)

    @contextlib.contextmanager
    def _unpacked_once(self) -> Iterator[None]:
        outermost = "_unpacked" not in vars(self)
        if outermost:
            vars(self)["_unpacked"] = {}
        try:
            yield
        finally:
            if outermost:
                del vars(self)["_unpacked"]

    def _value(self, name: str) -> torch.Tensor:
        kept: dict[str, torch.Tensor] | None = vars(self).get("_unpacked")
        if kept is None:
            return self.packed_weight(name).unpacked().as_subclass(Unpacked)
        if name not in kept:
            kept[name] = self.packed_weight(name).unpacked()
        return kept[name]

    def extra_repr(self) -> str:
        formats = ", ".join(dict.fromkeys(self.packed_weight(name).format.name for name in self.packed_parameters))
        return ", ".join(part for part in (super().extra_repr(), formats) if part)

    def __reduce__(self) -> tuple[object, ...]:
        state = {name: value for name, value in vars(self).items() if name != "_unpacked"}
        return _emptied, (self.base_class, self.packed_parameters), state


def _property(name: str) -> property:
    return property(lambda self: self._value(name), doc="The packed weight's values, unpacked.")


class PackedLinear(PackedModule, nn.Linear):  # type: ignore[misc]  # forward hands its arguments on
    """A linear map whose weight is packed. `weight` gives its values, `packed["weight"]` what is stored."""

    packed_parameters = ("weight",)
    base_class = nn.Linear
    weight = _property("weight")


_CLASSES: dict[tuple[object, tuple[str, ...]], type[PackedModule]] = {(nn.Linear, ("weight",)): PackedLinear}


def packed_class(base: type[nn.Module], parameters: tuple[str, ...]) -> type[PackedModule]:
    """The class, one for each base, that a module of class `base` gets when these parameters of it are packed."""
    if (base, parameters) not in _CLASSES:
        members: dict[str, object] = {name: _property(name) for name in parameters}
        members |= {"packed_parameters": parameters, "base_class": base, "__module__": __name__}
        _CLASSES[base, parameters] = type(f"Packed{base.__name__}", (PackedModule, base), members)
    return _CLASSES[base, parameters]


def _emptied(base: type[nn.Module], parameters: tuple[str, ...]) -> PackedModule:
    """For pickle and copy: a module whose state is still to be given."""
    kind = packed_class(base, parameters)
    return kind.__new__(kind)


def put(module: nn.Module, parameter: str, weight: PackedWeight) -> None:
    """Have a packed weight stand for a parameter of a module, in place."""
    there = module.packed_parameters if isinstance(module, PackedModule) else ()
    base = module.base_class if isinstance(module, PackedModule) else type(module)
    del module._parameters[parameter]
    module._modules[f"packed_{parameter}"] = weight
    module.__class__ = packed_class(base, tuple(sorted({*there, parameter})))
