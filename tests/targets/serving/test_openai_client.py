"""The real `openai` client against the real server: answers, streams, log probabilities, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import openai
import pytest

from openai_helpers import HELLO, KEY, Says, chat, client_of  # isort: skip
from server_helpers import Running, until  # isort: skip

pytest_plugins = ["openai_fixtures"]
LONGER: Any = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+2"},
]


def test_01_chat(client: Any, says: Says) -> None:
    says("two")
    answer = chat(client, max_tokens=20)
    (choice,) = answer.choices
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "tiny", "chatcmpl-")
    assert (choice.message.role, choice.message.content) == ("assistant", "two")
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("stop", 0, None)
    usage = answer.usage
    assert usage.completion_tokens == len(client_tokens("two", client, says))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def client_tokens(text: str, client: Any, says: Says) -> list[str]:
    """The tokens of a text, as the server gives them with log probabilities."""
    says(text)
    logprobs = chat(client, max_tokens=200, logprobs=True).choices[0].logprobs
    return [one.token for one in logprobs.content]


def test_02_a_conversation_is_what_the_template_makes_of_it(
    client: Any, openai_server: Running
) -> None:
    ids = openai_server.service.prompts.vocabulary.encode(
        "<|user|>system: Be short.<|endoftext|><|user|>user: 1+\n1<|endoftext|>"
        "<|user|>assistant: 2<|endoftext|><|user|>user: 2+2<|endoftext|><|assistant|>",
        add_special_tokens=False,
    )
    answer = chat(client, LONGER)
    completed = client.completions.create(model="tiny", prompt=ids, max_tokens=8)
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.choices[0].message.content == completed.choices[0].text


def test_03_a_developer_speaks_as_the_system(client: Any) -> None:
    as_developer = [{**LONGER[0], "role": "developer"}, *LONGER[1:]]
    assert chat(client, as_developer).choices == chat(client, LONGER).choices


def test_04_stream(client: Any) -> None:
    whole = chat(client, max_tokens=20).choices[0]
    events = list(chat(client, max_tokens=20, stream=True))
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert len({event.id for event in events}) == 1
    assert events[0].choices[0].delta.role == "assistant"
    texts = [event.choices[0].delta.content or "" for event in events]
    assert "".join(texts) == whole.message.content
    assert [event.choices[0].finish_reason for event in events][-2:] == [None, whole.finish_reason]
    assert all(event.usage is None for event in events)


def test_05_usage_in_a_stream(client: Any) -> None:
    whole = chat(client).usage
    *events, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], whole.completion_tokens)
    assert last.usage.prompt_tokens == whole.prompt_tokens
    assert all(event.usage is None and event.choices for event in events)


def test_06_n_answers_are_those_of_their_seeds(client: Any) -> None:
    many = chat(client, n=3, temperature=1.5, seed=7).choices
    alone = [chat(client, temperature=1.5, seed=7 + i).choices[0].message for i in range(3)]
    assert [choice.index for choice in many] == [0, 1, 2]
    assert [choice.message for choice in many] == alone
    assert len({message.content for message in alone}) == 3


def test_07_n_answers_in_one_stream(client: Any) -> None:
    whole = chat(client, n=3, temperature=1.5).choices
    texts = ["", "", ""]
    reasons: dict[int, str] = {}
    for event in chat(client, n=3, temperature=1.5, stream=True):
        (choice,) = event.choices
        assert choice.index not in reasons
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole]
    assert reasons == {choice.index: choice.finish_reason for choice in whole}


def test_08_seed(client: Any) -> None:
    answers = [
        chat(client, temperature=2, seed=seed).choices[0].message.content
        for seed in (5, 5, 6, -5, -5)
    ]
    assert answers[0] == answers[1] != answers[2]
    assert answers[3] == answers[4] != answers[0]


def test_09_top_p(client: Any) -> None:
    likely = chat(client).choices[0].message.content
    narrow = chat(client, temperature=2, top_p=1e-9, seed=3).choices[0].message.content
    assert narrow == likely != chat(client, temperature=2, seed=3).choices[0].message.content


@pytest.mark.parametrize("stop", [" five", [" nine", " five"]])
@pytest.mark.parametrize("stream", [False, True])
def test_10_stop(client: Any, openai_server: Running, says: Says, stop: Any, stream: bool) -> None:
    says("three four five six")
    answer = chat(client, max_tokens=200, stop=stop, stream=stream, logprobs=True)
    events = list(answer) if stream else [answer]
    found = [event.choices[0] for event in events]
    parts = [choice.delta if stream else choice.message for choice in found]
    assert "".join(part.content or "" for part in parts) == "three four"
    assert found[-1].finish_reason == "stop"
    scored = [one for choice in found if choice.logprobs for one in choice.logprobs.content]
    assert "".join(one.token for one in scored) == "three four"
    until(lambda: openai_server.service.batcher.running == 0)


def test_11_logprobs(client: Any) -> None:
    answer = chat(client, logprobs=True, top_logprobs=4).choices[0]
    scored = answer.logprobs.content
    raw = b"".join(bytes(one.bytes) for one in scored)
    assert raw.decode(errors="replace") == answer.message.content
    for one in scored:
        values = [other.logprob for other in one.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert (one.token, one.logprob) == (one.top_logprobs[0].token, values[0])
        assert sum(map(math.exp, values)) < 1
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_12_logprobs_are_the_models(client: Any, openai_server: Running) -> None:
    """As the decoder gives them for the whole text, and at every temperature the same."""
    prompt = [5, 6, 7]
    for temperature in (0, 1.5):
        answer = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=1, logprobs=20, temperature=temperature
        )
        (found,) = answer.choices[0].logprobs.top_logprobs
        decoder = openai_server.service.batcher._engine._decoder
        ids = np.array([prompt])
        logits = decoder.forward(ids, np.ones_like(ids))[0][0, -1].astype(np.float64)
        expected = np.sort(logits - np.log(np.exp(logits).sum()))[::-1][:20]
        assert np.allclose(sorted(found.values(), reverse=True)[:20], expected, atol=1e-4)


def test_13_logprobs_in_a_stream(client: Any) -> None:
    more = {"logprobs": True, "top_logprobs": 2, "temperature": 1.5, "max_tokens": 30}
    whole = chat(client, **more).choices[0].logprobs.content
    events = [event.choices[0].logprobs for event in chat(client, stream=True, **more)]
    assert [one for event in events if event for one in event.content] == whole


def test_14_completions(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="Tom has", max_tokens=9)
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")
    streamed = list(
        client.completions.create(model="tiny", prompt="Tom has", max_tokens=9, stream=True)
    )
    assert "".join(event.choices[0].text for event in streamed) == answer.choices[0].text
    assert streamed[-1].choices[0].finish_reason == answer.choices[0].finish_reason


def test_15_several_prompts(client: Any, openai_server: Running) -> None:
    prompts = ["Tom has", "1+1=", "a"]
    together = client.completions.create(model="tiny", prompt=prompts, max_tokens=6, n=2)
    alone = [client.completions.create(model="tiny", prompt=p, max_tokens=6) for p in prompts]
    assert [choice.text for choice in together.choices[::2]] == [a.choices[0].text for a in alone]
    assert together.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
    ids = [openai_server.service.prompts.vocabulary.encode(prompt) for prompt in prompts]
    as_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=6)
    assert [c.text for c in as_ids.choices] == [c.text for c in together.choices[::2]]


def test_16_logprobs_of_a_completion(client: Any, says: Says) -> None:
    says("Tom has 12 pears")
    answer = client.completions.create(model="tiny", prompt="Tom", max_tokens=9, logprobs=3)
    found, text = answer.choices[0].logprobs, answer.choices[0].text
    assert found and found.tokens and found.text_offset and found.top_logprobs
    assert [len(one) for one in found.top_logprobs] == [3] * len(found.tokens)
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert text[offset:].startswith(token)
    assert "".join(found.tokens) == text


def test_17_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "edgewright")
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "temperature": ({"temperature": 3}, "temperature", "number_above_max_value"),
    "type": ({"temperature": "hot"}, "temperature", "invalid_type"),
    "messages": ({"messages": []}, "messages", "array_below_min_length"),
    "role": ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "invalid_value"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
        "messages.0.content.0.type",
        "invalid_value",
    ),
    "too long": (
        {"messages": [{"role": "user", "content": "a " * 4000}]},
        "messages",
        "context_length_exceeded",
    ),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    "two limits": ({"max_completion_tokens": 2}, "max_completion_tokens", "invalid_value"),
    "usage without a stream": (
        {"stream_options": {"include_usage": True}},
        "stream_options",
        "invalid_value",
    ),
    "penalty": ({"frequency_penalty": 2.5}, "frequency_penalty", "number_above_max_value"),
    "bias": ({"logit_bias": {"5": -101}}, "logit_bias.5", "number_below_min_value"),
    "token": ({"logit_bias": {"512": 1}}, "logit_bias.512", "number_above_max_value"),
    "tokens": (
        {"logit_bias": {str(one): 1 for one in range(301)}},
        "logit_bias",
        "array_above_max_length",
    ),
    "tier": ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    "effort": ({"reasoning_effort": "high"}, "reasoning_effort", "unknown_parameter"),
    "sound": ({"modalities": ["text", "audio"]}, "modalities", "unknown_parameter"),
    "functions": ({"functions": [{"name": "a"}]}, "functions", "unknown_parameter"),
    "repetition": (
        {"extra_body": {"repetition_penalty": 1.1}},
        "repetition_penalty",
        "unsupported_parameter",
    ),
    "vLLM's field": ({"extra_body": {"top_k": 5}}, "top_k", "unknown_parameter"),
    "stops": ({"stop": ["a"] * 17}, "stop", "array_above_max_length"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_18_what_is_wrong_or_not_supported_is_refused_by_name(client: Any, name: str) -> None:
    more, param, code = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **more)
    error = caught.value
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, code)


def test_19_what_asks_for_nothing_is_served(client: Any) -> None:
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "user": "me", "stop": None}
    assert chat(client, **neutral).choices == chat(client).choices
    plain = client.completions.create(model="tiny", prompt="a", max_tokens=3)
    again = client.completions.create(model="tiny", prompt="a", max_tokens=3, echo=False, best_of=1)
    assert again.choices == plain.choices
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", echo=True)
    assert (caught.value.param, caught.value.code) == ("echo", "unsupported_parameter")


def test_20_another_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=HELLO)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_21_bad_key(openai_server: Running) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        chat(client_of(openai_server, KEY + "x"))
    assert caught.value.code == "invalid_api_key"


def test_22_what_is_not_there(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        client.embeddings.create(model="tiny", input="a")


def test_23_a_client_that_leaves_frees_all_its_places(client: Any, openai_server: Running) -> None:
    stream = chat(client, stream=True, n=3, max_tokens=1500, temperature=2)
    next(iter(stream))
    assert openai_server.service.batcher.running > 0
    stream.close()
    until(
        lambda: openai_server.service.batcher.running + openai_server.service.batcher.waiting == 0
    )


def test_24_without_a_limit_an_answer_has_the_rest_of_the_context(
    client: Any, openai_server: Running, says: Says
) -> None:
    says("nine " * 2000)
    usage = client.chat.completions.create(model="tiny", messages=HELLO).usage
    assert usage
    assert usage.total_tokens == openai_server.service.context
