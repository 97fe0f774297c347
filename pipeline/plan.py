"""What a recipe will need and what its target will give, from config.json alone: no weight is read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from pydantic import BaseModel

from ..checkpoints.config import resolve
from ..compress.distill.attention import check_maps
from ..compress.distill.checks import check_sizes
from ..compress.distill.options import DistillOptions, StudentFrom
from ..compress.distill.qat import check_widths
from ..compress.distill.runner import PACKED_HINT
from ..compress.iterate.options import INPUT
from ..compress.prune.memory import prune_memory
from ..compress.prune.options import PruneOptions
from ..compress.prune.runner import preview
from ..compress.prune.schedule import spread
from ..compress.quantize.assignment import choose, extra_bytes
from ..compress.quantize.options import QuantizeOptions
from ..errors import UsageError
from ..models import family_of, require_dense
from ..steps.context import StepContext
from ..targets import load_target, size_of
from .forecast import State, device_row, floating, initial
from .prune_budget import after_cut, fitted
from .recipe import (
    BASELINE,
    ExportStep,
    IterateStep,
    PruneStep,
    QuantizeStep,
    Recipe,
    Step,
    model_path,
)

__all__ = ["plan_cut", "plan_recipe"]


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
        states[name] = _after(step, source, states, recipe.target)
        row = device_row(name, states[name], target, context, batch)
        row |= _cost(step, source, states[name], states, recipe, flops_per_second)
        rows.append(row)
    return rows


def _after(step: Step, source: State, states: Mapping[str, State], target: str | None) -> State:
    if isinstance(step, PruneStep):
        return after_cut(fitted(step, source, target), source)
    if isinstance(step, IterateStep):
        return _rounds(step, source, target)[-1][1]
    if isinstance(step, QuantizeStep):
        return _quantized(step, source)
    if isinstance(step, ExportStep):
        require_dense(source.config, "exported", step.name or step.kind)
        return replace(
            source, precision=step.precision.removesuffix("-a8"), format=step.format
        )  # the same weights
    student = _named(step.student, states) if isinstance(step.student, str) else source
    if isinstance(step.student, StudentFrom):
        cut_from = _named(step.student.source, states)
        student = after_cut(fitted(step.student, cut_from, target), cut_from)
    if step.teacher:
        teacher, learner = (
            (family_of(state.config), state.config)
            for state in (_named(step.teacher, states), student)
        )
        check_sizes(teacher, learner, step.stages)
        for stage in (stage for stage in step.stages if stage.attention):
            check_maps(teacher, learner, stage.layers, step.seq_len)
    if step.qat is None and not student.precision.startswith("int"):
        return student
    if step.qat is None and step.lora is None:
        raise UsageError(f"{step.name or step.kind}: a packed checkpoint cannot learn", PACKED_HINT)
    if step.qat is None:  # adapters are merged into what its integers stand for
        require_dense(
            student.config,
            "learnt with adapters while its weights are packed",
            step.name or step.kind,
        )
        return State(student.config, floating(student.config))
    check_widths(step.qat, family_of(student.config), student.config, step.name or step.kind)
    return replace(
        student, precision=f"int{step.qat.bits}", group_size=step.qat.group_size, sym=step.qat.sym
    )


def _quantized(options: QuantizeOptions, source: State) -> State:
    extra = extra_bytes(family_of(source.config), source.config, options)
    return replace(
        source,
        precision=f"int{options.bits}",
        group_size=options.group_size,
        sym=options.sym,
        g_idx=options.permuted,
        extra_bytes=extra,
    )


def plan_cut(
    options: PruneOptions,
    model: str,
    context: StepContext,
    target: str | None,
    precision: str = "int4",
) -> dict[str, Any]:
    """What a prune step would remove and what would be left of size and latency: scores are measured, nothing is written.

    Args:
        options: as for the step.
        model: directory, hub id or built-in model.
        context: calibration data, seed and device.
        target: device to predict for.
        precision: in which it will run the model.

    Returns:
        `rows` as a plan has them and `sizes`, before and after; scores, `pruned_heads`, `kept_layers` and `notes` as the step has them.

    Raises:
        EdgewrightError: whatever the step itself would refuse.
    """
    path = resolve(model_path(model))
    source = initial(path)
    options = fitted(options, source, target)
    found, config = preview(options, path, context)
    device, shapes = (
        load_target(target) if target else None,
        {"before": dict(source.config), "after": config},
    )
    states = {name: State(shape, precision, format="onnx") for name, shape in shapes.items()}
    return {
        "target": target,
        "rows": [device_row(name, state, device, 2048, 1) for name, state in states.items()],
        "sizes": {
            name: asdict(family_of(state.config).shape(state.config))
            for name, state in states.items()
        },
        **found,
        "options": options.model_dump(),
    }


def _named(name: str, states: Mapping[str, State]) -> State:
    return states[name] if name in states else initial(resolve(model_path(name)))


def _rounds(
    step: IterateStep, source: State, target: str | None
) -> list[tuple[PruneOptions, State]]:
    """Every round's cut and the shape that it leaves."""
    states = [source]
    cuts = spread(
        fitted(step.prune, source, target), family_of(source.config), source.config, step.rounds
    )
    for cut in cuts:
        states.append(after_cut(cut, states[-1]))
    return list(zip(cuts, states[1:], strict=True))


def _speed() -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    a = torch.ones(512, 512)
    torch.mm(a, a)
    begin = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 2 * 512**3 / (time.perf_counter() - begin)


def _cost(
    step: Step,
    source: State,
    result: State,
    states: Mapping[str, State],
    recipe: Recipe,
    flops_per_second: float,
) -> dict[str, Any]:
    """Memory, disk and time that making a step takes here; an estimate to the factor two, not a promise."""
    disk = size_of(result.config, result.precision, result.group_size) + result.extra_bytes
    if isinstance(step, IterateStep):
        works, before = [], source
        for cut, after in _rounds(step, source, recipe.target):
            works += [
                _work(cut, before, after, states, recipe),
                _work(step.recover, after, after, {**states, INPUT: source}, recipe),
            ]
            disk += size_of(after.config, after.precision)  # until the last round is done
            before = after
        ram, flops = max(ram for ram, _ in works), sum(flops for _, flops in works)
    else:
        ram, flops = _work(step, source, result, states, recipe)
        disk += _journal(step, source, recipe) if isinstance(step, QuantizeStep) else 0
    return {"ram_bytes": ram, "disk_bytes": disk, "seconds": flops / (0.4 * flops_per_second)}


def _journal(options: QuantizeOptions, source: State, recipe: Recipe) -> int:
    """Bytes of finished layers and of two sets of calibration states that a quantization keeps until it is done."""
    family, tokens = (
        family_of(source.config),
        recipe.calibration.samples * recipe.calibration.seq_len,
    )
    layers = choose(family, source.config, options).quantized_bytes
    return layers + 2 * 4 * tokens * family.shape(source.config).hidden_size


def _work(
    options: BaseModel, source: State, result: State, states: Mapping[str, State], recipe: Recipe
) -> tuple[float, float]:
    """Bytes of memory and floating-point operations that one cut, one lesson, one quantization or one export takes."""
    family = family_of(source.config)
    shape = family.shape(source.config)
    tokens = recipe.calibration.samples * recipe.calibration.seq_len
    ram, flops = 4.0 * source.parameters, 2.0 * tokens * source.active_parameters
    if isinstance(options, PruneOptions):
        seq_len, budget = recipe.calibration.seq_len, recipe.activation_bytes
        ram = prune_memory(
            source.config,
            result.config,
            options.criterion,
            tokens,
            seq_len,
            budget,
            compensate=options.compensate,
        )
        flops *= 2 if options.criterion == "taylor" else 1
        flops += (
            _layerwise_flops(result.config, tokens, result.active_parameters)
            if options.sparsity
            else 0
        )
    elif isinstance(options, QuantizeOptions):
        linears = family.linear_shapes(source.config)
        alike = {
            name: shape.experts.count if shape.experts and "*" in name else 1 for name in linears
        }
        widest, layer = (
            max(k for _, k in linears.values()),
            sum(alike[name] * n * k for name, (n, k) in linears.items()),
        )
        kept = (
            shape.hidden_size
            + linears.get(family.o, (0, 0))[1]
            + linears.get(family.down, (0, 0))[1]
        )
        hidden = min(recipe.activation_bytes, 4 * tokens * kept)
        largest = max(n * k for n, k in linears.values())
        ram = (
            8.0 * layer + hidden + 2 * 4 * widest**2 + 10 * 4 * largest
        )  # the Hessian and its factor; copies of weights
        flops = _layerwise_flops(source.config, tokens, source.active_parameters)
    elif isinstance(options, DistillOptions):
        teacher = _named(options.teacher, states) if options.teacher else None
        taught_by, active = (teacher.parameters, teacher.active_parameters) if teacher else (0, 0)
        learnt = sum(s.steps for s in options.stages) * options.batch_size * options.seq_len
        each, passes = (
            (4, 4.0) if options.lora else (16, 6.0)
        )  # frozen weights need no gradient, no moments and no product for it
        each += 5 if options.qat else 0  # the fake-quantized weight, and the integers of the start
        batch = options.batch_size * options.seq_len
        learning = each * result.parameters + 4.0 * min(
            3 * batch * shape.vocab_size, 5 * 2**24
        )  # logits are made in chunks
        ram = (
            max(4.0 * taught_by, learning) if options.teacher_cache else 4.0 * taught_by + learning
        )
        written = sum(s.steps * s.on_policy for s in options.stages) * batch
        flops = (
            learnt * (passes * result.active_parameters + 2.0 * active)
            + 2.0 * written * result.active_parameters
        )
    else:
        flops = 4 * 2.0 * 1024 * source.active_parameters
    return ram, flops


def _layerwise_flops(config: Mapping[str, Any], tokens: int, active: float) -> float:
    """What it takes to calibrate every linear layer and solve for its weights, one decoder layer after the other."""
    family = family_of(config)
    counts = family.linear_counts(config)
    solving = sum(
        counts[name] * (2.0 * n * k * k + k**3)
        for name, (n, k) in family.linear_shapes(config).items()
    )
    passes = len(family.input_groups) + 1
    return 2.0 * tokens * active * passes + solving
