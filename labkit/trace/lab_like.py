"""What rooms need of a Lab. They annotate this, so that the Lab itself can stand above them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, overload

from labkit.errors import BadInput

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.edits import Edit
    from labkit.trace.input import Many, One
    from labkit.trace.record import Trace


def check_lab(lab: object) -> None:
    """Raise BadInput for what is no Lab, such as a model by itself."""
    if not hasattr(lab, "tokenizer") or not hasattr(lab, "turn"):
        raise BadInput(
            f"This takes a Lab, from lk.load() or lk.Lab(model, tokenizer), and a {type(lab).__name__} is none."
        )


class LabLike(Protocol):
    """A model on the bench, as the rooms below the Lab use it."""

    name: str

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def config(self) -> PreTrainedConfig:
        """The text model's configuration."""
        ...

    @property
    def family(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def context(self) -> int | None:
        """The number of positions the model was built for."""
        ...

    @property
    def anatomy(self) -> Anatomy: ...

    def support(self) -> dict[str, str | None]: ...

    def turn(self) -> AbstractContextManager[None]:
        """Keep the model to oneself for a `with`."""
        ...

    def edit(self, *edits: Edit) -> AbstractContextManager[LabLike]: ...


class TracingLab(LabLike, Protocol):
    """A model on the bench that is traced."""

    @overload
    def trace(self, what: One, keep: str | Sequence[str] = ...) -> Trace: ...
    @overload
    def trace(self, what: Many, keep: str | Sequence[str] = ...) -> list[Trace]: ...
    @overload
    def trace(self, what: object, keep: str | Sequence[str] = ...) -> Trace | list[Trace]: ...


class BuiltLab(LabLike, Protocol):
    """A model on the bench of which another can be made, by the same class."""

    licence: str | None
    notes: tuple[str, ...]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        licence: str | None = None,
        notes: Sequence[str] = (),
    ) -> None: ...
