"""A text written by a lab, and what lenses read in it meanwhile.

The states of the new tokens are taken where they pass, by an edit that changes nothing, so that a token costs a step of
generating and the unembedding of its column, and nothing is run twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from labkit.circuits.lens_reading import carried, fitted_for, tops
from labkit.models.tokens import token_strings
from labkit.trace.edits import Edit, patch
from labkit.trace.lab_like import TracingLab
from labkit.trace.lens import ending_of
from labkit.views.lens_view.cells import Cell, Column

if TYPE_CHECKING:
    from labkit.generation.record import Generation

Take = Callable[[Sequence[Column]], None]
Write = Callable[[str, Take, threading.Event], str]


class WritingLab(TracingLab, Protocol):
    """A lab that writes, too."""

    def generate(self, prompt: Any, **settings: Any) -> Generation: ...


def writer(
    lab: WritingLab, kinds: Sequence[str], fitted: Any, *, k: int, edits: Sequence[Edit] = (), **settings: Any
) -> tuple[Write, list[int]]:
    """What writes on a prompt and hands out columns, and the layers it reads at. settings: of lab.generate; edits: in force while
    it writes, and read with what they change.

    Raises as `lk.lens` does for a kind that is not there for this lab.
    """
    lenses = {kind: fitted_for(lab, kind, fitted if kind != "logit" else None) for kind in kinds}  # type: ignore[arg-type]
    depth = len(lab.anatomy.layers)
    readable = {kind: list(range(depth + 1)) if one is None else list(one.readable) for kind, one in lenses.items()}
    layers = sorted({layer for each in readable.values() for layer in each})

    def write(prompt: str, take: Take, stop: threading.Event) -> str:
        first = lab.generate(prompt, **{**settings, "max_new_tokens": 1})
        ids = list(first.prompt_ids)
        ending = ending_of(lab, lab.trace(ids, keep=("residual", "logits")), ("residual", "logits"))
        seen: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        columns: list[Column] = []

        def column(position: int, token: str, written: bool) -> Column:
            cells: dict[tuple[str, int], Cell] = {}
            for kind, one in lenses.items():
                states = [carried(one, seen[layer][position], layer) for layer in readable[kind]]
                logits = ending.logits(torch.stack(states)).float()
                logs = logits.log_softmax(-1)
                kl = (logs[-1].exp() * (logs[-1] - logs)).sum(-1).clamp_min(0)
                for layer, top, far in zip(readable[kind], tops(lab, logs.exp(), k), kl.tolist(), strict=True):
                    cells[kind, layer] = Cell(tuple(t.token for t in top), tuple(t.probability for t in top), far)
            return Column(token, cells, written)

        def keep(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
            def see(states: torch.Tensor) -> torch.Tensor:
                seen[layer].extend(states.detach().clone().unbind(0))
                return states

            return see

        def follow(so_far: Generation) -> None:
            every = [*ids, *so_far.ids]
            there = min(len(seen[layer]) for layer in layers)  # the newest token has not been read yet
            names = token_strings(lab.tokenizer, every)
            for position in range(len(columns), min(there, len(every))):
                columns.append(column(position, names[position], position >= len(ids)))
            take(columns)

        with lab.edit(*edits, *(patch(f"residual[{layer}]", keep(layer)) for layer in layers)):
            run = lab.generate(prompt, **settings, on_token=follow, stop_event=stop)
        follow(run)
        done = f"{len(run.ids)} tokens written"
        return f"stopped after {done}" if stop.is_set() else done

    return write, layers
