"""A name that is nearly right is answered with the right one, wherever names are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import nearest, suggestion

TYPED: dict[str, tuple[list[str], str]] = {
    "verb": (["quantise", "m"], "Did you mean 'quantize'?"),
    "option": (["quantize", "m", "--mehtod", "gptq"], "--method"),
    "value of an option": (
        ["quantize", "m", "--method", "gtpq", "--out", "o"],
        "--method gtpq: use gptq, mixed, rtn, awq, int8 or smoothquant; did you mean `gptq`?",
    ),
    "device": (
        ["plan", "demo", "--target", "jetson-orin-nano"],
        "did you mean jetson-orin-nano-8gb?",
    ),
    "recipe": (["run", "dmeo"], "did you mean demo?"),
    "recipe to plan": (["plan", "dmeo"], "did you mean demo?"),
    "step": (["plan", "demo", "--set", "steps.quantise.bits=3"], "did you mean quantize?"),
    "key": (["plan", "demo", "--set", "evaluate.limt=3"], "did you mean `limit`?"),
    "value in a recipe": (
        ["plan", "demo", "--set", "steps.prune.criterion=tailor"],
        "did you mean `taylor`?",
    ),
    "data": (
        ["plan", "demo", "--set", "calibration.source=builtin:reasonin"],
        "did you mean reasoning?",
    ),
    "kind of data": (
        ["plan", "demo", "--set", "calibration.source=jsnol:a"],
        "did you mean jsonl?",
    ),
    "task": (["plan", "demo", "--set", "evaluate.tasks=[resoning]"], "did you mean reasoning?"),
    "metric": (
        ["plan", "demo", "--set", "gate.limits.acuracy/reasoning.min=1"],
        "did you mean accuracy/reasoning?",
    ),
}


@pytest.mark.parametrize("what", TYPED)
def test_the_nearest_name_is_suggested(
    cli: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = TYPED[what]
    code, _, error = cli(*words)
    assert code == 2
    assert said in " ".join(error.split())


def test_a_wrong_device_is_not_taken_for_the_name_of_a_recipe(cli: Any) -> None:
    code, _, error = cli("plan", "dmeo", "--target", "jetson-orin-nano")
    assert code == 2
    assert error.count("did you mean") == 1
    assert "did you mean jetson-orin-nano-8gb?" in " ".join(error.split())


def test_nothing_like_it_is_no_suggestion() -> None:
    assert nearest("zebra", ("gptq", "awq")) == suggestion("zebra", ("gptq", "awq")) == ""
