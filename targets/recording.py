"""Record tegrastats on the device while something else runs there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from .remote import Device
from .tegrastats import parse_samples, summarize

__all__ = ["Recording", "recorded"]

INTERVAL_MS = "500"
MAX_BYTES = 1 << 24
BLOCK = 1 << 16


class Recording:
    """What tegrastats has printed so far."""

    def __init__(self) -> None:
        self.text = bytearray()

    def metrics(self) -> dict[str, float]:
        """Power, clocks, temperature and memory by ledger name; empty without tegrastats."""
        samples = parse_samples(self.text.decode(errors="replace"))
        return summarize(samples) if samples else {}


@contextlib.asynccontextmanager
async def recorded(device: Device, report: Mapping[str, Any]) -> AsyncGenerator[Recording]:
    """Record while the block runs. A tegrastats whose connection is cut ends at its next line.

    Args:
        device: the connected device.
        report: the output of `probe`, which says where tegrastats is.
    """
    recording = Recording()
    if not report.get("tegrastats"):
        yield recording
        return
    process = await device.start(report["tegrastats"], "--interval", INTERVAL_MS)

    async def keep() -> None:
        while block := await process.stdout.read(BLOCK):
            if len(recording.text) < MAX_BYTES:
                recording.text += block

    keeping = asyncio.ensure_future(keep())
    try:
        yield recording
    finally:
        keeping.cancel()
        with contextlib.suppress(OSError):
            process.terminate()
        process.close()
