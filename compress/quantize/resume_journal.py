"""Crash-safe results per layer, from which an interrupted quantize step resumes.

A finished layer is one safetensors file with its tensors as they will be written; the metadata of
the file has its results as JSON, and a checksum of all. The hidden states that enter the next layer
are kept in a file of their own, which begins with its checksum: 4 bytes per token and channel,
whatever the activation budget is. Reading them back is exact and fast, and works the same for every
method; computing them again would take a pass through all finished layers. A file is written under
a temporary name, synced to disk and then renamed. This runs in a thread while the next layer is
quantized.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoints.disk import writing
from ...checkpoints.sealed import (
    CHECK,
    DIGEST_BYTES,
    Damaged,
    fast_digest,
    open_sealed,
    read_sealed,
    seal_file,
    write_sealed,
)
from ...console import console
from ...errors import NotWritten
from ..calibration.activation_buffer import Activations

__all__ = ["FINISHED", "Journal"]

FINISHED = "*.safetensors"
"""Pattern of the files that are kept when a run fails."""
HINT = "start again from the first layer: --fresh"
RESULTS = "results"
"""Key of a layer's results in the metadata of its file."""


class Journal:
    """Finished layers in a directory, possibly left by an interrupted run of the same step.

    If the disk has no space left, the journal ends with a warning and the step goes on.

    Args:
        folder: the directory.
        layers: number of layers of the model.

    Raises:
        Damaged: a file of a finished layer is not what was written.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self._folder = folder
        self._layers = layers
        self._open = True
        self._pool = ThreadPoolExecutor(1)
        self._writing = Future[None]()
        self._writing.set_result(None)
        self.done = self._finished()
        if self.done:
            console.print(
                f"  resumed: {self.done} of {layers} layers were finished by an interrupted run",
                highlight=False,
            )

    def _layer(self, index: int) -> Path:
        return self._folder / f"layer-{index:05d}.safetensors"

    def _states(self, index: int) -> Path:
        return self._folder / f"states-{index:05d}.bin"

    def _finished(self) -> int:
        """Number of layers, from the first one, that are complete with the states after them."""
        layers = next((i for i in range(self._layers) if not self._layer(i).exists()), self._layers)
        for index in range(layers):
            self.layer(index)  # damage is found before any work
        if layers == self._layers:
            return layers
        return next((i for i in range(layers, 0, -1) if self._states(i).exists()), 0)

    def layer(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of a finished layer by full name, and its results.

        Raises:
            Damaged: the file is not what was written.
        """
        file = self._layer(index)
        try:
            with safe_open(file, framework="pt") as handle:
                recorded = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise Damaged(file, error, HINT) from error
        results = recorded.get(RESULTS, "")
        if recorded.get(CHECK) != _checksum(tensors, results):
            raise Damaged(file, "its content is not what edgewright wrote", HINT)
        return tensors, json.loads(results)

    def restore(self, states: Activations) -> int:
        """Load the states that enter the first unfinished layer, and return the layer's number.

        Raises:
            Damaged: the file is not what was written.
        """
        if 0 < self.done < self._layers:
            file = self._states(self.done)
            with open_sealed(file, HINT) as handle:
                try:
                    states.fill_from(handle)
                except ValueError as error:
                    raise Damaged(file, error, HINT) from error
        return self.done

    def put(
        self,
        index: int,
        tensors: Mapping[str, Tensor],
        results: Mapping[str, Any],
        states: Activations,
    ) -> None:
        """Store a finished layer.

        Args:
            index: number of the layer.
            tensors: its tensors by full name.
            results: its results; JSON.
            states: its outputs.
        """
        if not self._open:
            return
        try:
            with writing(self._folder):
                self._writing.result()
                kept = _unshared(tensors)
                text = json.dumps(results)
                save_file(
                    kept,
                    self._layer(index).with_suffix(".tmp"),
                    metadata={RESULTS: text, CHECK: _checksum(kept, text)},
                )
                if index + 1 < self._layers:
                    with self._states(index + 1).with_suffix(".tmp").open("wb") as file:
                        file.write(bytes(DIGEST_BYTES))
                        states.copy_to(file)
                self._writing = self._pool.submit(self._commit, index)
        except NotWritten as error:
            self._give_up(error)

    def _commit(self, index: int) -> None:
        """Sync the files of a layer to disk, give them their names, and delete older states."""
        if self._states(index + 1).with_suffix(".tmp").is_file():
            seal_file(self._states(index + 1).with_suffix(".tmp"))
        for path in (self._layer(index), self._states(index + 1)):
            temporary = path.with_suffix(".tmp")
            if temporary.is_file():
                _sync(temporary)
                temporary.replace(path)
        _sync(self._folder)
        self._states(index).unlink(missing_ok=True)

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON object of this name from an interrupted run, or make and store it.

        Raises:
            Damaged: the file is not what was written.
        """
        file = self._folder / f"{name}.json"
        if file.exists():
            return read_sealed(file, HINT)
        made = make()
        try:
            write_sealed(file, made)
        except NotWritten as error:
            self._give_up(error)
        return made

    def _give_up(self, error: NotWritten) -> None:
        """Delete the journal and warn that the step cannot resume."""
        self._open = False
        self.done = 0
        for path in self._folder.iterdir():
            if path.suffix in (".safetensors", ".bin", ".tmp", ".json"):
                path.unlink()
        reason = str(error).rpartition("could not be written: ")[2]
        console.print(
            f"  [yellow]warning:[/] no journal is kept ({reason}): if this run is interrupted, "
            "it starts again from the first layer",
            highlight=False,
        )

    def close(self) -> None:
        """Wait until all files are written."""
        self._pool.shutdown()


def _checksum(tensors: Mapping[str, Tensor], results: str) -> str:
    """A checksum of a layer's tensors, with their names, types and shapes, and of its results."""
    found = fast_digest(results.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory, which a safetensors file does not allow.

    Layers with the same permuted groups share one `g_idx`.
    """
    unshared = dict[str, Tensor]()
    seen = set[int]()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        unshared[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    return unshared


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
