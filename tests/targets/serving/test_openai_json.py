"""JSON with the real `openai` client: objects, schemas, and pydantic models."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from edgewright.targets.serving.guide import Constrained, GuideFailed
from edgewright.targets.serving.options import ServeLimits

from openai_helpers import HELLO, PLAIN, MakeServer, Says, chat, client_of  # isort: skip
from server_helpers import Running, ask, until  # isort: skip

pytest_plugins = ["openai_fixtures"]
OBJECT = {"type": "json_object"}


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = Field(ge=0, le=99)
    sure: bool


class Sum(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: list[Step] = Field(min_length=1, max_length=3)
    unit: Literal["apples", "pears"]
    note: str = Field(max_length=12)


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}


def test_30_json_of_a_schema_is_a_pydantic_model(client: Any, says: Says) -> None:
    """A model that prefers anything else must fill it in; every seed another way."""
    says("I would rather talk about pears")
    found = []
    for seed in range(3):
        answer = client.chat.completions.parse(
            model="tiny",
            messages=HELLO,
            response_format=Sum,
            temperature=1.5,
            seed=seed,
            max_tokens=1500,
        )
        choice = answer.choices[0]
        assert isinstance(choice.message.parsed, Sum)
        assert choice.finish_reason == "stop"
        found.append(choice.message.content)
    assert len(set(found)) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_49_json_mode(client: Any, says: Says, stream: bool) -> None:
    says('no JSON at all {"a": 1}')
    answer = chat(client, response_format=OBJECT, max_tokens=1500, stream=stream)
    text = (
        "".join(event.choices[0].delta.content or "" for event in answer)
        if stream
        else answer.choices[0].message.content
    )
    assert isinstance(json.loads(text), dict)
    says('{"a": [1, 2.5, "é\\n"], "b": {"c": null}}')
    answer = chat(client, response_format=OBJECT, max_tokens=300)
    assert json.loads(answer.choices[0].message.content) == {
        "a": [1, 2.5, "é\n"],
        "b": {"c": None},
    }


def test_every_answer_of_a_request_has_a_grammar_of_its_own(client: Any) -> None:
    wanted = schema({"type": "array", "items": {"enum": [10, 200]}, "minItems": 2, "maxItems": 9})
    answer = chat(client, response_format=wanted, n=4, temperature=2, max_tokens=400)
    values = [json.loads(choice.message.content) for choice in answer.choices]
    assert all(2 <= len(value) <= 9 and set(value) <= {10, 200} for value in values)
    assert len({str(value) for value in values}) > 1


def test_json_that_does_not_fit_ends_with_length(client: Any, says: Says) -> None:
    says('{"a": "' + "long " * 50)
    choice = chat(client, response_format=OBJECT, max_tokens=20).choices[0]
    assert choice.finish_reason == "length"


def test_text_is_the_default(client: Any) -> None:
    assert chat(client, response_format={"type": "text"}).choices == chat(client).choices


@pytest.mark.parametrize(
    "wanted",
    [
        schema({"type": "nonsense"}),
        schema({"not": {"type": "string"}}),
        schema({"type": "string", "pattern": "("}),
        schema({"$ref": "https://example.org/schema"}),
        schema({"enum": ["a" * 20_000]}),
        {"type": "json_schema"},
        {"type": "xml"},
        {"type": "json_schema", "json_schema": {"name": "two words", "schema": {}}},
    ],
)
def test_what_is_no_schema_is_refused(client: Any, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format=wanted)
    assert caught.value.param.startswith("response_format")


@pytest.mark.parametrize(
    ("fault", "shown"),
    [(GuideFailed("too complex"), "too complex"), (ZeroDivisionError(), "ZeroDivisionError")],
)
def test_a_grammar_that_fails_ends_its_own_answer_only(
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    openai_server: Running,
    fault: Exception,
    shown: str,
) -> None:
    expected = chat(client, max_tokens=60).choices

    def fail(_: Any) -> Any:
        raise fault

    monkeypatch.setattr(Constrained, "wish", fail)
    with pytest.raises(openai.InternalServerError, match=shown):
        chat(client, response_format=OBJECT)
    assert chat(client, max_tokens=60).choices == expected
    until(lambda: openai_server.service.batcher.running == 0)


def test_a_slow_grammar_stops_nobody_elses_requests(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a schema is compiled, `/health` answers, and other requests are served."""
    server = make_server(PLAIN, limits=ServeLimits(max_schema_bytes=50))
    client = client_of(server)
    grammars = server.service.prompts._rules.grammars
    real = grammars.matcher
    asked: list[int] = []

    def slow(*arguments: Any) -> Any:
        asked.append(ask(server.port, "/health", None, "GET").status)
        asked.append(chat(client).choices[0].index)
        return real(*arguments)

    monkeypatch.setattr(grammars, "matcher", slow)
    chat(client, response_format=OBJECT)
    assert asked == [200, 0]
    with pytest.raises(openai.BadRequestError, match="50"):
        chat(client, response_format=schema({"enum": ["a" * 50]}))
