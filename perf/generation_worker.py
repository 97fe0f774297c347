"""Answer prompts with one model, and write the answers, seconds and peak memory; see `generation`.

It is run with the package that PYTHONPATH finds, so that an older version can be timed too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

backends: Any = import_module("edgewright.benchmarks.tasks.backends")
generation: Any = import_module("edgewright.benchmarks.tasks.generation")
tokenizers: Any = import_module("edgewright.checkpoints.tokenizer")


def one_by_one(
    model: Any, prompts: list[list[int]], max_new_tokens: int, eos: list[int]
) -> list[list[int]]:
    """Answers of `model.generate` to each prompt alone, without the end token."""
    answers: list[list[int]] = []
    for ids in prompts:
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos[0],
        )
        answers.append([token for token in out[0, len(ids) :].tolist() if token not in eos])
    return answers


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    path = Path(task["model"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    options = {"dtype": task["dtype"]} if task["dtype"] else {}
    backend = backends.open_backend(path, **options)
    eos = generation.end_tokens_of(backend, tokenizers.load_tokenizer(path))
    begin = time.perf_counter()
    if task["one_by_one"]:
        answers = one_by_one(backend.model, task["prompts"], task["max_new_tokens"], eos)
    else:
        answers = generation.generate_texts(backend, task["prompts"], task["max_new_tokens"], eos)
    found = {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time(),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "dtype": backend.dtype,
        "answers": answers,
    }
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
