"""Training settings, and the optimizers made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ...checkpoints.compute_dtype import bf16_is_fast
from .muon import Muon
from .tracking import Tracking

__all__ = ["TrainConfig", "optimizers_of"]


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train."""

    steps: int
    lr: float
    batch_size: int = 16
    """Rows per step, all processes and parts together."""
    accumulate: int = 1
    """Parts that each process splits its rows of a step into, to save memory."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Gradient norm limit."""
    bf16: bool | None = None
    """Float32 weights with bfloat16 matrix products; None: if the processor supports it."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    device: str = "cpu"
    tracking: Tracking | None = None
    """Also write losses and learning rates to this tracker after every step."""


def optimizers_of(objective: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return the optimizers for the parameters that require a gradient.

    Returns:
        AdamW for everything; or Muon for matrices between embedding and head, and AdamW for the
        rest.
    """
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    trained = [p for p in objective.parameters() if p.requires_grad]
    matrices: list[nn.Parameter] = []
    if config.optimizer == "muon":
        excluded = {
            id(module.weight) for module in objective.modules() if isinstance(module, nn.Embedding)
        }
        heads = (
            m.get_output_embeddings() for m in objective.modules() if isinstance(m, PreTrainedModel)
        )
        excluded |= {id(head.weight) for head in heads if isinstance(head, nn.Linear)}
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in excluded]
    matrix_ids = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in matrix_ids]
    made: list[torch.optim.Optimizer] = (
        [torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True, **settings)] if rest else []
    )
    dtype = torch.bfloat16 if bf16_is_fast(config.device) else torch.float32
    return made + ([Muon(matrices, dtype=dtype, **settings)] if matrices else [])
