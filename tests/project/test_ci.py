"""The CI recipes of docs/ci.md: their shell commands are run on small measurement files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())
BLOCKS = [
    yaml.safe_load(block)
    for block in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/ci.md").read_text(), re.M | re.S)
]
POLICY, WORKFLOW, STEP, GITLAB = BLOCKS


def measurement(right: int) -> dict[str, Any]:
    """A measurement with every metric of the documented policy.

    Its perplexity has no samples, as in a file of an older edgewright.
    """
    return {
        "name": "int4",
        "metrics": {
            "accuracy/reasoning": right / 1000,
            "perplexity/wiki": 10.0,
            "size_bytes": 100,
        },
        "context": {
            "problems/reasoning": 1000,
            "data_hash/wiki": "aa",
            "seq_len/wiki": 512,
        },
        "samples": {"accuracy/reasoning": {"correct": "1" * right + "0" * (1000 - right)}},
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a committed baseline and the policy of the documentation."""
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "int4.json").write_text(json.dumps(measurement(950)))
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(POLICY))
    return tmp_path


def shell(script: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a CI server does, with the `edgewright` of this environment on PATH."""
    bin_dir = where / "bin"
    bin_dir.mkdir(exist_ok=True)
    (bin_dir / "edgewright").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m edgewright.cli "$@"\n'
    )
    (bin_dir / "edgewright").chmod(0o755)
    path = os.pathsep.join([str(bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]])
    full = {**os.environ, **environment, "PATH": path}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=where,
        env=full,
        capture_output=True,
        text=True,
    )


def action(project: Path, **inputs: str) -> tuple[int, str, str]:
    """Run the action with its inputs filled in as GitHub does: (exit code, summary, outputs)."""
    (step,) = ACTION["runs"]["steps"]
    given = {
        name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()
    } | inputs
    environment = {
        name: given[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", text)[1]]
        for name, text in step["env"].items()
    }
    files = {name: project / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    done = shell(
        step["run"], project, **environment, **{name: str(file) for name, file in files.items()}
    )
    summary, outputs = (file.read_text() if file.exists() else "" for file in files.values())
    return done.returncode, summary, outputs


@pytest.mark.parametrize(
    ("right", "code", "verdict"), [(950, 0, "pass"), (920, 5, "fail"), (949, 0, "inconclusive")]
)
def test_github_action(project: Path, right: int, code: int, verdict: str) -> None:
    (project / "new file.json").write_text(json.dumps(measurement(right)))
    (step,) = STEP
    assert (ROOT / step["uses"] / "action.yml").is_file()
    with_ = step["with"]
    found, summary, outputs = action(project, **with_ | {"candidate": "new file.json"})
    assert (found, outputs) == (code, f"verdict={verdict}\n")
    assert (
        f"### edgewright gate: {({'pass': '✅', 'fail': '❌', 'inconclusive': '⚠️'})[verdict]}"
        in summary
    )
    assert (project / "gate.xml").read_text().count("<testcase") == 3


def test_github_action_without_a_policy_and_with_a_file_that_is_missing(project: Path) -> None:
    (project / "new.json").write_text(json.dumps(measurement(950)))
    assert action(project, candidate="new.json", baseline="baselines/int4.json")[0] == 0
    assert action(project, candidate="none.json", baseline="baselines/int4.json")[0] == 2


GH = '#!/bin/sh\nprintf "%s\\n" "$@" > comment.txt\ncat "$5" >> comment.txt\n'
"""Stands for GitHub's command line: writes down what it was told."""


@pytest.mark.parametrize(("right", "code"), [(950, 0), (920, 5)])
def test_github_workflow(project: Path, right: int, code: int) -> None:
    """Its steps are run as a runner does: one shell each, later ones only if they say so."""
    job = WORKFLOW["jobs"]["gate"]
    assert job["permissions"] == {"contents": "read", "pull-requests": "write"}
    (project / "bin").mkdir()
    (project / "bin" / "gh").write_text(GH)
    (project / "bin" / "gh").chmod(0o755)
    (project / "new.json").write_text(json.dumps(measurement(right)))  # instead of `bench`
    failed = 0
    for step in job["steps"]:
        script = step.get("run", "")
        if not script or script.startswith(("pip ", "edgewright bench")):
            continue
        if failed and "always()" not in step.get("if", ""):
            continue
        done = shell(script, project, GITHUB_STEP_SUMMARY=str(project / "summary"), NUMBER="7")
        failed = failed or done.returncode
    assert failed == code
    assert "### edgewright gate" in (project / "summary").read_text()
    assert (
        (project / "comment.txt")
        .read_text()
        .startswith("pr\ncomment\n7\n--body-file\ngate.md\n###")
    )


def test_the_workflow_measures_what_its_policy_limits() -> None:
    commands = [step["run"] for step in WORKFLOW["jobs"]["gate"]["steps"] if "run" in step]
    (bench,) = (line for line in commands if line.startswith("edgewright bench"))
    measured = {
        "accuracy/reasoning": "--tasks reasoning",
        "perplexity/wiki": "--perplexity text:wiki.txt",
    }
    for metric in POLICY["limits"]:
        assert measured.get(metric, "") in bench, metric


def test_gitlab_snippet(project: Path) -> None:
    (script,) = GITLAB["gate"]["script"]
    (project / "new.json").write_text(json.dumps(measurement(920)))
    done = shell(script, project)
    assert done.returncode == 5
    assert "the gate failed" in done.stderr
    for file in (
        *GITLAB["gate"]["artifacts"]["paths"],
        GITLAB["gate"]["artifacts"]["reports"]["junit"],
    ):
        assert (project / file).stat().st_size


def test_commands_of_the_documentation_update_the_baseline(project: Path) -> None:
    text = (ROOT / "docs/ci.md").read_text()
    (update,) = re.findall(r"^(edgewright gate .* --update-baseline)$", text, re.M)
    (project / "new.json").write_text(json.dumps(measurement(920)))
    assert shell(update, project).returncode == 0
    written = json.loads((project / "baselines" / "int4.json").read_text())
    assert written.pop("check")  # of its own content
    assert written == measurement(920)
    assert shell(GITLAB["gate"]["script"][0], project).returncode == 0


def test_comparing_needs_no_torch(project: Path) -> None:
    code = (
        "import sys\nfrom edgewright.cli import app\n"
        "baseline = 'baselines/int4.json'\n"
        "app(['gate', baseline, '--baseline', baseline], standalone_mode=False)\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
