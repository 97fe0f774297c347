"""`edgewright doctor`: is everything here that is needed, and does each engine really run."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError
from ..pipeline.ledger import environment

__all__ = ["examine"]

EXTRAS = {
    "reasoning_gym": ("reasoning-gym", "eval: the built-in reasoning task"),
    "math_verify": ("math-verify", "eval: answers to questions compared as mathematics"),
    "lm_eval": ("lm-eval", "eval: EleutherAI's tasks"),
    "optuna": ("optuna", "sweep: trials and their samplers"),
    "tensorboard": ("tensorboard", "track: curves of a distillation for TensorBoard"),
    "datasets": ("datasets", "data: parquet and hub data"),
    "asyncssh": ("asyncssh", "device: deployment over SSH"),
    "gguf": ("gguf", "gguf: files for llama.cpp"),
    "fastapi": ("fastapi", "serve: the HTTP server"),
    "tensorrt_rtx_libs": ("tensorrt-rtx-cu12-libs", "tensorrt: NVIDIA's parser and builder"),
    "gptqmodel": ("gptqmodel", "gptq: packed checkpoints in torch"),
}


def examine() -> list[dict[str, Any]]:
    """One entry a check: `name`, `ok`, `required`, `detail`."""
    facts = environment()
    gigabytes = shutil.disk_usage(Path.cwd()).free / 1e9
    checks = [
        _entry("python", True, True, facts["python"]),
        _entry(
            "cpu",
            True,
            True,
            f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads for torch",
        ),
        _entry(
            "gpu",
            facts["gpu"] is not None,
            False,
            facts["gpu"] or "none that torch can use; everything runs on the CPU",
        ),
        _entry("disk", gigabytes > 1, True, f"{gigabytes:.1f} GB free in {os.getcwd()}"),
        _tried("torch", _torch),
        _tried("onnxruntime", _onnxruntime),
        _tried("transformers", _transformers),
        _tried("demo model", _demo),
    ]
    return checks + [_extra(module, *about) for module, about in EXTRAS.items()]


def _entry(name: str, ok: bool, required: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "required": required, "detail": detail}


def _tried(name: str, trial: Callable[[], str]) -> dict[str, Any]:
    try:
        return _entry(name, True, True, trial())
    except (ImportError, OSError, RuntimeError, ValueError, EdgewrightError) as error:
        return _entry(name, False, True, f"{type(error).__name__}: {error}")


def _torch() -> str:
    import torch

    product = torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
    if float(product[0, 0]) != 64:
        raise RuntimeError("a bfloat16 matrix product came out wrong")
    return f"{torch.__version__}, matrix products run"


def _onnxruntime() -> str:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["a", "a"], ["b"])
    graph = helper.make_graph(
        [node],
        "probe",
        [value("a", TensorProto.FLOAT, [2, 2])],
        [value("b", TensorProto.FLOAT, [2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session.run(None, {"a": np.ones((2, 2), np.float32)})
    return f"{onnxruntime.__version__}, a session runs"


def _transformers() -> str:
    import transformers

    return transformers.__version__


def _demo() -> str:
    from ..checkpoints.loading import load_tokenizer
    from ..pipeline.recipe import BUILTIN_MODEL, model_path

    return f"tokenizer of {len(load_tokenizer(Path(model_path(BUILTIN_MODEL))))} tokens"


def _extra(module: str, package: str, purpose: str) -> dict[str, Any]:
    try:
        importlib.import_module(module)
        return _entry(package, True, False, f"{importlib.metadata.version(package)} ({purpose})")
    except ImportError:
        return _entry(package, False, False, f"not installed ({purpose})")
