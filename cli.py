"""The command line: parse, call, print. Results go to standard output, progress and messages to standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .commands.common import (
    CALIBRATION,
    CalibrationSource,
    Debug,
    Device,
    Fresh,
    Json,
    Model,
    Out,
    Samples,
    Seed,
    SeqLen,
    Target,
    checked,
    run_step,
    run_whole,
)
from .commands.compress import distill, iterate, prune, quantize, traces
from .commands.deliver import deploy, serve, targets_check
from .commands.measure import bench, compare, gate, report, sweep
from .commands.tables import show
from .console import complain, console
from .errors import EdgewrightError

app = typer.Typer(
    name="edgewright",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
targets_app = typer.Typer(invoke_without_command=True)
app.add_typer(targets_app, name="targets")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Make a Hugging Face language model fit, and run well, on an NVIDIA Jetson Orin.

    Exit codes: 0 done, 2 bad usage or recipe, 3 refused by plan or target, 4 parity failed, 5 gate failed, 1 anything else.
    """
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    out: Annotated[
        Path | None, typer.Option("--out", help="directory of the run; default runs/NAME")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="override KEY=VALUE, e.g. model=DIR or steps.prune.heads=0.5"),
    ] = None,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: every step made, measured and entered in the ledger. The same command resumes after an interruption.

    Examples:

        edgewright run recipes/demo.yaml --out runs/demo

        edgewright run recipes/demo.yaml --set model=/models/Qwen2.5-0.5B --set evaluate.limit=50 --out runs/qwen
    """
    from .pipeline.forecast import refuse
    from .pipeline.plan import plan_recipe
    from .pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, settings or [])
    if dry_run:
        rows = plan_recipe(loaded)
        show({"target": loaded.target, "rows": rows}, as_json, "plan")
        return refuse(rows)
    folder = out or Path("runs") / loaded.name
    run_whole(loaded, folder, fresh, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="directory of the run")] = Path("runs/demo"),
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the whole chain on the embedded 7 M reasoning model: minutes on two cores, no network.

    Example:

        edgewright demo --out runs/demo
    """
    from .pipeline.recipe import builtin_recipe, load_recipe

    run_whole(load_recipe(builtin_recipe("demo")), out, fresh, as_json)


@app.command()
def plan(
    what: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="a recipe file, or a model")],
    target: Target = None,
    context: Annotated[int, typer.Option(help="tokens of KV cache on the device")] = 2048,
    batch: Annotated[int, typer.Option(help="sequences at a time on the device")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="override KEY=VALUE of a recipe")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a recipe or model will need and what the device will give, from config.json alone. Exit code 3 when it cannot run.

    Examples:

        edgewright plan recipes/demo.yaml

        edgewright plan /models/Qwen2.5-3B --target jetson-orin-nano-8gb --context 4096

        edgewright plan /models/Qwen2.5-3B --target all
    """
    from .pipeline.forecast import ALL_TARGETS, plan_model, refuse

    if what.endswith((".yaml", ".yml")):
        from .pipeline.plan import plan_recipe  # late: its steps import torch, which takes seconds
        from .pipeline.recipe import load_recipe

        extra = [f"target={target}"] if target else []
        recipe = load_recipe(Path(what), [*(settings or []), *extra])
        target, rows = recipe.target, plan_recipe(recipe, context, batch)
    else:
        rows = plan_model(what, target, context, batch)
    show({"target": target, "context": context, "batch": batch, "rows": rows}, as_json, "plan")
    if target != ALL_TARGETS:  # a survey of the boards refuses nothing
        refuse(rows)


for _verb in (
    prune,
    traces,
    distill,
    iterate,
    quantize,
    bench,
    gate,
    compare,
    sweep,
    report,
    deploy,
    serve,
):
    app.command()(_verb)


@app.command()
def export(
    model: Model,
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            help="onnx: standard operators only, with a KV cache; ort: ONNX Runtime's own; tensorrt, triton, edge-llm, gguf: see "
            "docs/deployment.md"
        ),
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, bf16 (onnx, tensorrt), int4 (from a GPTQ or AWQ checkpoint), int8 (from SmoothQuant), int8-dynamic, "
            "int4-a8 (ort: inputs in 8 bits)"
        ),
    ] = "fp32",
    logits: Annotated[
        str,
        typer.Option(
            help="all, or last: of the last position only, which is what generating needs"
        ),
    ] = "all",
    window: Annotated[
        int, typer.Option(help="positions that the KV cache keeps beside the sinks; 0: all")
    ] = 0,
    sinks: Annotated[int, typer.Option(help="first positions that a windowed cache keeps")] = 4,
    calibration: CalibrationSource = CALIBRATION,
    seq_len: SeqLen = 512,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export to ONNX with a KV cache, and prove it equal to the torch model. Exit code 4 when it is not.

    Examples:

        edgewright export int4 --precision int4 --out int4-onnx

        edgewright export int4 --format edge-llm --precision int4 --out for-edge-llm
    """
    from .export.step import ExportOptions

    options = checked(
        ExportOptions, format=format, precision=precision, logits=logits, window=window, sinks=sinks
    )
    run_step(
        "export", options, model, out, (calibration, 16, seq_len, seed, device), fresh, as_json
    )


@app.command("kv-study")
def kv_study(
    model: Model,
    perplexity: Annotated[
        list[str] | None, typer.Option(help="SOURCE to score; may be given more than once")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="comma-separated tasks with a verifier: reasoning")
    ] = "",
    limit: Annotated[int, typer.Option(help="problems a task")] = 200,
    windows: Annotated[int, typer.Option(help="rows a perplexity source")] = 64,
    seq_len: Annotated[int, typer.Option(help="tokens a row, to calibrate and to score")] = 256,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 160,
    bits: Annotated[str, typer.Option(help="comma-separated, of 8 and 4")] = "8,4",
    scales: Annotated[
        str,
        typer.Option(help="comma-separated: static (one a head), dynamic (one a token and head)"),
    ] = "static,dynamic",
    context: Annotated[
        list[int] | None,
        typer.Option(help="tokens to tell its bytes for; may be given more than once"),
    ] = None,
    calibration: CalibrationSource = CALIBRATION,
    samples: Samples = 32,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what an INT8 or INT4 KV cache would cost a checkpoint in accuracy, and save in bytes. Nothing is written.

    Examples:

        edgewright kv-study /models/Qwen2.5-0.5B --perplexity text:wiki.txt --calibration text:wiki-train.txt --context 8192

        edgewright kv-study builtin:tiny-reasoner --tasks reasoning --bits 8 --json
    """
    from .benchmarks.kv_cache.study import KvOptions
    from .benchmarks.kv_cache.study import kv_study as study
    from .checkpoints.config import model_path, resolve
    from .steps.context import CalibrationData

    options = checked(
        KvOptions,
        bits=[int(b) if b.isdigit() else b for b in bits.split(",")],
        scales=scales.split(","),
        perplexity=perplexity or [],
        windows=windows,
        seq_len=seq_len,
        tasks=[t for t in tasks.split(",") if t],
        limit=limit,
        max_new_tokens=max_new_tokens,
        **({"contexts": context} if context else {}),
    )
    folder, data = resolve(model_path(model)), CalibrationData(calibration, samples, seq_len)
    rows = data.rows(folder, seed)
    for note in data.shortfall(rows):
        console.print(note, highlight=False)
    show(study(folder, options, rows, device), as_json, "kv")


@targets_app.callback()
def targets(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the devices edgewright knows.

    Examples:

        edgewright targets

        edgewright targets show jetson-orin-nano-8gb
    """
    if context.invoked_subcommand is None:
        from .targets.profile import list_targets

        show([t.model_dump(mode="json") for t in list_targets()], as_json, "targets")


@targets_app.command("show")
def targets_show(name: str, as_json: Json = False, debug: Debug = False) -> None:
    """Show one device: memory, bandwidth, power modes, software, rules and sources."""
    from .targets.profile import load_target

    show(load_target(name).model_dump(mode="json"), as_json, "target")


targets_app.command("check")(targets_check)


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Check this installation: versions, extras, threads, disk, and that each engine really runs.

    Example:

        edgewright doctor
    """
    from .commands.doctor import examine

    checks = examine()
    show(checks, as_json, "doctor")
    if not all(c["ok"] for c in checks if c["required"]):
        raise EdgewrightError(
            "something that edgewright needs is missing",
            "pip install edgewright, in a fresh environment",
        )


def main() -> None:
    """Run the command line; turn an error into one message and its exit code."""
    try:
        app()
    except Exception as error:  # libraries raise what they like
        if "--debug" in sys.argv:
            raise
        sys.exit(complain(error))


if __name__ == "__main__":
    main()
