"""One training loop, on accelerate: next-token learning, hidden-state alignment and logit distillation all run in it.

What is learnt is an *objective*: a module that holds the student (and whatever else trains with it, such as
projections) and whose forward takes a batch and returns the loss. The loop knows nothing else, so that the same code
serves one process or many, with whole weights in each (DDP) or a part (FSDP2). Every process reads the whole batch of a step and
learns from its share of the rows; losses are weighted by what they are means over, so that all shares together have the loss of the
whole batch.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from ...console import progress
from ...errors import EdgewrightError, UsageError
from ..calibration.mixed_precision import bf16_is_fast
from .early_stop import Watch
from .losses import scored_labels
from .muon import Muon
from .sharding import asked_for, is_sharded, shard_on_cpu
from .tracking import Tracking, tracked

__all__ = ["NotFinite", "TrainConfig", "batches", "optimizers_of", "train"]

MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says on a CPU when there is no more."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn."""

    steps: int
    lr: float
    batch_size: int = 16
    """Rows of a step, of all processes and parts together."""
    accumulate: int = 1
    """Parts that a process takes its rows in, one after the other, before the step."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Gradient norm limit."""
    bf16: bool | None = None
    """Mixed precision: float32 weights, bfloat16 matrix products; None: where the processor is made for it."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    device: str = "cpu"
    tracking: Tracking | None = None
    """Where losses and learning rates go besides, after every step."""


def optimizers_of(objective: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW over everything; or Muon over the matrices between embedding and head, and AdamW over the rest."""
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    trained = [p for p in objective.parameters() if p.requires_grad]
    matrices: list[nn.Parameter] = []
    if config.optimizer == "muon":
        tables = {
            id(module.weight) for module in objective.modules() if isinstance(module, nn.Embedding)
        }
        heads = (
            m.get_output_embeddings() for m in objective.modules() if isinstance(m, PreTrainedModel)
        )
        tables |= {id(head.weight) for head in heads if isinstance(head, nn.Linear)}
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in chosen]
    made: list[torch.optim.Optimizer] = (
        [torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True, **settings)] if rest else []
    )
    dtype = torch.bfloat16 if bf16_is_fast(config.device) else torch.float32
    return made + ([Muon(matrices, dtype=dtype, **settings)] if matrices else [])


def batches(rows: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Stack rows (each int64 [2, seq_len]: ids and labels) into batches [batch, 2, seq_len]."""
    iterator = iter(rows)
    while group := list(itertools.islice(iterator, batch_size)):
        yield torch.stack(group)


class NotFinite(EdgewrightError):
    """The loss or its gradient is NaN or infinite."""


def train(
    objective: nn.Module,
    rows: Iterable[Tensor],
    config: TrainConfig,
    label: str = "training",
    after_step: Callable[[], None] | None = None,
    keeper: Keeper | None = None,
    watch: Watch | None = None,
) -> list[float]:
    """Minimise `objective` over `rows` and return the loss of every step.

    Args:
        objective: module whose forward takes ids [batch, seq] and labels [batch, seq] and returns a scalar loss; if it has a method
            `counted`, that is told the same and says what the loss is a mean over, else it is taken to be one over rows; `idle`
            parameters, if it has such, do not learn; a method `drawn`, if it has one, may put other ids and labels in place of these,
            and is told the numbers of their rows.
        rows: endless supply of int64 [2, seq_len] rows, from the first of the training on, the same to every process.
        config: how long and how fast.
        label: what the progress bar says.
        after_step: called after every optimizer step, to hold what a step may not change.
        keeper: keeps the state from time to time, and has what an interrupted run kept.
        watch: is told the loss on its rows from time to time, and may end the training; the weights that it kept are put back.

    Raises:
        NotFinite: the loss, or its gradient, is no longer finite; the step is not taken.
        EdgewrightError: the data ran out, or the memory.
        UsageError: the rows of a step cannot be shared out evenly.
    """
    run = _Run(objective, config, label, watch)
    begin, losses = keeper.restore(run.accelerator) if keeper else (0, [])
    supply, started, tokens = (
        batches(itertools.islice(rows, begin * config.batch_size, None), config.batch_size),
        time.monotonic(),
        0,
    )
    with tracked(run.accelerator, config.tracking, begin), progress(label, config.steps) as bar:
        bar.advance(begin)
        if not begin:
            run.measure(0)
        for step in range(begin, config.steps):
            if watch and watch.over:
                break
            batch = next(supply, None)
            if batch is None or len(batch) < config.batch_size:
                raise EdgewrightError(
                    f"{label}: the data ran out at step {step} of {config.steps}", "give more data"
                )
            try:
                with _memory(label, step, run.rows_at_once, batch.shape[2]):
                    losses.append(run.step(step, batch))
            except NotFinite:
                if keeper:
                    keeper.put_back(run.model)
                raise
            if after_step:
                after_step()
            run.measure(step + 1)
            if keeper:
                keeper.keep(run.accelerator, step + 1, losses)
            tokens += batch[:, 0].numel()
            bar.advance(
                note=f"loss {losses[-1]:.4f}, {tokens / (time.monotonic() - started):,.0f} tokens/s"
            )
    if watch:
        watch.put_back(objective)
    run.finish()
    return losses


class Keeper(Protocol):
    """Keeps the state of a training."""

    def restore(self, accelerator: Accelerator) -> tuple[int, list[float]]:
        """Load what was kept into what `accelerator` has prepared; the steps done then, and their losses."""
        ...

    def put_back(self, model: nn.Module) -> None:
        """Give a model, of this training or of one before it, the weights that were kept last, if there are any."""
        ...

    def keep(self, accelerator: Accelerator, step: int, losses: list[float]) -> None:
        """Keep the state after `step` steps, if it is time."""
        ...


class _Run:
    """An objective with its optimizers and schedules, prepared for the processes that there are."""

    def __init__(
        self, objective: nn.Module, config: TrainConfig, label: str, watch: Watch | None = None
    ) -> None:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # global, and it refuses a second training in another precision
        bf16 = bf16_is_fast(config.device) if config.bf16 is None else config.bf16
        tracker, folder = (
            (config.tracking.tracker, config.tracking.folder) if config.tracking else (None, None)
        )
        precision = "bf16" if bf16 else "no"
        self.accelerator = Accelerator(
            mixed_precision=precision,
            cpu=config.device == "cpu",
            log_with=tracker,
            project_dir=folder,
        )
        shard_on_cpu(self.accelerator)
        self.config, self.label, self.objective, self.watch = config, label, objective, watch
        count = self.accelerator.num_processes
        self.rows_at_once, rest = divmod(config.batch_size, count * config.accumulate)
        if rest:
            raise UsageError(
                f"{config.batch_size} rows a step are not shared out evenly by {count} processes in {config.accumulate} parts each",
                f"choose a batch size that {count * config.accumulate} divides",
            )
        if plugin := getattr(self.accelerator.state, "deepspeed_plugin", None):
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.rows_at_once
        self.idle = [p for p in getattr(objective, "idle", ()) if p.requires_grad]
        for parameter in self.idle:  # processes would wait for a gradient of it
            parameter.requires_grad_(False)
        optimizers = optimizers_of(objective, config)
        warmup = max(1, round(config.steps * config.warmup))
        self.schedules = [
            get_cosine_schedule_with_warmup(optimizer, warmup, config.steps)
            for optimizer in optimizers
        ]
        objective.train()
        self.counted: Callable[[Tensor, Tensor], int] = getattr(
            objective, "counted", lambda ids, labels: len(ids)
        )
        self.drawn: Callable[[Tensor, Tensor, range], tuple[Tensor, Tensor]] | None = getattr(
            objective, "drawn", None
        )
        self.model, *self.optimizers = self.accelerator.prepare(objective, *optimizers)
        if count > 1 and asked_for() and not is_sharded(self.model):
            raise EdgewrightError(
                f"{label}: sharded weights were asked for, and every process has all of them",
                "use FSDP 2 or ZeRO-3",
            )
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.accelerator.register_for_checkpointing(*self.schedules, *([watch] if watch else []))

    def step(self, step: int, batch: Tensor) -> float:
        """Take a step on a batch int64 [rows, 2, seq] and return its loss."""
        ids, labels = batch[:, 0], scored_labels(batch[:, 0], batch[:, 1])
        count, first = (
            self.accelerator.num_processes,
            self.accelerator.process_index * self.config.accumulate,
        )
        parts = list(
            zip(ids.split(self.rows_at_once), labels.split(self.rows_at_once), strict=True)
        )
        mine = [
            self._part(step, number, *parts[number])
            for number in range(first, first + self.config.accumulate)
        ]
        value = torch.zeros((), device=self.accelerator.device)
        scored: Any = self.accelerator.reduce(
            torch.tensor(sum(self.counted(*part) for part in mine), device=value.device)
        )
        whole = max(int(scored), 1)
        for number, part in enumerate(mine, 1):
            share = self.counted(*part) / whole
            with nullcontext() if number == len(mine) else self.accelerator.no_sync(self.model):
                loss = self.model(*part)
                self.accelerator.backward(
                    loss * (share * count)
                )  # as gradients are averaged over the processes
            value += loss.detach() * share
        whole_value: Any = self.accelerator.reduce(value)
        found = float(whole_value)
        self._finite(found, "loss", step)
        norm: Any = self.accelerator.clip_grad_norm_(self.trained, self.config.clip)
        self._finite(
            found if norm is None else float(norm), "gradient", step
        )  # DeepSpeed has none yet
        self.accelerator.log(
            {"loss": found, "lr": self.schedules[0].get_last_lr()[0]}, step=step + 1
        )
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return found

    def _part(self, step: int, number: int, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and labels of a part of a step, by its number among all processes', as they are learnt from."""
        ids, labels = ids.to(self.accelerator.device), labels.to(self.accelerator.device)
        if self.drawn is None:
            return ids, labels
        row = step * self.config.batch_size + number * self.rows_at_once
        with self.accelerator.autocast():
            return self.drawn(ids, labels, range(row, row + self.rows_at_once))

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Tell the watch, if there is one and it is time, the loss on its rows after `step` steps; every process takes all of them."""
        if self.watch is None or not self.watch.due(step, self.config.steps):
            return
        self.model.eval()
        total, whole = torch.zeros((), device=self.accelerator.device), 0
        for batch in batches(self.watch.rows, self.rows_at_once):
            ids, labels = batch[:, 0], scored_labels(batch[:, 0], batch[:, 1])
            count = self.counted(ids, labels)
            total += self.model(ids.to(total.device), labels.to(total.device)) * count
            whole += count
        self.model.train()
        mean: Any = self.accelerator.reduce(
            total, reduction="mean"
        )  # so that all of them decide alike
        loss = float(mean) / max(whole, 1)
        self.watch.add(step, loss, self.objective)
        self.accelerator.log({"held_out": loss}, step=step)

    def _finite(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise NotFinite(
                f"{self.label}: the {what} became {value} at step {step}", "lower the learning rate"
            )

    def finish(self) -> None:
        """Leave the objective as it was met, but for what it has learnt."""
        self.objective.eval()
        for parameter in self.idle:
            parameter.requires_grad_(True)
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # the hooks of DDP would stay on the student


@contextmanager
def _memory(label: str, step: int, rows: int, length: int) -> Iterator[None]:
    """Says what to lower when there is no memory left."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(sign in str(error).lower() for sign in MEMORY):
            raise
        raise EdgewrightError(
            f"{label}: out of memory at step {step}, with {rows} rows of {length} tokens at a time: {str(error).splitlines()[0]}",
            f"raise --accumulate (the same {rows} rows in more parts), recompute layers with --checkpoint-layers, "
            "or lower --batch-size or --seq-len; a teacher may be kept on disk with --teacher-cache",
        ) from error
