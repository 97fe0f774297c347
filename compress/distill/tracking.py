"""Training curves for TensorBoard, trackio or Weights & Biases, through accelerate.

They are written to a folder beside the output. Nothing is sent.
"""

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

__all__ = ["Tracking", "check_tracker", "open_tracker"]


@dataclass(frozen=True)
class Tracking:
    """Where the curves of one stage go."""

    tracker: Tracker
    folder: Path
    stage: str
    """Name of the tracker's run."""

    def settings(self, begin: int) -> tuple[str, dict[str, Any]]:
        """Return the project's name and the tracker's arguments, to start after `begin` steps."""
        if self.tracker == "tensorboard":
            # accelerate uses the project's name as a directory. `purge_step` drops what an
            # interrupted run wrote after its last save.
            return self.stage, {"purge_step": begin + 1}
        if self.tracker == "trackio":
            return self.folder.stem, {"name": self.stage, "resume": "allow", "embed": False}
        return self.folder.stem, {"name": self.stage, "dir": str(self.folder), "mode": "offline"}


def check_tracker(tracker: Tracker | None) -> None:
    """Check that a tracker's package is installed.

    Raises:
        EdgewrightError: it is not; the hint says what to install.
    """
    if tracker and find_spec(tracker) is None:
        package = "'edgewright[track]'" if tracker == "tensorboard" else tracker
        raise EdgewrightError(
            f"tracker: {tracker} needs the {tracker} package, which is not installed",
            f"pip install {package}",
        )


@contextmanager
def open_tracker(accelerator: Accelerator, tracking: Tracking | None, begin: int) -> Iterator[None]:
    """Send what `accelerator.log` gets to the tracker until the block ends; main process only.

    Args:
        accelerator: made with `log_with` and, for its folder, `project_dir`.
        tracking: None: nothing is tracked.
        begin: steps that were done before.
    """
    if tracking is None:
        yield
        return
    tracking.folder.mkdir(parents=True, exist_ok=True)
    if tracking.tracker == "trackio":
        # trackio takes its folder only from the environment, when it is first imported.
        os.environ["TRACKIO_DIR"] = str(tracking.folder)
    project, settings = tracking.settings(begin)
    with redirect_stdout(sys.stderr):  # trackers print there; --json owns standard output
        accelerator.init_trackers(project, init_kwargs={tracking.tracker: settings})
    try:
        yield
    finally:
        with redirect_stdout(sys.stderr):
            _finish(accelerator, tracking.tracker)


def _finish(accelerator: Accelerator, tracker: Tracker) -> None:
    """Close the tracker's run; `end_training` would also end the process group."""
    if tracker == "trackio" and accelerator.is_main_process:
        # accelerate closes the run but leaves it current: trackio would print at exit, on
        # standard output.
        import_module(tracker).finish()
        return
    for one in accelerator.trackers:
        one.finish()
