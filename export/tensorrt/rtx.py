"""Whether NVIDIA's own parser and builder take an artifact, asked here, without a GPU: TensorRT for RTX, which can build ahead of time.

What this shows and what it does not: the parser is the one of TensorRT 11's generation, every node is accepted or named, both optimization
profiles hold together, and INT4 weights stay INT4. The engine is for SM86, as there is no SM87 among what it builds for; so it is thrown
away. The one for the device is built on the device, by the TensorRT that is there (`targets/device`).
"""

from __future__ import annotations

import json
import time
from math import prod
from pathlib import Path
from typing import Any

from ...checkpoints.files import PROVENANCE
from ...errors import EdgewrightError
from ..onnx.precision import precision_of
from .engine import PHASES, EngineSpec, build_with, parsed

__all__ = ["check_build", "installed", "parser_errors"]

STAND_IN = "SM86"
"""The nearest to Orin's SM87: the same generation, the same instructions for what a decoder does."""
PROMPT, CONTEXT, WORKSPACE_MIB = 512, 2048, 1024
PACKED = {"INT4": 0.5, "INT8": 1.0}
EXPANDED = 2.0
"""Bytes of a low-bit weight, and of the same one expanded to fp16."""


def installed() -> Any:
    """TensorRT for RTX's module, or None where it is not installed."""
    try:
        import tensorrt_rtx_libs  # noqa: F401 - it loads the shared libraries

        import tensorrt_rtx_bindings as trt  # pyright: ignore[reportMissingImports]  # isort: skip
    except ImportError:
        return None
    return trt


def check_build(artifact: Path) -> dict[str, float | str]:
    """Parse an artifact and build an engine of it with a prefill and a decode profile.

    Returns:
        `tensorrt/` version, stand_in, build_s, engine_bytes, and for low-bit artifacts expanded_bytes: what the engine would hold at
        least, had its weights become fp16. Empty where TensorRT for RTX is not installed.

    Raises:
        Refused: the parser does not take the graph.
        EdgewrightError: the build failed, or the engine holds expanded weights.
    """
    trt = installed()
    if trt is None:
        return {}
    provenance = json.loads((artifact / PROVENANCE).read_text())
    shape = provenance["shape"]
    spec = EngineSpec(
        int(shape["num_hidden_layers"]),
        int(shape["num_key_value_heads"]),
        int(shape["head_dim"]),
        PROMPT,
        CONTEXT,
        workspace_mib=WORKSPACE_MIB,
        sparse=provenance.get("sparsity") == "2:4",
    )

    def for_stand_in(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, STAND_IN), 0)

    begin = time.perf_counter()
    engine = len(build_with(trt, spec, artifact / "model.onnx", for_stand_in))
    told: dict[str, float | str] = {
        "tensorrt/version": trt.__version__,
        "tensorrt/stand_in": STAND_IN,
        "tensorrt/build_s": round(time.perf_counter() - begin, 1),
        "tensorrt/engine_bytes": engine,
    }
    if precision_of(provenance["precision"]).linear in ("int4", "int8"):
        told["tensorrt/expanded_bytes"] = _expanded(artifact)
        if engine >= told["tensorrt/expanded_bytes"]:
            raise EdgewrightError(
                f"{artifact.name}: the engine has {engine / 1e6:.1f} MB, so that its low-bit weights were expanded",
                "please report the model; --format onnx exports it without this check",
            )
    return told


def parser_errors(trt: Any, file: Path) -> list[str]:
    """What the parser says against the nodes of an ONNX file, each thing once."""
    return list(dict.fromkeys(parsed(trt, file)[2]))


def _expanded(artifact: Path) -> int:
    """Bytes of an engine with fp16 weights in place of low-bit ones; an engine holds its weights once a profile."""
    import onnx

    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    types = {getattr(onnx.TensorProto, name): EXPANDED - size for name, size in PACKED.items()}
    more = sum(types.get(tensor.data_type, 0.0) * prod(tensor.dims) for tensor in graph.initializer)
    return len(PHASES) * int((artifact / "model.onnx.data").stat().st_size + more)
