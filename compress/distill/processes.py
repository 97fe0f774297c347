"""The processes of a run, as started by torchrun or `accelerate launch`.

Nothing is launched here. All processes run the same code and read the same data. Only the main
process writes files.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import FrameType
from typing import TypeVar

from accelerate import PartialState
from accelerate.state import AcceleratorState

from ...console import console
from ...errors import EdgewrightError
from .sharding import sharding_requested

__all__ = ["Processes"]

T = TypeVar("T")
RESUME_HINT = "start the same command again: it resumes from the last save"
MAIN_TIMEOUT = timedelta(days=7)
"""How long processes wait for the main one, which may prune a model or run a teacher on all rows.

A process that dies is noticed at once.
"""
CONNECTION_LOST = (
    "closed by peer",
    "reset by peer",
    "timed out",
    "connection refused",
    "broken pipe",
)
"""What a collective operation says when another process is gone."""


class Processes:
    """The processes of this run, connected to each other; there may be only one.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, device: str) -> None:
        # The state is global. It may be that of a run on another device or in another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        self._state = PartialState(cpu=device == "cpu", timeout=MAIN_TIMEOUT)
        self.count = int(self._state.num_processes)
        self.main = bool(self._state.is_main_process)
        self.sharded = self.count > 1 and sharding_requested()
        # `accelerate launch` sets this variable, and torchrun does not.
        if self.count == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:
            console.print(
                "  [yellow]warning:[/] accelerate launch has started one process "
                "(with --cpu it always does); for several: ACCELERATE_USE_CPU=true "
                "torchrun --nproc-per-node 2 -m edgewright.cli distill ...",
                highlight=False,
            )

    def summary(self, rows: int) -> str:
        """Return one line: how many processes there are, and what each does.

        Args:
            rows: per step, all processes together.
        """
        weights = ", a part of the weights" if self.sharded else ""
        return (
            f"{self.count} processes ({self._state.backend}), "
            f"{rows // self.count} rows of every step{weights} each"
        )

    def wait(self) -> None:
        """Wait for all other processes."""
        self._state.wait_for_everyone()

    def on_main(self, make: Callable[[], T]) -> T | None:
        """Call a function in the main process only; the others wait for it and return None."""
        made = make() if self.main else None
        self.wait()
        return made

    @contextmanager
    def context_on_main(
        self, enter: Callable[[], AbstractContextManager[T]], others: T
    ) -> Iterator[T]:
        """Enter a context in the main process only.

        Args:
            enter: makes the context.
            others: value that the other processes get, once the main one has entered.
        """
        if not self.main:
            self.wait()
            yield others
            return
        with enter() as value:
            self.wait()
            yield value

    @contextmanager
    def report_lost_process(self) -> Iterator[None]:
        """Turn the end of another process into one short message.

        Raises:
            EdgewrightError: another process has ended, or this one received SIGTERM.
        """
        if self.count == 1:
            yield
            return

        def stopped(number: int, frame: FrameType | None) -> None:
            raise EdgewrightError(
                "stopped by SIGTERM: another process of this run has ended, or all were stopped",
                RESUME_HINT,
            )

        watching = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, stopped) if watching else None
        # After a failure the launcher stops this process too. It must print its message first.
        handler = signal.SIG_IGN
        try:
            yield
            handler = before
        except RuntimeError as error:
            if not any(sign in str(error).lower() for sign in CONNECTION_LOST):
                raise
            raise EdgewrightError(
                f"another process of this run has ended: {str(error).splitlines()[0]}", RESUME_HINT
            ) from error
        finally:
            if watching:
                signal.signal(signal.SIGTERM, handler)
