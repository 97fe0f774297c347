"""Run llama.cpp's `llama-server` on the device for one host: `run.sh llama-server`.

The key comes in the host's first line. The server is stopped when the input ends: the host is
done, or its connection was cut.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...export.gguf.server import LlamaServer, ServerSettings
from .lines import Lines, send
from .probe import llama_server_path

__all__ = ["serve_llama"]

CHECK_SECONDS = 1.0
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
    settings = ServerSettings(program, threads, context)
    with LlamaServer(settings, bundle / "model" / "model.gguf", key) as server:
        begin = time.monotonic()
        if server.wait_until_ready(lines.is_interrupted):
            seconds = round(time.monotonic() - begin, 3)
            send({"ready": {"port": server.port, "version": server.version, "load_s": seconds}})
        answered = 0
        while not lines.ended:
            server.check()
            if lines.next(CHECK_SECONDS) is not None:
                send({"peak_rss_bytes": server.peak_rss()})
                answered += 1
    return {"answered": answered}
