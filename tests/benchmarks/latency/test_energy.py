"""Energy from files like those of sysfs: counters, counter overflow, a Jetson's rails, nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgewright.benchmarks.latency.energy import EnergyMeter


def put(file: Path, value: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{value}\n")
    return file


def test_counters_are_added_up_and_may_go_round(tmp_path: Path) -> None:
    zones = [tmp_path / "class/powercap" / f"intel-rapl:{i}" for i in range(2)]
    for zone, begun in zip(zones, (5_000_000, 9_000_000), strict=True):
        put(zone / "energy_uj", begun)
        put(zone / "max_energy_range_uj", 10_000_000)
    put(tmp_path / "class/powercap/intel-rapl:0:0/energy_uj", 1)  # a part of the first one
    with EnergyMeter(tmp_path) as meter:
        put(zones[0] / "energy_uj", 7_500_000)
        put(zones[1] / "energy_uj", 1_000_000)
    assert meter.joules == pytest.approx(2.5 + 2.0)


@pytest.mark.parametrize(
    ("labels", "watts"), [(("VDD_IN", "VDD_SOC"), 10.0), (("VDD_GPU", "VDD_SOC"), 12.0)]
)
def test_a_jetsons_rails_are_sampled(tmp_path: Path, labels: tuple[str, str], watts: float) -> None:
    for number, (label, milliamperes) in enumerate(zip(labels, (2000, 400), strict=True), 1):
        folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
        put(folder / f"in{number}_label", label)
        put(folder / f"in{number}_input", 5000)
        put(folder / f"curr{number}_input", milliamperes)
    begin = time.monotonic()
    with EnergyMeter(tmp_path) as meter:
        time.sleep(0.1)
    within = time.monotonic() - begin
    assert meter.joules is not None and 0.1 * watts * 0.9 <= meter.joules <= within * watts


def test_a_machine_that_does_not_tell_has_no_figure(tmp_path: Path) -> None:
    (tmp_path / "class/powercap/intel-rapl:0").mkdir(parents=True)
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules is None
