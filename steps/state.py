"""A model in a plan: its architecture and how its weights are stored.

Nothing here reads a weight or imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.config import dtype_name, packing, quantization, read_architecture
from ..checkpoints.inventory import inventory
from ..errors import UsageError
from ..models import FORMATS, Architecture
from ..models.footprint import CHANNEL_SCALES, float_bytes_of, size_of
from ..models.kv_cache import KvCache, constant_bytes
from ..models.packed_tables import TableBytes, packed_table_bytes

__all__ = ["State", "checkpoint_state", "float_precision"]

BLOCK_SCALE = 2
"""Bytes of the scale of a block."""
UNCOUNTED = (".qzeros", ".g_idx")
"""Tensors of packed layers that sizes leave out: artifacts have none, or count their own."""


@dataclass(frozen=True)
class State:
    """A model as it is, or as a step will leave it."""

    architecture: Architecture
    precision: str
    group_size: int = 128
    sym: bool = True
    format: str | None = None
    """Format of an exported model; None for a checkpoint."""
    g_idx: bool = False
    """Whether groups of inputs are permuted, so that a kernel has to gather."""

    extra_bytes: int = 0
    """Bytes of weights that `precision` and `group_size` do not explain: mixed bits, and what a
    KV cache in 8 bits needs once."""
    table_bytes: TableBytes | None = None
    """Of the embedding and the head, if one is packed; None: they are in floating point."""
    kv_cache: KvCache = "float"
    """How an exported model caches keys and values."""

    def exported(
        self, format: str, precision: str, kv_cache: KvCache = "float", *, pack_head: bool = True
    ) -> State:
        """The same weights as an artifact.

        Args:
            format: name of an export format.
            precision: of the artifact.
            kv_cache: how it caches keys and values.
            pack_head: whether the embedding and the head are rounded where the format packs them.
        """
        declared = FORMATS[format]
        stored = declared.float_bytes(precision) or float_bytes_of(precision)
        more = constant_bytes(self.architecture, kv_cache, stored, fused=not declared.is_portable)
        artifact = replace(
            self,
            precision=precision,
            format=format,
            kv_cache=kv_cache,
            extra_bytes=self.extra_bytes + more,
        )
        if block := declared.block_of(precision):
            return _in_blocks(artifact, block)
        if pack_head and precision in declared.packs_head and self.table_bytes is None:
            return replace(artifact, table_bytes=packed_table_bytes(self.architecture))
        return artifact

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return self.architecture.parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all but those of its idle experts."""
        return self.architecture.active_parameters()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk."""
        exported = FORMATS[self.format] if self.format else None
        return self.extra_bytes + size_of(
            self.architecture,
            self.precision,
            self.group_size,
            float_bytes=exported.float_bytes(self.precision) if exported else None,
            table_bytes=self.table_bytes,
        )


def _in_blocks(state: State, block: int) -> State:
    """The state of an artifact that has a scale in fp16 for each block of inputs.

    4-bit blocks with zero points have a least value in fp16 too. The embedding and the head are in
    8 bits, as llama.cpp keeps them.
    """
    model = state.architecture
    table = model.vocab_size * model.hidden_size * (block + BLOCK_SCALE) // block
    scales = 0
    if state.precision == "int8":  # `size_of` counts one scale for each output
        scales = sum(
            int(count)
            * linear.shape[0]
            * (BLOCK_SCALE * linear.shape[1] // block - CHANNEL_SCALES["int8"])
            for linear, count in model.linear_counts().items()
        )
    if state.precision == "int4" and not state.sym:
        scales = model.linear_weights() // block * BLOCK_SCALE
    return replace(
        state,
        group_size=block,
        extra_bytes=state.extra_bytes + scales,
        table_bytes=TableBytes(0 if model.tied else table, table),
    )


def checkpoint_state(path: Path) -> State:
    """The state of a model directory."""
    model = read_architecture(path)
    if packed := packing(model.config):
        bits, group_size, sym = packed
        g_idx = bool((quantization(model.config) or {}).get("desc_act"))
        tables = _table_bytes(path, model)
        state = State(model, f"int{bits}", group_size, sym, g_idx=g_idx, table_bytes=tables)
        return replace(state, extra_bytes=_extra_bytes(path, state))
    return State(model, float_precision(model.config))


def float_precision(config: Mapping[str, Any]) -> str:
    """The precision of weights that are not packed, by config.json."""
    return {"float16": "fp16", "bfloat16": "bf16"}.get(dtype_name(config), "fp32")


def _extra_bytes(path: Path, state: State) -> int:
    """Bytes of linear layers of a checkpoint that its bits and group size do not explain.

    0 where config.json names no layer with other bits, and for a plan without the weights. Zero
    points and `g_idx` are left out, as in `size_of`.
    """
    block = quantization(state.architecture.config) or {}
    if not block.get("dynamic"):
        return 0
    try:
        stored = inventory(path, state.architecture.config).tensors
    except UsageError:
        return 0
    counted = sum(tensor.nbytes for name, tensor in stored.items() if not name.endswith(UNCOUNTED))
    return counted - state.weight_bytes


def _table_bytes(path: Path, model: Architecture) -> TableBytes | None:
    """Bytes of the embedding and the head, if one is packed; None for a plan without weights."""
    try:
        tensors = inventory(path, model.config).tensors
    except UsageError:
        return None
    parts = {
        module: [tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module]
        for module in (model.embedding, model.head)
    }
    if all(len(tensors) <= 1 for tensors in parts.values()):  # only `weight`
        return None
    embedding, head = (sum(tensor.nbytes for tensor in found) for found in parts.values())
    return TableBytes(0, embedding) if model.tied else TableBytes(embedding, head)
