"""A lens read while the text is written: a column of layers for each new token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.lens_reading import Kind, LensReading, Top, column, lens
from labkit.errors import BadInput
from labkit.trace.capture import observing
from labkit.trace.input import encode, is_many
from labkit.trace.lab_like import TracingLab, check_lab

if TYPE_CHECKING:
    from labkit.generation.record import Generation

_ONE_BY_ONE = {"speed": "plain", "engine": "transformers", "speculation": None, "on_token": None, "show": False}


class WritingLab(TracingLab, Protocol):
    """A lab that is traced and writes one text."""

    def generate(
        self,
        prompt: list[int],
        /,
        *,
        on_token: Callable[[Generation], None],
        stop_event: threading.Event | None,
        **settings: object,
    ) -> Generation: ...


@dataclass(frozen=True)
class LensColumn:
    """What a lens reads at one position, as the next token is written.

    position: of the token that was just read, from 0, the prompt's tokens counted.  token: that token's text.
    written, written_id: the token chosen after it, of which the last layer is the model's own prediction.
    layers: {layer: its k most probable tokens, the most probable first}.
    """

    position: int
    token: str
    written: str
    written_id: int
    layers: Mapping[int, list[Top]]


def generate_with_lens(
    lab: WritingLab,
    prompt: object,
    on_column: Callable[[LensColumn], None],
    *,
    kind: Kind = "jacobian",
    lens: JacobianLens | None = None,
    layers: Sequence[int] | None = None,
    k: int = 5,
    chat: bool | None = None,
    template: Mapping[str, object] | None = None,
    stop_event: threading.Event | None = None,
    **settings: object,
) -> tuple[Generation, LensReading]:
    """Generate as `lab.generate` does, and hand out what a lens reads at every position as soon as it is there.

    prompt: one text, messages or ids.  on_column: called with a `LensColumn` for each new token, in order; the first is of the
        prompt's last position.  kind, lens: as for `lk.lens`.  layers: which; None for all it reads at.  k: tokens of a cell.
    settings: those of `lab.generate`, but for speed, engine, speculation, show and on_token: each token is read by itself.
    Edits that are on are seen. An interrupt, or `stop_event`, ends it after a token; nothing is left on the model.
    Returns (the Generation, the `LensReading` of the prompt alone, for its other positions). The whole text's reading is
    `lk.lens(lab, lab.trace([*made.prompt_ids, *made.ids], keep=("residual", "logits")))`.
    Costs a pass over the prompt, and for each token as many rows of the unembedding as there are layers.
    Raises as `lk.lens` and `lab.generate` do.
    """
    check_lab(lab)
    if not callable(on_column):
        raise BadInput(f"on_column is to be a function of a LensColumn, and a {type(on_column).__name__} is none.")
    if refused := [name for name, plain in _ONE_BY_ONE.items() if settings.get(name, plain) != plain]:
        raise BadInput(f"A lens reads each token as it is written by the plain loop; leave {refused[0]} away.")
    if is_many(prompt):
        raise BadInput("A lens follows one text; give a single prompt.")
    ids = encode(lab.tokenizer, prompt, chat=chat, template=template).ids
    reading = _reading(lab, ids, kind, lens)
    wanted = list(reading.layers) if layers is None else [reading.there(layer) for layer in layers]
    if not wanted:
        raise BadInput(f"layers is empty; choose from {checks.some(reading.layers)}.")
    checks.whole("k", k, 1, int(reading.trace.logits.shape[-1]))
    with lab.turn(), observing(lab.model, lab.anatomy, ("residual",)) as captured:

        def read(made: Generation) -> None:
            states = {layer: captured.layered["residual"][layer][0, -1] for layer in wanted}
            before = made.tokens[-2] if len(made.tokens) > 1 else made.prompt_tokens[-1]
            cells = column(lab, reading.ending, reading.lens, states, k)
            place = len(made.prompt_ids) + len(made.ids) - 2
            on_column(LensColumn(place, before, made.tokens[-1], made.ids[-1], cells))

        made = lab.generate(ids, on_token=read, stop_event=stop_event, **{**settings, **_PLAIN})
    return made, reading


_PLAIN = {"speed": "plain", "engine": "transformers"}


def _reading(lab: WritingLab, ids: list[int], kind: Kind, fitted: JacobianLens | None) -> LensReading:
    return lens(lab, lab.trace(ids, keep=("residual", "logits")), kind, lens=fitted)
