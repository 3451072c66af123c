"""The README's code, as somebody runs it who pastes one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import labkit as lk
from labkit.models import texts

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")

WHALES = ["A whale swam by.", "The white whale sank.", "We saw whales.", "Whaling was hard.", "A whale breathes."]
OTHERS = ["A train came by.", "The white house fell.", "We saw houses.", "Farming was hard.", "A horse breathes."]
GIVEN: dict[str, Any] = {  # names of the reader's own, by heading
    "What a token is made of": {
        "five_that_have_it": WHALES,
        "five_that_lack_it": OTHERS,
        "about_whales": WHALES,
        "about_other_things": OTHERS,
        "fresh_texts": [f"{whales} {other}" for whales in WHALES for other in OTHERS],
        "prompts": ["My favourite animal is", "The best thing at sea is"],
    },
}
LONGEST = 300  # characters of a shipped passage: enough to run on
TUNING = "What tuning teaches, and what it costs"
CIRCUITS = "Which parts make it say so"
OF_YOUR_OWN = "Your own model"  # its files and its addresses are the reader's


def runs() -> dict[str, list[str]]:
    """Blocks of Python that follow on one another, by the heading they begin under: one that loads a lab begins anew."""
    found: dict[str, list[str]] = {}
    heading = ""
    for part in re.split(r"^##+ ", README, flags=re.MULTILINE)[1:]:
        for block in re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL):
            if re.search(r"^(lab.* = )?lk\.load\(", block, re.MULTILINE):
                heading = part.partition("\n")[0]
            found.setdefault(heading, []).append(block)
    return found


def test_the_blocks_are_found() -> None:
    shown = {"A first example", "Who takes which token", "What bits cost", TUNING, CIRCUITS, OF_YOUR_OWN, *GIVEN}
    assert shown == runs().keys()


def test_what_generate_takes_is_told_where_it_is_shown() -> None:
    first = README.partition("\n## A first example\n")[2].partition("\n#")[0]
    assert "lab.generate(" in first
    assert "`lab.generate` takes" in first


@pytest.mark.real_model
@pytest.mark.parametrize("heading", [heading for heading in runs() if heading != OF_YOUR_OWN])
def test_the_blocks_run_one_after_the_other(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = {kind: tuple(p._replace(text=p.text[:LONGEST]) for p in texts.passages(kind)) for kind in texts.KINDS}
    monkeypatch.setattr(texts, "passages", short.__getitem__)
    space: dict[str, Any] = {"lk": lk, **GIVEN.get(heading, {})}
    for number, written in enumerate(runs()[heading]):
        block = written.replace("tokens=200_000", "tokens=20_000")  # of a training, which is not judged here
        exec(compile(block, f"README, {heading}, block {number}", "exec"), space)
        if "panel" in space:  # the next block is run "once it has finished"
            space["panel"].wait()
    for lab in [value for value in space.values() if isinstance(value, lk.Lab)]:
        lab.close()
