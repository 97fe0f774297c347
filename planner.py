"""What a recipe will need and what its target will give, from config.json alone: no weight is read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from .compress.distill.runner import StudentFrom
from .compress.prune.choose import choose_layers, choose_neurons, kept_heads
from .compress.prune.memory import prune_memory
from .compress.prune.runner import PruneOptions
from .configs import resolve
from .forecast import State, device_row, initial
from .models import family_of
from .recipe import BASELINE, DistillStep, ExportStep, PruneStep, QuantizeStep, Recipe, Step, model_path
from .targets import load_target, size_of

__all__ = ["plan_recipe"]


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
    states = {BASELINE: initial(resolve(model_path(recipe.model)))}
    rows = [device_row(BASELINE, states[BASELINE], target, context, batch)]
    flops_per_second = _speed()
    for index, (name, step) in enumerate(zip(recipe.step_names, recipe.steps, strict=True)):
        source = states[recipe.source_of(index)]
        states[name] = _after(step, source, states)
        row = device_row(name, states[name], target, context, batch)
        row |= _cost(step, source, states[name], states, recipe, flops_per_second)
        rows.append(row)
    return rows


def _after(step: Step, source: State, states: Mapping[str, State]) -> State:
    if isinstance(step, PruneStep):
        return _pruned(step, source)
    if isinstance(step, QuantizeStep):
        return replace(source, precision=f"int{step.bits}", group_size=step.group_size, sym=step.sym)
    if isinstance(step, ExportStep):
        return replace(source, precision=step.precision, format=step.format)
    if isinstance(step.student, StudentFrom):
        return _pruned(step.student, _named(step.student.source, states))
    return _named(step.student, states) if step.student else source


def _named(name: str, states: Mapping[str, State]) -> State:
    return states[name] if name in states else initial(resolve(model_path(name)))


def _pruned(options: PruneOptions, source: State) -> State:
    """The shape after a cut, by the same functions that choose what to cut, on scores that are all equal."""
    family = family_of(source.config)
    shape = family.shape(source.config)
    heads = kept_heads(shape, options.heads, lambda n: family.accepts_heads(source.config, n))
    neurons = choose_neurons(torch.zeros(1, shape.intermediate_size), options.ffn)
    layers = choose_layers(torch.zeros(shape.num_hidden_layers), options.layers)
    return replace(
        source, config=family.resized(source.config, heads=heads, kv_heads=shape.num_key_value_heads, ffn=len(neurons[0]), layers=layers)
    )


def _speed() -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    a = torch.ones(512, 512)
    torch.mm(a, a)
    begin = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 2 * 512**3 / (time.perf_counter() - begin)


def _cost(
    step: Step, source: State, result: State, states: Mapping[str, State], recipe: Recipe, flops_per_second: float
) -> dict[str, Any]:  # fmt: skip
    """Memory, disk and time that making a step takes here; an estimate to the factor two, not a promise."""
    family = family_of(source.config)
    shape = family.shape(source.config)
    linears = family.linear_shapes(source.config)
    tokens = recipe.calibration.samples * recipe.calibration.seq_len
    ram, flops = 4 * source.parameters, 2.0 * tokens * source.parameters
    if isinstance(step, PruneStep):
        seq_len, budget = recipe.calibration.seq_len, recipe.activation_bytes
        ram = prune_memory(source.config, result.config, step.criterion, tokens, seq_len, budget, compensate=step.compensate)
        flops *= 2 if step.criterion == "taylor" else 1
    elif isinstance(step, QuantizeStep):
        widest = max(k for _, k in linears.values())
        layer, hidden = sum(n * k for n, k in linears.values()), 4 * tokens * shape.hidden_size
        ram = 8 * layer + min(recipe.activation_bytes, hidden) + 6 * 4 * widest**2  # Hessian, its reordering, factors and inverse
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
