"""The verbs that measure and judge: bench, gate, compare, sweep, report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .common import Debug, Device, Json, Seed, checked, conclude, resumable
from .tables import show

__all__ = ["bench", "compare", "gate", "report", "sweep"]


def bench(
    path: Annotated[Path, typer.Argument(help="checkpoint or artifact directory")],
    perplexity: Annotated[
        list[str] | None, typer.Option(help="SOURCE to score; may be given more than once")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            help="comma-separated: reasoning, gym:NAME, qa:FILE, choice:FILE, code:FILE, lm-eval:NAME or lm-eval:FILE.yaml"
        ),
    ] = "",
    limit: Annotated[int, typer.Option(help="problems a task")] = 200,
    shots: Annotated[
        int | None,
        typer.Option(
            help="worked examples shown by qa, choice and lm-eval; default: the task's own"
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="let code: tasks run what the model writes, in a sandbox"
        ),
    ] = False,
    windows: Annotated[int, typer.Option(help="rows a perplexity source")] = 128,
    seq_len: Annotated[int, typer.Option(help="tokens a row")] = 512,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 160,
    reference: Annotated[
        Path | None, typer.Option(help="model to compare with: KL and top-1 agreement")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="time it in a process of its own")
    ] = False,
    prompt: Annotated[int, typer.Option(help="tokens of the prompt that is timed")] = 64,
    new_tokens: Annotated[int, typer.Option(help="tokens decoded after it")] = 64,
    runs: Annotated[
        int, typer.Option(help="timed repetitions, after as many as it takes until they are stable")
    ] = 5,
    batches: Annotated[
        str, typer.Option(help="comma-separated: time these numbers of prompts at a time too")
    ] = "",
    prompts: Annotated[
        str, typer.Option(help="comma-separated: time prompts of these lengths too")
    ] = "",
    against: Annotated[
        Path | None,
        typer.Option(help="model to time in turns with this one: the ratio, and how sure it is"),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="write the measurement as JSON, for `edgewright gate`")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a checkpoint or an artifact.

    Examples:

        edgewright bench int4 --perplexity text:wiki.txt --reference /models/Qwen2.5-0.5B --latency

        edgewright bench int4-onnx --tasks reasoning --limit 200 --save int4.json

        edgewright bench int4-onnx --latency --against fp32-onnx --runs 15

        edgewright bench int4-onnx --tasks qa:gsm8k.jsonl,choice:arc.jsonl,lm-eval:hellaswag --shots 4 --limit 500
    """
    from ..benchmarks.measure import EvaluateOptions, bench_path

    options = checked(
        EvaluateOptions,
        tasks=[t for t in tasks.split(",") if t],
        limit=limit,
        windows=windows,
        seq_len=seq_len,
        shots=shots,
        allow_code=allow_code,
        max_new_tokens=max_new_tokens,
        perplexity=perplexity or [],
        latency=_numbers(
            prompt=prompt, new_tokens=new_tokens, runs=runs, batches=batches, prompts=prompts
        )
        if latency or against
        else None,
    )
    show(bench_path(path, options, device, reference, save, against), as_json, "bench")


def _numbers(**options: int | str) -> dict[str, object]:
    """Options as they are checked: a string is a list of numbers, whatever is wrong with it."""
    return {
        name: [part for part in value.split(",") if part] if isinstance(value, str) else value
        for name, value in options.items()
    }


def gate(
    candidate: Annotated[str, typer.Argument(help="measurement file, or RUN:STEP")],
    baseline: Annotated[str, typer.Option(help="measurement file, or RUN:STEP")],
    policy: Annotated[
        Path | None,
        typer.Option(
            help="YAML: confidence, inconclusive, and limits: metric -> {min_ratio, max_ratio, max_drop, min, max}"
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="also write JUnit XML, for a CI server")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="also write Markdown, for a pull request")
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline", help="do not compare: make the candidate the BASELINE file"
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a candidate with a baseline under a policy. Exit code 5 when a limit is broken beyond doubt.

    Accuracies and perplexities are decided on paired bootstrap intervals: pass, fail or inconclusive. What inconclusive
    does to the exit code is the policy's `inconclusive: pass|warn|fail`; warn, the default, gives 0 and says so.

    Examples:

        edgewright gate new.json --baseline main.json --policy gate.yaml --junit gate.xml --markdown gate.md

        edgewright gate new.json --baseline main.json --update-baseline

        edgewright gate runs/demo:export-int4 --baseline runs/demo:baseline
    """
    from ..benchmarks.gate.gate import check_gate
    from ..benchmarks.gate.policy import load_policy
    from ..benchmarks.gate.result_files import junit_xml, markdown_text
    from ..benchmarks.measurement_files import load_measurement, replace_baseline
    from ..checkpoints.atomic_files import write_text

    new = load_measurement(candidate)
    if update_baseline:
        if junit or markdown:
            raise UsageError(
                "--update-baseline compares nothing, so that there is nothing to write",
                "leave --junit and --markdown out",
            )
        return show({"written": [str(replace_baseline(new, baseline))]}, as_json, "written")
    result = check_gate(new, load_measurement(baseline), load_policy(policy))
    for file, render in ((junit, junit_xml), (markdown, markdown_text)):
        if file:
            write_text(file, render(result))
    show(result, as_json, "gate")
    conclude(result)


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="directory of a run")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html and report.md of a run again, from its ledger.

    Example:

        edgewright report runs/demo
    """
    from ..benchmarks.report.report import write_report

    show({"written": [str(p) for p in write_report(run_dir)]}, as_json, "written")


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="directories of runs, or RUN:STEP; the first is the yardstick",
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="also write a page with figures")] = None,
    markdown: Annotated[Path | None, typer.Option(help="also write Markdown")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Set runs beside each other: the step that each is about (its gate's candidate, or its last), and what differs beyond doubt.

    Examples:

        edgewright compare runs/demo runs/qat --html compare.html

        edgewright compare runs/demo:distill runs/demo:quantize
    """
    from ..benchmarks.report.compare import compare_runs, write_comparison

    found = compare_runs(runs)
    write_comparison(found, html, markdown, shlex.join(["edgewright", *sys.argv[1:]]))
    show(found, as_json, "compare")


def sweep(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    vary: Annotated[
        list[str],
        typer.Option(help="KEY=VALUE,VALUE: the key as in --set; may be given more than once"),
    ],
    trials: Annotated[
        int, typer.Option(help="combinations to try; all of them, if there are no more")
    ] = 20,
    budget: Annotated[
        float | None, typer.Option(help="minutes after which no trial begins")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="metric of the last step, :min or :max if need be; default: accuracy, decode_tok_s/p50 and size_bytes"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="directory of the sweep; default runs/NAME-sweep")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="override KEY=VALUE of the recipe, for every trial"),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe with varied options; show what nothing beats in accuracy, latency and size. The same command resumes.

    Trials share every step that they have in common. With a target, `predicted/decode_tok_s`, `predicted/ttft_ms` and
    `predicted/total_bytes` are metrics too, and what the target cannot run is not run.

    Examples:

        edgewright sweep recipes/demo.yaml --vary steps.prune.heads=0.25,0.5 --vary steps.quantize.group_size=32,64,128

        edgewright sweep recipes/demo.yaml --vary steps.quantize.method=gptq,awq --objective accuracy/reasoning --objective size_bytes
    """
    from ..pipeline.recipe_file import load_recipe
    from ..pipeline.sweep import run_sweep
    from ..pipeline.sweep_objectives import Objective
    from ..pipeline.sweep_options import SweepOptions, parse_vary

    options = SweepOptions(
        parse_vary(vary), tuple(map(Objective.parse, objective or ())), trials, budget, seed
    )
    folder = out or Path("runs") / f"{load_recipe(recipe, settings or []).name}-sweep"
    with resumable():
        found = run_sweep(
            recipe, settings or [], options, folder, shlex.join(["edgewright", *sys.argv[1:]])
        )
    show(found, as_json, "sweep")
