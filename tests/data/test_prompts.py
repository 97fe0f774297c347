"""The built-in prompts: balanced in every prefix, different, and readable as a source."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from edgewright.data.files import json_lines
from edgewright.data.prompts import FILE, builtin_prompts, prompts_hash
from edgewright.data.rows import Example
from edgewright.data.sources import Source
from edgewright.errors import UsageError

SHARES = {"code": 0.35, "mathematics": 0.25, "general": 0.40}


@pytest.mark.parametrize("count", [32, 64, 128, 256])
def test_every_prefix_is_balanced(count: int) -> None:
    kinds = Counter(row["kind"] for row in itertools.islice(json_lines(str(FILE)), count))
    assert {kind: kinds[kind] / count for kind in SHARES} == pytest.approx(SHARES, abs=0.02)


def test_prompts_are_different_short_and_long() -> None:
    prompts = builtin_prompts()
    assert len(prompts) == len(set(prompts)) == 256
    lengths = sorted(map(len, prompts))
    assert lengths[0] < 60
    assert lengths[-1] > 500
    assert all(prompt == prompt.strip() for prompt in prompts)


def test_prompts_are_a_source_of_plain_text() -> None:
    source = Source.parse("builtin:prompts")
    assert list(source.training(0)) == [Example(prompt) for prompt in builtin_prompts()]
    assert source.label == "prompts"
    assert not source.generated
    assert source.fingerprint() != Source.parse("builtin:own").fingerprint()
    assert len(prompts_hash()) == 64
    with pytest.raises(UsageError, match="no verifier"):
        source.problems(1)


def test_own_text_is_only_for_calibration() -> None:
    with pytest.raises(UsageError, match="only to calibrate on"):
        next(iter(Source.parse("builtin:own").scoring(1)))
