"""The verbs that bring a model to a device: export, deploy, targets check, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..benchmarks.options import EvaluateOptions
from ..console import console
from ..errors import Refused, UsageError
from ..export.options import ExportOptions
from ..steps.options import Calibration, Execution
from ..steps.places import Reads
from ..targets.options import (
    AcceptanceOptions,
    BundleOptions,
    CheckOptions,
    DeployOptions,
    HostOptions,
)
from ..targets.serving.options import ServeLimits, ServeOptions
from .common import conclude, required, step, step_context
from .options import Expand
from .verb import Outcome, verb
from .verb_options import DeployInputs, Model, Output, TargetDevice

if TYPE_CHECKING:
    from ..targets.address import Address

__all__ = ["check", "deploy", "export", "serve"]

Artifact = Annotated[Path, Reads(), typer.Argument(help="directory that `edgewright export` wrote")]
SCORED = ("tasks", "limit", "max_new_tokens", "shots", "allow_code")
"""Options of tasks that are scored on a device."""
ROWS_TO_COMPARE = 16
"""Rows of text that the logits of an artifact are compared on."""


@verb("export")
def export(
    model: Model,
    output: Output,
    options: ExportOptions,
    calibration: Annotated[Calibration, Expand(skip=("samples",))],
    execution: Execution,
) -> Outcome:
    """Export a model, and check that it computes what the torch model does. Exit code 4 if not.

    Examples:

        edgewright export int4 --precision int4 --out int4-onnx

        edgewright export int4 --format edge-llm --precision int4 --out for-edge-llm
    """
    rows = calibration.model_copy(update={"samples": ROWS_TO_COMPARE})
    return step("export", options, model, output, step_context(rows, execution))


def _with_ledger(given: dict[str, Any]) -> dict[str, Any]:
    """A deployment that names no ledger writes to that of the artifact's run."""
    if given.get("ledger") or given.get("out") or given.get("rollback") or not given.get("host"):
        return given
    from ..pipeline.bundling import ledger_of

    return {**given, "ledger": ledger_of(Path(given["artifact"]))}


@verb("deploy", prepare=_with_ledger)
def deploy(
    artifact: Artifact,
    device: Annotated[TargetDevice, Expand(require=("target",))],
    ssh: HostOptions,
    options: DeployOptions,
    bundling: BundleOptions,
    accepting: AcceptanceOptions,
    evaluate: Annotated[EvaluateOptions, Expand(only=SCORED)],
    inputs: DeployInputs,
) -> Outcome:
    """Copy an artifact to a device over SSH, check, measure and judge it there, and record all.

    The new version answers prompts and tasks on the device before it is used. Exit code 5 if it is
    rejected: the version before stays in use. A broken connection is resumed, by itself or by the
    same command again. The device keeps the previous version for --rollback.

    Examples:

        edgewright deploy runs/demo/export-int4 --target jetson-orin-nano-8gb
        --host ubuntu@192.168.55.1

        edgewright deploy runs/demo/export-int4 --target jetson-orin-nano-8gb --out bundle

        edgewright deploy int4-gguf --target jetson-orin-nano-8gb --host ubuntu@192.168.55.1
        --reference int4 --tasks qa:gsm8k.jsonl --baseline host.json --policy gate.yaml

        edgewright deploy runs/demo/export-int4 --target jetson-orin-nano-8gb --rehearse
    """
    if inputs.rehearse:
        return _rehearsed(artifact, str(device.target), bundling, inputs)
    target = str(device.target)
    if inputs.out:
        if ssh.host or inputs.rollback:
            raise UsageError(
                "--out writes a bundle and deploys nothing",
                "leave --host and --rollback out, or --out",
            )
        return _bundled(artifact, target, bundling, inputs.out)
    from ..pipeline.acceptance import Yardstick  # torch, which a bundle does not need
    from ..pipeline.deployment import deliver
    from ..targets.artifact_files import artifact_name
    from ..targets.deploy import rollback

    address = _address(ssh)
    if inputs.rollback:
        return Outcome(rollback(artifact_name(artifact), address, options), "rollback")
    ledger = required(inputs.ledger, "--ledger", "give the directory of a ledger")
    yardstick = Yardstick(evaluate, inputs.policy, inputs.baseline)
    found = deliver(artifact, target, address, bundling, options, accepting, yardstick, ledger)
    return Outcome(found, "deploy", lambda: conclude(found["gate"]) if found["gate"] else None)


def _bundled(artifact: Path, target: str, bundling: BundleOptions, out: Path) -> Outcome:
    """Write a bundle to a directory."""
    from ..pipeline.bundling import pack

    return Outcome(pack(artifact, target, bundling, out), "bundle")


def _address(ssh: HostOptions) -> Address:
    """The address of the device."""
    from ..targets.address import Address

    if not ssh.host:
        raise UsageError(
            "there is no device to deploy to",
            "give --host USER@HOST, or --out DIR for a bundle to carry there yourself",
        )
    return Address.parse(
        ssh.host,
        port=ssh.port,
        identity=ssh.identity,
        known_hosts=ssh.known_hosts,
        accept_new=ssh.accept_new_host_key,
    )


def _rehearsed(
    artifact: Path, target: str, bundling: BundleOptions, inputs: DeployInputs
) -> Outcome:
    """Rehearse a deployment; exit code 3 if it would fail."""
    from ..pipeline.rehearsal import refuse_faults, rehearse_deployment

    found = rehearse_deployment(artifact, target, bundling, inputs.jetpack)
    return Outcome(found, "rehearsal", lambda: refuse_faults(found))


@verb("check")
def check(
    model: Model,
    device: Annotated[TargetDevice, Expand(require=("target",))],
    wanted: Annotated[ExportOptions, Expand(only=("format",))],
    options: CheckOptions,
) -> Outcome:
    """Say what a device cannot do with a model, why, and the nearest thing that it can.

    Exit code 3 if the device cannot run the model.

    Examples:

        edgewright targets check /models/Qwen2.5-3B --target jetson-orin-nano-8gb --precision int4

        edgewright targets check int4 --target jetson-orin-nx-16gb --format edge-llm
    """
    from ..pipeline.device_check import verdict

    target = str(device.target)
    found = verdict(model, target, wanted.format, options)

    def judge() -> None:
        if any(violation["severity"] == "refuse" for violation in found["violations"]):
            raise Refused(
                f"{model} cannot run on {target} like this",
                "see the last column for the nearest thing that can",
            )

    return Outcome(found, "verdict", judge)


@verb("serve", has_json=False)
def serve(artifact: Artifact, options: ServeOptions, limits: ServeLimits) -> None:
    """Serve an artifact over HTTP with OpenAI-style completions and chat.

    Answers are streamed or whole; requests that arrive together are batched. Ctrl-C or SIGTERM
    stops the server after the answers that are running.

    Example:

        edgewright serve runs/demo/export-int4 --port 8000
    """
    try:
        from ..targets.serving import run
        from ..targets.serving.keys import read_keys
        from ..targets.serving.service import open_service
    except ImportError as error:
        raise UsageError(
            f"serving needs {error.name}, which is not installed", "pip install 'edgewright[serve]'"
        ) from error
    keys = read_keys(options.api_key_file)
    console.print(f"loading {artifact}", highlight=False, markup=False)
    model = options.model_dump(include={"threads", "max_batch", "context", "prefix_cache_mb"})
    run.serve(open_service(artifact, **model, limits=limits), options, keys)
