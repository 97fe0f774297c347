"""Options of a measurement: tasks, perplexity, latency."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, PositiveInt

from ..data.rows import BadRows
from ..steps.options import Calibration, Cli, shared
from ..steps.panels import Panels
from ..steps.places import Reads
from ..steps.strict import STRICT
from .tasks.kinds import USAGE

__all__ = ["EvaluateOptions", "LatencyOptions"]


class LatencyOptions(BaseModel):
    """How latency is measured."""

    model_config = STRICT
    panels: ClassVar = Panels("Latency")

    prompt: int = Field(default=64, gt=0, description="tokens of the prompt that is timed")
    new_tokens: int = Field(default=64, gt=0, description="tokens that are decoded after it")
    runs: int = Field(
        default=5,
        gt=0,
        description="timed repetitions, after as many as it takes until times are stable",
    )
    batches: Annotated[tuple[PositiveInt, ...], Cli(separator=",")] = Field(
        default=(), description="also time batches of these numbers of prompts"
    )
    prompts: Annotated[tuple[PositiveInt, ...], Cli(separator=",")] = Field(
        default=(), description="also time prompts of these lengths"
    )
    contexts: Annotated[tuple[PositiveInt, ...], Cli("--context")] = Field(
        default=(2048,),
        description="context lengths to state the size of a KV cache for, in fp16 or as the "
        "artifact has it",
    )

    def more_shapes(self) -> list[tuple[int, int]]:
        """Batch and prompt of what is also timed."""
        return [
            *((batch, self.prompt) for batch in self.batches),
            *((1, prompt) for prompt in self.prompts),
        ]

    def shape(self, batch: int = 1, prompt: int | None = None) -> dict[str, int]:
        """One round of a worker: prompt tokens, new tokens, prompts at a time."""
        return {"prompt": prompt or self.prompt, "new_tokens": self.new_tokens, "batch": batch}


class EvaluateOptions(BaseModel):
    """What is measured of a model."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "Tasks and texts",
        common=("tasks", "limit", "perplexity", "latency"),
        expert=("bad_rows", "dtype", "llama_server"),
    )

    tasks: Annotated[tuple[str, ...], Cli(separator=","), Reads()] = Field(
        default=(),
        description=f"tasks to score: {USAGE}",
    )
    limit: int = Field(default=200, gt=1, description="problems per task")
    max_new_tokens: int = Field(
        default=160,
        gt=0,
        description="longest answer in tokens, thinking included; lm-eval tasks set their own",
    )
    shots: int | None = Field(
        default=None,
        ge=0,
        description="worked examples in the prompt of qa, choice and lm-eval tasks; default: the "
        "task's own number",
    )
    allow_code: bool = Field(
        default=False, description="let code tasks run what the model writes, in a sandbox"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="what torch computes answers in; auto: the checkpoint's 16 bits where the "
        "processor is fast with them, else float32; texts are always scored in float32",
    )
    llama_server: str = Field(
        default="",
        description="llama.cpp's llama-server, which runs GGUF artifacts; default: on PATH",
    )
    perplexity: Annotated[tuple[str, ...], Reads()] = Field(
        default=(), description="SOURCE to compute the perplexity of; repeatable"
    )
    bad_rows: BadRows = shared(Calibration, "bad_rows")
    windows: int = Field(default=128, gt=0, description="rows per perplexity source")
    seq_len: int = Field(default=512, gt=1, description="longest row in tokens")
    latency: Annotated[LatencyOptions | None, Cli(prefix="", toggle=True)] = Field(
        default=LatencyOptions(),
        description="measure latency and memory in a process of its own; in a recipe, null "
        "switches it off",
    )
