"""Deploy an artifact over SSH: copy its bundle to a device, verify it, measure and judge it there.

The link `current` on the device changes in one rename, and only after the new version was
verified, has generated the expected tokens, has its engine, and was accepted (`acceptance/`). So a
broken connection leaves the device with the old version or with the new one, never with a mixture.
Running the same command again resumes the copy where it stopped, and copies nothing if the device
already has this version. `remote_versions.py` describes the directories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.config import read_architecture
from ..errors import UsageError
from .address import Address
from .bundle import Bundle
from .deploy_job import Acceptance, DeployJob, Deployment, say
from .options import DeployOptions
from .profile import Target
from .remote import ConnectionDropped, Device, connected
from .remote_versions import RemoteVersions
from .runtimes.interface import DeviceRuntime, RunSettings
from .runtimes.onnx import OnnxRuntime

__all__ = ["deploy", "rollback"]

ATTEMPTS = 3
PAUSE_SECONDS = 1.0


def deploy(
    bundle: Bundle,
    artifact: Path,
    target: Target,
    address: Address,
    options: DeployOptions,
    runtime: DeviceRuntime | None = None,
    acceptance: Acceptance | None = None,
) -> Deployment:
    """Copy a bundle to a device, install it, measure it there, and judge it.

    If the connection breaks, it is made again, at most twice. The copy then resumes, and answers
    that have arrived are not asked for again.

    Args:
        bundle: what is deployed.
        artifact: the directory that it was made from.
        target: the target that the bundle was made for.
        address: address of the device.
        options: what is done there.
        runtime: what runs the bundle there; None: ONNX Runtime.
        acceptance: what the version has to show; None: it is not asked anything.

    Raises:
        Refused: the device cannot run the bundle, or its host key is not the known one.
        ParityFailed: the device generates other tokens than this machine.
        ConnectionDropped: the connection broke three times.
        EdgewrightError: something failed on the device. Known failures are explained.
    """
    runtime = runtime or OnnxRuntime(
        RunSettings(options.python, options.threads, provider=options.provider)
    )
    # A GGUF file needs no config.json beside it; then the target's rules are not applied.
    model = read_architecture(artifact) if (artifact / "config.json").is_file() else None
    job = DeployJob(bundle, model, target, options, runtime, acceptance)
    return asyncio.run(_with_retries(address, job.run))


def rollback(name: str, address: Address, options: DeployOptions) -> dict[str, str]:
    """Swap the current and the previous version of an artifact on a device.

    If the connection breaks, the same swap is tried again; a swap that was done is not undone.

    Returns:
        The ids of the versions that are now `current` and `previous`.

    Raises:
        UsageError: there is no previous version.
    """
    versions = RemoteVersions(options.remote_dir, name)
    links: dict[str, str] = {}

    async def swap(device: Device) -> dict[str, str]:
        if not links:
            current = await versions.linked(device, "current")
            previous = await versions.linked(device, "previous")
            if previous in ("", current):
                raise UsageError(
                    f"{device.address}: {name} has no previous version",
                    "deploy the artifact you want",
                )
            links.update(current=previous, previous=current or previous)
        await versions.swap(device, links["current"], links["previous"])
        return links

    return asyncio.run(_with_retries(address, swap))


async def _with_retries(address: Address, work: Callable[[Device], Any]) -> Any:
    """Connect and call `work`; again with a new connection if the old one broke."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with connected(address) as device:
                return await work(device)
        except ConnectionDropped as error:
            if attempt == ATTEMPTS:
                raise
            say(f"{error}; connecting again")
            await asyncio.sleep(PAUSE_SECONDS * attempt)
    raise AssertionError("unreachable")
