"""Export options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from ..models import FORMATS
from ..models.kv_cache import KvCache
from ..steps.options import Cli
from ..steps.panels import Panels
from ..steps.strict import STRICT
from .onnx.cut import Cut

__all__ = ["CACHE_TOKENS", "ExportOptions"]

CACHE_TOKENS = 4096
"""The most tokens that the ranges of keys and values are measured on, for a cache in 8 bits."""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]
"""The names of all declared formats, as the help, the recipe schema and pydantic need them."""


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(", ".join(names).rsplit(", ", 1))


def _taking(precision: str) -> list[str]:
    """Formats that can store a precision."""
    return [name for name, format in FORMATS.items() if precision in format.precisions]


INT8_CACHE = [name for name, format in FORMATS.items() if format.int8_cache]
WINDOWED = [name for name, format in FORMATS.items() if format.windowed]
LAST_LOGITS = [name for name, format in FORMATS.items() if format.last_logits]
PACKED_HEAD = [name for name, format in FORMATS.items() if format.packs_head]


class ExportOptions(BaseModel):
    """The format and precision of an artifact, and what its graph leaves out."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "KV cache", common=("format", "precision"), expert=("logits", "pack_head")
    )

    format: FormatName = Field(
        default="onnx",
        description="; ".join(f"{name}: {format.description}" for name, format in FORMATS.items())
        + "; see docs/runtimes",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4", "int4-a8", "int8-dynamic"] = Field(
        default="fp32",
        description=f"bf16: formats {_listed(_taking('bf16'))} only; int4: of a GPTQ or AWQ "
        "checkpoint, bit for bit; int8: of a SmoothQuant checkpoint; int8-dynamic: for ONNX "
        "Runtime on CPUs; int4-a8: int4 with inputs rounded to 8 bits, less exact, format "
        f"{_listed(_taking('int4-a8'))} only",
    )
    logits: Literal["all", "last"] = Field(
        default="all",
        description="positions that get logits; last: only the last one, which is enough to "
        "generate text",
    )
    pack_head: Annotated[bool, Cli("--pack-head/--float-head")] = Field(
        default=True,
        description="round an embedding and a head that the checkpoint stores in floating point to "
        f"8 bits, rows of rare tokens to 4; formats {_listed(PACKED_HEAD)} with precision int4 or "
        "int4-a8, others leave them as they are",
    )
    kv_cache: KvCache = Field(
        default="float",
        description="how keys and values are cached; int8: with scales from the calibration text, "
        f"one byte a number; formats {_listed(INT8_CACHE)} only, without a window",
    )
    window: int = Field(
        default=0,
        ge=0,
        description="positions that the KV cache keeps beside the sinks; 0: all; formats "
        f"{_listed(WINDOWED)} only",
    )
    sinks: int = Field(
        default=4, ge=0, description="first positions that a windowed KV cache always keeps"
    )

    @model_validator(mode="after")
    def _format_takes_the_rest(self) -> ExportOptions:
        format = FORMATS[self.format]
        given = "precision" in self.model_fields_set
        if given and self.precision not in format.precisions:
            raise ValueError(
                f"format {self.format} has no {self.precision}: use precision "
                f"{_listed(format.precisions, 'or')}, or format "
                f"{_listed(_taking(self.precision), 'or')}"
            )
        if self.window and not format.windowed:
            raise ValueError(
                f"format {self.format} has no windowed KV cache: leave window out, or use format "
                f"{_listed(WINDOWED, 'or')}"
            )
        if self.kv_cache == "int8" and not format.int8_cache:
            raise ValueError(
                f"format {self.format} has no KV cache in 8 bits: leave kv_cache out, or use "
                f"format {_listed(INT8_CACHE, 'or')}"
            )
        if self.kv_cache == "int8" and self.window:
            raise ValueError(
                "a windowed KV cache cannot be in 8 bits: leave window or kv_cache out"
            )
        if self.kv_cache == "int8" and self.precision == "bf16":
            raise ValueError(
                "precision bf16 has no KV cache in 8 bits: leave kv_cache out, or use fp16"
            )
        if self.logits == "last" and not format.last_logits:
            raise ValueError(
                f"format {self.format} has no logits of the last position only: leave logits out, "
                f"or use format {_listed(LAST_LOGITS, 'or')}"
            )
        return self

    @property
    def packs_head(self) -> bool:
        """Whether an embedding and a head in floating point are rounded to 8 and 4 bits."""
        return self.pack_head and self.precision in FORMATS[self.format].packs_head

    @property
    def cut(self) -> Cut:
        """What the graph leaves out."""
        return Cut(self.logits == "last", self.window, self.sinks)
