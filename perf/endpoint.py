r"""Compare what `bench URL --latency` measures with the counters of the server that it measures.

    python -m edgewright.perf.endpoint --gguf model-Q4_K_M.gguf \
        --llamacpp-python .compat/llama/bin/python --artifact ARTIFACT

Each server runs in a process of its own. After two requests that are not counted, its counters
(`/metrics`) are read before and after a load at concurrency 1. The output has, for each quantity,
the client's number, the server's, and the quotient. The exit code is 1 if one differs by more than
3 %.

What the servers count: llama.cpp's `prompt_seconds_total` begins when a slot takes the prompt and
ends with the first token; its `tokens_predicted_seconds_total` begins there, so it holds one token
less than `tokens_predicted_total` has for each request. Ours counts from the request's place in
the queue to its first token, and the seconds between later tokens. A client also waits for HTTP,
JSON and the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..benchmarks.endpoint.latency import prepare
from ..benchmarks.endpoint.load import LoadResult
from ..benchmarks.endpoint.options import Load, LoadOptions
from ..benchmarks.endpoint.server import Server, open_server
from .serving import served

__all__ = [
    "client_counts",
    "compared",
    "llama_served",
    "main",
    "measured",
    "read_counters",
    "server_counts",
]

SERVER = Path(__file__).with_name("llamacpp_server.py")
SLOTS = 4
CONTEXT = 2048
MOST_DIFFERENCE = 0.03
Counts = dict[str, float]


def read_counters(text: str) -> Counts:
    """The numbers in a text of Prometheus, those of several labels together, by name."""
    found: Counts = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def server_counts(before: Mapping[str, float], after: Mapping[str, float], requests: int) -> Counts:
    """What a server has counted in between: tokens, and milliseconds by request and by token."""
    change = {name: value - before.get(name, 0.0) for name, value in after.items()}
    if "llamacpp:prompt_tokens_total" in change:
        written = change["llamacpp:tokens_predicted_total"]
        seconds = change["llamacpp:tokens_predicted_seconds_total"]
        read = change["llamacpp:prompt_tokens_total"]
        first = change["llamacpp:prompt_seconds_total"] / requests
        each = seconds / (written - requests)
    else:
        written = change["edgewright_generated_tokens"]
        read = change["edgewright_prompt_tokens"]
        first = change["edgewright_first_token_seconds_sum"] / requests
        each = change["edgewright_later_seconds"] / change["edgewright_later_tokens"]
    return _counts(read, written, first, each)


def client_counts(result: LoadResult, prompt_tokens: int) -> Counts:
    """The same quantities, as the client has measured them.

    Args:
        result: the load.
        prompt_tokens: of each prompt, where the server sends no usage.
    """
    done = result.done
    written = sum(one.output_tokens for one in done)
    return _counts(
        sum(one.usage.prompt_tokens or prompt_tokens for one in done),
        written,
        sum(one.ttft for one in done) / len(done),
        sum(one.e2e - one.ttft for one in done) / (written - len(done)),
    )


def _counts(read: float, written: float, first: float, each: float) -> Counts:
    return {
        "prompt tokens": read,
        "output tokens": written,
        "TTFT ms": first * 1000,
        "decode tok/s": 1 / each,
    }


async def measured(url: str, options: LoadOptions) -> tuple[Counts, Counts]:
    """A load at concurrency 1: as the client has measured it, and as the server has counted it."""
    server = open_server(url, options)
    requests = await prepare(server)
    server.options = options.model_copy(update={"requests": 2, "warm_up": 0})
    await requests.put(Load(1))
    server.options = options.model_copy(update={"warm_up": 0, "seed": options.seed + 1})
    before = await _counters(server)
    result = await requests.put(Load(1))
    after = await _counters(server)
    server.client.close()
    if len(result.done) < len(result.timings):
        raise SystemExit(f"{url}: a request failed: {result.timings}")
    read = requests.prompts.counted or 0
    return client_counts(result, read), server_counts(before, after, len(result.done))


async def _counters(server: Server) -> Counts:
    reply = await server.fetch("GET", f"{server.address.root}/metrics")
    return read_counters(reply.data.decode())


@contextmanager
def llama_served(python: Path, file: Path, threads: int) -> Iterator[str]:
    """The address of llama.cpp's server in a process of its own."""
    command = [python, "-I", SERVER, file, threads, CONTEXT, SLOTS]
    server = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        if not address:
            raise SystemExit("llama.cpp's server has ended; its reason is above")
        yield address
    finally:
        server.terminate()
        server.wait()


def compared(url: str, options: LoadOptions) -> dict[str, Any]:
    """Each quantity by the client and by the server, and the quotient."""
    client, server = asyncio.run(measured(url, options))
    return {
        name: {"client": value, "server": server[name], "quotient": value / server[name]}
        for name, value in client.items()
    }


def main() -> None:
    """Print the comparison for each server that is given, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="model for llama.cpp's server")
    parser.add_argument("--llamacpp-python", type=Path, help="python that has xllamacpp")
    parser.add_argument("--artifact", type=Path, help="model for `edgewright serve`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    given = parser.parse_args()
    options = LoadOptions(
        requests=given.requests,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
    )
    found: dict[str, Any] = {}
    if given.gguf:
        with llama_served(given.llamacpp_python, given.gguf, given.threads) as url:
            found["llama.cpp"] = compared(url, options)
    if given.artifact:
        flags = ("--threads", given.threads, "--max-batch", SLOTS, "--context", CONTEXT)
        with served(given.artifact, *flags) as (port, _):
            # Prompts are words. After random tokens a model writes halves of characters, whose text
            # comes a step after the token that the server counts.
            found["edgewright"] = compared(f"http://127.0.0.1:{port}", options)
    print(json.dumps(found, indent=1))
    quotients = [one["quotient"] for server in found.values() for one in server.values()]
    sys.exit(any(abs(quotient - 1) > MOST_DIFFERENCE for quotient in quotients))


if __name__ == "__main__":
    main()
