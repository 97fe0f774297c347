"""Runs a recipe: every step in turn, measured, entered in the ledger, and reused when nothing it depends on has changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .. import __version__
from ..benchmarks.gate.gate import check_gate
from ..benchmarks.measure import Measurement, Reference, measure
from ..benchmarks.measurement_files import step_measurement, write_lines
from ..benchmarks.report.model_card import write_card
from ..benchmarks.report.report import write_report
from ..benchmarks.tasks.task import Task
from ..benchmarks.traces.options import TracesOptions
from ..benchmarks.traces.traces import make_traces
from ..checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    content_hash,
    file_hash,
    read_provenance,
    resolve,
    weight_bytes,
    write_json,
)
from ..checkpoints.loading import pick_device
from ..compress.distill.options import DistillOptions, StudentFrom
from ..compress.distill.runner import distill
from ..compress.iterate.options import INPUT, IterateOptions
from ..compress.iterate.runner import iterate
from ..compress.prune.runner import prune
from ..compress.quantize.runner import quantize
from ..console import IS_MAIN, console
from ..data.sources import Source
from ..errors import EdgewrightError, UsageError
from ..export.options import ExportOptions
from ..export.runner import export
from ..steps.context import CalibrationData, StepContext, StepResult
from ..steps.workspace import differences, locked
from .forecast import initial, refuse
from .ledger import MEASURE_CODE, STEP_CODE, Ledger, code_version, fingerprint
from .plan import plan_recipe
from .prune_budget import fitted
from .recipe import BASELINE, TRACES, DistillStep, IterateStep, PruneStep, Recipe, Step, model_path

__all__ = ["RUNNERS", "run_recipe", "run_traces", "run_verb"]


def _export(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """An export; what only a device's rules decide about is the business of `targets`."""
    if options.format != "edge-llm":
        return export(options, source, out, context)
    from ..targets.edge_llm_package import hand_over  # late: reads the profiles of devices

    return hand_over(source, out, options.precision)


RUNNERS: dict[str, Callable[[Any, Path, Path, StepContext], StepResult]] = {
    "prune": prune,
    "distill": distill,
    "iterate": iterate,
    "quantize": quantize,
    "export": _export,
}


def run_recipe(
    recipe: Recipe,
    out: Path,
    command: str = "edgewright run",
    fresh: bool = False,
    donors: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run a recipe into `out` and return the ledger.

    A step is reused when its fingerprint (options, input weights, data, seed, device, code) is the recorded one and its
    directory still hashes to what was recorded; so is its measurement. A step that one of `donors`, other runs, has finished
    is taken over from there under the same conditions.

    Raises:
        EdgewrightError: whatever a step raises; finished steps stay, and the same command resumes.
    """
    _alone("a recipe runs")
    rows = plan_recipe(recipe)
    refuse(rows)
    model = resolve(model_path(recipe.model))
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if fresh:
            _clear(out)
        made, told = _with_traces(recipe, out)
        run = _Run(made, out, model, [Ledger.load(donor) for donor in donors if donor != out])
        run.ledger.begin(recipe.model_dump(mode="json", by_alias=True), command)
        run.ledger.data["plan"] = {"target": recipe.target, "rows": rows}
        run.ledger.data["traces"] = told
        run.ledger.data.pop("gate", None)
        run.baseline()
        for index in range(len(recipe.steps)):
            run.step(index)
        if recipe.gate:
            run.ledger.data["gate"] = run.gate()
        run.ledger.write()
        write_report(out)
        return run.ledger.data


def _with_traces(recipe: Recipe, out: Path) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe with its traces made, and what there is to tell of them; as it is, where it wants none."""
    if recipe.traces is None:
        return recipe, None
    file = out / f"{TRACES}.jsonl"
    console.print(f"[bold]{TRACES}[/] of {recipe.traces.prompts}")
    told = run_traces(recipe.traces, recipe.model, file, recipe.seed, recipe.device)
    state = (
        "reused"
        if told["reused"]
        else f"kept {told['kept']} of {told['chains']} chains, pass@1 {told['pass@1']:.3f}"
    )
    console.print(f"  {state}", highlight=False)
    if not told["kept"]:
        raise EdgewrightError(
            f"{file}: not one chain was kept of {told['chains']}: {told['rejected']}",
            "loosen what traces must hold",
        )
    return recipe.with_traces(f"jsonl:{file}"), told


def _clear(out: Path) -> None:
    ours = (out / "ledger.json").exists() or {p.name for p in out.iterdir()} <= {
        ".lock",
        f".{TRACES}.jsonl.chains",
    }
    if not ours:
        raise UsageError(
            f"{out}: --fresh would delete files that are not a run's", "choose another --out"
        )
    for path in out.iterdir():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Run:
    """The state of one run: recipe, directory, ledger, and the hashes known so far."""

    def __init__(
        self, recipe: Recipe, out: Path, model: Path, donors: Sequence[Ledger] = ()
    ) -> None:
        self.recipe, self.out, self.donors = recipe, out, donors
        self.ledger = Ledger.load(out)
        self.device = pick_device(recipe.device)
        self.order = [BASELINE, *recipe.step_names]
        self.paths = {BASELINE: model}
        self.hashes: dict[str, str] = {}
        self.reference = Reference(model, self.device)

    def resolve(self, name: str) -> Path:
        """The directory of a step or of a model."""
        return self.paths[name] if name in self.paths else resolve(model_path(name))

    def hash_of(self, name: str) -> str:
        """The content hash of a step's directory or of a model, computed once."""
        if name not in self.hashes:
            self.hashes[name] = content_hash(self.resolve(name))
        return self.hashes[name]

    def baseline(self) -> None:
        """Measure the model as it came."""
        fields = {"inputs": {BASELINE: self.hash_of(BASELINE)}}
        old = self.ledger.step(BASELINE)
        entry = old if old and old["fingerprint"] == fingerprint(fields) else None
        console.print(f"[bold]{BASELINE}[/] {self.recipe.model}")
        if entry is None:
            entry = self._entry(
                BASELINE,
                BASELINE,
                {"model": self.recipe.model},
                fields,
                os.path.relpath(self.paths[BASELINE], self.out),
            )
            for donor, given in self._offers(BASELINE, fields):
                entry |= {
                    key: given[key]
                    for key in ("metrics", "context", "samples", "measured")
                    if key in given
                }
                self._copy_samples(donor, given)
                self.ledger.put(entry, self.order)
                break
        self._measured(entry, with_reference=False)

    def step(self, index: int) -> None:
        """Make and measure one step, or find that it stands already."""
        step, name = self._settled(index), self.recipe.step_names[index]
        config = step.model_dump(mode="json", by_alias=True, exclude={"name"})
        fields = self._fields(step, index, config)
        folder = self.out / name
        console.print(f"[bold]{name}[/] ({step.kind} of {self.recipe.source_of(index)})")
        entry = self._standing(name, fields, folder)
        if entry is None:
            begin = time.monotonic()
            result = RUNNERS[step.kind](
                step, self.resolve(self.recipe.source_of(index)), folder, self._context(fields)
            )
            entry = self._entry(name, step.kind, config, fields, name)
            entry |= {
                "seconds": round(time.monotonic() - begin, 2),
                "notes": result.notes,
                "details": result.details,
            }
            entry["output_hash"] = content_hash(folder)
            self.ledger.put(entry, self.order)
        self.paths[name], self.hashes[name] = folder, entry["output_hash"]
        for note in entry["notes"]:
            console.print(f"  {note}", highlight=False)
        self._measured(entry, with_reference=True)

    def _settled(self, index: int) -> Step:
        """The step with a budget turned into shares, which depend on the model it reads."""
        step = self.recipe.steps[index]
        if isinstance(step, PruneStep):
            return fitted(
                step, initial(self.resolve(self.recipe.source_of(index))), self.recipe.target
            )
        if isinstance(step, IterateStep):
            prune = fitted(
                step.prune, initial(self.resolve(self.recipe.source_of(index))), self.recipe.target
            )
            return step.model_copy(update={"prune": prune})
        if isinstance(step, DistillStep) and isinstance(step.student, StudentFrom):
            student = fitted(
                step.student, initial(self.resolve(step.student.source)), self.recipe.target
            )
            return step.model_copy(update={"student": student})
        return step

    def _context(self, fields: Mapping[str, Any]) -> StepContext:
        calibration = CalibrationData(**self.recipe.calibration.model_dump())
        return StepContext(
            calibration,
            self.recipe.seed,
            self.device,
            self.resolve,
            depends_on=fields,
            proof=self.recipe.proof,
            activation_budget=self.recipe.activation_bytes,
        )

    def _fields(self, step: Step, index: int, config: Mapping[str, Any]) -> dict[str, Any]:
        sources = {self.recipe.source_of(index)}
        data = {self.recipe.calibration.source}
        models, texts = _named_by(step)
        sources |= models
        data |= texts
        return {
            "config": dict(config),
            "inputs": {name: self.hash_of(name) for name in sorted(sources)},
            "data": {name: Source.parse(name).fingerprint() for name in sorted(data)},
            "calibration": self.recipe.calibration.model_dump(),
            "seed": self.recipe.seed,
            "device": self.device,
            "code": code_version(STEP_CODE),
        }

    def _standing(
        self, name: str, fields: Mapping[str, Any], folder: Path
    ) -> dict[str, Any] | None:
        """The recorded entry if it may be trusted; else say why not."""
        old = self.ledger.step(name)
        if old is None:
            return self._taken_over(name, fields, folder)
        if old["fingerprint"] != fingerprint(fields):
            console.print(
                f"  made again: {', '.join(differences(old['depends_on'], fields)) or 'fingerprint'} changed",
                highlight=False,
            )
            return self._taken_over(name, fields, folder)
        if not folder.is_dir() or content_hash(folder) != old.get("output_hash"):
            console.print(f"  made again: {folder} was altered or removed since", highlight=False)
            return None
        console.print("  reused")
        return old

    def _offers(
        self, name: str, fields: Mapping[str, Any]
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Donors that have finished this step on the same conditions: their directory, and their entry."""
        for donor in self.donors:
            given = donor.step(name)
            if given and given["fingerprint"] == fingerprint(fields) and given["metrics"]:
                yield donor.path.parent, given

    def _taken_over(
        self, name: str, fields: Mapping[str, Any], folder: Path
    ) -> dict[str, Any] | None:
        """The entry of a donor whose result stands unaltered, with its files: linked, as no step changes a file in place."""
        for donor, given in self._offers(name, fields):
            source = donor / given["output"]
            if source.is_dir() and content_hash(source) == given["output_hash"]:
                with atomic_directory(folder) as temporary:
                    shutil.copytree(source, temporary, copy_function=_link, dirs_exist_ok=True)
                self._copy_samples(donor, given)
                self.ledger.put(given, self.order)
                console.print(f"  taken over from {donor}", highlight=False)
                return dict(given)
        return None

    def _copy_samples(self, donor: Path, entry: Mapping[str, Any]) -> None:
        for file in (donor / "samples").glob(f"{entry['name']}.json*"):
            (self.out / "samples").mkdir(exist_ok=True)
            shutil.copyfile(file, self.out / "samples" / file.name)

    @staticmethod
    def _entry(
        name: str, kind: str, config: Mapping[str, Any], fields: Mapping[str, Any], output: str
    ) -> dict[str, Any]:
        return {
            "name": name,
            "kind": kind,
            "config": dict(config),
            "fingerprint": fingerprint(fields),
            "depends_on": dict(fields),
            "output": output,
            "seconds": 0.0,
            "metrics": {},
            "notes": [],
            "details": {},
            "context": {},
            "samples": "",
        }

    def _measured(self, entry: dict[str, Any], *, with_reference: bool) -> None:
        fields = {
            "evaluate": self.recipe.evaluate.model_dump(mode="json"),
            "data": {
                name: Source.parse(name).fingerprint() for name in self.recipe.evaluate.perplexity
            },
            "tasks": {name: Task.parse(name).fingerprint() for name in self.recipe.evaluate.tasks},
            "baseline": self.hash_of(BASELINE),
            "output": self.hash_of(entry["name"]),
            "device": self.device,
            "code": code_version(MEASURE_CODE),
        }
        kept = not entry.get("samples") or (self.out / entry["samples"]).is_file()
        if entry["metrics"] and entry.get("measured") == fingerprint(fields) and kept:
            return self._card(entry)
        result = measure(
            self.paths[entry["name"]],
            self.recipe.evaluate,
            device=self.device,
            reference=self.reference if with_reference else None,
        )
        entry |= {
            "metrics": result.metrics,
            "context": result.context,
            "measured": fingerprint(fields),
        }
        entry["samples"] = self._samples(entry["name"], result)
        self.ledger.put(entry, self.order)
        self._card(entry)

    def _card(self, entry: Mapping[str, Any]) -> None:
        """A model card beside what a step made; the model that it all began with keeps its own."""
        if entry["name"] != BASELINE:
            model, source = self.recipe.model, self.paths[BASELINE]
            write_card(
                self.paths[entry["name"]],
                entry,
                model,
                source,
                self.ledger.data["command"],
                self.ledger.step(BASELINE),
            )

    def _samples(self, name: str, result: Measurement) -> str:
        """Keep the answers for people and the samples for the gate beside the ledger, which stays readable; the path of the samples."""
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        if result.answers:
            lines = "".join(
                json.dumps(answer, ensure_ascii=False) + "\n" for answer in result.answers
            )
            (folder / f"{name}.jsonl").write_text(lines)
        write_lines(folder / f"{name}.json", result.samples)
        return f"samples/{name}.json"

    def gate(self) -> dict[str, Any]:
        """The gate's verdict on the finished steps."""
        assert self.recipe.gate is not None
        candidate, baseline = (
            self.ledger.step(self.recipe.gate.candidate),
            self.ledger.step(self.recipe.gate.baseline),
        )
        assert candidate is not None
        assert baseline is not None
        return check_gate(
            step_measurement(self.out, candidate),
            step_measurement(self.out, baseline),
            self.recipe.gate,
        )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _named_by(options: BaseModel) -> tuple[set[str], set[str]]:
    """The models and the data that a step's options name, beside its input and the calibration."""
    if isinstance(options, IterateOptions):
        models, texts = _named_by(options.recover)
        return models - {INPUT}, texts | ({options.held_out} if options.held_out else set())
    if isinstance(options, DistillOptions):
        student = (
            options.student.source if isinstance(options.student, StudentFrom) else options.student
        )
        scales = options.qat.scales_from if options.qat else None
        return {name for name in (options.teacher, student, scales) if name}, {
            options.data_of(stage) for stage in options.stages
        }
    return set(), set()


def run_verb(
    kind: str,
    options: BaseModel,
    model: str,
    out: Path,
    context: StepContext,
    fresh: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Run one step on its own, or find that `out` holds exactly its result already.

    Args:
        kind: a key of `RUNNERS`.
        options: its options.
        model: directory, hub id or built-in model that it reads.
        out: the directory to make.
        context: calibration data, seed and device; names in the options are resolved as models.
        fresh: make it again in any case.
        command: what was typed, for the model card.
    """
    if kind != "distill":
        _alone(f"{kind} works")
    source = resolve(model_path(model))
    models, texts = _named_by(options)
    fields = {
        "kind": kind,
        "config": options.model_dump(mode="json", by_alias=True),
        "inputs": {
            str(name): content_hash(resolve(model_path(str(name)))) for name in [model, *models]
        },
        "data": {
            name: Source.parse(name).fingerprint()
            for name in sorted({context.calibration.source, *texts})
        },
        "calibration": vars(context.calibration),
        "seed": context.seed,
        "device": pick_device(context.device),
        "code": code_version(STEP_CODE),
    }
    record, old = out / PROVENANCE, read_provenance(out)
    if (
        not fresh
        and old.get("fingerprint") == fingerprint(fields)
        and old.get("files") == content_hash(out, skip=PROVENANCE)
    ):
        return {"output": str(out), "reused": True, "seconds": 0.0, **old["result"]}
    begin = time.monotonic()
    whole = replace(
        context, resolve=lambda name: resolve(model_path(name)), depends_on=fields, fresh=fresh
    )
    result = RUNNERS[kind](options, source, out, whole)
    told = {"notes": result.notes, "details": result.details}
    if not IS_MAIN:  # of several processes one writes
        return {
            "output": str(out),
            "reused": False,
            "seconds": round(time.monotonic() - begin, 2),
            **told,
        }
    made = {
        "fingerprint": fingerprint(fields),
        "files": content_hash(out, skip=PROVENANCE),
        "result": told,
    }
    write_json(record, json.loads(record.read_text()) | made)
    sizes = {"size_bytes": weight_bytes(out)}
    entry = {
        "name": out.name,
        "kind": kind,
        "config": fields["config"],
        "metrics": sizes,
        "notes": result.notes,
        "context": {},
    }
    write_card(out, entry, model, source, command)
    return {
        "output": str(out),
        "reused": False,
        "seconds": round(time.monotonic() - begin, 2),
        **told,
    }


def _alone(what: str) -> None:
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(
            f"{what} in one process, and {count} were started",
            "distill alone with torchrun or accelerate launch, everything else without",
        )


def run_traces(
    options: TracesOptions, model: str, out: Path, seed: int, device: str, fresh: bool = False
) -> dict[str, Any]:
    """Let a model write traces into the file `out`, or find that it holds exactly them already; the report, which is kept beside it.

    Raises:
        UsageError: `out` is there and was not written so.
    """
    _alone("traces are written")
    source, record = resolve(model_path(model)), out.with_suffix(".report.json")
    old = json.loads(record.read_text()) if record.is_file() else {}
    if out.is_dir() or (out.exists() and not old):
        raise UsageError(
            f"{out}: exists and was not written by edgewright",
            "choose another --out, or remove it yourself",
        )
    fields = {
        "config": options.model_dump(mode="json"),
        "inputs": {model: content_hash(source)},
        "data": {options.prompts: Source.parse(options.prompts).fingerprint()},
        "seed": seed,
        "device": pick_device(device),
        "code": code_version(MEASURE_CODE),
    }
    if (
        not fresh
        and old.get("fingerprint") == fingerprint(fields)
        and out.is_file()
        and old["sha256"] == file_hash(out)
    ):
        return {**old["report"], "reused": True}
    out.parent.mkdir(parents=True, exist_ok=True)
    report = make_traces(
        options, source, fields["inputs"][model], out, seed, fields["device"], fields, fresh
    )
    write_json(
        record,
        {
            "edgewright": __version__,
            "fingerprint": fingerprint(fields),
            **fields,
            "sha256": file_hash(out),
            "report": report,
        },
    )
    return {**report, "reused": False}
