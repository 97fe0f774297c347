"""Checks of an installation: versions, extras, disk space, and whether each engine runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError
from ..export.gguf.server import LLAMA_SERVER
from ..pipeline.environment import environment

__all__ = ["examine"]

EXTRAS = {
    "reasoning_gym": ("reasoning-gym", "eval: tasks of its generators"),
    "math_verify": ("math-verify", "eval: answers to questions compared as mathematics"),
    "lm_eval": ("lm-eval", "eval: EleutherAI's tasks"),
    "optuna": ("optuna", "sweep: trials and their samplers"),
    "tensorboard": ("tensorboard", "track: curves of a distillation for TensorBoard"),
    "datasets": ("datasets", "data: parquet and hub data"),
    "asyncssh": ("asyncssh", "device: deployment over SSH"),
    "gguf": ("gguf", "compress: files for llama.cpp"),
    "fastapi": ("fastapi", "serve: the HTTP server"),
    "tensorrt_rtx_libs": ("tensorrt-rtx-cu12-libs", "tensorrt: NVIDIA's parser and builder"),
    "gptqmodel": ("gptqmodel", "gptq: packed checkpoints in torch"),
}
"""By module, an optional package, the extra that installs it, and what it is for."""


NEEDED_FOR = "compress: {}, to compress, export, measure and serve"


def examine() -> list[dict[str, Any]]:
    """One entry per check: `name`, `ok`, `required` and `detail`."""
    versions = environment()
    gigabytes = shutil.disk_usage(Path.cwd()).free / 1e9
    checks = [
        _entry("python", True, True, versions["python"]),
        _entry(
            "cpu",
            True,
            True,
            f"{versions['cpu']}, {versions['cores']} cores, "
            f"{versions['threads'] or 'no'} threads for torch",
        ),
        _entry(
            "gpu",
            versions["gpu"] is not None,
            False,
            versions["gpu"] or "torch finds no GPU; everything runs on the CPU",
        ),
        _entry("disk", gigabytes > 1, True, f"{gigabytes:.1f} GB free in {os.getcwd()}"),
        _attempt("torch", _torch),
        _attempt("onnxruntime", _onnxruntime),
        _attempt("transformers", _transformers),
        _attempt("demo model", _demo),
    ]
    extras = [_extra(module, *about) for module, about in EXTRAS.items()]
    return [*checks, *extras, _llama_server()]


def _entry(name: str, ok: bool, required: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "required": required, "detail": detail}


def _attempt(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return _entry(name, True, True, check())
    except ModuleNotFoundError as error:
        return _entry(name, False, False, f"not installed ({NEEDED_FOR.format(error.name)})")
    except (ImportError, OSError, RuntimeError, ValueError, EdgewrightError) as error:
        return _entry(name, False, True, f"{type(error).__name__}: {error}")


def _torch() -> str:
    import torch

    product = torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
    if float(product[0, 0]) != 64:
        raise RuntimeError("a bfloat16 matrix product has a wrong result")
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
    from ..checkpoints.config import BUILTIN_MODEL, model_path
    from ..checkpoints.tokenizer import load_tokenizer

    return f"tokenizer of {len(load_tokenizer(Path(model_path(BUILTIN_MODEL))))} tokens"


def _llama_server() -> dict[str, Any]:
    path = shutil.which(LLAMA_SERVER)
    purpose = "a program of llama.cpp, with which GGUF artifacts are measured here"
    return _entry(LLAMA_SERVER, path is not None, False, f"{path or 'not on PATH'} ({purpose})")


def _extra(module: str, package: str, purpose: str) -> dict[str, Any]:
    try:
        importlib.import_module(module)
        return _entry(package, True, False, f"{importlib.metadata.version(package)} ({purpose})")
    except ImportError:
        return _entry(package, False, False, f"not installed ({purpose})")
