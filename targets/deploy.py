"""Bring an artifact to a device over SSH, check it there, measure it there, and take the figures home.

    REMOTE_DIR/NAME/incoming/ID     a bundle that is still being copied
    REMOTE_DIR/NAME/versions/ID     a whole one, every checksum compared
    REMOTE_DIR/NAME/current         -> the version in use; `previous` -> the one before, for --rollback

`current` moves in one rename, after everything was verified: whenever the connection breaks, the device has the old version or the
new one. The same command again goes on where it stopped, and finds a version that is there already.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..benchmarks.latency.latency import figures
from ..benchmarks.latency.worker import Round
from ..checkpoints.files import read_config
from ..console import console, progress
from ..errors import EdgewrightError, ParityFailed, Refused, UsageError
from .bundle import Bundle
from .options import DeployOptions
from .preflight import Problem, problems
from .profile import Target
from .remote import Address, Device, Dropped, connected
from .tegrastats import parse_samples, summarize
from .trtexec import parse_log, parse_profile, parse_times

__all__ = ["Deployment", "deploy", "rollback"]

PROBE = Path(__file__).parent / "device" / "probe.py"
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
KEPT_LAYERS = 20


@dataclass(frozen=True)
class Deployment:
    """What a deployment did and measured.

    Attributes:
        version: the bundle's id.
        copied_bytes: that went over the wire this time.
        metrics: by ledger name; those of the engine begin with `tensorrt/`, those of tegrastats with `device/`.
        device: what the device said it is.
        notes: what to know about the figures.
        details: the engine's slowest layers and its build.
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

    A connection that breaks is made again, twice; what has been copied is not copied again.

    Raises:
        Refused: the device cannot run it, or its host key is not the known one.
        ParityFailed: the device computes something else than this machine.
        Dropped: the connection kept breaking.
        EdgewrightError: something failed there, explained where the failure is a known one.
    """
    job = _Job(bundle, read_config(artifact), target, options)
    return asyncio.run(_persistent(address, job.run))


async def _persistent(address: Address, work: Callable[[Device], Any]) -> Any:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with connected(address) as device:
                return await work(device)
        except Dropped as error:
            if attempt == ATTEMPTS:
                raise
            console.print(f"  {error}; connecting again", highlight=False)
            await asyncio.sleep(PAUSE_SECONDS * attempt)
    raise AssertionError("unreachable")


def rollback(name: str, address: Address, options: DeployOptions) -> dict[str, str]:
    """Make the version before the current one of an artifact the current one again.

    Raises:
        UsageError: there is none.
    """

    async def swap(device: Device) -> dict[str, str]:
        place = _Place(options.remote_dir, name)
        current, previous = [
            await _link(device, place.link(which)) for which in ("current", "previous")
        ]
        if not previous:
            raise UsageError(
                f"{device.address}: {name} has no previous version", "deploy the artifact you want"
            )
        await _point(device, place.link("current"), previous)
        await _point(device, place.link("previous"), current)
        return {"current": previous, "previous": current}

    return asyncio.run(_persistent(address, swap))


class _Place:
    """The paths of one artifact on a device."""

    def __init__(self, remote_dir: str, name: str) -> None:
        self.root = PurePosixPath(remote_dir) / name

    def incoming(self, version: str) -> str:
        return str(self.root / "incoming" / version)

    def version(self, version: str) -> str:
        return str(self.root / "versions" / version)

    def link(self, which: str) -> str:
        return str(self.root / which)


async def _link(device: Device, link: str) -> str:
    """The id of the version a link points to, or nothing."""
    done = await device.run("readlink", "--", link)
    return PurePosixPath(done.out.strip()).name if done.code == 0 else ""


async def _point(device: Device, link: str, version: str) -> None:
    """Let a link point to a version, in one rename."""
    await device.checked("ln", "-sfn", "--", f"versions/{version}", f"{link}.new")
    await device.checked("mv", "-T", "--", f"{link}.new", link)


class _Job:
    """One deployment, which may take several connections."""

    def __init__(
        self, bundle: Bundle, config: Mapping[str, Any], target: Target, options: DeployOptions
    ) -> None:
        self.bundle, self.config, self.target, self.options = bundle, config, target, options
        self.place = _Place(options.remote_dir, bundle.name)
        self.engine = (
            options.engine
            and target.platform.kind == "jetson"
            and bundle.manifest["precision"] != "int8-dynamic"
        )
        self.copied = 0
        self.notes: list[str] = []

    async def run(self, device: Device) -> Deployment:
        """Everything, in order; each part finds what an earlier connection finished."""
        report = await self._preflight(device)
        await self._install(device)
        metrics, details = await self._measure(device)
        return Deployment(self.bundle.id, self.copied, metrics, report, self.notes, details)

    async def _preflight(self, device: Device) -> dict[str, Any]:
        console.print(f"[bold]{device.address}[/] preflight", highlight=False)
        folder = str(self.place.root)
        report: dict[str, Any] = json.loads(
            await device.checked(self.options.python, "-", folder, stdin=PROBE.read_bytes())
        )
        found = problems(report, self.target, self.bundle, self.config, engine=self.engine)
        fatal = [problem for problem in found if problem.fatal]
        installed = await device.run(
            "test", "-f", f"{self.place.version(self.bundle.id)}/bundle.json"
        )
        if installed.code == 0:  # nothing more to copy, so that the disk may be as full as it likes
            fatal = [problem for problem in fatal if "disk" not in problem.message]
        if fatal and not self.options.force:
            raise Refused(
                f"{device.address}: {'; '.join(p.message for p in fatal)}",
                "; ".join(p.hint for p in fatal),
            )
        self.notes = [_told(problem) for problem in found]
        for note in self.notes:
            console.print(f"  {note}", highlight=False)
        return report

    async def _install(self, device: Device) -> None:
        place, version = self.place, self.bundle.id
        final = place.version(version)
        if (await device.run("test", "-f", f"{final}/bundle.json")).code != 0:
            await self._copy(device, place.incoming(version))
            await device.checked("mkdir", "-p", "--", str(place.root / "versions"))
            await device.checked("mv", "-T", "--", place.incoming(version), final)
        await self._verb(device, final, "verify")
        current = await _link(device, place.link("current"))
        if current != version:
            if current:
                await _point(device, place.link("previous"), current)
            await _point(device, place.link("current"), version)
        await self._sweep(device)

    async def _copy(self, device: Device, folder: str) -> None:
        """Every file, the manifest last: a folder that has it is whole."""
        files = self.bundle.files
        folders = sorted({str(PurePosixPath(folder, name).parent) for name in files})
        await device.checked("mkdir", "-p", "--", *folders)
        there = await device.listing(folder)
        with progress(f"copying {self.bundle.size / 1e6:.1f} MB", self.bundle.size) as bar:
            for name, told in self.bundle.manifest["files"].items():
                if (
                    there.get(name) == told["size"]
                ):  # whole, or it would not have this name; `verify` has the last word
                    bar.advance(told["size"])
                    continue
                start = min(there.get(f"{name}.part", 0), told["size"])
                bar.advance(start)
                await device.upload(
                    files[name],
                    f"{folder}/{name}",
                    told["sha256"],
                    start,
                    self._counted(bar.advance),
                )
        manifest = files["bundle.json"]
        assert isinstance(manifest, bytes)
        await device.checked(
            "chmod", "+x", *(f"{folder}/{name}" for name in files if name.endswith(".sh"))
        )
        await device.checked("tee", f"{folder}/bundle.json", stdin=manifest)

    def _counted(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        def moved(size: int) -> None:
            self.copied += size
            advance(size)

        return moved

    async def _sweep(self, device: Device) -> None:
        """Remove versions that neither link names, and copies that were never finished."""
        keep = {self.bundle.id, await _link(device, self.place.link("previous"))}
        there = (await device.checked("ls", "-1", "--", str(self.place.root / "versions"))).split()
        old = [self.place.version(name) for name in there if name not in keep]
        await device.checked("rm", "-rf", "--", str(self.place.root / "incoming"), *old)

    async def _verb(self, device: Device, folder: str, *words: str) -> dict[str, Any]:
        """Run one verb of the bundle there and read its JSON document."""
        done = await device.run("env", f"PYTHON={self.options.python}", f"{folder}/run.sh", *words)
        if done.code:
            raise _reported(device, words, done.code, done.out, done.err) or device.failed(
                f"run.sh {words[-1]}", done
            )
        return json.loads(done.out.splitlines()[-1])

    async def _measure(self, device: Device) -> tuple[dict[str, float], dict[str, Any]]:
        threads = ["--threads", str(self.options.threads)] if self.options.threads else []
        folder = self.place.link("current")
        console.print("  checking tokens", highlight=False)
        metrics: dict[str, float] = await self._verb(device, folder, *threads, "check")
        details: dict[str, Any] = {}
        if self.engine:
            console.print("  building the engine (minutes)", highlight=False)
            details["engine"] = await self._verb(device, folder, "build")
            metrics |= {
                "tensorrt/size_bytes": details["engine"]["bytes"],
                "tensorrt/build_s": details["engine"]["seconds"],
            }
        console.print("  measuring", highlight=False)
        told = await self._verb(device, folder, *threads, "bench")
        metrics |= figures([Round(**timed) for timed in told["rounds"]], told["prompt"], 1)
        details["latency"] = _latency_shape(told["rounds"], told["prompt"])
        metrics |= {
            "load_s": told["load_s"],
            "peak_rss_bytes": max(told["peaks"].values()),
            "size_bytes": sum(
                f["size"] for n, f in self.bundle.manifest["files"].items() if ".onnx" in n
            ),
        }
        if samples := parse_samples(told["tegrastats"]):
            metrics |= summarize(samples)
        for phase, texts in told["trtexec"].items():
            found, layers = _engine_metrics(phase, texts, self.bundle.manifest["engine"])
            metrics |= found
            details[f"{phase}_layers"] = layers
        return metrics, details


def _latency_shape(rounds: Sequence[Mapping[str, Any]], prompt: int) -> dict[str, int]:
    """What was timed, as a context records it."""
    new_tokens = len(rounds[0]["tokens"])
    return {"prompt": prompt, "new_tokens": new_tokens, "runs": len(rounds), "batch": 1}


def _told(problem: Problem) -> str:
    return f"{problem.message} ({problem.hint})"


def _reported(
    device: Device, words: tuple[str, ...], code: int, out: str, err: str
) -> EdgewrightError | None:
    """The error that the bundle itself reported, with the exit code it belongs to; what is a known failure is explained as such."""
    try:
        told = json.loads(err.strip().splitlines()[-1])
        message, hint = str(told["error"]), str(told["hint"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    from .failures import explain

    if known := explain(f"{out}\n{message}"):
        return EdgewrightError(f"{device.address}: {known.message}", known.hint)
    kind = {2: UsageError, 3: Refused, 4: ParityFailed}.get(code, EdgewrightError)
    return kind(f"{device.address}: run.sh {words[-1]}: {message}", hint)


def _engine_metrics(
    phase: str, texts: Mapping[str, str], spec: Mapping[str, Any]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What trtexec measured in one phase, and its slowest layers."""
    log, times, profile = (
        parse_log(texts["log"]),
        parse_times(texts["times"]),
        parse_profile(texts["profile"]),
    )
    durations = sorted(query.compute_ms for query in times.queries)
    metrics: dict[str, float] = {}
    if durations:
        median = durations[len(durations) // 2]
        if phase == "prefill":
            metrics = {
                "tensorrt/ttft_ms/p50": median,
                "tensorrt/ttft_ms/p99": durations[int(0.99 * (len(durations) - 1))],
            }
            metrics["tensorrt/prefill_tok_s"] = spec["batch"] * spec["prompt"] / median * 1000
        else:
            metrics = {
                "tensorrt/decode_tok_s/p50": spec["batch"] / median * 1000,
                "tensorrt/decode_ms/p50": median,
            }
        metrics[f"tensorrt/{phase}_queries"] = len(durations)
    if log.throughput_qps is not None:
        metrics[f"tensorrt/{phase}_qps"] = log.throughput_qps
    slowest = sorted(profile.layers, key=lambda layer: -layer.total_ms)[:KEPT_LAYERS]
    return metrics, [
        {"name": layer.name, "average_ms": layer.average_ms, "percent": layer.percent}
        for layer in slowest
    ]
