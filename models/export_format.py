"""The declaration of an export format: everything that the rest of edgewright asks about one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from .architecture import Architecture

__all__ = ["ExportFormat", "Reason", "Runtime", "load"]

Runtime = Literal["onnxruntime", "tensorrt", "edge-llm", "llama.cpp"]
"""Software that reads an artifact on a device. Its limits decide which rules of a target apply."""


@dataclass(frozen=True)
class Reason:
    """Why a format cannot hold a model."""

    message: str
    remedy: str
    """What to do instead."""


def _no_reasons(architecture: Architecture) -> Iterator[Reason]:
    """Every model that edgewright reads can be written."""
    del architecture
    yield from ()


@dataclass(frozen=True)
class ExportFormat:
    """One export format.

    The writer and the device rules are named by a dotted path, `package.module:function`. They are
    imported when they are first used, so that a declaration needs no torch.

    Attributes:
        name: value of `--format`.
        description: one line for the help text.
        writer: function that writes the artifact. It takes what `Step.run` takes: options, source,
            out and context. It returns a `StepResult`.
        precisions: values of `--precision` that the format can store.
        runtimes: software that reads the artifact; see `Runtime`.
        platforms: kinds of platform that have such software (`Platform.kind` in targets/).
        reasons: why the format cannot hold a dense architecture; nothing: it can. Mixtures of
            experts are refused for every format.
        position: place in lists of formats, lowest first.
        windowed: whether the KV cache can be a window with sinks.
        int8_cache: whether keys and values can be stored in 8 bits.
        last_logits: whether the artifact can give the logits of the last position only.
        packs_head: precisions whose embedding and head are rounded where the checkpoint stores them
            in floating point (`packed_tables`), because the runtime multiplies packed weights.
        rounds: precisions in which it takes a checkpoint in floating point and rounds it itself.
        block: inputs that share a scale, where that is fixed; 0: as in the checkpoint.
        zero_points: whether 4-bit weights may have zero points, that is, be asymmetric.
        int4_method: the `quantize --method` that keeps most of a model in 4 bits, of those whose
            weights the format holds.
        measured_by: the runtime in which `bench` runs the artifact on this machine; None: there is
            none. Only formats that have one are allowed in a recipe.
        fp16_activations: whether INT4 and INT8 layers sit in an fp16 graph (else fp32).
        device_rules: function with further rules of a device: (platform, architecture, precision)
            -> iterator of `targets.violation.Violation`; empty: there are none.
    """

    name: str
    description: str
    writer: str
    precisions: tuple[str, ...]
    runtimes: tuple[Runtime, ...] = ()
    platforms: tuple[str, ...] = ()
    reasons: Callable[[Architecture], Iterator[Reason]] = _no_reasons
    position: int = 100
    windowed: bool = False
    int8_cache: bool = False
    last_logits: bool = False
    packs_head: tuple[str, ...] = ()
    rounds: tuple[str, ...] = ()
    block: int = 0
    zero_points: bool = False
    int4_method: str = "gptq"
    measured_by: Literal["onnxruntime", "llama.cpp"] | None = None
    fp16_activations: bool = False
    device_rules: str = ""

    @property
    def is_portable(self) -> bool:
        """Whether the graph has standard operators only, which TensorRT can read."""
        return "tensorrt" in self.runtimes

    @property
    def is_graph(self) -> bool:
        """Whether the artifact is an ONNX graph, so that opsets matter."""
        return "onnxruntime" in self.runtimes or "tensorrt" in self.runtimes

    @property
    def gives_logits(self) -> bool:
        """Whether the runtime that measures it here gives the logits of whole texts."""
        return self.measured_by == "onnxruntime"

    def block_of(self, precision: str) -> int:
        """Inputs that share a scale in a precision, where the format fixes that; 0: it does not."""
        return self.block if precision in ("int8", "int4") else 0

    def stored_precision(self, precision: str) -> str:
        """The precision of the graph, with the type of its activations if that is not implied."""
        mixed = self.fp16_activations and precision in ("int4", "int8")
        return f"{precision}-fp16" if mixed else precision

    def float_bytes(self, precision: str) -> int | None:
        """Bytes of a float beside packed weights in the file; None: as the precision implies.

        An engine that is built from a float32 graph holds float16.
        """
        in_float32 = self.is_graph and not self.fp16_activations
        return 4 if in_float32 and precision in ("int4", "int8") else None


def load(path: str) -> Any:
    """The function that a dotted path, `package.module:function`, names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
