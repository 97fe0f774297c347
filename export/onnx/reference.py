"""The reference logits that an artifact is compared with, computed by torch.

Stock transformers computes them if the model fits in memory. It finds files, tensor names and tied
weights by itself, so a fault in edgewright's reader shows. A model that does not fit, or whose
layers are packed (which transformers cannot run without other packages), runs one decoder layer at
a time: transformers' modules, with weights from edgewright's reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...checkpoints.config import quantization, read_architecture
from ...checkpoints.layouts import PackedLinear, rounds_inputs
from ...checkpoints.loading import check_names, fits_in_memory, stock_model, tied_names
from ...checkpoints.streaming import ROWS, skeleton
from ...errors import UsageError
from ...models import Architecture, decoder_layers, finished_logits
from .weights import Weights

__all__ = ["REFERENCES", "Way", "choose_reference", "padded", "reference_logits"]

Way = Literal["stock", "streamed", "dequantized"]
REFERENCES: dict[Way, str] = {
    "stock": "stock transformers",
    "streamed": "torch, streamed by our reader because the model does not fit in memory",
    "dequantized": "torch, the integers dequantized by our reader",
}
"""What an artifact was compared with, in words for notes."""


def padded(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad rows of tokens on the left: tokens and mask (0: padding), both int64 [rows, longest]."""
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(tokens)
    for number, row in enumerate(rows):
        tokens[number, longest - len(row) :] = row
        mask[number, longest - len(row) :] = 1
    return tokens, mask


def choose_reference(checkpoint: Path) -> Way:
    """How to compute the reference of a checkpoint: by its config.json and the free memory."""
    architecture = read_architecture(checkpoint)
    if quantization(architecture.config):
        return "dequantized"
    return "stock" if fits_in_memory(architecture.parameters) else "streamed"


def reference_logits(
    checkpoint: Path, rows: Sequence[Sequence[int]], way: Way
) -> Iterator[NDArray[np.float32]]:
    """The logits of each row of token ids, float32 [length, vocabulary], by torch.

    Raises:
        UsageError: the weights are damaged, or not those of config.json.
    """
    return _stock_logits(checkpoint, rows) if way == "stock" else _own_logits(checkpoint, rows)


@torch.inference_mode()
def _stock_logits(checkpoint: Path, rows: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
    model = stock_model(checkpoint)
    for row in rows:
        yield model(input_ids=torch.tensor([row]), use_cache=False).logits[0].numpy()


@torch.inference_mode()
def _own_logits(checkpoint: Path, rows: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
    architecture = read_architecture(checkpoint)
    weights, model = Weights(checkpoint, architecture.config), skeleton(checkpoint)
    wanted, have = set(model.state_dict()), weights.state_names()
    check_names(checkpoint, wanted - have - tied_names(model), have - wanted)
    tokens, mask = padded(rows)
    hidden = _hidden(model, architecture, weights, torch.from_numpy(tokens), torch.from_numpy(mask))
    own = not architecture.tied and f"{architecture.head}.weight" in weights.state_names()
    head = _Rows(weights, architecture.head if own else architecture.embedding)
    for row, states in zip(rows, hidden, strict=True):
        logits = torch.cat([states[-len(row) :] @ part.t() for part in head.parts()], 1)
        yield finished_logits(logits, architecture).numpy()


class _Rows:
    """The rows of the embedding or the head, as stored; only requested rows become float32."""

    def __init__(self, weights: Weights, name: str) -> None:
        self._stored = (
            weights.packed(name) if weights.is_packed(name) else weights.tensor(f"{name}.weight")
        )

    def rows(self, numbers: Tensor) -> Tensor:
        """The rows of some tokens, float32 [n, width]."""
        if isinstance(self._stored, Tensor):
            return self._stored[numbers].float()
        p = self._stored
        return PackedLinear(
            p.integers[numbers],
            p.scales[numbers],
            p.zeros[numbers],
            p.bits,
            p.group_size,
            None,
            p.g_idx,
        ).dequantize()

    def parts(self) -> Iterator[Tensor]:
        """All rows, float32 [`ROWS`, width] at a time."""
        size = len(self._stored if isinstance(self._stored, Tensor) else self._stored.integers)
        for begin in range(0, size, ROWS):
            yield self.rows(torch.arange(begin, min(begin + ROWS, size)))


def _hidden(
    model: Any, architecture: Architecture, weights: Weights, tokens: Tensor, mask: Tensor
) -> Tensor:
    """The hidden states before the head, float32 [rows, seq, width].

    A layer has its weights only while it runs.
    """
    used, places = tokens.unique(return_inverse=True)
    embedding = model.get_submodule(architecture.embedding)
    embedding.padding_idx = None  # an index into the whole vocabulary, not into `used`
    embedding.weight = nn.Parameter(
        _Rows(weights, architecture.embedding).rows(used), requires_grad=False
    )
    final_norm = architecture.final_norm.name
    modules = {final_norm: model.get_submodule(final_norm)}
    names = [layer.name for layer in architecture.layers]
    modules |= dict(zip(names, decoder_layers(model, architecture), strict=True))
    for name, module in modules.items():
        _load_while_called(module, name, weights)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return model.get_decoder()(
        input_ids=places, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state


def _load_while_called(module: nn.Module, name: str, weights: Weights) -> None:
    """Load the weights of a module before each call, and drop them after it."""
    empty, rounding = module.state_dict(), list[Any]()

    def fill(*_: Any) -> None:
        state: dict[str, Tensor] = {}
        for key in empty:
            linear = key.removesuffix(".weight")
            if weights.is_packed(f"{name}.{linear}"):
                packed = weights.packed(f"{name}.{linear}")
                state[key] = packed.dequantize()
                if packed.inputs:
                    rounding.append(rounds_inputs(module.get_submodule(linear), packed.inputs))
            else:
                state[key] = weights.tensor(f"{name}.{key}").float()
        try:
            module.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise UsageError(
                f"{name}: weights and config.json do not fit: {' '.join(str(error).split())}",
                "restore the model",
            ) from error

    def drop(*_: Any) -> None:
        module.load_state_dict(empty, assign=True)
        while rounding:
            rounding.pop().remove()

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(drop)
