"""One training loop, on accelerate: next-token learning, hidden-state alignment and logit distillation all run in it.

What is learnt is an *objective*: a module that holds the student (and whatever else trains with it, such as
projections) and whose forward takes a batch and returns the loss. The loop knows nothing else, so that the same code
serves one process or many.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from ...console import progress
from ...errors import EdgewrightError
from .muon import Muon

__all__ = ["TrainConfig", "batches", "bf16_is_fast", "optimizers_of", "train"]


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn."""

    steps: int
    lr: float
    batch_size: int = 16
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Gradient norm limit."""
    bf16: bool | None = None
    """Mixed precision: float32 weights, bfloat16 matrix products; None: where the processor is made for it."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    device: str = "cpu"


def bf16_is_fast(device: str) -> bool:
    """Whether bfloat16 products run in hardware; a processor without them emulates, at a third of float32's speed."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def optimizers_of(objective: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW over everything; or Muon over the matrices between embedding and head, and AdamW over the rest."""
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    trained = [p for p in objective.parameters() if p.requires_grad]
    matrices: list[nn.Parameter] = []
    if config.optimizer == "muon":
        tables = {id(module.weight) for module in objective.modules() if isinstance(module, nn.Embedding)}
        heads = (m.get_output_embeddings() for m in objective.modules() if isinstance(m, PreTrainedModel))
        tables |= {id(head.weight) for head in heads if isinstance(head, nn.Linear)}
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in chosen]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True, **settings)] if rest else []
    dtype = torch.bfloat16 if bf16_is_fast(config.device) else torch.float32
    return made + ([Muon(matrices, dtype=dtype, **settings)] if matrices else [])


def batches(rows: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Stack rows (each int64 [2, seq_len]: ids and labels) into batches [batch, 2, seq_len]."""
    iterator = iter(rows)
    while group := list(itertools.islice(iterator, batch_size)):
        yield torch.stack(group)


def train(
    objective: nn.Module, rows: Iterable[Tensor], config: TrainConfig, label: str = "training", after_step: Callable[[], None] | None = None
) -> list[float]:  # fmt: skip
    """Minimise `objective` over `rows` and return the loss of every step.

    Args:
        objective: module whose forward takes ids [batch, seq] and labels [batch, seq] and returns a scalar loss.
        rows: endless supply of int64 [2, seq_len] rows.
        config: how long and how fast.
        label: what the progress bar says.
        after_step: called after every optimizer step, to hold what a step may not change.

    Raises:
        EdgewrightError: the loss is no longer finite, or the data ran out.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # global, and it refuses a second training in another precision
    bf16 = bf16_is_fast(config.device) if config.bf16 is None else config.bf16
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=config.device == "cpu")
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizers = optimizers_of(objective, config)
    warmup = max(1, round(config.steps * config.warmup))
    schedules = [get_cosine_schedule_with_warmup(optimizer, warmup, config.steps) for optimizer in optimizers]
    objective.train()
    model, *optimizers = accelerator.prepare(objective, *optimizers)
    losses: list[float] = []
    supply, started, tokens = batches(rows, config.batch_size), time.monotonic(), 0
    with progress(label, config.steps) as bar:
        for step in range(config.steps):
            batch = next(supply, None)
            if batch is None:
                raise EdgewrightError(f"{label}: the data ran out at step {step} of {config.steps}", "give more data")
            batch = batch.to(accelerator.device)
            loss = model(batch[:, 0], batch[:, 1])
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained, config.clip)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if after_step:
                after_step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise EdgewrightError(f"{label}: the loss became {losses[-1]} at step {step}", "lower the learning rate")
            tokens += batch[:, 0].numel()
            bar.advance(note=f"loss {losses[-1]:.4f}, {tokens / (time.monotonic() - started):,.0f} tokens/s")
    objective.eval()
    return losses
