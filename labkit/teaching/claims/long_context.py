"""What is computed for the claims about long contexts: from the record of loss by position that comes with labkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MODEL = "labkit-moe"
FAR = 128_000


def rope_one_line() -> tuple[float, str]:
    """What linear interpolation by four changes at the end of four times the trained length, and within that length."""
    found, reach = _table()
    last, first = found[found["position_to"] == found["position_to"].max()], found[found["position_from"] == 0]
    value, low, high = _change(last, "linear")
    inside = _change(first, "linear")[0]
    ntk = _change(last, "ntk")
    return value, (
        f"{MODEL}, trained with 1,024 positions and read to {reach:,} by position interpolation in one line, has "
        f"{value:+.2f} nats in the last eighth beside no change at all ({low:+.2f} to {high:+.2f}), and {inside:+.2f} in "
        f"the first; another single line, a larger base (NTK-aware), {ntk[0]:+.2f} ({ntk[1]:+.2f} to {ntk[2]:+.2f})"
    )


def yarn_128k() -> tuple[float, str]:
    """What YaRN changes at the end of four times the trained length, and what 128,000 tokens of the default model would take."""
    from labkit.models.memory import memory

    found, reach = _table()
    last = found[found["position_to"] == found["position_to"].max()]
    value, low, high = _change(last, "yarn")
    loss = float(last.set_index("kind").loc["yarn", "loss"])
    size = memory("smollm2-135m", tokens=FAR).kv_cache_bytes
    assert size is not None
    return value, (
        f"{FAR:,} tokens were not read here: on a CPU it is the time that forbids them, more than the cache "
        f"({size / 1e9:.1f} GB for SmolLM2-135M in bfloat16); of {MODEL}, trained with 1,024 positions and read to "
        f"{reach:,}, YaRN without training changes the loss of the last eighth by {value:+.2f} nats "
        f"({low:+.2f} to {high:+.2f}), to {loss:.2f}"
    )


def _table() -> tuple[pd.DataFrame, int]:
    from labkit.context.records import recorded

    found = recorded(MODEL)
    return found.table, int(found.trained * found.factor)


def _change(rows: pd.DataFrame, kind: str) -> tuple[float, float, float]:
    row = rows.set_index("kind").loc[kind]
    return float(row["change"]), float(row["change_low"]), float(row["change_high"])
