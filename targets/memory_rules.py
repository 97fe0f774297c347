"""The rules about memory: everything together, building an engine, the largest allocation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..export.tensorrt.build_memory import build_bytes
from ..models.footprint import head_bytes
from .artifact_plan import ArtifactPlan
from .estimator import float_bytes_on, predict
from .violation import Violation

__all__ = ["buffers", "build_memory", "memory"]

LOGIT_BYTES = 4
SHORTEST_CONTEXT = 256
"""A shorter context is not worth proposing."""


def memory(plan: ArtifactPlan) -> Iterator[Violation]:
    """Weights, KV cache and runtime together need more memory than the target has."""
    p = plan.prediction
    if p.fits:
        return
    left = p.usable_bytes - p.weight_bytes - p.runtime_bytes
    longest = int(p.context * left / p.kv_bytes) if left > 0 else 0
    shorter = f"--context {longest // 64 * 64}" if longest >= SHORTEST_CONTEXT else None
    cache = _smaller_cache(plan)
    near = cache or shorter or _smaller(plan) or "a smaller model, or a target with more memory"
    yield Violation(
        "memory",
        f"weights {_gb(p.weight_bytes)} + KV cache {_gb(p.kv_bytes)} ({p.batch} x {p.context} "
        f"tokens) + runtime {_gb(p.runtime_bytes)} = {_gb(p.total_bytes)}, but {p.target} has "
        f"{_gb(p.usable_bytes)} to give",
        near,
    )


def _smaller_cache(plan: ArtifactPlan) -> str | None:
    """A KV cache in 8 bits, if the format has one and the plan fits with it."""
    if not plan.format.int8_cache:
        return None
    smaller = replace(plan.workload, kv_cache="int8")
    return "--kv-cache int8" if predict(plan.target, plan.model, smaller).fits else None


def _smaller(plan: ArtifactPlan) -> str | None:
    """The largest lower precision at which the plan fits."""
    order = [name for name in ("fp16", "int8", "int4") if name in plan.target.platform.precisions]
    start = order.index(plan.precision) + 1 if plan.precision in order else 0
    for name in order[start:]:
        smaller = replace(
            plan.workload, precision=name, group_size=128, extra_bytes=0, table_bytes=None
        )
        if predict(plan.target, plan.model, smaller).fits:
            return f"--precision {name}"
    return None


def build_memory(plan: ArtifactPlan) -> Iterator[Violation]:
    """A model that fits, but whose engine the device probably cannot build."""
    p = plan.prediction
    builds = plan.jetson and plan.nvidia_kernels and plan.precision != "int8-dynamic"
    least, most = build_bytes(p.weight_bytes)
    if not builds or not p.fits or least <= p.usable_bytes:
        return
    near = (
        "export with --externalize-weights int4_ffn, and swap for the build"
        if plan.edge_llm
        else "swap for the build, a device with more memory, or --format gguf, which needs no build"
    )
    yield Violation(
        "build-memory",
        f"building its engine takes 3 to 4 times the weights, {_gb(least)} to {_gb(most)}, but "
        f"{p.target} has {_gb(p.usable_bytes)} to give",
        near,
        "note",
    )


def buffers(plan: ArtifactPlan) -> Iterator[Violation]:
    """A single tensor is larger than the GPU's allocator allows."""
    # llama.cpp computes the logits of the last position only and maps weights in pieces;
    # int8-dynamic runs on the CPU.
    on_gpu = plan.nvidia_kernels or plan.onnxruntime
    if not on_gpu or plan.precision == "int8-dynamic":
        return
    p, floats = plan.prediction, float_bytes_on(plan.target, plan.precision)
    positions = 1 if plan.spec.last_logits else p.prompt
    vocab = plan.model.vocab_size
    sizes = {
        f"logits of {p.batch} x {positions} positions": p.batch * positions * vocab * LOGIT_BYTES,
        "the embedding table": head_bytes(plan.model, floats),
    }
    for what, size in sizes.items():
        yield from _one_buffer(plan, what, size)


def _one_buffer(plan: ArtifactPlan, what: str, size: int) -> Iterator[Violation]:
    limits = [(r, plan.target.largest_buffer(r)) for r in plan.releases]
    bad = [(release, limit) for release, limit in limits if limit is not None and size > limit]
    if not bad:
        return
    limit = max(limit for _, limit in bad)
    near = (
        "shorter prompts, or logits of the last position only"
        if what.startswith("logits")
        else "a smaller vocabulary"
    )
    message = f"{what}: {_gb(size)} in one piece, but allocations above {_gb(limit)} fail"
    yield from plan.limited_to_newer([release for release, _ in bad], "buffer", message, near)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
