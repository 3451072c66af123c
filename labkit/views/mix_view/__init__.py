"""The mix view: a slider for the bytes, and which matrix gets how many bits for them, beside uniform bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import traitlets

from labkit.errors import BadInput
from labkit.models.memory import human_bytes
from labkit.quantization.intervals import with_interval
from labkit.views.base import View, module, style
from labkit.views.drawing.page import MARGIN, Page
from labkit.views.drawing.scene import DEEP, MUTED, PALE, Box, Picture, Words, mixed, readable_on
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job
from labkit.views.kit.plots import missing
from labkit.views.kit.traits import Proposal

if TYPE_CHECKING:
    import pandas as pd

    from labkit.quantization import Mix
    from labkit.trace.lab_like import BuiltLab

ENDS = -1  # the row of embedding and head


def mix(found: Mix[BuiltLab]) -> MixView:
    """Move a slider and see the best mix of bits for so many bytes, solved anew while it moves.

    found: of `lk.quantization.mix`. Drawn are the bits of each matrix, the predicted KL divergence of every budget beside that
        of uniform bits, and what was measured on other texts where `found` has it.
    In an exported file the slider goes through the budgets of `found.curve`. Raises BadInput for anything else.
    """
    if not all(hasattr(found, name) for name in ("solve", "curve", "uniform", "options")):
        raise BadInput("There is nothing to draw; give what lk.quantization.mix returned.")
    return MixView(found)


class MixView(View):
    """A mix of bits for `budget` bytes. Set `budget`, and `wait()` until the mix for it is there; `mix` is that mix."""

    _title = "A mix of bits: which matrix gets how many"
    _esm = module("mix_view/mix.js")
    _css = style("mix_view/mix.css")

    budget = traitlets.Int(0).tag(sync=True)
    """Bytes of the whole model."""
    ends: traitlets.List[int] = traitlets.List().tag(sync=True)
    """The budgets at the slider's two ends."""
    options = traitlets.Dict().tag(sync=True)
    """What each matrix may have; see `_options`."""
    shown = traitlets.Dict().tag(sync=True)
    """The mix: budget, size, predicted, bits, chosen (a format's place for each matrix)."""
    curve = traitlets.Dict().tag(sync=True)
    """budgets, sizes, predicted and bits of the mixes that the slider of a file goes through."""
    chosen = traitlets.Bytes(b"").tag(sync=True)
    """(budgets of the curve, matrices) uint8, places in the formats."""
    uniform: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    measured: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, found: Mix[BuiltLab]) -> None:
        self._found = self._mix = found
        self._solving: Job[int, Mix[BuiltLab]] = Job(
            self,
            lambda budget, _run: found.solve(budget),
            lambda _budget, solved: self._show(solved),
            status="status",
            failed="The mix can't be solved:",
        )
        self._names = _by_size(found)
        super().__init__()
        self.ends = [found.smallest_bytes, found.largest_bytes]
        self.budget = min(max(found.budget_bytes, self.ends[0]), self.ends[1])
        self.options = self._options()
        along = [found.solve(int(budget)) for budget in found.curve["budget_bytes"]]
        self.curve = {
            "budgets": [each.budget_bytes for each in along],
            "sizes": [each.size_bytes for each in along],
            "predicted": [each.predicted_kl for each in along],
            "bits": [_bits(each) for each in along],
        }
        self.chosen = np.array([self._places(each) for each in along], np.uint8).tobytes()
        self.uniform = _records(found.uniform)
        self.measured = [] if found.measured is None else _records(found.measured)
        self._show(found)
        self._solving.clear()
        self.observe(lambda change: self._solving.ask(change["new"]), names="budget")

    @property
    def mix(self) -> Mix[BuiltLab]:
        """The mix on show, as `lk.quantization.mix` gives it."""
        with self._lock:
            return self._mix

    @traitlets.validate("budget")
    def _valid_budget(self, proposal: Proposal) -> int:
        if not self.ends[0] <= proposal["value"] <= self.ends[1]:
            raise Refused(
                f"budget={proposal['value']:,} is out of reach; give {self.ends[0]:,} to {self.ends[1]:,} bytes."
            )
        return int(proposal["value"])

    def _show(self, mix: Mix[BuiltLab]) -> str:
        self._mix = mix
        self.shown = {
            "budget": mix.budget_bytes,
            "size": mix.size_bytes,
            "predicted": mix.predicted_kl,
            "bits": _bits(mix),
            "chosen": self._places(mix),
        }
        return ""

    def _places(self, mix: Mix[BuiltLab]) -> list[int]:
        return [self._names.index(name) for name in mix.table["format"]]

    def _options(self) -> dict[str, object]:
        """rows (a layer each, "ends" last), columns: titles of the table.  cells: for each matrix its row and column, and what
        it takes and costs in each format: [bits a weight, bytes, KL], None where it can't have it.  formats: smallest first.
        """
        table, options = self._found.table, self._found.options
        layers = sorted({int(layer) for layer in table["layer"].dropna()})
        rows = [*layers, *([ENDS] if table["layer"].isna().any() else [])]
        columns = list(dict.fromkeys(table["matrix"]))
        known = {(row["name"], row["format"]): row for row in options.to_dict("records")}
        cells = []
        for row in table.to_dict("records"):
            have = [known.get((row["name"], name)) for name in self._names]
            cells.append(
                {
                    "row": rows.index(_layer(row["layer"])),
                    "column": columns.index(row["matrix"]),
                    "in": [each and [each["bits_per_weight"], each["bytes"], each["kl"]] for each in have],
                }
            )
        return {
            "model": self._found.model,
            "rows": ["ends" if layer == ENDS else str(layer) for layer in rows],
            "columns": columns,
            "formats": self._names,
            "cells": cells,
        }

    def _describe(self) -> str:
        return f"{human_bytes(self.mix.size_bytes)} of {human_bytes(self.ends[1])}"

    def _table(self) -> pd.DataFrame:
        """The mix on show: a row for each matrix."""
        return self.mix.table

    def _sentence(self) -> str:
        mix = self.mix
        return (
            f"{mix.model} in {mix.size_bytes:,} bytes of {mix.budget_bytes:,}: {_bits(mix):.2f} bits a weight where it is "
            f"quantized, KL of {mix.predicted_kl:.3g} nats a token predicted"
        )

    def _uniform_rows(self) -> list[list[str]]:
        return [
            [
                str(row["format"]),
                human_bytes(int(row["size_bytes"])),
                f"{row['predicted_kl']:.3g}",
                f"{row['mix_kl']:.3g}",
            ]
            for row in self._found.uniform.to_dict("records")
        ]

    def _measured_rows(self) -> list[list[str]]:
        if self._found.measured is None:
            return []
        return [
            [
                str(row["what"]),
                human_bytes(int(row["size_bytes"])),
                with_interval(row["kl"], row["kl_low"], row["kl_high"]),
            ]
            for row in self._found.measured.to_dict("records")
        ]

    def _static_text(self) -> str:
        uniform = [f"uniform {row[0]}, {row[1]}: {row[2]} predicted, the mix {row[3]}" for row in self._uniform_rows()]
        return "\n".join([self._sentence(), *uniform, *(", ".join(row) for row in self._measured_rows())])

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title).note(self._sentence())
        page.paragraph("Bits a weight, layers downward, matrices across", bold=True, gap=2.0)
        page.drawing(self._cells_drawn())
        page.table(
            self._uniform_rows(),
            ("all in", "bytes", "KL predicted", "the mix of as many bytes"),
            caption="Uniform bits, and the mix at equal bytes",
            right=(1, 2, 3),
        )
        page.table(
            self._measured_rows(), ("what", "bytes", "KL (95 %)"), caption="Measured on other texts", right=(1, 2)
        )
        return page.picture()

    def _cells_drawn(self) -> Picture:
        table = self.mix.table
        layers = sorted({int(layer) for layer in table["layer"].dropna()})
        rows = [*layers, *([ENDS] if table["layer"].isna().any() else [])]
        columns = list(dict.fromkeys(table["matrix"]))
        left, wide, high = MARGIN + 40.0, 84.0, 18.0
        wide = min(wide, (720.0 - left - MARGIN) / len(columns))
        picture = Picture(left + wide * len(columns) + MARGIN, 22 + high * len(rows) + 10)
        bits = self._found.options["bits_per_weight"]
        low, high_bits = float(bits.min()), float(bits.max())
        for i, name in enumerate(columns):
            picture.add(Words(left + wide * i, 14, str(name)[: max(3, int(wide / 6.5))], 11.0, MUTED))
        for i, layer in enumerate(rows):
            name = "ends" if layer == ENDS else str(layer)
            picture.add(Words(left - 8, 22 + high * i + 13, name, 11.0, MUTED, "end"))
        for row in table.to_dict("records"):
            value = row["bits_per_weight"]
            colour = mixed(PALE, DEEP, (value - low) / max(high_bits - low, 1e-9))
            x, y = left + wide * columns.index(row["matrix"]), 22 + high * rows.index(_layer(row["layer"]))
            hover = f"{row['name']}: {row['format']}, {row['bytes']:,} bytes, {row['kl']:.3g} nats alone"
            picture.add(Box(x, y, wide - 1, high - 1, colour, hover=hover))
            picture.add(Words(x + wide / 2, y + 13, f"{value:.1f}", 11.0, readable_on(colour), "middle"))
        return picture


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON takes them: None for what is no number."""
    return [
        {str(name): None if missing(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _layer(value: object) -> int:
    return int(value) if isinstance(value, int | np.integer) else ENDS


def _bits(mix: Mix[BuiltLab]) -> float:
    return float(8 * mix.table["bytes"].sum() / mix.table["weights"].sum())


def _by_size(found: Mix[BuiltLab]) -> list[str]:
    """The formats, from the fewest bits to the most."""
    sizes = found.options.groupby("format")["bits_per_weight"].mean().sort_values()
    return [str(name) for name in sizes.index]
