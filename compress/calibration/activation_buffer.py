"""Stores the hidden states of all calibration rows: in memory up to a budget, on disk beyond it."""

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

from ...checkpoints.disk import disk_error, is_full
from ...errors import NoSpace

__all__ = ["ActivationBuffer", "Activations"]


@dataclass
class ActivationBuffer:
    """Allocates storage for hidden states.

    Attributes:
        budget: bytes of memory that one set of states may take; None: no limit.
        folder: directory for the rows beyond the budget. The files there have no name, so that
            they disappear when the process ends, even if it is killed.
    """

    budget: int | None = None
    folder: Path = Path()

    def part(self, count: int) -> ActivationBuffer:
        """The same folder with an equal share of the budget, for one of `count` sets of states."""
        return ActivationBuffer(None if self.budget is None else self.budget // count, self.folder)

    def allocate(
        self,
        rows: int,
        seq: int,
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Activations:
        """Reserve space for states [rows, seq, width].

        Args:
            rows: calibration rows.
            seq: tokens of a row.
            width: channels.
            device: where rows are put when they are read.
            dtype: type in which the states are kept.

        Raises:
            Refused: the disk has no space for the rows beyond the budget.
        """
        row = dtype.itemsize * seq * width
        held = rows if self.budget is None else min(rows, self.budget // row)
        return Activations((rows, seq, width), held, self.folder, torch.device(device), dtype)


class Activations:
    """States [rows, seq, width], read and written by rows.

    Rows beyond the budget are in a file. It is not memory-mapped: mapped pages count as
    memory of the process, and a full disk would kill the process. The space on disk is reserved at
    the start, so it cannot run out later.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        held: int,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape = shape
        self.device = device
        self._memory = torch.empty(held, *shape[1:], dtype=dtype)
        self._row = dtype.itemsize * shape[1] * shape[2]
        self._file = _file(folder, (shape[0] - held) * self._row) if held < shape[0] else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> Tensor:
        """A copy of these rows, [rows, seq, width], on the device."""
        begin, end = self._range(rows)
        parts = [self._memory[begin:end].clone()] if begin < len(self._memory) else []
        if self._file and end > len(self._memory):
            first = max(begin, len(self._memory))
            spilt = torch.empty(end - first, *self.shape[1:], dtype=self._memory.dtype)
            self._file.seek((first - len(self._memory)) * self._row)
            self._file.readinto(_bytes(spilt))
            parts.append(spilt)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.device)

    def __setitem__(self, rows: int | slice, states: Tensor) -> None:
        begin, end = self._range(rows)
        states = states.detach().to("cpu", self._memory.dtype)
        kept = max(0, min(end, len(self._memory)) - begin)
        if kept:
            self._memory[begin : begin + kept] = states[:kept]
        if self._file and kept < end - begin:
            self._file.seek((begin + kept - len(self._memory)) * self._row)
            self._file.write(_bytes(states[kept:].contiguous()))

    def copy_to(self, file: BufferedWriter) -> None:
        """Write all rows to a file."""
        if len(self._memory):
            file.write(_bytes(self._memory))
        for row in range(len(self._memory), len(self)):
            file.write(_bytes(self[row].cpu()))

    def fill_from(self, file: BufferedReader) -> None:
        """Read all rows from a file that `copy_to` wrote.

        Raises:
            ValueError: the file has the wrong size.
        """
        read = file.readinto(_bytes(self._memory)) if len(self._memory) else 0
        row = torch.empty(1, *self.shape[1:], dtype=self._memory.dtype)
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
    """An open file without a name, with `size` bytes reserved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closes with the states)
        os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as error:
        if not is_full(error):
            raise disk_error(folder, error) from error
        free = shutil.disk_usage(folder if folder.is_dir() else Path()).free
        raise NoSpace(
            f"{folder}: {size / 1e9:.1f} GB of activations do not fit: {error.strerror} "
            f"({free / 1e9:.1f} GB free)",
            "free disk space, raise --activation-budget, or calibrate on fewer --samples",
        ) from error
    return handle


def _bytes(states: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, to read into or write from."""
    return states.view(torch.uint8).numpy().data.cast("B")  # numpy knows no bfloat16
