"""One face for what can be measured: a checkpoint in torch, or an artifact in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...checkpoints.config import end_tokens
from ...checkpoints.files import read_provenance
from ...checkpoints.loading import load_model, pick_device
from ...errors import UsageError

__all__ = [
    "Backend",
    "Choose",
    "Ended",
    "OnnxBackend",
    "TorchBackend",
    "is_artifact",
    "open_backend",
]

Ended = Callable[[Sequence[int]], bool]
"""Whether an answer is complete, from its tokens so far: for ends that are no single token."""
Choose = Callable[[Tensor, Tensor, int], Tensor]
"""The next token int64 [rows] from logits [rows, vocab], the positions of these rows in their batch, and how many tokens came before."""


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

    def generate(
        self,
        ids: Tensor,
        mask: Tensor,
        max_new_tokens: int,
        eos: list[int],
        ended: Ended | None = None,
    ) -> Tensor:
        """Greedy continuations int64 [batch, new] of left-padded prompts; a row that ended is filled up with the first of `eos`."""
        ...


class TorchBackend:
    """A checkpoint run by transformers, in float32."""

    name = "torch"

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.device = pick_device(device)
        self.model: Any = load_model(path, self.device)
        self.dtype = "float32"
        self.eos = end_tokens(path)

    def _cache(self) -> Any:
        from transformers import DynamicCache  # late: slow to import

        return DynamicCache(config=self.model.config)

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": _positions(mask)}
        return (
            self.model(**{k: v.to(self.device) for k, v in inputs.items()}, use_cache=False)
            .logits.float()
            .cpu()
        )

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        mask: Tensor,
        max_new_tokens: int,
        eos: list[int],
        ended: Ended | None = None,
        choose: Choose | None = None,
    ) -> Tensor:
        """See `Backend.generate`; greedy unless `choose` says which token comes next.

        Rows that ended leave the batch, which transformers' own `generate` keeps computing.
        """
        ids, mask, cache = ids.to(self.device), mask.to(self.device), self._cache()
        ends = torch.tensor(eos, device=self.device)
        tokens = torch.full((len(ids), max_new_tokens), eos[0] if eos else 0)
        rows, step = torch.arange(len(ids)), ids
        for n in range(max_new_tokens):
            positions = _positions(mask)[:, -step.shape[1] :]
            logits = self.model(
                input_ids=step,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            chosen = choose(logits[:, -1], rows, n) if choose else logits[:, -1].argmax(-1)
            tokens[rows, n] = chosen.cpu()
            stays = ~torch.isin(chosen, ends)
            if ended:
                stays &= torch.tensor(
                    [not ended(tokens[row, : n + 1].tolist()) for row in rows], device=self.device
                )
            if not stays.any():
                return tokens[:, : n + 1]
            if not stays.all():
                cache.batch_select_indices(stays.nonzero()[:, 0])
                rows, mask, chosen = rows[stays.cpu()], mask[stays], chosen[stays]
            step, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return tokens


class OnnxBackend:
    """An artifact run by ONNX Runtime on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        from ...export.onnx.runtime import OnnxDecoder  # late: loads ONNX Runtime

        self.decoder = OnnxDecoder(path)
        self.dtype = str(read_provenance(path).get("precision", "unknown"))
        self.eos = end_tokens(path)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        return torch.from_numpy(
            np.asarray(self.decoder.forward(ids.numpy(), mask.numpy())[0], dtype=np.float32)
        )

    def generate(
        self,
        ids: Tensor,
        mask: Tensor,
        max_new_tokens: int,
        eos: list[int],
        ended: Ended | None = None,
    ) -> Tensor:
        """See `Backend.generate`."""
        return torch.from_numpy(
            self.decoder.generate(ids.numpy(), mask.numpy(), max_new_tokens, eos, ended)
        )


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)


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
        raise UsageError(
            f"{path}: neither a checkpoint (config.json) nor an artifact (model.onnx)",
            "give the directory of one",
        )
    return TorchBackend(path, device)
