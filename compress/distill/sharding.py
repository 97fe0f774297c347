"""Weights of which every process has a part only, by FSDP2 or DeepSpeed ZeRO-3: how they become whole again."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["asked_for", "is_sharded", "shard_on_cpu", "whole_state"]


def asked_for() -> bool:
    """Whether accelerate was told, by its configuration or the environment, to give every process a part of the weights."""
    return any(
        os.environ.get(way, "").lower() == "true"
        for way in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Let several processes on a CPU shard by FSDP where that was asked for.

    accelerate 1.15 does so on accelerators only; on a CPU it goes on with whole weights and does not say so.
    """
    if accelerator.distributed_type == DistributedType.MULTI_CPU and asked_for():
        accelerator.state.distributed_type = PartialState().distributed_type = (
            DistributedType.FSDP
        )  # either is copied from the other
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()


def is_sharded(model: Any) -> bool:
    """Whether the parameters of a model are parts."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def whole_state(model: Any) -> Mapping[str, Tensor]:
    """The state dict of a sharded model, whole and in the memory of the CPU, in every process; all of them must call this."""
    parameters = list(model.parameters())
    gathered: AbstractContextManager[Any] = nullcontext()
    if any(hasattr(p, "ds_id") for p in parameters):
        gathered = importlib.import_module("deepspeed").zero.GatheredParameters(parameters)
    with gathered:
        state = model.state_dict()
        return {
            name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu().clone()
            for name, t in state.items()
        }
