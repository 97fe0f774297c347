"""The rows that stages learn on, each after the one before it that has the same data, and those that are held out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ...checkpoints.loading import load_tokenizer
from ...data.packing import Encoded, shuffled_forever
from ...data.sources import Source, training_rows
from ...errors import UsageError
from ...steps.context import as_tensor
from .options import DistillOptions, Stage

__all__ = ["Rows"]


class Rows:
    """What the stages of a distillation learn on.

    Args:
        options: of the distillation.
        tokenizer_dir: whose tokenizer to use.
        seed: of the order, and of generated data.
    """

    def __init__(self, options: DistillOptions, tokenizer_dir: Path, seed: int) -> None:
        self._options, self._tokenizer_dir, self._seed = options, tokenizer_dir, seed
        self._streams: dict[str, Iterator[Tensor]] = {}

    def of(self, stage: Stage) -> Iterator[Tensor]:
        """The rows of a stage, int64 [2, seq]; to be used up before the next one's.

        Raises:
            UsageError: the data is broken or too small.
        """
        data = self._options.data_of(stage)
        if data not in self._streams:
            self._streams[data] = self._forever(data)
        return itertools.islice(self._streams[data], stage.steps * self._options.batch_size)

    def held_out(self, stage: Stage) -> list[Tensor]:
        """The rows at the end of a stage's data that no stage learns on; of built-in data, which has no end, such of another seed."""
        data = self._options.data_of(stage)
        return [as_tensor(row) for row in self._split(data)[1]]

    def _forever(self, data: str) -> Iterator[Tensor]:
        """Rows without end: a generator is endless itself, files go round in shuffled epochs."""
        if Source.parse(data).kind == "builtin":
            return (as_tensor(row) for row in self._packed(data, self._seed))
        return (as_tensor(row) for row in shuffled_forever(self._split(data)[0], self._seed))

    def _split(self, data: str) -> tuple[list[Encoded], list[Encoded]]:
        """Rows to learn on and held-out ones."""
        count = self._options.hold_out
        if Source.parse(data).kind == "builtin":
            return [], list(itertools.islice(self._packed(data, self._seed + 1), count))
        every = list(self._packed(data, self._seed))
        if len(every) <= count:
            raise UsageError(
                f"{data}: {len(every)} rows, all of which are held out",
                "give more data, or hold fewer rows out",
            )
        return every[: len(every) - count], every[len(every) - count :]

    def _packed(self, data: str, seed: int) -> Iterator[Encoded]:
        return training_rows(
            load_tokenizer(self._tokenizer_dir), Source.parse(data), self._options.seq_len, seed
        )
