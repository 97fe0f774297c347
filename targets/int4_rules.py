"""The rules for INT4 weights: the scheme, the shapes and the TensorRT release that kernels need."""

from __future__ import annotations

from collections.abc import Iterator

from .artifact_plan import ArtifactPlan
from .profile import version_key
from .violation import Violation

__all__ = ["int4_scheme", "int4_shapes", "int4_tensorrt"]


def int4_scheme(plan: ArtifactPlan) -> Iterator[Violation]:
    """Zero points, the order of the input channels, and group sizes that the kernels cannot run."""
    rules = plan.target.platform.int4
    if plan.precision != "int4" or not (plan.nvidia_kernels or plan.onnxruntime):
        return
    if plan.jetson and not plan.nvidia_kernels:  # ONNX Runtime's MatMulNBits takes every scheme
        return
    if rules.symmetric_only and not plan.spec.sym:
        message = (
            "asymmetric INT4: the kernels compute (nibble - 8) x scale, and other zero points are "
            "clamped or rejected"
        )
        yield Violation("int4-symmetric", message, "quantize with symmetric INT4 (zero point 8)")
    if rules.identity_g_idx and plan.spec.act_order_g_idx:
        gathers = plan.edge_llm
        message = (
            "g_idx reorders the channels: a gather runs before every matrix product and slows "
            "decoding"
            if gathers
            else f"g_idx reorders the channels, which blocked INT4 in {plan.format.name} cannot "
            "express"
        )
        yield Violation(
            "int4-order",
            message,
            "static act-order, whose g_idx is the identity",
            "note" if gathers else "refuse",
        )
    if plan.group_size not in rules.group_sizes:
        # TensorRT documents only that the group size must divide the width. Nobody has confirmed
        # that other sizes work, or are fast.
        unsure = plan.jetson and not plan.edge_llm and plan.group_size > 0
        known = ", ".join(map(str, rules.group_sizes))
        message = (
            f"INT4 group size {plan.group_size}: {'confirmed for' if unsure else 'only'} {known}"
        )
        nearest = min(rules.group_sizes, key=lambda size: abs(size - plan.group_size))
        yield Violation(
            "int4-group", message, f"--group-size {nearest}", "note" if unsure else "refuse"
        )


def int4_shapes(plan: ArtifactPlan) -> Iterator[Violation]:
    """Linear layers whose sizes do not fit the kernels or the groups; one violation a size."""
    rules = plan.target.platform.int4
    if plan.precision != "int4" or not (plan.nvidia_kernels or plan.onnxruntime):
        return
    step = rules.multiple_of if plan.nvidia_kernels else 1
    odd: dict[int, list[str]] = {}
    ragged: dict[int, list[str]] = {}
    for linear in plan.model.linear_counts():
        name, (n, k) = linear.name, linear.shape
        for size in {size for size in (n, k) if size % step}:
            odd.setdefault(size, []).append(f"{name} [{n}, {k}]")
        if plan.group_size > 0 and k % plan.group_size:
            ragged.setdefault(k, []).append(f"{name} [{n}, {k}]")
    for size, names in odd.items():
        below, above = size // step * step, -(-size // step) * step
        near = f"{above}, or {below} by pruning" if below else str(above)
        message = (
            f"{', '.join(names)}: {size} is no multiple of {step}, which the INT4 kernels need"
        )
        yield Violation("int4-shape", message, f"a width of {near}; or --precision int8")
    for size, names in ragged.items():
        fitting = [group for group in rules.group_sizes if size % group == 0]
        width = f"a width that is a multiple of {rules.group_sizes[0]}; or --precision int8"
        near = f"--group-size {max(fitting)}" if fitting else width
        message = (
            f"{', '.join(names)}: {size} input channels do not divide into groups of "
            f"{plan.group_size}"
        )
        yield Violation("int4-group", message, near)


def int4_tensorrt(plan: ArtifactPlan) -> Iterator[Violation]:
    """JetPack releases whose TensorRT is too old for INT4 weights."""
    since = plan.target.platform.int4.min_tensorrt
    if plan.precision == "int4" and since and plan.nvidia_kernels:
        bad = [r for r in plan.releases if version_key(r.tensorrt) < version_key(since)]
        message = f"INT4 weights need TensorRT {since} or later, which is missing"
        yield from plan.limited_to_newer(bad, "int4-tensorrt", message, "--precision fp16")
