"""What text a quantized lab's codes or formats were chosen by, kept with it as hashes; measuring on it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadInput
from labkit.quantization.inventory import put_record, record_of
from labkit.trace import running
from labkit.trace.documents import Documents
from labkit.trace.overlaps import Seen

if TYPE_CHECKING:
    from labkit.trace.input import Ids
    from labkit.trace.lab_like import LabLike


def note_seen(lab: LabLike, seen: Seen, what: str) -> None:
    """Keep with a lab that `quantize` made the hashes of texts. what: how they were used, such as "was calibrated on"."""
    record = record_of(lab)
    assert record is not None
    put_record(running.language_model(lab.model), replace(record, seen=(*record.seen, (what, seen))))


def refuse_seen(labs: Iterable[LabLike], documents: Documents) -> None:
    """Raise BadInput where documents to measure on overlap with text that one of these labs was made by."""
    for lab in labs:
        refuse_seen_texts(
            lab,
            documents.ids,
            documents.names(range(len(documents.ids))),
            "documents to measure on",
            "give others, such as lk.quantization.texts(8) beside calibration=lk.quantization.texts(8, skip=30)",
        )


def refuse_seen_texts(lab: LabLike, texts: Sequence[Ids], names: Sequence[str], what: str, remedy: str) -> None:
    """The same for texts given as token ids. names: of each.  what: they are, in the plural.  remedy: ends the sentence."""
    record = record_of(lab)
    for use, seen in () if record is None else record.seen:
        if both := [names[number] for number in seen.among(lab, texts)]:
            raise BadInput(
                f"{len(both)} of the {what} ({checks.some(both)}) overlap with the text that {lab.name} {use}, which would "
                f"flatter it; {remedy}."
            )
