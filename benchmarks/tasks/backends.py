"""A common interface to the models that can be measured: checkpoints and exported artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...checkpoints.artifacts import is_gguf, is_graph
from ...checkpoints.compute_dtype import fast_dtype
from ...checkpoints.config import dtype_name, end_tokens, read_architecture
from ...checkpoints.hashing import read_provenance
from ...checkpoints.loading import load_model, pick_device
from ...checkpoints.memory import reused_memory
from ...console import Bar
from ...errors import UsageError
from ...generation.decoding import Decoding
from ...generation.generate import Engine, generate
from ...generation.torch_engine import TorchEngine
from .llama_backend import LlamaBackend

__all__ = ["Backend", "OnnxBackend", "TorchBackend", "open_backend"]


class Backend(Protocol):
    """A loaded model, as the accuracy measurements use it."""

    name: str
    dtype: str
    """What the latest result was computed in."""
    device: str
    eos: list[int]
    """Tokens that end an answer, from generation_config.json."""

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits float32 [batch, seq, vocab] for right- or left-padded ids [batch, seq]."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        """Answers to prompts, with the tokens that ended them; see `generation.generate`."""
        ...


class TorchBackend:
    """A checkpoint that transformers runs: texts are scored in float32, answers in any dtype.

    A logit in bfloat16 has 8 significant bits: at a size of 20 it is rounded by up to 0.06.

    Args:
        path: the checkpoint.
        device: where torch runs.
        dtype: what answers are computed in: `float32`, `bfloat16`, `float16`, or `auto` for the
            fastest that keeps what the checkpoint stores.
    """

    name = "torch"

    def __init__(self, path: Path, device: str = "cpu", dtype: str = "float32") -> None:
        self.device = pick_device(device)
        self.architecture = read_architecture(path)
        stored = dtype_name(self.architecture.config)
        self.answers_dtype = fast_dtype(stored, self.device) if dtype == "auto" else dtype
        self.eos = end_tokens(path)
        self._path = path
        self.dtype = self.answers_dtype
        self._loaded: Any = load_model(path, self.device, getattr(torch, self.dtype))

    @property
    def model(self) -> Any:
        """The model in float32."""
        return self._in("float32")

    def _in(self, dtype: str) -> Any:
        """The model in this dtype. Only one is in memory; another one is read again."""
        if dtype != self.dtype:
            self._loaded = None
            self._loaded = load_model(self._path, self.device, getattr(torch, dtype))
            self.dtype = dtype
        return self._loaded

    def engine(self) -> Engine:
        """What generates the answers."""
        return TorchEngine(self._in(self.answers_dtype), self.architecture)

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": _positions(mask)}
        return (
            self.model(**{k: v.to(self.device) for k, v in inputs.items()}, use_cache=False)
            .logits.float()
            .cpu()
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        """See `Backend.generate`."""
        with reused_memory():
            return generate(self.engine(), prompts, decoding, bar)


class OnnxBackend:
    """An artifact that ONNX Runtime runs on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        from ...export.onnx.runtime import OnnxDecoder  # here, because it loads ONNX Runtime

        self.decoder = OnnxDecoder(path, torch.get_num_threads())
        self.dtype = str(read_provenance(path).get("precision", "unknown"))
        self.eos = end_tokens(path)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        return torch.from_numpy(
            np.asarray(self.decoder.forward(ids.numpy(), mask.numpy())[0], dtype=np.float32)
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        """See `Backend.generate`."""
        from ...export.onnx.slots import OnnxEngine  # here, because it loads ONNX Runtime

        return generate(OnnxEngine(self.decoder), prompts, decoding, bar)


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)


def open_backend(
    path: Path, device: str = "cpu", dtype: str = "float32", llama_server: str = ""
) -> Backend:
    """Open a model directory with the backend that can run it.

    Args:
        path: a checkpoint or an artifact.
        device: where torch and llama.cpp run; ONNX artifacts run on the CPU.
        dtype: what torch computes answers in; see `TorchBackend`.
        llama_server: path of the program that runs a GGUF; empty: on PATH.

    Raises:
        UsageError: it is neither a checkpoint nor an artifact, or it is damaged; or it is a GGUF
            and there is no llama-server.
    """
    if is_graph(path):
        return OnnxBackend(path)
    if is_gguf(path):
        return LlamaBackend(path, pick_device(device), llama_server, torch.get_num_threads())
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: neither a checkpoint (config.json) nor an artifact (model.onnx)",
            "give the directory of one of them",
        )
    return TorchBackend(path, device, dtype)
