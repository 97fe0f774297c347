"""Export a checkpoint to an ONNX artifact that was compared with it before it got its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ... import __version__
from ...checkpoints.config import packing
from ...checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    config_for_everyone,
    content_hash,
    copy_tokenizer,
    read_family,
    read_provenance,
    write_json,
)
from ...checkpoints.layouts import layout_of
from ...checkpoints.loading import load_settings
from ...console import console
from ...errors import Refused, UsageError
from ...models import Shape
from . import parity
from .cut import Cut
from .genai import write_genai_config
from .graph import MODEL, write_graph
from .on_cpu import write_for_cpu
from .opset import opset_of
from .precision import Precision, precision_of
from .reference import REFERENCES, choose_reference
from .weights import Weights

__all__ = ["ExportResult", "export_onnx"]

PRECISION_OF = {"compressed-tensors": "int8-dynamic", "modelopt": "int8"}
"""What becomes of a checkpoint whose activations are in 8 bits: a scale a token, or one that is fixed."""
# Arithmetic that some relatives of the supported families switch on and that the graph does not have.
UNSUPPORTED = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


@dataclass(frozen=True)
class ExportResult:
    """A finished artifact.

    Attributes:
        out: its directory.
        precision: as asked for.
        parity: the figures of the comparison with torch, by ledger name.
        reference: what computed the logits to compare with; see `reference.REFERENCES`.
        sizes: bytes of each file, by name.
        seconds: of writing the graph, and of everything.
        checked: what the further check told.
    """

    out: Path
    precision: str
    parity: dict[str, float]
    reference: str
    sizes: dict[str, int]
    seconds: dict[str, float]
    checked: dict[str, float | str]


def export_onnx(
    checkpoint: Path,
    out: Path,
    precision: str,
    rows: Sequence[Sequence[int]] | None = None,
    *,
    format: str = "onnx",
    cut: Cut | None = None,
    further: Callable[[Path], Mapping[str, float | str]] | None = None,
) -> ExportResult:
    """Write an ONNX artifact and compare it with its checkpoint; nothing is left behind when they differ.

    Args:
        checkpoint: a model directory.
        out: the directory to make.
        precision: one of `PRECISIONS`; `int4` takes a GPTQ or AWQ checkpoint bit for bit, `int8` one of SmoothQuant.
        rows: token ids to compare on; random ones where None. Text that the model knows is the sharper test.
        format: what the artifact says it is; `ort` is written in ONNX Runtime's own operators.
        cut: what the graph leaves out; nothing by default.
        further: a check of the graph itself, called before the comparison with torch; what it returns is kept with the figures.

    Raises:
        UsageError: the precision is unknown or does not go with the checkpoint, or the checkpoint is damaged.
        Refused: the model has something that the graph cannot express.
        ParityFailed: the artifact does not compute what the checkpoint computes.
    """
    started = time.perf_counter()
    kind, cut, fused = precision_of(precision), cut or Cut(), format == "ort"
    family, config = read_family(checkpoint)
    _check_source(checkpoint, config, kind)
    settings = load_settings(checkpoint)
    shape = family.shape(settings.to_dict())
    with atomic_directory(out) as folder:
        info = write_graph(folder, Weights(checkpoint, config), family, settings, kind, cut, fused)
        written = time.perf_counter() - started
        if kind.activations == onnx.TensorProto.BFLOAT16:
            write_for_cpu(folder)
        if not fused:  # the checker knows no operators but the standard ones; ONNX Runtime looks at its own when it loads them
            onnx.checker.check_model(str(folder / MODEL), full_check=True)
        kept = {key: value for key, value in config.items() if key != "quantization_config"}
        write_json(folder / "config.json", config_for_everyone(kept))
        copy_tokenizer(checkpoint, folder)
        if format in ("onnx", "ort"):
            write_genai_config(folder, config, shape, cut, in_place=fused)
        provenance = {
            "edgewright": __version__,
            "kind": "artifact",
            "format": format,
            "precision": kind.name,
            "opset": opset_of(kind.name),
            "source": {"name": checkpoint.name, "content_hash": content_hash(checkpoint)},
            "inputs": info.inputs,
            "outputs": info.outputs,
            "low_bit_linears": info.low_bit_linears,
            "shape": asdict(shape),
            "cut": asdict(cut),
        }
        if kind.linear == "dense" and (sparsity := read_provenance(checkpoint).get("sparsity")):
            provenance["sparsity"] = sparsity
        write_json(folder / PROVENANCE, provenance)
        checked = dict(further(folder)) if further else {}
        way = choose_reference(checkpoint)
        console.print(
            f"{precision}: graph written in {written:.1f} s, comparing with {REFERENCES[way]}",
            highlight=False,
        )
        figures = parity.check(folder, checkpoint, rows or _random_rows(shape, settings), way=way)
        provenance |= {"parity": figures, "reference": way}
        write_json(folder / PROVENANCE, provenance | ({"checked": checked} if checked else {}))
    sizes = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    return ExportResult(
        out,
        kind.name,
        figures,
        REFERENCES[way],
        sizes,
        {"graph": written, "total": time.perf_counter() - started},
        checked,
    )


def _check_source(checkpoint: Path, config: dict[str, Any], precision: Precision) -> None:
    """Refuse up front what could only fail later."""
    layout = layout_of(config, str(checkpoint))
    method = layout.method if layout else None
    if precision.linear == "int4":
        if not method:
            raise UsageError(
                f"{checkpoint}: is not quantized, and int4 is taken bit for bit from a GPTQ or AWQ checkpoint",
                f"first: edgewright quantize {checkpoint} --method gptq --bits 4 --group-size 128 --out DIR",
            )
        bits, _, sym = packing(config) or (4, -1, True)
        if bits != 4 or not sym:
            what = f"{bits}-bit" if bits != 4 else "asymmetric"
            raise Refused(
                f"{checkpoint}: quantized {what}, but int4 artifacts are symmetric 4-bit",
                "quantize again with --bits 4, symmetric",
            )
    if precision.linear == "int8" and not (layout and layout.rounds_inputs):
        raise UsageError(
            f"{checkpoint}: has no activation scales, and int8 is taken bit for bit from a SmoothQuant checkpoint",
            f"first: edgewright quantize {checkpoint} --method smoothquant --out DIR; or --precision int8-dynamic, which needs none",
        )
    if precision.linear == "int8-dynamic" and method and not (layout and layout.rounds_inputs):
        raise UsageError(
            f"{checkpoint}: already quantized with {method}; int8 on top would quantize twice",
            "use --precision int4",
        )
    if layout and layout.rounds_inputs and PRECISION_OF.get(method or "") != precision.linear:
        raise UsageError(
            f"{checkpoint}: a {method} checkpoint with activations in 8 bits cannot be exported as {precision.name}",
            "a checkpoint of --method int8 goes to --precision int8-dynamic, one of --method smoothquant to --precision int8",
        )
    for key in UNSUPPORTED:
        if config.get(key):
            raise Refused(
                f"{checkpoint}: `{key}` is {config[key]}, which the ONNX graph has no counterpart for",
                "export another model",
            )


def _random_rows(shape: Shape, settings: Any) -> list[list[int]]:
    """Three rows of unequal length, the same for every model of that vocabulary."""
    generator = np.random.default_rng(0)
    longest = max(2, int(getattr(settings, "max_position_embeddings", 64)) - 16)
    return [
        generator.integers(0, shape.vocab_size, min(length, longest)).tolist()
        for length in (48, 31, 16)
    ]
