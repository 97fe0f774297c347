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
UNTIL_INPUT_ENDS = '"$1" --interval "$2" & recorder=$!; cat >/dev/null; kill $recorder; wait'
"""A cut connection ends the input too, so tegrastats never stays."""
STOP_SECONDS = 10.0
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
    """Record while the block runs.

    Args:
        device: the connected device.
        report: the output of `probe`, which says where tegrastats is.
    """
    recording = Recording()
    if not report.get("tegrastats"):
        yield recording
        return
    words = ("sh", "-c", UNTIL_INPUT_ENDS, "sh", report["tegrastats"], INTERVAL_MS)
    process = await device.start(*words)

    async def keep() -> None:
        while block := await process.stdout.read(BLOCK):
            if len(recording.text) < MAX_BYTES:
                recording.text += block

    keeping = asyncio.ensure_future(keep())
    try:
        yield recording
    finally:
        keeping.cancel()
        with contextlib.suppress(OSError, TimeoutError):
            process.stdin.write_eof()
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait_closed()
        process.close()
