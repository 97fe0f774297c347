"""What is installed and what is released: locked by checksums, and built by pinned actions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
WORKFLOWS = {file.name: file.read_text() for file in (ROOT / ".github/workflows").glob("*.yml")}
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_LOCKED = {"data", "gptq"}
"""Extras that `make setup` does not install."""


def canonical(name: str) -> str:
    """A package's name in the form that indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """The exact versions in a file of requirements."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.M)
    return {canonical(name): version for name, version in found}


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    locked = pins(LOCK)
    constraints = pins((ROOT / "constraints.txt").read_text())
    differing = {
        name: (version, constraints[name])
        for name, version in locked.items()
        if name in constraints and constraints[name] != version
    }
    assert differing == {}, "run `make lock`"


def test_the_lock_has_every_direct_dependency() -> None:
    wanted = list(PROJECT["dependencies"])
    for extra, names in PROJECT["optional-dependencies"].items():
        wanted += [] if extra in NOT_LOCKED else names
    names = {canonical(re.match(r"[A-Za-z0-9._-]+", text)[0]) for text in wanted}
    names.remove(PROJECT["name"])  # an extra may ask for another one
    assert names - pins(LOCK).keys() == set(), "run `make lock`"


def test_every_locked_package_has_checksums_and_no_address() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", LOCK, flags=re.M).strip())
    assert len(entries) == len(pins(LOCK)) > 100
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
    assert "://" not in LOCK and "--index" not in LOCK and "--extra-index" not in LOCK


def steps(workflow: str) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(WORKFLOWS[workflow])["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("workflow", sorted(WORKFLOWS))
def test_actions_are_pinned_and_rights_are_few(workflow: str) -> None:
    document = yaml.safe_load(WORKFLOWS[workflow])
    assert document["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            assert step["uses"].startswith("actions/checkout") <= (
                step.get("with", {}).get("persist-credentials") is False
            )
        for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert re.search(rf"^{name}:", MAKEFILE, re.M), name
        assert "${{" not in step.get("run", ""), "a value in a script may be a command"
    assert "secrets." not in WORKFLOWS[workflow]


def test_every_allowed_python_is_tested() -> None:
    jobs = yaml.safe_load(WORKFLOWS["test.yml"])["jobs"]
    for job in (jobs["test"], jobs["wheel"]):
        assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(11, 15)]
    assert PROJECT["requires-python"] == ">=3.11"


def test_a_release_is_attested_before_it_is_published() -> None:
    jobs = yaml.safe_load(WORKFLOWS["release.yml"])["jobs"]
    assert (jobs["attest"]["needs"], jobs["publish"]["needs"]) == ("build", "attest")
    assert jobs["publish"]["environment"] == "release"
    assert "permissions" not in jobs["build"], "the job that runs the tests may only read"
    used = [step["uses"].partition("@")[0] for step in jobs["attest"]["steps"]]
    assert used[1:] == ["actions/attest-build-provenance", "actions/attest-sbom"]
