"""What a device will make of a model, from config.json alone: no weight is read and torch is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.config import dtype_name, model_path, packing, quantization, read_family, resolve
from ..checkpoints.inventory import weight_files
from ..errors import Refused
from ..models import family_of
from ..targets import Target, check, list_targets, load_target, longest_context, predict, size_of
from ..targets.sizes import linear_weights

__all__ = ["ALL_TARGETS", "State", "device_row", "floating", "initial", "plan_model", "refuse"]

ALL_TARGETS = "all"
"""Stands for every profile that ships with edgewright."""


@dataclass(frozen=True)
class State:
    """A model as a step will leave it."""

    config: Mapping[str, Any]
    precision: str
    group_size: int = 128
    sym: bool = True
    format: str | None = None
    """Of an exported model; None for a checkpoint."""
    g_idx: bool = False
    """Whether groups of inputs are permuted, so that a kernel has to gather."""

    extra_bytes: int = 0
    """What the weights take beyond linear layers in `precision` and the rest in floating point: mixed bits, a packed head."""

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return family_of(self.config).parameters(self.config)

    @property
    def active_parameters(self) -> int:
        """Those that a token uses: all but its idle experts'."""
        return self.parameters - (
            linear_weights(self.config, None) - linear_weights(self.config, 1)
        )


def plan_model(
    model: str, target_name: str | None, context: int = 2048, batch: int = 1
) -> list[dict[str, Any]]:
    """One row a precision for a model as it is, for a target or for `all` of them."""
    state = initial(resolve(model_path(model)))
    if target_name == ALL_TARGETS:
        return [
            {**row, "step": f"{target.name} {row['step']}", "target": target.name}
            for target in list_targets()
            for row in _by_precision(state, target, context, batch)
        ]
    return _by_precision(state, load_target(target_name) if target_name else None, context, batch)


def _by_precision(
    state: State, target: Target | None, context: int, batch: int
) -> list[dict[str, Any]]:
    if state.precision == "int4":
        return [device_row("int4", replace(state, format="onnx"), target, context, batch)]
    return [
        device_row(p, replace(state, precision=p, format="onnx"), target, context, batch)
        for p in ("fp16", "int8", "int4")
    ]


def refuse(rows: Sequence[Mapping[str, Any]]) -> None:
    """Stop when the target cannot run what a step will make.

    Raises:
        Refused: naming every step and rule.
    """
    broken = [f"{row['step']}: {reason}" for row in rows for reason in row["refused"]]
    if broken:
        raise Refused(
            "the target cannot run this:\n  " + "\n  ".join(broken),
            "change the step or the target; `edgewright targets` lists them",
        )


def initial(path: Path) -> State:
    """A model directory as it is."""
    _, config = read_family(path)
    if packed := packing(config):
        bits, group_size, sym = packed
        g_idx = bool((quantization(config) or {}).get("desc_act"))
        return State(
            config, f"int{bits}", group_size, sym, g_idx=g_idx, extra_bytes=_extra(path, config)
        )
    return State(config, floating(config))


def floating(config: Mapping[str, Any]) -> str:
    """The precision of a config.json's weights that are not packed."""
    return {"float16": "fp16", "bfloat16": "bf16"}.get(dtype_name(config), "fp32")


def _extra(path: Path, config: Mapping[str, Any]) -> int:
    """Bytes of a quantized checkpoint that its bits and group size do not account for; 0 where they are all that it is said to have."""
    block = quantization(config) or {}
    if not block.get("dynamic") and not block.get("lm_head"):
        return 0
    bits, group_size, _ = packing(config) or (16, -1, True)
    there = sum(file.stat().st_size for file in weight_files(path))
    return there - size_of(config, f"int{bits}", group_size)


def device_row(
    name: str, state: State, target: Target | None, context: int, batch: int
) -> dict[str, Any]:
    """What a model weighs and what a target makes of it: memory, longest context, speed, energy, and the rules it breaks."""
    row: dict[str, Any] = {
        "step": name,
        "precision": state.precision,
        "parameters": state.parameters,
        "weight_bytes": size_of(state.config, state.precision, state.group_size)
        + state.extra_bytes,
        "violations": [],
        "refused": [],
    }
    if target is None:
        return row
    expected = predict(
        target,
        state.config,
        precision=state.precision,
        context=context,
        prompt=min(context, 512),
        batch=batch,
        group_size=state.group_size,
        extra_bytes=state.extra_bytes,
    )
    row |= {
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
        "tokens_per_joule": expected.tokens_per_joule,
        "longest_context": longest_context(
            target,
            state.config,
            precision=state.precision,
            batch=batch,
            group_size=state.group_size,
            extra_bytes=state.extra_bytes,
        ),
    }
    if state.format:
        found = check(
            target,
            state.config,
            format=state.format,
            precision=state.precision,
            group_size=state.group_size,
            sym=state.sym,
            act_order_g_idx=state.g_idx,
            context=context,
            prompt=min(context, 512),
            batch=batch,
        )
        row["violations"] = [
            f"{v.message} (nearest: {v.nearest})" for v in found if v.severity != "refuse"
        ]
        if family_of(state.config).shape(state.config).experts:
            row["violations"].append(
                "edgewright itself cannot export a mixture of experts yet (nearest: a dense model)"
            )
        row["refused"] = [
            f"{v.message} (nearest: {v.nearest})" for v in found if v.severity == "refuse"
        ]
    return row
