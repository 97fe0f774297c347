"""The memory of a build is compared with what the device has free, before the build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_jetson import SHORT

from edgewright.errors import EdgewrightError, Refused
from edgewright.export.tensorrt.build_memory import build_bytes, too_little_memory
from edgewright.targets import load_target
from edgewright.targets.bundle import Bundle, make_bundle, write_bundle
from edgewright.targets.device import engine
from edgewright.targets.options import BundleOptions
from edgewright.targets.preflight import problems

pytest_plugins = ["deploy_fixtures"]

NANO = "jetson-orin-nano-8gb"
GB = 1_000_000_000
OPTIONS = BundleOptions(prompt=SHORT[1], context=SHORT[3])


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        ({"MemAvailable": 3 * GB}, True),
        ({"MemAvailable": 2 * GB, "SwapFree": GB}, True),
        ({"MemAvailable": 3 * GB - 1, "SwapFree": 0}, False),
        ({}, True),
    ],
)
def test_three_times_the_weights_are_needed(memory: dict[str, int], fits: bool) -> None:
    assert (too_little_memory(GB, memory) is None) == fits


def test_the_refusal_says_what_fits() -> None:
    found = too_little_memory(2 * GB, {"MemAvailable": 4 * GB, "SwapFree": GB // 2})
    assert found is not None
    message, hint = found
    assert "6.00 GB to 8.00 GB" in message
    assert "4.50 GB of memory and swap are free" in message
    assert "enough for weights of 1.50 GB" in hint
    assert "add 1.50 GB of swap" in hint
    assert build_bytes(2 * GB) == (6 * GB, 8 * GB)


@pytest.fixture(scope="module")
def small(artifact: Path) -> Bundle:
    return make_bundle(artifact, load_target(NANO), OPTIONS)


def report_of(free: int) -> dict[str, Any]:
    """What `probe` says on a Jetson that has so little memory."""
    return {
        "python": "3.10.12",
        "disk_free_bytes": 1 << 40,
        "memory": {"MemAvailable": free, "SwapFree": 0},
        "l4t": "36.4.3",
        "tensorrt": "10.3.0",
        "trtexec": None,
        "board": "",
        "packages": {"tensorrt": "10.3.0", "tensorrt_rtx": None},
    }


def test_the_preflight_refuses(small: Bundle) -> None:
    size = small.model_bytes
    assert size > 1e6
    for free, refused in ((3 * size, False), (3 * size - 1, True)):
        found = problems(report_of(free), load_target(NANO), small, None, engine=True)
        fatal = [problem for problem in found if problem.fatal]
        assert bool(fatal) == refused
        assert all(problem.only_new and "3 to 4 times" in problem.message for problem in fatal)
    assert not any(
        p.fatal for p in problems(report_of(0), load_target(NANO), small, None, engine=False)
    )


def test_the_device_refuses_unless_forced(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(small, tmp_path / "bundle")
    monkeypatch.setattr(engine, "probe", lambda _: report_of(small.model_bytes))
    monkeypatch.setattr(engine, "tensorrt_module", lambda: None)
    with pytest.raises(Refused, match="building the engine takes 3 to 4 times the weights"):
        engine.build(folder)
    with pytest.raises(EdgewrightError, match="trtexec is not on this device"):
        engine.build(folder, force=True)
