"""A common interface to the models that can be measured: torch checkpoints and ONNX artifacts."""

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
    "Ended",
    "OnnxBackend",
    "TokenChooser",
    "TorchBackend",
    "is_artifact",
    "open_backend",
]

Ended = Callable[[Sequence[int]], bool]
"""Whether an answer is complete, from its tokens so far. For ends that are not a single token."""
TokenChooser = Callable[[Tensor, Tensor, int], Tensor]
"""Chooses the next tokens, int64 [rows]. Its arguments are the logits [rows, vocab], the positions
of these rows in their batch, and the number of tokens generated so far."""


class Backend(Protocol):
    """A loaded model, as the accuracy measurements use it."""

    name: str
    dtype: str
    device: str
    eos: list[int]
    """Tokens that end an answer, from generation_config.json."""

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
        """Greedy continuations, int64 [batch, new], of left-padded prompts.

        A row that ended early is filled with the first token of `eos`.
        """
        ...


class TorchBackend:
    """A checkpoint that transformers runs in float32."""

    name = "torch"

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.device = pick_device(device)
        self.model: Any = load_model(path, self.device)
        self.dtype = "float32"
        self.eos = end_tokens(path)

    def _cache(self) -> Any:
        from transformers import DynamicCache  # here, because it is slow to import

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
        choose: TokenChooser | None = None,
    ) -> Tensor:
        """See `Backend.generate`. Decoding is greedy unless `choose` chooses the tokens.

        Rows that have ended leave the batch; transformers' own `generate` keeps computing them.
        """
        ids = ids.to(self.device)
        mask = mask.to(self.device)
        cache = self._cache()
        ends = torch.tensor(eos, device=self.device)
        tokens = torch.full((len(ids), max_new_tokens), eos[0] if eos else 0)
        rows = torch.arange(len(ids))
        step = ids
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
                rows = rows[stays.cpu()]
                mask = mask[stays]
                chosen = chosen[stays]
            step = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return tokens


class OnnxBackend:
    """An artifact that ONNX Runtime runs on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        from ...export.onnx.runtime import OnnxDecoder  # here, because it loads ONNX Runtime

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
    """Whether a directory is an exported ONNX model and not a checkpoint."""
    return (path / "model.onnx").is_file()


def open_backend(path: Path, device: str = "cpu") -> Backend:
    """Open a model directory with the backend that can run it.

    Raises:
        UsageError: it is neither a checkpoint nor an artifact, or it is damaged.
    """
    if is_artifact(path):
        return OnnxBackend(path)
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: neither a checkpoint (config.json) nor an artifact (model.onnx)",
            "give the directory of one of them",
        )
    return TorchBackend(path, device)
