"""Export a checkpoint to an ONNX artifact, which is kept only if it passes the parity check."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ... import __version__
from ...checkpoints.config import packing, read_architecture
from ...checkpoints.directories import atomic_directory
from ...checkpoints.hashing import content_hash, read_provenance, write_provenance
from ...checkpoints.layouts import layout_of
from ...checkpoints.settings import load_settings
from ...checkpoints.writer import write_companions
from ...console import console
from ...errors import Refused, UsageError
from ...models import FORMATS, Architecture, architecture, require_expressible
from ..quantized_source import require_int4
from . import parity
from .cut import Cut
from .genai import write_genai_config
from .graph import MODEL, GraphInfo, write_graph
from .on_cpu import write_for_cpu
from .precision import Precision, precision_of
from .reference import REFERENCES, choose_reference
from .rotary import rotary_tables
from .weights import Weights

__all__ = ["ExportResult", "export_onnx"]

PRECISION_OF = {"compressed-tensors": "int8-dynamic", "modelopt": "int8"}
"""The only precision of a checkpoint with 8-bit activations, by quantization method: their scales
are dynamic (compressed-tensors) or fixed (modelopt)."""


@dataclass(frozen=True)
class ExportResult:
    """A finished artifact.

    Attributes:
        out: its directory.
        precision: as asked for.
        parity: metrics of the comparison with torch, by their names in a ledger.
        reference: what computed the reference logits; see `reference.REFERENCES`.
        sizes: bytes of each file, by name.
        packed_tables: whether the embedding and the head were rounded; see `models.packed_tables`.
        seconds: `graph`: to write the graph; `total`.
        checked: what `extra_check` returned.
    """

    out: Path
    precision: str
    parity: dict[str, float]
    reference: str
    sizes: dict[str, int]
    packed_tables: bool
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
    packs_head: bool = False,
    extra_check: Callable[[Path], Mapping[str, float | str]] | None = None,
    round_cache: Callable[[Path, Architecture], Mapping[str, float]] | None = None,
) -> ExportResult:
    """Write an ONNX artifact and compare it with its checkpoint. If they differ, nothing is kept.

    Args:
        checkpoint: a model directory.
        out: the directory to make.
        precision: one of `PRECISIONS`; `int4` and `int8` copy a quantized checkpoint bit for bit.
        rows: token ids to compare on; None: random ones, which are an easier test than text.
        format: recorded in the artifact; `ort` uses ONNX Runtime's own operators.
        cut: what the graph leaves out; nothing by default.
        packs_head: round an embedding and a head in floating point; format `ort` only.
        extra_check: called at the end; its result is recorded.
        round_cache: rounds the KV cache to 8 bits, after the comparison; its result is recorded.

    Raises:
        UsageError: the precision is unknown or does not fit the checkpoint, or that is damaged.
        Refused: the graph cannot express the model.
        ParityFailed: the artifact does not compute the same as the checkpoint.
    """
    started = time.perf_counter()
    export = _checked_export(checkpoint, precision, format, cut, packs_head, bool(round_cache))
    with atomic_directory(out) as folder:
        info = _write_model(export, folder)
        written = time.perf_counter() - started
        _check_model(export, folder)
        _write_companions(export, folder)
        provenance = _provenance(export, info) | {"kv_cache": "int8" if round_cache else "float"}
        write_provenance(folder, provenance)
        way = choose_reference(checkpoint)
        report = f"{precision}: graph written in {written:.1f} s, comparing with {REFERENCES[way]}"
        console.print(report, highlight=False)
        metrics = parity.check(folder, checkpoint, rows or _random_rows(export.model), way=way)
        metrics |= round_cache(folder, export.model) if round_cache else {}
        checked = dict(extra_check(folder)) if extra_check else {}
        provenance |= {"parity": metrics, "reference": way}
        write_provenance(folder, provenance | ({"checked": checked} if checked else {}))
    seconds = {"graph": written, "total": time.perf_counter() - started}
    found = REFERENCES[way], _sizes(out), export.precision.packs_tables
    return ExportResult(out, export.precision.name, metrics, *found, seconds, checked)


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


@dataclass(frozen=True)
class _Export:
    """One export.

    Attributes:
        checkpoint: the directory of the model.
        source: the architecture of config.json as it is stored.
        settings: the transformers config.
        model: the architecture with all defaults of transformers filled in.
        precision: of the artifact.
        format: as recorded in the artifact.
        cut: what the graph leaves out.
    """

    checkpoint: Path
    source: Architecture
    settings: Any
    model: Architecture
    precision: Precision
    format: str
    cut: Cut

    @property
    def fused(self) -> bool:
        """Whether the graph is in ONNX Runtime's own operators."""
        return self.format == "ort"


def _checked_export(
    checkpoint: Path,
    precision: str,
    format: str,
    cut: Cut | None,
    packs_head: bool,
    int8_cache: bool,
) -> _Export:
    """Read the checkpoint's configuration, and refuse what the graph cannot express."""
    source = read_architecture(checkpoint)
    packs = packs_head and _has_float_tables(checkpoint, source)
    kind = replace(
        precision_of(precision, source.vocab_size if packs else 0),
        zero_points=FORMATS[format].zero_points,
        rounds_cache=int8_cache and format != "ort",
    )
    _check_source(checkpoint, source.config, kind)
    settings = load_settings(checkpoint)
    model = architecture(settings.to_dict(), f"{checkpoint}/config.json")
    require_expressible(model, "ort" if format == "ort" else "onnx", str(checkpoint))
    return _Export(checkpoint, source, settings, model, kind, format, cut or Cut())


def _has_float_tables(checkpoint: Path, source: Architecture) -> bool:
    """Whether the embedding, or a head of its own, is stored in floating point."""
    weights = Weights(checkpoint, source.config)
    tables = [source.embedding] if source.tied else [source.embedding, source.head]
    return not all(weights.is_packed(name) for name in tables)


def _write_model(export: _Export, folder: Path) -> GraphInfo:
    """Write `model.onnx` and its weights."""
    rotary = rotary_tables(export.settings, export.model)
    weights = Weights(export.checkpoint, export.source.config)
    return write_graph(
        folder, weights, export.model, rotary, export.precision, export.cut, export.fused
    )


def _check_model(export: _Export, folder: Path) -> None:
    """Let ONNX check the graph; for bf16 also write the graph that runs on a CPU."""
    if export.precision.activations == onnx.TensorProto.BFLOAT16:
        write_for_cpu(folder)
    # The checker knows standard operators only. ONNX Runtime checks its own when it loads them.
    if not export.fused:
        onnx.checker.check_model(str(folder / MODEL), full_check=True)


def _write_companions(export: _Export, folder: Path) -> None:
    """Write what `write_companions` does, and `genai_config.json`."""
    write_companions(export.checkpoint, export.source.config, folder)
    if export.format in ("onnx", "ort"):
        write_genai_config(folder, export.source, export.cut, in_place=export.fused)


def _provenance(export: _Export, info: GraphInfo) -> dict[str, Any]:
    """What `edgewright.json` says of the artifact before it is checked."""
    checkpoint, precision = export.checkpoint, export.precision
    provenance: dict[str, Any] = {
        "edgewright": __version__,
        "kind": "artifact",
        "format": export.format,
        "precision": precision.name,
        "opset": precision.opset,
        "source": {"name": checkpoint.name, "content_hash": content_hash(checkpoint)},
        "inputs": info.inputs,
        "outputs": info.outputs,
        "low_bit_linears": info.low_bit_linears,
        "packed_tables": precision.packs_tables,
        "shape": export.model.summary(),
        "cut": asdict(export.cut),
    }
    if precision.linear == "dense" and (sparsity := read_provenance(checkpoint).get("sparsity")):
        provenance["sparsity"] = sparsity
    return provenance


def _check_source(checkpoint: Path, config: Mapping[str, Any], precision: Precision) -> None:
    """Refuse a precision that does not fit the quantization of the checkpoint."""
    layout = layout_of(config, str(checkpoint))
    method = layout.method if layout else None
    if precision.linear == "int4":
        require_int4(checkpoint, config)
        _, _, sym = packing(config) or (4, -1, True)
        if not sym and not precision.zero_points:
            raise Refused(
                f"{checkpoint}: quantized asymmetric, but TensorRT's INT4 is symmetric",
                "quantize again with --method gptq, or with --sym",
            )
    if precision.linear == "int8" and not (layout and layout.rounds_inputs):
        raise UsageError(
            f"{checkpoint}: has no activation scales, and int8 is taken bit for bit from a "
            "SmoothQuant checkpoint",
            f"first: edgewright quantize {checkpoint} --method smoothquant --out DIR; or "
            "--precision int8-dynamic, which needs none",
        )
    if precision.linear == "int8-dynamic" and method and not (layout and layout.rounds_inputs):
        raise UsageError(
            f"{checkpoint}: already quantized with {method}; int8 on top would quantize twice",
            "use --precision int4",
        )
    if layout and layout.rounds_inputs and PRECISION_OF.get(method or "") != precision.linear:
        raise UsageError(
            f"{checkpoint}: a {method} checkpoint with activations in 8 bits cannot be exported as "
            f"{precision.name}",
            "export a checkpoint of --method int8 with --precision int8-dynamic, one of --method "
            "smoothquant with --precision int8",
        )


def _random_rows(model: Architecture) -> list[list[int]]:
    """Three rows of unequal length, the same for all models with that vocabulary."""
    generator = np.random.default_rng(0)
    longest = max(2, (model.max_positions or 64) - 16)
    return [
        generator.integers(0, model.vocab_size, min(length, longest)).tolist()
        for length in (48, 31, 16)
    ]
