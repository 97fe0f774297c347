"""Run llama.cpp's `llama-server` on the device for one host: `run.sh llama-server`.

The server listens on the loopback of the device only, with a key that the host sends in the first
line, so that no other user of the device can use it. It never outlives this program: it is stopped
when the input ends (the host is done, or its connection was cut), and the kernel kills it if this
program is killed.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import EdgewrightError, UsageError
from .lines import Lines, send
from .probe import llama_server_path

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; a Jetson may have 3.10

__all__ = ["serve_llama"]

NAME = "llama-server"
ALL_LAYERS = 999
START_SECONDS = 900.0
STOP_SECONDS = 10.0
CHECK_SECONDS = 1.0
KEPT_LINES = 30
PR_SET_PDEATHSIG = 1
NOT_FOUND = "llama-server is not on this device"
NOT_FOUND_HINT = (
    "build llama.cpp there (cmake -B build -DGGML_CUDA=ON && cmake --build build -t llama-server), "
    "or name the program with --llama-server PATH"
)


def serve_llama(bundle: Path, given: str, context: int, threads: int) -> dict[str, Any]:
    """Serve the bundle's GGUF file until the input ends.

    Prints `ready` with the port as soon as the model is loaded. Answers each further line with the
    server's peak memory.

    Args:
        bundle: directory of the bundle.
        given: path of the program; empty: search it.
        context: tokens in the KV cache.
        threads: of the processor.

    Raises:
        EdgewrightError: there is no such program, or it ended by itself.
    """
    lines = Lines()
    program = llama_server_path(given)
    if program is None:
        raise UsageError(f"{given}: no such program" if given else NOT_FOUND, NOT_FOUND_HINT)
    key = (lines.next() or {}).get("key")
    if not isinstance(key, str) or not key:
        raise UsageError("the first line is no {'key': ...}", "send the key for the server")
    with _Server(program, bundle / "model" / "model.gguf", context, threads, key) as server:
        begin = time.monotonic()
        if server.wait_until_ready(lines):
            seconds = round(time.monotonic() - begin, 3)
            send({"ready": {"port": server.port, "version": server.version, "load_s": seconds}})
        answered = 0
        while not lines.ended:
            server.check()
            if lines.next(CHECK_SECONDS) is not None:
                send({"peak_rss_bytes": server.peak_rss()})
                answered += 1
    return {"answered": answered}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Server:
    """The running server; it is stopped when the block ends."""

    def __init__(self, program: str, model: Path, context: int, threads: int, key: str) -> None:
        self.port = _free_port()
        self.version = _version_of(program)
        self._words = [program, "--model", str(model), "--host", "127.0.0.1"]
        self._words += ["--port", str(self.port), "--ctx-size", str(context), "--parallel", "1"]
        self._words += ["--threads", str(threads), "--n-gpu-layers", str(ALL_LAYERS)]
        # In the environment only this user can read the key; anybody can read arguments.
        self._environment = {**os.environ, "LLAMA_API_KEY": key}
        self._log: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment,
            preexec_fn=_die_with_parent,
        )
        self._reader = threading.Thread(target=self._keep_log, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_SECONDS)

    def _keep_log(self) -> None:
        assert self._process.stdout is not None
        self._log.extend(self._process.stdout)

    def check(self) -> None:
        """Check that the server is running.

        Raises:
            EdgewrightError: it has ended; the message has the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            self._reader.join(STOP_SECONDS)
            tail = "".join(self._log).strip()
            raise EdgewrightError(
                f"{NAME} ended with exit code {code}:\n{tail}",
                "update llama.cpp on the device if it does not know the model, or use a shorter "
                "--context",
            )

    def wait_until_ready(self, lines: Lines) -> bool:
        """Wait until the model is loaded; false if the input ended before."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check()
            if lines.is_interrupted():
                return False
            if _is_healthy(self.port):
                return True
            time.sleep(0.1)
        raise EdgewrightError(
            f"{NAME} did not load the model within {START_SECONDS:.0f} s",
            "try it on the device: the model may not fit into memory",
        )

    def peak_rss(self) -> int | None:
        """The peak of the server's resident memory in bytes; None if the system does not say."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None


def _version_of(program: str) -> str:
    """What `llama-server --version` says, such as `version: 6730 (e60f01d9)`; empty if nothing."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"version: .{1,80}", done.stdout + done.stderr)
    return found[0].strip() if found else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int) -> bool:
    """Whether the server answers that it can be used; it needs no key for that."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
