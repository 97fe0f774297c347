"""Fixtures for the `openai` client: a server whose tiny model can be made to say a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.export.onnx.export import export_onnx
from edgewright.targets.serving import batcher
from edgewright.targets.serving.keys import Keys
from edgewright.targets.serving.sequence import Generation
from edgewright.targets.serving.service import Service

from openai_helpers import KEY, PLAIN, MakeServer, Says, client_of  # isort: skip
from server_helpers import Running, running  # isort: skip


@pytest.fixture(scope="module")
def make_server(
    make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeServer]:
    """`make_server(template, **options)`: a server of a tiny model with this chat template."""
    model = make_model("llama", num_hidden_layers=1, max_position_embeddings=2048)
    artifact = tmp_path_factory.mktemp("openai") / "tiny"
    export_onnx(model, artifact, "fp32")
    stack: list[Any] = []

    def make(template: str, **options: Any) -> Running:
        config = json.loads((artifact / "tokenizer_config.json").read_text())
        (artifact / "chat_template.jinja").unlink(missing_ok=True)
        text = json.dumps({**config, "chat_template": template})
        (artifact / "tokenizer_config.json").write_text(text)
        stack.append(running(Service(artifact, 1, **{"max_batch": 4, **options}), Keys([KEY])))
        return stack[-1].__enter__()

    yield make
    for one in reversed(stack):
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def openai_server(make_server: MakeServer, request: pytest.FixtureRequest) -> Running:
    """A server with the template that the test module calls TEMPLATE."""
    return make_server(getattr(request.module, "TEMPLATE", PLAIN))


@pytest.fixture(scope="module")
def client(openai_server: Running) -> Any:
    return client_of(openai_server)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, openai_server: Running) -> Says:
    """`says(text)`: from now on the model prefers the tokens of this text, and then ends.

    The tokens get large logits, so what forbids or forces tokens still does.
    """
    script: list[int] = []
    real = batcher.chosen_tokens

    def chosen(logits: Any, rows: Sequence[Generation], *more: Any) -> Any:
        louder = np.array(logits)
        for one, row in zip(louder, rows, strict=True):
            one[script[row.made] if row.made < len(script) else 0] += 1000
        return real(louder, rows, *more)

    def say(text: str) -> None:
        script[:] = openai_server.service.prompts.vocabulary.encode(text, add_special_tokens=False)

    monkeypatch.setattr(batcher, "chosen_tokens", chosen)
    return say
