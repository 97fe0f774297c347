"""What a recipe will need and what its target will give, from config.json alone: no weight is read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .checkpoint import read_config, read_family, resolve, stored_dtype
from .compress.distill.runner import StudentFrom
from .compress.prune.cut import choose_layers, choose_neurons, kept_heads
from .compress.prune.runner import PruneOptions
from .errors import Refused
from .layouts import is_gptq
from .models import family_of
from .recipe import BASELINE, DistillStep, ExportStep, PruneStep, QuantizeStep, Recipe, Step, model_path
from .targets.estimator import predict, size_of
from .targets.profile import Target, load_target
from .targets.rules import check

__all__ = ["plan_model", "plan_recipe", "refuse"]


@dataclass(frozen=True)
class _State:
    """A model as a step will leave it."""

    config: Mapping[str, Any]
    precision: str
    group_size: int = 128
    sym: bool = True
    format: str | None = None
    """Of an exported model; None for a checkpoint."""

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return family_of(self.config).parameters(self.config)


def plan_recipe(recipe: Recipe, context: int = 2048, batch: int = 1) -> list[dict[str, Any]]:
    """One row a step: its output's size, what making it takes here, and what the target will make of it.

    Args:
        recipe: the checked recipe.
        context: tokens of KV cache on the device.
        batch: sequences at a time on the device.

    Raises:
        UsageError: the model or the target is not there.
        Refused: a step cannot be done to this model at all.
    """
    target = load_target(recipe.target) if recipe.target else None
    states = {BASELINE: _initial(resolve(model_path(recipe.model)))}
    rows = [_row(BASELINE, states[BASELINE], target, context, batch)]
    flops_per_second = _speed()
    for index, (name, step) in enumerate(zip(recipe.step_names, recipe.steps, strict=True)):
        source = states[recipe.source_of(index)]
        states[name] = _after(step, source, states)
        row = _row(name, states[name], target, context, batch)
        row |= _cost(step, source, states[name], states, recipe, flops_per_second)
        rows.append(row)
    return rows


def plan_model(model: str, target_name: str | None, context: int = 2048, batch: int = 1) -> list[dict[str, Any]]:
    """One row a precision for a model as it is."""
    target = load_target(target_name) if target_name else None
    state = _initial(resolve(model_path(model)))
    if state.precision == "int4":
        return [_row("int4", replace(state, format="onnx"), target, context, batch)]
    return [_row(p, replace(state, precision=p, format="onnx"), target, context, batch) for p in ("fp16", "int8", "int4")]


def refuse(rows: Sequence[Mapping[str, Any]]) -> None:
    """Stop when the target cannot run what a step will make.

    Raises:
        Refused: naming every step and rule.
    """
    broken = [f"{row['step']}: {reason}" for row in rows for reason in row["refused"]]
    if broken:
        raise Refused(
            "the target cannot run this:\n  " + "\n  ".join(broken), "change the step or the target; `edgewright targets` lists them"
        )


def _initial(path: Path) -> _State:
    read_family(path)
    config = read_config(path)
    if is_gptq(config):
        block = config["quantization_config"]
        return _State(config, f"int{block['bits']}", int(block["group_size"]), bool(block["sym"]))
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    return _State(config, names.get(stored_dtype(config), "fp32"))


def _after(step: Step, source: _State, states: Mapping[str, _State]) -> _State:
    if isinstance(step, PruneStep):
        return _pruned(step, source)
    if isinstance(step, QuantizeStep):
        return replace(source, precision=f"int{step.bits}", group_size=step.group_size, sym=step.sym)
    if isinstance(step, ExportStep):
        return replace(source, precision=step.precision, format=step.format)
    if isinstance(step.student, StudentFrom):
        return _pruned(step.student, _named(step.student.source, states))
    return _named(step.student, states) if step.student else source


def _named(name: str, states: Mapping[str, _State]) -> _State:
    return states[name] if name in states else _initial(resolve(model_path(name)))


def _pruned(options: PruneOptions, source: _State) -> _State:
    """The shape after a cut, by the same functions that choose what to cut, on scores that are all equal."""
    family = family_of(source.config)
    shape = family.shape(source.config)
    heads = kept_heads(shape, options.heads, lambda n: family.accepts_heads(source.config, n))
    neurons = choose_neurons(torch.zeros(1, shape.intermediate_size), options.ffn)
    layers = choose_layers(torch.zeros(shape.num_hidden_layers), options.layers)
    return replace(source, config=family.resized(source.config, heads=heads, ffn=len(neurons[0]), layers=layers))


def _row(name: str, state: _State, target: Target | None, context: int, batch: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": name, "precision": state.precision, "parameters": state.parameters,
        "weight_bytes": size_of(state.config, state.precision, state.group_size), "violations": [], "refused": [],
    }  # fmt: skip
    if target is None:
        return row
    expected = predict(
        target, state.config, precision=state.precision, context=context, prompt=min(context, 512), batch=batch,
        group_size=state.group_size,
    )  # fmt: skip
    row |= {
        "kv_bytes": expected.kv_bytes, "total_bytes": expected.total_bytes, "usable_bytes": expected.usable_bytes,
        "fits": expected.fits, "ttft_ms": expected.ttft_ms, "decode_tok_s": expected.decode_tok_s, "band": expected.band,
        "ttft_band": expected.ttft_band, "engine": expected.engine, "power_mode": expected.power_mode, "notes": list(expected.notes),
    }  # fmt: skip
    if state.format:
        found = check(
            target, state.config, format=state.format, precision=state.precision, group_size=state.group_size, sym=state.sym,
            context=context, prompt=min(context, 512), batch=batch,
        )  # fmt: skip
        row["violations"] = [f"{v.message} (nearest: {v.nearest})" for v in found if v.severity != "refuse"]
        row["refused"] = [f"{v.message} (nearest: {v.nearest})" for v in found if v.severity == "refuse"]
    return row


def _speed() -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    a = torch.ones(512, 512)
    torch.mm(a, a)
    begin = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 2 * 512**3 / (time.perf_counter() - begin)


def _cost(
    step: Step, source: _State, result: _State, states: Mapping[str, _State], recipe: Recipe, flops_per_second: float
) -> dict[str, Any]:  # fmt: skip
    """Memory, disk and time that making a step takes here; an estimate to the factor two, not a promise."""
    family = family_of(source.config)
    shape = family.shape(source.config)
    linears = family.linear_shapes(source.config)
    tokens = recipe.calibration.samples * recipe.calibration.seq_len
    ram, flops = 4 * source.parameters, 2.0 * tokens * source.parameters
    if isinstance(step, PruneStep):
        ram += 4 * source.parameters + 4 * recipe.calibration.seq_len * shape.vocab_size
        flops *= 2 if step.criterion == "taylor" else 1
    elif isinstance(step, QuantizeStep):
        widest = max(k for _, k in linears.values())
        ram += 4 * tokens * shape.hidden_size + 3 * 4 * widest**2
        flops = flops * (len(family.input_groups) + 1) + shape.num_hidden_layers * sum(2.0 * n * k * k + k**3 for n, k in linears.values())
    elif isinstance(step, DistillStep):
        teacher = _named(step.teacher, states)
        learnt = sum(s.steps for s in step.stages) * step.batch_size * step.seq_len
        ram = 4 * teacher.parameters + 16 * result.parameters + 3 * 4 * step.batch_size * step.seq_len * shape.vocab_size
        flops = learnt * (6.0 * result.parameters + 2.0 * teacher.parameters)
    else:
        flops = 4 * 2.0 * 1024 * source.parameters
    disk = size_of(result.config, result.precision, result.group_size)
    return {"ram_bytes": ram, "disk_bytes": disk, "seconds": flops / (0.4 * flops_per_second)}
