"""The matrix of jobs: which command lines are run.

The folder `jobs` holds them. A line is `NAME: ARGUMENTS` and continues on indented lines. `@NAME`
is the result of another job, `%NAME/FILE` a file in its folder, `{out}` the folder of the job
itself, `{f}` a model family. `--json` is added, except after `!`: then the text on standard output
is recorded. `?` marks a job whose results depend on the machine and its load: only its exit code
and the keys of its JSON are compared.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from .models import FAMILIES, MIXTURES

DEMO = "demo"
JOBS = Path(__file__).parent / "jobs"
VERBS = [
    "run",
    "demo",
    "plan",
    "prune",
    "traces",
    "distill",
    "iterate",
    "quantize",
    "bench",
    "gate",
    "compare",
    "sweep",
    "report",
    "deploy",
    "serve",
    "export",
    "kv-study",
    "doctor",
    "targets",
]
DEFAULT_OUT = ("prune", "distill", "iterate", "quantize", "export", "run", "sweep", "demo")
"""Verbs that get `--out out/NAME/result` if the matrix does not set it."""
SHORT = {
    "{demo}": "builtin:tiny-reasoner",
    "{few}": "--samples 8 --seq-len 64",
    "{rows}": "--calibration text:story.txt --samples 6 --seq-len 32",
    "{text}": "--calibration text:story.txt --seq-len 32",
    "{learn}": "--data text:story.txt --seq-len 32 --batch-size 4",
}


def matrix() -> dict[str, str]:
    """All jobs: name -> command line, with its abbreviations."""
    files = ["compress", "evaluate", "pipeline", "errors"]
    text = "".join((JOBS / f"{name}.txt").read_text() for name in files)
    text += "".join(f"help-{verb}: !{verb} --help\n" for verb in VERBS)
    text += "help-targets-show: !targets show --help\nhelp-targets-check: !targets check --help\n"
    for family in FAMILIES:
        kind = "mixture_family" if family in MIXTURES else "dense_family"
        for name in ("family", kind):
            text += (JOBS / f"{name}.txt").read_text().replace("{f}", family)
    lines = [line for line in re.sub(r"\n +", " ", text).splitlines() if line]
    jobs = dict(line.split(": ", 1) for line in lines)
    if len(jobs) != len(lines):
        raise ValueError("two jobs have the same name")
    return jobs | {DEMO: "demo"}


def needs(command: str) -> list[str]:
    """The jobs whose results a command line reads."""
    return [name for name in re.findall(r"[@%]([a-z0-9_.-]+)", command) if name != "inputs"]


def matching(names: Iterable[str], only: str) -> list[str]:
    """The names that fit one of the comma-separated patterns; all names if there are none."""
    patterns = only.split(",") if only else ["*"]
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


def chosen(jobs: Mapping[str, str], only: str) -> list[str]:
    """The jobs to run, each after the jobs that it reads from. The demo must be named."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        for other in needs(jobs[name]):
            add(other)
        order.setdefault(name)

    for name in matching(jobs, only):
        if name != DEMO or DEMO in only.split(","):
            add(name)
    return list(order)


def typed(name: str, command: str) -> list[str]:
    """The arguments of a job, without abbreviations."""
    text = command.lstrip("!?")
    for short, long in SHORT.items():
        text = text.replace(short, long)
    text = text.replace("{out}", f"out/{name}")
    text = re.sub(r"@([a-z0-9_.-]+)", r"out/\1/result", text)
    text = re.sub(r"%([a-z0-9_.-]+)", r"out/\1", text)
    arguments = shlex.split(text)
    if arguments[0] in DEFAULT_OUT and not {"--out", "--help", "--dry-run"} & {*arguments}:
        arguments += ["--out", f"out/{name}/result"] if name != "error-nothing" else []
    return arguments if command.startswith("!") else [*arguments, "--json"]
