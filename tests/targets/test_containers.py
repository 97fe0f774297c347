"""The container files agree with the server and with each other; `make compat` checks schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer
import yaml

from edgewright.cli import app

CONTAINERS = Path(__file__).parents[2] / "targets" / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())["services"]["edgewright"]
DEPLOYMENT, SERVICE = yaml.safe_load_all((CONTAINERS / "kubernetes.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
SERVER = (CONTAINERS.parent / "serving" / "server.py").read_text()


def entrypoint() -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    return json.loads(found[1])


def serve_options() -> dict[str, Any]:
    """The options of `edgewright serve`."""
    command: Any = typer.main.get_command(app)
    return {
        option: parameter
        for parameter in command.commands["serve"].params
        for option in parameter.opts
    }


def test_the_server_is_started_with_options_that_it_has() -> None:
    known = serve_options()
    for words in (entrypoint(), COMPOSE["command"], CONTAINER["args"]):
        assert [word for word in words if word.startswith("--") and word not in known] == []
    assert entrypoint()[1] == "serve"


def test_everybody_means_the_same_port() -> None:
    port = int(entrypoint()[entrypoint().index("--port") + 1])
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert [text.rsplit(":", 1)[1] for text in COMPOSE["ports"]] == [str(port)]
    assert [(entry["name"], entry["containerPort"]) for entry in CONTAINER["ports"]] == [
        ("http", port)
    ]
    assert SERVICE["spec"]["ports"][0]["targetPort"] == "http"
    assert DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(
        port
    )


def test_probes_ask_for_what_the_server_has() -> None:
    paths = {
        CONTAINER[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    paths.add(DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"])
    paths |= set(re.findall(r"127\.0\.0\.1:8000(/\w+)", DOCKERFILE))
    assert paths == {"/health", "/metrics"}
    assert not [path for path in paths if f'"{path}"' not in SERVER]


def test_the_model_is_mounted_where_the_server_looks() -> None:
    model = entrypoint()[2]
    assert [text.split(":")[-2:] for text in COMPOSE["volumes"]] == [[model, "ro"]]
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert mounts[model]["readOnly"]
    assert {mount["name"] for mount in mounts.values()} == {
        volume["name"] for volume in POD["volumes"]
    }


def test_the_same_image_and_labels() -> None:
    assert COMPOSE["image"] == CONTAINER["image"]
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"]
    assert f"--uid {POD['securityContext']['runAsUser']} " in DOCKERFILE
    assert (CONTAINERS / COMPOSE["build"]["context"] / COMPOSE["build"]["dockerfile"]).samefile(
        CONTAINERS / "Dockerfile"
    )
