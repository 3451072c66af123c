"""The ledger of claims: what articles state, how it is tested here, and what came out."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from labkit.errors import BadInput
from labkit.markup import html_table, shorten, visible
from labkit.teaching.prediction.words import number_text

LEDGER = Path(__file__).with_name("ledger.json")

Outcome = Literal["held", "refuted", "untestable", "open"]
OUTCOMES: dict[str, str] = {
    "held": "it holds",
    "refuted": "it does not hold",
    "untestable": "it can't be tested here",
    "open": "not tested yet",
}


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    stated: what an article says, which need not be true.  how: the way it is tested.  value: the number that came out,
        with its unit; where the statement can't be tested, that of the nearest thing that can; None where there is none.
    comparison: the number beside the statement, in a sentence.
    kind: "exact" (arithmetic), "measured" (deterministic), "time" (holds for one machine, which
        recorded names: times, and what rounding decides).
    tolerance: largest difference from value, relative, that is taken for the same.
    recorded: {"date", "machine"} of a time.
    """

    id: str
    stated: str
    how: str
    outcome: Outcome
    value: float | None
    unit: str
    comparison: str
    notebook: str
    kind: Literal["exact", "measured", "time"]
    tolerance: float = 0.0
    recorded: dict[str, str] | None = None


def ledger() -> dict[str, Claim]:
    """All claims by id, in the ledger's order."""
    rows = json.loads(LEDGER.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Claim)}
    return {row["id"]: Claim(**{name: row[name] for name in row if name in names}) for row in rows}


def find(id: object) -> Claim:
    """The claim of an id. Raises BadInput, with the nearest ids, where there is none."""
    known = ledger()
    if isinstance(id, str) and id in known:
        return known[id]
    near = difflib.get_close_matches(id if isinstance(id, str) else "", known, 3, 0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else "labkit claims lists them."
    raise BadInput(f"There is no claim {shorten(visible(repr(id)), 80)} in the ledger; {remedy}")


@dataclass(frozen=True, repr=False)
class ClaimResult:
    """A statement beside the number computed here and the ledger's. agrees: None where there is nothing to compare.

    value: None for a claim that can't be tested here, of which nothing is computed.
    """

    claim: Claim
    value: float | None
    note: str
    agrees: bool | None

    def _rows(self) -> list[tuple[str, str]]:
        claim = self.claim
        note = f" ({self.note})" if self.note else ""
        computed = "nothing" if self.value is None else number_text(self.value, claim.unit)
        rows = [("stated", claim.stated), ("computed", computed + note)]
        outcome = f"{claim.outcome}: {OUTCOMES[claim.outcome]}"
        if claim.value is not None:
            outcome += f"; {claim.comparison}" if claim.comparison else f"; {number_text(claim.value, claim.unit)}"
        elif claim.comparison:
            outcome += f"; {claim.comparison}"
        if claim.recorded:
            outcome += f" (taken {claim.recorded['date']} on {claim.recorded['machine']})"
        rows.append(("ledger", outcome))
        if claim.kind == "time":
            rows.append(("compared", "no: it holds for the machine and the shape it was taken on"))
        if self.agrees is False:
            expected = number_text(claim.value or 0.0, claim.unit)
            rows.append(("differs", f"the ledger has {expected}: what was computed, or the library, is not the same"))
        return rows

    def __repr__(self) -> str:
        return "\n".join([self.claim.id, *(f"  {label:>8}  {visible(text)}" for label, text in self._rows())])

    def _repr_html_(self) -> str:
        rows = self._rows()
        strong = [i for i, (label, _) in enumerate(rows) if label in ("computed", "differs")]
        return html_table(rows, caption=f"Claim {self.claim.id}", labelled=True, strong=strong)


def claim(id: str, value: object = None, note: str = "") -> ClaimResult:
    """Show a claim, the number computed here, and what the ledger says of it, side by side. Writes nothing.

    value: a number (a tensor or an array of one is taken); left out for a claim that can't be tested here.
    note: what the number is, in a few words.
    Where it differs from the ledger's by more than the claim's tolerance, that is said; a time is not compared.
    Raises BadInput for an id that is not in the ledger, or a value that is no number.
    """
    found = find(id)
    if value is None and found.value is None and found.outcome == "untestable":
        return ClaimResult(found, None, str(note), None)
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, RuntimeError) as error:
            raise BadInput("lk.claim takes a single number; choose the one that belongs to the statement.") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"lk.claim takes a number, not a {type(value).__name__}.")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise BadInput("lk.claim takes a number that fits a float; this one is larger.")
    agrees = None
    if found.value is not None and found.kind != "time":
        agrees = same(value, found.value, found.tolerance)
    return ClaimResult(found, value, str(note), agrees)


def same(value: float, recorded: float, tolerance: float) -> bool:
    """Whether two numbers agree; exact ones up to rounding in the last digits."""
    return math.isclose(value, recorded, rel_tol=max(tolerance, 1e-9), abs_tol=1e-9)


def record(ids: Iterable[str] = ()) -> list[Claim]:
    """Compute claims anew (all that can be, by default) and write numbers, comparisons and times to the ledger.

    What came of it (held, refuted) is a judgement and stays as it is written. Returns the rows written.
    Raises BadInput for an id without a computation.
    """
    import datetime

    from labkit.teaching.claims.compute import COMPUTE

    rows = ledger()
    chosen = list(ids) or list(COMPUTE)
    for id in chosen:
        find(id)
        if id not in COMPUTE:
            raise BadInput(f"Nothing computes the claim {id} yet; there are {', '.join(COMPUTE)}.")
    written = []
    for id in chosen:
        computed = COMPUTE[id]()
        date = datetime.date.today().isoformat()
        taken = {"date": date, "machine": computed.machine} if rows[id].kind == "time" else None
        rows[id] = replace(rows[id], value=computed.value, comparison=computed.comparison, recorded=taken)
        written.append(rows[id])
    text = json.dumps([asdict(row) for row in rows.values()], indent=1, ensure_ascii=False)
    partial = LEDGER.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(LEDGER)
    return written
