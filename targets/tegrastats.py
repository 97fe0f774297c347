"""Parse the output of tegrastats: power, clocks, memory and temperature of a Jetson.

tegrastats prints one line per sample. The order of the fields differs between JetPack releases,
and a field that a line does not have is None here. From JetPack 6 on, only root sees the clock of
the memory controller (EMC). JetPack 4 prints power as a number, later releases with the unit mW.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

__all__ = ["Sample", "parse_samples", "summarize"]

RAM = re.compile(r"\bRAM (\d{1,18})/(\d{1,18})MB(?: \(lfb (\d{1,18})x(\d{1,18})(k|M)B\))?")
SWAP = re.compile(r"\bSWAP (\d{1,18})/(\d{1,18})MB")
ENGINE = r"\b{}_FREQ (\d{{1,18}})%(?:@\[?(\d{{1,18}}(?:,\d{{1,18}})*))?(?![\d%])"
GPU = re.compile(ENGINE.format("GR3D"))
EMC = re.compile(ENGINE.format("EMC"))
TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
RAIL = re.compile(r"\b(V[A-Z]+_\w+|POM_\w+) (\d{1,18})(?:mW)?/\d+(?:mW)?(?= |$)")
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
"""Power of the whole module, if the board measures it. AGX Orin does not: its rails are added."""
OFFLINE = -200.0
"""A sensor below this value (°C) is switched off; such sensors report -256 °C."""


@dataclass(frozen=True)
class Sample:
    """One line of tegrastats. Units: MB, percent, MHz, °C and mW.

    Attributes:
        largest_free_kb: size of the largest free block of memory.
        power_mw: rail -> its momentary power.
        temperature_c: sensor -> temperature, for sensors that are on.
    """

    ram_used_mb: int
    ram_total_mb: int
    largest_free_kb: int | None = None
    swap_used_mb: int | None = None
    gpu_percent: int | None = None
    gpu_mhz: int | None = None
    emc_percent: int | None = None
    emc_mhz: int | None = None
    temperature_c: dict[str, float] = field(default_factory=dict)
    power_mw: dict[str, int] = field(default_factory=dict)

    @property
    def total_mw(self) -> int | None:
        """Power of the module: its input rail, or else the sum of all rails; None without any."""
        for rail in INPUT_RAILS:
            if rail in self.power_mw:
                return self.power_mw[rail]
        return sum(self.power_mw.values()) if self.power_mw else None


def parse_samples(text: str) -> list[Sample]:
    """All complete samples of a log. Other lines, and an incomplete last line, are ignored."""
    whole = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    return [sample for sample in map(_sample, whole) if sample]


def _sample(line: str) -> Sample | None:
    memory = RAM.search(line)
    if not memory:
        return None
    swap = SWAP.search(line)
    gpu = GPU.search(line)
    emc = EMC.search(line)
    block = int(memory[4]) * (1024 if memory[5] == "M" else 1) if memory[4] else None
    return Sample(
        int(memory[1]),
        int(memory[2]),
        block,
        int(swap[1]) if swap else None,
        *_engine(gpu),
        *_engine(emc),
        {name: float(value) for name, value in TEMPERATURE.findall(line) if float(value) > OFFLINE},
        {name: int(value) for name, value in RAIL.findall(line)},
    )


def _engine(found: re.Match[str] | None) -> tuple[int | None, int | None]:
    if found is None:
        return None, None
    clocks = found[2].split(",") if found[2] else []  # one for each cluster
    return int(found[1]), max(map(int, clocks)) if clocks else None


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """Metrics of a log by ledger name. Values that no sample has are left out.

    Returns:
        Names that begin with `device/`: the means power_w, gpu_mhz, emc_mhz and gpu_percent, the
        maxima power_w/max, temperature_c/max, ram_used_bytes/max and swap_used_bytes/max, and
        samples, the number of samples.
    """
    power = [s.total_mw / 1000 for s in samples if s.total_mw is not None]
    averaged: dict[str, list[float]] = {
        "gpu_mhz": [s.gpu_mhz for s in samples if s.gpu_mhz is not None],
        "emc_mhz": [s.emc_mhz for s in samples if s.emc_mhz is not None],
        "gpu_percent": [s.gpu_percent for s in samples if s.gpu_percent is not None],
        "power_w": power,
    }
    maximized: dict[str, list[float]] = {
        "power_w": power,
        "temperature_c": [max(s.temperature_c.values()) for s in samples if s.temperature_c],
        "ram_used_bytes": [s.ram_used_mb * 1024.0**2 for s in samples],
        "swap_used_bytes": [
            s.swap_used_mb * 1024.0**2 for s in samples if s.swap_used_mb is not None
        ],
    }
    metrics = {f"device/{name}": mean(values) for name, values in averaged.items() if values}
    metrics |= {f"device/{name}/max": max(values) for name, values in maximized.items() if values}
    return metrics | {"device/samples": float(len(samples))}
