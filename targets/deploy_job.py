"""One deployment: copy, verify, check, build, measure, examine, judge, activate or reject."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ..console import console, progress, visible
from ..errors import EdgewrightError, Refused
from ..models import Architecture
from .acceptance.diagnosis import diagnose
from .acceptance.examine import Exam, Examined, examine, timed_rounds
from .acceptance.judge import Judge
from .bundle import Bundle
from .device_metrics import bench_metrics
from .options import DeployOptions
from .preflight import problems
from .profile import Target
from .recording import recorded
from .remote import CommandResult, Device
from .remote_versions import RemoteVersions
from .runtimes.device_backend import RememberedSession
from .runtimes.interface import DeviceRuntime

__all__ = ["Acceptance", "DeployJob", "Deployment", "conditions", "say"]

PROBE = Path(__file__).parent / "device" / "probe.py"
VOCABULARY = 256
"""Every model has that many tokens: enough for a prompt that is only timed."""


@dataclass(frozen=True)
class Acceptance:
    """What a version has to show before it becomes the current one.

    Attributes:
        exam: what it is asked on the device.
        judge: what its answers are judged by.
        keep_rejected: keep a rejected version on the device, aside.
    """

    exam: Exam
    judge: Judge
    keep_rejected: bool = False


@dataclass(frozen=True)
class Deployment:
    """The result of a deployment.

    Attributes:
        version: the bundle's id.
        copied_bytes: bytes sent to the device in this deployment.
        metrics: values by ledger name. Those of the engine begin with `tensorrt/`, those of
            tegrastats with `device/`, those of answers with `answers/` and `accuracy/`.
        device: the device's description of itself (the output of `probe`).
        notes: remarks that a reader of the metrics needs.
        details: the engine's build and its slowest layers, the runtime, and single answers.
        context: how the answers were measured.
        samples: those behind the metrics of the answers.
        answers: what was answered to the problems of tasks.
        gate: the verdict; None if nothing was judged.
        accepted: whether the version is the current one now.
    """

    version: str
    copied_bytes: int
    metrics: dict[str, float]
    device: dict[str, Any]
    notes: list[str]
    details: dict[str, Any]
    context: dict[str, Any] = field(default_factory=dict[str, Any])
    samples: dict[str, Any] = field(default_factory=dict[str, Any])
    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    gate: dict[str, Any] | None = None
    accepted: bool = True


def say(text: str) -> None:
    """Print a line of progress. It may contain text from the device, so it is no markup."""
    console.print(f"  {visible(text)}", highlight=False, markup=False)


def conditions(found: Deployment, threads: int | None) -> dict[str, Any]:
    """What makes the metrics of a deployment comparable with others."""
    runtime = found.details.get("runtime", {})
    return {
        "device": runtime.get("provider", "cpu"),
        "threads": threads or found.device.get("cores"),
        "latency": found.details.get("latency"),
        **found.device,
    }


class DeployJob:
    """One deployment. It may take several connections; each continues after the finished parts."""

    def __init__(
        self,
        bundle: Bundle,
        model: Architecture | None,
        target: Target,
        options: DeployOptions,
        runtime: DeviceRuntime,
        acceptance: Acceptance | None,
    ) -> None:
        self.bundle = bundle
        self.model = model
        self.target = target
        self.options = options
        self.runtime = runtime
        self.acceptance = acceptance
        self.versions = RemoteVersions(options.remote_dir, bundle.name)
        self.in_onnx_runtime = runtime.name == "onnxruntime"
        timed = options.engine and self.in_onnx_runtime and target.platform.kind == "jetson"
        readable = bundle.manifest["precision"] != "int8-dynamic"
        self.engine = runtime.name == "tensorrt" or (timed and readable)
        self.copied = 0
        self.notes: list[str] = []
        self.known: dict[Any, Any] = {}

    async def run(self, device: Device) -> Deployment:
        """Do the whole deployment over one connection."""
        report = await self._preflight(device)
        await self._store(device)
        folder = self.versions.version(self.bundle.id)
        metrics, details = await self._check_and_build(device, folder)
        if self.in_onnx_runtime:
            measured, layers = await self._measure(device, folder)
            metrics |= measured
            details |= layers
        found = Deployment(self.bundle.id, self.copied, metrics, report, self.notes, details)
        if self.acceptance or not self.in_onnx_runtime:
            found = await self._examine(device, folder, found)
        if found.accepted:
            await self.versions.activate(device, self.bundle.id)
        elif self.acceptance:
            say("rejected: the version before stays in use")
            keep = self.acceptance.keep_rejected
            await self.versions.reject(device, self.bundle.id, keep=keep)
        return replace(found, copied_bytes=self.copied)

    async def _examine(self, device: Device, folder: str, found: Deployment) -> Deployment:
        """Start the runtime, let it answer, and judge the answers."""
        say(f"starting {self.runtime.name}")
        metrics = dict(found.metrics)
        details: dict[str, Any] = {**found.details}
        examined = Examined()
        async with recorded(device, found.device) as recording:
            async with self.runtime.started(device, folder) as running:
                session = RememberedSession(running, self.known)
                details["runtime"] = {"provider": session.provider, **session.details}
                if session.provider != "cpu":  # `bench` has measured ONNX Runtime on the CPU
                    say("measuring")
                    timed, details["latency"] = await timed_rounds(running, VOCABULARY)
                    metrics |= timed
                if not self.in_onnx_runtime:
                    metrics["size_bytes"] = self.bundle.model_bytes
                if self.acceptance:
                    say("asking")
                    examined = await examine(session, self.runtime, self.acceptance.exam)
            metrics = recording.metrics() | metrics
        return self._judged(replace(found, metrics=metrics, details=details), examined)

    def _judged(self, found: Deployment, examined: Examined) -> Deployment:
        """The deployment with what was examined, and the verdict."""
        measured = examined.measured
        details = {**found.details, "answers": examined.replies}
        found = replace(
            found,
            metrics=found.metrics | measured.metrics,
            context=measured.context,
            samples=measured.samples,
            answers=measured.answers,
            notes=[*found.notes, *measured.notes],
            details=details if examined.replies else found.details,
        )
        if self.acceptance is None:
            return found
        candidate = {
            "name": self.bundle.name,
            "metrics": found.metrics,
            "context": {**found.context, **conditions(found, self.options.threads)},
            "samples": found.samples,
        }
        judgement = self.acceptance.judge.judge(candidate)
        notes = [*found.notes, *judgement.notes]
        if judgement.gate is not None and judgement.gate["verdict"] != "pass":
            notes += diagnose(
                examined.hits,
                examined.garbage,
                examined.not_finite,
                found.metrics.get("answers/kl", 0.0),
                checked=self.in_onnx_runtime,
            )
        return replace(found, gate=judgement.gate, accepted=judgement.accepted, notes=notes)

    async def _preflight(self, device: Device) -> dict[str, Any]:
        """Refuse a device that cannot run the bundle; returns the output of `probe`."""
        say(f"{device.address}: preflight")
        words = (self.options.python, "-", self.versions.root)
        done = await device.run(*words, stdin=PROBE.read_bytes())
        if done.code:
            raise device.failed(self.options.python, done)
        report = _document(device, self.options.python, done)
        found = [
            *self.runtime.problems(report),
            *problems(report, self.target, self.bundle, self.model, engine=self.engine),
        ]
        fatal = [problem for problem in found if problem.fatal]
        if await self.versions.has(device, self.bundle.id):
            fatal = [problem for problem in fatal if not problem.only_new]
        if fatal and not self.options.force:
            raise Refused(
                f"{device.address}: {'; '.join(p.message for p in fatal)}",
                "; ".join(p.hint for p in fatal),
            )
        self.notes = [f"{problem.message} ({problem.hint})" for problem in found]
        for note in self.notes:
            say(note)
        return report

    async def _store(self, device: Device) -> None:
        """Bring the version to the device, and verify it, before it can be used there."""
        version = self.bundle.id
        if await self.versions.has(device, version):
            if await self._is_whole(device, self.versions.version(version)):
                return
            say("the copy on the device is damaged; copying it again")
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
            raise device.reported(verb, done)
        return _document(device, f"run.sh {words[-1]}", done)

    @property
    def _threads(self) -> list[str]:
        return ["--threads", str(self.options.threads)] if self.options.threads else []

    async def _check_and_build(
        self, device: Device, folder: str
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Check the generated tokens and build the engine; metrics and details."""
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        if self.in_onnx_runtime:
            say("checking tokens")
            metrics = await self._run_verb(device, folder, *self._threads, "check")
        if self.engine:
            say("building the engine (minutes)")
            force = ["--force"] if self.options.force else []
            details["engine"] = await self._run_verb(device, folder, "build", *force)
            metrics |= {
                "tensorrt/size_bytes": details["engine"]["bytes"],
                "tensorrt/build_s": details["engine"]["seconds"],
            }
        return metrics, details

    async def _measure(
        self, device: Device, folder: str
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Measure ONNX Runtime and the engine; metrics and details."""
        say("measuring")
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
