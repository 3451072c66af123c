"""Text and tables as they can be shown anywhere: valid Unicode, nothing invisible, not too long, never read as HTML.

Every table that labkit puts into a notebook is made by `html_table`.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Collection, Iterable, Sequence

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: str) -> str:
    """The text as valid Unicode: surrogate pairs joined, lone surrogates (no encoding takes them) as U+FFFD."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def visible(text: str) -> str:
    """The text with control, bidirectional and invisible characters written out, e.g. U+202E; line breaks stay."""
    return "".join(
        f"⟨U+{ord(character):04X}⟩"
        if unicodedata.category(character) in _UNSEEN and character not in "\n\t"
        else character
        for character in clean(text)
    )


def shorten(text: str, characters: int) -> str:
    """The text, cut to at most so many characters, with a sign where it was cut."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def one_line(text: object, characters: int) -> str:
    """Any text on one line, its invisible characters written out, cut to at most so many."""
    return shorten(visible(" ".join(str(text).split())), characters)


def counted(n: int, noun: str) -> str:
    """ "1 token", "1,024 tokens"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def escaped(text: object) -> str:
    """Any text as HTML that shows just this text, its invisible characters written out."""
    return html.escape(visible(str(text)))


_INK = "color:var(--jp-ui-font-color1, inherit)"
_LINE = "border-bottom:1px solid var(--jp-border-color2, #bdbdbd)"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words: 0 to 3, 5, 7 to 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}{',' if b == a + 1 else ' to'} {b}" for a, b in runs)


def html_table(
    rows: Iterable[Sequence[object]],
    *,
    head: Sequence[str] = (),
    caption: str = "",
    labelled: bool = False,
    right: Collection[int] = (),
    code: Collection[int] = (),
    strong: Collection[int] = (),
) -> str:
    """Rows of cells as an HTML table that needs no script and no style sheet; every cell is text, whatever it holds.

    head: the columns' names, of which there may be none. labelled: the first cell of a row is its label; one that begins
    with a space is indented. right, code: columns that are flush right, or in a fixed width with their line breaks kept.
    strong: rows in bold. Empty without any row.
    """
    sides = {True: "text-align:right", False: "text-align:left"}

    def cell(content: object, column: int, row: int) -> str:
        text, label = str(content), labelled and column == 0
        styles = [sides[column in right], "padding-left:1.5em" if label and text.startswith(" ") else ""]
        styles.append("font-weight:normal" if label and row not in strong else "")
        shown = escaped(text.strip() if label else text)
        if column in code:
            shown = f'<code style="white-space:pre-wrap">{shown}</code>'
        if row in strong:
            shown = f"<strong>{shown}</strong>"
        tag, scope = ("th", ' scope="row"') if label else ("td", "")
        return f'<{tag}{scope} style="{";".join(filter(None, styles))}">{shown}</{tag}>'

    body = "".join(
        f"<tr>{''.join(cell(content, column, i) for column, content in enumerate(row))}</tr>"
        for i, row in enumerate(rows)
    )
    if not body:
        return ""
    names = "".join(
        f'<th scope="col" style="{sides[i in right]};{_LINE}">{escaped(name)}</th>' for i, name in enumerate(head)
    )
    return (
        f'<table style="border-collapse:collapse;max-width:56em;{_INK}">'
        + (f'<caption style="text-align:left;font-weight:bold">{escaped(caption)}</caption>' if caption else "")
        + (f"<thead><tr>{names}</tr></thead>" if names else "")
        + f"<tbody>{body}</tbody></table>"
    )
