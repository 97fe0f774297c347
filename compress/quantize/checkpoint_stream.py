"""The tensors of a packed checkpoint, made and written one decoder layer after the other; each finished layer goes to the journal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from ...checkpoints.files import tensors_of
from ...checkpoints.layouts import Layout, PackedLinear
from ...checkpoints.safetensors_writer import Pending
from ...checkpoints.streaming import Streamed
from .assignment import Assignment
from .embedding import packed_vocab_matrix
from .session import QuantizeSession

__all__ = ["pending"]

Layers = Generator[dict[str, PackedLinear]]
"""Makes the packed linear layers of each decoder layer, by their names in it."""


def pending(
    run: QuantizeSession,
    model: Streamed,
    layers: Layers,
    dtype: torch.dtype,
    layout: Layout,
    choice: Assignment,
) -> Pending:
    """The tensors to write: packed linears, everything else in `dtype`.

    Args:
        run: what is carried from layer to layer.
        model: the model in floating point.
        layers: of those decoder layers that the journal does not have.
        dtype: of what is not packed.
        layout: of what is.
        choice: what is packed, and how.
    """
    architecture, schemes = model.architecture, {**choice.layers, **choice.tables}
    packed = {f"{name}.weight" for name in schemes}
    specs: dict[str, Tensor] = {}
    for key, spec in architecture.stored(model.specs).items():
        if key in packed:
            name = key.removesuffix(".weight")
            specs |= {
                f"{name}.{part}": t
                for part, t in layout.specs(spec.shape[0], spec.shape[1], schemes[name]).items()
            }
        else:
            specs[key] = spec.to(dtype)

    dropped = {
        key
        for key, spec in model.specs.items()
        if architecture.stored({key: spec}).keys() <= packed
    }

    def unchanged(
        wanted: Callable[[str], bool], made: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """What is in the source and neither packed nor `made`; experts that are fused there are taken apart."""
        for key, tensor in tensors_of(model.path, lambda key: wanted(key) and key not in dropped):
            parts = architecture.stored({key: tensor})
            yield from (
                (name, part.to(dtype))
                for name, part in parts.items()
                if name not in packed and name not in made
            )

    def layer(index: int) -> Iterator[tuple[str, Tensor]]:
        """What is written of one layer; of its own, so that nothing of a layer outlives it."""
        start = f"{architecture.layers[index].name}."
        made = _kept(run, index) or _made(run, index, layers, start, dtype, layout)
        yield from made.items()
        yield from unchanged(lambda key: key.startswith(start), made)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        with closing(layers):
            for index in range(len(model.layers)):
                yield from layer(index)
        yield from unchanged(lambda key: not key.startswith(f"{architecture.decoder_layers}."), {})
        for name, scheme in choice.tables.items():
            parts, error = packed_vocab_matrix(model.path, name, scheme, layout)
            run.tables[name] = error
            yield from ((f"{name}.{part}", tensor) for part, tensor in parts.items())

    return Pending(specs, tensors())


def _kept(run: QuantizeSession, index: int) -> dict[str, Tensor] | None:
    """The tensors of a layer that an interrupted run finished; what it told is told again."""
    if run.journal is None or index >= run.journal.done:
        return None
    tensors, told = run.journal.layer(index)
    run.modules |= told["modules"]
    run.notes += told["notes"]
    run.starved |= told["starved"]
    return tensors


def _made(
    run: QuantizeSession, index: int, layers: Layers, start: str, dtype: torch.dtype, layout: Layout
) -> dict[str, Tensor]:
    """The tensors of the next layer, which the journal keeps."""
    modules, notes, starved = len(run.modules), len(run.notes), len(run.starved)
    layer = next(layers)
    tensors = {
        f"{start}{name}.{part}": t.cpu()
        for name, linear in layer.items()
        for part, t in layout.write(linear).items()
    }
    tensors |= {key: tensor.to("cpu", dtype) for key, tensor in run.changed.items()}
    run.changed.clear()
    if run.journal and run.states is not None:
        told = {
            "modules": dict(islice(run.modules.items(), modules, None)),
            "notes": run.notes[notes:],
            "starved": dict(islice(run.starved.items(), starved, None)),
        }
        run.journal.put(index, tensors, told, run.states)
    return tensors
