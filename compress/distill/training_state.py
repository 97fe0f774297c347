"""Saved training states, so that an interrupted run resumes with the identical next loss.

A save is a directory `step-SSSSS-NNNNN` (stage, steps done in it). It holds the state that
accelerate saves (weights, optimizers, schedules, random numbers), and the losses so far with the
checksum of every file. It gets its name when it is complete. Only the newest save is kept.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import load_model
from torch import nn

from ...checkpoints.directories import sync
from ...checkpoints.disk import require_space, writing
from ...checkpoints.sealed import Damaged, fast_file_digest, read_sealed, write_sealed
from ...console import console
from ...errors import UsageError
from .early_stop import Curve
from .processes import Processes

__all__ = ["FINISHED", "Saves"]

# accelerate warns of tied weights, which are loaded correctly.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)

FINISHED = "step-*-[0-9]*[0-9]"
"""Pattern of complete saves, which are kept when a run fails."""
LOSSES = "losses.json"
FILES = "files"
"""Key of the checksums in the file of the losses."""


class Saves:
    """The saves in a directory, perhaps those of an interrupted run of the same step.

    Args:
        folder: the directory; None: nothing is saved.
        every: steps between two saves within a stage.
        processes: of this run.
    """

    def __init__(self, folder: Path | None, every: int, processes: Processes) -> None:
        self._folder = folder
        self._every = every
        self._processes = processes
        self.stage = 1
        self.step = 0
        self.losses: dict[str, list[float]] = {}
        self.held_out: dict[str, Curve] = {}
        """Held-out losses of finished stages."""
        self.newest: Path | None = None
        found = sorted(folder.glob(FINISHED), reverse=True) if folder else []
        self.newest, saved = next(filter(None, map(_opened, found)), (None, {}))
        if self.newest is not None:
            _, stage, step = self.newest.name.split("-")
            self.stage = int(stage)
            self.step = int(step)
            self.losses = saved["loss"]
            self.held_out = saved["held_out"]
            console.print(
                f"  resumed after step {self.step} of stage {self.stage}, "
                "saved by an interrupted run",
                highlight=False,
            )

    def summary(self) -> str:
        """Return one line: which save is the newest, and where it is."""
        return (
            f"step {self.step} of stage {self.stage} was saved in {self.newest}"
            if self.newest
            else "nothing was saved before it"
        )

    @property
    def has_whole_weights(self) -> bool:
        """Whether a save exists with all weights in one file; sharded weights are in several."""
        return self.newest is not None and (self.newest / SAFE_WEIGHTS_NAME).is_file()

    def of_stage(self, number: int, steps: int, name: str, *, last: bool) -> StageSaves:
        """Return the saves of one stage.

        Args:
            number: of the stage, from 1 on.
            steps: of the stage.
            name: of its losses.
            last: whether it is the last stage.
        """
        return StageSaves(self, number, steps, name, last)

    def due(self, step: int, steps: int, last: bool) -> bool:
        """Whether to save after `step` of the `steps` steps of a stage.

        The end of a stage is always saved, except that of the last stage.
        """
        return self._folder is not None and (step % self._every == 0 if step < steps else not last)

    def save(
        self, accelerator: Accelerator, stage: int, step: int, losses: dict[str, list[float]]
    ) -> None:
        """Save the state after `step` steps of a stage, and delete the previous save.

        All processes must call it.

        Raises:
            NotWritten: the disk is full. The save before it is kept.
        """
        assert self._folder is not None
        name = self._folder / f"step-{stage:05d}-{step:05d}"
        temporary = name.with_name(f"{name.name}.tmp")
        self._processes.on_main(lambda: shutil.rmtree(temporary, ignore_errors=True))
        try:
            with writing(name, whole=True):
                accelerator.save_state(str(temporary))
                self._processes.wait()
                saved = {"loss": losses, "held_out": self.held_out}
                self._processes.on_main(lambda: self._commit(temporary, name, saved))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.newest = name
        self.stage = stage
        self.step = step

    def require_space(self, model: nn.Module) -> None:
        """Stop if the disk has no room for a saved state of a model.

        It holds the weights, and at least one more value for each that is trained.

        Raises:
            NoSpace: with the bytes needed and free.
        """
        if self._folder is None or not self._processes.main:
            return
        sizes = [(p.nbytes, p.requires_grad) for p in model.parameters()]
        needed = sum(size * (1 + trained) for size, trained in sizes)
        require_space(self._folder, needed, "a saved state of the training")

    def _commit(self, temporary: Path, name: Path, losses: dict[str, Any]) -> None:
        write_sealed(temporary / LOSSES, {**losses, FILES: _digests(temporary)})
        sync(temporary)
        if name.exists():  # a damaged one
            shutil.rmtree(name)
        temporary.replace(name)
        for old in name.parent.glob(FINISHED):
            if old != name:
                shutil.rmtree(old)


def _digests(save: Path) -> dict[str, str]:
    """The checksum of every file of a save but that of the losses, by path."""
    files = (path for path in sorted(save.rglob("*")) if path.is_file() and path.name != LOSSES)
    return {path.relative_to(save).as_posix(): fast_file_digest(path) for path in files}


def _opened(save: Path) -> tuple[Path, dict[str, Any]] | None:
    """A save with its losses; None, and a message, if any of its files is damaged."""
    try:
        return save, _losses(save)
    except Damaged as error:
        console.print(f"  trained again: {error}", highlight=False, markup=False)
        return None


def _losses(save: Path) -> dict[str, Any]:
    """The losses of a save whose files are all as they were written.

    Raises:
        Damaged: one of them is not.
    """
    hint = "train again with --fresh"
    saved = read_sealed(save / LOSSES, hint)
    changed = {*saved[FILES].items()} ^ {*_digests(save).items()}
    if changed:
        name = min(name for name, _ in changed)
        raise Damaged(save / name, "its content is not what edgewright wrote", hint)
    return saved


@dataclass(frozen=True)
class StageSaves:
    """The saves of one stage, in the form that the trainer uses."""

    saves: Saves
    number: int
    steps: int
    name: str
    last: bool

    def restore(self, accelerator: Accelerator) -> tuple[int, list[float]]:
        """See `StateSaver.restore`."""
        saves = self.saves
        if saves.newest is None or self.number != saves.stage:
            return 0, []
        _check_plain(saves.newest)
        accelerator.load_state(str(saves.newest))
        return saves.step, saves.losses[self.name]

    def require_space(self, model: nn.Module) -> None:
        """Stop before the training if the disk has no room for a state that will be saved.

        Raises:
            NoSpace: with the bytes needed and free.
        """
        if any(self.saves.due(step, self.steps, self.last) for step in range(1, self.steps + 1)):
            self.saves.require_space(model)

    def restore_weights(self, model: nn.Module) -> None:
        """See `StateSaver.restore_weights`."""
        if self.saves.newest and self.saves.has_whole_weights:
            # Not strict: a save of an earlier stage has other projections.
            load_model(model, self.saves.newest / SAFE_WEIGHTS_NAME, strict=False)

    def save_if_due(self, accelerator: Accelerator, step: int, losses: list[float]) -> None:
        """See `StateSaver.save_if_due`."""
        if self.saves.due(step, self.steps, self.last):
            self.saves.save(
                accelerator, self.number, step, {**self.saves.losses, self.name: losses}
            )


def _check_plain(save: Path) -> None:
    """Accept a save whose schedules are plain data; accelerate would run code in their pickles.

    Raises:
        UsageError: there is something else in them.
    """
    for file in sorted(save.glob("custom_checkpoint_*.pkl")):
        try:
            torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle may raise anything
            raise UsageError(
                f"{file}: damaged, or no state that edgewright saved",
                "run the command again with --fresh",
            ) from error
