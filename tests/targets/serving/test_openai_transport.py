"""The real `openai` client, beyond one request: async, helpers, headers, time, retries, paths."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from edgewright.targets.serving.options import ServeLimits

from openai_helpers import HELLO, HERMES, KEY, MakeServer, Says, chat, client_of  # isort: skip
from server_helpers import Running, until  # isort: skip

pytest_plugins = ["openai_fixtures", "serving_fixtures"]
TEMPLATE = HERMES


class Heat(BaseModel):
    """The temperature of a day."""

    day: int = Field(ge=0, le=9)


def async_client(server: Running, **more: Any) -> Any:
    url = f"http://127.0.0.1:{server.port}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=3000, **more)


def test_39_the_async_client(client: Any, openai_server: Running) -> None:
    expected = [chat(client, seed=seed, temperature=1.5).choices for seed in range(6)]

    async def ask() -> list[Any]:
        async with async_client(openai_server) as one:
            found = await asyncio.gather(
                *(chat(one, seed=seed, temperature=1.5) for seed in range(6))
            )
        return [answer.choices for answer in found]

    assert asyncio.run(ask()) == expected


def test_40_async_streams(client: Any, openai_server: Running) -> None:
    whole = chat(client, max_tokens=20).choices[0].message.content

    async def read(one: Any) -> str:
        events = await chat(one, max_tokens=20, stream=True)
        return "".join([event.choices[0].delta.content or "" async for event in events])

    async def ask() -> list[str]:
        async with async_client(openai_server) as one:
            return await asyncio.gather(*(read(one) for _ in range(6)))

    assert asyncio.run(ask()) == [whole] * 6


def test_41_a_cancelled_task_frees_its_place(openai_server: Running) -> None:
    batcher = openai_server.service.batcher

    async def ask() -> None:
        async with async_client(openai_server) as one:
            work = asyncio.create_task(chat(one, max_tokens=1500, extra_body={"ignore_eos": True}))
            while not batcher.running:
                await asyncio.sleep(0.01)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(ask())
    until(lambda: batcher.running + batcher.waiting == 0)


def test_42_headers_of_a_raw_response(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, max_tokens=4
    )
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "application/json"
    assert "server" not in raw.headers
    assert raw.parse().choices == chat(client, max_tokens=4).choices
    with client.chat.completions.with_streaming_response.create(
        model="tiny", messages=HELLO, max_tokens=4, stream=True
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_43_a_client_that_has_no_time_left_frees_its_place(
    openai_server: Running, held: threading.Event
) -> None:
    with pytest.raises(openai.APITimeoutError):
        chat(client_of(openai_server).with_options(timeout=0.5))
    held.set()
    batcher = openai_server.service.batcher
    until(lambda: batcher.running + batcher.waiting == 0)


def test_44_a_full_queue_is_asked_again(make_server: MakeServer, held: threading.Event) -> None:
    server = make_server(HERMES, max_batch=1, limits=ServeLimits(max_waiting=1))
    batcher = server.service.batcher
    threads = [threading.Thread(target=chat, args=(client_of(server),)) for _ in range(2)]
    threads[0].start()
    until(lambda: batcher.running == 1)
    threads[1].start()
    until(lambda: batcher.waiting == 1)
    with pytest.raises(openai.RateLimitError) as caught:
        chat(client_of(server))
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.code == "rate_limit_exceeded"
    threading.Timer(0.5, held.set).start()
    assert chat(client_of(server).with_options(max_retries=9)).choices
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.responses.create(model="tiny", input="1+1"),
        lambda client: client.files.list(),
        lambda client: client.images.generate(prompt="a"),
        lambda client: client.moderations.create(input="a"),
        lambda client: client.batches.list(),
    ],
)
def test_45_other_interfaces_are_a_404_with_a_message(client: Any, call: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no /v1/") as caught:
        call(client)
    assert caught.value.code == "not_found"


def test_46_the_stream_helper_gives_the_whole_answer(client: Any, says: Says) -> None:
    says('Well. <tool_call>\n{"name": "heat", "arguments": {"day": 3}}\n</tool_call>')
    tool = openai.pydantic_function_tool(Heat, name="heat")
    with client.chat.completions.stream(
        model="tiny", messages=HELLO, tools=[tool], max_tokens=300
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert {"content.delta", "tool_calls.function.arguments.done"} <= kinds
    assert message.content == "Well."
    (call,) = message.tool_calls
    assert call.function.parsed_arguments == Heat.model_validate_json(call.function.arguments)


def test_47_parsed_calls(client: Any, says: Says) -> None:
    says("I would rather talk")
    answer = client.chat.completions.parse(
        model="tiny",
        messages=HELLO,
        tools=[openai.pydantic_function_tool(Heat, name="heat")],
        tool_choice="required",
        max_tokens=1500,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Heat)


def test_48_allowed_tools_are_refused(client: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, tool_choice=choice)
    assert str(caught.value.param).startswith("tool_choice")
