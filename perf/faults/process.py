"""Run one command in a forked process, perhaps struck by a signal or within limits."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..equivalence.worker import SLOW

__all__ = ["Condition", "Ended", "Running", "kill_all", "preload", "start"]

WRITES = frozenset(
    {
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"),
        *("shutil.rmtree", "shutil.copyfile", "shutil.copytree"),
        *("tempfile.mkstemp", "tempfile.mkdtemp"),
    }
)
"""Audit events of Python that change the file system; `open` for writing is counted too."""
PATIENCE = 600.0
"""Seconds after which a command is said to hang."""
CAPABILITIES = 0x20080522
"""Version of the layout that `capset` takes (linux/capability.h)."""
FURTHER = ("torch._dynamo", "sqlalchemy.dialects.sqlite", "lm_eval")


@dataclass(frozen=True)
class Condition:
    """What happens to a command while it runs.

    Attributes:
        signal: sent to it; 0: none.
        event: number of the change to the file system before which the signal is sent, from 1 on.
        moment: seconds after the start at which the signal is sent, if `event` is 0.
        limits: most that it may use, by resource (`resource.RLIMIT_...`). Memory and open files
            are counted from what it uses at the start.
        clock: seconds by which its clock jumps before that event.
        powerless: whether it has the rights of an ordinary user, even if it is started by root.
    """

    signal: int = 0
    event: int = 0
    moment: float = 0.0
    limits: Mapping[int, int] = field(default_factory=dict[int, int])
    clock: float = 0.0
    powerless: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, or minus the signal.
        out, err: its streams.
        seconds: from start to end.
        events: changes to the file system that were counted.
        peak: most bytes of the file system in use at one of them.
    """

    code: int
    out: str
    err: str
    seconds: float
    events: int = 0
    peak: int = 0


class Running:
    """A command that was started.

    Args:
        pid: of its process, which leads a group.
        logs: directory of its streams.
        condition: what happens to it.
    """

    def __init__(self, pid: int, logs: Path, condition: Condition) -> None:
        self.pid = pid
        self._logs = logs
        self._condition = condition
        self._begin = time.monotonic()
        self._status: int | None = None

    def wait_until_struck(self) -> bool:
        """Send a timed signal; wait for the end or a stop. Returns whether it has stopped."""
        strike = self._condition
        if strike.signal and not strike.event:
            self._wait(strike.moment, stops=False)
            if self._status is None:
                os.kill(self.pid, strike.signal)
        return self._wait(PATIENCE, stops=strike.signal == signal.SIGSTOP)

    def end(self) -> Ended:
        """Wait for the end, and return how it ended.

        Raises:
            TimeoutError: it hangs; it was killed.
        """
        if self._status is None:
            self.wait_until_struck()
        if self._status is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise TimeoutError(f"no end within {PATIENCE:.0f} s")
        seconds = time.monotonic() - self._begin
        with suppress(ProcessLookupError):  # it left no process behind
            os.killpg(self.pid, signal.SIGKILL)
        counted = self._logs / "events"
        found = json.loads(counted.read_text()) if counted.is_file() else {}
        out, err = (
            (self._logs / name).read_text(errors="replace") for name in ("stdout", "stderr")
        )
        return Ended(os.waitstatus_to_exitcode(self._status), out, err, seconds, **found)

    def resume(self) -> None:
        """Let a stopped command go on; nothing happens to it any more."""
        self._condition = Condition()
        if self._status is None:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the command, stopped or not."""
        if self._status is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._status = os.waitpid(self.pid, 0)[1]

    def _wait(self, seconds: float, *, stops: bool) -> bool:
        deadline = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | (os.WUNTRACED if stops else 0))
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                self._status = status
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(0.002)
        return False


_started: list[Running] = []


def preload() -> None:
    """Import everything that commands import, once, so that a forked process starts at once."""
    for name in (*SLOW, *FURTHER):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    root = Path(__file__).parents[2]
    for part in ("cli", "commands", "pipeline", "compress", "export", "benchmarks", "targets"):
        place = root / part
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [root / f"{part}.py"]:
            name = ".".join(file.relative_to(root).with_suffix("").parts)
            if "__main__" in name or "triton_model" in name:
                continue
            try:
                importlib.import_module(f"edgewright.{name.removesuffix('.__init__')}")
            except ImportError:
                continue


def kill_all() -> None:
    """Kill every command that was started and has not ended, such as a stopped one."""
    while _started:
        with suppress(ProcessLookupError, ChildProcessError):
            _started.pop().kill()


def start(arguments: list[str], logs: Path, condition: Condition | None = None) -> Running:
    """Start `edgewright` with these arguments in a forked process."""
    condition = condition or Condition()
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "events").unlink(missing_ok=True)
    child = os.fork()
    if child:
        with suppress(PermissionError, ProcessLookupError):  # it did so itself, or has ended
            os.setpgid(child, child)
        running = Running(child, logs, condition)
        _started.append(running)
        return running
    code: Any = 1
    try:
        code = _run(arguments, logs, condition)
    except BaseException:
        traceback.print_exc()
    finally:  # also after a signal that struck in the line above
        os._exit(code if isinstance(code, int) else 1)


def _run(arguments: list[str], logs: Path, condition: Condition) -> Any:
    """Become the command; returns its exit code."""
    os.setpgid(0, 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    counter = _Counter(condition, logs)
    sys.addaudithook(counter.hook)
    _limit(condition)
    sys.argv = ["edgewright", *arguments]
    main = importlib.import_module("edgewright.cli").main
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended
    counter.close()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class _Counter:
    """Counts changes to the file system, and strikes before one of them."""

    def __init__(self, condition: Condition, logs: Path) -> None:
        self._condition = condition
        self._record = os.open(logs / "events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._events = 0
        self._peak = 0
        self._open = True
        self.save()

    def hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python for every audit event."""
        if not self._open or not (name in WRITES or (name == "open" and _writes(arguments))):
            return
        self._events += 1
        state = os.statvfs(".")
        self._peak = max(self._peak, (state.f_blocks - state.f_bfree) * state.f_frsize)
        strike = self._condition
        if self._events == strike.event:
            if strike.clock:
                _jump(strike.clock)
            if strike.signal:
                self.save()
                os.kill(os.getpid(), strike.signal)

    def save(self) -> None:
        """Write down what was counted."""
        text = json.dumps({"events": self._events, "peak": self._peak})
        os.pwrite(self._record, text.encode(), 0)

    def close(self) -> None:
        """Stop counting."""
        self._open = False
        self.save()


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether the event `open` (path, mode, flags) is for writing."""
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _jump(seconds: float) -> None:
    """Set the clock that Python sees forward or back."""
    real = time.time
    time.time = lambda: real() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)


def _limit(condition: Condition) -> None:
    """Apply limits, and give up the rights of root."""
    for kind, most in condition.limits.items():
        amount = most
        if kind == resource.RLIMIT_AS:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            amount += pages * resource.getpagesize()
        if kind == resource.RLIMIT_NOFILE:
            amount += max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(kind, (amount, amount))
    if condition.powerless:
        header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())
