"""Text and tables that can be shown anywhere."""

from __future__ import annotations

from html.parser import HTMLParser

from labkit.markup import escaped, html_table


class Cells(HTMLParser):
    """What a browser would show: the tags it meets, and the text of each row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x00\ud800\"'&"


def test_whatever_a_cell_holds_it_is_text() -> None:
    seen = Cells(html_table([[HOSTILE, 1.5], [" inner", HOSTILE]], head=(HOSTILE, "b"), labelled=True, strong=(1,)))
    shown = "<img src=x onerror=alert(1)>⟨U+202E⟩⟨U+0000⟩\ufffd\"'&"
    assert seen.rows == [[shown, "b"], [shown, "1.5"], ["inner", shown]]
    assert set(seen.tags) == {"table", "thead", "tbody", "tr", "th", "td", "strong"}
    assert escaped(HOSTILE).count("<") == 0


def test_a_table_says_what_its_columns_and_labels_are() -> None:
    page = html_table([["a", "1"]], head=("name", "value"), caption="Two <b>", labelled=True, right=(1,), code=(1,))
    assert '<th scope="row"' in page
    assert page.count('<th scope="col"') == 2
    assert "Two &lt;b&gt;</caption>" in page
    assert page.count("text-align:right") == 2
    assert "<code" in page
    assert html_table([], head=("name",)) == ""
