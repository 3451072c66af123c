"""Devices, dtypes and free bytes, with machines that are not here played by files and stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from labkit.errors import BadInput, Unavailable
from labkit.models import hardware

GiB = 2**30


def machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False, capability: int = 8) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (capability, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)


def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cgroup_free_bytes", lambda: None)


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert hardware.pick_device() == device


def test_named_device(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True)
    assert hardware.pick_device("cpu") == "cpu"
    assert hardware.pick_device("cuda:0") == "cuda:0"
    with pytest.raises(Unavailable, match="1 CUDA device"):
        hardware.pick_device("cuda:1")
    with pytest.raises(Unavailable, match="device='cpu'"):
        hardware.pick_device("mps")
    for unknown in ("gpu", "meta", "cuda:x"):
        with pytest.raises(BadInput, match="'auto'"):
            hardware.pick_device(unknown)


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [("cpu", 8, torch.float32), ("cuda", 8, torch.bfloat16), ("cuda", 9, torch.bfloat16), ("cuda", 7, torch.float32)],
)
def test_auto_dtype(monkeypatch: pytest.MonkeyPatch, device: str, capability: int, dtype: torch.dtype) -> None:
    machine(monkeypatch, cuda=True, capability=capability)
    assert hardware.pick_dtype("auto", device) is dtype


def test_auto_dtype_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, mps=True)
    assert hardware.pick_dtype("auto", "mps") is torch.bfloat16
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: False)
    assert hardware.pick_dtype("auto", "mps") is torch.float32


def test_named_dtype() -> None:
    assert hardware.pick_dtype("float16") is torch.float16
    assert hardware.pick_dtype(torch.bfloat16) is torch.bfloat16
    for wrong in ("int8", "float17", "nn"):
        with pytest.raises(BadInput, match="'bfloat16'"):
            hardware.pick_dtype(wrong)


def test_free_bytes_of_the_cpu_is_bounded_by_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GiB))
    no_group(monkeypatch)
    assert hardware.free_bytes("cpu") == 8 * GiB
    monkeypatch.setattr(hardware, "_cgroup_free_bytes", lambda: 3 * GiB)
    assert hardware.free_bytes("cpu") == 3 * GiB
    monkeypatch.setattr(hardware, "_cgroup_free_bytes", lambda: 30 * GiB)
    assert hardware.free_bytes("cpu") == 8 * GiB


def test_free_bytes_here() -> None:
    assert 0 < hardware.free_bytes() <= psutil.virtual_memory().total


def test_free_bytes_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (5 * GiB, 16 * GiB))
    assert hardware.free_bytes("cuda") == 5 * GiB
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * GiB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4 * GiB)
    assert hardware.free_bytes("mps") == 6 * GiB


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_cgroup_v2_takes_the_tightest_of_the_nested_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/work/job\n")
    root = tmp_path / "root"
    stat = "anon 5\ninactive_file 1000\n"
    group(root / "work", {"memory.max": "5000\n", "memory.current": "4500\n", "memory.stat": stat})
    group(root / "work/job", {"memory.max": "max\n", "memory.current": "300\n"})
    assert hardware._cgroup_free_bytes(root, own) == 5000 - 4500 + 1000
    group(root / "work/job", {"memory.max": "900\n"})
    assert hardware._cgroup_free_bytes(root, own) == 900 - 300


def test_cgroup_v2_mounted_at_the_root_of_a_container(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    group(tmp_path / "root", {"memory.max": "7000", "memory.current": "9000"})
    assert hardware._cgroup_free_bytes(tmp_path / "root", own) == 0


def test_cgroup_v1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/a\n7:memory:/docker/abc\n")
    base = tmp_path / "root" / "memory"
    unlimited = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "10"}
    group(base / "docker/abc", unlimited)
    assert hardware._cgroup_free_bytes(tmp_path / "root", own) is None
    limited = {
        "memory.limit_in_bytes": "4000",
        "memory.usage_in_bytes": "1500",
        "memory.stat": "total_inactive_file 200",
    }
    group(base, limited)
    assert hardware._cgroup_free_bytes(tmp_path / "root", own) == 4000 - 1500 + 200


def test_no_cgroup(tmp_path: Path) -> None:
    assert hardware._cgroup_free_bytes(tmp_path, tmp_path / "missing") is None


def test_describe_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GiB))
    no_group(monkeypatch)
    count = torch.get_num_threads()
    assert hardware.describe_device() == f"CPU, {count} thread{'s' if count > 1 else ''}, 8.0 GiB free"
