"""Find out what a target cannot run before anything is computed, and name the nearest that it can.

See `Violation` for the two severities. If the JetPack release of the device is given, only that
release counts, and everything it cannot do is a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import UsageError
from ..export.onnx.opset import opset_of
from ..models import FORMATS, Architecture, expressible
from ..models.export_format import load
from ..models.footprint import check_precision
from .artifact_plan import ArtifactPlan, ArtifactSpec
from .cache_rules import kv_cache
from .estimator import predict
from .int4_rules import int4_scheme, int4_shapes, int4_tensorrt
from .memory_rules import buffers, build_memory, memory
from .profile import Target
from .violation import Violation
from .workload import Workload

__all__ = ["check"]

INT4_OPSET = 21


def check(
    target: Target,
    model: Architecture,
    workload: Workload,
    spec: ArtifactSpec,
    jetpack: str | None = None,
) -> list[Violation]:
    """Everything that a target cannot run as planned, refusals first; empty: it can run the model.

    Args:
        target: the device.
        model: the architecture.
        workload: how the model is stored and used.
        spec: how it is exported.
        jetpack: name of the JetPack release on the device, if known.

    Raises:
        UsageError: unknown format, precision or JetPack.
    """
    check_precision(workload.precision)
    if spec.format not in FORMATS:
        raise UsageError(f"format `{spec.format}` is not known", f"use one of {', '.join(FORMATS)}")
    declared = FORMATS[spec.format]
    stored = declared.stored_precision(workload.precision)
    plan = ArtifactPlan(
        target,
        model,
        workload,
        spec,
        declared,
        spec.opset or opset_of(stored, declared.is_portable and workload.kv_cache == "int8"),
        target.jetpack(jetpack) if jetpack else None,
        predict(target, model, workload),
    )
    found = [violation for rule in RULES for violation in rule(plan)]
    return sorted(found, key=lambda violation: violation.severity != "refuse")


def _format(plan: ArtifactPlan) -> Iterator[Violation]:
    platform = plan.target.platform
    if plan.format.name not in platform.formats:
        yield Violation(
            "format",
            f"{plan.target.name} has nothing that runs a {plan.format.name} artifact "
            "(it needs an NVIDIA GPU)",
            f"--format {platform.formats[0]}",
        )


def _precision(plan: ArtifactPlan) -> Iterator[Violation]:
    name, allowed = plan.target.name, plan.target.platform.precisions
    elsewhere = plan.format.name in plan.target.platform.formats and not plan.onnxruntime
    if plan.precision == "int8-dynamic" and (plan.jetson or elsewhere):
        yield _dynamic_int8(plan)
    elif plan.precision == "fp32" and plan.jetson:
        yield Violation(
            "precision",
            "fp32 runs, at twice the memory and traffic of fp16",
            "--precision fp16",
            "note",
        )
    elif plan.precision == "bf16" and plan.jetson and "bf16" in plan.format.precisions:
        return  # TensorRT has had it since 9.0: see graph_rules
    elif plan.precision == "bf16" and plan.jetson:
        yield Violation(
            "precision",
            "bf16 has to become fp16, the kernels' activation type",
            "--precision fp16",
            "note",
        )
    elif plan.precision in ("fp16", "bf16") and not plan.jetson:
        message = (
            f"ONNX Runtime casts most of {plan.precision} to fp32 on a CPU: smaller on disk, "
            "not faster"
        )
        yield Violation("precision", message, "--precision int8 or fp32", "note")
    elif plan.precision not in allowed:
        near = "int8" if "int8" in allowed else allowed[0]
        yield Violation(
            "precision",
            f"{name} has no {plan.precision} (it has {', '.join(allowed)})",
            f"--precision {near}",
        )


def _dynamic_int8(plan: ArtifactPlan) -> Violation:
    near = "--precision int8 (static) or int4"
    if plan.onnxruntime:
        message = (
            "TensorRT has no DynamicQuantizeLinear, so this artifact runs in ONNX Runtime on the "
            "Jetson's CPU cores only"
        )
        return Violation("precision", message, near, "note")
    return Violation(
        "precision",
        f"int8-dynamic is a scheme of ONNX Runtime's; {plan.format.name} has no operators for it",
        near,
    )


def _blocks(plan: ArtifactPlan) -> Iterator[Violation]:
    """Inputs of linear layers that do not divide into the blocks of a format."""
    block = plan.format.block_of(plan.precision)
    if not block:
        return
    odd: dict[int, list[str]] = {}
    for linear in plan.model.linear_counts():
        if (width := linear.shape[1]) % block:
            odd.setdefault(width, []).append(f"{linear.name} [{linear.shape[0]}, {width}]")
    for width, names in odd.items():
        message = (
            f"{', '.join(names)}: {width} inputs do not divide into {plan.format.name}'s blocks of "
            f"{block}"
        )
        yield Violation("block", message, f"a width that is a multiple of {block}")


def _opset(plan: ArtifactPlan) -> Iterator[Violation]:
    if not plan.format.is_graph:
        return
    int4 = plan.precision == "int4" and plan.tensorrt
    least = INT4_OPSET if int4 else plan.target.platform.min_opset
    if plan.opset < least:
        why = "blocked INT4 DequantizeLinear came with" if int4 else "the oldest that is read is"
        yield Violation(
            "opset", f"opset {plan.opset} is too old: {why} opset {least}", "export again"
        )
    if plan.tensorrt and plan.precision != "int8-dynamic":  # which TensorRT cannot run anyway
        bad = [r for r in plan.releases if plan.opset > r.max_opset]
        near = (
            "--format edge-llm, whose INT4 kernels run with TensorRT 10.3 of JetPack 6.2, or "
            "--format gguf, or --precision fp16"
            if int4
            else "export again, in a lower opset"
        )
        message = f"opset {plan.opset} is newer than TensorRT is documented to read"
        yield from plan.limited_to_newer(bad, "opset", message, near)


def _rules_of_format(plan: ArtifactPlan) -> Iterator[Violation]:
    """Further rules, which the declaration of the format names."""
    if path := plan.format.device_rules:
        yield from load(path)(plan.target.platform, plan.model, plan.precision)


def _expressible(plan: ArtifactPlan) -> Iterator[Violation]:
    """Models that edgewright's exporter cannot write, in the words of the exporter."""
    severity = "refuse" if plan.spec.written_here else "note"
    for reason in expressible(plan.model, plan.format.name):
        message = f"edgewright cannot write this as {plan.format.name}: {reason.message}"
        yield Violation("architecture", message, reason.remedy, severity)


RULES = (
    _format,
    _precision,
    int4_scheme,
    int4_shapes,
    int4_tensorrt,
    _blocks,
    _opset,
    _rules_of_format,
    kv_cache,
    memory,
    build_memory,
    buffers,
    _expressible,
)
"""All rules, in the order in which violations are listed."""
