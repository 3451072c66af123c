"""Formats side by side: each with its true bytes and what it costs on text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from labkit import checks
from labkit.errors import BadInput
from labkit.models.texts import texts as shipped_texts
from labkit.quantization.intervals import noise_remark
from labkit.quantization.inventory import contents
from labkit.quantization.quantizing import quantize
from labkit.quantization.text_damage import TOKENS, damage
from labkit.results import Result
from labkit.trace.documents import Documents
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import BuiltLab

Made = TypeVar("Made", bound="BuiltLab")
FORMATS = ("int8", "q8_0", "int6", "q5_0", "nf4", "q4_1", "int4", "mxfp4", "int3", "int2", "ternary")
FROM_DAMAGE = (
    "kl", "kl_low", "kl_high", "kl_999", "top1", "top1_low", "top1_high", "perplexity", "loss_change", "right_rms",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class ByFormat(Result):
    """A row for each format and method; `by_format` tells the columns.

    original_bytes, original_perplexity: of the model as it is.  noise: KL of the original with itself, run otherwise: the
    null.  model: its name.  tokens: on how many it was measured.
    """

    original_bytes: int
    original_perplexity: float
    noise: float
    model: str
    tokens: int
    notes: tuple[str, ...]

    def _title(self) -> str:
        return (
            f"{self.model}: {self.original_bytes / 1e6:.1f} MB, perplexity {self.original_perplexity:.2f} on "
            f"{self.tokens:,} tokens"
        )

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"the original": {"size_bytes": self.original_bytes, "perplexity": self.original_perplexity, "kl": 0.0}}

    def _remarks(self) -> Sequence[str]:
        return (noise_remark(self.noise), *self.notes)


def by_format(
    lab: Made,
    texts: object = None,
    formats: str | Sequence[str | Made] = FORMATS,
    *,
    method: str | Sequence[str] = "rtn",
    calibration: object = None,
    tokens: int | None = TOKENS,
    seed: int = 0,
    progress: bool = True,
) -> ByFormat:
    """Quantize a lab in several formats and measure each on the same text, beside its true bytes.

    formats: names, or labs quantized already (of other settings or by other backends), in any mixture; those made here are
        freed afterwards.  method: "rtn", "gptq", ...; several give a row each, and those that don't go with a format
        are left out.  calibration: for methods that need text; other text than is measured on.
    texts, tokens, seed: as of `damage`. The original runs once for all.
    Columns: format, method; size_bytes, of all weights, tied ones once; bits_per_weight of those that are quantized; and
    those of `damage` for all tokens: kl, kl_999, top1, perplexity, loss_change, right_rms, intervals as _low and _high.
    Raises what `quantize` and `damage` raise, and BadInput where nothing is left to compare.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    check_lab(lab)
    checks.flag("progress", progress)
    methods = cast(
        "list[str]",
        [method] if isinstance(method, str) else checks.series("method", method, "a method, or a list of them"),
    )
    each_format = cast(
        "list[str | Made]",
        [formats] if isinstance(formats, str) else checks.series("formats", formats, "formats and quantized labs"),
    )
    for given in each_format:
        if not isinstance(given, str):
            check_lab(given)
    if calibration is not None:
        ours = shipped_texts() if texts is None else texts
        if both := Documents(lab, ours, most=tokens).also_in(lab, calibration):
            raise BadInput(
                f"{len(both)} of the texts to measure on ({checks.some(both)}) stand also in those to calibrate on, which would "
                "flatter the methods that calibrate; give others, such as texts=lk.quantization.texts(8) and "
                "calibration=lk.quantization.texts(8, skip=30)."
            )
    made: list[tuple[str, str, Made]] = []
    refused: BadInput | None = None
    wanted = [(one, way) for way in methods for one in each_format if isinstance(one, str) or way == methods[0]]
    for one, way in tqdm(wanted, desc="quantizing", unit="format", disable=not progress):
        if not isinstance(one, str):
            made.append((one.name.removeprefix(f"{lab.name}, "), contents(one).method or "as it was", one))
            continue
        text = None if way == "rtn" else calibration
        try:
            made.append((one, way, quantize(lab, one, method=way, calibration=text, seed=seed, progress=False)))
        except BadInput as error:
            if len(methods) == 1:  # with several, a format may go with one and not with another
                raise
            refused = error
    if not made:
        raise refused or BadInput("There is no format to compare; give at least one.")
    harms = damage(lab, [small for _, _, small in made], texts, tokens=tokens, seed=seed, progress=progress)
    rows = []
    for (name, way, small), harm in zip(made, harms, strict=True):
        held = contents(small)
        packed = held.table[held.table["quantized"]]
        whole = harm.table.iloc[-1]
        rows.append(
            {
                "format": name,
                "method": way,
                "size_bytes": held.size_bytes,
                "bits_per_weight": 8 * packed["bytes"].sum() / packed["weights"].sum(),
                **{column: float(whole[column]) for column in FROM_DAMAGE},
            }
        )
    return ByFormat(
        pd.DataFrame(rows),
        original_bytes=contents(lab).size_bytes,
        original_perplexity=harms[0].original_perplexity,
        noise=harms[0].noise,
        model=lab.name,
        tokens=harms[0].tokens,
        notes=harms[0].notes,
    )
