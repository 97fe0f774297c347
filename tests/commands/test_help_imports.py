"""What `--help` and completion import: nothing of the verbs that are not asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LIBRARIES = {"torch", "transformers", "matplotlib", "onnx", "numpy", "yaml"}
PACKAGES = ("benchmarks", "compress", "export", "models", "pipeline", "targets")
MODULES = ("verb", "compress", "deliver", "measure", "project")
OWN = {
    *(f"edgewright.{package}" for package in PACKAGES),
    *(f"edgewright.commands.{module}" for module in MODULES),
}
REPORT = (
    "import atexit, sys\n"
    "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
    "from edgewright.cli import main\n"
    "sys.argv = ['edgewright', *sys.argv[1:]]\n"
    "main()\n"
)


def imported(*words: str, **variables: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    assert done.stdout
    return set(done.stderr.split())


def test_the_list_of_verbs_imports_no_verb() -> None:
    found = imported("--help")
    assert not found & {"pydantic", *LIBRARIES, *OWN}
    assert "edgewright.commands.catalog" in found


def test_completing_a_verb_imports_no_verb() -> None:
    variables = {"_EDGEWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "edgewright qu"}
    assert not imported(COMP_CWORD="1", **variables) & (LIBRARIES | OWN)


@pytest.mark.parametrize(
    ("verb", "others"),
    [
        ("gate", ("compress", "models", "targets", "commands.compress", "commands.deliver")),
        ("quantize", ("commands.measure", "commands.deliver", "pipeline")),
        ("plan", ("compress", "commands.compress", "commands.measure")),
    ],
)
def test_help_of_a_verb_imports_no_other_verb(verb: str, others: tuple[str, ...]) -> None:
    found = imported(verb, "--help")
    assert not found & {f"edgewright.{other}" for other in others}
    assert not found & (LIBRARIES - {"yaml"})
