"""The journal of a quantize: what every finished layer came to, and what enters the next one, so that a killed run goes on there.

A layer is one safetensors file with its tensors as they will be written and, in the file's metadata, what there is to tell of it. The
calibration states are kept as they are instead of being computed again by the finished layers: reading them is bit for bit the same
whatever computed them, costs no pass through the model, and works alike for every method. Only those that enter the next layer are
there: 4 bytes a token and channel, in a file, whatever the budget of activations is. A file gets its name when it is whole and on
the disk, which is waited for while the next layer is worked on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoints.files import write_json
from ...console import console
from ...errors import EdgewrightError
from ..calibration.activation_buffer import Activations

__all__ = ["FINISHED", "Journal"]

FINISHED = "*.safetensors"
"""Files that are worth keeping when a run fails."""
TOLD = "told"


class Journal:
    """Finished layers in a directory, which may be that of an interrupted run of the same step.

    A disk that has no room for it ends the journal and not the run.

    Args:
        folder: the directory.
        layers: of the model.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self._folder, self._layers, self._open = folder, layers, True
        self._pool, self._writing = ThreadPoolExecutor(1), Future[None]()
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
        """Layers that are there from the first on, with what enters the next."""
        there = next((i for i in range(self._layers) if not self._layer(i).is_file()), self._layers)
        return (
            there
            if there == self._layers
            else next((i for i in range(there, 0, -1) if self._states(i).is_file()), 0)
        )

    def layer(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of a finished layer by full name, and what was told of it.

        Raises:
            EdgewrightError: the file is damaged.
        """
        try:
            with safe_open(self._layer(index), framework="pt") as handle:
                told = json.loads((handle.metadata() or {})[TOLD])
                names = handle.keys()
                return {name: handle.get_tensor(name) for name in names}, told
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error

    def restore(self, states: Activations) -> int:
        """Make states those that enter the first unfinished layer; its number.

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
            f"{self._folder}: what an interrupted run left is damaged: {error}",
            "start afresh: --fresh",
        )

    def put(
        self,
        index: int,
        tensors: Mapping[str, Tensor],
        told: Mapping[str, Any],
        states: Activations,
    ) -> None:
        """Keep a finished layer.

        Args:
            index: of the layer.
            tensors: of it, by full name.
            told: of it; JSON.
            states: what it put out.
        """
        if not self._open:
            return
        try:
            self._writing.result()
            layer, entering = (
                path.with_suffix(".tmp") for path in (self._layer(index), self._states(index + 1))
            )
            save_file(_apart(tensors), layer, metadata={TOLD: json.dumps(told)})
            if index + 1 < self._layers:
                with entering.open("wb") as file:
                    states.copy_to(file)
            self._writing = self._pool.submit(self._commit, index)
        except (OSError, SafetensorError) as error:
            self._give_up(error)

    def _commit(self, index: int) -> None:
        for path in (self._layer(index), self._states(index + 1)):
            temporary = path.with_suffix(".tmp")
            if temporary.is_file():
                _sync(temporary)
                temporary.replace(path)
        _sync(self._folder)
        self._states(index).unlink(missing_ok=True)

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, JSON, made by this run or by the interrupted one."""
        file = self._folder / f"{name}.json"
        if file.is_file():
            return json.loads(file.read_text())
        made = make()
        try:
            write_json(file, made)
        except OSError as error:
            self._give_up(error)
        return made

    def _give_up(self, error: Exception) -> None:
        self._open, self.done = False, 0
        for path in self._folder.iterdir():
            if path.suffix in (".safetensors", ".bin", ".tmp", ".json"):
                path.unlink()
        reason = getattr(error, "strerror", None) or error
        free = shutil.disk_usage(self._folder).free
        console.print(
            f"  [yellow]warning:[/] no journal is kept ({reason}, {free / 1e9:.1f} GB free): if this run is killed, it starts afresh",
            highlight=False,
        )

    def close(self) -> None:
        """Wait for what is being written."""
        self._pool.shutdown()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, none of which shares memory with another, as a file must have them: a permuted group of layers has one `g_idx`."""
    apart, seen = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        apart[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    return apart


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
