"""Sharded weights (FSDP2 or DeepSpeed ZeRO-3): each process holds a part; how to gather them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["gathered_state", "is_sharded", "shard_on_cpu", "sharding_requested"]


def sharding_requested() -> bool:
    """Whether accelerate's configuration or the environment asks for sharded weights."""
    return any(
        os.environ.get(way, "").lower() == "true"
        for way in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Use FSDP in several CPU processes where it was asked for.

    accelerate 1.15 shards on accelerators only. On a CPU it silently keeps whole weights.
    """
    if accelerator.distributed_type == DistributedType.MULTI_CPU and sharding_requested():
        # Either of these is copied from the other.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()


def is_sharded(model: Any) -> bool:
    """Whether this process holds only a part of the model's parameters."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def gathered_state(model: Any) -> Mapping[str, Tensor]:
    """Return the whole state dict of a sharded model in CPU memory; all processes must call it."""
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
