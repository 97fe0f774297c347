"""The cut model made layer by layer from a checkpoint on disk, and the proof that it computes what the masked original does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ...checkpoints.files import tensors_of
from ...checkpoints.loading import fits_in_memory
from ...checkpoints.safetensors_writer import Pending
from ...checkpoints.streaming import Streamed
from ...console import progress
from ...models import Layer, weight_of
from ...steps.options import Proof
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.layer_inputs import first_inputs
from .compensate import Compensation
from .cut import KeptParts, cut, cut_layer
from .experts import ExpertUsage, counting_usage
from .masking import masked_layer
from .verify import difference, probe_of, stock_logits

__all__ = ["Rebuild", "choose_proof", "prove_rebuilt"]


class Rebuild:
    """What stays of a checkpoint, refitted where that is asked for; one decoder layer is in memory at a time.

    Args:
        source: the uncut model.
        kept: what stays of it.
        rows: calibration rows int64 [2, seq], all of one length. The first ones are the probe of the proof.
        buffer: where hidden states are kept.
        compensate: whether to refit.
    """

    def __init__(
        self,
        source: Streamed,
        kept: KeptParts,
        rows: list[Tensor],
        buffer: ActivationBuffer,
        *,
        compensate: bool,
    ) -> None:
        self.source = source
        self.kept = kept
        self.buffer = buffer
        self.compensate = compensate
        self.rows = rows if compensate or source.architecture.experts else rows[:1]
        self.specs, self.architecture = cut(source.specs, source.architecture, kept)
        self.probe = probe_of(rows, source.architecture)
        self.masked: Tensor | None = None
        """What the masked original's last layer puts out for the probe [rows, seq, width]; known when all tensors are made."""
        self.usage: dict[int, ExpertUsage] = {}
        """What the experts of a mixture then do, by layer."""

    def pending(self) -> Pending:
        """The tensors of the cut model, for whoever writes them."""
        return Pending(self.specs, self._tensors())

    @torch.no_grad()
    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        source, architecture = self.source, self.source.architecture
        buffer = self.buffer.part(4 if self.compensate else 1)
        states, calls = first_inputs(source, self.rows, buffer)
        compensation = (
            Compensation(architecture, self.kept, states, buffer) if self.compensate else None
        )
        batches = (
            compensation.batches
            if compensation
            else [slice(row, row + 1) for row in range(len(self.rows))]
        )
        label = "refitting and writing what is kept" if compensation else "writing what is kept"
        with progress(label, len(calls)) as bar:
            for i, (layer, call) in enumerate(zip(architecture.layers, calls, strict=True)):
                if compensation or i in self.kept.layers:
                    with source.held(i) as module:
                        if compensation:
                            compensation.refit(i, module, call, states)
                        if i in self.kept.layers:
                            yield from self._layer(layer, module).items()
                            with (
                                masked_layer(module, layer, self.kept),
                                counting_usage(module, layer) as usage,
                            ):
                                for batch in batches:
                                    states[batch] = call(module, states[batch])
                            self.usage |= {i: usage} if usage else {}
                bar.advance()
        self.masked = states[: len(self.probe)][:, : self.probe.shape[1]]
        # last, as their file stays mapped for as long as one of them is at hand, and an embedding is large
        inside = f"{architecture.decoder_layers}."
        yield from tensors_of(source.path, lambda name: not name.startswith(inside))

    def _layer(self, layer: Layer, module: nn.Module) -> dict[str, Tensor]:
        """The tensors of a layer after the cut, in the dtype they came in.

        The held module gets what that rounding left of the refit.
        """
        start = f"{layer.name}."
        state = {f"{start}{name}": tensor for name, tensor in self.source.stored(start).items()}
        for name in layer.outputs if self.compensate else ():
            key, weight = layer.key(name), weight_of(module.get_submodule(name))
            state[key] = weight.cpu().to(state[key].dtype)
            weight.copy_(state[key])
        new = self.architecture.layers[self.kept.layers.index(layer.index)]
        return cut_layer(state, layer, new, self.kept)

    def expected(self) -> Iterator[Tensor]:
        """Logits of the masked original on the probe, in parts of the vocabulary."""
        assert self.masked is not None, "the tensors are made first"
        return self.source.logit_parts(self.masked)


def choose_proof(asked: Proof, rebuilt: Rebuild, device: str) -> Literal["stock", "streamed"]:
    """`stock`, unless `streamed` was asked for, or the cut model in float32 would take more than half of the memory that is free."""
    if asked != "auto":
        return asked
    fits = fits_in_memory(rebuilt.architecture.parameters, device)
    return "stock" if fits else "streamed"


def prove_rebuilt(
    made: Path, rebuilt: Rebuild, way: Literal["stock", "streamed"], device: str
) -> float:
    """The largest difference between the logits of a written checkpoint and those of the masked original, relative to the largest.

    Args:
        made: the checkpoint.
        rebuilt: what it was made by.
        way: `stock` loads it whole with stock transformers, `streamed` layer by layer.
        device: where to compute.

    Raises:
        EdgewrightError: they differ by more than rounding.
    """
    got = (
        stock_logits(made, rebuilt.probe, device)
        if way == "stock"
        else _streamed(made, rebuilt.probe, device)
    )
    return difference(made, got, rebuilt.expected())


def _streamed(made: Path, probe: Tensor, device: str) -> Iterator[Tensor]:
    model = Streamed(made, device)
    states, calls = first_inputs(model, list(probe.split(1)))
    with torch.no_grad():
        for i, call in enumerate(calls):
            with model.held(i) as layer:
                for row in range(len(states)):
                    states[row] = call(layer, states[row])
    return model.logit_parts(states[: len(states)])
