"""Check an artifact with NVIDIA's parser and builder, without a GPU, in TensorRT for RTX.

It belongs to the generation of TensorRT 11 and builds engines ahead of time. The check shows that
the parser accepts every node, that both optimization profiles can be built, and that INT4 weights
stay INT4. The engine is for SM86, as TensorRT for RTX has no SM87 (Orin), so it is not kept. The
engine for the device is built on the device, by its own TensorRT (`targets/device`).
"""

from __future__ import annotations

import time
from math import prod
from pathlib import Path
from typing import Any

from ...checkpoints.hashing import read_provenance
from ...errors import EdgewrightError
from ..onnx.precision import precision_of
from .engine import PHASES, EngineSpec, build_with, parsed

__all__ = ["check_build", "installed", "parser_errors"]

STAND_IN = "SM86"
"""The nearest to Orin's SM87: same generation, and the same instructions for a decoder."""
PROMPT, CONTEXT, WORKSPACE_MIB = 512, 2048, 1024
PACKED = {"INT4": 0.5, "INT8": 1.0}
EXPANDED = 2.0
"""Bytes of a low-bit weight, and of a weight that is expanded to fp16."""


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
        `tensorrt/` version, stand_in, build_s, engine_bytes, and for low-bit artifacts
        expanded_bytes: the least size of an engine whose weights are expanded to fp16. Empty if
        TensorRT for RTX is not installed.

    Raises:
        Refused: the parser rejects the graph.
        EdgewrightError: the build failed, or the engine holds expanded weights.
    """
    trt = installed()
    if trt is None:
        return {}
    provenance = read_provenance(artifact, ("precision", "shape"))
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
    report: dict[str, float | str] = {
        "tensorrt/version": trt.__version__,
        "tensorrt/stand_in": STAND_IN,
        "tensorrt/build_s": round(time.perf_counter() - begin, 1),
        "tensorrt/engine_bytes": engine,
    }
    if precision_of(provenance["precision"]).linear in ("int4", "int8"):
        report["tensorrt/expanded_bytes"] = _expanded(artifact)
        if engine >= report["tensorrt/expanded_bytes"]:
            raise EdgewrightError(
                f"{artifact.name}: the engine has {engine / 1e6:.1f} MB, so its low-bit weights "
                "were expanded",
                "please report the model; --format onnx exports it without this check",
            )
    return report


def parser_errors(trt: Any, file: Path) -> list[str]:
    """The parser's errors about the nodes of an ONNX file, without duplicates."""
    return list(dict.fromkeys(parsed(trt, file)[2]))


def _expanded(artifact: Path) -> int:
    """Bytes of an engine if low-bit weights became fp16; it holds all weights once per profile."""
    import onnx

    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    types = {getattr(onnx.TensorProto, name): EXPANDED - size for name, size in PACKED.items()}
    more = sum(types.get(tensor.data_type, 0.0) * prod(tensor.dims) for tensor in graph.initializer)
    return len(PHASES) * int((artifact / "model.onnx.data").stat().st_size + more)
