"""How fast decoding can be at most: the weights that a token needs, and how fast memory gives them.

Decoding one sequence reads all weights once for each token. An embedding is an exception: a token
needs one row of it. A tied one is read whole, because it is the head too. The KV cache is left out.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx

LOOKUPS = {"Gather", "GatherBlockQuantized"}
"""Operators that read some rows of a table."""
PASSES = 16


def artifact_bytes(artifact: Path) -> int:
    """Bytes of weights that an ONNX artifact reads for each token.

    Tensors that share their place in the file of weights count once.
    """
    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    read = {name for node in graph.node if node.op_type not in LOOKUPS for name in node.input}
    sizes: dict[tuple[str, str], int] = {}
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.name in read and place:
            sizes[place["location"], place.get("offset", "0")] = int(place["length"])
    return sum(sizes.values())


def gguf_bytes(file: Path) -> int:
    """Bytes of weights that llama.cpp reads for each token."""
    from gguf import GGUFReader  # optional

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(str(file)).tensors}
    untied = "output.weight" in sizes
    return sum(sizes.values()) - (sizes["token_embd.weight"] if untied else 0)


def read_speed(size: int, threads: int) -> float:
    """Bytes per second at which the threads read an array of `size` bytes: the best of many passes.

    A pass is numpy's sum of float32 values, each thread over its part. An array as large as the
    weights has the same share in the caches as they have.
    """
    parts = np.array_split(np.ones(size // 4, np.float32), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PASSES):
            begin = time.perf_counter()
            list(pool.map(np.add.reduce, parts))  # numpy releases the interpreter's lock
            best = min(best, time.perf_counter() - begin)
    return size / best
