"""The memory that is left: of the machine, its containers of both versions, and the process."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.free_memory import FreeMemory, free_memory, memory_left, resident_bytes

GB = 10**9
MEMINFO = "MemTotal:       24000000 kB\nMemAvailable:    9765625 kB\n"  # 10 GB available


def machine(root: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A made-up /proc and /sys/fs/cgroup."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self/cgroup").write_text(groups)
    (proc / "self/status").write_text("VmSize:\t 976563 kB\nVmData:\t 97656 kB\nVmRSS:\t 500 kB\n")
    cgroups = root / "cgroup"
    cgroups.mkdir()
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


V1 = {
    "memory/box/memory.limit_in_bytes": "4000000000\n",
    "memory/box/memory.usage_in_bytes": "1500000000\n",
    "memory/box/memory.stat": "cache 1\ntotal_inactive_file 500000000\n",
}
V2 = {
    "a/b/memory.max": "max\n",
    "a/b/memory.current": "5\n",
    "a/memory.max": "4000000000\n",
    "a/memory.current": "1500000000\n",
    "a/memory.stat": "anon 1\ninactive_file 500000000\n",
}
INSIDE = {"memory.max": "4000000000\n", "memory.current": "1500000000\n", "memory.stat": ""}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, FreeMemory(10 * GB, "the machine")),
        ("7:memory:/box\n0::/\n", V1, FreeMemory(3 * GB, "its container")),
        ("7:cpu,memory:/box/gone\n", V1, FreeMemory(3 * GB, "its container")),
        ("0::/a/b\n", V2, FreeMemory(3 * GB, "its container")),
        ("0::/\n", INSIDE, FreeMemory(5 * GB // 2, "its container")),
        ("0::/\n", {f"unified/{k}": v for k, v in INSIDE.items()}, FreeMemory(5 * GB // 2, "")),
        ("7:memory:/box\n", V1 | {"memory/box/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("7:memory:/box\n", V1 | {"memory/box/memory.limit_in_bytes": "1000\n"}, FreeMemory(0, "")),
        ("nonsense\n7:memory\n", V1, None),
    ],
)
def test_the_least_of_all_limits(
    groups: str, files: dict[str, str], expected: FreeMemory | None, tmp_path: Path
) -> None:
    left = memory_left(*machine(tmp_path, groups, files))
    assert left is not None
    wanted = expected or FreeMemory(10 * GB, "the machine")
    assert left.bytes == wanted.bytes
    assert left.limit == (wanted.limit or "its container")


@pytest.mark.parametrize(
    ("kind", "used"), [(resource.RLIMIT_AS, 976563), (resource.RLIMIT_DATA, 97656)]
)
def test_a_limit_of_the_process_counts(
    kind: int, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getrlimit(asked: int) -> tuple[int, int]:
        return (3 * GB, -1) if asked == kind else (resource.RLIM_INFINITY, -1)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    left = memory_left(*machine(tmp_path, "", {}))
    assert left == FreeMemory(3 * GB - 1024 * used, "the limit of the process (ulimit -v)")


def test_unknown_without_the_files(tmp_path: Path) -> None:
    assert memory_left(tmp_path, tmp_path) is None


def test_this_process_has_memory() -> None:
    assert resident_bytes() > 10**7
    assert (free_memory() or 0) > 10**7


def test_the_real_limit_of_a_process_is_seen() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, -1));"
        "from edgewright.checkpoints.free_memory import memory_left; print(memory_left())"
    )
    printed: Any = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "ulimit" in printed.stdout
