"""Measure what each format costs labkit-dense: the record that `lk.quantization.advise` reads for models not at hand.

    python -m labkit.recipes.formats        # writes labkit/quantization/measured.json; two minutes on two cores

The matrices of the layers are rounded to nearest, embedding and head stay as they are. Measured on the beginnings of all held-out
passages that every kind has: 40 documents each of five kinds. K-quants are left out: of labkit-dense's rows of 192 and 256
weights they take the latter alone, one matrix in seven, and labkit-squeeze's rows of 128 and 384 not at all.
"""

import json

from labkit.lab import load
from labkit.models.texts import texts
from labkit.quantization import contents, damage, formats, quantize
from labkit.quantization.advice import CHARACTERS, MEASURED, RECORD
from labkit.quantization.integers import Absmax, ZeroPoint

DOCUMENTS = 40
FORMATS = (
    *("int8", "q8_0", "fp8_e4m3", "int6", "q5_0", "q5_1", "int5"),
    *("q4_0", "q4_1", "nf4", "nf4_single", "int4", "mxfp4", "int3", "int2", "ternary"),
)
OTHERS = (("int4", 32, True), ("int4", 32, False), ("int4", 64, False), ("int3", 32, False), ("int2", 32, False))
# integers besides, by their groups and symmetry


def measure() -> list[dict[str, object]]:
    """A row for each format: what it is, and what it costs in nats a token."""
    lab = load(RECORD, dtype="float32", device="cpu")
    wanted = [
        *(formats.of(name) for name in FORMATS),
        *(formats.of(n, group_size=g, symmetric=s) for n, g, s in OTHERS),
    ]
    smalls = [quantize(lab, formats.as_given(each), progress=False) for each in wanted]
    found = damage(lab, smalls, texts(DOCUMENTS, characters=CHARACTERS), tokens=None)
    rows: list[dict[str, object]] = []
    for format, small, harm in zip(wanted, smalls, found, strict=True):
        packed = contents(small).table.query("quantized")
        of_integers = isinstance(format.grid, Absmax | ZeroPoint)
        rows.append(
            {
                "model": lab.name,
                "parameters": sum(p.numel() for p in lab.model.parameters()),
                "format": format.name,
                "group_size": format.group_size if of_integers else None,
                "symmetric": isinstance(format.grid, Absmax) if of_integers else None,
                "bits_per_weight": round(8 * float(packed["bytes"].sum() / packed["weights"].sum()), 3),
                "kl": _short(harm.kl),
                "kl_low": _short(harm.kl_interval[0]),
                "kl_high": _short(harm.kl_interval[1]),
                "top1": round(harm.top1, 4),
                "perplexity": round(harm.perplexity, 3),
                "original_perplexity": round(harm.original_perplexity, 3),
                "tokens": harm.tokens,
                "documents": harm.documents,
            }
        )
    return rows


def _short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    lines = ",\n".join(f"  {json.dumps(row)}" for row in measure())
    MEASURED.write_text(f"[\n{lines}\n]\n", "utf-8")
    print(f"wrote {MEASURED}")
