"""The verbs that measure and judge: bench, gate, compare, sweep, report, kv-study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..benchmarks.endpoint.options import LoadOptions
from ..benchmarks.endpoint.url import is_url
from ..benchmarks.kv_cache.options import KvOptions
from ..benchmarks.options import EvaluateOptions
from ..console import console
from ..errors import UsageError
from ..pipeline.sweep_options import SweepOptions
from ..steps.options import Calibration, Execution
from ..steps.places import Reads, Writes
from .common import conclude, directory_of_run, required
from .next_commands import after_bench
from .options import Expand
from .server_inputs import check_server_options, refuse_load
from .verb import Outcome, command_line, verb
from .verb_options import (
    BenchInputs,
    CompareOutput,
    GateInputs,
    Model,
    RecipeFile,
    SweepInputs,
)

__all__ = ["bench", "compare", "gate", "kv_study", "report", "sweep"]


def _against_needs_latency(given: dict[str, Any]) -> dict[str, Any]:
    """With --against there is something to time, also without --latency."""
    if given.get("against") is None or given.get("latency"):
        return given
    return {**given, "latency": True}


def _keeps_answers(given: Mapping[str, Any]) -> bool:
    """Whether finished answers outlive an interruption; of a server, nobody knows the model."""
    return bool(given.get("save")) and not is_url(str(given["path"]))


@verb("bench", resumable=_keeps_answers, prepare=_against_needs_latency)
def bench(
    path: Annotated[
        str,
        Reads(),
        typer.Argument(
            help="artifact directory, model directory, hub id, builtin:tiny-reasoner, or URL of a "
            "server"
        ),
    ],
    options: EvaluateOptions,
    load: LoadOptions,
    inputs: BenchInputs,
    execution: Annotated[Execution, Expand(only=("device", "memory_check"))],
) -> Outcome:
    """Measure accuracy, perplexity and latency of a model, or tasks and latency of a server.

    Examples:

        edgewright bench int4 --perplexity text:wiki.txt --reference /models/Qwen2.5-0.5B --latency

        edgewright bench int4-onnx --tasks reasoning --limit 200 --save int4.json

        edgewright bench int4-onnx --latency --against fp32-onnx --runs 15

        edgewright bench int4-onnx --tasks qa:gsm8k.jsonl,choice:arc.jsonl,lm-eval:hellaswag
        --shots 4 --limit 500

        edgewright bench http://board:8080 --latency --concurrency 1,4,16 --save board.json

        edgewright bench http://board:8080 --tasks qa:gsm8k.jsonl --limit 100 --save board.json
    """
    if is_url(str(path)):
        check_server_options(options, inputs, execution)
        return Outcome(_server(str(path), options, load, inputs.save), "server")
    refuse_load(load)
    from ..pipeline.bench import bench_path

    found = bench_path(
        Path(path),
        options,
        execution.device,
        inputs.reference,
        inputs.save,
        inputs.against,
        memory_check=execution.memory_check,
    )
    return Outcome(found, "bench", then=after_bench(inputs.save))


def _server(
    url: str, options: EvaluateOptions, load: LoadOptions, save: Path | None
) -> dict[str, Any]:
    """The measurement of a server."""
    if options.tasks:
        from ..benchmarks.endpoint.measure import bench_url  # late: it imports torch

        return bench_url(url, options, load, save)
    from ..benchmarks.endpoint.latency import bench_server

    return bench_server(url, load, save)


@verb("gate")
def gate(
    candidate: Annotated[str, Reads(), typer.Argument(help="measurement file, or RUN:STEP")],
    inputs: GateInputs,
) -> Outcome:
    """Compare a candidate with a baseline. Exit code 5 if a limit of the policy is violated.

    Accuracies and perplexities are decided on paired bootstrap intervals: pass, fail or
    inconclusive. The policy's `inconclusive: pass|warn|fail` sets what inconclusive does to the
    exit code; the default, warn, gives 0 and prints a warning.

    Examples:

        edgewright gate new.json --baseline main.json --policy gate.yaml --junit gate.xml
        --markdown gate.md --badge gate.svg --comment int4

        edgewright gate new.json --baseline main.json --update-baseline

        edgewright gate runs/demo:export-int4 --baseline runs/demo:baseline
    """
    from ..benchmarks.gate.gate import check_gate
    from ..benchmarks.gate.policy import load_policy
    from ..benchmarks.measurement_files import load_measurement, replace_baseline

    new = load_measurement(candidate)
    if inputs.update_baseline:
        if inputs.junit or inputs.markdown or inputs.badge or inputs.comment:
            raise UsageError(
                "--update-baseline compares nothing, so there is no result to write",
                "leave --junit, --markdown, --badge and --comment out",
            )
        return Outcome({"written": [str(replace_baseline(new, inputs.baseline))]}, "written")
    old = load_measurement(inputs.baseline)
    result = check_gate(new, old, load_policy(inputs.policy))
    return Outcome(_told(result, new, old, inputs), "gate", lambda: conclude(result))


def _told(
    result: dict[str, Any], new: dict[str, Any], old: dict[str, Any], inputs: GateInputs
) -> dict[str, Any]:
    """Write the result of a gate to files and to a pull request, as asked.

    Returns:
        The result, with what became of the comment.
    """
    from ..benchmarks.gate.badge import badge_text
    from ..benchmarks.gate.comments import publish
    from ..benchmarks.gate.pull_request import markdown_text
    from ..benchmarks.gate.result_files import junit_xml
    from ..benchmarks.measurement_files import write_text

    badge = badge_text(result, inputs.badge) if inputs.badge else ""
    markdown = markdown_text(result, new, old)
    texts = ((inputs.junit, junit_xml(result)), (inputs.markdown, markdown), (inputs.badge, badge))
    for file, text in texts:
        if file:
            write_text(file, text)
    if not inputs.comment:
        return result
    published = publish(markdown, inputs.comment)
    if published.note:
        console.print(published.note, highlight=False, markup=False, soft_wrap=True)
    return {**result, "comment": asdict(published)}


@verb("report")
def report(
    run_dir: Annotated[
        Path, Writes("report"), typer.Argument(metavar="RUN", help="directory of a run")
    ],
) -> Outcome:
    """Write report.html and report.md of a run again, from its ledger.

    Example:

        edgewright report runs/demo
    """
    from ..benchmarks.report.report import write_report

    return Outcome({"written": [str(p) for p in write_report(run_dir)]}, "written")


@verb("compare")
def compare(
    runs: Annotated[
        list[str],
        Reads(),
        typer.Argument(
            metavar="RUN RUN...",
            help="directories of runs, or RUN:STEP; the others are compared with the first",
        ),
    ],
    output: CompareOutput,
) -> Outcome:
    """Compare runs, and say which differences are statistically significant.

    Of each run the candidate of its gate is compared, or its last step, unless RUN:STEP names one.

    Examples:

        edgewright compare runs/demo runs/qat --html compare.html

        edgewright compare runs/demo:distill runs/demo:quantize
    """
    from ..benchmarks.report.compare import compare_runs, write_comparison

    found = compare_runs(runs)
    write_comparison(found, output.html, output.markdown, command_line())
    return Outcome(found, "compare")


def _with_directory(given: dict[str, Any]) -> dict[str, Any]:
    """A sweep has a directory of its recipe's name, unless another is given."""
    return directory_of_run(given, "{}-sweep")


@verb("sweep", resumable=True, prepare=_with_directory)
def sweep(recipe: RecipeFile, options: SweepOptions, inputs: SweepInputs) -> Outcome:
    """Run a recipe with varied options; show the trials that no other trial beats in every metric.

    Trials share the steps that they have in common. With a target, `predicted/decode_tok_s`,
    `predicted/ttft_ms` and `predicted/total_bytes` are metrics too, and what the target cannot run
    is skipped. Run the same command again to resume after an interruption.

    Examples:

        edgewright sweep demo --vary steps.prune.heads=0.25,0.5
        --vary steps.quantize.group_size=32,64,128

        edgewright sweep demo --vary steps.quantize.method=gptq,awq
        --objective accuracy/reasoning --objective size_bytes
    """
    from ..pipeline.sweep import run_sweep

    folder = required(inputs.out, "--out", "give the directory of the sweep")
    found = run_sweep(recipe, list(inputs.settings), options, folder, command_line())
    return Outcome(found, "sweep")


@verb("kv-study")
def kv_study(
    model: Model,
    options: KvOptions,
    calibration: Annotated[
        Calibration, Expand(skip=("seq_len", "bad_rows"), defaults={"samples": 32})
    ],
    execution: Execution,
) -> Outcome:
    """Measure how much accuracy an INT8 or INT4 KV cache costs, and how many bytes it saves.

    Nothing is written. --seq-len and --bad-rows hold for calibration and for the rows that are
    scored.

    Examples:

        edgewright kv-study /models/Qwen2.5-0.5B --perplexity text:wiki.txt
        --calibration text:wiki-train.txt --context 8192

        edgewright kv-study builtin:tiny-reasoner --tasks reasoning --bits 8 --json
    """
    from ..benchmarks.kv_cache.study import kv_study as study
    from ..benchmarks.memory import measurement_bytes
    from ..checkpoints.config import model_path, resolve
    from ..checkpoints.loading import pick_device
    from ..steps.context import CalibrationData
    from ..steps.memory_check import require_memory
    from ..steps.own_text import OwnText

    folder = resolve(model_path(model))
    data = CalibrationData(
        calibration.source, calibration.samples, options.seq_len, options.bad_rows
    )
    if execution.memory_check:
        scored = EvaluateOptions(perplexity=("",), latency=None, dtype="float32")
        require_memory(f"studying {folder.name}", measurement_bytes(folder, scored))
    own = OwnText(folder, pick_device(execution.device), execution.seed)
    data = data.resolved(own, needed="static" in options.scales)
    rows = data.rows(folder, execution.seed)
    found = study(folder, options, rows, execution.device)
    return Outcome({**found, "notes": [*data.notes(rows), *found["notes"]]}, "kv")
