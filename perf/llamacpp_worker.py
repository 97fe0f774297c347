"""Time a GGUF file with llama.cpp, round by round; `llamacpp` runs it in another interpreter.

    python -I llamacpp_worker.py FILE THREADS CONTEXT

It uses xllamacpp if that package is there, else llama-cpp-python. The first line that it prints
says which, and for which processor llama.cpp was built. Each line of standard input is a request
with the token ids of a `prompt` and a number of `new_tokens`. The answer has the seconds until the
first token (`first`) and those of each later one (`tokens`).

xllamacpp: the seconds are those of llama.cpp's server, from `timings` of its answer. `predicted_ms`
begins when the first token is there, so it holds one step less than `predicted_n` tokens. Hence
`predicted_per_second` is too high by that one, and is not used. llama-cpp-python: the seconds are
by the clock of this process, around each call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

Timed = dict[str, Any]
TimeRound = Callable[[Sequence[int], int], Timed]
"""Times a prompt, and a number of tokens after it."""


def open_server(file: str, threads: int, context: int) -> tuple[TimeRound, str]:
    """llama.cpp's server in xllamacpp, and what llama.cpp was built for.

    It keeps no prompts, and it picks the most probable token: little but the model is timed.
    """
    xllamacpp: Any = import_module("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = context
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = threads
    settings.cpuparams_batch.n_threads = threads
    settings.cache_prompt = False
    settings.cache_ram_mib = 0
    settings.n_ctx_checkpoints = 0
    settings.fit_params = False
    settings.verbosity = 0
    server = xllamacpp.Server(settings)

    def time_round(prompt: Sequence[int], new_tokens: int) -> Timed:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "max_tokens": 1 + new_tokens,
                "ignore_eos": True,
                "cache_prompt": False,
                "samplers": ["top_k"],
                "top_k": 1,
            }
        )
        if "error" in answer:
            sys.exit(f"{file}: llama.cpp: {answer['error']['message']}")
        timings = answer["timings"]
        made = (timings["prompt_n"], timings["predicted_n"])
        if made != (len(prompt), 1 + new_tokens):
            sys.exit(f"{file}: llama.cpp read and wrote {made} tokens, not what was asked for")
        each = timings["predicted_ms"] / 1000 / new_tokens
        return {"first": timings["prompt_ms"] / 1000, "tokens": [each] * new_tokens}

    return time_round, xllamacpp.get_system_info()


def open_model(file: str, threads: int, context: int) -> tuple[TimeRound, str]:
    """A model of llama-cpp-python, and what llama.cpp was built for."""
    llama_cpp: Any = import_module("llama_cpp")
    model = llama_cpp.Llama(
        file,
        n_ctx=context,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )

    def seconds(ids: Sequence[int]) -> float:
        begin = time.perf_counter()
        model.eval(ids)
        model.scores[0].argmax()
        return time.perf_counter() - begin

    def time_round(prompt: Sequence[int], new_tokens: int) -> Timed:
        model.reset()
        first = seconds(prompt)
        return {"first": first, "tokens": [seconds(prompt[-1:]) for _ in range(new_tokens)]}

    return time_round, llama_cpp.llama_print_system_info().decode()


def main() -> None:
    file, threads, context = sys.argv[1:]
    served = find_spec("xllamacpp") is not None
    package = "xllamacpp" if served else "llama-cpp-python"
    time_round, system = (open_server if served else open_model)(file, int(threads), int(context))
    loaded = {
        "package": f"{package} {version(package)}",
        "system": system,
        "clock": "its server's `timings`" if served else "the worker's clock",
    }
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(time_round(request["prompt"], request["new_tokens"])), flush=True)


if __name__ == "__main__":
    main()
