"""What the verbs of the command line share: options checked, a step or a whole recipe run, its result shown.

The heavy modules are imported inside the functions: torch takes seconds, and `--help` should not.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape

from .console import console
from .errors import GateFailed, UsageError
from .tables import show

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ["checked", "conclude", "run_step", "run_whole"]

T = TypeVar("T", bound=BaseModel)


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
    kind: str, options: BaseModel, model: str, out: Path, calibration: tuple[str, int, int, int, str], fresh: bool, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Run one step into `out` and print what it told; `calibration` is source, samples, seq_len, seed and device.

    The settings are more of the step's context: what has no say in its result.
    """
    from .pipeline import run_verb
    from .steps import CalibrationData, StepContext

    source, samples, seq_len, seed, device = calibration
    context = StepContext(CalibrationData(source, samples, seq_len), seed, device, **settings)
    with _resumable():
        result = run_verb(kind, options, model, out, context, fresh)
    show(result, as_json, "step")


def run_whole(recipe: Recipe, out: Path, fresh: bool, as_json: bool) -> None:
    """Run a recipe into `out` and print its ledger.

    Raises:
        GateFailed: after everything was printed and written.
    """
    from .pipeline import run_recipe

    with _resumable():
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
        raise GateFailed(f"the gate is inconclusive, which its policy counts as failed: {pair}", "measure more samples, as the table says")
    if gate["verdict"] == "inconclusive" and gate["inconclusive"] == "warn":
        console.print(f"[bold yellow]warning:[/] the gate is inconclusive: {escape(pair)}; the table says how many samples would decide")


@contextmanager
def _resumable() -> Iterator[None]:
    """Say on Ctrl-C that nothing finished is lost."""
    try:
        yield
    except KeyboardInterrupt as stop:
        console.print("interrupted; finished steps are kept, and the same command goes on from there", highlight=False)
        raise typer.Exit(130) from stop
