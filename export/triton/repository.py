"""Write a Triton model repository: one model for the graph, one for greedy generation with it.

models/NAME/config.pbtxt           dynamic batching; input_ids and max_tokens in, tokens out
models/NAME/1/model.py             `triton_model.py`, for Triton's Python backend
models/NAME-graph/config.pbtxt     one pass with a KV cache, for its ONNX Runtime backend
models/NAME-graph/1/model.onnx
tokenizer, config.json             for clients, which send and get token ids
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from ...checkpoints.config import end_tokens, read_architecture
from ...checkpoints.directories import atomic_directory, scratch_directory
from ...errors import UsageError
from ...models import Architecture
from ...steps.context import StepContext, StepResult
from ..onnx.export import ExportResult, export_onnx
from ..onnx.writer import parity_rows, step_result
from ..options import ExportOptions

__all__ = ["export_triton", "write"]

MODEL_PY = Path(__file__).with_name("triton_model.py")
TYPES: dict[int, tuple[str, str]] = {
    onnx.TensorProto.FLOAT: ("TYPE_FP32", "float32"),
    onnx.TensorProto.FLOAT16: ("TYPE_FP16", "float16"),
    onnx.TensorProto.INT64: ("TYPE_INT64", "int64"),
}
"""Types of graph inputs and outputs in Triton and in numpy."""
MAX_BATCH = 8
QUEUE_MICROSECONDS = 2000
CONTEXT = 2048
"""For models whose config.json does not limit the positions."""
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

GENERATE = """\
# Greedy generation, a step at a time in {graph}. Waiting requests, also of unequal length, \
become one batch.
name: {name}
backend: "python"
max_batch_size: {batch}
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
input [
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }},
  {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true \
optional: true }},
  {{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] }}
]
output [ {{ name: "tokens" data_type: TYPE_INT64 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "decoder" value {{ string_value: {decoder} }} }}
"""
GRAPH = """\
# One pass with a KV cache, called by {name}. Without an instance_group Triton uses the GPU where \
its ONNX Runtime has one.
name: {graph}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 0
input [
{inputs}
]
output [
{outputs}
]
"""


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a Triton model repository as the result of the export step."""
    return step_result(export_triton(source, out, options.precision, parity_rows(source, context)))


def export_triton(
    source: Path, out: Path, precision: str, rows: Sequence[Sequence[int]] | None = None
) -> ExportResult:
    """Export a checkpoint to ONNX, compare it with torch, and make a Triton model repository.

    Args:
        source: a model directory.
        out: the directory to make; its name is the model's.
        precision: as for `export_onnx`.
        rows: token ids to compare on.

    Raises:
        UsageError: the directory's name is no valid name of a Triton model.
        EdgewrightError: whatever `export_onnx` raises.
    """
    name = out.resolve().name
    if not NAMES.fullmatch(name):
        raise UsageError(
            f"--out {out}: Triton calls the model `{name}`, which must be letters, digits, `.`, "
            "`_`, `-`",
            "choose another",
        )
    with scratch_directory(out.with_name(f".{out.name}.onnx")) as artifact:
        result = export_onnx(source, artifact, precision, rows, format="triton")
        with atomic_directory(out) as folder:
            _lay_out(artifact, folder, name)
    sizes = {
        file.relative_to(out).as_posix(): file.stat().st_size
        for file in sorted(out.rglob("*"))
        if file.is_file()
    }
    return replace(result, out=out, sizes=sizes)


def _lay_out(artifact: Path, folder: Path, name: str) -> None:
    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    generate, one_pass = folder / "models" / name, folder / "models" / f"{name}-graph"
    for model in (generate, one_pass):
        (model / "1").mkdir(parents=True)
    shutil.copyfile(MODEL_PY, generate / "1" / "model.py")
    for file in sorted(artifact.iterdir()):
        file.rename((one_pass / "1" if file.name.startswith("model.onnx") else folder) / file.name)
    decoder = json.dumps(
        _decoder(graph, read_architecture(folder), end_tokens(folder), one_pass.name)
    )
    fields = {
        "name": _quoted(name),
        "batch": MAX_BATCH,
        "delay": QUEUE_MICROSECONDS,
        "graph": one_pass.name,
        "decoder": _quoted(decoder),
    }
    (generate / "config.pbtxt").write_text(GENERATE.format(**fields))
    ports = {"inputs": _ports(graph.input), "outputs": _ports(graph.output)}
    (one_pass / "config.pbtxt").write_text(
        GRAPH.format(name=name, graph=_quoted(one_pass.name), **ports)
    )


def _decoder(
    graph: onnx.GraphProto, model: Architecture, eos_ids: list[int], name: str
) -> dict[str, Any]:
    """The parameters of `triton_model.py`."""
    caches = [value for value in graph.input if value.name.startswith("past_key_values.")]
    kv_heads, head_dim = (caches[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    return {
        "graph": name,
        "eos_ids": eos_ids,
        "context": model.max_positions or CONTEXT,
        "vocab_size": model.vocab_size,
        "layers": len(caches) // 2,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "cache_type": TYPES[caches[0].type.tensor_type.elem_type][1],
    }


def _quoted(text: str) -> str:
    """A string in protobuf's text format, which knows JSON's escapes."""
    return json.dumps(text)


def _ports(values: Iterable[onnx.ValueInfoProto]) -> str:
    """Inputs or outputs with types and shapes; -1: a dynamic size."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        dims = ", ".join(
            str(dim.dim_value if dim.HasField("dim_value") else -1) for dim in tensor.shape.dim
        )
        kind = TYPES[tensor.elem_type][0]
        lines.append(f"  {{ name: {_quoted(value.name)} data_type: {kind} dims: [ {dims} ] }}")
    return ",\n".join(lines)
