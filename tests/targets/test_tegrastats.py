"""Parsing tegrastats: the output of each board, the summary, and incomplete lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.targets.tegrastats import parse_samples, summarize

NANO = (
    "03-14-2026 15:09:26 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU "
    "[38%@1497,2%@729,off,off,1%@729,0%@729] "
    "EMC_FREQ 61%@3199 GR3D_FREQ 99%@[1020] NVDEC off APE 200 cpu@57.125C soc2@55.093C "
    "gpu@58.625C tj@58.312C "
    "VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/2988mW\n"
)
AGX = (
    "03-14-2026 15:09:26 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU "
    "[0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 7%@[611,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2300mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW\n"
)
USER = (
    "RAM 1224/15368MB (lfb 8x4MB) SWAP 0/7684MB CPU [1%@729] EMC_FREQ 25% GR3D_FREQ 88% "
    "gpu@61.0C VDD_IN 12800/11500\n"
)


def test_tegrastats_of_each_board() -> None:
    nano, agx, user = (parse_samples(line)[0] for line in (NANO, AGX, USER))
    assert (nano.ram_used_mb, nano.ram_total_mb, nano.largest_free_kb, nano.swap_used_mb) == (
        6712,
        7620,
        4096,
        369,
    )
    assert (nano.gpu_percent, nano.gpu_mhz, nano.emc_percent, nano.emc_mhz) == (99, 1020, 61, 3199)
    assert nano.total_mw == 16321  # the input rail, and not the rails behind it on top
    assert (agx.gpu_mhz, agx.emc_mhz, agx.total_mw) == (1300, 2133, 2340 + 390 + 4025 + 301)
    assert agx.temperature_c == {"CPU": 44.562, "Tboard": 32.0, "tj": 44.343}  # CV0 is off
    assert (user.gpu_percent, user.gpu_mhz, user.emc_mhz, user.total_mw) == (88, None, None, 12800)


def test_tegrastats_summary() -> None:
    text = (
        NANO + "\n" + NANO.replace("16321mW/", "14322mW/").replace("[1020]", "[918]") + NANO[:-40]
    )
    assert summarize(parse_samples(text)) == pytest.approx(
        {
            "device/gpu_mhz": 969,
            "device/emc_mhz": 3199,
            "device/gpu_percent": 99,
            "device/power_w": 15.3215,
            "device/power_w/max": 16.321,
            "device/temperature_c/max": 58.625,
            "device/ram_used_bytes/max": 6712 * 1024**2,
            "device/swap_used_bytes/max": 369 * 1024**2,
            "device/samples": 2,
        }
    )
    assert summarize([]) == {"device/samples": 0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(NANO) - 2))
def test_a_truncated_sample_is_no_sample(cut: int) -> None:
    assert parse_samples(NANO[:cut]) == []
    assert parse_samples(AGX + NANO[:cut]) == parse_samples(AGX)
