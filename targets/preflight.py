"""Preflight: decide whether a bundle can run on a device, before anything is copied.

The only input is the report that `device/probe.py` prints on the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from ..export.tensorrt.build_memory import too_little_memory
from ..export.tensorrt.engine import supported
from ..models import Architecture
from .artifact_plan import ArtifactSpec
from .bundle import Bundle
from .platform_profile import JetPack
from .profile import Target, version_key
from .rules import check
from .workload import Workload

__all__ = ["Problem", "jetpack_of", "problems"]

MIN_PYTHON = "3.10"
DISK_MARGIN = 1.1
"""Disk space needed, as a multiple of the bundle's size: room for the timing cache and logs."""


@dataclass(frozen=True)
class Problem:
    """A reason not to deploy, or something that the user should know.

    Attributes:
        message: what is wrong.
        hint: what to do.
        fatal: whether it is a reason not to deploy.
        only_new: whether it does not matter to a version that the device already has.
    """

    message: str
    hint: str
    fatal: bool = True
    only_new: bool = False


def jetpack_of(l4t: str, releases: Sequence[JetPack]) -> JetPack | None:
    """The JetPack release that an L4T version belongs to, or None.

    Args:
        l4t: the L4T version on the device, such as `36.4.3`.
        releases: the known releases. Their `l4t` is text: `36.4.3 (6.2), 36.4.4`,
            `35.2.1 - 35.6.4` or `36.5.x`.
    """
    version = version_key(l4t)
    for release in releases:
        text = re.sub(r"\([^)]*\)", "", release.l4t)
        for least, most in re.findall(r"(\d+\.\d+[\d.]*) - (\d+\.\d+[\d.]*)", text):
            if version_key(least) <= version <= version_key(most):
                return release
        for known in re.findall(r"\d+\.\d+(?:\.(?:\d+|x))?", text):
            if (
                version[:2] == version_key(known)[:2]
                if known.endswith("x")
                else version == version_key(known)
            ):
                return release
    return None


def problems(
    report: Mapping[str, Any],
    target: Target,
    bundle: Bundle,
    model: Architecture | None,
    *,
    engine: bool,
) -> list[Problem]:
    """All problems of a bundle on a device, fatal ones first.

    Args:
        report: the output of `probe` on the device.
        target: the target that the bundle was made for.
        bundle: the bundle.
        model: its architecture; None if it is not known, as that of a GGUF file.
        engine: whether a TensorRT engine will be built.
    """
    checks = (
        _python(report),
        _disk(report, bundle),
        _jetson(report, target, bundle, model, engine),
        _memory(report, target),
        _build_memory(report, bundle, engine),
    )
    return sorted((found for part in checks for found in part), key=lambda found: not found.fatal)


def _python(report: Mapping[str, Any]) -> Iterator[Problem]:
    if version_key(report["python"]) < version_key(MIN_PYTHON):
        yield Problem(
            f"the device's python3 is {report['python']}, and the bundle needs "
            f"{MIN_PYTHON} or later",
            "install a newer Python there and name it with --python; JetPack 6 has 3.10",
        )


def _disk(report: Mapping[str, Any], bundle: Bundle) -> Iterator[Problem]:
    needed = int(bundle.size * DISK_MARGIN)
    if report["disk_free_bytes"] < needed:
        yield Problem(
            f"the device's disk is full: {needed / 1e9:.3f} GB needed, "
            f"{report['disk_free_bytes'] / 1e9:.3f} GB free",
            "free space there (`df -h`; old versions are in versions/), or give another "
            "--remote-dir",
            only_new=True,
        )


def _jetson(
    report: Mapping[str, Any],
    target: Target,
    bundle: Bundle,
    model: Architecture | None,
    engine: bool,
) -> Iterator[Problem]:
    if target.platform.kind != "jetson":
        return
    if not report["l4t"]:
        yield Problem(
            f"the device is not a Jetson ({report['system']}), and the bundle is for {target.name}",
            "check --host, or deploy with --target cpu",
        )
        return
    release = jetpack_of(report["l4t"], target.platform.jetpacks)
    if release is None:
        known = ", ".join(r.name for r in target.platform.jetpacks)
        yield Problem(
            f"L4T {report['l4t']} belongs to no known JetPack release ({known})",
            "the target rules were not checked against this release",
            fatal=False,
        )
    elif model is not None:
        yield from _release(report, target, bundle, model, engine, release)
    if engine and not (report["trtexec"] or report["packages"]["tensorrt"]):
        yield Problem(
            "trtexec is not on the device, and no engine can be built without it",
            "sudo apt install nvidia-jetpack (it installs /usr/src/tensorrt/bin/trtexec), or "
            "deploy with --no-engine",
        )
    board = report["board"] or ""
    if board and not _same_board(board, target):
        yield Problem(
            f"the device reports `{board}`, and the bundle is for {target.description}",
            "check --target",
            fatal=False,
        )


def _release(
    report: Mapping[str, Any],
    target: Target,
    bundle: Bundle,
    model: Architecture,
    engine: bool,
    release: JetPack,
) -> Iterator[Problem]:
    """Apply the target rules to this artifact, for the JetPack release on the device."""
    spec = bundle.manifest["engine"]
    precision = bundle.manifest["precision"].removesuffix("-fp16")
    if engine:
        try:
            supported(version_key(release.tensorrt))
        except Refused as error:
            yield Problem(
                f"JetPack {release.name} (L4T {report['l4t']}): {error}",
                f"{error.hint}; or --no-engine",
            )
    workload = Workload(
        precision,
        context=spec["context"],
        prompt=spec["prompt"],
        batch=spec["batch"],
        kv_cache=bundle.manifest.get("kv_cache", "float"),
        whole_cache=bundle.manifest["format"] != "gguf",
    )
    artifact = ArtifactSpec(_format(bundle, engine), opset=bundle.manifest["opset"])
    found = check(target, model, workload, artifact, release.name)
    for violation in found:
        # NVIDIA does not document whether TensorRT 10.3 reads the opset that INT4 needs. So this
        # is not fatal: the build on the device will show it.
        unsure = violation.rule == "opset" and version_key(release.tensorrt) >= (10,)
        fatal = violation.severity == "refuse" and not unsure
        message = f"JetPack {release.name} (L4T {report['l4t']}): {violation.message}"
        yield Problem(message, f"{violation.nearest}{'; or --no-engine' if engine else ''}", fatal)


def _format(bundle: Bundle, engine: bool) -> str:
    """The export format whose rules the device has to follow."""
    made = bundle.manifest["format"]
    return made if made == "gguf" else "onnx" if engine else "ort"


def _same_board(board: str, target: Target) -> bool:
    words = re.findall(r"agx|nano|nx", target.name)
    return all(word in board.lower() for word in words)


def _build_memory(report: Mapping[str, Any], bundle: Bundle, engine: bool) -> Iterator[Problem]:
    """An engine that the device cannot build. If it has the version, its engine may be there."""
    found = too_little_memory(bundle.model_bytes, report["memory"]) if engine else None
    if found:
        message, hint = found
        yield Problem(message, f"{hint}; or --no-engine", only_new=True)


def _memory(report: Mapping[str, Any], target: Target) -> Iterator[Problem]:
    wanted = target.memory.usable_bytes
    free = report["memory"].get("MemAvailable")
    if wanted and free is not None and free < wanted:
        message = (
            f"{free / 1e9:.1f} GB of memory are free, less than the {wanted / 1e9:.1f} GB that "
            f"plans for {target.name} assume"
        )
        yield Problem(message, "close other programs, or boot to text mode", fatal=False)
