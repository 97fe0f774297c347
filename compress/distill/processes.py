"""The processes of a run, started by torchrun or `accelerate launch`: who works while others wait, what is said when one ends.

Nothing is launched here. All processes go through the same code and read the same data; the main one makes and writes files.
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
from .sharding import asked_for

__all__ = ["Processes"]

T = TypeVar("T")
GOES_ON = "start the same command again: it goes on from the last save"
PATIENCE = timedelta(days=7)
"""How long processes wait while one works alone: makes a cut, or asks a teacher about all rows. One that dies is noticed at once."""
CLOSED = ("closed by peer", "reset by peer", "timed out", "connection refused", "broken pipe")
"""What a collective operation says when another process is gone."""


class Processes:
    """Those of this run, joined; one, where nothing else was launched.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, device: str) -> None:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # global, and of another device or precision perhaps
        self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
        self.count, self.main = int(self._state.num_processes), bool(self._state.is_main_process)
        self.sharded = self.count > 1 and asked_for()
        if (
            self.count == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ
        ):  # which `accelerate launch` sets, and torchrun does not
            console.print(
                "  [yellow]warning:[/] accelerate launch has started one process (with --cpu it always does); "
                "for several: ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m edgewright.cli distill ...",
                highlight=False,
            )

    def told(self, rows: int) -> str:
        """How many there are, for people.

        Args:
            rows: of a step, all processes together.
        """
        weights = ", a part of the weights" if self.sharded else ""
        return f"{self.count} processes ({self._state.backend}), {rows // self.count} rows of every step{weights} each"

    def wait(self) -> None:
        """For all the others."""
        self._state.wait_for_everyone()

    def first(self, make: Callable[[], T]) -> T | None:
        """What the main process makes while the others wait; None for them."""
        made = make() if self.main else None
        self.wait()
        return made

    @contextmanager
    def inside(self, enter: Callable[[], AbstractContextManager[T]], others: T) -> Iterator[T]:
        """A context that only the main process enters and leaves; the others are given `others`, once it has entered."""
        if not self.main:
            self.wait()
            yield others
            return
        with enter() as value:
            self.wait()
            yield value

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turns the end of another process into one message.

        Raises:
            EdgewrightError: another process has ended, or this one was told to.
        """
        if self.count == 1:
            yield
            return

        def stopped(number: int, frame: FrameType | None) -> None:
            raise EdgewrightError(
                "stopped from outside: another process of this run has ended, or all were told to",
                GOES_ON,
            )

        watching = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, stopped) if watching else None
        ended = (
            signal.SIG_IGN
        )  # whoever started all of them now stops this one too, which is to say why first
        try:
            yield
            ended = before
        except RuntimeError as error:
            if not any(sign in str(error).lower() for sign in CLOSED):
                raise
            raise EdgewrightError(
                f"another process of this run has ended: {str(error).splitlines()[0]}", GOES_ON
            ) from error
        finally:
            if watching:
                signal.signal(signal.SIGTERM, ended)
