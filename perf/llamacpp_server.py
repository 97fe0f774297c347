"""Serve a GGUF file with llama.cpp's own server; `endpoint` runs it in another interpreter.

    python -I llamacpp_server.py FILE THREADS CONTEXT SLOTS

It uses the package xllamacpp and prints the server's address. The server counts what it does
(`/metrics`), and ends with its standard input.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Serve until the end of standard input."""
    file, threads, context, slots = sys.argv[1:]
    xllamacpp: Any = import_module("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = int(context) * int(slots)
    settings.n_parallel = int(slots)
    settings.n_gpu_layers = 0
    settings.port = 0
    settings.cpuparams.n_threads = int(threads)
    settings.cpuparams_batch.n_threads = int(threads)
    settings.endpoint_metrics = True
    settings.fit_params = False
    settings.verbosity = 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
