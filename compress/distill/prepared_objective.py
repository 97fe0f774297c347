"""An objective with its optimizers, prepared by accelerate: one training step, one measurement.

Every process reads the whole batch of a step and trains on its share of the rows. A share's loss is
weighted by the number of values that it is a mean over. So all shares together have the loss of the
whole batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from ...checkpoints.compute_dtype import uses_bf16
from ...errors import EdgewrightError, UsageError
from .early_stop import EarlyStopping
from .losses import scored_labels
from .optimizers import TrainConfig, optimizers_of
from .sharding import is_sharded, shard_on_cpu, sharding_requested

__all__ = ["NotFinite", "PreparedObjective", "batches"]


class NotFinite(EdgewrightError):
    """The loss or its gradient is NaN or infinite."""


def batches(rows: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Stack rows (each int64 [2, seq_len]: ids and labels) into batches [batch, 2, seq_len]."""
    iterator = iter(rows)
    while group := list(itertools.islice(iterator, batch_size)):
        yield torch.stack(group)


class PreparedObjective:
    """An objective with optimizers and schedules, prepared for the processes of this run.

    Args:
        objective: see trainer.py.
        config: how long and how fast to train.
        label: starts error messages.
        early_stopping: gets the held-out losses, if there is one.

    Raises:
        UsageError: the rows of a step cannot be divided evenly.
        EdgewrightError: sharded weights were asked for, and accelerate did not shard them.
    """

    def __init__(
        self,
        objective: nn.Module,
        config: TrainConfig,
        label: str,
        early_stopping: EarlyStopping | None = None,
    ) -> None:
        self.accelerator = _accelerator(config)
        self.config = config
        self.label = label
        self.objective = objective
        self.early_stopping = early_stopping
        count = self.accelerator.num_processes
        self.rows_at_once, rest = divmod(config.batch_size, count * config.accumulate)
        if rest:
            raise UsageError(
                f"{config.batch_size} rows a step cannot be divided evenly among {count} processes "
                f"with {config.accumulate} parts each",
                f"choose a batch size that {count * config.accumulate} divides",
            )
        if plugin := getattr(self.accelerator.state, "deepspeed_plugin", None):
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.rows_at_once
        self.untrained = [p for p in getattr(objective, "untrained", ()) if p.requires_grad]
        for parameter in self.untrained:  # processes would wait for its gradient
            parameter.requires_grad_(False)
        optimizers = optimizers_of(objective, config)
        # The rate of the first step of a warm-up is 0, so a single step has none.
        warmup = min(max(1, round(config.steps * config.warmup)), config.steps - 1)
        self.schedules = [
            get_cosine_schedule_with_warmup(optimizer, warmup, config.steps)
            for optimizer in optimizers
        ]
        objective.train()
        self._read_hooks(objective)
        self.model, *self.optimizers = self.accelerator.prepare(objective, *optimizers)
        if count > 1 and sharding_requested() and not is_sharded(self.model):
            raise EdgewrightError(
                f"{label}: sharded weights were asked for, and every process has all of them",
                "use FSDP 2 or ZeRO-3",
            )
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        saved_too = [early_stopping] if early_stopping else []
        self.accelerator.register_for_checkpointing(*self.schedules, *saved_too)

    def _read_hooks(self, objective: nn.Module) -> None:
        """Look up the optional methods of an objective; see trainer.py."""
        self.loss_count: Callable[[Tensor, Tensor], int] = getattr(
            objective, "loss_count", lambda ids, labels: len(ids)
        )
        self.replace_rows: Callable[[Tensor, Tensor, range], tuple[Tensor, Tensor]] | None = (
            getattr(objective, "replace_rows", None)
        )

    def step(self, step: int, batch: Tensor) -> float:
        """Take a step on a batch int64 [rows, 2, seq] and return its loss.

        Raises:
            NotFinite: the loss or its gradient is not finite; the weights are unchanged.
        """
        loss = self._backward(self._own_parts(step, batch))
        self._check_finite(loss, "loss", step)
        norm: Any = self.accelerator.clip_grad_norm_(self.trained, self.config.clip)
        # DeepSpeed has no norm before its first step.
        self._check_finite(loss if norm is None else float(norm), "gradient", step)
        self.accelerator.log(
            {"loss": loss, "lr": self.schedules[0].get_last_lr()[0]}, step=step + 1
        )
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return loss

    def _own_parts(self, step: int, batch: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the ids and labels of this process, split into parts."""
        ids = batch[:, 0]
        labels = scored_labels(ids, batch[:, 1])
        first = self.accelerator.process_index * self.config.accumulate
        parts = list(
            zip(ids.split(self.rows_at_once), labels.split(self.rows_at_once), strict=True)
        )
        return [
            self._part(step, number, *parts[number])
            for number in range(first, first + self.config.accumulate)
        ]

    def _part(self, step: int, number: int, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and labels of a part on the device, with rows replaced by the objective.

        Args:
            step: number of the step.
            number: of the part, over all processes.
            ids: int64 [rows, seq].
            labels: likewise.
        """
        ids = ids.to(self.accelerator.device)
        labels = labels.to(self.accelerator.device)
        if self.replace_rows is None:
            return ids, labels
        row = step * self.config.batch_size + number * self.rows_at_once
        with self.accelerator.autocast():
            return self.replace_rows(ids, labels, range(row, row + self.rows_at_once))

    def _backward(self, parts: list[tuple[Tensor, Tensor]]) -> float:
        """Compute the gradient of the whole batch and return its loss."""
        value = torch.zeros((), device=self.accelerator.device)
        scored: Any = self.accelerator.reduce(
            torch.tensor(sum(self.loss_count(*part) for part in parts), device=value.device)
        )
        whole = max(int(scored), 1)
        processes = self.accelerator.num_processes
        for number, part in enumerate(parts, 1):
            share = self.loss_count(*part) / whole
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(self.model):
                loss = self.model(*part)
                # Gradients are averaged over the processes, and must be summed.
                self.accelerator.backward(loss * (share * processes))
            value += loss.detach() * share
        whole_value: Any = self.accelerator.reduce(value)
        return float(whole_value)

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Measure the held-out loss after `step` steps, if early stopping asks for it.

        Every process takes all rows.
        """
        stopping = self.early_stopping
        if stopping is None or not stopping.due(step, self.config.steps):
            return
        self.model.eval()
        total = torch.zeros((), device=self.accelerator.device)
        whole = 0
        for batch in batches(stopping.rows, self.rows_at_once):
            ids = batch[:, 0]
            labels = scored_labels(ids, batch[:, 1])
            count = self.loss_count(ids, labels)
            total += self.model(ids.to(total.device), labels.to(total.device)) * count
            whole += count
        self.model.train()
        # The mean makes all processes decide alike.
        mean: Any = self.accelerator.reduce(total, reduction="mean")
        loss = float(mean) / max(whole, 1)
        stopping.add(step, loss, self.objective)
        self.accelerator.log({"held_out": loss}, step=step)

    def _check_finite(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise NotFinite(
                f"{self.label}: the {what} became {value} at step {step}", "lower the learning rate"
            )

    def finish(self) -> None:
        """Set the objective back to evaluation mode, and remove what accelerate added to it."""
        self.objective.eval()
        for parameter in self.untrained:
            parameter.requires_grad_(True)
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # DDP's hooks would stay on the student


def _accelerator(config: TrainConfig) -> Accelerator:
    """Return an accelerator for these settings."""
    # The state is global, and refuses a second training in another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    bf16 = uses_bf16(config.bf16, config.device)
    tracking = config.tracking
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=config.device == "cpu",
        log_with=tracking.tracker if tracking else None,
        project_dir=tracking.folder if tracking else None,
    )
    shard_on_cpu(accelerator)
    return accelerator
