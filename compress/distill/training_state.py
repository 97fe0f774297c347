"""States of a learning that is under way, so that a run that was killed goes on to the very next loss.

A save is a directory `step-SSSSS-NNNNN` (stage and steps done in it) with what accelerate keeps (weights, optimizers, schedules, random
numbers) and the losses so far. It gets its name when all of it is there; only the newest is kept.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import load_model
from torch import nn

from ...checkpoints.files import sync, write_json
from ...console import console
from .early_stop import Curve
from .processes import Processes

__all__ = ["FINISHED", "Saves"]

logging.getLogger("accelerate.utils.other").setLevel(
    logging.ERROR
)  # it warns of tied weights, which are loaded as such

FINISHED = "step-*-[0-9]*[0-9]"
"""Directories that are worth keeping when a run fails."""
LOSSES = "losses.json"


class Saves:
    """The saves in a directory, which may be those of an interrupted run of the same step.

    Args:
        folder: the directory; None: nothing is kept.
        every: steps between two saves within a stage.
        processes: of this run.
    """

    def __init__(self, folder: Path | None, every: int, processes: Processes) -> None:
        self._folder, self._every, self._processes = folder, every, processes
        self.stage, self.step = 1, 0
        self.losses: dict[str, list[float]] = {}
        self.held_out: dict[str, Curve] = {}
        """Of the stages that are over."""
        self.newest: Path | None = None
        found = sorted(folder.glob(FINISHED)) if folder else []
        if found:
            self.newest = found[-1]
            _, stage, step = self.newest.name.split("-")
            self.stage, self.step = int(stage), int(step)
            told = json.loads((self.newest / LOSSES).read_text())
            self.losses, self.held_out = told["loss"], told["held_out"]
            console.print(
                f"  resumed after step {self.step} of stage {self.stage}, which an interrupted run had saved",
                highlight=False,
            )

    def told(self) -> str:
        """What was saved last, and where."""
        return (
            f"step {self.step} of stage {self.stage} was saved in {self.newest}"
            if self.newest
            else "nothing was saved before it"
        )

    @property
    def whole(self) -> bool:
        """Whether there is a save, and its weights are in one file: sharded ones are not."""
        return self.newest is not None and (self.newest / SAFE_WEIGHTS_NAME).is_file()

    def of_stage(self, number: int, steps: int, name: str, *, last: bool) -> StageSaves:
        """The saves of one stage.

        Args:
            number: of the stage, from 1 on.
            steps: it has.
            name: of its losses.
            last: whether no stage comes after it.
        """
        return StageSaves(self, number, steps, name, last)

    def due(self, step: int, steps: int, last: bool) -> bool:
        """Whether to save after `step` of the `steps` steps of a stage; at its end always, unless it is the last."""
        return self._folder is not None and (step % self._every == 0 if step < steps else not last)

    def save(
        self, accelerator: Accelerator, stage: int, step: int, losses: dict[str, list[float]]
    ) -> None:
        """Keep the state after `step` steps of a stage, and forget the one before; all processes call it."""
        assert self._folder is not None
        name = self._folder / f"step-{stage:05d}-{step:05d}"
        temporary = name.with_name(f"{name.name}.tmp")
        self._processes.first(lambda: shutil.rmtree(temporary, ignore_errors=True))
        accelerator.save_state(str(temporary))
        self._processes.wait()
        self._processes.first(
            lambda: self._commit(temporary, name, {"loss": losses, "held_out": self.held_out})
        )
        self.newest, self.stage, self.step = name, stage, step

    def _commit(self, temporary: Path, name: Path, told: dict[str, Any]) -> None:
        write_json(temporary / LOSSES, told)
        sync(temporary)
        temporary.replace(name)
        for old in name.parent.glob(FINISHED):
            if old != name:
                shutil.rmtree(old)


class StageSaves:
    """The saves of one stage, as the trainer asks for them."""

    def __init__(self, saves: Saves, number: int, steps: int, name: str, last: bool) -> None:
        self._saves, self._number, self._steps, self._name, self._last = (
            saves,
            number,
            steps,
            name,
            last,
        )

    def restore(self, accelerator: Accelerator) -> tuple[int, list[float]]:
        """See `Keeper.restore`."""
        saves = self._saves
        if saves.newest is None or self._number != saves.stage:
            return 0, []
        accelerator.load_state(str(saves.newest))
        return saves.step, saves.losses[self._name]

    def put_back(self, model: nn.Module) -> None:
        """See `Keeper.put_back`."""
        if self._saves.newest and self._saves.whole:
            load_model(
                model, self._saves.newest / SAFE_WEIGHTS_NAME, strict=False
            )  # of an earlier stage, it has other projections

    def keep(self, accelerator: Accelerator, step: int, losses: list[float]) -> None:
        """See `Keeper.keep`."""
        if self._saves.due(step, self._steps, self._last):
            self._saves.save(
                accelerator, self._number, step, {**self._saves.losses, self._name: losses}
            )
