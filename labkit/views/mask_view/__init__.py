"""The mask view: training samples token by token, and which tokens carry loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import traitlets

from labkit import checks
from labkit.errors import BadInput
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.page import Page, Token
from labkit.views.kit.errors import Refused
from labkit.views.kit.running_text import split
from labkit.views.kit.traits import Change, Proposal

if TYPE_CHECKING:
    import pandas as pd

    from labkit.lora.masks import Mask
    from labkit.views.drawing.scene import Picture

DRAWN_TOKENS = 3_000  # of one row
HELD_ROWS, HELD_TOKENS = 60, 8_000  # that an exported file can go through
BARS = 160  # of the overview; with more rows each stands for several
SAID_PROBLEMS = 3
LEARNT_FILL, ENDING_FILL = "#d9ebf6", "#0072b2"  # in pictures
NO_LOSS, LEARNT, ENDING = 0, 1, 2  # of a token


def mask(found: Mask, *, sample: int = 0) -> MaskView:
    """Look at training samples token by token: what carries loss, what is only read, and the token that ends an answer.

    found: of `lk.lora.mask`. Samples that are packed into one row stand together, each under a head of its own.
    sample: which one is shown first, from 0.

    An exported file goes through the first rows alone (60, or 8,000 tokens). Raises BadInput for anything else.
    """
    wanted = ("samples", "rows", "problems", "ending", "packing")
    if not all(hasattr(found, name) for name in wanted) or not found.samples:
        raise BadInput("There is nothing to draw; give what lk.lora.mask returned.")
    sample = checks.index("sample", sample, len(found.samples))
    rows = found.rows if found.packing else [(i,) for i in range(len(found.samples))]
    return MaskView(found, [list(row) for row in rows], next(i for i, row in enumerate(rows) if sample in row))


class MaskView(View):
    """One sample, or one packed row of them. Set `row` to see another, from 0."""

    _title = "The loss mask: what of the training data is learnt"
    _esm = module("mask_view/mask.js")
    _css = style("mask_view/mask.css")

    row = traitlets.Int(0).tag(sync=True)
    """Which row is shown; without packing a row is a sample."""
    facts = traitlets.Dict().tag(sync=True)
    """Of all the data; see `_facts`."""
    bars = traitlets.Bytes(b"").tag(sync=True)
    """(bars, 3) float32: the first row that a bar of the overview stands for, its tokens and those with loss, on average."""
    shown = traitlets.Dict().tag(sync=True)
    """The row on show; see `_row`."""
    held: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """In an exported file, the rows that it can go through."""

    def __init__(self, found: Mask, rows: list[list[int]], row: int) -> None:
        self._mask, self._rows = found, rows
        super().__init__()
        self.facts = self._facts()
        self.bars = self._bars().astype("<f4").tobytes()
        self.row = row
        self.shown = self._row(row)
        self.observe(self._changed, names="row")

    @traitlets.validate("row")
    def _valid_row(self, proposal: Proposal) -> int:
        if not 0 <= proposal["value"] < len(self._rows):
            raise Refused(f"There is no row {proposal['value']!r}; there are {len(self._rows):,}, from 0.")
        return int(proposal["value"])

    def _changed(self, change: Change) -> None:
        with self.hold_sync():
            self.shown = self._row(change["new"])

    # what is shown ----------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, object]:
        """model, kind, samples, rows (None without packing), room (tokens of a packed row), tokens, trained, ending, frame (what
        stands around a prompt), problems, more (problems that are not told), duplicates."""
        found = self._mask
        return {
            "model": shorten(clean(found.model), 80),
            "kind": found.kind,
            "samples": len(found.samples),
            "rows": len(self._rows) if found.packing else None,
            "room": found.row_tokens,
            "tokens": found.tokens,
            "trained": found.trained,
            "ending": [shorten(clean(name), 40) for name in found.ending],
            "frame": None if found.frame is None else [shorten(clean(part), 400) for part in found.frame],
            "problems": [shorten(clean(problem), 400) for problem in found.problems[:SAID_PROBLEMS]],
            "more": max(0, len(found.problems) - SAID_PROBLEMS),
            "duplicates": found.duplicates,
        }

    def _bars(self) -> np.ndarray:
        counts = np.array(
            [
                [sum(len(self._mask.samples[i].ids) for i in row), sum(self._mask.samples[i].trained for i in row)]
                for row in self._rows
            ],
            np.float64,
        )
        parts = np.array_split(np.arange(len(counts)), min(BARS, len(counts)))
        return np.array([[part[0], *counts[part].mean(0)] for part in parts])

    def _row(self, row: int) -> dict[str, object]:
        """row, samples ([{sample, kind, tokens, trained, ends, pieces, ids, looks}]), more (tokens that are not drawn).

        looks: of each token 0 (no loss), 1 (loss) or 2 (loss, and the model stops there).
        """
        room, more, samples = DRAWN_TOKENS, 0, []
        for i in self._rows[row]:
            each = self._mask.samples[i]
            drawn = min(len(each.ids), max(0, room))
            room -= drawn
            more += len(each.ids) - drawn
            samples.append(
                {
                    "sample": i,
                    "kind": each.sample.kind,
                    "tokens": len(each.ids),
                    "trained": each.trained,
                    "ends": each.ends,
                    "pieces": split(each.tokens[:drawn]).sent(),
                    "ids": list(each.ids[:drawn]),
                    "looks": self._looks(i)[:drawn],
                }
            )
        return {"row": row, "samples": samples, "more": more}

    def _looks(self, sample: int) -> list[int]:
        each, ending = self._mask.samples[sample], set(self._mask.ending)
        return [
            (ENDING if token in ending else LEARNT) if learns else NO_LOSS
            for token, learns in zip(each.tokens, each.learns, strict=True)
        ]

    # what is written --------------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, object]:
        held: list[dict[str, object]] = []
        room = HELD_TOKENS
        for row in dict.fromkeys([self.row, *range(min(HELD_ROWS, len(self._rows)))]):
            made = self._row(row)
            room -= sum(min(len(self._mask.samples[i].ids), DRAWN_TOKENS) for i in self._rows[row])
            if held and room < 0:
                break
            held.append(made)
        return {**super()._export_state(), "held": sorted(held, key=lambda each: int(str(each["row"])))}

    def _describe(self) -> str:
        return f"{self._name()}, {self._mask.trained:,} of {self._mask.tokens:,} tokens carry loss"

    def _name(self) -> str:
        return f"{'row' if self._mask.packing else 'sample'} {self.row:,} of {len(self._rows):,}"

    def _table(self) -> pd.DataFrame:
        """A row for each token of the row on show: the sample it belongs to, its position there, its text, id, whether it
        carries loss and whether it ends an answer."""
        import pandas as pd

        rows = [
            (i, position, token, id_, bool(look), look == ENDING)
            for i in self._rows[self.row]
            for position, (token, id_, look) in enumerate(
                zip(self._mask.samples[i].tokens, self._mask.samples[i].ids, self._looks(i), strict=True)
            )
        ]
        return pd.DataFrame(rows, columns=["sample", "position", "token", "id", "loss", "ends"])

    def _sentences(self) -> list[str]:
        found = self._mask
        share = f" ({found.trained / found.tokens:.0%})" if found.tokens else ""
        said = [
            f"{found.model}: {found.trained:,} of {found.tokens:,} tokens of {len(found.samples):,} samples carry loss{share}"
        ]
        if found.packing:
            said.append(f"packed into {len(self._rows):,} rows of {found.row_tokens:,} tokens; no sample sees another")
        if found.ending:
            said.append(f"an answer ends with {checks.listed(map(repr, found.ending))}")
        said += [f"Not to be trained on: {problem}" for problem in found.problems[:SAID_PROBLEMS]]
        if len(found.problems) > SAID_PROBLEMS:
            said.append(f"and {len(found.problems) - SAID_PROBLEMS:,} problems more")
        return said

    def _static_text(self) -> str:
        marked = [shorten(self._mask.samples[i].marked, 800) for i in self._rows[self.row]]
        return "\n".join([*self._sentences(), f"{self._name()}, what carries loss between ⟦ and ⟧:", *marked])

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        for sentence in self._sentences():
            page.note(visible(sentence))
        for i in self._rows[self.row][:8]:
            each = self._mask.samples[i]
            head = f"sample {i:,}: {each.trained:,} of {len(each.ids):,} tokens carry loss"
            page.paragraph(head, bold=True, gap=0.0)
            page.tokens(
                Token(
                    token, fill=(None, LEARNT_FILL, ENDING_FILL)[look], line=1.6 * bool(look), line_colour=ENDING_FILL
                )
                for token, look in zip(each.tokens, self._looks(i), strict=True)
            )
        if len(self._rows[self.row]) > 8:
            page.note(f"and {len(self._rows[self.row]) - 8} samples more in this row")
        page.key([(LEARNT_FILL, "carries loss: learnt"), (ENDING_FILL, "carries loss: the model learns to stop here")])
        return page.picture()
