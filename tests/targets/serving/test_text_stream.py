"""Tokens become text while they arrive, up to the first stop text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.targets.serving.text import TextStream


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_text_is_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    """Byte tokens, so that characters arrive in parts."""
    text = text.replace("\ufffd", "")
    raw = list(text.encode())
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stops)
    pieces = []
    for token in raw:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    ends = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    assert "".join(pieces) == (text[: min(ends)] if ends else text)
    assert stream.stopped == bool(ends)
