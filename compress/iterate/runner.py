"""Prune a little, recover, measure, and again: the iterative schedule (Han et al. 2015, section 3; Muralidharan et al. 2024).

Every round starts from the model that the round before it left. What a round made is kept beside the result until all are done, so
that a run that was killed goes on with the round it was in.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization
from ...checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    check_output,
    content_hash,
    read_family,
    read_provenance,
    scratch_directory,
    write_json,
)
from ...checkpoints.loading import load_model, pick_device
from ...console import console
from ...errors import Refused
from ...steps.context import StepContext, StepResult
from ...steps.workspace import workplace
from ..calibration.held_out import loss_on, set_aside
from ..distill.options import DistillOptions
from ..distill.runner import distill
from ..prune.options import PruneOptions
from ..prune.runner import prune
from ..prune.schedule import spread
from .options import INPUT, IterateOptions

__all__ = ["Point", "iterate"]


@dataclass(frozen=True)
class Point:
    """A model on the curve: round 0 is the uncut one."""

    round: int
    parameters: int
    heads: int
    ffn: int
    layers: int
    loss: float
    """Held-out next-token loss, nats a token."""
    learning: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    notes: list[str] = field(default_factory=list[str])
    output_hash: str = ""


def iterate(options: IterateOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Prune and recover `source` in rounds and write the best of them to `out`.

    Finished rounds are reused when the same step (by `context.depends_on`) was interrupted.

    Raises:
        UsageError: nothing to prune, an input is broken, or the data too small to set rows aside.
        Refused: the final size cannot be had, or the model is quantized already.
        EdgewrightError: whatever pruning and learning raise; finished rounds stay.
    """
    family, config = read_family(source)
    if quantization(config):
        raise Refused(f"{source}: quantized already", "prune first, then quantize")
    check_output(out)
    cuts = spread(options.prune, family, config, options.rounds)
    data = options.recover.data
    held = set_aside(
        options.held_out or data,
        options.held_out_rows,
        data,
        options.recover.seq_len,
        context.calibration,
        source,
    )
    resolve = context.resolve
    inside = replace(
        context,
        calibration=held.calibration,
        resolve=lambda name: source if name == INPUT else resolve(name),
    )
    recover = options.recover.model_copy(
        update={"hold_out": max(held.skip, options.recover.hold_out)}
    )
    with workplace(out, "rounds", context.depends_on, "round-*.json", context.fresh) as place:
        points, folders, begin = [_point(0, source, held.rows, context)], [source], time.monotonic()
        for number, cut in enumerate(cuts, 1):
            folder = place / f"round-{number}"
            point = _finished(folder) or _round(
                number, cut, recover, folders[-1], folder, held.rows, inside
            )
            points.append(point)
            folders.append(folder)
            left = (time.monotonic() - begin) / number * (len(cuts) - number)
            console.print(
                f"  {_told(point, points[0])}" + (f", about {left:,.0f} s left" if left else ""),
                highlight=False,
            )
        kept, why = _best(points, options.max_loss_increase)
        _publish(options, source, folders[kept.round], out, inside, points, kept)
    skipped = [
        f"{options.rounds} rounds were asked for; whole heads, neurons and layers allow {len(cuts)}"
    ] * (len(cuts) < options.rounds)
    where = f"held-out loss on {len(held.rows)} rows of {options.held_out or data} that neither calibration nor learning saw"
    notes = [why, *skipped, where, *(_told(point, points[0]) for point in points)]
    learning = {
        f"round {p.round} {name}": curve for p in points for name, curve in p.learning.items()
    }
    return StepResult(notes, {"curve": _curve(points), "kept_round": kept.round, "loss": learning})


def _finished(folder: Path) -> Point | None:
    """The point of a round that an interrupted run completed, if its model is still what was recorded."""
    record = folder.with_suffix(".json")
    if not record.is_file() or not folder.is_dir():
        return None
    point = Point(**json.loads(record.read_text()))
    if content_hash(folder) != point.output_hash:
        return None
    console.print(f"  round {point.round}: reused", highlight=False)
    return point


def _round(
    number: int,
    cut: PruneOptions,
    recover: DistillOptions,
    source: Path,
    folder: Path,
    rows: list[Tensor],
    context: StepContext,
) -> Point:
    """Cut, recover and measure; the record is written last, so that a round without one is made again."""
    with scratch_directory(folder.with_name(f"cut-{number}")) as dense:
        pruned = prune(cut, source, dense, context)
        learnt = distill(recover, dense, folder, context)
    notes = [f"round {number}: {note}" for note in (*pruned.notes, *learnt.notes)]
    point = replace(
        _point(number, folder, rows, context),
        learning=learnt.details["loss"],
        notes=notes,
        output_hash=content_hash(folder),
    )
    write_json(folder.with_suffix(".json"), asdict(point))
    return point


def _point(number: int, folder: Path, rows: list[Tensor], context: StepContext) -> Point:
    family, config = read_family(folder)
    shape, loss = (
        family.shape(config),
        loss_on(rows, load_model(folder, pick_device(context.device))),
    )
    sizes = (shape.num_attention_heads, shape.intermediate_size, shape.num_hidden_layers)
    return Point(number, family.parameters(config), *sizes, loss)


def _best(points: list[Point], limit: float | None) -> tuple[Point, str]:
    """The point to keep, and why: the smallest within the limit, or that of least loss where none is; without a limit the last."""
    uncut, *rounds = points
    if limit is None:
        return rounds[-1], f"kept round {rounds[-1].round}, the last: no limit was set"
    within = [point for point in rounds if point.loss - uncut.loss <= limit]
    if within:
        best = min(within, key=lambda point: (point.parameters, -point.round))
        return (
            best,
            f"kept round {best.round}, the smallest whose held-out loss rose by no more than {limit:g}",
        )
    best = min(rounds, key=lambda point: point.loss)
    return (
        best,
        f"no round stayed within {limit:g} of the uncut model's loss: kept round {best.round}, the one of least loss",
    )


def _told(point: Point, uncut: Point) -> str:
    sizes = f"{point.parameters:,} parameters (heads {point.heads}, FFN {point.ffn}, layers {point.layers})"
    rise = point.loss - uncut.loss
    change = (
        f" ({rise:+.4f}, perplexity × {math.exp(min(rise, 50)):.3f})" if point.round else ", uncut"
    )
    return f"round {point.round}: {sizes}, held-out loss {point.loss:.4f}{change}"


def _curve(points: list[Point]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in asdict(point).items() if k not in ("learning", "output_hash")}
        for point in points
    ]


def _publish(
    options: IterateOptions,
    source: Path,
    chosen: Path,
    out: Path,
    context: StepContext,
    points: list[Point],
    kept: Point,
) -> None:
    """Copy the chosen round to `out`, under a provenance of its own."""
    told = read_provenance(chosen)
    sparse = {"sparsity": told["sparsity"]} if "sparsity" in told else {}
    provenance = {
        "edgewright": told["edgewright"],
        "kind": "checkpoint",
        "step": "iterate",
        "source": content_hash(source),
        "teacher": told["teacher"],
        "options": options.model_dump(),
        "calibration": vars(context.calibration),
        "kept_round": kept.round,
        "curve": _curve(points),
        **sparse,
    }
    with atomic_directory(out) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        write_json(folder / PROVENANCE, provenance)
