"""Export options."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .onnx.cut import Cut

__all__ = ["ExportOptions"]


class ExportOptions(BaseModel):
    """The format and precision of an artifact, and what its graph leaves out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["onnx", "ort", "tensorrt", "edge-llm", "gguf", "triton"] = Field(
        default="onnx",
        description="onnx: ONNX with standard operators only and a KV cache; ort: ONNX with ONNX "
        "Runtime's own operators; tensorrt: the first, checked by TensorRT; triton: the first, in "
        "a Triton model repository; edge-llm: what TensorRT-Edge-LLM's exporter reads; gguf: for "
        "llama.cpp; see docs/deployment.md",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4", "int4-a8", "int8-dynamic"] = Field(
        default="fp32",
        description="bf16: formats onnx and tensorrt only; int4: of a GPTQ or AWQ checkpoint, bit "
        "for bit; int8: of a SmoothQuant checkpoint; int8-dynamic: for ONNX Runtime on CPUs; "
        "int4-a8: int4 with inputs rounded to 8 bits, less exact, format ort only",
    )
    logits: Literal["all", "last"] = Field(
        default="all",
        description="positions that get logits; last: only the last one, which is enough to "
        "generate text",
    )
    window: int = Field(
        default=0,
        ge=0,
        description="positions that the KV cache keeps beside the sinks; 0: all; not for format "
        "ort",
    )
    sinks: int = Field(
        default=4, ge=0, description="first positions that a windowed KV cache always keeps"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ExportOptions:
        if self.precision == "int4-a8" and self.format != "ort":
            raise ValueError(
                "precision int4-a8 is ONNX Runtime's: use format ort, or precision int4"
            )
        if self.format == "ort" and (self.window or self.precision == "int8"):
            raise ValueError("format ort has no windowed cache and no static int8: use format onnx")
        if self.precision == "bf16" and self.format not in ("onnx", "tensorrt"):
            raise ValueError(
                f"format {self.format} has no bf16: use precision fp16, or format tensorrt"
            )
        if self.format in ("gguf", "edge-llm", "triton") and (self.window or self.logits == "last"):
            raise ValueError(
                f"format {self.format} has no windowed cache and no cut logits: leave window and "
                "logits out"
            )
        return self

    @property
    def cut(self) -> Cut:
        """What the graph leaves out."""
        return Cut(self.logits == "last", self.window, self.sinks)
