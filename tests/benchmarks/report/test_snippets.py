"""The snippets of a model card load what they are for: those that can run here are run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_parsing import parse
from test_compat import environment

from edgewright.benchmarks.report.model_card import write_card
from edgewright.benchmarks.report.snippets import Snippet, snippets_for
from edgewright.export.onnx.export import export_onnx
from edgewright.pipeline.registry import STEPS

ODD = 'it\'s a "model" & more'


def run(snippet: Snippet, beside: Path, python: str = sys.executable) -> str:
    """What a snippet of Python prints, in a process that cannot import edgewright."""
    done = subprocess.run(
        [python, "-I", "-c", f"import os\nos.chdir({str(beside)!r})\n{snippet.code}"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def named(folder: Path, start: str, **config: str) -> Snippet:
    return next(one for one in snippets_for(folder, config) if one.runtime.startswith(start))


@pytest.fixture(scope="module")
def pair(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its artifact in ONNX, both with an odd name."""
    folder = tmp_path_factory.mktemp("pair")
    source = make_model("llama")
    (folder / ODD).symlink_to(source)
    export_onnx(source, folder / "graph" / ODD, "fp32", format="ort")
    return folder


def test_transformers_and_onnx_runtime_generate_the_same(pair: Path) -> None:
    torch_text = run(named(pair / ODD, "transformers"), pair)
    plain = named(pair / "graph" / ODD, "ONNX Runtime")
    assert "apply_chat_template" in named(pair / ODD, "transformers").code
    assert torch_text.strip()
    without_chat = Snippet("", "python", _without_template(pair))
    ours = run(plain, pair / "graph")
    theirs = run(without_chat, pair)
    assert ours.strip() and theirs.startswith(ours.strip())


def _without_template(pair: Path) -> str:
    """The snippet for a checkpoint that has no chat template."""
    bare = pair / "bare" / ODD
    bare.mkdir(parents=True)
    for file in (pair / ODD).iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    code = named(bare, "transformers").code
    assert "apply_chat_template" not in code
    return code


@pytest.mark.compat
def test_onnxruntime_genai_runs_its_snippet(pair: Path) -> None:
    artifact = pair / "graph" / ODD
    text = run(named(artifact, "onnxruntime-genai"), pair / "graph", str(environment("genai")))
    assert text.strip()


def files(folder: Path, **texts: str) -> Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def packed(folder: Path, method: str) -> Path:
    config = f'{{"quantization_config": {{"quant_method": "{method}"}}}}'
    return files(folder, config__json=config, model__safetensors="")


@pytest.mark.parametrize(
    ("method", "runtimes", "package"),
    [
        ("gptq", ["transformers", "vLLM (a GPU)"], "gptqmodel"),
        ("awq", ["transformers", "vLLM (a GPU)"], "gptqmodel"),
        ("compressed-tensors", ["transformers", "vLLM (a GPU)"], "compressed-tensors"),
        ("modelopt", ["vLLM (a GPU)"], "vllm"),
    ],
)
def test_packed_weights_name_the_package_that_reads_them(
    method: str, runtimes: list[str], package: str, tmp_path: Path
) -> None:
    found = snippets_for(packed(tmp_path / ODD, method), {})
    assert [one.runtime for one in found] == runtimes
    assert package in found[0].needs
    for one in found:
        ast.parse(one.code)
        assert repr(ODD)[1:-1] in one.code or ODD.replace('"', '\\"') in one.code


def test_other_formats_name_their_programs_and_files(tmp_path: Path) -> None:
    gguf = files(tmp_path / "a", model__gguf="")
    assert "llama-server --model a/model.gguf" in named(gguf, "llama.cpp").code
    triton = files(tmp_path / "b")
    code = named(triton, "Triton", format="triton").code
    assert code == "tritonserver --model-repository=b/models"
    edge = files(tmp_path / "c", export__sh="", **{"build-jetpack-6__2__sh": ""})
    assert "bash c/export.sh" in named(edge, "TensorRT-Edge-LLM").code
    assert "build-jetpack-6.2.sh" in named(edge, "TensorRT-Edge-LLM").code
    assert snippets_for(files(tmp_path / "d"), {}) == []


def test_commands_are_valid_shell_and_valid_commands_of_ours(tmp_path: Path) -> None:
    artifact = files(tmp_path / ODD, model__onnx="", genai_config__json="{}")
    found = snippets_for(artifact, {"format": "onnx", "precision": "int4"})
    assert [one.runtime for one in found] == [
        "edgewright",
        "onnxruntime-genai",
        "ONNX Runtime",
        "a Jetson",
    ]
    for one in found:
        if one.language == "sh":
            assert subprocess.run(["bash", "-n", "-c", one.code], check=False).returncode == 0
            assert ODD in map(str, parse(one.code).values())


@pytest.mark.parametrize("config", [{"window": 8}, {"kv_cache": "int8"}, {"precision": "bf16"}])
def test_a_graph_that_plain_code_cannot_drive_has_no_plain_code(
    config: dict[str, str], tmp_path: Path
) -> None:
    artifact = files(tmp_path / "a", model__onnx="")
    assert [one.runtime for one in snippets_for(artifact, config)] == ["edgewright", "a Jetson"]


def test_the_card_holds_the_snippets(pair: Path, tmp_path: Path) -> None:
    folder = files(tmp_path / ODD, model__onnx="", genai_config__json="{}")
    entry = {"name": "x", "kind": "export", "config": {}, "metrics": {}, "notes": []}
    entry |= {"context": {}}
    text = write_card(folder, entry, STEPS["export"], "m", tmp_path, "").read_text()
    assert "## How to load it" in text
    for one in snippets_for(folder, {}):
        assert f"### {one.runtime}" in text and one.code.strip() in text
