"""KV-cache study: what keys and values in few bits cost in accuracy and save in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.artifacts import is_artifact
from ...checkpoints.config import read_architecture
from ...checkpoints.tokenizer import load_tokenizer
from ...data.packing import Encoded, rows_hash
from ...data.rows import RowReport
from ...data.shortfall import shortfall
from ...data.sources import Source, scoring_rows
from ...errors import UsageError
from ..bootstrap import share_error
from ..inputs import parse_inputs
from ..tasks.accuracy import cut_off_note, exact_match, score_text
from ..tasks.backends import TorchBackend
from ..tasks.writers import LocalWriter
from .options import KvOptions
from .rounded_cache import CacheBackend, KvScheme, cache_bytes, calibrated_scales

__all__ = ["kv_study"]


def kv_study(
    path: Path, options: KvOptions, calibration: Sequence[Tensor], device: str = "cpu"
) -> dict[str, Any]:
    """Measure a checkpoint with KV caches of different precision.

    Args:
        path: the checkpoint.
        options: the caches to compare, and the data to compare them on.
        calibration: rows int64 [2, tokens] of ids and labels, for the static scales.
        device: device for torch.

    Returns:
        `caches`, the unrounded one first: name, bits, scales, `bytes` by context, `ratio` to fp16
        at the longest context, and metrics; KL and top-1 agreement are against the first. And
        `context`, the conditions that must be equal for two studies to be comparable; and `notes`.

    Raises:
        UsageError: the model is an ONNX artifact, a source is empty, there is nothing to measure,
            or a context is below one token.
    """
    _check(path, options)
    architecture = read_architecture(path)
    tokenizer = load_tokenizer(path)
    plain = TorchBackend(path, device)
    texts, notes = _texts(tokenizer, options)
    largest = calibrated_scales(plain.model, [row[0] for row in calibration])
    found: list[dict[str, Any]] = []
    for scheme in _schemes(options):
        backend = CacheBackend(plain, scheme, largest)
        sizes = {at: cache_bytes(architecture, scheme, at) for at in sorted(options.contexts)}
        longest = max(options.contexts)
        metrics, cut_off = _metrics(backend, plain, tokenizer, texts, options)
        notes += [f"{scheme.name}: {note}" for note in cut_off]
        found.append(
            {
                "name": scheme.name,
                "bits": scheme.bits,
                "scales": None if scheme.bits == 16 else "dynamic" if scheme.dynamic else "static",
                "bytes": {str(context): size for context, size in sizes.items()},
                "ratio": sizes[longest] / cache_bytes(architecture, KvScheme(), longest),
                "metrics": metrics,
            }
        )
    context = {
        "device": plain.device,
        "dtype": plain.dtype,
        **_conditions(options, texts, len(calibration)),
    }
    return {"name": path.name, "caches": found, "context": context, "notes": notes}


def _check(path: Path, options: KvOptions) -> None:
    """Refuse what cannot be measured."""
    if is_artifact(path):
        raise UsageError(
            f"{path}: an exported model, whose cache cannot be changed",
            "give the checkpoint that it was exported from",
        )
    if not (options.perplexity or options.tasks):
        raise UsageError("nothing to measure", "give --perplexity SOURCE or --tasks NAME")
    if bad := [str(context) for context in options.contexts if context < 1]:
        raise UsageError(f"--context {', '.join(bad)}: not a number of tokens", "give 1 or more")


def _conditions(
    options: KvOptions, texts: dict[str, list[Encoded]], calibration_rows: int
) -> dict[str, Any]:
    """What must be equal for two studies to be comparable, besides device and dtype."""
    return {
        "seq_len": options.seq_len,
        **{f"windows/{label}": len(rows) for label, rows in texts.items()},
        "problems": options.limit,
        "calibration_rows": calibration_rows,
        **{f"data_hash/{label}": rows_hash(rows) for label, rows in texts.items()},
    }


def _texts(tokenizer: Any, options: KvOptions) -> tuple[dict[str, list[Encoded]], list[str]]:
    """Label -> rows to score, for each source; and notes on rows that are missing."""
    texts: dict[str, list[Encoded]] = {}
    notes: list[str] = []
    for source in parse_inputs(options.perplexity, Source.parse):
        report = RowReport(options.bad_rows)
        rows = scoring_rows(tokenizer, source, options.seq_len, options.windows, report)
        notes += report.notes(str(source))
        what = f"rows of {source.label} to score"
        notes += shortfall(len(rows), options.windows, what, f"{source} holds no more")
        texts[source.label] = rows
    return texts, notes


def _schemes(options: KvOptions) -> list[KvScheme]:
    """The caches to compare, the unrounded one first."""
    low = [
        KvScheme(bits, scales == "dynamic")
        for bits in dict.fromkeys(options.bits)
        for scales in dict.fromkeys(options.scales)
    ]
    return [KvScheme(), *low]


def _metrics(
    backend: CacheBackend,
    plain: TorchBackend,
    tokenizer: Any,
    texts: dict[str, list[Encoded]],
    options: KvOptions,
) -> tuple[dict[str, float], list[str]]:
    """The metrics of one cache, and notes on them."""
    metrics: dict[str, float] = {}
    notes: list[str] = []
    for label, rows in texts.items():
        text = score_text(backend, rows, plain)
        assert text.kl is not None
        assert text.top1_agreement is not None
        metrics |= {
            f"perplexity/{label}": text.perplexity,
            f"perplexity/{label}/stderr": text.stderr,
            f"perplexity/{label}/n": text.tokens,
            f"kl/{label}": text.kl,
            f"top1_agreement/{label}": text.top1_agreement,
        }
    for task in options.tasks:
        answers = exact_match(
            LocalWriter(backend, tokenizer),
            Source.parse(f"builtin:{task}").problems(options.limit),
            options.max_new_tokens,
        )
        count = len(answers)
        share = sum(answer.correct for answer in answers) / count
        metrics |= {
            f"accuracy/{task}": share,
            f"accuracy/{task}/stderr": share_error(share, count),
            f"accuracy/{task}/n": count,
        }
        notes += cut_off_note(answers, task, options.max_new_tokens)
    return metrics, notes
