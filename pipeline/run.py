"""Runs a recipe: makes each step, measures it, and writes it into the ledger.

A step is reused if nothing that it depends on has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..benchmarks.gate.gate import check_gate
from ..benchmarks.llama_cpp import NAME as LLAMA_CPP
from ..benchmarks.llama_cpp import llama_server_here
from ..benchmarks.measurement_files import step_measurement
from ..benchmarks.missing_tasks import missing_tasks
from ..benchmarks.reference import Reference
from ..benchmarks.report.report import write_report
from ..benchmarks.unconfined import unconfined_tasks
from ..checkpoints.config import model_path, resolve
from ..checkpoints.hashing import content_hash
from ..checkpoints.loading import pick_device
from ..checkpoints.own_files import check_output
from ..console import console
from ..errors import UsageError
from ..export.options import ExportOptions
from ..models import FORMATS
from ..redaction import redacted
from ..steps.context import StepContext
from ..steps.memory_check import Alternative, require_memory
from ..steps.own_text import OwnText
from ..steps.state import State, checkpoint_state
from ..steps.step import Step
from .defaults import calibration_for, with_default_data
from .fingerprint import fingerprint, step_dependencies
from .forecast import refuse
from .fresh import clear_run
from .ledger import Ledger, new_entry
from .measured import StepMeasurer
from .plan import plan_context, plan_recipe
from .processes import require_one_process
from .recipe import BASELINE, Gate, Recipe
from .registry import STEPS
from .reuse import Reuse
from .run_progress import RunProgress
from .step_memory import run_within_memory
from .traces import make_recipe_traces

__all__ = ["run_recipe"]


def run_recipe(
    recipe: Recipe,
    out: Path,
    command: str = "edgewright run",
    fresh: bool = False,
    donors: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run a recipe into `out` and return the ledger.

    A step is reused if its fingerprint (options, input weights, data, seed, device, code) is the
    recorded one and the files of its directory are unchanged. The same holds for measurements.

    Args:
        recipe: the checked recipe.
        out: directory of the run.
        command: what was typed, for the ledger and the model cards.
        fresh: remove the results of an earlier run first.
        donors: directories of other runs; their finished steps are reused under the same
            conditions.

    Raises:
        UsageError: `out` holds the run of another recipe.
        EdgewrightError: an error of a step. Finished steps stay, and the same command resumes.
    """
    require_one_process("a recipe runs")
    earlier = Ledger(out) if fresh else _earlier_run(recipe, out)
    rows = plan_recipe(recipe)
    refuse(rows)
    _check_programs(recipe)
    _check_memory(recipe, rows, earlier)
    model = resolve(model_path(recipe.model))
    recipe = with_default_data(recipe, model)
    _begin(recipe, out, fresh=fresh)
    complete, traces = make_recipe_traces(recipe, out)
    run = RecipeRun(complete, out, model, Ledger.donors(d for d in donors if d != out))
    run.progress = RunProgress(run.order, {row["step"]: row.get("seconds", 0.0) for row in rows})
    run.ledger.begin(recipe.model_dump(mode="json", by_alias=True), command)
    run.ledger.data["plan"] = {"target": recipe.target, "rows": rows}
    run.ledger.data["traces"] = traces
    run.ledger.data.pop("gate", None)
    run.baseline()
    for index in range(len(recipe.steps)):
        run.step(index)
    if recipe.gate:
        run.ledger.data["gate"] = run.gate(recipe.gate)
    run.ledger.write()
    write_report(out)
    for note in [*missing_tasks(run.metrics()), *unconfined_tasks(run.contexts())]:
        console.print(f"[bold yellow]warning:[/] {note}", highlight=False)
    return run.ledger.data


def _earlier_run(recipe: Recipe, out: Path) -> Ledger:
    """The ledger of the earlier run of the recipe in a directory, if there was one.

    Raises:
        UsageError: the earlier run is of a recipe with another name, whose results would be lost.
    """
    earlier = Ledger.load(out)
    name = (earlier.data.get("recipe") or {}).get("name", "")
    if name not in ("", redacted(recipe.name)):
        raise UsageError(
            f"{earlier.path.parent}: holds the run of the recipe `{name}`, and this is "
            f"`{recipe.name}`",
            "give another --out; or --fresh, which removes that run",
        )
    return earlier


def _check_programs(recipe: Recipe) -> None:
    """Refuse a run whose GGUF would be made and then not be measured.

    Raises:
        UsageError: llama-server is needed and not here.
    """
    for step in recipe.steps:
        if isinstance(step, ExportOptions) and FORMATS[step.format].measured_by == LLAMA_CPP:
            llama_server_here(recipe.evaluate.llama_server)


def _check_memory(recipe: Recipe, rows: Sequence[Mapping[str, Any]], ledger: Ledger) -> None:
    """Refuse a run of which a step would not fit, before the steps before it are made.

    A step that the ledger has may be reused. If it is not, it is checked when it is run.
    """
    for row in rows:
        if recipe.memory_check and "ram_bytes" in row and ledger.step(row["step"]) is None:
            ways = [Alternative(*way) for way in row.get("smaller", ())]
            device = pick_device(recipe.device)
            require_memory(f"step `{row['step']}`", row["ram_bytes"], ways, device)


def _begin(recipe: Recipe, out: Path, *, fresh: bool) -> None:
    """Make the directory of a run, and check the directories of its steps before any work.

    From the first moment on, a ledger shows that the directory is that of a run.
    """
    out.mkdir(parents=True, exist_ok=True)
    if fresh:
        clear_run(out)
    for name in recipe.step_names:
        check_output(out / name)
    ledger = Ledger.load(out)
    if not ledger.path.exists():
        ledger.write()


class RecipeRun:
    """One run of a recipe: its ledger, and directory and hash of every finished step."""

    def __init__(
        self, recipe: Recipe, out: Path, model: Path, donors: Sequence[Ledger] = ()
    ) -> None:
        """Open the run in `out`, where an earlier start of it may have left results.

        Args:
            recipe: the recipe, with its traces made.
            out: directory of the run.
            model: directory of the recipe's model.
            donors: ledgers of other runs with results that may be the same.
        """
        self.recipe = recipe
        self.out = out
        self.ledger = Ledger.load(out)
        self.device = pick_device(recipe.device)
        self.order = [BASELINE, *recipe.step_names]
        self.progress = RunProgress(self.order, {})
        self.own = OwnText(model, self.device, recipe.seed)
        self.paths = {BASELINE: model}
        self.hashes: dict[str, str] = {}
        self.reuse = Reuse(self.ledger, self.order, donors)
        self.measurer = StepMeasurer(
            recipe,
            self.ledger,
            self.order,
            self.device,
            model,
            self.hash_of(BASELINE),
            Reference(model, self.device),
        )

    def resolve(self, name: str) -> Path:
        """The directory of a step, or of a model."""
        return self.paths[name] if name in self.paths else resolve(model_path(name))

    def hash_of(self, name: str) -> str:
        """The hash of the files of a step or of a model; computed once."""
        if name not in self.hashes:
            self.hashes[name] = content_hash(self.resolve(name))
        return self.hashes[name]

    def state_of(self, name: str) -> State:
        """The state of a step's result, or of a model, for budgets."""
        return checkpoint_state(self.resolve(name))

    def baseline(self) -> None:
        """Measure the uncompressed model."""
        fields = {"inputs": {BASELINE: self.hash_of(BASELINE)}}
        entry = self.ledger.step(BASELINE)
        where = self.progress.heading(BASELINE)
        console.print(f"[bold]{BASELINE}[/] {self.recipe.model}: {where}", highlight=False)
        if entry is None or entry["fingerprint"] != fingerprint(fields):
            output = os.path.relpath(self.paths[BASELINE], self.out)
            entry = new_entry(BASELINE, BASELINE, {"model": self.recipe.model}, fields, output)
            if measurement := self.reuse.measurement(BASELINE, fields):
                entry |= measurement
                self.ledger.put(entry, self.order)
        self.measurer.measure(entry, self.paths[BASELINE], self.hash_of(BASELINE))

    def step(self, index: int) -> None:
        """Make and measure one step, or reuse a valid result."""
        name = self.recipe.step_names[index]
        source = self.recipe.source_of(index)
        asked = self.recipe.steps[index]
        step = STEPS[asked.kind]
        plan = plan_context(self.recipe, name, self.state_of)
        options = step.settled(asked, self.state_of(source), plan)
        config = options.model_dump(mode="json", by_alias=True, exclude={"name"})
        context = self._context(step, options)
        fields = step_dependencies(step, options, config, source, self.hash_of, context)
        folder = self.out / name
        where = self.progress.heading(name)
        console.print(f"[bold]{name}[/] ({step.kind} of {source}): {where}", highlight=False)
        entry = self.reuse.entry(name, fields, folder)
        made = entry is None
        if entry is None:
            begin = time.monotonic()
            result, memory = run_within_memory(
                step,
                options,
                self.resolve(source),
                folder,
                replace(context, depends_on=fields),
                plan,
                self.measurer.reference.release,
            )
            entry = new_entry(name, step.kind, config, fields, name)
            entry["seconds"] = round(time.monotonic() - begin, 2)
            entry |= memory
            entry["notes"] = result.notes
            entry["details"] = result.details
            entry["output_hash"] = content_hash(folder)
            self.ledger.put(entry, self.order)
        self.paths[name] = folder
        self.hashes[name] = entry["output_hash"]
        for note in entry["notes"]:
            console.print(f"  {note}", highlight=False)
        self.measurer.measure(entry, folder, entry["output_hash"])
        self.progress.end(name, made=made)

    def _context(self, step: Step[Any], options: BaseModel) -> StepContext:
        return StepContext(
            calibration_for(step, options, self.recipe.calibration_data, self.own),
            self.recipe.seed,
            self.device,
            self.resolve,
            proof=self.recipe.proof,
            activation_budget=self.recipe.activation_bytes,
            memory_check=self.recipe.memory_check,
        )

    def metrics(self) -> set[str]:
        """The names of all metrics of the run."""
        return {name for step in self.ledger.data["steps"] for name in step["metrics"]}

    def contexts(self) -> list[dict[str, Any]]:
        """The contexts of all measurements of the run."""
        return [step.get("context") or {} for step in self.ledger.data["steps"]]

    def gate(self, gate: Gate) -> dict[str, Any]:
        """The gate's verdict on the finished steps."""
        candidate = self.ledger.step(gate.candidate)
        baseline = self.ledger.step(gate.baseline)
        assert candidate is not None
        assert baseline is not None
        return check_gate(
            step_measurement(self.out, candidate), step_measurement(self.out, baseline), gate
        )
