"""Iterative pruning: prune a little, recover, measure, repeat.

The schedule is that of Han et al. 2015, section 3, and Muralidharan et al. 2024. Every round starts
from the model of the round before it. The model of each round is kept in the workspace beside the
output until all rounds are done, so an interrupted run resumes at its last unfinished round.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization, read_architecture
from ...checkpoints.directories import atomic_directory, scratch_directory
from ...checkpoints.hashing import content_hash, read_provenance, write_provenance
from ...checkpoints.loading import load_model, pick_device
from ...checkpoints.own_files import check_output
from ...checkpoints.sealed import Damaged, read_sealed, write_sealed
from ...console import console
from ...data.shortfall import shortfall
from ...data.sources import Source
from ...errors import Refused
from ...steps.context import CalibrationData, StepContext, StepResult
from ...steps.workspace import workspace
from ..calibration.held_out import HeldOut, hold_out_rows, mean_loss
from ..distill.options import DistillOptions
from ..distill.runner import distill
from ..prune.options import PruneOptions
from ..prune.runner import prune
from ..prune.schedule import spread
from .options import INPUT, IterateOptions

__all__ = ["Point", "iterate"]


@dataclass(frozen=True)
class Point:
    """Size and held-out loss of the model after a round; round 0 is the uncut model."""

    round: int
    parameters: int
    heads: int
    ffn: int
    layers: int
    loss: float
    """Held-out next-token loss, nats per token."""
    learning: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Training loss by stage and step."""
    notes: list[str] = field(default_factory=list[str])
    output_hash: str = ""


def iterate(options: IterateOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Prune and recover `source` in rounds and write the best model to `out`.

    Finished rounds are reused when the same step (by `context.depends_on`) was interrupted.

    Raises:
        UsageError: nothing to prune, an input is broken, or too few rows to hold some out.
        Refused: the final size is not possible, or the model is quantized already.
        EdgewrightError: an error of pruning or training; finished rounds stay on disk.
    """
    architecture = read_architecture(source)
    if quantization(architecture.config):
        raise Refused(f"{source}: quantized already", "prune first, then quantize")
    check_output(out)
    cuts = spread(options.prune, architecture, options.rounds)
    held = _held_out(options, source, context)
    resolve = context.resolve
    calibration, short = _calibration(held.calibration, source, context)
    inside = replace(
        context,
        calibration=calibration,
        resolve=lambda name: source if name == INPUT else resolve(name),
    )
    recover = options.recover.model_copy(
        update={"hold_out": max(held.skip, options.recover.hold_out)}
    )
    with workspace(out, "rounds", context.depends_on, "round-*.json", context.fresh) as place:
        points = _rounds(cuts, recover, source, place, held.rows, inside)
        kept, why = _best(points, options.max_loss_increase)
        chosen = _folder(place, kept.round)
        _publish(options, source, chosen, out, inside, points, kept)
    result = _result(options, points, kept, why, len(cuts), len(held.rows))
    return replace(result, notes=[*result.notes, *held.notes, *short])


def _calibration(
    data: CalibrationData, source: Path, context: StepContext
) -> tuple[CalibrationData, list[str]]:
    """Calibration of as many rows as there are, and notes on what is missing."""
    if Source.parse(data.source).generated:
        return data, []  # generated without end
    rows = data.rows(source, context.seed)
    return replace(data, samples=len(rows)), context.calibration.notes(rows)


def _held_out(options: IterateOptions, source: Path, context: StepContext) -> HeldOut:
    """Rows to measure on, which neither calibration nor training reads."""
    data = options.recover.data
    return hold_out_rows(
        options.held_out or data,
        options.held_out_rows,
        data,
        options.recover.seq_len,
        context.calibration,
        source,
        options.recover.bad_rows,
    )


def _rounds(
    cuts: list[PruneOptions],
    recover: DistillOptions,
    source: Path,
    place: Path,
    rows: list[Tensor],
    context: StepContext,
) -> list[Point]:
    """Measure the uncut model, then run every round or reuse its result in the workspace."""
    points = [_point(0, source, rows, context)]
    folder = source
    begin = time.monotonic()
    for number, cut in enumerate(cuts, 1):
        before = folder
        folder = _folder(place, number)
        point = _finished(folder)
        if point is None:
            point = _round(number, cut, recover, before, folder, rows, context)
        points.append(point)
        left = (time.monotonic() - begin) / number * (len(cuts) - number)
        console.print(
            f"  {_summary(point, points[0])}" + (f", about {left:,.0f} s left" if left else ""),
            highlight=False,
        )
    return points


def _folder(place: Path, number: int) -> Path:
    return place / f"round-{number}"


def _finished(folder: Path) -> Point | None:
    """The point of a round that an interrupted run completed, if its files are unchanged."""
    record = folder.with_suffix(".json")
    if not record.exists() or not folder.is_dir():
        return None
    try:
        point = Point(**read_sealed(record, "start again with --fresh"))
    except Damaged as error:
        console.print(f"  made again: {error}", highlight=False, markup=False)
        return None
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
    """Prune, recover and measure.

    The record is written last, so a round without a record is made again.
    """
    with scratch_directory(folder.with_name(f"cut-{number}")) as dense:
        pruned = prune(cut, source, dense, context)
        trained = distill(recover, dense, folder, context)
    notes = [f"round {number}: {note}" for note in (*pruned.notes, *trained.notes)]
    point = replace(
        _point(number, folder, rows, context),
        learning=trained.details["loss"],
        notes=notes,
        output_hash=content_hash(folder),
    )
    write_sealed(folder.with_suffix(".json"), asdict(point))
    return point


def _point(number: int, folder: Path, rows: list[Tensor], context: StepContext) -> Point:
    model = read_architecture(folder)
    loss = mean_loss(rows, load_model(folder, pick_device(context.device)))
    sizes = (model.attention_sizes.heads, model.intermediate_size, len(model.layers))
    return Point(number, model.parameters, *sizes, loss)


def _best(points: list[Point], limit: float | None) -> tuple[Point, str]:
    """The point to keep, and the reason.

    With a limit: the smallest model within it, or the one of least loss if none is within it.
    Without a limit: the last.
    """
    uncut, *rounds = points
    if limit is None:
        return rounds[-1], f"kept round {rounds[-1].round}, the last: no limit was set"
    within = [point for point in rounds if point.loss - uncut.loss <= limit]
    if within:
        best = min(within, key=lambda point: (point.parameters, -point.round))
        return (
            best,
            f"kept round {best.round}, the smallest whose held-out loss rose by no more than "
            f"{limit:g}",
        )
    best = min(rounds, key=lambda point: point.loss)
    return (
        best,
        f"no round stayed within {limit:g} of the uncut model's loss: kept round {best.round}, "
        "the one of least loss",
    )


def _summary(point: Point, uncut: Point) -> str:
    """One line about a round: size, held-out loss, and how much the loss rose."""
    sizes = (
        f"{point.parameters:,} parameters "
        f"(heads {point.heads}, FFN {point.ffn}, layers {point.layers})"
    )
    rise = point.loss - uncut.loss
    change = (
        f" ({rise:+.4f}, perplexity × {math.exp(min(rise, 50)):.3f})" if point.round else ", uncut"
    )
    return f"round {point.round}: {sizes}, held-out loss {point.loss:.4f}{change}"


def _result(
    options: IterateOptions, points: list[Point], kept: Point, why: str, done: int, rows: int
) -> StepResult:
    """Notes and details for the report, after `done` rounds measured on so many held-out rows."""
    notes = [why]
    if done < options.rounds:
        notes.append(
            f"{options.rounds} rounds were asked for; whole heads, neurons and layers allow {done}"
        )
    notes += shortfall(
        rows, options.held_out_rows, "held-out rows", "at most a quarter of the data is held out"
    )
    notes.append(
        f"held-out loss on {rows} rows of {options.held_out or options.recover.data} "
        "that neither calibration nor training used"
    )
    notes += [_summary(point, points[0]) for point in points]
    learning = {
        f"round {p.round} {name}": curve for p in points for name, curve in p.learning.items()
    }
    return StepResult(notes, {"curve": _curve(points), "kept_round": kept.round, "loss": learning})


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
    """Copy the chosen round to `out` and write the provenance of the whole step."""
    origin = read_provenance(chosen)
    sparse = {"sparsity": origin["sparsity"]} if "sparsity" in origin else {}
    provenance = {
        "edgewright": origin["edgewright"],
        "kind": "checkpoint",
        "step": "iterate",
        "source": content_hash(source),
        "teacher": origin["teacher"],
        "options": options.model_dump(),
        "calibration": context.calibration.identity(),
        "kept_round": kept.round,
        "curve": _curve(points),
        **sparse,
    }
    with atomic_directory(out) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        write_provenance(folder, provenance)
