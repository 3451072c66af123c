"""The notebooks of the series, in the order of teaching."""

from __future__ import annotations

NOTEBOOKS = {
    "start": "00_start",
    "first_look": "01_first_look",
    "attention": "02_attention",
    "generation": "03_generation",
    "quantization": "04_quantization",
    "lora": "05_lora",
    "moe": "06_moe_routing",
    "sae": "07_sparse_autoencoders",
    "circuits": "08_circuits",
    "landscape": "09_model_landscape",
    "long_context": "10_long_context",
    "serving": "11_serving",
    "grounding": "12_grounding",
    "pictures": "13_pictures",
}
"""The topic an id begins with ("attention.rotate") -> the notebook it belongs to, written or planned."""

RENAMED = {"sae.share_unexplained": "sae.fraction_unexplained"}
"""Exercises that had another id -> theirs now: what was done under the old one still counts."""


def place(topic: str) -> tuple[int, str]:
    """What topics are sorted by: those of the series in its order, then all others by name."""
    order = list(NOTEBOOKS)
    return (order.index(topic) if topic in NOTEBOOKS else len(order), topic)
