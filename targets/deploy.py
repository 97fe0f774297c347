"""Deploy an artifact over SSH: copy its bundle to a device, verify it, measure it there.

The link `current` on the device changes in one rename, and only after the new version was
verified, has generated the expected tokens, and has its engine. So a broken connection leaves the
device with the old version or with the new one, never with a mixture. Running the same command
again resumes the copy where it stopped, and copies nothing if the device already has this
version. `remote_versions.py` describes the directories.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..checkpoints.files import read_architecture
from ..console import console, progress, visible
from ..errors import EdgewrightError, ParityFailed, Refused, UsageError
from ..models import Architecture
from .address import Address
from .bundle import Bundle
from .device_metrics import bench_metrics
from .failures import explain
from .options import DeployOptions
from .preflight import problems
from .profile import Target
from .remote import CommandResult, ConnectionDropped, Device, connected
from .remote_versions import RemoteVersions

__all__ = ["Deployment", "deploy", "rollback"]

PROBE = Path(__file__).parent / "device" / "probe.py"
ATTEMPTS = 3
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Deployment:
    """The result of a deployment.

    Attributes:
        version: the bundle's id.
        copied_bytes: bytes sent to the device in this deployment.
        metrics: values by ledger name. Those of the engine begin with `tensorrt/`, those of
            tegrastats with `device/`.
        device: the device's description of itself (the output of `probe`).
        notes: remarks that a reader of the metrics needs.
        details: the engine's build and its slowest layers.
    """

    version: str
    copied_bytes: int
    metrics: dict[str, float]
    device: dict[str, Any]
    notes: list[str]
    details: dict[str, Any]


def deploy(
    bundle: Bundle, artifact: Path, target: Target, address: Address, options: DeployOptions
) -> Deployment:
    """Copy a bundle to a device, install it, and measure it there.

    If the connection breaks, it is made again, at most twice. The copy then resumes.

    Raises:
        Refused: the device cannot run the bundle, or its host key is not the known one.
        ParityFailed: the device generates other tokens than this machine.
        ConnectionDropped: the connection broke three times.
        EdgewrightError: something failed on the device. Known failures are explained.
    """
    job = _DeployJob(bundle, read_architecture(artifact), target, options)
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
            _say(f"{error}; connecting again")
            await asyncio.sleep(PAUSE_SECONDS * attempt)
    raise AssertionError("unreachable")


def _say(text: str) -> None:
    """Print a line of progress. It may contain text from the device, so it is no markup."""
    console.print(f"  {visible(text)}", highlight=False, markup=False)


class _DeployJob:
    """One deployment. It may take several connections; each continues after the finished parts."""

    def __init__(
        self, bundle: Bundle, model: Architecture, target: Target, options: DeployOptions
    ) -> None:
        self.bundle = bundle
        self.model = model
        self.target = target
        self.options = options
        self.versions = RemoteVersions(options.remote_dir, bundle.name)
        self.engine = (
            options.engine
            and target.platform.kind == "jetson"
            and bundle.manifest["precision"] != "int8-dynamic"
        )
        self.copied = 0
        self.notes: list[str] = []

    async def run(self, device: Device) -> Deployment:
        """Do the whole deployment over one connection."""
        report = await self._preflight(device)
        await self._store(device)
        folder = self.versions.version(self.bundle.id)
        metrics, details = await self._check_and_build(device, folder)
        await self.versions.activate(device, self.bundle.id)
        measured, layers = await self._measure(device, folder)
        metrics |= measured
        details |= layers
        return Deployment(self.bundle.id, self.copied, metrics, report, self.notes, details)

    async def _preflight(self, device: Device) -> dict[str, Any]:
        """Refuse a device that cannot run the bundle; returns the output of `probe`."""
        _say(f"{device.address}: preflight")
        words = (self.options.python, "-", self.versions.root)
        done = await device.run(*words, stdin=PROBE.read_bytes())
        if done.code:
            raise device.failed(self.options.python, done)
        report = _document(device, self.options.python, done)
        found = problems(report, self.target, self.bundle, self.model, engine=self.engine)
        fatal = [problem for problem in found if problem.fatal]
        if await self.versions.has(
            device, self.bundle.id
        ):  # nothing is copied: a full disk is fine
            fatal = [problem for problem in fatal if "disk" not in problem.message]
        if fatal and not self.options.force:
            raise Refused(
                f"{device.address}: {'; '.join(p.message for p in fatal)}",
                "; ".join(p.hint for p in fatal),
            )
        self.notes = [f"{problem.message} ({problem.hint})" for problem in found]
        for note in self.notes:
            _say(note)
        return report

    async def _store(self, device: Device) -> None:
        """Bring the version to the device, and verify it, before it can be used there."""
        version = self.bundle.id
        if await self.versions.has(device, version):
            if await self._is_whole(device, self.versions.version(version)):
                return
            _say("the copy on the device is damaged; copying it again")
        folder = self.versions.incoming(version)
        await self.versions.prepare(device, version)
        await self._copy(device, folder)
        if not await self._is_whole(device, folder):
            # An earlier, unfinished deployment left a damaged file of the right size.
            await self.versions.discard(device, version)
            await self.versions.prepare(device, version)
            await self._copy(device, folder)
            await self._run_verb(device, folder, "verify")
        await self.versions.store(device, version)

    async def _is_whole(self, device: Device, folder: str) -> bool:
        try:
            await self._run_verb(device, folder, "verify")
        except EdgewrightError:  # a broken connection is another error
            return False
        return True

    async def _copy(self, device: Device, folder: str) -> None:
        """Copy all files. The manifest is last, so a directory that has it is complete."""
        files = self.bundle.files
        folders = sorted({f"{folder}/{name}".rpartition("/")[0] for name in files})
        await device.checked("mkdir", "-p", "--", *folders)
        there = await device.listing(folder)
        with progress(f"copying {self.bundle.size / 1e6:.1f} MB", self.bundle.size) as bar:
            for name, entry in self.bundle.manifest["files"].items():
                size = entry["size"]
                # An unfinished file ends in `.part`, so this one is complete. `verify` checks it.
                if there.get(name) == size:
                    bar.advance(size)
                    continue
                start = min(there.get(f"{name}.part", 0), size)
                bar.advance(start)
                moved = self._counted(bar.advance)
                await device.upload(files[name], f"{folder}/{name}", entry["sha256"], start, moved)
        manifest = files["bundle.json"]
        assert isinstance(manifest, bytes)
        scripts = [f"{folder}/{name}" for name in files if name.endswith(".sh")]
        await device.checked("chmod", "+x", *scripts)
        await device.checked("tee", f"{folder}/bundle.json", stdin=manifest)

    def _counted(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        def moved(size: int) -> None:
            self.copied += size
            advance(size)

        return moved

    async def _run_verb(self, device: Device, folder: str, *words: str) -> dict[str, Any]:
        """Run one verb of the bundle's run.sh on the device, and read its JSON document."""
        done = await device.run("env", f"PYTHON={self.options.python}", f"{folder}/run.sh", *words)
        if done.code:
            verb = f"run.sh {words[-1]}"
            raise _reported_error(device, verb, done) or device.failed(verb, done)
        return _document(device, f"run.sh {words[-1]}", done)

    @property
    def _threads(self) -> list[str]:
        return ["--threads", str(self.options.threads)] if self.options.threads else []

    async def _check_and_build(
        self, device: Device, folder: str
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Check the generated tokens and build the engine; metrics and details."""
        _say("checking tokens")
        metrics: dict[str, float] = await self._run_verb(device, folder, *self._threads, "check")
        details: dict[str, Any] = {}
        if self.engine:
            _say("building the engine (minutes)")
            details["engine"] = await self._run_verb(device, folder, "build")
            metrics |= {
                "tensorrt/size_bytes": details["engine"]["bytes"],
                "tensorrt/build_s": details["engine"]["seconds"],
            }
        return metrics, details

    async def _measure(
        self, device: Device, folder: str
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Measure ONNX Runtime and the engine; metrics and details."""
        _say("measuring")
        report = await self._run_verb(device, folder, *self._threads, "bench")
        return bench_metrics(report, self.bundle.manifest)


def _document(device: Device, what: str, done: CommandResult) -> dict[str, Any]:
    """The JSON document in the last line of a program's output.

    Raises:
        EdgewrightError: there is none.
    """
    last = (done.out.strip().splitlines() or [""])[-1]
    try:
        document = json.loads(last)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise EdgewrightError(
            f"{device.address}: {what} printed {last[:200]!r} where a JSON document belongs",
            "run the command on the device to see its whole output",
        )
    return cast("dict[str, Any]", document)


def _reported_error(device: Device, verb: str, done: CommandResult) -> EdgewrightError | None:
    """The error that run.sh printed, as an exception with the same exit code.

    None if it printed no error document. A known failure is explained.
    """
    try:
        report = json.loads(done.err.strip().splitlines()[-1])
        message = str(report["error"])
        hint = str(report["hint"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    if known := explain(f"{done.out}\n{message}"):
        return EdgewrightError(f"{device.address}: {known.message}", known.hint)
    kinds = {2: UsageError, 3: Refused, 4: ParityFailed}
    kind = kinds.get(done.code, EdgewrightError)
    return kind(f"{device.address}: {verb}: {message}", hint)
