"""Lenses read while the text is written: a column of layers for each position, as soon as the pass over it was made.

What is read are the states of the very passes that write: the first one is over the prompt, each later one over the token
written last. Nothing is run twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens
from labkit.circuits.lens_reading import Cell, Held, Kind, LensReading, Top, cells, fitted_for, lens
from labkit.errors import BadInput
from labkit.trace.capture import observing, of_pass
from labkit.trace.edits import patch
from labkit.trace.input import encode, is_many
from labkit.trace.lab_like import TracingLab, check_lab
from labkit.trace.lens import Ending, proved

if TYPE_CHECKING:
    from labkit.generation.record import Generation
    from labkit.trace.record import Trace

_PLAIN = {"speed": "plain", "engine": "transformers"}
_ONE_BY_ONE = {**_PLAIN, "speculation": None, "on_token": None, "show": False}


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
    kl: {layer: nats from the model's own prediction, KL(own || layer's)}.
    """

    position: int
    token: str
    written: str
    written_id: int
    layers: Mapping[int, list[Top]]
    kl: Mapping[int, float]


@dataclass(frozen=True)
class Pass:
    """A pass that was just made, of which a token came: the positions it went over, and their states.

    made: the Generation so far, that token included.  first: the position of the first state.  states: (n, d_model) by layer,
    the last residual among them; n is the prompt's length at first, and then 1.  ending: the way to the logits.
    prompt: at first the prompt's Trace, with "residual" alone; later None.
    """

    made: Generation
    first: int
    states: Mapping[int, torch.Tensor]
    ending: Ending
    prompt: Trace | None

    def cells(
        self, lab: WritingLab, lenses: Mapping[str, Held], at: int, k: int, memo: dict[int, str]
    ) -> dict[tuple[str, int], Cell]:
        """{(lens, layer): its cell} at a place of the states; -1 is the latest."""
        return cells(lab, self.ending, lenses, {layer: x[at] for layer, x in self.states.items()}, k, memo)


def held_by(
    lab: WritingLab, kind: Kind, fitted: JacobianLens | None, layers: int | Sequence[int] | None = None
) -> Held:
    """A lens for a lab's texts, with the layers it is read at: None for all. Raises as `lk.lens` does."""
    own = fitted_for(lab, kind, fitted)
    last = len(lab.anatomy.layers)
    readable = tuple(range(last + 1)) if own is None else tuple(own.readable)
    if layers is None:
        return Held(own, readable)
    one = checks.as_whole(layers)
    given = [one] if one is not None else checks.series("layers", layers, "a layer, or a list of layers")
    wanted = sorted({checks.index("layer", layer, last + 1, of="the lens reads") for layer in given})
    if not wanted:
        raise BadInput(f"layers is empty; choose from {checks.some(readable)}.")
    for layer in wanted:
        if own is not None:
            own.jacobian(layer)  # which refuses where it has none
    return Held(own, tuple(wanted))


def follow(
    lab: WritingLab,
    ids: list[int],
    layers: Sequence[int],
    on_pass: Callable[[Pass], None],
    *,
    stop_event: threading.Event | None,
    **settings: object,
) -> Generation:
    """Generate after a prompt's ids, and hand out each pass's states. layers: whose, besides the last residual's.

    settings: of `lab.generate`. Edits that are on are seen; nothing is left on the model, whatever happens.
    """
    last = len(lab.anatomy.layers)
    wanted = sorted({*layers, last})
    ending: list[Ending] = []
    logits: list[torch.Tensor] = []

    def see(values: torch.Tensor) -> torch.Tensor:
        if not ending:
            logits[:] = [values[-1:].detach().float().clone()]
        return values

    watching = lab.edit(patch("logits", see))
    with lab.turn(), watching, observing(lab.model, lab.anatomy, ("residual",)) as captured:

        def read(made: Generation) -> None:
            residuals = captured.layered["residual"]
            begins = not ending
            if begins:
                ending.append(proved(lab, residuals[last][0, -1:], logits[0]))
            count = len(ids) if begins else 1
            states = {layer: residuals[layer][0, -count:] for layer in wanted}
            prompt = of_pass(lab.tokenizer, lab.anatomy, ids, captured, lab.name) if begins else None
            on_pass(Pass(made, len(ids) + len(made.ids) - 1 - count, states, ending[0], prompt))

        return lab.generate(ids, on_token=read, stop_event=stop_event, **{**settings, **_PLAIN})


def prompt_ids(
    lab: WritingLab,
    prompt: object,
    chat: bool | None,
    template: Mapping[str, object] | None,
    settings: Mapping[str, object],
) -> list[int]:
    """The ids of a prompt to be followed. Raises BadInput for several, and for settings under which tokens don't come singly."""
    if refused := [name for name, plain in _ONE_BY_ONE.items() if settings.get(name, plain) != plain]:
        raise BadInput(f"A lens reads each token as it is written by the plain loop; leave {refused[0]} away.")
    if is_many(prompt):
        raise BadInput("A lens follows one text; give a single prompt.")
    return list(encode(lab.tokenizer, prompt, chat=chat, template=template).ids)


def generate_with_lens(
    lab: WritingLab,
    prompt: object,
    on_column: Callable[[LensColumn], None],
    *,
    kind: Kind = "jacobian",
    lens: JacobianLens | None = None,
    layers: int | Sequence[int] | None = None,
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
    Returns (the Generation, the `LensReading` of the prompt alone, for its other positions; its trace holds "residual" and no
    logits, since it is of the pass that began to write). The whole text's reading is
    `lk.lens(lab, lab.trace([*made.prompt_ids, *made.ids], keep=("residual", "logits")))`.
    Costs, for each token, as many rows of the unembedding as there are layers: fewer layers are read as much faster.
    Raises as `lk.lens` and `lab.generate` do.
    """
    check_lab(lab)
    if not callable(on_column):
        raise BadInput(f"on_column is to be a function of a LensColumn, and a {type(on_column).__name__} is none.")
    ids = prompt_ids(lab, prompt, chat, template, settings)
    held = held_by(lab, kind, lens, layers)
    checks.whole("k", k, 1, lab.model.config.get_text_config().vocab_size)
    readings: list[LensReading] = []
    memo: dict[int, str] = {}

    def read(one: Pass) -> None:
        if one.prompt is not None:
            readings.append(LensReading(lab, one.prompt, kind, held.fitted, one.ending))
        made = one.made
        before = made.tokens[-2] if len(made.tokens) > 1 else made.prompt_tokens[-1]
        found = {layer: cell for (_, layer), cell in one.cells(lab, {kind: held}, -1, k, memo).items()}
        place = len(made.prompt_ids) + len(made.ids) - 2
        tops = {layer: cell.top for layer, cell in found.items()}
        far = {layer: cell.kl for layer, cell in found.items()}
        on_column(LensColumn(place, before, made.tokens[-1], made.ids[-1], tops, far))

    made = follow(lab, ids, held.layers, read, stop_event=stop_event, **settings)
    return made, readings[0] if readings else _reading(lab, ids, kind, lens)


def _reading(lab: WritingLab, ids: list[int], kind: Kind, fitted: JacobianLens | None) -> LensReading:
    """Where nothing was written."""
    return lens(lab, lab.trace(ids, keep=("residual", "logits")), kind, lens=fitted)
