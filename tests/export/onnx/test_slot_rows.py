"""How many rows an artifact generates together: as many as caches and logits have room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgewright.export.onnx.slots import SLACK, OnnxEngine
from edgewright.generation.memory import BUDGET, CHUNK_BYTES, chunk_tokens

VOCABULARY = 151_936


def decoder(**changes: Any) -> Any:
    """An artifact of a 0.5B model, as far as its memory goes."""
    usual = {"windowed": False, "in_place": True, "vocabulary": VOCABULARY}
    return SimpleNamespace(position_bytes=24_576, **usual | changes)


@pytest.mark.parametrize("in_place", [True, False])
def test_all_copies_of_the_caches_stay_within_the_budget(in_place: bool) -> None:
    one = decoder(in_place=in_place)
    rows = OnnxEngine(one).rows_for(2000, 164)
    copies = 1 if in_place else 2
    row = copies * (2000 + SLACK) * one.position_bytes + 8 * VOCABULARY
    assert rows * row <= BUDGET < (rows + 1) * row


def test_a_window_has_one_row() -> None:
    assert OnnxEngine(decoder(windowed=True)).rows_for(100, 164) == 1


def test_a_prefill_with_whole_logits_is_cut() -> None:
    tokens = chunk_tokens(VOCABULARY, whole_logits=True)
    assert 4 * tokens * VOCABULARY <= CHUNK_BYTES
    assert tokens > 400
