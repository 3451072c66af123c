"""A text written by a lab, and what lenses read in it meanwhile, as the view's columns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from labkit.checks import as_whole, series
from labkit.circuits.lens_live import Pass, WritingLab, follow, held_by, prompt_ids
from labkit.views.lens_view.cells import Cell, Column

if TYPE_CHECKING:
    from labkit.circuits.jacobian_lens import JacobianLens
    from labkit.circuits.lens_reading import Kind
    from labkit.trace.edits import Edit

__all__ = ["WritingLab", "writer"]

Take = Callable[[Sequence[Column]], None]
Write = Callable[[str, Take, threading.Event], str]


def writer(
    lab: WritingLab,
    kinds: Sequence[str],
    fitted: JacobianLens | None,
    *,
    k: int,
    edits: Sequence[Edit] = (),
    layers: Sequence[int] | None = None,
    chat: bool | None = None,
    template: Mapping[str, object] | None = None,
    **settings: object,
) -> tuple[Write, list[int]]:
    """What writes on a prompt and hands out columns, and the layers it reads at. settings: of lab.generate; edits: in force while
    it writes, and read with what they change; layers: which are read, None for all.

    Raises as `lk.lens` does for a kind that is not there for this lab.
    """
    if layers is not None:  # the last one stands for the model's own prediction
        one = as_whole(layers)
        given = [one] if one is not None else series("layers", layers, "a layer, or a list of layers")
        layers = cast("list[int]", [*given, len(lab.anatomy.layers)])  # each is checked below
    lenses = {kind: held_by(lab, cast("Kind", kind), fitted if kind != "logit" else None, layers) for kind in kinds}
    read_at = sorted({layer for held in lenses.values() for layer in held.layers})

    def write(prompt: str, take: Take, stop: threading.Event) -> str:
        ids = prompt_ids(lab, prompt, chat, template, settings)
        columns: list[Column] = []
        memo: dict[int, str] = {}

        def read(one: Pass) -> None:
            tokens = [*one.made.prompt_tokens, *one.made.tokens]
            for at in range(len(one.states[read_at[-1]])):
                if stop.is_set() and at:
                    return
                found = one.cells(lab, lenses, at, k, memo)
                cells = {
                    key: Cell(tuple(t.token for t in cell.top), tuple(t.probability for t in cell.top), cell.kl)
                    for key, cell in found.items()
                }
                columns.append(Column(tokens[one.first + at], cells, one.first + at >= len(ids)))
                take(columns)

        with lab.edit(*edits):
            run = follow(lab, ids, read_at, read, stop_event=stop, **settings)
        done = f"{len(run.ids)} tokens written"
        if run.ids and sum(column.written for column in columns) == len(run.ids) - 1:
            done += "; the model did not read the last"
        return f"stopped after {done}" if stop.is_set() else done

    return write, read_at
