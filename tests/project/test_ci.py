"""The CI recipes of docs/ci.md, the action and the component are run as runners run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ci_runner import Job, Runner, component, run_component
from forge_server import NUMBER, TOKEN, Forge, forge_server

from edgewright import __version__

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github/actions/gate/action.yml"
TEMPLATE = ROOT / "templates/gate/template.yml"
PAGE = (ROOT / "docs/ci.md").read_text()
POLICY, WORKFLOW, GITLAB = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
)
NAMED = f"edgewright=={__version__}"
HOSTILE = "::add-mask::x\n::error::owned ##[add-mask]x | <img src=x> @all"


def measurement(right: int, name: str = "int4") -> dict[str, Any]:
    """A measurement with every metric of the documented policy.

    Its perplexity has no samples, as in a file of an older edgewright.
    """
    return {
        "name": name,
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
    folder = tmp_path / "project"
    (folder / "baselines").mkdir(parents=True)
    (folder / "baselines" / "int4.json").write_text(json.dumps(measurement(950)))
    (folder / "gate.yaml").write_text(yaml.safe_dump(POLICY))
    return folder


def clean_environment(folder: Path) -> dict[str, str]:
    """The variables of a runner, with the `edgewright` of this environment on PATH."""
    bin_dir = folder / "bin"
    bin_dir.mkdir(exist_ok=True)
    (bin_dir / "edgewright").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m edgewright.cli "$@"\n'
    )
    (bin_dir / "edgewright").chmod(0o755)
    return {
        "PATH": os.pathsep.join(
            [str(bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
    }


def runner(project: Path, **variables: str) -> Runner:
    """A runner of GitHub that has checked out the project."""
    temporary = project.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    python = {"python-path": sys.executable, "python-version": "3.11.7"}
    replaced = {"actions/setup-python": lambda _: python, "actions/cache": lambda _: {}}
    environment = {**clean_environment(project.parent), **variables}
    return Runner(project, temporary, environment, replaced)


@pytest.fixture
def forge(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with forge_server(request.param if hasattr(request, "param") else "github") as one:
        yield one


def in_pull_request(project: Path, forge: Forge, **inputs: str) -> Job:
    """Run the action in a job for a pull request, with the documented inputs."""
    event = project.parent / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": NUMBER}}))
    (step,) = [one for one in WORKFLOW["jobs"]["gate"]["steps"] if one.get("id") == "gate"]
    variables = forge.environment(str(event))
    token = variables.pop("GITHUB_TOKEN")  # a job has it as an input, and not in its environment
    given = step["with"] | {"install": "none"} | inputs
    return runner(project, **variables).act(ACTION, given, token)


@pytest.mark.parametrize(
    ("right", "code", "verdict", "accepted"),
    [
        (950, 0, "pass", "true"),
        (920, 5, "fail", "false"),
        (949, 0, "inconclusive", "true"),
    ],
)
def test_action(
    project: Path, forge: Forge, right: int, code: int, verdict: str, accepted: str
) -> None:
    (project / "new file.json").write_text(json.dumps(measurement(right)))
    job = in_pull_request(project, forge, candidate="new file.json")
    assert job.code == code, job.log
    (comment,) = forge.comments
    assert job.outputs == {
        "verdict": verdict,
        "accepted": accepted,
        "comment-url": comment["html_url"],
    }
    mark = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}[verdict]
    assert f"### edgewright gate: {mark}" in job.summary
    assert job.summary in comment["body"] and job.summary == (project / "gate.md").read_text()
    assert (project / "gate.xml").read_text().count("<testcase") == 3
    assert f"edgewright gate: {verdict}" in (project / "gate.svg").read_text()
    assert job.commands == [] and TOKEN not in job.log


def test_action_replaces_its_comment_at_the_next_push(project: Path, forge: Forge) -> None:
    for right in (920, 950):
        (project / "new.json").write_text(json.dumps(measurement(right)))
        in_pull_request(project, forge)
    (comment,) = forge.comments
    assert "✅ pass" in comment["body"] and "fail**" not in comment["body"]


def test_action_in_a_fork_has_its_summary(project: Path, forge: Forge) -> None:
    forge.read_only = True
    (project / "new.json").write_text(json.dumps(measurement(920)))
    job = in_pull_request(project, forge)
    assert (job.code, job.outputs["verdict"], job.outputs["comment-url"]) == (5, "fail", "")
    assert "### edgewright gate: ❌" in job.summary
    assert "no comment: the token may not write comments" in job.log
    assert forge.comments == []


def test_action_outside_of_a_pull_request_without_policy_and_badge(project: Path) -> None:
    (project / "new.json").write_text(json.dumps(measurement(950)))
    inputs = {"candidate": "new.json", "baseline": "baselines/int4.json", "install": "none"}
    job = runner(project, GITHUB_ACTIONS="true").act(ACTION, inputs, TOKEN)
    assert (job.code, job.outputs["verdict"]) == (0, "pass"), job.log
    quiet = runner(project).act(ACTION, {**inputs, "comment": ""}, TOKEN)
    assert quiet.code == 0 and "no comment" not in quiet.log
    assert not list(project.glob("gate.svg"))


def test_action_with_a_file_that_is_missing(project: Path, forge: Forge) -> None:
    job = in_pull_request(project, forge, candidate="--help")
    assert job.code == 2 and "--help" in job.log
    assert job.outputs == {"verdict": "", "accepted": "", "comment-url": ""}
    assert (job.summary, forge.comments) == ("", [])


def test_action_and_hostile_names(project: Path, forge: Forge) -> None:
    """Names of files, models and tasks are no commands for the shell, the runner or the page."""
    (project / "$(touch owned).json").write_text(json.dumps(measurement(920, HOSTILE)))
    job = in_pull_request(project, forge, candidate="$(touch owned).json", comment="a; touch owned")
    assert job.code == 2 and "--comment" in job.log
    job = in_pull_request(project, forge, candidate="$(touch owned).json")
    assert job.code == 5
    assert job.commands == [], "a name must be no command to the runner"
    assert "##[add-mask]" in job.log, "the name was printed, so the test can fail"
    assert not (project / "owned").exists()
    assert "<img" not in forge.comments[0]["body"] and "\\@all" in forge.comments[0]["body"]


def test_action_and_an_error_that_quotes_a_hostile_name(project: Path, forge: Forge) -> None:
    bad = measurement(950) | {"metrics": {f"accuracy/{HOSTILE}": 2.0}}
    (project / "new.json").write_text(json.dumps(bad))
    job = in_pull_request(project, forge)
    assert job.code == 2 and "add-mask" in job.log
    assert job.commands == []


def test_action_installs_what_it_is_told(project: Path, forge: Forge) -> None:
    """pip is replaced by a script that writes down its arguments."""
    temporary = project.parent / "temporary"
    fake = project.parent / "python"
    fake.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\nprintf "%s\\n" "$@" > venv.txt\n'
        'printf \'#!/bin/sh\\nprintf "%%s\\\\n" "$PIP_CACHE_DIR" "$@" > pip.txt\\n\' '
        '> "$3/bin/python"\nchmod +x "$3/bin/python"\n'
    )
    fake.chmod(0o755)
    for install, told in (("", None), (NAMED, NAMED), ("--evil", "--evil")):
        one = runner(project)
        python = {"python-path": str(fake), "python-version": "3.12.1"}
        one.replaced = {"actions/setup-python": lambda _, p=python: p, "actions/cache": dict}
        (project / "new.json").write_text(json.dumps(measurement(950)))
        inputs = {"candidate": "new.json", "baseline": "baselines/int4.json", "install": install}
        job = one.act(ACTION, inputs, TOKEN)
        assert job.code == 0, job.log
        cache, *words = (project / "pip.txt").read_text().splitlines()
        assert cache == f"{temporary}/edgewright-pip" == job.used[1][1]["path"]
        assert words[:3] == ["-m", "pip", "install"] and words[-2] == "--"
        assert Path(words[-1]).resolve() == ROOT if told is None else words[-1] == told
        assert job.used[1][1]["key"] == f"edgewright-Linux-X64-3.12.1-{install or 'v9.9.9'}"
        assert (project / "venv.txt").read_text().split()[:2] == ["-m", "venv"]


def test_action_uses_pinned_actions_and_describes_its_inputs() -> None:
    action = yaml.safe_load(ACTION.read_text())
    for step in action["runs"]["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
    listed = re.findall(r"^\| (`[^|]*`) \|", PAGE.partition("## GitHub")[2], re.M)
    assert set(re.findall(r"`([\w-]+)`", " ".join(listed))) == set(action["inputs"])
    for output in action["outputs"]:
        assert f"`{output}`" in PAGE


def test_documented_workflow(project: Path, forge: Forge) -> None:
    """Its steps fit together: what `bench` saves is gated, at the release of this repository."""
    job = WORKFLOW["jobs"]["gate"]
    assert job["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert f"pip install 'edgewright[compress]=={__version__}'" in str(job["steps"])
    (gate,) = [step for step in job["steps"] if step.get("id") == "gate"]
    owner, _, rest = gate["uses"].partition("/")
    assert (owner, rest) == ("OWNER", f"edgewright/.github/actions/gate@v{__version__}")
    (bench,) = [step["run"] for step in job["steps"] if "edgewright bench" in step.get("run", "")]
    assert bench.split()[-1] == gate["with"]["candidate"] == "new.json"
    measured = {
        "accuracy/reasoning": "--tasks reasoning",
        "perplexity/wiki": "--perplexity text:wiki.txt",
    }
    for metric in POLICY["limits"]:
        assert measured.get(metric, "") in bench, metric


def in_merge_request(project: Path, forge: Forge, **inputs: str) -> tuple[int, str, dict[str, Any]]:
    """Run the job of the component in a merge request, with the documented inputs."""
    given = GITLAB["include"][0]["inputs"] | {"install": "none"} | inputs
    name, job = component(TEMPLATE, given)
    assert name == inputs.get("job-name", "edgewright-gate")
    builds = {"CI_BUILDS_DIR": str(project.parent), "CI_PROJECT_DIR": str(project)}
    environment = {**clean_environment(project.parent), **builds, **forge.environment("")}
    return (*run_component(job, project, environment), job)


@pytest.mark.parametrize("forge", ["gitlab"], indirect=True)
@pytest.mark.parametrize(("right", "code"), [(950, 0), (920, 5)])
def test_component(project: Path, forge: Forge, right: int, code: int) -> None:
    (project / "new.json").write_text(json.dumps(measurement(right)))
    found, log, job = in_merge_request(project, forge)
    assert found == code, log
    assert ("the gate failed" in log) == (code == 5)
    for file in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (project / file).stat().st_size
    assert job["artifacts"]["when"] == "always"
    (note,) = forge.comments
    assert (project / "gate.md").read_text() in note["body"]
    in_merge_request(project, forge)
    assert len(forge.comments) == 1, "the next push replaces the note"


@pytest.mark.parametrize("forge", ["gitlab"], indirect=True)
def test_component_without_a_token_and_with_hostile_names(project: Path, forge: Forge) -> None:
    name = '$(touch owned) "x" $HOME.json'
    (project / name).write_text(json.dumps(measurement(950, HOSTILE)))
    forge.read_only = True
    code, log, _ = in_merge_request(project, forge, candidate=name)
    assert code == 0 and "no comment: the token may not write comments" in log
    assert not (project / "owned").exists()
    with pytest.raises(AssertionError, match="comment: `a b` is refused"):
        in_merge_request(project, forge, comment="a b")
    with pytest.raises(AssertionError, match=r"badge: `gate\.png` is refused"):
        in_merge_request(project, forge, badge="gate.png")


def test_component_installs_this_release() -> None:
    _, job = component(TEMPLATE, {"candidate": "new.json", "baseline": "old.json"})
    assert job["variables"]["GATE_INSTALL"]["value"] == NAMED
    where = GITLAB["include"][0]["component"]
    assert where.endswith(f"/edgewright/gate@v{__version__}")
    assert "-m pip install" in job["script"][0]
    assert job["variables"]["PIP_CACHE_DIR"].endswith(job["cache"]["paths"][0])


def test_commands_of_the_documentation_update_the_baseline(project: Path) -> None:
    (update,) = re.findall(r"^(edgewright gate .* --update-baseline)$", PAGE, re.M)
    (gate,) = re.findall(r"^(edgewright gate .*--junit.*)$", PAGE, re.M)
    (project / "new.json").write_text(json.dumps(measurement(920)))

    def run(command: str) -> int:
        environment = clean_environment(project.parent)
        done = subprocess.run(
            command, shell=True, cwd=project, env=environment, capture_output=True
        )
        return done.returncode

    assert (run(gate), run(update)) == (5, 0)
    written = json.loads((project / "baselines" / "int4.json").read_text())
    assert written.pop("check")  # of its own content
    assert written == measurement(920)
    assert run(gate) == 0


def test_comparing_needs_no_torch(project: Path) -> None:
    code = (
        "import sys\nfrom edgewright.cli import app\n"
        "baseline = 'baselines/int4.json'\n"
        "app(['gate', baseline, '--baseline', baseline, '--comment', 'x'], standalone_mode=False)\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
