"""Curves for a tracker (TensorBoard, trackio, Weights & Biases) by accelerate: written to a folder beside the output, sent nowhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ...errors import EdgewrightError
from .options import Tracker

__all__ = ["Tracking", "check_tracker", "tracked"]


@dataclass(frozen=True)
class Tracking:
    """Where the curves of one stage go."""

    tracker: Tracker
    folder: Path
    stage: str
    """What its run is called."""

    def settings(self, begin: int) -> tuple[str, dict[str, Any]]:
        """The name of the project, and what the tracker is started with after `begin` steps."""
        if (
            self.tracker == "tensorboard"
        ):  # accelerate makes the project's name a directory; what a killed run wrote beyond its save goes
            return self.stage, {"purge_step": begin + 1}
        if self.tracker == "trackio":
            return self.folder.stem, {"name": self.stage, "resume": "allow", "embed": False}
        return self.folder.stem, {"name": self.stage, "dir": str(self.folder), "mode": "offline"}


def check_tracker(tracker: Tracker | None) -> None:
    """Stop where a tracker's package is not there.

    Raises:
        EdgewrightError: with what to install.
    """
    if tracker and find_spec(tracker) is None:
        package = "'edgewright[track]'" if tracker == "tensorboard" else tracker
        raise EdgewrightError(
            f"tracker: {tracker} needs the {tracker} package, which is not installed",
            f"pip install {package}",
        )


@contextmanager
def tracked(accelerator: Accelerator, tracking: Tracking | None, begin: int) -> Iterator[None]:
    """While this lasts, what `accelerator.log` is given goes to the tracker, of the main process.

    Args:
        accelerator: made with `log_with` and, for its folder, `project_dir`.
        tracking: None: nothing is tracked.
        begin: steps that were done before.
    """
    if tracking is None:
        yield
        return
    tracking.folder.mkdir(parents=True, exist_ok=True)
    if (
        tracking.tracker == "trackio"
    ):  # which takes a folder in no other way, and reads this when it is first imported
        os.environ["TRACKIO_DIR"] = str(tracking.folder)
    project, settings = tracking.settings(begin)
    with redirect_stdout(sys.stderr):  # trackers greet there, where --json has its one document
        accelerator.init_trackers(project, init_kwargs={tracking.tracker: settings})
    try:
        yield
    finally:
        with redirect_stdout(sys.stderr):
            _finish(accelerator, tracking.tracker)


def _finish(accelerator: Accelerator, tracker: Tracker) -> None:
    """Close the run; `end_training` would end the processes' group too."""
    if tracker == "trackio" and accelerator.is_main_process:
        import_module(
            tracker
        ).finish()  # accelerate closes the run and leaves it current: trackio then speaks at exit, on standard output
        return
    for one in accelerator.trackers:
        one.finish()
