"""A lab's matrices and its text in one setting after another, as a view that changes with its controls asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from labkit.errors import BadInput, Unavailable
from labkit.generation.generating_lab import GeneratingLab
from labkit.quantization import formats
from labkit.quantization.calibration import Activations, activations
from labkit.quantization.grids import Format, GroupSize
from labkit.quantization.inventory import contents
from labkit.quantization.methods import METHODS
from labkit.quantization.quantizing import quantize
from labkit.quantization.reconstruction import Reconstruction, matrix
from labkit.quantization.weights import Matrix, matrices
from labkit.trace.building import is_quantized, refuse_odd_weights
from labkit.trace.lab_like import BuiltLab

GROUPS: tuple[GroupSize, ...] = (16, 32, 64, 128, 256, 512, "channel", "tensor")
_INPUTS_KEPT = 8  # matrices whose calibration inputs are not read again
_PROMPTS_KEPT = 16  # whose unquantized text is not written again


class WritingLab(GeneratingLab, BuiltLab, Protocol):
    """A model on the bench that writes, and of which another can be made."""


@dataclass(frozen=True)
class Setting:
    """How a matrix, or all of them, are quantized: the arguments of `quantize`."""

    format: str = "int4"
    group_size: GroupSize | None = None
    symmetric: bool | None = None
    method: str = "rtn"

    @property
    def is_integer(self) -> bool:
        """Whether there is a choice of symmetric grids and others."""
        return _made(self.format, None, True) is not None

    def fitting(self) -> Setting:
        """Without what the format does not have: no symmetry beside integers, the method's own rule where it has one."""
        symmetric = self.symmetric if self.is_integer else None
        if symmetric is None and self.is_integer:
            symmetric = not METHODS[self.method].asymmetric
        return replace(self, symmetric=symmetric)


@dataclass(frozen=True)
class Text:
    """A continuation as far as it has come. size_bytes: of the whole model that writes it."""

    tokens: tuple[str, ...]
    size_bytes: int
    done: bool


class Trials:
    """What one lab becomes in a setting: a matrix at once, the whole model's text with a word on how far it is.

    calibration: texts, for the methods that need some, and for the error of a matrix's outputs.  tokens: of a text, greedy.
    Raises Unavailable for a model that is quantized already.
    """

    def __init__(
        self, lab: WritingLab, *, calibration: object = None, tokens: int = 40, chat: bool | None = False, seed: int = 0
    ) -> None:
        if is_quantized(lab.model):
            raise Unavailable(
                f"{lab.name} is quantized already; give the lab it was made of, or load it in 16 or 32 bits."
            )
        refuse_odd_weights(lab, "quantized")
        self.lab, self.calibration = lab, calibration
        self._tokens, self._chat, self._seed = tokens, chat, seed
        self.layers: dict[int, dict[str, Matrix]] = {}
        for each in matrices(lab).values():
            if each.layer is not None:
                self.layers.setdefault(each.layer, {})[each.matrix] = each
        if not self.layers:
            raise BadInput(f"{lab.name} has no matrix in its layers that could be quantized.")
        self._inputs: dict[str, Activations] = {}
        self._texts: dict[str, Text] = {}
        self._small: tuple[Setting, WritingLab, int] | None = None
        self._size = contents(lab).size_bytes

    # what goes with what ----------------------------------------------------------------------------------------------

    @property
    def methods(self) -> dict[str, str]:
        """All that can be used here: those that need calibration text only where there is some."""
        return {name: how.title for name, how in METHODS.items() if self.calibration is not None or not how.calibrated}

    def methods_of(self, setting: Setting) -> list[str]:
        """The methods that go with a format, in whichever symmetry."""
        symmetries = (True, False) if setting.is_integer else (None,)
        made = [_made(setting.format, setting.group_size, symmetric) for symmetric in symmetries]
        return [
            name
            for name in self.methods
            if any(each is not None and METHODS[name].refuses(each) is None for each in made)
        ]

    def groups_of(self, setting: Setting, place: Matrix) -> list[GroupSize]:
        """The sizes of groups, besides a format's own, that a format may have and that divide a matrix's rows."""
        found = []
        for size in GROUPS:
            made = _made(setting.format, size, None)
            if made is not None and made.fits(place.shape):
                found.append(size)
        return found

    def own_group(self, setting: Setting, place: Matrix) -> GroupSize | None:
        """What a format takes for this matrix unasked; None where it can't have it."""
        found = formats.fitted(setting.format, place.shape)
        return found.group_size if isinstance(found, Format) else None

    def goes(self, setting: Setting) -> bool:
        """Whether a format can be had by a method in just this symmetry."""
        made = _made(setting.format, setting.group_size, setting.fitting().symmetric)
        return made is not None and METHODS[setting.method].refuses(made) is None

    # what comes of it -------------------------------------------------------------------------------------------------

    def is_read(self, place: Matrix) -> bool:
        """Whether the calibration text has been run as far as this matrix."""
        return place.name in self._inputs

    def matrix(self, place: Matrix, setting: Setting, *, outputs: bool) -> Reconstruction:
        """One matrix. outputs: with the error of its outputs on the calibration text, which runs the model the first time."""
        seen = None
        if self.calibration is not None and (outputs or METHODS[setting.method].calibrated):
            if place.name not in self._inputs:
                self._inputs[place.name] = activations(self.lab, place.name, self.calibration, seed=self._seed)
                while len(self._inputs) > _INPUTS_KEPT:
                    self._inputs.pop(next(iter(self._inputs)))
            seen = self._inputs[place.name]
        setting = setting.fitting()
        return matrix(
            self.lab,
            place.name,
            setting.format,
            method=setting.method,
            group_size=setting.group_size,
            symmetric=setting.symmetric,
            calibration=seen,
            seed=self._seed,
        )

    def original(self, prompt: str, stop: threading.Event) -> Iterator[Text]:
        """The unquantized model's text as it is written; one that was written to its end is kept."""
        if prompt not in self._texts:
            for text in self._written(self.lab, prompt, self._size, stop):
                if text.done:
                    self._texts[prompt] = text
                    while len(self._texts) > _PROMPTS_KEPT:
                        self._texts.pop(next(iter(self._texts)))
                yield text
        else:
            yield self._texts[prompt]

    def quantized(
        self, setting: Setting, prompt: str, stop: threading.Event, say: Callable[[int, int], None]
    ) -> Iterator[Text]:
        """The text of the whole model in a setting, as it is written. say: told how many matrices are done, and of how many.

        The latest model is kept, so that another prompt does not have it made again.
        """
        setting = setting.fitting()
        if self._small is None or self._small[0] != setting:
            self._small = None  # or there would be two of them in memory

            def told(done: int, total: int) -> None:
                if stop.is_set():
                    raise _Stopped
                say(done, total)

            how = METHODS[setting.method]
            try:
                small = quantize(
                    self.lab,
                    setting.format,
                    method=setting.method,
                    group_size=setting.group_size,
                    symmetric=setting.symmetric,
                    calibration=self.calibration if how.calibrated else None,
                    seed=self._seed,
                    progress=told,
                )
            except _Stopped:
                return
            self._small = (setting, small, contents(small).size_bytes)
        _, small, size = self._small
        yield from self._written(small, prompt, size, stop)

    def _written(self, lab: WritingLab, prompt: str, size: int, stop: threading.Event) -> Iterator[Text]:
        pieces: list[str] = []
        for piece in lab.stream(prompt, chat=self._chat, max_new_tokens=self._tokens, alternatives=1):
            if stop.is_set():
                return
            pieces.append(piece)
            yield Text(tuple(pieces), size, False)
        made = lab.last_generation
        if made is not None and not isinstance(made, list):
            yield Text(tuple(made.tokens), size, True)


class _Stopped(Exception):
    """Nobody waits for the model any more."""


def _made(format: str, group_size: GroupSize | None, symmetric: bool | None) -> Format | None:
    """The format, or None where it has no such group or symmetry."""
    try:
        return formats.of(format, group_size=group_size, symmetric=symmetric)
    except BadInput:
        return None
