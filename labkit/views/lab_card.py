"""A lab's facts as a small table: text for a terminal, HTML for a notebook."""

from __future__ import annotations

import html


def as_text(facts: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in facts)
    return "\n".join(f"{label:>{width}}  {text}" for label, text in facts)


def as_html(facts: list[tuple[str, str]]) -> str:
    rows = "".join(
        '<tr><th scope="row" style="text-align:right;font-weight:normal;color:var(--jp-ui-font-color2,GrayText);'
        f'padding:.1em .8em .1em 0;vertical-align:top">{html.escape(label)}</th>'
        f'<td style="text-align:left;padding:.1em 0;max-width:40em">{html.escape(text)}</td></tr>'
        for label, text in facts
    )
    return f'<table style="border-collapse:collapse">{rows}</table>'
