"""The device at hand: which to use, which dtype suits it, and how many bytes are free on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def pick_device(device: str = "auto") -> str:
    """The device to use: "auto" takes "cuda" before "mps" before "cpu"; a named one ("cuda:1") is checked.

    Raises Unavailable for a device this machine or torch lacks, BadInput for a name torch does not know.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"Device {device!r} is not known; use 'auto', 'cpu', 'cuda' or 'mps'.") from error
    if asked.type == "cpu":
        return "cpu"
    if asked.type not in ("cuda", "mps"):
        raise BadInput(f"Device {device!r} is not supported here; use 'auto', 'cpu', 'cuda' or 'mps'.")
    if not (torch.cuda.is_available() if asked.type == "cuda" else torch.backends.mps.is_available()):
        raise Unavailable(f"Device {device!r} is not there, or this torch was built without it; use device='cpu'.")
    if asked.type == "cuda" and asked.index is not None and asked.index >= torch.cuda.device_count():
        raise Unavailable(f"Device {device!r} is not there: {torch.cuda.device_count()} CUDA devices; use 'cuda:0'.")
    return str(asked)


def pick_dtype(dtype: str | torch.dtype = "auto", device: str = "auto") -> torch.dtype:
    """The torch dtype to load in: "auto" is bfloat16 on a GPU that computes in it natively, float32 elsewhere.

    dtype: "auto", a name such as "float16", or a torch dtype.  Raises BadInput for a name that is no floating dtype.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _native_bfloat16(pick_device(device)) else torch.float32
    named = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise BadInput(
            f"dtype {dtype!r} is no floating dtype of torch; use 'auto', 'float32', 'bfloat16' or 'float16'."
        )
    return named


def _native_bfloat16(device: str) -> bool:
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        # From compute capability 8.0 (Ampere) on; older ones emulate it slowly. Other vendors answer for themselves.
        if torch.version.hip:
            return bool(torch.cuda.is_bf16_supported())
        return torch.cuda.get_device_capability(device)[0] >= 8
    return kind == "mps" and bool(torch.backends.mps.is_macos_or_newer(14, 0))


def free_bytes(device: str = "cpu") -> int:
    """Bytes that can still be taken on a device.

    CPU: what the system reports as available, or what a container's limit (cgroup v1 or v2) leaves if that is less.
    CUDA: free on the device.  MPS: the recommended maximum less what torch holds.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if kind == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory()))
    import psutil

    available = int(psutil.virtual_memory().available)
    limited = _cgroup_free_bytes()
    return available if limited is None else min(available, limited)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's allocator for the CPU raises a plain RuntimeError."""
    import torch

    by_kind = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return by_kind or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def describe_device(device: str = "auto") -> str:
    """One line on a device: its name, its size and what is free, in GiB."""
    import torch

    device = pick_device(device)
    free = free_bytes(device) / 2**30
    kind = torch.device(device).type
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {free:.1f} of {properties.total_memory / 2**30:.1f} GiB free"
    if kind == "mps":
        return f"Apple GPU, {free:.1f} of {torch.mps.recommended_max_memory() / 2**30:.1f} GiB free"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {free:.1f} GiB free"


def _cgroup_free_bytes(root: Path | None = None, own: Path | None = None) -> int | None:
    """Bytes a control group's limit leaves this process, the tightest of its group and the groups above; None if none.

    Pages of files that were read but are not in use count as free: the kernel drops them first.
    """
    root, own = root or _CGROUPS, own or _OWN_CGROUP
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's, and the group itself is mounted at the base.
        group = base / path.strip("/")
        while True:
            room = _room(group, *names)
            left += [] if room is None else [room]
            if group == base or base not in group.parents:
                break
            group = group.parent
    return min(left) if left else None


def _room(group: Path, limit_name: str, usage_name: str, inactive_name: str) -> int | None:
    try:
        limit = int((group / limit_name).read_text())
        usage = int((group / usage_name).read_text())
    except (OSError, ValueError):  # no such group, or the limit reads "max"
        return None
    if limit >= 1 << 60:  # v1 says "no limit" with a number near 2**63
        return None
    inactive = 0
    try:
        for line in (group / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == inactive_name:
                inactive = int(value)
    except (OSError, ValueError):
        pass
    return max(0, limit - usage + inactive)
