"""Recognizing a device's JetPack release, and known failures in the output of its tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_jetson import NVMAP

from edgewright.targets import load_target
from edgewright.targets.failures import FAILURES, explain
from edgewright.targets.preflight import jetpack_of


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("35.4.1", "5.1"),
        ("36.3.0", "6.0"),
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2"),
        ("36.4.0", "6.1"),
        ("36.5.2", "6.2.2"),
        ("39.2.0", "7.2"),
        ("38.2.0", None),
    ],
)
def test_the_jetpack_of_an_l4t_release(l4t: str, jetpack: str | None) -> None:
    found = jetpack_of(l4t, load_target("jetson-orin-nano-8gb").platform.jetpacks)
    assert (found.name if found else None) == jetpack


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            NVMAP
            + "\n[E] Error[10]: Could not find any implementation for node {ForeignNode[lm_head]}",
            "nvmap",
        ),
        (
            "Error[10]: Could not find any implementation for node {ForeignNode[x]}",
            "no-implementation",
        ),
        ("cat: write error: No space left on device", "disk-full"),
        ("sh: 1: trtexec: not found", "no-trtexec"),
        ("bash: trtexec: command not found", "no-trtexec"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out-of-memory"),
        ("Killed", "out-of-memory"),
        (
            "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
            "other-engine",
        ),
        ("ModuleNotFoundError: No module named 'onnxruntime'", "no-package"),
        ("Segmentation fault", None),
    ],
)
def test_known_failures(line: str, name: str | None) -> None:
    found = explain(line)
    assert (found.name if found else None) == name


def test_the_docs_have_every_failure() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "deployment.md").read_text().split())
    assert not [failure.name for failure in FAILURES if failure.message not in text]
