"""Crash-safe results per layer, from which an interrupted quantize step resumes.

A finished layer is one safetensors file with its tensors as they will be written; the metadata of
the file has its results as JSON. The hidden states that enter the next layer are kept in a file of
their own: 4 bytes per token and channel, whatever the activation budget is. Reading them back is
exact and fast, and works the same for every method; computing them again would take a pass through
all finished layers. A file is written under a temporary name, synced to disk and then renamed. This
runs in a thread while the next layer is quantized.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoints.disk import writing
from ...checkpoints.files import write_json
from ...console import console
from ...errors import EdgewrightError, NotWritten
from ..calibration.activation_buffer import Activations

__all__ = ["FINISHED", "Journal"]

FINISHED = "*.safetensors"
"""Pattern of the files that are kept when a run fails."""
RESULTS = "results"
"""Key of a layer's results in the metadata of its file."""


class Journal:
    """Finished layers in a directory, possibly left by an interrupted run of the same step.

    If the disk has no space left, the journal ends with a warning and the step goes on.

    Args:
        folder: the directory.
        layers: number of layers of the model.
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
        layers = next(
            (i for i in range(self._layers) if not self._layer(i).is_file()), self._layers
        )
        if layers == self._layers:
            return layers
        return next((i for i in range(layers, 0, -1) if self._states(i).is_file()), 0)

    def layer(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of a finished layer by full name, and its results.

        Raises:
            EdgewrightError: the file is damaged.
        """
        try:
            with safe_open(self._layer(index), framework="pt") as handle:
                results = json.loads((handle.metadata() or {})[RESULTS])
                names = handle.keys()
                return {name: handle.get_tensor(name) for name in names}, results
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error

    def restore(self, states: Activations) -> int:
        """Load the states that enter the first unfinished layer, and return the layer's number.

        Raises:
            EdgewrightError: the file is damaged.
        """
        if 0 < self.done < self._layers:
            try:
                with self._states(self.done).open("rb") as file:
                    states.fill_from(file)
            except (OSError, ValueError) as error:
                raise self._damaged(error) from error
        return self.done

    def _damaged(self, error: Exception) -> EdgewrightError:
        return EdgewrightError(
            f"{self._folder}: the journal of an interrupted run is damaged: {error}",
            "start again from the first layer: --fresh",
        )

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
                save_file(
                    _unshared(tensors),
                    self._layer(index).with_suffix(".tmp"),
                    metadata={RESULTS: json.dumps(results)},
                )
                if index + 1 < self._layers:
                    with self._states(index + 1).with_suffix(".tmp").open("wb") as file:
                        states.copy_to(file)
                self._writing = self._pool.submit(self._commit, index)
        except NotWritten as error:
            self._give_up(error)

    def _commit(self, index: int) -> None:
        """Sync the files of a layer to disk, give them their names, and delete older states."""
        for path in (self._layer(index), self._states(index + 1)):
            temporary = path.with_suffix(".tmp")
            if temporary.is_file():
                _sync(temporary)
                temporary.replace(path)
        _sync(self._folder)
        self._states(index).unlink(missing_ok=True)

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON object of this name from an interrupted run, or make and store it."""
        file = self._folder / f"{name}.json"
        if file.is_file():
            return json.loads(file.read_text())
        made = make()
        try:
            write_json(file, made)
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
