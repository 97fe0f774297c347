"""What an INT4 export takes bit for bit: 4-bit integers of a checkpoint. Others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.config import packing
from ..checkpoints.layouts import PackedLinear, layout_of
from ..errors import Refused, UsageError

__all__ = ["require_blocks", "require_int4"]


def require_int4(checkpoint: Path, config: Mapping[str, Any]) -> None:
    """Accept a checkpoint whose linear layers have 4 bits.

    Args:
        checkpoint: its directory.
        config: its config.json.

    Raises:
        UsageError: it is not quantized.
        Refused: it has other bits.
    """
    if layout_of(config, str(checkpoint)) is None:
        raise UsageError(
            f"{checkpoint}: is not quantized, and int4 is taken bit for bit from a GPTQ or AWQ "
            "checkpoint",
            f"first: edgewright quantize {checkpoint} --method gptq --bits 4 --group-size 128 "
            "--out DIR",
        )
    bits, *_ = packing(config) or (4,)
    if bits != 4:
        raise Refused(
            f"{checkpoint}: quantized {bits}-bit, but int4 artifacts are 4-bit",
            "quantize again with --bits 4",
        )


def require_blocks(packed: PackedLinear, name: str) -> None:
    """Accept a packed layer whose 4-bit groups are consecutive inputs.

    Args:
        packed: the layer.
        name: its name, for the message.

    Raises:
        Refused: it is not 4-bit, or its groups are permuted.
    """
    if packed.g_idx is not None:
        raise Refused(
            f"{name}: g_idx permutes the groups, and blocks are consecutive inputs",
            "quantize again with static act-order (desc_act false)",
        )
    if packed.bits != 4:
        raise Refused(
            f"{name}: {packed.bits}-bit weights, where INT4 is asked for",
            "quantize again with --bits 4",
        )
