"""A bundle of an artifact whose KV cache is in 8 bits, as a device runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle

from test_answer_lines import IDS, answers, ask, program  # isort: skip
from test_bundle import run_bundle  # isort: skip

pytest_plugins = ["deploy_fixtures"]


@pytest.mark.parametrize("format", ["ort", "onnx"])
def test_it_checks_answers_and_scores(
    make_model: Callable[..., Path], python: Path, tmp_path: Path, format: str
) -> None:
    artifact = tmp_path / "int8"
    options = ExportOptions(format=format, kv_cache="int8")
    context = StepContext(CalibrationData(samples=8, seq_len=64))
    export(options, make_model("llama", num_hidden_layers=1), artifact, context)
    made = make_bundle(artifact, load_target("cpu"))
    assert made.manifest["kv_cache"] == "int8"
    bundle = write_bundle(made, tmp_path / "bundle")
    code, checked = run_bundle(bundle, python, "check")
    assert (code, checked["check/equal"]) == (0, checked["check/tokens"])
    decoder = OnnxDecoder(artifact, 1)
    expected = [*decoder.stream(IDS, 6)]
    with program(bundle, python) as process:
        answers(process, "ready")
        ask(process, {"ids": IDS, "new_tokens": 6, "ends": []})
        *tokens, _ = answers(process, "done")
        assert [message["token"] for message in tokens] == expected
        ask(process, {"ids": IDS, "continuation": expected, "top": 4})
        (reply,) = answers(process, "scored")
    assert [best[0] for best in reply["scored"]["ids"]] == expected
    assert not reply["scored"]["not_finite"] and np.isfinite(reply["scored"]["logprobs"]).all()
