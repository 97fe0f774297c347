"""What `serve` prints: an address that a client on this machine can use."""

from __future__ import annotations

import pytest

from edgewright.targets.serving.run import _greeting


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        ("board", "http://board:8000/v1"),
    ],
)
def test_the_address_works_from_this_machine(host: str, address: str) -> None:
    text = _greeting(host, 8000)
    assert f"OpenAI's API: {address} " in text
    assert f"curl {address}/models" in text
    assert "Ctrl-C" in text
