"""What the verbs of the command line share: their common options, a step or a whole recipe run, its result shown.

The heavy modules are imported inside the functions: torch takes seconds, and `--help` should not.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape

from ..console import console
from ..errors import GateFailed, UsageError
from .tables import show

if TYPE_CHECKING:
    from ..compress.prune.options import PruneOptions
    from ..pipeline.recipe import Recipe
    from ..steps.context import StepContext

__all__ = [
    "CALIBRATION",
    "ActivationBudget",
    "Bf16",
    "CalibrationSource",
    "Debug",
    "Device",
    "Fresh",
    "Json",
    "Model",
    "Out",
    "Samples",
    "Seed",
    "SeqLen",
    "Target",
    "checked",
    "conclude",
    "resumable",
    "run_prune",
    "run_step",
    "run_whole",
    "show_cut",
]

Out = Annotated[Path, typer.Option("--out", help="directory to make")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
Fresh = Annotated[bool, typer.Option("--fresh", help="make everything again, reuse nothing")]
Model = Annotated[str, typer.Argument(help="model directory, hub id, or builtin:tiny-reasoner")]
CalibrationSource = Annotated[
    str,
    typer.Option(
        "--calibration",
        help="text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], hf:NAME or builtin:NAME",
    ),
]
Samples = Annotated[int, typer.Option(help="calibration rows")]
SeqLen = Annotated[int, typer.Option(help="tokens a calibration row")]
ActivationBudget = Annotated[
    float, typer.Option(min=0, help="GiB of hidden states kept in memory; the rest goes to disk")
]
Bf16 = Annotated[
    bool | None,
    typer.Option("--bf16/--no-bf16", help="matrix products in bfloat16; default: where it is fast"),
]
Seed = Annotated[int, typer.Option(help="of everything random")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Target = Annotated[
    str | None,
    typer.Option("--target", help="device, by name or profile file; see `edgewright targets`"),
]

CALIBRATION = "builtin:reasoning"

T = TypeVar("T", bound=BaseModel)
Calibration = tuple[str, int, int, int, str]
"""Source, samples, seq_len, seed and device."""


def checked(factory: type[T], **values: Any) -> T:
    """The options of a verb, validated.

    Raises:
        UsageError: naming every option that is wrong.
    """
    try:
        return factory.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise UsageError("; ".join(lines), "see --help for what each option takes") from error


def run_step(
    kind: str,
    options: BaseModel,
    model: str,
    out: Path,
    calibration: Calibration,
    fresh: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run one step into `out` and print what it told.

    The settings are more of the step's context: what has no say in its result.
    """
    from ..pipeline.verb import run_verb

    with resumable():
        result = run_verb(
            kind,
            options,
            model,
            out,
            _context(calibration, **settings),
            fresh,
            shlex.join(["edgewright", *sys.argv[1:]]),
        )
    show(result, as_json, "step")


def _context(calibration: Calibration, **settings: Any) -> StepContext:
    from ..steps.context import CalibrationData, StepContext

    source, samples, seq_len, seed, device = calibration
    return StepContext(CalibrationData(source, samples, seq_len), seed, device, **settings)


def run_prune(
    options: PruneOptions,
    model: str,
    out: Path,
    calibration: Calibration,
    target: str | None,
    fresh: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run a prune step, its budget turned into shares, unless the target could not run what would be left in INT4.

    Raises:
        Refused: the target cannot, or the budget cannot be met.
    """
    from ..checkpoints.config import model_path, resolve
    from ..compress.prune.step import pruned_state
    from ..pipeline.forecast import device_row, refuse
    from ..pipeline.prune_budget import shares_within
    from ..steps.state import checkpoint_state
    from ..targets import load_target

    source = checkpoint_state(resolve(model_path(model)))
    options = shares_within(options, source, target)
    if target:
        after = replace(pruned_state(options, source), precision="int4", format="onnx")
        refuse([device_row(f"{model}, pruned", after, load_target(target), 2048, 1)])
    run_step("prune", options, model, out, calibration, fresh, as_json, **settings)


def show_cut(
    options: PruneOptions, model: str, calibration: Calibration, target: str | None, as_json: bool
) -> None:
    """Print what a prune step would remove and leave.

    Raises:
        Refused: after printing, if the target cannot run what would be left.
    """
    from ..pipeline.forecast import refuse
    from ..pipeline.prune_preview import preview_prune

    plan = preview_prune(options, model, _context(calibration), target)
    show(plan, as_json, "cut")
    refuse(plan["rows"][1:])


def run_whole(recipe: Recipe, out: Path, fresh: bool, as_json: bool) -> None:
    """Run a recipe into `out` and print its ledger.

    Raises:
        GateFailed: after everything was printed and written.
    """
    from ..pipeline.run import run_recipe

    with resumable():
        ledger = run_recipe(recipe, out, shlex.join(["edgewright", *sys.argv[1:]]), fresh)
    show(ledger, as_json, "ledger")
    console.print(f"ledger {out / 'ledger.json'}, report {out / 'report.html'}", highlight=False)
    if ledger.get("gate"):
        conclude(ledger["gate"])


def conclude(gate: Mapping[str, Any]) -> None:
    """Let a gate's result, which has been shown, decide the exit code.

    Raises:
        GateFailed: it failed, or was inconclusive under a policy that counts that as failed.
    """
    pair = f"{gate['candidate']} against {gate['baseline']}"
    if gate["verdict"] == "fail":
        raise GateFailed(f"the gate failed: {pair}", "the table shows which limit")
    if not gate["accepted"]:
        raise GateFailed(
            f"the gate is inconclusive, which its policy counts as failed: {pair}",
            "measure more samples, as the table says",
        )
    if gate["verdict"] == "inconclusive" and gate["inconclusive"] == "warn":
        console.print(
            f"[bold yellow]warning:[/] the gate is inconclusive: {escape(pair)}; the table says how many samples would decide"
        )


@contextmanager
def resumable() -> Iterator[None]:
    """Say on Ctrl-C that nothing finished is lost."""
    try:
        yield
    except KeyboardInterrupt as stop:
        console.print(
            "interrupted; finished steps are kept, and the same command goes on from there",
            highlight=False,
        )
        raise typer.Exit(130) from stop
