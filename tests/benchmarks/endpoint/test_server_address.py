"""The address and the key of a server: what is refused, and what no message has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted_server import Asked, ScriptedServer, document, good, serving

from edgewright.benchmarks.endpoint.latency import bench_server
from edgewright.benchmarks.endpoint.options import LoadOptions
from edgewright.benchmarks.endpoint.server import Address
from edgewright.errors import EdgewrightError, UsageError


def bench(server: ScriptedServer, **options: Any) -> dict[str, Any]:
    with serving(server):
        chosen = LoadOptions(concurrency=(1,), requests=4, output_tokens=4, **options)
        return bench_server(server.url, chosen, None)


@pytest.mark.parametrize(
    ("text", "prefix", "root"),
    [
        ("http://host:8000", "/v1", ""),
        ("http://host:8000/", "/v1", ""),
        ("HTTP://host/v1/", "/v1", ""),
        ("https://host/v1/chat/completions", "/v1", ""),
        ("https://host/v1/completions?x=1#y", "/v1", ""),
        ("https://host/team/v1", "/team/v1", "/team"),
        ("https://host/api/v3", "/api/v3", "/api/v3"),
        ("http://[::1]:8000", "/v1", ""),
    ],
)
def test_the_address_of_a_host_an_interface_or_an_endpoint(
    text: str, prefix: str, root: str
) -> None:
    address = Address.parse(text)
    assert (address.prefix, address.root) == (prefix, root)
    assert address.url.path == ""
    assert str(address).endswith(prefix)


def test_the_key_is_sent_and_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "very-secret-key-0123"
    monkeypatch.setenv("MY_SERVER", key)

    async def repeats(asked: Asked) -> AsyncIterator[bytes]:
        assert asked.headers["authorization"] == f"Bearer {key}"
        told = {"error": {"message": f"wrong: {key} \x1b[2J"}}
        if asked.streams and len(server.streamed) == 4:
            yield document(told, "401 Unauthorized")
            return
        async for part in good(asked):
            yield part

    server = ScriptedServer(repeats)
    found = bench(server, api_key_variable="MY_SERVER")
    assert found["metrics"]["failed_requests/concurrency1"] == 1
    assert key not in json.dumps(found)
    assert "\x1b" not in json.dumps(found, ensure_ascii=False)
    refused = document({"error": {"message": f"no {key}"}}, "401 Unauthorized")
    with pytest.raises(EdgewrightError) as caught:
        bench(ScriptedServer(models=refused), api_key_variable="MY_SERVER")
    assert key not in str(caught.value)
    assert "MY_SERVER" in caught.value.hint
    monkeypatch.setenv("MY_SERVER", "two\nlines")
    with pytest.raises(UsageError, match="cannot be sent") as wrong:
        bench_server("http://127.0.0.1:1", LoadOptions(api_key_variable="MY_SERVER"), None)
    assert "two" not in str(wrong.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80",
        "http://host:0",
        "http://host:99999",
        "http://host:abc",
        "http://[::1",
        "http://host name/",
        "http://host/\r\nX: 1",
        "http://hôst/",
        "http://me:pass@host/v1",
        "http://" + "a" * 70 + ".com",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        bench_server(url, LoadOptions(), None)
    assert "pass@" not in str(caught.value)


def test_a_concurrency_needs_as_many_requests() -> None:
    with pytest.raises(UsageError, match="16 is never reached"):
        bench_server("http://127.0.0.1:1", LoadOptions(requests=10), None)
    with pytest.raises(UsageError, match="given twice"):
        bench_server("http://127.0.0.1:1", LoadOptions(concurrency=(2, 2)), None)
