"""A real `llama-server`: llama.cpp's own, from a Python package, with the program's options."""

from __future__ import annotations

from pathlib import Path

from test_compat import environment

LAUNCHER = """#!{python}
import argparse, os, signal, time
import xllamacpp
parser = argparse.ArgumentParser()
parser.add_argument("--version", action="version", version="version: " + xllamacpp.__version__)
for name in ("--model", "--host"):
    parser.add_argument(name)
for name in ("--port", "--ctx-size", "--parallel", "--threads", "--n-gpu-layers"):
    parser.add_argument(name, type=int)
options = parser.parse_args()
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = options.model, options.port, options.ctx_size
params.n_parallel, params.warmup = options.parallel, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
params.api_keys = [os.environ["LLAMA_API_KEY"]]
server = xllamacpp.Server(params)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    time.sleep(1)
"""


def llama_server(folder: Path) -> Path:
    """Write the program into a directory, for PATH."""
    program = folder / "llama-server"
    program.write_text(LAUNCHER.format(python=environment("llama")))
    program.chmod(0o755)
    return program
