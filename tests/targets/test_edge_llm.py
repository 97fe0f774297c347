"""Rules of TensorRT-Edge-LLM: our checkpoints pass; what it refuses or misreads is reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.hashing import content_hash
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.targets import load_target
from edgewright.targets.edge_llm import BESIDE, VERSION, check_checkpoint, commands

COMPAT = Path(__file__).parents[2] / "compat"
Cli = Callable[..., tuple[int, str, str]]
NANO = load_target("jetson-orin-nano-8gb")
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 256, "dtype": "float16"}


@pytest.fixture(scope="module")
def made(
    make_model: Callable[..., Path], context: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A quantized checkpoint, made once for its options."""
    known: dict[str, Path] = {}

    def make(family: str = "llama", config: dict[str, Any] | None = None, **options: Any) -> Path:
        key = json.dumps([family, options, config], sort_keys=True)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("edge") / "out"
            quantize(
                QuantizeOptions.model_validate(options),
                make_model(family, **(SMALL | (config or {}))),
                known[key],
                context,
            )
        return known[key]

    return make


def rules(path: Path) -> set[str]:
    return {violation.rule for violation in check_checkpoint(path, NANO)}


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("qwen2", {"method": "awq"}), ("qwen3", {"method": "smoothquant"})],
)
def test_what_we_write_passes(made: Callable[..., Path], family: str, options: Any) -> None:
    assert check_checkpoint(made(family, **options), NANO) == []


def test_floating_point_passes(make_model: Callable[..., Path]) -> None:
    assert check_checkpoint(make_model("llama", **SMALL), NANO) == []


@pytest.mark.parametrize(
    ("config", "options", "rule"),
    [
        ({}, {"group_size": 64}, "int4-group"),
        ({}, {"sym": False}, "int4-symmetric"),
        ({}, {"act_order": "permuted"}, "int4-order"),
        ({}, {"bits": 8}, "precision"),
        ({}, {"method": "int8"}, "layout"),
        ({"num_key_value_heads": 1, "num_attention_heads": 4, "head_dim": 32}, {}, "int4-shape"),
        ({"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 64}, {}, "attention"),
        ({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 96}, {}, "attention"),
    ],
)
def test_what_it_cannot_take_is_named(
    made: Callable[..., Path], config: Any, options: Any, rule: str
) -> None:
    found = check_checkpoint(made("llama", config, **options), NANO)
    assert rule in {violation.rule for violation in found}
    assert all(violation.severity == "refuse" and violation.nearest for violation in found)


def test_a_family_it_does_not_list(make_model: Callable[..., Path]) -> None:
    assert "family" in rules(make_model("mistral"))


def test_layers_of_unequal_size_are_named(copy_model: Callable[..., Path]) -> None:
    model = copy_model("llama", **SMALL)
    state = load_file(model / "model.safetensors")
    (name,) = [key for key in state if key.endswith("q_proj.weight") and ".1." in key]
    state[name] = state[name][:256].contiguous()
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    (violation,) = check_checkpoint(model, NANO)
    assert (
        violation.rule,
        "[256, 128]" in violation.message,
        "[512, 128]" in violation.message,
    ) == ("layer-shape", True, True)


def test_the_zero_points_count_and_not_what_config_json_says(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    model = Path(shutil.copytree(made("llama"), tmp_path / "copy"))
    state = load_file(model / "model.safetensors")
    name = next(key for key in state if key.endswith("qzeros"))
    state[name] = torch.full_like(state[name], 0x77777776)
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    assert rules(model) == {"int4-symmetric"}


def test_a_missing_chat_template_is_named(copy_model: Callable[..., Path]) -> None:
    model = copy_model("llama", **SMALL)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert rules(model) == {"chat-template"}


def test_a_cpu_has_no_edge_llm(make_model: Callable[..., Path]) -> None:
    assert {v.rule for v in check_checkpoint(make_model("llama", **SMALL), load_target("cpu"))} == {
        "format"
    }


def test_commands_are_of_the_jetpack(made: Callable[..., Path]) -> None:
    six, seven = commands(made("llama"), NANO).values()
    assert any("CUDA_CTK_VERSION=12.6" in line for line in six)
    assert any("CUDA_CTK_VERSION=13.2" in line for line in seven)
    assert "--externalize-weights int4_ffn" in "\n".join(six)
    assert "--externalize-weights" not in "\n".join(
        commands(made("llama"), load_target("jetson-agx-orin-64gb"))["6.2"]
    )


def test_the_exporter_runs_on_what_it_is_tested_on() -> None:
    pins = [
        line
        for line in (COMPAT / "edgellm.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert sorted(pins) == sorted(BESIDE)
    assert (COMPAT / "edgellm.no-deps.txt").read_text().split() == [f"tensorrt-edgellm=={VERSION}"]


@pytest.mark.parametrize(
    ("precision", "options"), [("fp16", None), ("int4", {}), ("int8", {"method": "smoothquant"})]
)
def test_a_checkpoint_is_handed_over_with_its_commands(
    cli: Cli,
    made: Callable[..., Path],
    make_model: Callable[..., Path],
    tmp_path: Path,
    precision: str,
    options: Any,
) -> None:
    source, out = (
        make_model("llama", **SMALL) if options is None else made("llama", **options),
        tmp_path / "out",
    )
    code, _, err = cli(
        "export", source, "--format", "edge-llm", "--precision", precision, "--out", out
    )
    assert code == 0, err
    assert check_checkpoint(out / "checkpoint", NANO) == []
    assert content_hash(out / "checkpoint") == content_hash(source)
    scripts = sorted(out.glob("*.sh"))
    assert [script.name for script in scripts] == [
        "build-jetpack-6.2.sh",
        "build-jetpack-7.2.sh",
        "export.sh",
    ]
    for script in scripts:
        assert os.access(script, os.X_OK)
        assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert ("int4_ffn" in scripts[-1].read_text()) == (precision != "fp16")
    assert not list(tmp_path.glob(".out*"))


def test_what_it_cannot_take_is_not_handed_over(
    cli: Cli, made: Callable[..., Path], tmp_path: Path
) -> None:
    for source, precision, expected, said in (
        (made("llama"), "fp16", 2, "holds int4"),
        (made("llama", {}, group_size=64), "int4", 3, "int4-group"),
        (made("llama", {}, method="int8"), "int8", 3, "layout"),
    ):
        code, _, err = cli(
            "export",
            source,
            "--format",
            "edge-llm",
            "--precision",
            precision,
            "--out",
            tmp_path / "out",
        )
        assert (code, said in err) == (expected, True), err
        assert not list(tmp_path.iterdir())


def test_the_verb_tells_and_refuses(
    cli: Callable[..., tuple[int, str, str]], made: Callable[..., Path]
) -> None:
    good, bad = made("llama"), made("llama", {}, group_size=64)
    code, out, err = cli(
        "targets", "check", good, "--target", NANO.name, "--format", "edge-llm", "--json"
    )
    assert code == 0, err
    verdict = json.loads(out)
    assert (verdict["precision"], list(verdict["commands"])) == ("int4", ["6.2", "7.2"])
    assert {violation["severity"] for violation in verdict["violations"]} <= {
        "note"
    }  # that JetPack 5.1 and 6.0 are too old
    code, out, _ = cli("targets", "check", bad, "--target", NANO.name, "--format", "edge-llm")
    assert (code, "int4-group" in out, "--group-size 128" in out) == (3, True, True)
    assert cli("targets", "check", good, "--target", NANO.name, "--format", "edge-llm")[0] == 0
    assert (
        cli(
            "targets", "check", good, "--target", NANO.name, "--format", "onnx", "--jetpack", "5.1"
        )[0]
        == 3
    )
