"""The Triton model repository: its layout, and its generation with a fake of Triton."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder

Cli = Callable[..., tuple[int, str, str]]


@dataclass
class Tensor:
    """Triton's tensor, on the CPU."""

    label: str
    array: Any

    def name(self) -> str:
        return self.label

    def as_numpy(self) -> Any:
        return self.array


@dataclass
class Reply:
    """A request's answer, or a call's."""

    output_tensors: list[Tensor]
    failure: Any = None

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> Any:
        return self.failure


def backend(graphs: dict[str, Path]) -> tuple[ModuleType, list[int]]:
    """A fake `triton_python_backend_utils` that runs ONNX Runtime, and the batch of each call."""
    sessions = {
        name: ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for name, path in graphs.items()
    }
    batches: list[int] = []

    class InferenceRequest:
        def __init__(
            self,
            model_name: str,
            requested_output_names: list[str],
            inputs: list[Tensor],
            preferred_memory: object,
        ) -> None:
            self.model, self.outputs, self.inputs = model_name, requested_output_names, inputs

        def exec(self) -> Reply:
            feeds = {tensor.label: tensor.array for tensor in self.inputs}
            batches.append(len(feeds["input_ids"]))
            made = sessions[self.model].run(self.outputs, feeds)
            return Reply(
                [Tensor(name, array) for name, array in zip(self.outputs, made, strict=True)]
            )

    def named(tensors: list[Tensor], name: str) -> Tensor | None:
        return next((tensor for tensor in tensors if tensor.label == name), None)

    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceRequest = Tensor, InferenceRequest
    module.InferenceResponse = lambda output_tensors=(), error=None: Reply(
        list(output_tensors), error
    )
    module.TritonError, module.TRITONSERVER_MEMORY_CPU = str, 0
    module.PreferredMemory = lambda kind, where=0: (kind, where)
    module.get_input_tensor_by_name = named
    module.get_output_tensor_by_name = lambda reply, name: named(reply.output_tensors, name)
    return module, batches


@pytest.fixture(scope="module")
def repository(
    make_model: Callable[..., Path], context: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of a tiny model."""
    from edgewright.export.options import ExportOptions
    from edgewright.export.runner import export

    out = tmp_path_factory.mktemp("triton") / "tiny"
    export(
        ExportOptions(format="triton", precision="fp32"),
        make_model("llama", max_position_embeddings=64),
        out,
        context,
    )
    return out


def loaded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    """The generating model as Triton would load it, and the batches of the graph's calls."""
    module, batches = backend(
        {"tiny-graph": repository / "models" / "tiny-graph" / "1" / "model.onnx"}
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    spec = importlib.util.spec_from_file_location(
        "model", repository / "models" / "tiny" / "1" / "model.py"
    )
    assert spec
    assert spec.loader
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    text = (repository / "models" / "tiny" / "config.pbtxt").read_text()
    found = re.search(r'key: "decoder" value \{ string_value: (".*") \}', text)
    assert found
    model = code.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(
                {"parameters": {"decoder": {"string_value": json.loads(found[1])}}}
            )
        }
    )
    return model, batches


def request(rows: list[list[int]], limit: int) -> list[Tensor]:
    """A request of rows of one length, or of several with a mask."""
    longest = max(map(len, rows))
    ids = np.array([[0] * (longest - len(row)) + row for row in rows], np.int64)
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows], np.int64)
    tensors = [
        Tensor("input_ids", ids),
        Tensor("max_tokens", np.full((len(rows), 1), limit, np.int32)),
    ]
    return tensors if mask.all() else [*tensors, Tensor("attention_mask", mask)]


def test_the_repository_generates_what_we_generate(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = loaded(repository, monkeypatch)
    decoder = OnnxDecoder(repository / "models" / "tiny-graph" / "1" / "model.onnx", 1)
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12], [3, 1, 4, 1, 5, 9, 2, 6], [30, 31]]
    replies = model.execute(
        [request(prompts[:2], 6), request([prompts[2]], 3), request(prompts[2:], 9)]
    )
    tokens = [reply.output_tensors[0].array for reply in replies]
    assert [array.shape[0] for array in tokens] == [2, 1, 2]
    for prompt, row in zip(
        [*prompts[:3], *prompts[2:]], [row for array in tokens for row in array], strict=True
    ):
        ids = np.array([prompt])
        expected = decoder.generate(ids, np.ones_like(ids), len(row), model.eos)[0]
        assert row[: len(expected)].tolist() == expected.tolist()
    assert set(batches) == {5}  # rows of requests of unequal length in the same passes
    assert len(batches) <= 9


@pytest.mark.parametrize(
    ("rows", "limit", "said"),
    [
        ([[5] * 60], 10, "context of 64"),
        ([[5, 100_000]], 4, "vocabulary"),
        ([[5]], 0, "not positive"),
    ],
)
def test_a_bad_request_fails_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch, rows: Any, limit: int, said: str
) -> None:
    model, _ = loaded(repository, monkeypatch)
    bad, good = model.execute([request(rows, limit), request([[5, 6]], 2)])
    assert said in bad.error()
    assert good.output_tensors[0].array.shape == (1, 2)


def test_the_layout(repository: Path) -> None:
    files = {
        file.relative_to(repository).as_posix() for file in repository.rglob("*") if file.is_file()
    }
    assert {
        "models/tiny/config.pbtxt",
        "models/tiny/1/model.py",
        "models/tiny-graph/config.pbtxt",
        "edgewright.json",
    } <= files
    assert {
        "models/tiny-graph/1/model.onnx",
        "models/tiny-graph/1/model.onnx.data",
        "tokenizer.json",
        "config.json",
    } <= files
    provenance = json.loads((repository / "edgewright.json").read_text())
    assert (provenance["format"], provenance["parity"]["parity/top1_decode"]) == ("triton", 1.0)
    assert not list(repository.parent.glob(".tiny*"))


def test_a_name_that_triton_would_not_take_is_refused(
    cli: Cli, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    code, _, err = cli(
        "export", make_model("llama"), "--format", "triton", "--out", tmp_path / "a name"
    )
    assert (code, "letters, digits" in err) == (2, True), err
    assert not list(tmp_path.iterdir())
