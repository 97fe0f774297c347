"""The verbs that have to do with a device: deploy, targets check, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import Refused, UsageError
from .common import Debug, Json, Model
from .tables import show

__all__ = ["deploy", "serve", "targets_check"]


def deploy(
    artifact: Annotated[Path, typer.Argument(help="directory that `edgewright export` made")],
    target: Annotated[
        str,
        typer.Option("--target", help="device, by name or profile file; see `edgewright targets`"),
    ],
    host: Annotated[str, typer.Option("--host", help="USER@HOST; without it, give --out")] = "",
    port: Annotated[int, typer.Option(help="of its SSH server")] = 22,
    identity: Annotated[
        Path | None, typer.Option(help="private key; default: ssh-agent and the keys in ~/.ssh")
    ] = None,
    known_hosts: Annotated[Path, typer.Option("--known-hosts", help="file of host keys")] = Path(
        "~/.ssh/known_hosts"
    ),
    accept_new_host_key: Annotated[
        bool,
        typer.Option(
            "--accept-new-host-key", help="remember the key of a host that is not known yet"
        ),
    ] = False,
    remote_dir: Annotated[
        str,
        typer.Option(
            "--remote-dir", help="where bundles lie there; relative to the home directory"
        ),
    ] = "edgewright",
    python: Annotated[
        str, typer.Option(help="interpreter there that has numpy and onnxruntime")
    ] = "python3",
    engine: Annotated[
        bool,
        typer.Option(
            "--engine/--no-engine", help="build and time a TensorRT engine there, on a Jetson"
        ),
    ] = True,
    threads: Annotated[
        int | None, typer.Option(help="of ONNX Runtime there; default: all cores")
    ] = None,
    prompt: Annotated[int, typer.Option(help="most prompt tokens of a pass, for the engine")] = 512,
    context: Annotated[
        int, typer.Option(help="most tokens of prompt and answer, for the engine")
    ] = 2048,
    batch: Annotated[int, typer.Option(help="sequences at a time, for the engine")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="go on against the preflight's judgement")
    ] = False,
    back: Annotated[
        bool,
        typer.Option(
            "--rollback", help="make the version before the current one the current one again"
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="write the bundle to this directory and deploy nothing"),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger", help="directory of the ledger; default: the run that the artifact is in"
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy an artifact to a device over SSH, check and measure it there, and enter the figures in the ledger.

    A broken connection is resumed, by itself or by the same command again; the device keeps the version before for --rollback.

    Examples:

        edgewright deploy runs/demo/export-int4 --target jetson-orin-nano-8gb --host ubuntu@192.168.55.1

        edgewright deploy runs/demo/export-int4 --target jetson-orin-nano-8gb --out bundle
    """
    from ..pipeline.deployment import deliver, pack
    from ..targets.bundle import BundleOptions
    from ..targets.deploy import DeployOptions, rollback
    from ..targets.remote import Address

    bundling = BundleOptions(prompt, context, batch)
    if out:
        if host or back:
            raise UsageError(
                "--out writes a bundle and deploys nothing",
                "leave --host and --rollback out, or --out",
            )
        return show(pack(artifact, target, bundling, out), as_json, "bundle")
    if not host:
        raise UsageError(
            "there is no device to deploy to",
            "give --host USER@HOST, or --out DIR for a bundle to carry there yourself",
        )
    options = DeployOptions(remote_dir, python, engine, threads, force)
    address = Address.parse(
        host, port=port, identity=identity, known_hosts=known_hosts, accept_new=accept_new_host_key
    )
    if back:
        return show(rollback(artifact.resolve().name, address, options), as_json, "rollback")
    show(deliver(artifact, target, address, bundling, options, ledger), as_json, "deploy")


def targets_check(
    model: Model,
    target: Annotated[str, typer.Option("--target", help="device, by name or profile file")],
    format: Annotated[
        str, typer.Option(help="onnx, ort, tensorrt, edge-llm, gguf or triton")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(help="default: what the checkpoint has, fp16 if it is not quantized"),
    ] = None,
    context: Annotated[int, typer.Option(help="tokens of KV cache on the device")] = 2048,
    batch: Annotated[int, typer.Option(help="sequences at a time on the device")] = 1,
    jetpack: Annotated[str | None, typer.Option(help="release on the device, such as 6.2")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a device cannot do with a model, why, and the nearest thing that it can. Exit code 3 when it cannot run.

    Examples:

        edgewright targets check /models/Qwen2.5-3B --target jetson-orin-nano-8gb --precision int4

        edgewright targets check int4 --target jetson-orin-nx-16gb --format edge-llm
    """
    from ..pipeline.deployment import verdict

    found = verdict(model, target, format, precision, context, batch, jetpack)
    show(found, as_json, "verdict")
    if any(violation["severity"] == "refuse" for violation in found["violations"]):
        raise Refused(
            f"{model} cannot run on {target} like this",
            "see the last column for the nearest thing that can",
        )


def serve(
    artifact: Annotated[Path, typer.Argument(help="directory that `edgewright export` made")],
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to listen on")] = 8000,
    threads: Annotated[int | None, typer.Option(help="of ONNX Runtime; default: all cores")] = None,
    max_batch: Annotated[int, typer.Option(help="most sequences at a time")] = 16,
    max_waiting: Annotated[int, typer.Option(help="most requests that wait; more get 429")] = 256,
    context: Annotated[
        int | None,
        typer.Option(help="most tokens of prompt and answer; default: the model's limit"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve an artifact over HTTP: OpenAI-style completions and chat, streamed or whole, batched as requests come.

    Example:

        edgewright serve runs/demo/export-int4 --port 8000
    """
    try:
        import uvicorn

        from ..targets.serving.server import create_app
        from ..targets.serving.service import open_service
    except ImportError as error:
        raise UsageError(
            f"serving needs {error.name}, which is not installed", "pip install 'edgewright[serve]'"
        ) from error
    service = open_service(
        artifact, threads=threads, max_batch=max_batch, max_waiting=max_waiting, context=context
    )
    uvicorn.run(create_app(service), host=host, port=port, log_level="warning")
