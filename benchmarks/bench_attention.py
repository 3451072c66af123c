"""The attention view as a file against BertViz and CircuitsVis: bytes, seconds to make it, seconds until it is painted.

Every tool gets the same patterns of the default model, computed beforehand, and shows all heads of all layers. labkit's
file is the one `to_html` writes by default (a map of all heads, and as many in full as its budget holds) and, apart,
one with every head in full. Painted: from opening the file in a headless Chromium that reaches no network until a
canvas or a drawing has something on it. A tool whose page asks for scripts from elsewhere is shown without them, as in
a room without a network; where it then draws nothing, that is said. Sizes the peers can't be run at are extrapolated
by their bytes to a weight, and said to be.

The peers are installed for this run into a temporary folder. --quick: 64 tokens only. --json: the results as JSON.
"""

from __future__ import annotations

import functools
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import Result, compare, default_lab, report

import labkit as lk

PEERS = ("bertviz==1.4.1", "circuitsvis==1.43.3", "importlib_metadata==8.7.0", "zipp==3.23.0")
ROUNDS = {64: 3, 256: 1}
LONGEST = 1024  # labkit only
OPENINGS = {64: 3, 256: 1}
PATIENCE_SECONDS = 120
TRIAL_SECONDS = 30
TRIED_WITH = 12  # tokens of one layer: whether a peer's page draws without a network
SOURCE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
MB = 1e6

# Sets window.painted to the milliseconds since the page was opened, when the first pictures have something on them.
# Looked at every 20 ms and a few pictures only, so that looking does not slow the drawing.
WATCH = """(() => { const drawn = (canvas) => { const brush = canvas.getContext("2d");
    return brush !== null && brush.getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0); };
  const shown = () => document.querySelectorAll("svg line, svg rect, svg path").length > 0
    || [...document.querySelectorAll("canvas")].filter(({width, height}) => width >= 8 && height >= 8).slice(0, 3).some(drawn);
  const look = () => { if (shown()) requestAnimationFrame(() => { window.painted = performance.now(); });
    else setTimeout(look, 20); };
  setTimeout(look, 0); })()"""


@dataclass(frozen=True)
class Drawn(Result):
    """A Result of the seconds to make a file, with the file's bytes and the seconds until it is painted.

    theirs_paint_seconds: None where nothing is painted without a network, or it was not tried.
    """

    ours_bytes: int = 0
    theirs_bytes: int = 0
    ours_paint_seconds: float | None = None
    theirs_paint_seconds: float | None = None
    note: str = ""


# what is shown --------------------------------------------------------------------------------------------------------


@functools.cache
def traced(tokens: int) -> Any:
    lab = default_lab()
    ids = lab.tokenizer(SOURCE.read_text(encoding="utf-8"))["input_ids"]
    assert len(ids) >= tokens
    return lab.trace(ids[:tokens], keep="attention")


@functools.cache
def patterns(tokens: int) -> list[torch.Tensor]:
    """(heads, T, T) of each layer."""
    trace = traced(tokens)
    return [trace.attention(layer) for layer in range(trace.layers)]


# the tools: each writes a file ----------------------------------------------------------------------------------------


def ours(tokens: int, path: Path) -> None:
    view = lk.views.attention(traced(tokens))
    view.to_html(path)
    view.close()


def ours_with_every_head(tokens: int, path: Path) -> None:
    trace = traced(tokens)
    view = lk.views.attention(trace)
    view.to_html(path, heads=[(layer, head) for layer in range(trace.layers) for head in range(trace.heads)])
    view.close()


def bertviz(view: str, tokens: int, path: Path, layers: int | None = None) -> None:
    import bertviz

    attention = [pattern[None] for pattern in patterns(tokens)[:layers]]
    made = getattr(bertviz, view)(attention, traced(tokens).tokens, html_action="return")
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{made.data}", encoding="utf-8")


def circuitsvis(tokens: int, path: Path, layers: int | None = None) -> None:
    from circuitsvis.attention import attention_heads

    shown = patterns(tokens)[:layers]
    names = [f"L{layer}H{head}" for layer, pattern in enumerate(shown) for head in range(len(pattern))]
    made = attention_heads(torch.cat(shown), traced(tokens).tokens, names)
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{made.local_src}", encoding="utf-8")


TOOLS: dict[str, Callable[..., None]] = {
    "BertViz model_view": functools.partial(bertviz, "model_view"),
    "BertViz head_view": functools.partial(bertviz, "head_view"),
    "CircuitsVis attention_heads": circuitsvis,
}


def install_peers(folder: Path) -> None:
    """For this process only: the environment stays as it is."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), *PEERS], check=True, stdout=sys.stderr)
    sys.path.append(str(folder))


# painting -------------------------------------------------------------------------------------------------------------


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        raise SystemExit("This benchmark needs Chromium: sudo apt-get install chromium.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def paint(
    chromium: Any, path: Path, openings: int, patience_seconds: float = PATIENCE_SECONDS
) -> tuple[float | None, set[str]]:
    """(median seconds until something is painted, or None; the hosts the page asked for)."""
    seconds, hosts = [], set()
    for _ in range(openings):
        context = chromium.new_context(viewport={"width": 1300, "height": 900}, offline=True)
        page = context.new_page()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url else None)
        page.add_init_script(WATCH)
        try:
            page.goto(path.as_uri(), timeout=patience_seconds * 1000)
            page.wait_for_function("() => window.painted", timeout=patience_seconds * 1000)
            seconds.append(page.evaluate("() => window.painted") / 1000)
        except Exception as error:  # a page too large for the browser ends in many ways, and each means: not painted
            print(f"{path.name} was not painted: {str(error).splitlines()[0]}", file=sys.stderr)
        context.close()
    return statistics.median(seconds) if len(seconds) == openings else None, hosts - {""}


# the comparisons ------------------------------------------------------------------------------------------------------


def say(found: Drawn) -> None:
    """Print one result as common.report does, and below it bytes and painting."""
    report([found])
    print(
        f"    bytes: {found.ours_bytes / MB:.2f} MB against {found.theirs_bytes / MB:.1f} MB, "
        f"ratio {found.ours_bytes / found.theirs_bytes:.5f}"
    )
    painted = [
        f"{s:.2f} s" if s is not None else "never" for s in (found.ours_paint_seconds, found.theirs_paint_seconds)
    ]
    print(f"    painted after: {painted[0]} against {painted[1]}. {found.note}")
    sys.stdout.flush()


def held(path: Path) -> int:
    """How many heads one of our files holds in full."""
    import json
    import re

    found = re.search(r'id="labkit-state">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return len(json.loads(found[1])["values"]["embedded"])


def why_not_offline(chromium: Any, folder: Path, tool: str) -> str:
    """Empty where the tool's page draws one layer of a short text without a network; else what became of it."""
    path = folder / "trial.html"
    with torch.no_grad():
        TOOLS[tool](TRIED_WITH, path, 1)
    seconds, hosts = paint(chromium, path, 1, TRIAL_SECONDS)
    if seconds is not None:
        return ""
    return f"Without a network {tool} draws nothing: it asks {', '.join(sorted(hosts)) or 'nobody'} for scripts."


def against(
    chromium: Any,
    folder: Path,
    tool: str,
    tokens: int,
    make_ours: Callable[[int, Path], None],
    offline: dict[str, str],
) -> Drawn:
    mine, other = folder / "ours.html", folder / "theirs.html"
    with torch.no_grad():
        timed = compare(
            f"All heads of {default_lab().name} as a file, {tokens} tokens",
            ("labkit", lambda: make_ours(tokens, mine)),
            (tool, lambda: TOOLS[tool](tokens, other)),
            rounds=ROUNDS[tokens],
            warm_up=1 if tokens == min(ROUNDS) else 0,
        )
    trace = traced(tokens)
    note = f"labkit's file holds {held(mine)} of {trace.layers * trace.heads} heads in full and the map of all."
    their_paint = None
    if offline[tool] == "":
        their_paint, _ = paint(chromium, other, OPENINGS[tokens])
    else:
        note += f" {offline[tool]}"
    our_paint, hosts = paint(chromium, mine, OPENINGS[tokens])
    assert not hosts, "our own file must ask nobody"
    sizes = mine.stat().st_size, other.stat().st_size
    other.unlink()
    return Drawn(
        **asdict(timed),
        ours_bytes=sizes[0],
        theirs_bytes=sizes[1],
        ours_paint_seconds=our_paint,
        theirs_paint_seconds=their_paint,
        note=note,
    )


def at_the_longest(chromium: Any, folder: Path, results: list[Drawn], out: Any) -> None:
    """Ours at 1,024 tokens; what the peers would take, from their bytes to a weight at the longest text measured."""
    import time

    path = folder / "longest.html"
    traced(LONGEST)
    began = time.perf_counter()
    ours(LONGEST, path)
    seconds = time.perf_counter() - began
    painted, _ = paint(chromium, path, 1)
    shown = "never" if painted is None else f"{painted:.2f} s"
    print(
        f"{LONGEST:,} tokens, labkit alone: {path.stat().st_size / MB:.2f} MB, {held(path)} heads in full and the map of "
        f"all, made in {seconds:.1f} s, painted after {shown}",
        file=out,
    )
    most = max(ROUNDS) if any(str(max(ROUNDS)) in r.claim for r in results) else min(ROUNDS)
    for tool in TOOLS:
        known = [r for r in results if r.theirs == tool and f"{most} tokens" in r.claim]
        if known:
            size = known[0].theirs_bytes * (LONGEST / most) ** 2
            print(
                f"    {tool} would take about {size / 1e9:.1f} GB (extrapolated from {most} tokens, not run)", file=out
            )


def main() -> None:
    quick, as_json = "--quick" in sys.argv, "--json" in sys.argv
    results: list[Drawn] = []
    with tempfile.TemporaryDirectory() as scratch, browser() as chromium:
        folder = Path(scratch)
        install_peers(folder / "peers")
        offline = {tool: why_not_offline(chromium, folder, tool) for tool in TOOLS}
        for tokens in list(ROUNDS)[: 1 if quick else None]:
            for tool in TOOLS:
                results.append(against(chromium, folder, tool, tokens, ours, offline))
                if not as_json:
                    say(results[-1])
            ours(tokens, folder / "ours.html")
            if held(folder / "ours.html") < sum(
                len(pattern) for pattern in patterns(tokens)
            ):  # else it is the same file
                tool = "CircuitsVis attention_heads"
                results.append(against(chromium, folder, tool, tokens, ours_with_every_head, offline))
                if not as_json:
                    say(results[-1])
            patterns.cache_clear()
        at_the_longest(chromium, folder, results, sys.stderr if as_json else sys.stdout)
    if as_json:
        report(list(results))


if __name__ == "__main__":
    main()
