"""Hidden states of all calibration rows: in memory up to a budget, and in a file beyond it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import Refused

__all__ = ["Activations", "ActivationBuffer"]


@dataclass
class ActivationBuffer:
    """Where hidden states may be kept.

    Attributes:
        budget: bytes that one set of states may take in memory; no limit, if nothing is said.
        folder: where the files of the others go. They have no name there and vanish with the process, however it ends.
    """

    budget: int | None = None
    folder: Path = Path()

    def part(self, count: int) -> ActivationBuffer:
        """One of `count` equal parts."""
        return ActivationBuffer(None if self.budget is None else self.budget // count, self.folder)

    def allocate(
        self, rows: int, seq: int, width: int, device: torch.device | str = "cpu"
    ) -> Activations:
        """ActivationBuffer for float32 [rows, seq, width]; they come back on `device`.

        Raises:
            Refused: they do not fit into the budget, and the disk has no room for the others.
        """
        row = 4 * seq * width
        held = rows if self.budget is None else min(rows, self.budget // row)
        return Activations((rows, seq, width), held, self.folder, torch.device(device))


class Activations:
    """Float32 [rows, seq, width] that is read and written by rows; those that are not held in memory lie in a file.

    The file is read and written, not mapped: a mapped one would count as memory of the process, and a full disk would
    kill it. Its space is taken beforehand, so that it cannot run out later.
    """

    def __init__(
        self, shape: tuple[int, int, int], held: int, folder: Path, device: torch.device
    ) -> None:
        self.shape, self.device = shape, device
        self._memory = torch.empty(held, *shape[1:])
        self._row = 4 * shape[1] * shape[2]
        self._file = _file(folder, (shape[0] - held) * self._row) if held < shape[0] else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> Tensor:
        """A copy of these rows, [rows, seq, width], on the device."""
        begin, end = self._range(rows)
        parts = [self._memory[begin:end].clone()] if begin < len(self._memory) else []
        if self._file and end > len(self._memory):
            first = max(begin, len(self._memory))
            spilt = torch.empty(end - first, *self.shape[1:])
            self._file.seek((first - len(self._memory)) * self._row)
            self._file.readinto(_bytes(spilt))
            parts.append(spilt)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.device)

    def __setitem__(self, rows: int | slice, states: Tensor) -> None:
        begin, end = self._range(rows)
        states = states.detach().to("cpu", torch.float32)
        kept = max(0, min(end, len(self._memory)) - begin)
        if kept:
            self._memory[begin : begin + kept] = states[:kept]
        if self._file and kept < end - begin:
            self._file.seek((begin + kept - len(self._memory)) * self._row)
            self._file.write(_bytes(states[kept:].contiguous()))

    def copy_to(self, file: BufferedWriter) -> None:
        """Write all of it, row after row."""
        if len(self._memory):
            file.write(_bytes(self._memory))
        for row in range(len(self._memory), len(self)):
            file.write(_bytes(self[row].cpu()))

    def fill_from(self, file: BufferedReader) -> None:
        """Read what `copy_to` wrote.

        Raises:
            ValueError: there are more or fewer bytes.
        """
        read = file.readinto(_bytes(self._memory)) if len(self._memory) else 0
        row = torch.empty(1, *self.shape[1:])
        for number in range(len(self._memory), len(self)):
            read += file.readinto(_bytes(row))
            self[number] = row
        if read != len(self) * self._row or file.read(1):
            raise ValueError(f"not {len(self)} rows of {self._row} bytes")

    def _range(self, rows: int | slice) -> tuple[int, int]:
        if isinstance(rows, int):
            rows = slice(rows, rows + 1)
        begin, end, _ = rows.indices(self.shape[0])
        return begin, end


def _file(folder: Path, size: int) -> Any:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = tempfile.TemporaryFile(dir=folder)
        os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as error:
        free = shutil.disk_usage(folder if folder.is_dir() else Path()).free
        raise Refused(
            f"{folder}: {size / 1e9:.1f} GB of activations do not fit: {error.strerror} ({free / 1e9:.1f} GB free)",
            "free disk space, raise --activation-budget, or calibrate on fewer --samples",
        ) from error
    return handle


def _bytes(states: Tensor) -> memoryview:
    return states.numpy().data.cast("B")
