"""A rehearsed deployment: nothing is wrong with ours, and planted mistakes are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.config import read_architecture
from edgewright.targets import Target, load_target
from edgewright.targets.bundle import Bundle, make_bundle, write_bundle
from edgewright.targets.options import BundleOptions
from edgewright.targets.rehearsal import rehearse as rehearsing
from edgewright.targets.rehearsal.rehearse import Rehearsal, rehearse, rehearsed_releases

pytest_plugins = ["deploy_fixtures"]

NANO = "jetson-orin-nano-8gb"
ENGINE = "export/tensorrt/engine.py"
DEVICE_ENGINE = "targets/device/engine.py"
BENCH = "targets/device/bench.py"
PROBE = "targets/device/probe.py"


@dataclass
class Stage:
    """A written bundle, and what it is rehearsed for."""

    bundle: Bundle
    folder: Path
    target: Target
    artifact: Path

    def edit(self, file: str, old: str, new: str) -> None:
        """Plant a mistake in a module of the bundle."""
        path = self.folder / "lib" / "edgewright" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def run(self, jetpack: str = "6.2.2") -> Rehearsal:
        """Rehearse it."""
        model = read_architecture(self.artifact)
        release = self.target.jetpack(jetpack)
        return rehearse(self.bundle, self.folder, self.target, model, release)


@pytest.fixture
def stage(artifact: Path, tmp_path: Path) -> Stage:
    target = load_target(NANO)
    bundle = make_bundle(artifact, target, BundleOptions(prompt=8, context=32))
    return Stage(bundle, write_bundle(bundle, tmp_path / "bundle"), target, artifact)


def test_our_own_deployment_has_no_fault(stage: Stage) -> None:
    for release in rehearsed_releases(stage.target):
        found = stage.run(release.name)
        assert found.faults == ()
        assert [command[0] for command in found.commands].count("trtexec") == 3
        assert {"nvpmodel", "tegrastats"} <= {command[0] for command in found.commands}
        (stage.folder / "engine" / "built-with.json").unlink()
    assert [release.tensorrt for release in rehearsed_releases(stage.target)] == [
        "10.3.0",
        "10.16.1",
    ]


def wrong_memory(stage: Stage) -> None:
    memory = stage.target.memory.model_copy(update={"usable_bytes": 1_000_000})
    stage.target = stage.target.model_copy(update={"memory": memory})


def newer_opset(stage: Stage) -> None:
    stage.bundle = replace(stage.bundle, manifest={**stage.bundle.manifest, "opset": 99})


def damaged(stage: Stage) -> None:
    model = stage.folder / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])


PLANTED: dict[str, tuple[Callable[[Stage], Any], tuple[str, ...], str]] = {
    "wrong flag": (
        lambda s: s.edit(ENGINE, '"--stronglyTyped"', '"--stronglyTipped"'),
        ("build",),
        "trtexec --stronglyTipped: not documented",
    ),
    "flag of a later version": (
        lambda s: s.edit(ENGINE, '"--skipInference"', '"--monitorMemory"'),
        ("build",),
        "trtexec --monitorMemory: not in TensorRT 10.3.0",
    ),
    "wrong value": (
        lambda s: s.edit(ENGINE, "OptimizationLevel=3", "OptimizationLevel=9"),
        ("build",),
        "trtexec --builderOptimizationLevel: takes",
    ),
    "wrong path": (
        lambda s: s.edit(DEVICE_ENGINE, '"model.onnx"', '"modle.onnx"'),
        ("build",),
        "Cannot open",
    ),
    "missing library": (
        lambda s: (s.folder / "lib/edgewright/export/onnx/runtime.py").unlink(),
        ("check",),
        "run.sh check: ",
    ),
    "opset that no TensorRT reads": (newer_opset, ("probe",), "opset 99 is newer"),
    "too little disk": (
        lambda s: s.edit(PROBE, "shutil.disk_usage(str(place)).free", "1000"),
        ("probe",),
        "the device's disk is full",
    ),
    "too little memory": (wrong_memory, ("probe",), "GB to give"),
    "wrong power mode": (
        lambda s: s.edit(BENCH, '"tegrastats", "--interval", "500"', '"nvpmodel", "-m", "9"'),
        ("build", "bench"),
        f"nvpmodel -m 9: {NANO} has the modes 0 to 3",
    ),
    "wrong flag of a monitor": (
        lambda s: s.edit(BENCH, '"--interval"', '"--intervall"'),
        ("build", "bench"),
        "tegrastats --intervall: not documented",
    ),
    "damaged model": (damaged, ("verify",), "run.sh verify: "),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, verbs, said = PLANTED[name]
    monkeypatch.setattr(
        rehearsing, "VERBS", tuple(verb for verb in rehearsing.VERBS if verb[0] in verbs)
    )
    plant(stage)
    found = stage.run()
    assert any(said in fault for fault in (*found.faults, *found.notes)), found


def test_a_tensorrt_that_is_too_old_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "VERBS", (("probe",), ("build",)))
    assert any("has no INT4" in fault for fault in stage.run("6.0").faults)


def test_a_rehearsal_by_the_command_line(
    cli: Callable[..., tuple[int, str, str]], artifact: Path
) -> None:
    words = ("deploy", artifact, "--rehearse", "--prompt", "8", "--context", "32")
    code, out, _ = cli(*words, "--target", NANO, "--jetpack", "6.2")
    assert code == 0 and "no fault found" in out and "trtexec" in out
    code, _, error = cli(*words, "--target", NANO, "--jetpack", "6.0")
    assert code == 3 and "would fail on the device" in error
    code, _, error = cli(*words, "--target", "cpu")
    assert code == 2 and "only deployments to a Jetson" in error
    (artifact / "model.gguf").write_bytes(b"GGUF")
    try:
        code, _, error = cli(*words, "--target", NANO)
    finally:
        (artifact / "model.gguf").unlink()
    assert code == 2 and "no engine build to rehearse" in error
