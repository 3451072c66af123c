"""What a model takes on some hardware, as plotly figures: bytes against the card, and the roofline with the operating points."""

from __future__ import annotations

import math
from collections.abc import Sequence

from labkit.errors import BadInput
from labkit.landscape import Plan
from labkit.markup import counted
from labkit.models.memory import human_bytes
from labkit.views.chart import Chart
from labkit.views.kit.plots import INK, OKABE_ITO, Row, below_title, escaped, template, titled

GIB = 2**30
DECADES = 2.0  # of intensity that the roof reaches beyond the points and its ridge
ORDER = (
    "quantized weights",
    "weights in 16 bits",
    "weights",
    "gradients",
    "optimizer",
    "KV cache",
    "state",
    "activations",
)
SYMBOLS = {"prefill": "square", "token": "circle"}
WORDS = {"prefill": "prompt"}
DASHES = ("solid", "dash", "dot", "dashdot")


def footprint(plans: Plan | Sequence[Plan], *, title: str | None = None) -> Chart:
    """Bytes by part, a bar for each plan, and a line where the memory that a model may take ends.

    plans: of `lk.plan`, one or several. Of training, the bytes of the fullest card and the line of one card. The line is drawn
    for each bar. title: by default which fit. Returns a Chart, its figure plotly's. Raises BadInput for anything else.
    """
    import pandas as pd
    import plotly.graph_objects as go

    shown = _plans(plans)
    names = [_label(plan, i) for i, plan in enumerate(shown)]
    short, shared = _told_apart(shown)
    rows: list[Row] = []
    for name, plan in zip(names, shown, strict=True):
        for part, size in zip(plan.table["part"], plan.table["bytes"], strict=True):
            rows.append({"plan": name, "part": str(part), "bytes": int(size), "usable_bytes": _room(plan)})
    table = pd.DataFrame(rows)
    figure = go.Figure()
    there = {_kind(str(part)) for part in table["part"]}
    parts = sorted(there, key=lambda kind: (ORDER.index(kind) if kind in ORDER else len(ORDER), kind))
    for number, kind in enumerate(parts):
        own = [
            sum(row["bytes"] for row in rows if row["plan"] == name and _kind(str(row["part"])) == kind)
            for name in names
        ]
        figure.add_bar(
            x=[size / GIB for size in own],
            y=list(range(len(names))),
            orientation="h",
            name=escaped(kind),
            marker={"color": OKABE_ITO[number % len(OKABE_ITO)]},
            customdata=[
                f"<b>{escaped(kind)}</b>: {human_bytes(size)}, {size / _room(plan):.1%} of {human_bytes(_room(plan))}"
                for size, plan in zip(own, shown, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    rooms = [_room(plan) / GIB for plan in shown]
    for i, room in enumerate(rooms):
        figure.add_scatter(
            x=[room, room],
            y=[i - 0.42, i + 0.42],
            mode="lines",
            line={"color": INK, "width": 2, "dash": "dash"},
            name="usable of one card" if any(plan.use == "training" for plan in shown) else "usable",
            showlegend=i == 0,
            hoverinfo="skip",
        )
    most = max([*rooms, *(table.groupby("plan")["bytes"].sum() / GIB)])
    figure.update_layout(
        template=template(),
        barmode="stack",
        title=escaped(title) if title else _fit_sentence(shown, short, shared),
        height=170 + 46 * len(shown),
        margin={"t": 96},
        xaxis={"title": titled("GiB"), "range": [0, 1.04 * most]},
        yaxis={
            "showgrid": False,
            "range": [len(shown) - 0.5, -0.5],
            "tickvals": list(range(len(names))),
            "ticktext": short,
        },
    )
    return Chart(figure, table)


def roofline(plans: Plan | Sequence[Plan], *, title: str | None = None) -> Chart:
    """Operations a second over operations a byte, both logarithmic: the roof of the hardware, and where prompts and tokens stand.

    plans: of `lk.plan` for inference, one or several; each hardware has its roof. Left of the ridge bandwidth bounds, right
    of it the operations. A point lies below its roof by the utilisation assumed and by what is exchanged between cards.
    Raises BadInput for anything else, and where the vendor states no operations a second and nothing can be drawn.
    """
    import pandas as pd
    import plotly.graph_objects as go

    shown = _plans(plans)
    if any(plan.use != "inference" for plan in shown):
        raise BadInput("A roofline is of inference: a step of training has no bytes counted; give plans of inference.")
    tables = []
    short, shared = _told_apart(shown)
    names = {_label(plan, i): text for i, (plan, text) in enumerate(zip(shown, short, strict=True))}
    for i, plan in enumerate(shown):
        points = plan.points.copy()
        points.insert(0, "plan", _label(plan, i))
        tables.append(points)
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        raise BadInput("There is nothing to draw: the operations of these models are not known.")
    figure = go.Figure()
    ridges = [peak / plan.hardware.device.bandwidth for plan in shown if (peak := _peak(plan)) is not None]
    low = min([*table["intensity"], *ridges]) / 10 ** (DECADES / 4)
    high = max([*table["intensity"], *ridges]) * 10 ** (DECADES / 4)
    machines = {plan.hardware.device.name: plan for plan in shown}
    heights: list[float] = [float(v) / 1e12 for v in table["attained"]]
    for number, (name, plan) in enumerate(machines.items()):
        peak, bandwidth = _peak(plan), plan.hardware.device.bandwidth
        xs = [low, high] if peak is None else sorted({low, peak / bandwidth, high})
        ys = [min(peak or math.inf, x * bandwidth) / 1e12 for x in xs]
        heights += ys
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": INK, "width": 2, "dash": DASHES[number % len(DASHES)]},
            name=escaped(f"roof of one {name}"),
            hoverinfo="skip",
        )
    for number, (name, own) in enumerate(table.groupby("plan", sort=False)):
        figure.add_scatter(
            x=list(own["intensity"]),
            y=[value / 1e12 for value in own["attained"]],
            mode="markers+text",
            text=[f" {WORDS.get(str(phase), escaped(str(phase)))} " for phase in own["phase"]],
            textposition=["middle left" if phase == "prefill" else "middle right" for phase in own["phase"]],
            textfont={"size": 11, "color": INK},
            marker={
                "size": 10,
                "color": OKABE_ITO[number % len(OKABE_ITO)],
                "symbol": [SYMBOLS.get(str(phase), "circle") for phase in own["phase"]],
            },
            name=names[str(name)],
            customdata=[_point(row) for row in own.to_dict("records")],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _roof_sentence(shown, shared),
        height=460,
        margin={"t": 96},
        xaxis=_decades("operations for each byte read (logarithmic)", low, high),
        yaxis=_decades("10¹² operations a second (logarithmic)", min(heights) / 1.6, max(heights) * 1.6),
    )
    return Chart(figure, table)


def _plans(given: object) -> list[Plan]:
    found = [given] if isinstance(given, Plan) else list(given) if isinstance(given, list | tuple) else []
    plans = [each for each in found if isinstance(each, Plan)]
    if not plans or len(plans) < len(found):
        raise BadInput("There is nothing to draw; give one plan of lk.plan, or a list of them.")
    return plans


def _label(plan: Plan, i: int) -> str:
    """What tells a plan from others; numbered, since a bar for each is wanted even of two that are alike."""
    return f"{i + 1}. {plan.model}, {plan.precision}, {plan.batch} x {plan.tokens:,}, {plan.hardware.name}"


def _told_apart(shown: Sequence[Plan]) -> tuple[list[str], str]:
    """Names of the plans by that alone in which they differ, and what they share; escaped."""
    told = [
        (plan.model, plan.precision, counted(plan.batch, "text"), f"{plan.tokens:,} tokens", plan.hardware.name)
        for plan in shown
    ]
    differ = [len(set(column)) > 1 for column in zip(*told, strict=True)]
    if not any(differ):  # one plan, or plans that differ in something rarer: a split, a way of training
        return [f"{i + 1}" if len(shown) > 1 else "" for i in range(len(shown))], escaped(", ".join(told[0]))
    short = [", ".join(word for word, own in zip(words, differ, strict=True) if own) for words in told]
    if len(set(short)) < len(short):
        short = [f"{i + 1}. {text}" for i, text in enumerate(short)]
    shared = ", ".join(word for word, own in zip(told[0], differ, strict=True) if not own)
    return [escaped(text) for text in short], escaped(shared)


def _kind(part: str) -> str:
    return part if not part.startswith("weights in") or part == "weights in 16 bits" else "quantized weights"


def _room(plan: Plan) -> int:
    return plan.hardware.device.usable_bytes if plan.use == "training" else plan.usable_bytes


def _peak(plan: Plan) -> float | None:
    found = plan.hardware.device.peak(plan.precision if plan.precision in ("float32", "float16") else "bfloat16")
    return None if found is None else found[0]


def _decades(title: str, low: float, high: float) -> dict[str, object]:
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return {
        "title": titled(title),
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": [10.0**power for power in powers],
        "ticktext": [f"{10.0**power:,.15g}" if -3 <= power <= 6 else f"10^{power}" for power in powers],
    }


def _point(row: dict[object, object]) -> str:
    flops, moved, attained = (float(str(row[name])) for name in ("flops", "bytes", "attained"))
    return (
        f"<b>{escaped(str(row['plan']))}</b>, {escaped(str(row['phase']))}<br>{flops:.3g} operations, {human_bytes(int(moved))}: "
        f"{float(str(row['intensity'])):.3g} a byte<br>"
        f"{attained / 1e12:.3g}·10¹² a second in {float(str(row['seconds'])):.3g} s, "
        f"bound by {escaped(str(row['bound']))}"
    )


def _fit_sentence(shown: Sequence[Plan], short: Sequence[str], shared: str) -> str:
    fitting = [text for plan, text in zip(shown, short, strict=True) if plan.fits]
    if len(shown) == 1:
        room = f"{human_bytes(_needed(shown[0]))} of {human_bytes(_room(shown[0]))}"
        card = "a card" if shown[0].use == "training" else escaped(shown[0].hardware.name)
        said = f"{escaped(shown[0].model)} {'fits' if fitting else 'does not fit'}: {room} of {card}"
    else:
        said = f"{len(fitting)} of {len(shown)} fit" + (f": {fitting[0]}" if len(fitting) == 1 else "")
    return said + below_title(shared) * bool(shared) + below_title("dashed: the memory that a model may take")


def _needed(plan: Plan) -> int:
    return int(plan.table["bytes"].sum())


def _roof_sentence(shown: Sequence[Plan], shared: str) -> str:
    bounds = {
        str(row["bound"]) for plan in shown for row in plan.points.to_dict("records") if str(row["phase"]) == "token"
    }
    said = f"Making a token is bound by {' or by '.join(sorted(bounds))}" if bounds else "Roofline"
    legend = "slope: bandwidth is the limit; flat: operations are; below the line: what is reached"
    return said + below_title(shared) * bool(shared) + below_title(legend)
