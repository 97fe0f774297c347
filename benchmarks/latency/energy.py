"""Energy that a round took, where the machine tells: counters of processors (powercap) or the power rails of a Jetson (INA3221).

The whole machine's, as nothing tells it by process. Reads sysfs only; where neither is there, or may not be read, there is no figure.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; a Jetson's may be 3.10

__all__ = ["EnergyMeter"]

SAMPLE_SECONDS = 0.02
TOTAL_RAIL = "VDD_IN"
"""What a Jetson calls the input that all of its rails are fed from."""


class EnergyMeter:
    """Measures between entering and leaving; `joules` is None where the machine does not tell.

    Args:
        root: where sysfs is.
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        self.joules: float | None = None
        self._counters = [
            zone
            for zone in sorted((root / "class/powercap").glob("*:[0-9]*"))
            if zone.name.count(":") == 1
        ]
        self._counters = [zone for zone in self._counters if _read(zone / "energy_uj") is not None]
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
            self.joules = (
                sum(
                    _since(zone, begun)
                    for zone, begun in zip(self._counters, self._begun, strict=True)
                )
                / 1e6
            )

    def _sample(self) -> None:
        """Add up power by time, a rectangle a sample."""
        total, last = 0.0, time.monotonic()
        stopped = False
        while not stopped:
            stopped = self._stop.wait(SAMPLE_SECONDS)
            watts = (
                sum(
                    (_read(volts) or 0.0) * (_read(amperes) or 0.0)
                    for volts, amperes in self._rails
                )
                / 1e6
            )
            now = time.monotonic()
            total, last = total + watts * (now - last), now
        self.joules = total


def _read(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None


def _since(zone: Path, begun: float) -> float:
    """Microjoules since then; a counter that has gone round starts again from zero."""
    now = _read(zone / "energy_uj") or begun
    return (
        now - begun if now >= begun else now - begun + (_read(zone / "max_energy_range_uj") or 0.0)
    )


def _rails(root: Path) -> list[tuple[Path, Path]]:
    """The millivolts and milliamperes of a Jetson's input, or of all of its rails where none is called that."""
    found: dict[str, tuple[Path, Path]] = {}
    for label in sorted(root.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        pair = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if all(_read(file) is not None for file in pair):
            found[label.read_text().strip()] = pair
    return [found[TOTAL_RAIL]] if TOTAL_RAIL in found else list(found.values())
