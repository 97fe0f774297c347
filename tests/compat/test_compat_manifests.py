"""The container files and the Triton repository follow the schemas of their formats.

Each schema is also shown to refuse a wrong file.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgewright.export.options import ExportOptions
from edgewright.export.runner import export

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
CONTAINERS = Path(__file__).parents[2] / "targets" / "containers"
COMPOSE = """
import json, sys
from importlib.util import find_spec
from pathlib import Path
import jsonschema
folder = Path(find_spec("compose").origin).parent
schema = json.loads((folder / "config" / "compose_spec.json").read_text())
errors = jsonschema.Draft7Validator(schema).iter_errors(json.loads(sys.argv[1]))
print(json.dumps([error.message for error in errors]))
"""
KUBERNETES = """
import json, sys
import kubernetes_validate
failures = []
for document in json.loads(sys.argv[1]):
    try:
        kubernetes_validate.validate(document, "1.34", strict=True)
    except kubernetes_validate.ValidationError as error:
        failures.append(error.message)
print(json.dumps(failures))
"""
TRITON = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def checked_by(script: str, argument: str) -> Any:
    """The answer of a script that runs in the environment of the schemas."""
    done = subprocess.run(
        [str(environment("manifests")), "-c", script, argument],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_compose_file() -> None:
    compose = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    assert checked_by(COMPOSE, json.dumps(compose)) == []
    compose["services"]["edgewright"]["volume"] = compose["services"]["edgewright"].pop("volumes")
    assert "volume" in checked_by(COMPOSE, json.dumps(compose))[0]


def test_kubernetes_manifests() -> None:
    documents = list(yaml.safe_load_all((CONTAINERS / "kubernetes.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["Deployment", "Service"]
    assert checked_by(KUBERNETES, json.dumps(documents)) == []
    documents[0]["spec"]["template"]["spec"]["containers"][0]["port"] = []
    assert "port" in checked_by(KUBERNETES, json.dumps(documents))[0]


def test_dockerfile(tmp_path: Path) -> None:
    def lint(file: Path) -> tuple[int, str]:
        done = subprocess.run(
            [str(environment("manifests").parent / "hadolint"), str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    assert lint(CONTAINERS / "Dockerfile") == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp && sudo ls\n")
    assert lint(tmp_path / "Dockerfile")[0] == 1


def test_triton_configurations(
    make_model: Callable[..., Path], context: Any, tmp_path: Path
) -> None:
    export(
        ExportOptions(format="triton", precision="fp32"),
        make_model("qwen2"),
        tmp_path / "tiny",
        context,
    )
    generate, graph = (
        checked_by(TRITON, str(tmp_path / "tiny" / "models" / name / "config.pbtxt"))
        for name in ("tiny", "tiny-graph")
    )
    assert (generate["backend"], generate["max_batch_size"], "dynamic_batching" in generate) == (
        "python",
        8,
        True,
    )
    assert [port["name"] for port in generate["input"] if port.get("allow_ragged_batch")] == [
        "input_ids",
        "attention_mask",
    ]
    decoder = json.loads(generate["parameters"]["decoder"]["string_value"])
    assert (decoder["graph"], graph["backend"]) == (graph["name"], "onnxruntime")
    told_caches = [port for port in graph["input"] if port["name"].startswith("past_key_values.")]
    assert len(told_caches) == 2 * decoder["layers"] == len(graph["output"]) - 1
    assert {tuple(port["dims"]) for port in told_caches} == {
        ("-1", str(decoder["kv_heads"]), "-1", str(decoder["head_dim"]))
    }
