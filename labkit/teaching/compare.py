"""Is an answer equal to what was expected, and if not, how is it different, in plain words."""

from __future__ import annotations

import math

import numpy as np
import torch

from labkit.markup import shorten, visible

_PRINTED = 36  # numbers: what is larger is described by its shape
_TEXT = 300


def difference(expected: object, got: object, *, tolerance: float, names: tuple[str, ...] = ()) -> str | None:
    """None when got equals expected, else what is wrong with it, in a few words.

    Numbers and tensors are equal when no entry differs by more than tolerance times the larger of 1 and the expected
    number; NumPy arrays and nested lists are taken for tensors.
    """
    if isinstance(expected, tuple):
        return _tuple_difference(expected, got, tolerance, names)
    if isinstance(expected, torch.Tensor) and expected.dim():
        return _tensor_difference(expected, got, tolerance)
    return _number_difference(expected, got, tolerance)


def show(value: object) -> str:
    """A value as it can be shown in a message: small tensors whole, large ones by their shape."""
    if isinstance(value, np.ndarray):
        kind = "a NumPy array"
        if value.size > _PRINTED or value.dtype == object:
            return f"{kind} of shape {value.shape}, {value.dtype}"
        return shorten(visible(f"{np.array2string(value, precision=4, suppress_small=True)}"), _TEXT)
    if isinstance(value, torch.Tensor):
        if value.numel() > _PRINTED or value.numel() == 0 or value.device.type == "meta":
            return f"a tensor of shape {tuple(value.shape)}, {_dtype(value)}"
        with _PlainPrinting():
            text = str(value.detach())
        return shorten(text.removeprefix("tensor(").removesuffix(")").replace("\n       ", "\n"), _TEXT)
    if isinstance(value, tuple) and value and any(isinstance(v, torch.Tensor | np.ndarray) for v in value):
        return "\n".join(show(v) for v in value[:6])
    try:
        text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    except Exception:  # a __repr__ of the learner's own
        text = f"a {type(value).__name__}"
    return shorten(visible(text), _TEXT)


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "float" if dtype.is_floating_point else "complex" if dtype.is_complex else "int"


def _what(value: object) -> str:
    if value is None:
        return "nothing (None): is a `return` missing?"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    article = "an" if type(value).__name__[:1].lower() in "aeiou" else "a"
    return visible(f"{article} {type(value).__name__}")


def _as_tensor(value: object) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray | np.generic | list | tuple | int | float | bool):
        try:
            return torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return None
    return None


def _tuple_difference(
    expected: tuple[object, ...], got: object, tolerance: float, names: tuple[str, ...]
) -> str | None:
    wanted = ", ".join(names) if names else f"{len(expected)} things"
    if (
        isinstance(got, torch.Tensor | np.ndarray)
        and got.ndim == 1
        and not any(isinstance(e, torch.Tensor) and e.dim() for e in expected)
    ):
        got = tuple(got.tolist())
    if not isinstance(got, tuple | list):
        return f"{len(expected)} things are wanted ({wanted}), it returned {_what(got)}"
    if len(got) != len(expected):
        return f"{len(expected)} things are wanted ({wanted}), it returned {len(got)}"
    for i, (e, g) in enumerate(zip(expected, got, strict=True)):
        if (problem := difference(e, g, tolerance=tolerance)) is not None:
            return f"in {names[i] if names else f'number {i + 1}'}: {problem}"
    return None


def _tensor_difference(expected: torch.Tensor, got: object, tolerance: float) -> str | None:
    actual = _as_tensor(got)
    if actual is None or isinstance(got, int | float | bool):
        return f"a tensor of shape {tuple(expected.shape)} is wanted, it returned {_what(got)}"
    if actual.device.type == "meta" or actual.layout != torch.strided or actual.is_quantized:
        return "a plain tensor with numbers in it is wanted"
    if actual.shape != expected.shape:
        turned = expected.dim() == 2 and actual.shape == expected.shape[::-1]
        return (
            f"shape {tuple(actual.shape)} where {tuple(expected.shape)} is wanted"
            f"{' (is it transposed?)' if turned else ''}"
        )
    if _kind(actual.dtype) != _kind(expected.dtype):
        return f"it is of {_dtype(actual)} where {_dtype(expected)} is wanted"
    a, e = actual.cpu(), expected.cpu()
    if e.dtype == torch.bool:
        wrong = a != e
        return f"{_count(wrong)} differ, the first at {_first(wrong)}" if wrong.any() else None
    a, e = a.double(), e.double()
    if (nan := a.isnan() & ~e.isnan()).any():
        return f"NaN in {_count(nan)}, the first at {_first(nan)}"
    if (infinite := a.isinf() & ~e.isinf()).any():
        return f"infinity in {_count(infinite)}, the first at {_first(infinite)}"
    gap = torch.where(a == e, torch.zeros_like(a), (a - e).abs())
    wrong = ~(gap <= tolerance * e.abs().clamp(min=1.0)) & ~(a.isnan() & e.isnan())
    wrong |= e.isinf() & (a != e)  # beside infinity no gap is too large
    if not wrong.any():
        return None
    at = _first(wrong)
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return f"{_count(wrong)} differ, the first at {at}: {e[index].item():.6g} expected, {a[index].item():.6g} there"


def _count(mask: torch.Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()} places"


def _first(mask: torch.Tensor) -> str:
    return "[" + ", ".join(str(int(i)) for i in mask.nonzero()[0]) + "]"


def _number_difference(expected: object, got: object, tolerance: float) -> str | None:
    kinds = {bool: "True or False", int: "a whole number"}
    wanted = kinds.get(type(expected), "a number")
    actual = got
    if isinstance(actual, torch.Tensor | np.ndarray | np.generic):
        shape = tuple(actual.shape)
        if math.prod(shape) != 1 or shape not in ((), (1,)):
            return f"{wanted} is wanted, it returned {_what(got)}"
        try:
            actual = actual.item()
        except (RuntimeError, NotImplementedError):
            return f"{wanted} is wanted, it returned {_what(got)}"
    if isinstance(actual, bool) is not isinstance(expected, bool) or not isinstance(actual, int | float):
        return f"{wanted} is wanted, it returned {_what(got)}"
    if isinstance(expected, bool):
        return None if actual is expected else f"{expected} expected, {actual} there"
    exact = expected.item() if isinstance(expected, torch.Tensor) else expected
    assert isinstance(exact, int | float), "a reference returns numbers and tensors"
    if isinstance(exact, int):
        return None if actual == exact else f"{exact:,} expected, {_number(actual)} there"
    number = _to_float(actual)
    if number == exact or abs(number - exact) <= tolerance * max(1.0, abs(exact)):
        return None
    if math.isnan(number) and math.isnan(exact):  # as in tensors: a usual mistake may be known by it
        return None
    return f"{exact:.6g} expected, {_number(actual)} there"


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**30 else "a number of more than 30 digits"
    return f"{value:,.6f}".rstrip("0").rstrip(".") if 1e-4 <= abs(value) < 1e15 else f"{value:.6g}"


class _PlainPrinting:
    """Four digits and no scientific notation while a tensor is printed; the learner's print options come back."""

    def __enter__(self) -> None:
        from torch import _tensor_str

        self._kept = dict(vars(_tensor_str.PRINT_OPTS))
        torch.set_printoptions(precision=4, sci_mode=False, linewidth=100, threshold=1000, edgeitems=3)

    def __exit__(self, *details: object) -> None:
        from torch import _tensor_str

        for name, value in self._kept.items():
            setattr(_tensor_str.PRINT_OPTS, name, value)
