"""The line protocol on the device: requests, pings, stops, and a host that goes away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from edgewright.errors import UsageError
from edgewright.targets.device import lines as lines_module
from edgewright.targets.device.lines import Lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_requests_come_in_order_and_pings_are_no_requests(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0])
    os.write(pipe[1], b'{"ping": true}\n{"a": 1}\n{"ping": true}\n{"a"')
    assert lines.next(5) == {"a": 1}
    assert lines.next(0.01) is None
    assert not lines.ended
    os.write(pipe[1], b": 2}\n")
    assert lines.next(5) == {"a": 2}
    os.close(pipe[1])
    assert lines.next(5) is None
    assert lines.ended


def test_a_stop_interrupts_and_a_request_does_not(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0])
    assert not lines.is_interrupted()
    os.write(pipe[1], b'{"a": 1}\n{"ping": true}\n')
    assert not lines.is_interrupted()
    os.write(pipe[1], b'{"stop": true}\n')
    assert lines.is_interrupted()
    assert not lines.is_interrupted()
    assert lines.next(5) == {"a": 1}
    os.close(pipe[1])
    assert lines.is_interrupted()


def test_silence_ends_it(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "SILENCE_SECONDS", 1.0)
    lines = Lines(pipe[0])

    def ping() -> None:
        for _ in range(5):
            time.sleep(0.4)
            os.write(pipe[1], b'{"ping": true}\n')

    threading.Thread(target=ping).start()
    begin = time.monotonic()
    while not lines.ended:
        assert lines.next(0.1) is None
    assert time.monotonic() - begin > 2.5


@pytest.mark.parametrize("line", [b"[1]\n", b"no json\n", b"\xff\n", b"[" * 5000 + b"\n"])
def test_what_is_no_object_is_refused(pipe: tuple[int, int], line: bytes) -> None:
    os.write(pipe[1], line)
    with pytest.raises(UsageError, match="no JSON object"):
        Lines(pipe[0]).next(5)


def test_a_line_has_a_limit(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 100)
    os.write(pipe[1], b'{"a": "' + b"x" * 200)
    with pytest.raises(UsageError, match="too long"):
        Lines(pipe[0]).next(5)
