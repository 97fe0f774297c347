"""The tensors of a quantized checkpoint, made and written one decoder layer at a time.

Every finished layer is also kept in the journal, so that an interrupted step can resume.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from ...checkpoints.layouts import Layout, PackedLinear
from ...checkpoints.safetensors_writer import Pending
from ...checkpoints.streaming import Streamed
from ...checkpoints.tensors import tensors_of
from ...models import activation_scales
from .assignment import Assignment
from .embedding import packed_vocab_matrix
from .session import QuantizeSession

__all__ = ["packed_tensors"]

PackedLayers = Generator[dict[str, PackedLinear]]
"""Makes the packed linear layers of each decoder layer, by their names in it."""


def packed_tensors(
    session: QuantizeSession,
    model: Streamed,
    layers: PackedLayers,
    dtype: torch.dtype,
    layout: Layout,
    assignment: Assignment,
) -> Pending:
    """Names, shapes and types of the tensors to write, and an iterator that makes them.

    Args:
        session: options, journal and results.
        model: the model in floating point.
        layers: makes the decoder layers that are not in the journal.
        dtype: type of tensors that are not packed.
        layout: layout of tensors that are packed.
        assignment: the scheme of each packed matrix.
    """
    stream = _Stream(session, model, layers, dtype, layout, assignment)
    return Pending(stream.specs(), stream.tensors())


class _Stream:
    """Makes the tensors that `packed_tensors` promises."""

    def __init__(
        self,
        session: QuantizeSession,
        model: Streamed,
        layers: PackedLayers,
        dtype: torch.dtype,
        layout: Layout,
        assignment: Assignment,
    ) -> None:
        self._session = session
        self._model = model
        self._layers = layers
        self._dtype = dtype
        self._layout = layout
        self._assignment = assignment
        self._packed = {f"{name}.weight" for name in assignment.schemes}
        stored = model.architecture.stored
        self._replaced = {
            key for key, spec in model.specs.items() if stored({key: spec}).keys() <= self._packed
        }
        """Tensors of the source that are packed as a whole, so that they need not be read again."""
        scales = activation_scales(model.architecture.config) if layout.method == "awq" else {}
        self._ones = {name: torch.ones(size, dtype=dtype) for name, size in scales.items()}
        """Scales of activations that readers of this layout expect; we scale no activation."""

    def specs(self) -> dict[str, Tensor]:
        """An empty tensor with the shape and type of each tensor to write, by name."""
        schemes = self._assignment.schemes
        specs = {name: ones.to("meta") for name, ones in self._ones.items()}
        for key, spec in self._model.architecture.stored(self._model.specs).items():
            if key in self._packed:
                name = key.removesuffix(".weight")
                parts = self._layout.specs(spec.shape[0], spec.shape[1], schemes[name])
                specs |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
            else:
                specs[key] = spec.to(self._dtype)
        return specs

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors: layer by layer, then the rest, then embedding and head if packed."""
        model = self._model
        decoder = f"{model.architecture.decoder_layers}."
        with closing(self._layers):
            for index in range(len(model.layers)):
                yield from self._layer(index)
        yield from self._ones.items()
        yield from self._unchanged(lambda key: not key.startswith(decoder), {})
        for name, scheme in self._assignment.vocab.items():
            parts, error = packed_vocab_matrix(model.path, name, scheme, self._layout)
            self._session.vocab_errors[name] = error
            yield from ((f"{name}.{part}", tensor) for part, tensor in parts.items())

    def _layer(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of one layer.

        This is a function of its own so that the memory of a layer is freed at its end.
        """
        prefix = f"{self._model.architecture.layers[index].name}."
        made = self._from_journal(index) or self._quantized(index, prefix)
        yield from made.items()
        yield from self._unchanged(lambda key: key.startswith(prefix), made)

    def _unchanged(
        self, wanted: Callable[[str], bool], made: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors of the source that are neither packed nor in `made`.

        Experts that are fused in the source are written one by one.
        """
        model = self._model
        for key, tensor in tensors_of(
            model.path, lambda key: wanted(key) and key not in self._replaced
        ):
            parts = model.architecture.stored({key: tensor})
            yield from (
                (name, part.to(self._dtype))
                for name, part in parts.items()
                if name not in self._packed and name not in made
            )

    def _from_journal(self, index: int) -> dict[str, Tensor] | None:
        """The tensors of a layer that an interrupted run finished; its results are restored."""
        session = self._session
        if session.journal is None or index >= session.journal.done:
            return None
        tensors, results = session.journal.layer(index)
        session.modules |= results["modules"]
        session.notes += results["notes"]
        session.starved |= results["starved"]
        return tensors

    def _quantized(self, index: int, prefix: str) -> dict[str, Tensor]:
        """The tensors of the next layer, which are also put in the journal."""
        session = self._session
        modules = len(session.modules)
        notes = len(session.notes)
        starved = len(session.starved)
        layer = next(self._layers)
        tensors = {
            f"{prefix}{name}.{part}": tensor.cpu()
            for name, linear in layer.items()
            for part, tensor in self._layout.write(linear).items()
        }
        tensors |= {key: tensor.to("cpu", self._dtype) for key, tensor in session.changed.items()}
        session.changed.clear()
        if session.journal and session.states is not None:
            results = {
                "modules": dict(islice(session.modules.items(), modules, None)),
                "notes": session.notes[notes:],
                "starved": dict(islice(session.starved.items(), starved, None)),
            }
            session.journal.put(index, tensors, results, session.states)
        return tensors
