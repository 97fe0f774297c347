"""What is wrong with the value of an option is said in words of YAML, and not of pydantic."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from edgewright.steps.option_errors import reason


class Options(BaseModel):
    """Options of every kind."""

    names: tuple[str, ...] = ()
    share: float = 0.0
    count: int = 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": {"kind": "prune"}}, "takes a list: begin each entry with `- `"),
        ({"names": "reasoning"}, "takes a list, such as [reasoning]"),
        ({"share": "25%"}, "'25%' is no number, such as 0.25"),
        ({"share": "lots"}, "'lots' is no number"),
        ({"count": 1.5}, "1.5 is no whole number"),
    ],
)
def test_words_of_yaml(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Options.model_validate(given)
    (error,) = raised.value.errors()
    assert reason(error) == said
