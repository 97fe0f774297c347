"""What a target cannot run, found before anything is computed, each with the nearest thing that it can.

Two severities. `refuse`: no way to run this on the target as asked. `note`: it runs, but not everywhere or not as one may
expect (only in ONNX Runtime, only on newer JetPack releases). With `jetpack` given, only that release counts, and what
it cannot do is refused.

A portable `onnx` (and `triton`, which serves it) is held to TensorRT's rules, because it is what `trtexec` will get on the
device; `ort` is not, because it is for ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UsageError
from ..export.onnx.opset import opset_of
from ..models import family_of
from ..models.footprint import check_precision, head_bytes
from .estimator import Prediction, float_bytes_on, predict
from .profile import JetPack, Target, version_key

__all__ = ["FORMATS", "Severity", "Violation", "check"]

Severity = Literal["refuse", "note"]
FORMATS = ("onnx", "ort", "tensorrt", "edge-llm", "gguf", "triton")
FOR_TENSORRT = ("onnx", "tensorrt", "triton")
LOGIT_BYTES = 4
INT4_OPSET = 21
SHORTEST_CONTEXT = 256
"""A context below this is no advice worth giving."""


@dataclass(frozen=True)
class Violation:
    """One thing that a target cannot do as asked.

    Attributes:
        rule: short name: format, precision, int4-symmetric, int4-group, int4-shape, int4-order, int4-tensorrt, opset,
            attention, family, memory or buffer; of a graph (`graph_rules`) operator, quantization, uint8 or parser.
        message: what does not go, and why.
        nearest: the nearest thing that does.
        severity: `refuse` or `note`.
    """

    rule: str
    message: str
    nearest: str
    severity: Severity = "refuse"


@dataclass(frozen=True)
class _Plan:
    """What is asked of the target."""

    target: Target
    config: Mapping[str, Any]
    format: str
    precision: str
    group_size: int
    sym: bool
    act_order_g_idx: bool
    opset: int
    jetpack: JetPack | None
    last_logits: bool
    prediction: Prediction

    @property
    def releases(self) -> Sequence[JetPack]:
        """The JetPack releases that count."""
        return [self.jetpack] if self.jetpack else self.target.releases()

    @property
    def jetson(self) -> bool:
        return self.target.platform.kind == "jetson"


def check(
    target: Target,
    config: Mapping[str, Any],
    *,
    format: str = "onnx",
    precision: str,
    group_size: int = 128,
    sym: bool = True,
    act_order_g_idx: bool = False,
    opset: int | None = None,
    context: int = 2048,
    prompt: int = 2048,
    batch: int = 1,
    jetpack: str | None = None,
    last_logits: bool = False,
) -> list[Violation]:
    """Everything about a plan that a target cannot run, refusals first; empty if all is well.

    Args:
        target: the device.
        config: the model's config.json.
        format: what will be exported, one of `FORMATS`.
        precision: of the linear layers, one of `sizes.PRECISIONS`.
        group_size: input channels that share an INT4 scale; -1 for the whole width.
        sym: whether INT4 is symmetric.
        act_order_g_idx: whether INT4 groups are reordered input channels, so that `g_idx` is not the identity.
        opset: ONNX opset of the artifact; None: the one that `export` takes.
        context: tokens in the cache of each sequence.
        prompt: tokens that one pass takes.
        batch: sequences at a time.
        jetpack: the release on the device, where it is known.
        last_logits: whether the graph gives logits of the last position only.

    Raises:
        UsageError: unknown format, precision or JetPack.
        Refused: the architecture is not supported.
    """
    check_precision(precision)
    if format not in FORMATS:
        raise UsageError(f"format `{format}` is not known", f"use one of {', '.join(FORMATS)}")
    prediction = predict(
        target,
        config,
        precision=precision,
        context=context,
        prompt=prompt,
        batch=batch,
        group_size=group_size,
    )
    written = (
        f"{precision}-fp16" if format == "tensorrt" and precision in ("int4", "int8") else precision
    )
    plan = _Plan(
        target,
        config,
        format,
        precision,
        group_size,
        sym,
        act_order_g_idx,
        opset or opset_of(written),
        target.jetpack(jetpack) if jetpack else None,
        last_logits,
        prediction,
    )
    rules = (
        _format,
        _precision,
        _int4_scheme,
        _int4_shapes,
        _int4_tensorrt,
        _opset,
        _edge_llm,
        _memory,
        _buffer,
    )
    found = [violation for rule in rules for violation in rule(plan)]
    return sorted(found, key=lambda violation: violation.severity != "refuse")


def _format(plan: _Plan) -> Iterator[Violation]:
    platform = plan.target.platform
    if plan.format not in platform.formats:
        yield Violation(
            "format",
            f"{plan.target.name} has nothing that runs a {plan.format} artifact (it needs an NVIDIA GPU)",
            f"--format {platform.formats[0]}",
        )


def _precision(plan: _Plan) -> Iterator[Violation]:
    name, allowed = plan.target.name, plan.target.platform.precisions
    if plan.precision == "int8-dynamic" and (plan.jetson or plan.format == "gguf"):
        yield _dynamic_int8(plan)
    elif plan.precision == "fp32" and plan.jetson:
        yield Violation(
            "precision",
            "fp32 runs, at twice the memory and traffic of fp16",
            "--precision fp16",
            "note",
        )
    elif plan.precision == "bf16" and plan.jetson and plan.format in ("onnx", "tensorrt"):
        return  # TensorRT has had it since 9.0: see graph_rules
    elif plan.precision == "bf16" and plan.jetson:
        yield Violation(
            "precision",
            "bf16 has to become fp16, the kernels' activation type",
            "--precision fp16",
            "note",
        )
    elif plan.precision in ("fp16", "bf16") and not plan.jetson:
        message = f"ONNX Runtime casts most of {plan.precision} to fp32 on a CPU: smaller on disk, not faster"
        yield Violation("precision", message, "--precision int8 or fp32", "note")
    elif plan.precision not in allowed:
        near = "int8" if "int8" in allowed else allowed[0]
        yield Violation(
            "precision",
            f"{name} has no {plan.precision} (it has {', '.join(allowed)})",
            f"--precision {near}",
        )
    elif plan.precision == "int8" and plan.format == "edge-llm":
        message = "TensorRT-Edge-LLM reads INT8 as SmoothQuant W8A8 only, not as GPTQ"
        yield Violation(
            "precision", message, "quantize --method smoothquant, or --precision int4", "note"
        )


def _dynamic_int8(plan: _Plan) -> Violation:
    near = "--precision int8 (static) or int4"
    if plan.format in ("onnx", "ort", "triton"):
        message = "TensorRT has no DynamicQuantizeLinear, so this artifact runs in ONNX Runtime on the Jetson's CPU cores only"
        return Violation("precision", message, near, "note")
    return Violation(
        "precision",
        f"int8-dynamic is a scheme of ONNX Runtime's; {plan.format} has no operators for it",
        near,
    )


def _int4_scheme(plan: _Plan) -> Iterator[Violation]:
    rules = plan.target.platform.int4
    if plan.precision != "int4" or plan.format == "gguf" or (plan.jetson and plan.format == "ort"):
        return
    if rules.symmetric_only and not plan.sym:
        message = "asymmetric INT4: the kernels compute (nibble - 8) x scale, and other zero points are clamped or rejected"
        yield Violation("int4-symmetric", message, "quantize with symmetric INT4 (zero point 8)")
    if rules.identity_g_idx and plan.act_order_g_idx:
        gathers = plan.format == "edge-llm"
        message = (
            "g_idx reorders the channels: a gather runs before every matrix product and slows decoding"
            if gathers
            else f"g_idx reorders the channels, which blocked INT4 in {plan.format} cannot express"
        )
        yield Violation(
            "int4-order",
            message,
            "static act-order, whose g_idx is the identity",
            "note" if gathers else "refuse",
        )
    if plan.group_size not in rules.group_sizes:
        # The plain TensorRT API asks only for divisibility; that other sizes are fast, or work, nobody has confirmed.
        unsure = plan.jetson and plan.format != "edge-llm" and plan.group_size > 0
        known = ", ".join(map(str, rules.group_sizes))
        message = f"INT4 group size {plan.group_size}: {'only' if not unsure else 'confirmed for'} {known}"
        nearest = min(rules.group_sizes, key=lambda size: abs(size - plan.group_size))
        yield Violation(
            "int4-group", message, f"--group-size {nearest}", "note" if unsure else "refuse"
        )


def _int4_shapes(plan: _Plan) -> Iterator[Violation]:
    rules = plan.target.platform.int4
    if plan.precision != "int4" or plan.format == "gguf":
        return
    step = 1 if plan.format == "ort" else rules.multiple_of
    odd: dict[int, list[str]] = {}
    ragged: dict[int, list[str]] = {}
    for name, (n, k) in family_of(plan.config).linear_shapes(plan.config).items():
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
        message = f"{', '.join(names)}: {size} input channels do not divide into groups of {plan.group_size}"
        yield Violation("int4-group", message, near)


def _older(
    plan: _Plan, bad: Sequence[JetPack], rule: str, message: str, nearest: str
) -> Iterator[Violation]:
    """A limit that some JetPack releases have: refused if all that count have it, else a note that names the others."""
    if not bad:
        return
    names = [release.name for release in bad]
    every = [release.name for release in plan.releases]
    good = [name for name in every if name not in names]
    where = (
        f" on JetPack {', '.join(names)}" if good or plan.jetpack else " on every JetPack listed"
    )
    later = (
        f"{good[0]} or later"
        if len(good) > 1 and good == every[-len(good) :]
        else " or ".join(good)
    )
    cure = f"JetPack {later}, or {nearest}" if good else nearest
    yield Violation(rule, message + where, cure, "note" if good else "refuse")


def _int4_tensorrt(plan: _Plan) -> Iterator[Violation]:
    since = plan.target.platform.int4.min_tensorrt
    if plan.precision == "int4" and since and plan.format in (*FOR_TENSORRT, "edge-llm"):
        bad = [r for r in plan.releases if version_key(r.tensorrt) < version_key(since)]
        message = f"INT4 weights need TensorRT {since} or later, which is missing"
        yield from _older(plan, bad, "int4-tensorrt", message, "--precision fp16")


def _opset(plan: _Plan) -> Iterator[Violation]:
    if plan.format not in (*FOR_TENSORRT, "ort"):
        return
    tensorrt = (
        plan.format in FOR_TENSORRT and plan.precision != "int8-dynamic"
    )  # which TensorRT cannot run anyway
    int4 = plan.precision == "int4" and plan.format != "ort"
    least = INT4_OPSET if int4 else plan.target.platform.min_opset
    if plan.opset < least:
        why = "blocked INT4 DequantizeLinear came with" if int4 else "the oldest that is read is"
        yield Violation(
            "opset", f"opset {plan.opset} is too old: {why} opset {least}", "export again"
        )
    if tensorrt:
        bad = [r for r in plan.releases if plan.opset > r.max_opset]
        near = (
            "--precision fp16, or --format edge-llm, which brings its own operators"
            if int4
            else "export again, in a lower opset"
        )
        message = f"opset {plan.opset} is newer than TensorRT is documented to read"
        yield from _older(plan, bad, "opset", message, near)


def _edge_llm(plan: _Plan) -> Iterator[Violation]:
    rules = plan.target.platform.edge_llm
    if plan.format != "edge-llm" or rules is None:
        return
    kind = str(plan.config.get("model_type"))
    if kind not in rules.model_types:
        message = f"TensorRT-Edge-LLM's list of models has none of type `{kind}` (it has {', '.join(rules.model_types)})"
        yield Violation("family", message, "--format onnx or gguf")
    shape = family_of(plan.config).shape(plan.config)
    by_size = {entry.head_dim: entry.query_per_kv for entry in rules.attention}
    heads = f"{shape.num_attention_heads} query and {shape.num_key_value_heads} key/value heads"
    if shape.head_dim not in by_size:
        message = f"no attention kernel for head_dim {shape.head_dim} (there are {', '.join(map(str, by_size))})"
        yield Violation("attention", message, "--format tensorrt or onnx")
    elif shape.group not in by_size[shape.head_dim]:
        sizes = ", ".join(map(str, by_size[shape.head_dim]))
        message = (
            f"{heads}: {shape.group} a group; at head_dim {shape.head_dim} the kernel takes {sizes}"
        )
        near = min(by_size[shape.head_dim], key=lambda ratio: abs(ratio - shape.group))
        yield Violation(
            "attention", message, f"prune to {near} query heads a group, or --format tensorrt"
        )


def _memory(plan: _Plan) -> Iterator[Violation]:
    p = plan.prediction
    if p.fits:
        return
    left = p.usable_bytes - p.weight_bytes - p.runtime_bytes
    longest = int(p.context * left / p.kv_bytes) if left > 0 else 0
    shorter = f"--context {longest // 64 * 64}" if longest >= SHORTEST_CONTEXT else None
    near = shorter or _smaller(plan) or "a smaller model, or a target with more memory"
    yield Violation(
        "memory",
        f"weights {_gb(p.weight_bytes)} + KV cache {_gb(p.kv_bytes)} ({p.batch} x {p.context} tokens) + runtime "
        f"{_gb(p.runtime_bytes)} = {_gb(p.total_bytes)}, but {p.target} has {_gb(p.usable_bytes)} to give",
        near,
    )


def _smaller(plan: _Plan) -> str | None:
    """The largest lower precision at which the plan fits."""
    order = [name for name in ("fp16", "int8", "int4") if name in plan.target.platform.precisions]
    start = order.index(plan.precision) + 1 if plan.precision in order else 0
    p = plan.prediction
    for name in order[start:]:
        if predict(
            plan.target,
            plan.config,
            precision=name,
            context=p.context,
            prompt=p.prompt,
            batch=p.batch,
        ).fits:
            return f"--precision {name}"
    return None


def _buffer(plan: _Plan) -> Iterator[Violation]:
    # The limit is the GPU's allocator. llama.cpp computes the last position's logits only and maps weights in pieces.
    if plan.format == "gguf" or plan.precision == "int8-dynamic":
        return
    p, floats = plan.prediction, float_bytes_on(plan.target, plan.precision)
    positions = 1 if plan.last_logits else p.prompt
    vocab = family_of(plan.config).shape(plan.config).vocab_size
    buffers = {
        f"logits of {p.batch} x {positions} positions": p.batch * positions * vocab * LOGIT_BYTES,
        "the embedding table": head_bytes(plan.config, floats),
    }
    for what, size in buffers.items():
        yield from _one_buffer(plan, what, size)


def _one_buffer(plan: _Plan, what: str, size: int) -> Iterator[Violation]:
    limits = [(r, plan.target.largest_buffer(r)) for r in plan.releases]
    bad = [(release, limit) for release, limit in limits if limit is not None and size > limit]
    if not bad:
        return
    limit = max(limit for _, limit in bad)
    near = (
        "a shorter --prompt, or logits of the last position only"
        if what.startswith("logits")
        else "a smaller vocabulary"
    )
    message = f"{what}: {_gb(size)} in one piece, but allocations above {_gb(limit)} fail"
    yield from _older(plan, [release for release, _ in bad], "buffer", message, near)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
