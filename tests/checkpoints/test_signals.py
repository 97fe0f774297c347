"""Ctrl-C and SIGTERM wait until a short piece of work has ended."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.locks import locked
from edgewright.checkpoints.signals import undisturbed
from edgewright.commands.interruption import Terminated, sigterm_raises


def test_a_signal_waits_until_the_block_has_ended() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")
    assert done


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with undisturbed():
        pass
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(OSError, match="full"), undisturbed():
        raise OSError("full")


def test_other_threads_are_left_alone() -> None:
    ran = []

    def work() -> None:
        with undisturbed():
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran


@pytest.mark.parametrize("event", ["open", "os.remove"])
def test_sigterm_while_a_lock_is_taken_or_released_leaves_no_lock_file(
    tmp_path: Path, event: str
) -> None:
    lock = tmp_path / ".out.lock"
    struck = []

    def strike(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and not struck and arguments[0] == str(lock):
            struck.append(name)
            signal.raise_signal(signal.SIGTERM)

    sys.addaudithook(strike)  # cannot be removed; it strikes once
    with pytest.raises(Terminated), sigterm_raises(), locked(tmp_path / "out"):
        pass
    assert struck == [event]
    assert not lock.exists()
