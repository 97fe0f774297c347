"""How much memory this process can still take: by the machine, its container and its own limits.

Nothing here needs torch, except for the memory of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FreeMemory", "free_memory", "memory_left", "resident_bytes"]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MACHINE = "the machine"
CONTAINER = "its container"
PROCESS = "the limit of the process (ulimit -v)"


@dataclass(frozen=True, order=True)
class FreeMemory:
    """Bytes that can still be taken, and what limits them."""

    bytes: int
    limit: str


def free_memory(device: str = "cpu") -> int | None:
    """Bytes free on a device and on the CPU, whichever is less; None: unknown."""
    left = memory_left()
    if device != "cuda":
        return left.bytes if left else None
    import torch  # late: torch takes seconds

    free = int(torch.cuda.mem_get_info()[0])
    return min(free, left.bytes) if left else free


def memory_left(proc: Path = PROC, cgroups: Path = CGROUPS) -> FreeMemory | None:
    """The memory that this process can still take on the CPU; None: unknown.

    The least of three: what the machine has available, what the control groups of the process
    leave (a container's limit, versions 1 and 2), and what its own limits leave.

    Args:
        proc: the file system of processes.
        cgroups: the file system of control groups.
    """
    found = [*_machine(proc), *_groups(proc, cgroups), *_process(proc)]
    return min(found, default=None)


def resident_bytes() -> int:
    """Bytes of this process that are in memory now; 0: unknown."""
    return _fields(PROC / "self/status").get("VmRSS", 0)


def _machine(proc: Path) -> Iterator[FreeMemory]:
    available = _fields(proc / "meminfo").get("MemAvailable")
    if available is not None:
        yield FreeMemory(available, MACHINE)


def _groups(proc: Path, cgroups: Path) -> Iterator[FreeMemory]:
    """What each control group of this process leaves, and each group that contains it."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            roots = [cgroups, cgroups / "unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            roots = [cgroups / "memory"]
        else:
            continue
        for root in roots:
            folder = root / path.strip("/")
            for group in (folder, *folder.parents):
                if group.is_relative_to(root):
                    yield from _group(group, *names)


def _group(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[FreeMemory]:
    """What one control group leaves. The kernel gives its cached files up when memory is short."""
    most = _text(folder / limit).strip()
    used = _text(folder / usage).strip()
    if most.isdigit() and used.isdigit():
        cached = _fields(folder / "memory.stat").get(reclaimable, 0)
        yield FreeMemory(max(0, int(most) - int(used) + cached), CONTAINER)


def _process(proc: Path) -> Iterator[FreeMemory]:
    """What the process's own limits leave of its address space and its data."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    status = _fields(proc / "self/status")
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and field in status:
            yield FreeMemory(max(0, most - status[field]), PROCESS)


def _fields(file: Path) -> dict[str, int]:
    """The numbers of a file with one `name value` a line; `kB` are turned into bytes."""
    found: dict[str, int] = {}
    for line in _text(file).splitlines():
        name, *rest = line.replace(":", " ").split()[:3] or [""]
        if rest and rest[0].isdigit():
            found[name] = int(rest[0]) * (1024 if rest[1:] == ["kB"] else 1)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
