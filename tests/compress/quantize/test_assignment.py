"""Schemes that do not fit the sizes of a model are refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_quantize import small

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def test_group_that_does_not_divide_is_refused_with_every_module(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "llama", intermediate_size=192)
    with pytest.raises(
        Refused, match=r"group size 128 does not divide .*mlp\.down_proj \(192 inputs\)"
    ) as caught:
        quantize(QuantizeOptions(group_size=128), source, tmp_path / "out", context)
    assert "q_proj" not in str(caught.value)
    assert "group-size" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_whole_rows_must_still_fill_words(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "llama", intermediate_size=100)
    with pytest.raises(Refused, match=r"mlp\.down_proj") as caught:
        quantize(QuantizeOptions(group_size=-1), source, tmp_path / "out", context)
    assert caught.value.hint


def test_unknown_group_size(make_model: MakeModel, context: StepContext, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="group size 48"):
        quantize(QuantizeOptions(group_size=48), make_model("llama"), tmp_path / "out", context)
