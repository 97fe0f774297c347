"""`import edgewright as ew`: the verbs as functions, which return what `--json` prints."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgewright as ew
from edgewright.errors import UsageError

FUNCTIONS = ("bench", "distill", "export", "gate", "plan", "prune", "quantize", "run")


def test_importing_edgewright_imports_nothing_else() -> None:
    script = (
        "import sys, edgewright\n"
        "print([m for m in sys.modules if m.startswith('edgewright.') or m in "
        "('torch', 'pydantic', 'typer', 'numpy')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_options_of_its_verb(name: str) -> None:
    function = getattr(ew, name)
    options = inspect.signature(function).parameters
    assert callable(function) and name in dir(ew)
    assert next(iter(options.values())).kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = {name: "x" for name, option in options.items() if option.default is option.empty}
    with pytest.raises(TypeError, match="no_such_option"):
        function(**needed, no_such_option=1)


def test_export_is_a_package_and_a_function() -> None:
    import edgewright.export.options

    assert edgewright.export.options.ExportOptions
    assert ew.export is edgewright.export
    assert "precision" in inspect.signature(ew.export).parameters


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no_such_verb"):
        ew.no_such_verb  # noqa: B018


def test_a_step_returns_what_the_verb_prints(cli, make_model, tmp_path: Path) -> None:
    model = make_model("llama")
    typed = tmp_path / "typed"
    called = tmp_path / "called"
    small = {"samples": 4, "seq_len": 64}
    code, out, _ = cli(
        "prune", model, "--ffn", 0.5, "--out", typed, "--samples", 4, "--seq-len", 64, "--json"
    )
    assert code == 0
    found = ew.prune(str(model), ffn=0.5, out=called, **small)
    printed = json.loads(out)
    assert found["details"] == printed["details"]
    assert found.keys() == printed.keys()
    assert (called / "model.safetensors").read_bytes() == (typed / "model.safetensors").read_bytes()
    assert "edgewright.prune(" in (called / "README.md").read_text()
    assert ew.prune(str(model), ffn=0.5, out=str(called), **small)["reused"] is True


def test_plan_returns_rows_that_a_device_refuses(cli, make_model) -> None:
    model = str(make_model("llama"))
    code, out, _ = cli("plan", model, "--target", "jetson-orin-nano-8gb", "--json")
    assert code == 0
    assert ew.plan(model, target="jetson-orin-nano-8gb") == json.loads(out)


def test_a_failed_gate_is_returned(tmp_path: Path) -> None:
    files = {}
    for name, accuracy in (("old", 0.9), ("new", 0.1)):
        right = round(100 * accuracy)
        files[name] = tmp_path / f"{name}.json"
        measurement = {
            "name": name,
            "metrics": {"accuracy/reasoning": accuracy},
            "context": {"problems/reasoning": 100},
            "samples": {"accuracy/reasoning": {"correct": "1" * right + "0" * (100 - right)}},
        }
        files[name].write_text(json.dumps(measurement))
    result = ew.gate(str(files["new"]), baseline=str(files["old"]))
    assert result["verdict"] == "fail"


def test_errors_are_exceptions_that_name_keywords(make_model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^heads: Input should be less than 1"):
        ew.prune(str(make_model("llama")), heads=2.0, out=tmp_path / "out")
    with pytest.raises(UsageError, match="nothing to measure"):
        ew.bench(str(make_model("llama")))
