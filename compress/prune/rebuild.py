"""Makes the cut model layer by layer from a checkpoint on disk, and verifies the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ...checkpoints.loading import fits_in_memory
from ...checkpoints.safetensors_writer import Pending
from ...checkpoints.streaming import Streamed
from ...checkpoints.tensors import tensors_of
from ...console import progress
from ...models import Layer, weight_of
from ...steps.options import Proof
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.layer_inputs import first_inputs
from .compensate import Compensation
from .cut import KeptParts, cut, cut_layer
from .experts import ExpertUsage, counting_usage
from .masking import masked_layer
from .verify import check_logits, probe_of, stock_logits

__all__ = ["Rebuild", "choose_proof", "verify_rebuilt"]


class Rebuild:
    """Makes the tensors of the cut model, with one decoder layer in memory at a time.

    Args:
        source: the uncut model.
        kept: what stays of it.
        rows: calibration rows int64 [2, seq], all of one length. The result is verified on the
            first ones.
        buffer: where hidden states are kept.
        compensate: whether to refit the output projections.

    Attributes:
        architecture: of the cut model.
        probe: ids [rows, seq] on which the result is verified.
        masked: output of the masked original's last layer for the probe [rows, seq, width]; set
            once all tensors are made.
        usage: how experts are used in the cut model, by layer.
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
        self.usage: dict[int, ExpertUsage] = {}

    def pending(self) -> Pending:
        """The tensors of the cut model, made while they are written."""
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
        # These come last: a file stays mapped while one of its tensors is in use, and an embedding
        # is large.
        inside = f"{architecture.decoder_layers}."
        yield from tensors_of(source.path, lambda name: not name.startswith(inside))

    def _layer(self, layer: Layer, module: nn.Module) -> dict[str, Tensor]:
        """The tensors of a layer after the cut, in their stored dtype.

        The loaded module gets the refitted weights with the same rounding.
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
        assert self.masked is not None, "the tensors must be made first"
        return self.source.logit_parts(self.masked)


def choose_proof(asked: Proof, rebuilt: Rebuild, device: str) -> Literal["stock", "streamed"]:
    """How the result is verified: by `stock` or `streamed`.

    Unless asked otherwise, stock transformers loads it whole if the cut model in float32 fits in
    half of the free memory.
    """
    if asked != "auto":
        return asked
    fits = fits_in_memory(rebuilt.architecture.parameters, device)
    return "stock" if fits else "streamed"


def verify_rebuilt(
    out: Path, rebuilt: Rebuild, proof: Literal["stock", "streamed"], device: str
) -> float:
    """Compare the logits of a written checkpoint with those of the masked original.

    Args:
        out: the checkpoint.
        rebuilt: what made it.
        proof: `stock` loads it whole with stock transformers, `streamed` layer by layer.
        device: where to compute.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        EdgewrightError: they differ by more than rounding.
    """
    got = (
        stock_logits(out, rebuilt.probe, device)
        if proof == "stock"
        else _streamed_logits(out, rebuilt.probe, device)
    )
    return check_logits(out, got, rebuilt.expected())


def _streamed_logits(out: Path, probe: Tensor, device: str) -> Iterator[Tensor]:
    """Logits on ids [rows, seq] of a checkpoint that is read layer by layer, in parts."""
    model = Streamed(out, device)
    states, calls = first_inputs(model, list(probe.split(1)))
    with torch.no_grad():
        for i, call in enumerate(calls):
            with model.held(i) as layer:
                for row in range(len(states)):
                    states[row] = call(layer, states[row])
    return model.logit_parts(states[: len(states)])
