"""One face for what can be measured: a checkpoint in torch, or an artifact in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import read_provenance
from ..errors import UsageError
from ..loading import load_model, pick_device

__all__ = ["Backend", "OnnxBackend", "TorchBackend", "is_artifact", "open_backend"]


class Backend(Protocol):
    """What the accuracy measurements need of a model."""

    name: str
    dtype: str
    device: str
    eos: list[int]
    """Tokens that end an answer, as generation_config.json has them."""

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits float32 [batch, seq, vocab] for right- or left-padded ids [batch, seq]."""
        ...

    def generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, eos: list[int]) -> Tensor:
        """Greedy continuations int64 [batch, new] of left-padded prompts."""
        ...


class TorchBackend:
    """A checkpoint run by transformers, in float32."""

    name = "torch"

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.device = pick_device(device)
        self.model: Any = load_model(path, self.device)
        self.dtype = "float32"
        self.eos = end_tokens(path)

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return self.model(**{k: v.to(self.device) for k, v in inputs.items()}, use_cache=False).logits.float().cpu()

    @torch.no_grad()
    def generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, eos: list[int]) -> Tensor:
        """See `Backend.generate`."""
        out = self.model.generate(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), max_new_tokens=max_new_tokens,
            do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, eos_token_id=eos, pad_token_id=eos[0],
        )  # fmt: skip
        return out[:, ids.shape[1] :].cpu()


class OnnxBackend:
    """An artifact run by ONNX Runtime on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        from ..export.runtime import OnnxDecoder  # late: loads ONNX Runtime

        self.decoder = OnnxDecoder(path)
        self.dtype = str(read_provenance(path).get("precision", "unknown"))
        self.eos = end_tokens(path)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        return torch.from_numpy(np.asarray(self.decoder.forward(ids.numpy(), mask.numpy())[0], dtype=np.float32))

    def generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, eos: list[int]) -> Tensor:
        """See `Backend.generate`."""
        return torch.from_numpy(self.decoder.generate(ids.numpy(), mask.numpy(), max_new_tokens, eos))


def end_tokens(path: Path) -> list[int]:
    """The end tokens that a directory's generation_config.json or config.json names; empty where neither does."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        ends = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            return list(ends) if isinstance(ends, list) else [int(ends)]
    return []


def is_artifact(path: Path) -> bool:
    """Whether a directory holds an exported ONNX model rather than a checkpoint."""
    return (path / "model.onnx").is_file()


def open_backend(path: Path, device: str = "cpu") -> Backend:
    """The backend that can run what is in a directory.

    Raises:
        UsageError: it holds neither a checkpoint nor an artifact, or is broken.
    """
    if is_artifact(path):
        return OnnxBackend(path)
    if not (path / "config.json").is_file():
        raise UsageError(f"{path}: neither a checkpoint (config.json) nor an artifact (model.onnx)", "give the directory of one")
    return TorchBackend(path, device)
