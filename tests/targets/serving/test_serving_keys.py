"""API keys: where they come from, who is let in, and that no key is ever shown."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import UsageError
from edgewright.targets.serving import run
from edgewright.targets.serving.keys import VARIABLE, Keys, read_keys
from edgewright.targets.serving.options import ServeOptions
from edgewright.targets.serving.service import Service

from server_helpers import ask, running  # isort: skip

pytest_plugins = ["serving_fixtures"]
KEY = "k-5b1d0c7e9f3a2468"
OTHER = "k-0123456789abcdef"


@pytest.fixture(scope="module")
def locked(served: Path) -> Iterator[int]:
    with running(Service(served, 1, max_batch=2), Keys([KEY, OTHER])) as found:
        yield found.port


@pytest.mark.parametrize(
    "given",
    [
        "",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        "Bearer \xe9",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
    ],
)
def test_without_a_key_nothing_is_served(locked: int, method: str, path: str, given: str) -> None:
    reply = ask(locked, path, b"x" * 10**6, method, Authorization=given)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert reply.error["type"] == "authentication_error"
    assert KEY not in reply.text


def test_each_key_opens_the_door_and_health_needs_none(locked: int) -> None:
    for key in (KEY, OTHER):
        body = {"prompt": "a", "max_tokens": 2}
        assert ask(locked, "/v1/completions", body, Authorization=f"bearer  {key}").status == 200
        assert ask(locked, "/metrics", None, "GET", Authorization=f"Bearer {key}").status == 200
    assert ask(locked, "/health", None, "GET").status == 200


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compared(first: Any, second: Any) -> bool:
        lengths.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(hmac, "compare_digest", compared)
    keys = Keys([KEY, OTHER])
    assert keys.owner(f"Bearer {OTHER}".encode()) == 1
    assert keys.owner(b"Bearer short") is None
    assert lengths == [(32, 32)] * 4


def test_keys_of_a_file_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not read_keys(None)
    file = tmp_path / "keys"
    file.write_text(f"\n  {KEY}\r\n{OTHER}\n\n")
    assert [read_keys(file).owner(f"Bearer {key}".encode()) for key in (KEY, OTHER)] == [0, 1]
    monkeypatch.setenv(VARIABLE, f"{KEY}\n")
    assert read_keys(None).owner(f"Bearer {KEY}".encode()) == 0
    assert read_keys(None).owner(f"Bearer {OTHER}".encode()) is None
    with pytest.raises(UsageError, match=VARIABLE):
        read_keys(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n \n", b"tooshort", b"two words in one line", b"\xff" * 32, b"k" * 70_000, None],
)
def test_a_file_without_good_keys_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="keys") as caught:
        read_keys(file)
    words = content.decode("latin-1").split() if content else []
    assert not [word for word in words if len(word) > 4 and word in str(caught.value)]


def test_a_bad_key_in_the_environment_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "s3cret")
    with pytest.raises(UsageError) as caught:
        read_keys(None)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("host", "others"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.5", True),
        ("", True),
        ("board.local", True),
    ],
)
def test_who_can_reach_an_address(host: str, others: bool) -> None:
    assert run.reaches_others(host) == others


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("127.0.0.1", [], False), ("0.0.0.0", [], True), ("0.0.0.0", [KEY], False)],
)
def test_an_open_server_without_a_key_warns(
    served: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    keys: list[str],
    warned: bool,
) -> None:
    monkeypatch.setattr(run.Server, "run", lambda *_: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    service = Service(served, 1)
    run.serve(service, ServeOptions(host=host, port=0), Keys(keys))
    service.close()
    shown = capsys.readouterr().err
    assert ("warning" in shown, "--api-key-file" in shown) == (warned, warned)
    assert KEY not in shown
