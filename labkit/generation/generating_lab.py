"""What rooms need of a Lab that writes: the Lab itself stands above them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from labkit.trace.lab_like import LabLike

if TYPE_CHECKING:
    from labkit.generation.record import Generation
    from labkit.trace.record import Trace

__all__ = ["GeneratingLab"]


class GeneratingLab(LabLike, Protocol):
    """A model on the bench that is traced and writes, as the rooms above generation use it."""

    @property
    def last_generation(self) -> Generation | list[Generation] | None:
        """The latest run, a list of prompts' as a list; also one that was interrupted."""
        ...

    def trace(self, what: list[int], /, *, keep: str) -> Trace: ...

    def generate(
        self,
        prompt: list[str] | list[list[int]],
        /,
        *,
        max_new_tokens: int,
        chat: bool | None,
        template: Mapping[str, object] | None = None,
        alternatives: int,
    ) -> list[Generation]: ...

    def stream(self, prompt: str, /, *, max_new_tokens: int, chat: bool | None, alternatives: int) -> Iterator[str]: ...
