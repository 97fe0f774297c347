"""The types of the Python API: made from the options, and seen by a program that uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgewright.docs.import_graph import ROOT
from edgewright.docs.write_types import FILE, types

CONSUMER = """\
from pathlib import Path
from typing import Literal, assert_type

import edgewright as ew

plan = ew.plan("Qwen/Qwen2.5-3B", target="jetson-orin-nano-8gb", context=4096)
rows = assert_type(plan.rows, list[dict[str, object]])  # wrong
pruned = ew.prune(Path("model"), heads=0.25, out="pruned", criterion="norm")
assert_type(pruned.output, Path)
ew.quantize(pruned.output, method="gptq", bits=4, out=Path("int4"), rule=["*.down_proj=8"])
ew.distill("pruned", teacher="none", out="taught", stages=[{"loss": "labels", "steps": 3}])
ew.export("int4", precision="int4", out="int4-onnx")
found = ew.bench("int4-onnx", tasks="reasoning", limit=10, context=[2048], save="new.json")
accuracy: float = found.metrics["accuracy/reasoning"]
verdict = ew.gate("new.json", baseline="old.json").verdict
assert_type(verdict, Literal["pass", "fail", "inconclusive"])
gate = ew.run("demo", out="runs/demo").gate
gate.accepted  # wrong
try:
    ew.prune("model", heads="many", out="x")  # wrong
    ew.prune("model", no_such_option=1)  # wrong
    ew.quantize("model", method="gtpq", out="x")  # wrong
    ew.quantize("model")  # wrong
except ew.EdgewrightError as error:
    print(error.hint.upper())
ew.no_such_verb  # wrong
"""
"""A program with right calls, and with mistakes on the lines that say so."""


def test_the_file_has_the_options_of_today() -> None:
    assert FILE.read_text() == types(), "run `python -m edgewright.docs.write_all`"


def test_a_program_is_checked(tmp_path: Path) -> None:
    (tmp_path / "edgewright").symlink_to(ROOT)
    program = tmp_path / "consumer" / "program.py"
    program.parent.mkdir()
    program.write_text(CONSUMER)
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(tmp_path)]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [Path(sys.executable).parent / "basedpyright", "--outputjson", "program.py"],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    found = {one["range"]["start"]["line"] for one in report["generalDiagnostics"]}
    lines = CONSUMER.splitlines()
    assert found == {at for at, line in enumerate(lines) if "# wrong" in line}, report
