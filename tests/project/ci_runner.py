"""Runs a composite action of GitHub and a component of GitLab as their runners do.

Expressions and inputs are resolved, each `run:` is a shell of its own in the workspace, with a
clean environment and with the files of GitHub's runner, and what it prints is read for workflow
commands. Actions of others (`uses:`) are replaced by functions.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from expressions import filled, runs

Replaced = Callable[[Mapping[str, str]], Mapping[str, str]]
"""An action of others: takes its `with`, gives its outputs."""
COMMAND = re.compile(r"::([\w-]+)(?:\s[^:]*)?::(.*)|.*##\[([\w-]+)[^\]]*\](.*)")
"""`::name key=value::text`, and the older form, which may stand anywhere in a line."""


@dataclass
class Job:
    """What a run left behind.

    Attributes:
        code: exit code; that of the first step that failed.
        outputs: of the action.
        summary: Markdown of the job's summary.
        log: all that was printed.
        commands: workflow commands that the runner obeyed, `stop-commands` left out.
        used: actions of others, with what they were given.
    """

    code: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)
    used: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)


@dataclass
class Runner:
    """A runner with a workspace.

    Attributes:
        workspace: where the repository is checked out.
        temporary: the runner's own folder.
        environment: variables of every step.
        replaced: actions of others, by name without version.
    """

    workspace: Path
    temporary: Path
    environment: Mapping[str, str]
    replaced: Mapping[str, Replaced] = field(default_factory=dict)

    def act(self, file: Path, inputs: Mapping[str, str], token: str = "") -> Job:
        """Run a composite action with inputs; missing ones have their defaults."""
        action = yaml.safe_load(file.read_text())
        assert action["runs"]["using"] == "composite"
        assert set(inputs) <= set(action["inputs"]), "GitHub only warns of an unknown input"
        github = {"action_path": str(file.parent), "action_ref": "v9.9.9", "token": token}
        contexts: dict[str, Any] = {
            "github": github,
            "runner": {"os": "Linux", "arch": "X64", "temp": str(self.temporary)},
            "steps": {},
        }
        contexts["inputs"] = {
            name: str(inputs.get(name, filled(str(about.get("default", "")), contexts)))
            for name, about in action["inputs"].items()
        }
        for name, about in action["inputs"].items():
            assert name in inputs or not about.get("required"), f"input {name} is required"
        job = Job()
        for step in action["runs"]["steps"]:
            self._step(step, contexts, job)
        for name, about in action["outputs"].items():
            job.outputs[name] = self._output(about["value"], contexts)
        return job

    def _output(self, value: str, contexts: Mapping[str, Any]) -> str:
        """An output; empty where its step did not write it."""
        try:
            return filled(value, contexts)
        except AssertionError:
            return ""

    def _step(self, step: Mapping[str, Any], contexts: dict[str, Any], job: Job) -> None:
        if not runs(str(step.get("if", "")), contexts, failed=job.code != 0):
            if "id" in step:
                contexts["steps"][step["id"]] = {"outputs": {}}
            return
        if "uses" in step:
            name = step["uses"].partition("@")[0]
            given = {key: filled(str(value), contexts) for key, value in step["with"].items()}
            job.used.append((name, given))
            outputs = dict(self.replaced[name](given))
        else:
            assert "${{" not in step["run"], "a value in a script may be a command"
            assert step["shell"] == "bash"
            env = {key: filled(str(value), contexts) for key, value in step["env"].items()}
            outputs = self._shell(step["run"], env, job)
        if "id" in step:
            contexts["steps"][step["id"]] = {"outputs": outputs}

    def _shell(self, script: str, env: Mapping[str, str], job: Job) -> dict[str, str]:
        """Run a script as `shell: bash` does; the outputs that it wrote."""
        names = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH")
        files = {name: self.temporary / name.lower() for name in names}
        for file in files.values():
            file.write_text("")
        script_file = self.temporary / "step.sh"
        script_file.write_text(script)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script_file)],
            cwd=self.workspace,
            env={
                **self.environment,
                "RUNNER_TEMP": str(self.temporary),
                "GITHUB_WORKSPACE": str(self.workspace),
                **{name: str(file) for name, file in files.items()},
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        job.code = job.code or done.returncode
        job.log += done.stdout + done.stderr
        # The runner reads both streams, in no certain order: what stops commands stops one.
        job.commands += obeyed(done.stdout) + obeyed(done.stderr)
        job.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        assert not files["GITHUB_ENV"].read_text() and not files["GITHUB_PATH"].read_text()
        return assigned(files["GITHUB_OUTPUT"].read_text())


def obeyed(log: str) -> list[tuple[str, str]]:
    """The workflow commands in a log that a runner obeys, with what they are about."""
    found: list[tuple[str, str]] = []
    fence = ""
    for line in log.splitlines():
        command = COMMAND.match(line.strip())
        if command is None:
            continue
        name = command[1] or command[3]
        if fence:
            fence = "" if name == fence else fence
        elif name == "stop-commands":
            fence = command[2]
        else:
            found.append((name, command[2] or command[4]))
    assert not fence, "commands were stopped and never started again"
    return found


def assigned(text: str) -> dict[str, str]:
    """The variables in a file such as GITHUB_OUTPUT; refused where the runner refuses it."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, sign, value = line.partition("=")
        assert sign and re.fullmatch(r"[A-Za-z_][\w-]*", name), f"Invalid format '{line}'"
        found[name] = value
    return found


def component(file: Path, inputs: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """A component of GitLab with its inputs put in: the name of its job, and the job."""
    header, _, body = file.read_text().partition("\n---\n")
    declared = yaml.safe_load(header)["spec"]["inputs"]
    assert set(inputs) <= set(declared), "unknown input"
    values: dict[str, str] = {}
    for name, about in declared.items():
        assert name in inputs or "default" in about, f"input {name} is required"
        values[name] = str(inputs.get(name, about.get("default")))
        if pattern := about.get("regex"):
            assert re.search(pattern, values[name]), f"{name}: `{values[name]}` is refused"
    ((name, job),) = _interpolated(yaml.safe_load(body), values).items()
    assert "$[[" not in str(job)
    return name, job


def _interpolated(value: Any, inputs: Mapping[str, str]) -> Any:
    """A part of the parsed file with the inputs in its texts."""
    if isinstance(value, dict):
        items = value.items()
        return {_interpolated(k, inputs): _interpolated(v, inputs) for k, v in items}
    if isinstance(value, list):
        return [_interpolated(one, inputs) for one in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda m: inputs[m[1]], value)


def run_component(
    job: Mapping[str, Any], workspace: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run the script of a job as GitLab's runner does, all parts in one shell."""
    variables = {
        name: value["value"] if isinstance(value, dict) else os.path.expandvars(value)
        for name, value in job["variables"].items()
    }
    expanded = [value for value in job["variables"].values() if isinstance(value, dict)]
    assert all(value == {"value": value["value"], "expand": False} for value in expanded)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", "\n".join(job["script"])],
        cwd=workspace,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
