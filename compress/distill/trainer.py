"""One training loop, on accelerate, for all losses.

An *objective* is trained: a module that holds the student (and other trained parts, such as
projections). Its forward takes ids [batch, seq] and labels [batch, seq] and returns a scalar loss.
The loop knows nothing else, so the same code serves one process or many, with whole weights in each
(DDP) or a part (FSDP2, ZeRO-3). An objective may have three more members:

    loss_count(ids, labels)         number of values that the loss is a mean over; default: the rows
    untrained                       parameters that get no gradient
    replace_rows(ids, labels, rows) ids and labels to use instead; `rows` are their numbers
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ...console import progress
from ...errors import EdgewrightError
from .early_stop import EarlyStopping
from .optimizers import TrainConfig
from .prepared_objective import NotFinite, PreparedObjective, batches
from .tracking import open_tracker

__all__ = ["StateSaver", "TrainConfig", "train"]

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says on a CPU when memory runs out."""


class StateSaver(Protocol):
    """Saves the state of a training."""

    def restore(self, accelerator: Accelerator) -> tuple[int, list[float]]:
        """Load the saved state into what `accelerator` has prepared.

        Returns:
            The number of steps done, and their losses.
        """
        ...

    def restore_weights(self, model: nn.Module) -> None:
        """Load the newest saved weights into a model, if there are any."""
        ...

    def save_if_due(self, accelerator: Accelerator, step: int, losses: list[float]) -> None:
        """Save the state after `step` steps, if it is time."""
        ...


def train(
    objective: nn.Module,
    rows: Iterable[Tensor],
    config: TrainConfig,
    label: str = "training",
    after_step: Callable[[], None] | None = None,
    saver: StateSaver | None = None,
    early_stopping: EarlyStopping | None = None,
) -> list[float]:
    """Minimize `objective` over `rows` and return the loss of every step.

    Args:
        objective: see the top of this file.
        rows: int64 [2, seq_len] each, from the first step on; the same in every process.
        config: how long and how fast to train.
        label: title of the progress bar.
        after_step: called after every optimizer step, to restore what a step must not change.
        saver: saves the state at intervals, and restores that of an interrupted run.
        early_stopping: may end the training; restores the weights of the lowest held-out loss.

    Raises:
        NotFinite: the loss or its gradient is not finite; the step is not taken.
        EdgewrightError: the data or the memory ran out; or as `PreparedObjective`.
    """
    prepared = PreparedObjective(objective, config, label, early_stopping)
    begin, losses = saver.restore(prepared.accelerator) if saver else (0, [])
    supply = batches(itertools.islice(rows, begin * config.batch_size, None), config.batch_size)
    started = time.monotonic()
    tracker = open_tracker(prepared.accelerator, config.tracking, begin)
    with tracker, progress(label, config.steps) as bar:
        bar.advance(begin)
        if not begin:
            prepared.measure(0)
        for step in range(begin, config.steps):
            if early_stopping and early_stopping.over:
                break
            batch = _next_batch(supply, config, label, step)
            losses.append(_guarded_step(prepared, step, batch, saver))
            if after_step:
                after_step()
            prepared.measure(step + 1)
            if saver:
                saver.save_if_due(prepared.accelerator, step + 1, losses)
            tokens = (step + 1 - begin) * batch[:, 0].numel()
            speed = tokens / (time.monotonic() - started)
            bar.advance(note=f"loss {losses[-1]:.4f}, {speed:,.0f} tokens/s")
    if early_stopping:
        early_stopping.restore_best(objective)
    prepared.finish()
    return losses


def _next_batch(supply: Iterator[Tensor], config: TrainConfig, label: str, step: int) -> Tensor:
    """Return the next whole batch int64 [batch, 2, seq]."""
    batch = next(supply, None)
    if batch is None or len(batch) < config.batch_size:
        raise EdgewrightError(
            f"{label}: the data ran out at step {step} of {config.steps}", "give more data"
        )
    return batch


def _guarded_step(
    prepared: PreparedObjective, step: int, batch: Tensor, saver: StateSaver | None
) -> float:
    """Take a step; if its loss is not finite, restore the last saved weights and raise."""
    try:
        with _explain_out_of_memory(prepared.label, step, prepared.rows_at_once, batch.shape[2]):
            return prepared.step(step, batch)
    except NotFinite:
        if saver:
            saver.restore_weights(prepared.model)
        raise


@contextmanager
def _explain_out_of_memory(label: str, step: int, rows: int, length: int) -> Iterator[None]:
    """Turn an out-of-memory error into a message that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        message = str(error)
        if type(error) is RuntimeError and not any(
            sign in message.lower() for sign in OUT_OF_MEMORY
        ):
            raise
        raise EdgewrightError(
            f"{label}: out of memory at step {step}, with {rows} rows of {length} tokens at a "
            f"time: {message.splitlines()[0]}",
            f"raise --accumulate (the same {rows} rows in more parts), recompute layers with "
            "--checkpoint-layers, or lower --batch-size or --seq-len; a teacher may be kept on "
            "disk with --teacher-cache",
        ) from error
