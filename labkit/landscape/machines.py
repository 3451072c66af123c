"""The table of hardware: memory, bandwidth, operations and links of phones, laptops and cards, from the vendors' documents."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from labkit import checks
from labkit.errors import BadInput
from labkit.markup import counted
from labkit.models.memory import human_bytes
from labkit.results import Result

USABLE = 0.92  # of a card's memory: the rest goes to the driver, error correction and what an allocator can't hand out
THIS = "this"
MOST = 100_000  # cards
_COUNT = re.compile(r"^\s*(\d+)\s*[x×*]\s*(?=\S)", re.IGNORECASE)

__all__ = ["Device", "Devices", "Hardware", "devices", "hardware"]


@dataclass(frozen=True)
class Device:
    """One phone, laptop or card.

    memory_bytes: of its memory; usable: the share of it that a model may take.
    bandwidth: bytes a second read from it.  operations: dense operations a second by precision ("float32", "bfloat16", ...);
        empty where the vendor states none.
    link: bytes a second to another card, one direction, None without; link_name: what it is.
    host: bytes a second from the host's memory, one direction; None where both are one memory.
    confirmed: whether the figures were held against a public copy of the source.  taken: the date of that.
    """

    name: str
    vendor: str
    kind: str
    memory_bytes: int
    bandwidth: float
    operations: Mapping[str, float]
    link: float | None
    link_name: str
    host: float | None
    usable: float
    released: str
    source: str
    taken: str
    confirmed: bool
    note: str = ""
    aliases: tuple[str, ...] = field(default=(), repr=False)

    @property
    def usable_bytes(self) -> int:
        return int(self.memory_bytes * self.usable)

    def peak(self, precision: str) -> tuple[float, str] | None:
        """(operations a second, the precision they are of): where a device lacks one, that of the next it has.

        Sixteen bits stand in for each other, and where a device has neither, float32 for both. None where none is stated.
        """
        order = {
            "bfloat16": ("bfloat16", "float16", "float32"),
            "float16": ("float16", "bfloat16", "float32"),
            "float8": ("float8", "bfloat16", "float16", "float32"),
            "int8": ("int8", "bfloat16", "float16", "float32"),
        }.get(precision, (precision, "float32"))
        return next(((self.operations[each], each) for each in order if each in self.operations), None)


@dataclass(frozen=True)
class Hardware:
    """A number of devices of one kind. name: such as "4xA100-80GB"."""

    device: Device
    count: int

    @property
    def name(self) -> str:
        return self.device.name if self.count == 1 else f"{self.count}x{self.device.name}"

    @property
    def usable_bytes(self) -> int:
        return self.count * self.device.usable_bytes

    def of(self, count: int) -> Hardware:
        """The same with another number of devices."""
        return Hardware(self.device, count)


@dataclass(frozen=True, eq=False, repr=False)
class Devices(Result):
    """The table of hardware, a row for each; `devices` tells the columns. taken: the date of its figures; note: on all."""

    taken: str
    note: str

    def _title(self) -> str:
        return f"{len(self.table)} devices, as of {self.taken}"

    def _remarks(self) -> Sequence[str]:
        return (self.note,)


def devices() -> Devices:
    """All hardware that is known by name.

    Columns: name; vendor; kind; memory_bytes; bandwidth (bytes a second); float32, bfloat16, float16, float8, int8 (dense
    operations a second, NaN where not stated); link (bytes a second, one direction); ridge (operations a byte at which
    16 bits stop being bound by bandwidth); released; source; confirmed.
    """
    import pandas as pd

    nan = float("nan")
    rows = []
    for each in _table().values():
        half = each.peak("bfloat16")
        rows.append(
            {
                "name": each.name,
                "vendor": each.vendor,
                "kind": each.kind,
                "memory_bytes": each.memory_bytes,
                "bandwidth": each.bandwidth,
                **{p: each.operations.get(p, nan) for p in ("float32", "bfloat16", "float16", "float8", "int8")},
                "link": each.link or nan,
                "ridge": half[0] / each.bandwidth if half else nan,
                "released": each.released,
                "source": each.source,
                "confirmed": each.confirmed,
            }
        )
    return Devices(pd.DataFrame(rows), taken=_file()["taken"], note=_file()["note"])


def hardware(name: str | Hardware | Device) -> Hardware:
    """Devices by name: "4xA100-80GB", "1xRTX4090-24GB", "H100-80GB", or "this" for the machine at hand, which is measured.

    Case, spaces and hyphens don't matter. Raises BadInput for an unknown name, with those near it.
    """
    if isinstance(name, Hardware):
        return name
    if isinstance(name, Device):
        return Hardware(name, 1)
    if not isinstance(name, str) or not name.strip():
        checks.refuse("hardware", name, f'a name such as "4xA100-80GB" or "{THIS}"')
    found = _COUNT.match(name)
    count = checks.whole("hardware", int(found[1]), 1, MOST, wanted=f"1 to {MOST:,} devices") if found else 1
    asked = name[found.end() :] if found else name
    if _key(asked) == THIS:
        from labkit.landscape.here import this_machine

        here = this_machine()
        if found and count > here.count:
            raise BadInput(
                f"This machine has {counted(here.count, 'device')}, and how {count} of them would be linked is not known; give "
                '"this" for what is here, or hardware of the table.'
            )
        return here.of(count) if found else here
    device = _index().get(_key(asked))
    if device is None:
        raise BadInput(f"Hardware {checks.shown(name)} is not known: {_near(asked)} lk.landscape.devices() lists all.")
    return Hardware(device, count)


def _near(asked: str) -> str:
    near = dict.fromkeys(
        _index()[key].name for key in difflib.get_close_matches(_key(asked), _index(), n=5, cutoff=0.5)
    )
    return f"did you mean {' or '.join(list(near)[:3])}?" if near else 'give such as "4xA100-80GB" or "this".'


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _file() -> dict[str, str]:
    text = resources.files("labkit.landscape").joinpath("hardware.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


@cache
def _table() -> Mapping[str, Device]:
    rows: list[dict[str, object]] = _file()["devices"]  # type: ignore[assignment]
    found = [_device(row, _file()["taken"]) for row in rows]
    return {each.name: each for each in found}


def _device(row: Mapping[str, object], taken: str) -> Device:
    link: Mapping[str, object] = row["link"] or {}  # type: ignore[assignment]
    both_ways, host = link.get("gb_s"), row["host_gb_s"]
    tflops: Mapping[str, float] = row["tflops"]  # type: ignore[assignment]
    return Device(
        name=str(row["name"]),
        vendor=str(row["vendor"]),
        kind=str(row["kind"]),
        memory_bytes=int(float(str(row["memory_gib"])) * 2**30),
        bandwidth=float(str(row["bandwidth_gb_s"])) * 1e9,
        operations={precision: value * 1e12 for precision, value in tflops.items()},
        link=float(str(both_ways)) * 1e9 / 2 if both_ways else None,
        link_name=str(link.get("name", "")),
        host=float(str(host)) * 1e9 if host else None,
        usable=float(str(row.get("usable", USABLE))),
        released=str(row["released"]),
        source=str(row["source"]),
        taken=taken,
        confirmed=bool(row["confirmed"]),
        note=str(row.get("note", "")),
        aliases=tuple(str(alias) for alias in row["aliases"]),  # type: ignore[attr-defined]
    )


@cache
def _index() -> Mapping[str, Device]:
    found: dict[str, Device] = {}
    for device in _table().values():
        for name in (device.name, *device.aliases):
            found[_key(name)] = device
            found.setdefault(_key(f"{device.vendor} {name}"), device)
    return found


def described(device: Device) -> str:
    """One line: memory, bandwidth and operations."""
    half = device.peak("bfloat16")
    rate = f", {half[0] / 1e12:,.4g} TFLOPS in {half[1]}" if half else ", operations a second not stated"
    return f"{device.name}: {human_bytes(device.memory_bytes)}, {device.bandwidth / 1e9:,.4g} GB/s{rate}"
