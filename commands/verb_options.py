"""Options that belong to verbs and not to recipes: where the output goes, what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import typer
from pydantic import BaseModel, Field

from ..benchmarks.gate.badge import BADGE_MARK
from ..checkpoints.outputs import ANSWERS, RECORD, RECORD_MARKS
from ..steps.options import Cli, shared
from ..steps.panels import COMMON, Panels
from ..steps.places import Reads, Writes
from ..steps.strict import STRICT

__all__ = [
    "BenchInputs",
    "CompareOutput",
    "DemoOutput",
    "DeployInputs",
    "GateInputs",
    "Model",
    "Output",
    "PruneOutput",
    "RecipeFile",
    "RecipeSettings",
    "RunOptions",
    "SweepInputs",
    "TargetDevice",
    "TracesOutput",
]

Model = Annotated[
    str, Reads(), typer.Argument(help="model directory, hub id, or builtin:tiny-reasoner")
]
RECIPE = "YAML file, or the name of a recipe that ships with edgewright, such as demo"
RecipeFile = Annotated[Path, Reads(recipe=True), typer.Argument(help=RECIPE)]
MEASUREMENT_MARKS = ('"metrics": {', '"context": {', '"samples": {')
ANSWER_MARKS = ('"question": ', '"expected": ', '"correct": ')
JUNIT_MARKS = ('classname="edgewright.gate"', 'name="edgewright gate"')
"""Texts by which edgewright knows a file that it wrote, so that it may write the file again."""


class _Inputs(BaseModel):
    model_config = STRICT
    panels: ClassVar = Panels(COMMON)


class _Fresh(_Inputs):
    """The option that repeats all work."""

    fresh: Annotated[bool, Cli("--fresh")] = Field(
        default=False, description="redo everything, reuse no earlier result"
    )


class Output(_Inputs):
    """Where a step writes."""

    out: Annotated[Path, Writes("directory")] = Field(description="directory to create")
    fresh: bool = shared(_Fresh, "fresh")


class PruneOutput(_Inputs):
    """Where a pruned model is written, or that none is."""

    out: Annotated[Path | None, Writes("directory", not_with="dry_run")] = Field(
        default=None, description="directory to create; not needed with --dry-run"
    )
    dry_run: Annotated[bool, Cli("--dry-run")] = Field(
        default=False, description="show what would be removed and what would remain; write nothing"
    )
    fresh: bool = shared(_Fresh, "fresh")


class TracesOutput(_Inputs):
    """Where traces are written."""

    out: Annotated[Path, Writes("traces", beside=((RECORD, RECORD_MARKS),))] = Field(
        description="JSONL file to write; its report is written beside it"
    )
    fresh: bool = shared(_Fresh, "fresh")


class DemoOutput(_Inputs):
    """Where the demo runs, and how long."""

    out: Annotated[Path, Writes("run")] = Field(
        default=Path("runs/demo"), description="directory of the run"
    )
    full: Annotated[bool, Cli("--full")] = Field(
        default=False,
        description="train longer and measure more problems, as the recipe says; without it, the "
        "same steps in a fraction of the time, with a less accurate result",
    )
    fresh: bool = shared(_Fresh, "fresh")


class RecipeSettings(_Inputs):
    """Changes to a recipe."""

    settings: Annotated[tuple[str, ...], Cli("--set")] = Field(
        default=(),
        description="KEY=VALUE: change an option of the recipe, such as model=DIR or "
        "steps.prune.heads=0.5; repeatable",
    )


class RunOptions(RecipeSettings):
    """How a recipe is run."""

    out: Annotated[Path | None, Writes("run", not_with="dry_run")] = Field(
        default=None, description="directory of the run; default: runs/NAME"
    )
    dry_run: Annotated[bool, Cli("--dry-run")] = Field(
        default=False, description="print the plan and stop"
    )
    fresh: bool = shared(_Fresh, "fresh")


class TargetDevice(_Inputs):
    """The device that a verb works for."""

    target: Annotated[str | None, Reads()] = Field(
        default=None, description="device, by name or profile file; see `edgewright targets`"
    )


class SweepInputs(RecipeSettings):
    """Where a sweep runs, and changes to the recipe of every trial."""

    out: Annotated[Path | None, Writes("sweep")] = Field(
        default=None, description="directory of the sweep; default: runs/NAME-sweep"
    )


class BenchInputs(_Inputs):
    """What a model is compared with, and where the measurement is saved."""

    reference: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="model to compare outputs with: KL divergence and top-1 agreement",
    )
    against: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="model to time in turns with this one; gives the ratio and its interval",
    )
    save: Annotated[
        Path | None, Writes("file", MEASUREMENT_MARKS, beside=((ANSWERS, ANSWER_MARKS),))
    ] = Field(
        default=None,
        description="write the measurement as JSON, for `edgewright gate`, and the answers to "
        "tasks beside it (NAME.answers.jsonl)",
    )


class GateInputs(_Inputs):
    """What a candidate is compared with, and where the result is written."""

    baseline: Annotated[str, Writes("file", MEASUREMENT_MARKS, only_with="update_baseline")] = (
        Field(description="measurement file, or RUN:STEP")
    )
    policy: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="YAML file: confidence, inconclusive, and limits: metric -> {min_ratio, "
        "max_ratio, max_drop, min, max}",
    )
    junit: Annotated[Path | None, Writes("file", JUNIT_MARKS)] = Field(
        default=None, description="also write JUnit XML to this file, for a CI server"
    )
    markdown: Annotated[Path | None, Writes("file", ("### edgewright gate: ",))] = Field(
        default=None, description="also write Markdown to this file, for a pull request"
    )
    badge: Annotated[Path | None, Writes("file", (BADGE_MARK,))] = Field(
        default=None,
        description="also write a badge to this file: a picture (.svg), or JSON for shields.io "
        "(.json)",
    )
    comment: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.-]{1,60}$",
        description="in a CI job of GitHub or GitLab, write the result to the pull request as the "
        "comment of this NAME, or replace it; the token is GITHUB_TOKEN or GITLAB_TOKEN",
    )
    update_baseline: Annotated[bool, Cli("--update-baseline")] = Field(
        default=False, description="compare nothing; replace the BASELINE file by the candidate"
    )


class CompareOutput(_Inputs):
    """Where a comparison is written, beside the terminal."""

    html: Annotated[Path | None, Writes("file", ("edgewright</title>",))] = Field(
        default=None, description="also write a page with charts to this file"
    )
    markdown: Annotated[Path | None, Writes("file", ("<!-- edgewright comparison -->",))] = Field(
        default=None, description="also write Markdown to this file"
    )


class DeployInputs(_Inputs):
    """What `deploy` does beside deploying, and where it records the results."""

    rollback: Annotated[bool, Cli("--rollback")] = Field(
        default=False, description="make the previous version on the device the current one again"
    )
    out: Annotated[Path | None, Writes("directory")] = Field(
        default=None, description="write the bundle to this directory and deploy nothing"
    )
    rehearse: Annotated[bool, Cli("--rehearse")] = Field(
        default=False,
        description="run the device's commands here, with recorders in place of its tools that "
        "check the arguments; exit code 3 if the deployment would fail",
    )
    jetpack: str | None = Field(
        default=None,
        description="JetPack release to rehearse, such as 6.2; default: the newest of each "
        "TensorRT that builds engines",
    )
    ledger: Annotated[Path | None, Writes("ledger", not_with="out")] = Field(
        default=None,
        description="directory of the ledger; default: the run that the artifact belongs to",
    )
    policy: Path | None = shared(GateInputs, "policy")
    baseline: Annotated[str | None, Reads()] = Field(
        default=None,
        description="measurement file, or RUN:STEP, that the tasks on the device are compared "
        "with; default: the baseline of the artifact's run",
    )
