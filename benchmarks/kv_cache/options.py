"""Options of a study of the KV cache in low precision."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from ...data.rows import BadRows
from ...steps.options import Calibration, Cli, shared
from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT

__all__ = ["KvOptions"]


class KvOptions(BaseModel):
    """Which caches to compare, and on which text and tasks."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "Tasks and texts", common=("bits", "perplexity", "tasks"), expert=("bad_rows",)
    )

    bits: Annotated[tuple[Literal[4, 8], ...], Cli(separator=",")] = Field(
        default=(8, 4), min_length=1, description="bits per element of keys and values"
    )
    scales: Annotated[tuple[Literal["static", "dynamic"], ...], Cli(separator=",")] = Field(
        default=("static", "dynamic"),
        min_length=1,
        description="static: one scale per head, from calibration; dynamic: one per token and head",
    )
    contexts: Annotated[tuple[int, ...], Cli("--context")] = Field(
        default=(2048, 8192, 32768),
        min_length=1,
        description="context lengths to state the size of the cache for; repeatable",
    )
    perplexity: Annotated[tuple[str, ...], Reads()] = Field(
        default=(), description="SOURCE to compute the perplexity of; repeatable"
    )
    bad_rows: BadRows = shared(Calibration, "bad_rows")
    windows: int = Field(default=64, gt=0, description="rows per perplexity source")
    seq_len: int = Field(
        default=256, gt=1, description="longest row in tokens, to calibrate and to score"
    )
    tasks: Annotated[tuple[str, ...], Cli(separator=","), Reads()] = Field(
        default=(), description="generated tasks with a verifier: reasoning"
    )
    limit: int = Field(default=200, gt=1, description="problems per task")
    max_new_tokens: int = Field(default=160, gt=0, description="longest answer in tokens")
