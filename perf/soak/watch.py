"""What the soak test measures of the server while clients use it: /health, memory, open files."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Samples", "Watch", "cpu_seconds", "health", "open_files", "resident_bytes", "slope"]

PATIENCE = 60.0


def health(port: int) -> dict[str, Any]:
    """What `/health` says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def open_files(pid: int) -> int:
    """Number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope: units of `values` a second."""
    return float(np.polyfit(times, values, 1)[0]) if len(times) > 1 else 0.0


@dataclass
class Samples:
    """Measurements over time.

    Attributes:
        times: seconds since the start of each sample of memory and files.
        resident: resident bytes.
        files: open file descriptors.
        health_seconds: how long each `/health` took.
        failed: calls of `/health` that got no answer.
    """

    times: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def memory_slope(self, warm_up: float) -> float:
        """Growth of resident memory after a warm-up of so many seconds, in MB a minute."""
        after = [
            (time, value)
            for time, value in zip(self.times, self.resident, strict=True)
            if time >= warm_up
        ]
        return slope([time for time, _ in after], [value for _, value in after]) * 60 / 1e6


class Watch:
    """Takes a sample every so many seconds, in a thread, until it is stopped."""

    def __init__(self, port: int, pid: int, seconds: float = 0.5) -> None:
        self.samples = Samples()
        self._port = port
        self._pid = pid
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> Samples:
        """All samples."""
        self._ended.set()
        self._thread.join()
        return self.samples

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            began = time.perf_counter()
            try:
                health(self._port)
                self.samples.health_seconds.append(time.perf_counter() - began)
            except (OSError, ValueError, http.client.HTTPException):
                self.samples.failed += 1
            self.samples.times.append(time.monotonic() - self._began)
            self.samples.resident.append(resident_bytes(self._pid))
            self.samples.files.append(open_files(self._pid))
