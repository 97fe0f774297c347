"""A deployment to ONNX Runtime on a device that ends in a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewright.export.onnx.export import export_onnx

pytest_plugins = ["deploy_fixtures"]

MakeModel = Callable[..., Path]


def test_the_weights_of_another_model_are_rejected(
    deployed: Any, artifact: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    sizes = {"num_hidden_layers": 1, "intermediate_size": 1024}
    reference = ("--reference", make_model("llama", **sizes), "--answer-tokens", 8)
    code, out, err = deployed(artifact, *reference)
    assert code == 0, err
    good = json.loads(out)
    assert good["gate"]["verdict"] == "pass"
    assert (good["metrics"]["answers/top1"], good["metrics"]["answers/prefix"]) == (1, 1)
    assert good["context"]["answers"]["questions"] == 16
    other = tmp_path / "other" / "tiny"
    export_onnx(make_model("llama", seed=1, **sizes), other, "fp32")
    code, out, err = deployed(other, *reference)
    assert code == 5, err
    bad = json.loads(out)
    assert (bad["name"], bad["gate"]["verdict"]) == ("tiny@cpu-rejected", "fail")
    assert any("weights or scales of a layer are wrong" in note for note in bad["notes"])
    assert any("the artifact is wrong and not the device" in note for note in bad["notes"])
    current = tmp_path / "device" / "tiny" / "current"
    assert current.resolve().name == good["context"]["version"]
    steps = json.loads((tmp_path / "ledger" / "ledger.json").read_text())["steps"]
    assert [step["name"] for step in steps] == ["tiny@cpu", "tiny@cpu-rejected"]
    for step in steps:
        assert (tmp_path / "ledger" / step["samples"]).is_file()
