"""Options of a measurement of a server: the loads, the requests, and the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from ...steps.options import Cli, Execution, shared
from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT

__all__ = ["Load", "LoadOptions"]

Concurrency = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=True)]
DEFAULT_CONCURRENCY = (1, 4, 16)
FEWEST_REQUESTS = 10


@dataclass(frozen=True)
class Load:
    """What is asked of a server at the same time: a concurrency, or else a rate of arrivals.

    Attributes:
        concurrency: requests at the same time; None: they arrive at a rate.
        rate: arrivals a second; infinite: all at once.
    """

    concurrency: int | None = None
    rate: float = math.inf

    @property
    def name(self) -> str:
        """The load in the names of metrics: `concurrency4`, `rate2.5`, `rateinf`."""
        return (
            f"rate{self.rate:g}" if self.concurrency is None else f"concurrency{self.concurrency}"
        )


class LoadOptions(BaseModel):
    """The requests that a server is measured with."""

    model_config = STRICT
    panels: ClassVar = Panels("Measuring a server (URL)")

    concurrency: Annotated[tuple[Concurrency, ...], Cli(separator=",")] = Field(
        default=(),
        description="of a URL: requests at the same time, one load for each number; the next "
        "request is sent when one ends. Default: 1,4,16, unless --request-rate is given. --tasks "
        "are asked with the largest; default: 4",
    )
    request_rate: Annotated[tuple[Rate, ...], Cli(separator=",")] = Field(
        default=(),
        description="of a URL: requests that arrive in a second, at random intervals (Poisson), "
        "one load for each number; inf: all at once",
    )
    requests: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="of a URL: requests of each load; default: twice the concurrency, 10 at least",
    )
    warm_up: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="of a URL: requests before each load that are not counted; default: the "
        "concurrency, and 1 before a request rate",
    )
    prompt_tokens: int = Field(
        default=64, ge=1, le=1_000_000, description="of a URL: tokens of each prompt"
    )
    output_tokens: int = Field(
        default=64,
        ge=2,
        le=100_000,
        description="of a URL: tokens that each request asks for; where the server accepts "
        "ignore_eos, exactly as many are generated",
    )
    api: Literal["completions", "chat"] | None = Field(
        default=None,
        description="of a URL: which of OpenAI's interfaces to use; default: chat for --tasks, "
        "completions for --latency",
    )
    served_model: str | None = Field(
        default=None, description="of a URL: model to ask for; default: the first that it lists"
    )
    tokenizer: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="of a URL: directory with the served model's tokenizer, for prompts of an "
        "exact length and for counting answers, and for --tasks with --api completions, whose "
        "prompts are then made here; default: the server's own counts",
    )
    api_key_variable: str = Field(
        default="EDGEWRIGHT_API_KEY",
        description="of a URL: environment variable with the server's API key, if it needs one",
    )
    request_seconds: float = Field(
        default=120, gt=0, description="of a URL: a request that takes longer has failed"
    )
    retries: int = Field(
        default=4,
        ge=0,
        le=100,
        description="of a URL: how often a request of --tasks is sent again after a failure that "
        "may pass: no answer, too busy, an error of the server",
    )
    time_limit: float = Field(
        default=900,
        gt=0,
        description="of a URL: seconds after which the measurement ends; requests that are still "
        "running then have failed",
    )

    seed: int = shared(Execution, "seed")

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads, in their order."""
        fixed = self.concurrency or (() if self.request_rate else DEFAULT_CONCURRENCY)
        return (*map(Load, fixed), *(Load(rate=rate) for rate in self.request_rate))

    def count(self, load: Load) -> int:
        """The number of requests of a load."""
        return self.requests or max(FEWEST_REQUESTS, 2 * (load.concurrency or 0))

    def warm_up_count(self, load: Load) -> int:
        """The number of requests before a load."""
        return (load.concurrency or 1) if self.warm_up is None else self.warm_up
