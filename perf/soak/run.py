"""Soak the HTTP server: many clients at once, some of them hostile, for minutes.

    python -m edgewright.perf.soak.run --clients 200 --minutes 10

`edgewright serve` runs in a process of its own on loopback. Three of four clients are honest: they
compare every answer with the one that the idle server gave before. The others attack. The output is
a table. The exit code is 1 if an honest client met an error, an attack was not refused as it must
be, `/health` failed or took longer than a second, memory grew, or a place or file was not freed.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import EdgewrightError
from .honest import Tally, honest_client, reference_answers
from .hostile import hostile_client
from .requests import TOOL_TEMPLATE
from .watch import Samples, Watch, cpu_seconds, health, open_files
from .wire import Address

__all__ = ["Result", "add_tools", "main", "served", "soak"]

HOSTILE_SHARE = 0.25
WARM_UP_SHARE = 0.3
"""Share of the time after which memory must not grow."""
MOST_GROWTH = 1.0
"""MB a minute. An allocator's fragments make a little."""
LONG_ENOUGH = 300.0
"""Seconds of a run in which growth means something; before, caches and threads still fill."""
MOST_HEALTH_SECONDS = 1.0
START_SECONDS = 600
SETTLE_SECONDS = 120
REQUEST_SECONDS = 10
LIMITS = {
    "--max-waiting": 64,
    "--request-seconds": REQUEST_SECONDS,
    "--stall-seconds": REQUEST_SECONDS,
    "--grace-seconds": 60,
}


@dataclass
class Server:
    """A server process, and its open files before any client came."""

    process: subprocess.Popen[bytes]
    address: Address
    log: Path

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid


@dataclass
class Result:
    """What a soak test found.

    Attributes:
        honest: what honest clients met.
        hostile: what attacks led to.
        samples: `/health`, memory and files over time.
        seconds: how long it took.
        cpu: CPU seconds that the server got; few on a busy machine, and then all is slow.
        clients: number of clients.
        asked: kinds of requests that the server supports and honest clients choose from.
        files: open files of the server before and after.
        left: sequences that were still running or waiting at the end.
        exit_code: of the server after SIGTERM; the negative number of a signal is Unix's way.
        complaints: lines of the server's log that tell of a fault.
    """

    honest: Tally
    hostile: Tally
    samples: Samples
    seconds: float
    cpu: float
    clients: int
    asked: frozenset[str]
    files: tuple[int, int]
    left: int
    exit_code: int = 0
    complaints: int = 0

    def faults(self) -> list[str]:
        """Everything that must not happen, whatever the speed of the machine."""
        found = [f"honest: {what} ({count} times)" for what, count in self.honest.faults.items()]
        found += [f"attack: {what} ({count} times)" for what, count in self.hostile.faults.items()]
        if not self.honest.done:
            found.append("no honest client was served")
        if self.samples.failed:
            found.append(f"/health failed {self.samples.failed} times")
        if self.left:
            found.append(f"{self.left} sequences were still there at the end")
        if self.files[1] > self.files[0]:
            found.append(f"{self.files[0]} files were open before, and {self.files[1]} after")
        if self.exit_code not in (0, -signal.SIGTERM):
            found.append(f"the server ended with {self.exit_code}")
        if self.complaints:
            found.append(f"the server's log has {self.complaints} tracebacks")
        return found

    def slow(self) -> list[str]:
        """What is wrong with speed and memory; a busy machine disturbs these."""
        found: list[str] = []
        if max(self.samples.health_seconds, default=0.0) > MOST_HEALTH_SECONDS:
            found.append(f"/health took {max(self.samples.health_seconds):.2f} s")
        growth = self.samples.memory_slope(self.seconds * WARM_UP_SHARE)
        if growth > MOST_GROWTH and self.seconds >= LONG_ENOUGH:
            found.append(f"memory grows by {growth:.2f} MB a minute")
        return found

    @property
    def reused(self) -> float:
        """Share of the tokens of honest prompts that the server knew from earlier requests."""
        return self.honest.cached_tokens / max(self.honest.prompt_tokens, 1)

    def table(self) -> str:
        """The result as Markdown."""
        memory = np.array(self.samples.resident) / 1e6
        growth = self.samples.memory_slope(self.seconds * WARM_UP_SHARE)
        rows = [
            ("clients, minutes", f"{self.clients}, {self.seconds / 60:.1f}"),
            ("CPU time of the server, share of a core", f"{self.cpu / self.seconds:.0%}"),
            ("honest requests served", f"{self.honest.done.total():,}"),
            ("honest errors", f"{self.honest.faults.total():,}"),
            ("answers 429 that were asked again", f"{self.honest.retries:,}"),
            ("prompt tokens that were known from earlier requests", f"{self.reused:.0%}"),
            ("attacks", f"{self.hostile.done.total():,}"),
            ("attacks not refused as they must be", f"{self.hostile.faults.total():,}"),
            ("/health, ms, p50 / p99 / max", _milliseconds(self.samples.health_seconds)),
            *(
                (f"{kind}, ms, p50 / p99 / max", _milliseconds(seconds))
                for kind, seconds in sorted(self.honest.seconds.items())
            ),
            (
                "resident MB, start / middle / end / most",
                f"{memory[0]:.0f} / {memory[len(memory) // 2]:.0f} / {memory[-1]:.0f} / "
                f"{memory.max():.0f}",
            ),
            ("growth after warm-up, MB a minute", f"{growth:.2f}"),
            (
                "open files, before / most / after",
                f"{self.files[0]} / {max(self.samples.files)} / {self.files[1]}",
            ),
            ("places in use at the end, waiting sequences included", str(self.left)),
        ]
        lines = [f"| {name} | {value} |" for name, value in rows]
        attacks = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self.hostile.done.items()))
        return "\n".join(["| soak | |", "| --- | --- |", *lines, "", f"Attacks: {attacks}."])


def _milliseconds(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    values = np.percentile(np.array(seconds) * 1000, [50, 99, 100])
    return " / ".join(f"{value:,.0f}" for value in values)


@contextmanager
def served(artifact: Path, folder: Path, threads: int = 1) -> Iterator[Server]:
    """`edgewright serve` on a free port, with a key; its log is in the folder."""
    key = secrets.token_hex(16)
    (folder / "keys").write_text(f"{key}\n")
    (folder / "keys").chmod(0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "edgewright.cli", "serve", str(artifact), "--port", str(port)]
    command += ["--threads", str(threads), "--api-key-file", str(folder / "keys")]
    command += [str(word) for pair in LIMITS.items() for word in pair]
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream)
    try:
        _await_start(process, port, log)
        yield Server(process, Address(port, key), log)
    finally:
        process.kill()
        process.wait()


def _await_start(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            health(port)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise EdgewrightError(f"the server did not start: {log.read_text()[-500:]}")


def add_tools(artifact: Path) -> None:
    """Give an artifact a chat template with tools. Transformers prefers this file to others."""
    (artifact / "chat_template.jinja").write_text(TOOL_TEMPLATE)


def soak(server: Server, clients: int, seconds: float) -> Result:
    """Use the server with so many clients for so long, and stop it."""
    address = server.address
    known = asyncio.run(reference_answers(address))
    health(address.port)
    time.sleep(REQUEST_SECONDS)  # connections that are kept alive close
    before = open_files(server.pid)
    watch = Watch(address.port, server.pid)
    honest = Tally()
    hostile = Tally()
    end = time.monotonic() + seconds
    attackers = max(1, int(clients * HOSTILE_SHARE))

    async def all_clients() -> None:
        tasks = [honest_client(address, end, honest, known, i) for i in range(attackers, clients)]
        tasks += [hostile_client(address, end, hostile, i) for i in range(attackers)]
        await asyncio.gather(*tasks)

    began = time.monotonic()
    used = cpu_seconds(server.pid)
    asyncio.run(all_clients())
    took = time.monotonic() - began
    used = cpu_seconds(server.pid) - used
    samples = watch.stop()
    left, after = _settled(server, before)
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(timeout=START_SECONDS)
    complaints = server.log.read_text(errors="replace").count("Traceback")
    asked = frozenset(one.request.kind for one in known)
    files = (before, after)
    return Result(
        honest, hostile, samples, took, used, clients, asked, files, left, code, complaints
    )


def _settled(server: Server, files: int) -> tuple[int, int]:
    """Sequences and open files that are left, after waiting until nothing is or time is over."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        state = health(server.address.port)
        left = int(state["running"]) + int(state["waiting"])
        time.sleep(0.5)
        now = open_files(server.pid)
        if (not left and now <= files) or time.monotonic() > end:
            return left, now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, nargs="?", help="default: the built-in model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = arguments.artifact or _builtin(folder / "builtin")
        with served(artifact, folder, arguments.threads) as server:
            result = soak(server, arguments.clients, arguments.minutes * 60)
    print(result.table())
    wrong = [*result.faults(), *result.slow()]
    print("\n".join(["", *(f"- {fault}" for fault in wrong)] if wrong else ["", "No fault."]))
    sys.exit(bool(wrong))


def _builtin(out: Path) -> Path:
    """An artifact of the built-in model, with a chat template that has tools."""
    command = [sys.executable, "-m", "edgewright.cli", "export", "builtin:tiny-reasoner"]
    subprocess.run([*command, "--out", str(out)], check=True)
    add_tools(out)
    return out


if __name__ == "__main__":
    main()
