"""Causal language models, visited layer by layer: in memory, or read from disk one at a time.

A streamed model is transformers' own, built without weights. So its masks and rotary tables are the
model's own, and each layer computes what it would compute in the loaded model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models import Architecture, decoder_layers
from .config import read_architecture
from .loading import built_model, check_names, tied_names
from .memory import return_freed_memory
from .settings import load_settings
from .tensors import rows_of, tensor_specs, tensors_of

__all__ = ["ROWS", "InMemory", "Layered", "Streamed", "passed_through", "skeleton"]

ROWS = 8192
"""Rows of the embedding or the head that are looked at together."""


class Layered(Protocol):
    """A causal language model whose decoder layers are visited in order."""

    architecture: Architecture
    layers: list[nn.Module]
    """The decoder layers; only one that is held has weights for certain."""

    def started(self, ids: Tensor) -> AbstractContextManager[Callable[[Tensor], Any]]:
        """A function that runs the model on rows int64 [1, seq] of `ids`, until it is stopped."""
        ...

    def held(self, index: int) -> AbstractContextManager[nn.Module]:
        """A decoder layer with its weights, for as long as the context lasts."""
        ...


class InMemory:
    """A loaded model; changes to a held layer are permanent."""

    def __init__(self, model: Any, architecture: Architecture) -> None:
        self.model = model
        self.architecture = architecture
        self.layers = decoder_layers(model, architecture)
        self.device = next(model.parameters()).device

    def started(self, ids: Tensor) -> AbstractContextManager[Callable[[Tensor], Any]]:
        """See `Layered.started`."""
        return nullcontext(lambda row: self.model(input_ids=row.to(self.device), use_cache=False))

    def held(self, index: int) -> AbstractContextManager[nn.Module]:
        """See `Layered.held`."""
        return nullcontext(self.layers[index])


class Streamed:
    """A checkpoint with one decoder layer in memory at a time, in float32; changes to it are lost.

    Args:
        path: a checkpoint in floating point, in one file or in shards.
        device: where the layers are to compute.

    Raises:
        UsageError: transformers refuses the config, or the tensors are not those of the model.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path = path
        self.device = torch.device(device)
        self.architecture = read_architecture(path)
        self.specs = tensor_specs(path)
        self.skeleton = skeleton(path)
        self.layers = decoder_layers(self.skeleton, self.architecture)
        self._empty = [layer.state_dict() for layer in self.layers]
        self._check_names()
        for module in self.skeleton.modules():
            module._buffers |= {
                name: buffer.to(self.device)
                for name, buffer in module._buffers.items()
                if buffer is not None
            }

    def _check_names(self) -> None:
        have = set(self.architecture.loaded(dict.fromkeys(self.specs, torch.empty(0))))
        wanted = set(self.skeleton.state_dict())
        check_names(self.path, wanted - have - tied_names(self.skeleton), have - wanted)

    def stored(self, prefix: str) -> dict[str, Tensor]:
        """The stored tensors whose names begin with `prefix`, by the rest of their names."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors_of(self.path, lambda name: name.startswith(prefix))
        }

    @contextmanager
    def held(self, index: int) -> Iterator[nn.Module]:
        """See `Layered.held`."""
        layer = self.layers[index]
        self._fill(layer, self.stored(f"{self.architecture.layers[index].name}."))
        try:
            yield layer
        finally:
            layer.load_state_dict(self._empty[index], assign=True)
            return_freed_memory()

    def _fill(self, module: nn.Module, stored: dict[str, Tensor]) -> None:
        """Give a module its weights as float32, and free the stored ones and their files."""
        state: dict[str, Tensor] = {}
        try:
            fused = self.architecture.loaded(stored)
            stored.clear()
            while fused:
                name, tensor = fused.popitem()
                state[name] = tensor.to(self.device, torch.float32, copy=True)
            module.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{self.path}: weights and config.json do not fit: {reason}", "restore the model"
            ) from error
        module.requires_grad_(False).eval()

    @contextmanager
    def started(self, ids: Tensor) -> Iterator[Callable[[Tensor], Any]]:
        """See `Layered.started`.

        Of the embedding, only the rows of `ids` are kept, as stored; they are cast when looked up.
        """
        module: Any = self.skeleton.get_submodule(self.architecture.embedding)
        empty = module.weight
        padding = module.padding_idx
        known = ids.unique()
        table = self._embedded(known)

        def start(row: Tensor) -> Any:
            used, places = row.unique(return_inverse=True)
            rows = table[torch.searchsorted(known, used)].to(self.device, torch.float32)
            module.weight = nn.Parameter(rows, requires_grad=False)
            return self.skeleton(input_ids=places.to(self.device), use_cache=False)

        module.padding_idx = None  # it names a row of the whole table
        try:
            yield start
        finally:
            module.weight = empty
            module.padding_idx = padding

    def _embedded(self, ids: Tensor) -> Tensor:
        """The rows of the embedding for these ids, ascending, as they are stored [ids, width]."""
        found = []
        first = 0
        for rows in rows_of(self.path, f"{self.architecture.embedding}.weight", ROWS):
            found.append(rows[ids[(ids >= first) & (ids < first + len(rows))] - first])
            first += len(rows)
        return torch.cat(found)

    def logit_parts(self, hidden: Tensor) -> Generator[Tensor]:
        """The logits of the last layer's outputs [rows, seq, width], `ROWS` tokens at a time."""
        final_norm = self.architecture.final_norm.name
        own_head = self.architecture.head
        norm: Any = self.skeleton.get_submodule(final_norm)
        head: Any = self.skeleton.get_submodule(own_head)
        name = own_head if f"{own_head}.weight" in self.specs else self.architecture.embedding
        self._fill(norm, self.stored(f"{final_norm}."))
        outputs = hidden.to(self.device)
        with passed_through(self.layers, outputs):
            for rows in rows_of(self.path, f"{name}.weight", ROWS):
                # Not around the yield: two generators in turns would leave gradients off.
                with torch.no_grad():
                    head.weight = nn.Parameter(
                        rows.to(self.device, torch.float32), requires_grad=False
                    )
                    logits = self.skeleton(inputs_embeds=outputs, use_cache=False).logits
                yield logits


def skeleton(path: Path) -> Any:
    """The model as transformers builds it: parameters without storage, buffers as they must be."""
    from accelerate import init_empty_weights  # late: slow to import

    with init_empty_weights(include_buffers=False):
        model = built_model(path, load_settings(path))
    return model.requires_grad_(False).eval()


@contextmanager
def passed_through(layers: list[nn.Module], outputs: Tensor | None = None) -> Iterator[None]:
    """While this lasts, the layers return their input and need no weights; their hooks run.

    Args:
        layers: all decoder layers of a model.
        outputs: what they return instead. Some models multiply all embeddings by a factor, so their
            layers do not see what the caller gave the model.
    """
    for layer in layers:
        layer.forward = lambda hidden_states, *_args, **_kwargs: (
            hidden_states if outputs is None else outputs
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
