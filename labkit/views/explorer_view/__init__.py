"""The explorer: a model, hardware, precision, length and batch by controls; bytes against the card, the roofline, advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import traitlets

from labkit import checks
from labkit.landscape import Plan, devices, hardware, plan
from labkit.landscape.machines import THIS
from labkit.models import published
from labkit.models.memory import human_bytes
from labkit.views.base import View, module, style
from labkit.views.drawing.page import MARGIN, WIDTH, Page
from labkit.views.drawing.scene import INK, Box, Path, Picture
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job
from labkit.views.kit.plots import OKABE_ITO
from labkit.views.kit.traits import Change, Proposal, sent

if TYPE_CHECKING:
    import pandas as pd

PRECISIONS = ("float32", "bfloat16", "int8", "int4", "nf4", "q4_k")
CACHES = ("bfloat16", "int8", "int4")
SPLITS = {"layers": "layer after layer", "tensor": "each layer over all cards"}
TOKENS = tuple(2**power for power in range(7, 21))
BATCHES = tuple(2**power for power in range(11))
COUNTS = (1, 2, 4, 8, 16, 32, 64)
START = {
    "model": "llama-2-70b",
    "device": "A100-80GB",
    "count": 4,
    "precision": "int4",
    "cache": "bfloat16",
    "split": "layers",
    "tokens": 4096,
    "batch": 8,
}
_NUMBERS = {"count": COUNTS, "tokens": TOKENS, "batch": BATCHES}

__all__ = ["ExplorerView", "explorer"]


def explorer(
    model: str = "llama-2-70b",
    *,
    hardware: str = "4xA100-80GB",
    precision: str = "int4",
    tokens: int = 4096,
    batch: int = 8,
) -> ExplorerView:
    """Choose a published model, hardware, precision, length and batch, and see what it takes and what bounds it.

    model: a published name or hub id.  hardware: by name, as of `lk.plan`; "this" is the machine at hand, then
        measured.
    precision, tokens, batch: where it begins; numbers are rounded to the powers of two that can be chosen.
    The view's `plan` is what `lk.plan` gives for the choice. An exported file shows the choice it was written with.
    Raises ModelNotFound and BadInput as `lk.plan`.
    """
    return ExplorerView(model, hardware, precision, tokens, batch)


class ExplorerView(View):
    """A plan that follows the controls. Set `settings`, and `wait()` until `plan` is the plan for them."""

    _title = "What a model takes, and what bounds it"
    _esm = module("explorer_view/explorer.js")
    _css = style("explorer_view/explorer.css")

    offered = sent(
        precisions=list(PRECISIONS),
        caches=list(CACHES),
        splits=SPLITS,
        counts=list(COUNTS),
        tokens=list(TOKENS),
        batches=list(BATCHES),
    )
    models: traitlets.List[str] = traitlets.List().tag(sync=True)
    devices: traitlets.List[str] = traitlets.List().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    """model, device, count, precision, cache, split, tokens, batch."""
    shown = traitlets.Dict().tag(sync=True)
    """The plan for them, as the page draws it; see `_drawn`."""
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, model: str, machine: str, precision: str, tokens: int, batch: int) -> None:
        chosen = hardware(machine)
        names = published.names()
        entry = published.get(checks.shown(model) if not isinstance(model, str) else model)
        start = {
            **START,
            "model": entry.name if entry else model,
            "device": chosen.device.name,
            "count": _nearest(COUNTS, chosen.count),
            "precision": precision,
            "tokens": _nearest(TOKENS, checks.whole("tokens", tokens, 1)),
            "batch": _nearest(BATCHES, checks.whole("batch", batch, 1)),
        }
        first = _planned(start)  # refused here, before there is a widget
        super().__init__()
        self._job: Job[dict[str, object], Plan] = Job(
            self, lambda settings, _run: _planned(settings), self._show, status="status"
        )
        self.models = names
        self.devices = [THIS, *sorted(devices()["name"], key=str.lower)]
        self.settings = start
        self._show(start, first)
        self._job.clear()
        self.observe(self._asked, names="settings")

    @property
    def plan(self) -> Plan:
        """The plan on show."""
        with self._lock:
            return self._plan

    @traitlets.validate("settings")
    def _valid_settings(self, proposal: Proposal) -> dict[str, object]:
        given = proposal["value"]
        if not self.models:
            return dict(given)
        known: dict[str, tuple[object, ...]] = {
            "model": (*self.models, self.settings["model"]) if self.settings else tuple(self.models),
            "device": tuple(self.devices),
            "precision": PRECISIONS,
            "cache": CACHES,
            "split": tuple(SPLITS),
            **_NUMBERS,
        }
        for name, words in known.items():
            if given.get(name) not in words:
                raise Refused(f"{name}={given.get(name)!r} can't be chosen; give one of {checks.listed(words)}.")
        return {name: given[name] for name in known}

    def _asked(self, change: Change) -> None:
        self._job.ask(dict(change["new"]))

    def _show(self, _settings: dict[str, object], found: Plan) -> str:
        self._plan = found
        self.shown = _drawn(found)
        return ""

    def _describe(self) -> str:
        return self.plan._title()

    def _table(self) -> pd.DataFrame:
        return self.plan.table

    def _static_text(self) -> str:
        return "\n".join([self.plan._title(), *self.plan._remarks()])

    def _image(self) -> Picture:
        found = self.plan
        page = Page(description=self._title).heading(self._title).note(found._title())
        page.drawing(_bar(found))
        page.table(
            [[str(row["part"]), human_bytes(int(row["bytes"])), f"{row['share']:.1%}"] for row in _records(found)],
            ("part", "bytes", "of what is usable"),
            right=(1, 2),
        )
        page.table(
            [
                [str(row["phase"]), f"{row['intensity']:.4g}", f"{row['attained'] / 1e12:.3g}", str(row["bound"])]
                for row in found.points.to_dict("records")
            ],
            ("step", "operations a byte", "10¹² operations a second", "bound by"),
            caption="Operating points",
            right=(1, 2),
        )
        for sentence in found._remarks():
            page.paragraph(sentence, gap=3.0)
        return page.picture()


def _planned(settings: dict[str, object]) -> Plan:
    count, cache, precision = int(str(settings["count"])), str(settings["cache"]), str(settings["precision"])
    return plan(
        str(settings["model"]),
        hardware=hardware(str(settings["device"])).of(count),
        precision=precision,
        tokens=int(str(settings["tokens"])),
        batch=int(str(settings["batch"])),
        cache_precision="float32" if precision == "float32" and cache == "bfloat16" else cache,
        split=str(settings["split"]),
    )


def _nearest(choices: tuple[int, ...], value: int) -> int:
    return min(choices, key=lambda choice: abs(choice - value))


def _records(found: Plan) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = found.table.to_dict("records")
    return rows


def _drawn(found: Plan) -> dict[str, object]:
    """title, fits, bottleneck.  parts: [name, bytes, the same in words].  usable: bytes, and in words.  points: of the roofline,
    with peak and bandwidth in operations and bytes a second (peak None where not stated).  said, assumed: sentences."""
    device = found.hardware.device
    peak = device.peak("float32" if found.precision == "float32" else "bfloat16")
    count = len(found._remarks()) - len(found.assumptions)
    return {
        "title": found._title(),
        "fits": found.fits,
        "bottleneck": found.bottleneck,
        "parts": [[str(row["part"]), int(row["bytes"]), human_bytes(int(row["bytes"]))] for row in _records(found)],
        "total": human_bytes(found.total_bytes),
        "usable": [found.usable_bytes, human_bytes(found.usable_bytes)],
        "points": [
            {name: row[name] for name in ("phase", "intensity", "attained", "seconds", "bound")}
            for row in found.points.to_dict("records")
        ],
        "peak": None if peak is None else peak[0],
        "bandwidth": device.bandwidth,
        "device": device.name,
        "said": list(found._remarks()[:count]),
        "assumed": list(found.assumptions),
    }


def _bar(found: Plan) -> Picture:
    """The parts side by side, and a line where the memory ends."""
    wide, high = WIDTH - 2 * MARGIN, 26.0
    most = 1.04 * max(found.total_bytes, found.usable_bytes)
    picture = Picture(WIDTH, high + 16)
    x: float = MARGIN
    for i, row in enumerate(_records(found)):
        width = wide * row["bytes"] / most
        hover = f"{row['part']}: {human_bytes(int(row['bytes']))}"
        picture.add(Box(x, 6, width, high - 6, OKABE_ITO[i % len(OKABE_ITO)], hover=hover))
        x += width
    end = MARGIN + wide * found.usable_bytes / most
    picture.add(Path(((end, 2.0), (end, high + 4)), INK, 2.0))
    return picture
