"""The rows that stages are trained on, and the rows that are held out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ...checkpoints.tokenizer import load_tokenizer
from ...data.packing import Encoded, shuffled_forever
from ...data.rows import RowReport
from ...data.sources import Source, training_rows
from ...errors import UsageError
from ...steps.context import as_tensor
from .options import DistillOptions, Stage

__all__ = ["StageRows"]


class StageRows:
    """Training and held-out rows of all stages of a distillation.

    A stage continues where the previous stage with the same data stopped.

    Args:
        options: of the distillation.
        tokenizer_dir: directory of the tokenizer.
        seed: of the order, and of generated data.
    """

    def __init__(self, options: DistillOptions, tokenizer_dir: Path, seed: int) -> None:
        self._options = options
        self._tokenizer_dir = tokenizer_dir
        self._seed = seed
        self._streams: dict[str, Iterator[Tensor]] = {}
        self._reports: dict[str, RowReport] = {}

    def of(self, stage: Stage) -> Iterator[Tensor]:
        """Return the rows of a stage, int64 [2, seq].

        Use them up before you ask for those of the next stage.

        Raises:
            UsageError: the data is broken or too small.
        """
        data = self._options.data_of(stage)
        if data not in self._streams:
            self._streams[data] = self._endless(data)
        return itertools.islice(self._streams[data], stage.steps * self._options.batch_size)

    def held_out(self, stage: Stage) -> list[Tensor]:
        """Return the rows at the end of a stage's data, which no stage trains on.

        Built-in data has no end: its held-out rows come from another seed.
        """
        data = self._options.data_of(stage)
        return [as_tensor(row) for row in self._split(data)[1]]

    def notes(self) -> list[str]:
        """Notes about the rows of the data that were not used whole, after it was read."""
        return [note for data, report in self._reports.items() for note in report.notes(data)]

    def _endless(self, data: str) -> Iterator[Tensor]:
        """Rows without end: built-in data generates them, files repeat in shuffled epochs."""
        if Source.parse(data).generated:
            return (as_tensor(row) for row in self._packed(data, self._seed))
        return (as_tensor(row) for row in shuffled_forever(self._split(data)[0], self._seed))

    def _split(self, data: str) -> tuple[list[Encoded], list[Encoded]]:
        """Return training rows and held-out rows."""
        count = self._options.hold_out
        if Source.parse(data).generated:
            return [], list(itertools.islice(self._packed(data, self._seed + 1), count))
        every = list(self._packed(data, self._seed))
        if len(every) <= count:
            raise UsageError(
                f"{data}: {len(every)} rows, all of which are held out",
                "give more data, or hold fewer rows out",
            )
        return every[: len(every) - count], every[len(every) - count :]

    def _packed(self, data: str, seed: int) -> Iterator[Encoded]:
        self._reports[data] = RowReport(self._options.bad_rows)  # of the latest pass over the data
        return training_rows(
            load_tokenizer(self._tokenizer_dir),
            Source.parse(data),
            self._options.seq_len,
            seed,
            report=self._reports[data],
        )
