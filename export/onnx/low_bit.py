"""Count the products with low-bit weights that ONNX Runtime really executes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from .runtime import FP32_ACTIVATIONS, OnnxDecoder, session_options

__all__ = ["low_bit_nodes"]

LOW_BIT_OPS = (
    "MatMulNBits",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "QLinearMatMul",
)


def low_bit_nodes(path: Path) -> Counter[str]:
    """Products with low-bit weights in one forward pass of an artifact: count by operator.

    They are counted in a profile of one token, which shows the kernels after all graph
    optimizations. Unlike saving the optimized model, this needs no second copy of the weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(1, FP32_ACTIVATIONS)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        decoder = OnnxDecoder(path, options=options)
        one = np.ones((1, 1), np.int64)
        decoder.forward(one, one)
        events = json.loads(Path(decoder.session.end_profiling()).read_text())
    operators = (
        event["args"]["op_name"]
        for event in events
        if event.get("name", "").endswith("_kernel_time")
    )
    return Counter(name for name in operators if name in LOW_BIT_OPS)
