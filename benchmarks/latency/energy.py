"""Measure the energy that a machine used while a model ran.

Two sources are supported: the energy counters of processors (powercap), and the power sensors of
a Jetson (INA3221). Both measure the whole machine, because no sensor separates processes. Only
sysfs is read. If neither source exists or may be read, there is no value.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; a Jetson may have 3.10

__all__ = ["EnergyMeter"]

SAMPLE_SECONDS = 0.02
TOTAL_RAIL = "VDD_IN"
"""The label of a Jetson's input rail, which feeds all other rails."""


class EnergyMeter:
    """Measures energy while its block runs. Afterwards `joules` is the result, or None.

    Args:
        root: the directory where sysfs is mounted.
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        self.joules: float | None = None
        zones = [
            zone
            for zone in sorted((root / "class/powercap").glob("*:[0-9]*"))
            if zone.name.count(":") == 1
        ]
        self._counters = [zone for zone in zones if _read(zone / "energy_uj") is not None]
        self._rails = [] if self._counters else _rails(root)
        self._begun: list[float] = []
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._begun = [_read(zone / "energy_uj") or 0.0 for zone in self._counters]
        if self._rails:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sampler:
            self._stop.set()
            self._sampler.join()
        elif self._counters:
            used = [
                _energy_since(zone, begun)
                for zone, begun in zip(self._counters, self._begun, strict=True)
            ]
            self.joules = sum(used) / 1e6

    def _sample(self) -> None:
        """Integrate power over time until the block ends; a sample counts since the last one."""
        total = 0.0
        last = time.monotonic()
        stopped = False
        while not stopped:
            stopped = self._stop.wait(SAMPLE_SECONDS)
            microwatts = sum(
                (_read(volts) or 0.0) * (_read(amperes) or 0.0) for volts, amperes in self._rails
            )
            now = time.monotonic()
            total += microwatts / 1e6 * (now - last)
            last = now
        self.joules = total


def _read(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None


def _energy_since(zone: Path, begun: float) -> float:
    """Microjoules since the counter had the value `begun`. It restarts at zero when it is full."""
    now = _read(zone / "energy_uj") or begun
    if now >= begun:
        return now - begun
    return now - begun + (_read(zone / "max_energy_range_uj") or 0.0)


def _rails(root: Path) -> list[tuple[Path, Path]]:
    """Files with the millivolts and milliamperes of the input rail, or else of all rails."""
    found: dict[str, tuple[Path, Path]] = {}
    for label in sorted(root.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        pair = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
        if all(_read(file) is not None for file in pair):
            found[label.read_text().strip()] = pair
    return [found[TOTAL_RAIL]] if TOTAL_RAIL in found else list(found.values())
