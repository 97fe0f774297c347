"""The real `openai` client: penalties, biases, limits, labels, ignored ends, and images."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest

from openai_helpers import HELLO, Says, chat  # isort: skip
from server_helpers import Running  # isort: skip

pytest_plugins = ["openai_fixtures"]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def scored(answer: Any) -> tuple[str, bytes]:
    """The first token of a chat answer that has log probabilities: its text and its bytes."""
    first = answer.choices[0].logprobs.content[0]
    return first.token, bytes(first.bytes)


def ids(server: Running, text: str) -> list[int]:
    return server.service.prompts.vocabulary.encode(text, add_special_tokens=False)


def test_31_max_completion_tokens(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=3)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")


def test_32_a_bias_makes_a_token_certain_or_impossible(client: Any, openai_server: Running) -> None:
    (token,) = ids(openai_server, "a")
    wanted = chat(client, logit_bias={str(token): 100}, temperature=1.0)
    assert wanted.choices[0].message.content == "a" * 8
    first = scored(chat(client, logprobs=True, max_tokens=1))
    spelling = openai_server.service.prompts.vocabulary.spelling
    likely = next(one for one in range(512) if spelling(one) == first)
    other = chat(client, logprobs=True, max_tokens=1, logit_bias={str(likely): -100})
    assert scored(other) != first
    plain = client.completions.create(
        model="tiny", prompt="1", max_tokens=4, logit_bias={str(token): 100}
    )
    assert plain.choices[0].text == "aaaa"


@pytest.mark.parametrize("penalties", [(0.0, 0.0), (1.5, 0.0), (0.0, 2.0), (-0.5, 0.25)])
def test_33_penalties(client: Any, openai_server: Running, penalties: tuple[float, float]) -> None:
    """As the decoder gives the logits for the whole text, by OpenAI's formula."""
    frequency, presence = penalties
    decoder = openai_server.service.batcher._engine._decoder
    written: list[int] = []
    for _ in range(12):
        row = np.array([[5, 6, 7, *written]])
        logits = decoder.forward(row, np.ones_like(row))[0][0, -1].astype(np.float64)
        for token in set(written):
            logits[token] -= written.count(token) * frequency + presence
        written.append(int(logits.argmax()))
    answer = client.completions.create(
        model="tiny",
        prompt=[5, 6, 7],
        max_tokens=12,
        frequency_penalty=frequency,
        presence_penalty=presence,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].text == openai_server.service.prompts.vocabulary.decode(written)


def test_34_log_probabilities_are_those_before_a_bias(client: Any, openai_server: Running) -> None:
    more: Any = {"logprobs": True, "top_logprobs": 3, "max_tokens": 1}
    (token,) = ids(openai_server, "a")
    plain = chat(client, **more).choices[0].logprobs.content[0]
    biased = chat(client, logit_bias={str(token): 100}, **more).choices[0].logprobs.content[0]
    assert biased.token == "a"
    assert biased.top_logprobs == plain.top_logprobs
    assert biased.logprob < plain.logprob


@pytest.mark.parametrize("stream", [False, True])
def test_35_ends_that_are_ignored(client: Any, says: Says, stream: bool) -> None:
    """As vLLM's `ignore_eos`, which tools that measure send."""
    says("two")
    more: Any = {"max_tokens": 12, "stream": stream, "extra_body": {"ignore_eos": True}}
    if stream:
        more["stream_options"] = {"include_usage": True}
    answer = chat(client, **more)
    *events, last = list(answer) if stream else [answer, answer]
    assert last.usage.completion_tokens == 12
    choice = events[-1].choices[0]
    assert choice.finish_reason == "length"
    completed = client.completions.create(
        model="tiny", prompt="a", max_tokens=12, extra_body={"ignore_eos": True}
    )
    assert completed.usage.completion_tokens == 12


@pytest.mark.parametrize(
    "more", [{"tools": []}, {"response_format": {"type": "text"}}, {"stop": "zzz"}]
)
def test_ends_can_be_ignored_where_an_answer_is_free(client: Any, more: Any) -> None:
    answer = chat(client, max_tokens=9, extra_body={"ignore_eos": True}, **more)
    assert answer.usage.completion_tokens == 9


def test_ends_of_a_format_cannot_be_ignored(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format={"type": "json_object"}, extra_body={"ignore_eos": True})
    assert caught.value.param == "ignore_eos"


def test_36_labels_change_nothing(client: Any) -> None:
    labels: Any = {
        "user": "me",
        "metadata": {"job": "7"},
        "store": True,
        "safety_identifier": "abc",
        "prompt_cache_key": "abc",
        "service_tier": "auto",
        "extra_body": {"repetition_penalty": 1.0},
    }
    assert chat(client, **labels).choices == chat(client).choices
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, metadata={"a" * 65: "7"})
    assert str(caught.value.param).startswith("metadata")


@pytest.mark.parametrize(
    "part",
    [
        IMAGE,
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
    ],
)
def test_37_images_sound_and_files_are_refused_by_name(client: Any, part: Any) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [turn])
    error = caught.value
    assert error.param == "messages.0.content.1.type"
    said = error.body["message"]  # type: ignore[index]
    assert f"reads text only: leave out parts of the type `{part['type']}`" in said
    assert "support this field" not in said


def test_38_a_suffix_is_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert (caught.value.param, caught.value.code) == ("suffix", "unknown_parameter")
