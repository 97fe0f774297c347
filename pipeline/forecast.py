"""Predicts memory, speed and broken rules of a model on a device, from config.json alone.

No weight is read, and torch is not imported.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoints.artifacts import is_artifact
from ..checkpoints.config import model_path, quantization, resolve
from ..errors import Refused, UsageError
from ..models import FORMATS
from ..models.kv_cache import KvCache
from ..steps.state import State, checkpoint_state
from ..targets import (
    ArtifactSpec,
    Target,
    Workload,
    check,
    engine_of,
    list_targets,
    load_target,
    longest_context,
    predict,
    usable_bytes,
)
from .format_choice import Route, export_command, recommended_route, workload_of

__all__ = [
    "ALL_TARGETS",
    "NO_TARGET",
    "device_row",
    "plan_model",
    "refuse",
    "refuse_all",
    "refuse_result",
]

ALL_TARGETS = "all"
"""Every profile that ships with edgewright."""
NO_TARGET = "add --target NAME (`edgewright targets` lists them) for a prediction"
"""Advice on a plan without a device."""
AS_PACKED = {"modelopt": "int8", "compressed-tensors": "int8-dynamic"}
"""By `quant_method` of an 8-bit checkpoint, the precision that keeps its integers in an export."""


def plan_model(
    model: str,
    target_name: str | None,
    context: int = 2048,
    batch: int = 1,
    kv_cache: KvCache = "float",
    precision: str | None = None,
) -> list[dict[str, Any]]:
    """One row per precision that a model can be exported in.

    Args:
        model: directory, hub id or built-in model.
        target_name: name or profile of a device, `all` of them, or None.
        context: tokens of KV cache on the device.
        batch: sequences at a time on the device.
        kv_cache: how the artifact caches keys and values.
        precision: plan only this one; None: every one.

    Returns:
        Rows as `device_row` makes them, each with the `commands` that make the artifact, and with
        the precisions that the model `runs_in`.

    Raises:
        UsageError: the model cannot be exported in this precision, or is an artifact.
    """
    path = resolve(model_path(model), config_only=True)
    if is_artifact(path):
        raise UsageError(
            f"{path}: an artifact of `export`, which is not exported again",
            "give the checkpoint that it was made from, or ask `edgewright targets check` about it",
        )
    state = checkpoint_state(path)
    if target_name == ALL_TARGETS:
        return [
            {**row, "step": f"{target.name} {row['step']}", "target": target.name}
            for target in list_targets()
            for row in _by_precision(model, state, target, context, batch, kv_cache, precision)
        ]
    target = load_target(target_name) if target_name else None
    return _by_precision(model, state, target, context, batch, kv_cache, precision)


def _by_precision(
    model: str,
    state: State,
    target: Target | None,
    context: int,
    batch: int,
    kv_cache: KvCache,
    only: str | None,
) -> list[dict[str, Any]]:
    packed = quantization(state.architecture.config)
    possible = _precisions(state, packed)
    if only and only not in possible:
        raise UsageError(
            f"{model} is quantized, and can be exported in {' or '.join(possible)}, not in {only}",
            f"give --precision {possible[0]}, or the model that it was made from",
        )
    rows: list[dict[str, Any]] = []
    for precision in possible:
        route = recommended_route(state, precision, target, context, batch, kv_cache)
        row = device_row(precision, route.artifact, target, context, batch)
        commands = _commands(model, route, precision, kv_cache)
        rows.append({**row, "commands": commands})
    runs = [row["precision"] for row in rows if not row["refused"]]
    return [
        {**row, "runs_in": runs}
        for row in _without_circles(rows)
        if only in (None, row["precision"])
    ]


def _without_circles(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without advice to use a precision that the device cannot run either."""
    refused = [row["precision"] for row in rows if row["refused"]]
    circle = re.compile(rf"(, )?(or )?--precision ({'|'.join(refused) or '(?!)'})\b")
    kinds = ("violations", "refused")
    return [
        {
            **row,
            **{
                kind: [circle.sub("", r).replace(" (nearest: )", "") for r in row[kind]]
                for kind in kinds
            },
        }
        for row in rows
    ]


def _precisions(state: State, packed: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a model can be exported in: a quantized one only in its own precision, or in fp16."""
    if packed is None:
        return ("fp16", "int8", "int4")
    if state.precision == "int4":
        return ("int4",)
    return (AS_PACKED.get(str(packed["quant_method"]), "fp16"),)


def _commands(model: str, route: Route, precision: str, kv_cache: KvCache) -> list[str]:
    """What to type to get a model in a precision."""
    format, out = route.format, f"{precision}-{route.format}"
    if route.method is None:
        return [export_command(model, format, precision, kv_cache, out)]
    return [
        f"edgewright quantize {shlex.quote(model)} --method {route.method} --out {precision}",
        export_command(precision, format, precision, kv_cache, out),
    ]


def refuse(
    rows: Sequence[Mapping[str, Any]],
    hint: str = "change the step or the target; `edgewright targets` lists them",
) -> None:
    """Stop if the target cannot run what a step will make.

    Args:
        rows: of a plan.
        hint: what to do about it.

    Raises:
        Refused: naming every step and rule.
    """
    broken = [f"{row['step']}: {reason}" for row in rows for reason in row["refused"]]
    if broken:
        raise Refused("the target cannot run this:\n  " + "\n  ".join(broken), hint)


def refuse_result(rows: Sequence[Mapping[str, Any]], hint: str) -> None:
    """Stop if the target cannot run what a recipe makes, also where that is a checkpoint.

    Args:
        rows: of a plan.
        hint: what to do about it.

    Raises:
        Refused: naming every step and rule, or the memory that is missing.
    """
    refuse(rows, hint)
    last = rows[-1]
    if last["fits"] is False:
        raise Refused(
            f"{last['step']}: it takes {last['total_bytes'] / 1e9:.2f} GB on the device, which has "
            f"{last['usable_bytes'] / 1e9:.2f} GB to give",
            hint,
        )


def refuse_all(
    rows: Sequence[Mapping[str, Any]],
    model: str,
    target: str,
    prunable: Callable[[int], bool],
) -> None:
    """Stop if the target can run a model in none of the planned precisions.

    Args:
        rows: one row per precision.
        model: as it was typed.
        target: the device.
        prunable: whether pruning alone brings the model to so many bytes on the device.

    Raises:
        Refused: with the reasons of each precision, and one line that says what to do.
    """
    if not all(row["refused"] for row in rows):
        return
    reasons = [f"  {row['precision']}: {reason}" for row in rows for reason in row["refused"]]
    one = f"{target} cannot run this model in {rows[0]['precision']}"
    every = f"{target} can run this model in no precision"
    raise Refused(
        "\n".join([f"{every if len(rows) > 1 else one}:", *reasons]),
        _way_out(rows, model, target, prunable),
    )


def _way_out(
    rows: Sequence[Mapping[str, Any]], model: str, target: str, prunable: Callable[[int], bool]
) -> str:
    """What to do about a model that a device can run in no planned precision."""
    if others := rows[0]["runs_in"]:
        return f"leave --precision out, or give --precision {others[0]}, which runs there"
    shortest = max(rows, key=lambda row: row.get("longest_context") or 0)
    if longest := shortest.get("longest_context"):
        return f"{shortest['precision']} fits with a shorter context: --context {longest}"
    smallest = min((row["total_bytes"], row["usable_bytes"]) for row in rows)
    boards = [board for board in list_targets() if board.memory.usable_bytes]
    larger = [
        board.name
        for board in sorted(boards, key=usable_bytes)
        if usable_bytes(board) >= smallest[0]
    ]
    device = f"use a larger device ({larger[0]}), or " if larger else ""
    if not prunable(smallest[1]):
        return f"{device}take a smaller model: pruning alone does not make this one fit"
    return (
        f"{device}make the model smaller: edgewright prune {shlex.quote(model)} --target {target} "
        f"--max-memory-mb {smallest[1] // 10**6} --out pruned"
    )


def device_row(
    name: str,
    state: State,
    target: Target | None,
    context: int,
    batch: int,
    exported_to: str | None = None,
) -> dict[str, Any]:
    """One row of a plan: the size of a model, and predictions for a target.

    Args:
        name: name of the step that makes the model.
        state: the model.
        target: a device: its memory, longest context, speed, energy and the rules that the model
            breaks are added to the row.
        context: tokens of KV cache.
        batch: sequences at a time.
        exported_to: the format in which the device will get a checkpoint; None: the recommended.
    """
    row: dict[str, Any] = {
        "step": name,
        "precision": state.precision,
        "format": state.format,
        "parameters": state.parameters,
        "weight_bytes": state.weight_bytes,
        "violations": [],
        "refused": [],
    }
    if target is None:
        return row
    if state.format:
        row |= _broken_rules(state, target, context, batch)
        return row | _predicted(state, target, context, batch)
    route = recommended_route(state, state.precision, target, context, batch)
    format = exported_to or route.format
    if state.precision in FORMATS[format].precisions:
        state = state.exported(format, state.precision)
    return row | _predicted(state, target, context, batch)


def _predicted(state: State, target: Target, context: int, batch: int) -> dict[str, Any]:
    """Memory, speed and energy on the target."""
    workload = workload_of(state, context, batch)
    engine = engine_of(target, state.format)
    expected = predict(target, state.architecture, workload, engine=engine)
    return {
        "context": expected.context,
        "kv_cache": expected.kv_cache,
        "kv_bytes": expected.kv_bytes,
        "total_bytes": expected.total_bytes,
        "usable_bytes": expected.usable_bytes,
        "fits": expected.fits,
        "ttft_ms": expected.ttft_ms,
        "decode_tok_s": expected.decode_tok_s,
        "band": expected.band,
        "ttft_band": expected.ttft_band,
        "engine": expected.engine,
        "power_mode": expected.power_mode,
        "notes": list(expected.notes),
        "decode_by_mode": expected.decode_by_mode,
        "tokens_per_joule": expected.tokens_per_joule,
        "longest_context": longest_context(target, state.architecture, workload),
        "longest_context_int8": _longest_in_8_bits(state, target, workload),
    }


def _longest_in_8_bits(state: State, target: Target, workload: Workload) -> int | None:
    """The longest context with a KV cache in 8 bits; None: the format has no such cache."""
    if not (state.format and FORMATS[state.format].int8_cache):
        return None
    return longest_context(target, state.architecture, replace(workload, kv_cache="int8"))


def _broken_rules(state: State, target: Target, context: int, batch: int) -> dict[str, list[str]]:
    """`violations` of the target's rules, and those for which it is `refused`."""
    assert state.format
    spec = ArtifactSpec(
        state.format, sym=state.sym, act_order_g_idx=state.g_idx, written_here=False
    )
    found = check(target, state.architecture, workload_of(state, context, batch), spec)
    row: dict[str, list[str]] = {"violations": [], "refused": []}
    for violation in found:
        key = "refused" if violation.severity == "refuse" else "violations"
        row[key].append(f"{violation.message} (nearest: {violation.nearest})")
    return row
