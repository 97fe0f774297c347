"""Run llama.cpp's `llama-server` on a GGUF file, as a child of this process.

The server listens on loopback only, with a key, so that no other user of the machine can use it.
It never outlives its parent: the kernel stops it then. Bundles carry this module to the device, so
it imports only the standard library and `errors`.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EdgewrightError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; a Jetson may have 3.10

__all__ = ["ALL_LAYERS", "LLAMA_SERVER", "LlamaServer", "ServerSettings", "version_of"]

LLAMA_SERVER = "llama-server"
ALL_LAYERS = 999
START_SECONDS = 900.0
STOP_SECONDS = 10.0
KEPT_LINES = 30
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServerSettings:
    """How llama-server is started.

    Attributes:
        program: its path.
        threads: of the processor.
        context: tokens in the KV cache of each slot.
        slots: requests that are answered at the same time.
        gpu_layers: layers that a GPU computes, if the program can use one.
    """

    program: str
    threads: int
    context: int
    slots: int = 1
    gpu_layers: int = ALL_LAYERS


class LlamaServer:
    """A server that runs inside a `with` block.

    Args:
        settings: how it is started.
        model: the GGUF file.
        key: the API key of its requests.
    """

    def __init__(self, settings: ServerSettings, model: Path, key: str) -> None:
        self.port = _free_port()
        self.version = version_of(settings.program)
        self._words = [settings.program, "--model", str(model), "--host", "127.0.0.1"]
        self._words += ["--port", str(self.port), "--parallel", str(settings.slots)]
        self._words += ["--ctx-size", str(settings.context * settings.slots)]
        self._words += ["--threads", str(settings.threads)]
        self._words += ["--n-gpu-layers", str(settings.gpu_layers)]
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

    def check(self, seconds: float = 0.0) -> None:
        """Check that the server is running.

        Args:
            seconds: to wait for its end, where something says that it is ending.

        Raises:
            EdgewrightError: it has ended; the message has the end of its log.
        """
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            self._reader.join(STOP_SECONDS)
            tail = "".join(self._log).strip()
            raise EdgewrightError(
                f"{LLAMA_SERVER} ended with exit code {code}:\n{tail}",
                "update llama.cpp if it does not know the model, or use a shorter context",
            )

    def wait_until_ready(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the model is loaded; false if `interrupted` became true before.

        Raises:
            EdgewrightError: it ended, or took too long.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check()
            if interrupted():
                return False
            if _is_healthy(self.port):
                return True
            time.sleep(0.1)
        raise EdgewrightError(
            f"{LLAMA_SERVER} did not load the model within {START_SECONDS:.0f} s",
            "start it by hand to see why: the model may not fit into memory",
        )

    def peak_rss(self) -> int | None:
        """The peak of the server's resident memory in bytes; None if the system does not say."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def version_of(program: str) -> str:
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
