"""Measure how many streaming clients the HTTP server can serve at the same time.

    python -m edgewright.perf.serving ARTIFACT

`edgewright serve` is started in a process of its own. The output is the tokens per second of one
client and of many clients together, and the server's memory after a warm-up and at the end. A
request counts as an error if it fails or if its answer has no tokens.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["main", "served"]

PROMPT = list(range(20, 52))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--alone", type=float, default=15, help="seconds to measure a single client for"
    )
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    arguments = parser.parse_args()
    options = ("--threads", arguments.threads, "--max-batch", arguments.max_batch)
    with served(arguments.artifact, *options) as (port, pid):
        print(json.dumps(_measure(port, pid, arguments), indent=1))


@contextmanager
def served(artifact: Path, *options: object) -> Iterator[tuple[int, int]]:
    """The port and the process id of `edgewright serve` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "edgewright.cli",
        "serve",
        str(artifact),
        "--port",
        str(port),
        *map(str, options),
    ]
    server = subprocess.Popen(command)
    try:
        _wait(port, server)
        yield port, server.pid
    finally:
        server.terminate()
        server.wait()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server accepts connections."""
    while server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server process ended")


def _measure(port: int, pid: int, arguments: argparse.Namespace) -> dict[str, Any]:
    _load(port, arguments.clients, 5, arguments.max_tokens)
    before = _resident(pid)
    alone = _load(port, 1, arguments.alone, arguments.max_tokens)
    together = _load(port, arguments.clients, arguments.seconds, arguments.max_tokens)
    return {
        "alone": alone,
        "together": together,
        "speedup": together["tok_s"] / alone["tok_s"],
        "clients": arguments.clients,
        "resident_mb": {"warm": before / 1e6, "end": _resident(pid) / 1e6},
    }


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def _load(port: int, clients: int, seconds: float, max_tokens: int) -> dict[str, float]:
    """Stream completions from this many clients for this many seconds."""
    until = time.monotonic() + seconds
    lock = threading.Lock()
    totals = {"tokens": 0, "requests": 0, "errors": 0}
    firsts: list[float] = []

    def client(number: int) -> None:
        while time.monotonic() < until:
            tokens, first = _one(port, number, max_tokens)
            with lock:
                totals["requests"] += 1
                totals["tokens"] += max(tokens, 0)
                totals["errors"] += tokens <= 0
                firsts.append(first)

    begin = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    firsts.sort()
    return {
        **totals,
        "seconds": elapsed,
        "tok_s": totals["tokens"] / elapsed,
        "first_ms/p50": firsts[len(firsts) // 2] * 1000,
    }


def _one(port: int, number: int, max_tokens: int) -> tuple[int, float]:
    """Request one streamed answer.

    Returns:
        The number of events, and the seconds until the first. An event is a token: sampling at
        temperature 1 rarely splits a character. -1 events if the request failed.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = {
        "prompt": [(token + number) % 500 for token in PROMPT],
        "max_tokens": max_tokens,
        "stream": True,
        "temperature": 1.0,
    }
    begin = time.perf_counter()
    first = 0.0
    tokens = 0
    done = False
    connection.request(
        "POST",
        "/v1/completions",
        json.dumps({**body, "seed": number}),
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    if response.status != 200:
        return -1, 0.0
    for line in response:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begin
            tokens += json.loads(line[6:])["choices"][0]["finish_reason"] is None
        done = done or line.startswith(b"data: [DONE]")
    connection.close()
    return (tokens or 1) if done else -1, first


if __name__ == "__main__":
    main()
