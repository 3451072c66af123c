"""What rooms need of a Lab. They annotate this, so that the Lab itself can stand above them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.edits import Edit


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
