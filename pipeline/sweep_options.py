"""Options of a sweep: which recipe options vary, which metrics count, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, field_validator

from ..documents import parse_yaml
from ..errors import UsageError
from ..steps.options import Cli, Execution, shared
from ..steps.panels import Panels
from ..steps.places import Reads
from ..steps.strict import STRICT

__all__ = ["SweepOptions", "parse_vary"]


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values to try, by recipe key, from `KEY=VALUE,VALUE` strings. Values are YAML.

    Raises:
        UsageError: no values, a value that is a date, or a key given twice.
    """
    vary: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        _, values = parse_yaml(
            f"[{listed}]", f"--vary {text}", "write --vary steps.quantize.bits=4,8"
        )
        if not key or not values:
            raise UsageError(
                f"--vary {text}: not KEY=VALUE,VALUE", "write --vary steps.quantize.bits=4,8"
            )
        if key in vary:
            raise UsageError(f"--vary {key} is given twice", "list all of its values in one")
        try:
            json.dumps(values)  # as a trial keeps them
        except TypeError as error:
            raise UsageError(f"--vary {text}: {error}", "write dates in quotes") from error
        vary[key] = values
    if not vary:
        raise UsageError("nothing to vary", "give --vary KEY=VALUE,VALUE at least once")
    return vary


class SweepOptions(BaseModel):
    """Which options vary, which metrics count, and when to stop."""

    model_config = STRICT
    panels: ClassVar = Panels("How it runs", common=("vary", "trials", "minutes", "objective"))

    vary: Annotated[dict[str, list[Any]], Cli(takes=list[str]), Reads()] = Field(
        description="KEY=VALUE,VALUE: values to try; the key is written as in --set; repeatable"
    )
    trials: int = Field(
        default=20, gt=0, description="combinations to try at most; all of them, if there are fewer"
    )
    minutes: Annotated[float | None, Cli("--budget")] = Field(
        default=None, gt=0, description="minutes after which no new trial starts"
    )
    objective: tuple[str, ...] = Field(
        default=(),
        description="metric of the last step to optimize, with :min or :max if its name does not "
        "tell which way is better; repeatable; default: the first accuracy (or perplexity), "
        "decode_tok_s/p50 and size_bytes",
    )
    seed: int = shared(Execution, "seed")

    @field_validator("vary", mode="before")
    @classmethod
    def _from_strings(cls, value: Any) -> Any:
        return parse_vary(value) if isinstance(value, list | tuple) else value
