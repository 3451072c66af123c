"""A lab's facts as a small table: text for a terminal, HTML for a notebook."""

from __future__ import annotations

from labkit.markup import html_table


def as_text(facts: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in facts)
    return "\n".join(f"{label:>{width}}  {text}" for label, text in facts)


def as_html(facts: list[tuple[str, str]]) -> str:
    return html_table(facts, labelled=True)
