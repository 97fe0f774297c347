"""Check that an artifact computes the same as its checkpoint: prefill, decode and padding.

Torch runs first, in float32, on whole texts, and its logits are written to disk. ONNX Runtime then
runs the artifact on a prompt and decodes the rest token by token with a cache. In a causal model
both must give the same logits at every position.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...checkpoints.hashing import read_provenance
from ...errors import ParityFailed, UsageError
from .low_bit import low_bit_nodes
from .precision import Limits, Precision, precision_of
from .reference import Way, choose_reference, padded, reference_logits
from .runtime import OnnxDecoder

__all__ = ["check", "is_below", "log_softmax"]

CHANCE = 0.01
"""Top-1 is outside its limit if so few hits have a smaller chance than this with a share that is
just at the limit. With the last logits only, a prefill is compared at a dozen positions."""
CHUNK = 16
"""Positions compared at a time: with a vocabulary of 262,144, they take 34 MB in float64."""


@dataclass
class _Tally:
    """Differences between two sets of logits, added up position by position."""

    tie: float
    max_abs_diff: float = 0.0
    kl: float = 0.0
    hits: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})
    seen: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})

    def add(self, phase: str, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> None:
        """Add logits [positions, vocabulary] of torch and of the artifact."""
        # A NaN compares false with everything, so it would pass as small.
        self.max_abs_diff = max(
            self.max_abs_diff, float(np.nan_to_num(np.abs(expected - actual), nan=np.inf).max())
        )
        chosen = np.take_along_axis(expected, actual.argmax(-1)[:, None], 1)[:, 0]
        self.hits[phase] += int((chosen >= expected.max(-1) - self.tie).sum())
        self.seen[phase] += len(expected)
        p, q = log_softmax(expected), log_softmax(actual)
        self.kl += float(np.nan_to_num((np.exp(p) * (p - q)).sum(-1), nan=np.inf).sum())

    def metrics(self) -> dict[str, float]:
        """The metrics, by their names in a ledger."""
        return {
            "parity/max_abs_diff": self.max_abs_diff,
            "parity/kl": max(self.kl / sum(self.seen.values()), 0.0),
            "parity/top1_prefill": self.hits["prefill"] / self.seen["prefill"],
            "parity/top1_decode": self.hits["decode"] / self.seen["decode"],
            "parity/positions": float(sum(self.seen.values())),
        }


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def _prompts(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows; if all have one length, also half a row, so that a batch of two needs padding."""
    prompts = [list(row) for row in rows]
    if len({len(row) for row in prompts}) == 1:
        prompts.append(prompts[0][len(prompts[0]) // 2 :])
    return prompts


def _compare(
    decoder: OnnxDecoder,
    prompts: list[list[int]],
    texts: list[list[int]],
    spill: Path,
    tally: _Tally,
) -> None:
    """Run each text alone, and two of unequal length as a batch; compare all but padded positions.

    Each run prefills the prompt and decodes the continuation token by token.
    """
    other = next(number for number, prompt in enumerate(prompts) if len(prompt) != len(prompts[0]))
    steps = len(texts[0]) - len(prompts[0])
    for group in [*([number] for number in range(len(prompts))), [0, other]]:
        tokens, mask = padded([prompts[number] for number in group])
        cache = decoder.open_cache(len(group))
        for step in range(steps + 1):
            logits = decoder.step(tokens, mask, cache)
            last = logits.shape[1]  # 1 if the graph gives only the last logits
            for row, number in enumerate(group):
                count = int(mask[row, -last:].sum())  # padding is on the left
                first = len(prompts[number]) + step - count
                for begin in range(0, count, CHUNK):
                    got = logits[row, last - count + begin :][:CHUNK]
                    tally.add(
                        "decode" if step else "prefill",
                        _read(spill / str(number), first + begin, got.shape),
                        got,
                    )
            tokens = (
                np.array([[texts[number][len(prompts[number]) + step]] for number in group])
                if step < steps
                else tokens
            )
            mask = np.concatenate([mask, np.ones((len(group), 1), np.int64)], 1)


def _read(file: Path, first: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read logits [positions, vocabulary] of a text from position `first` on.

    The file is read, not mapped, as mapped pages would stay in memory.
    """
    count, width = shape
    return np.fromfile(file, np.float32, count * width, offset=4 * first * width).reshape(
        count, width
    )


def check(
    artifact: Path,
    checkpoint: Path,
    rows: Sequence[Sequence[int]],
    decode_steps: int = 8,
    way: Way | None = None,
) -> dict[str, float]:
    """Compare an artifact with its checkpoint.

    Every row runs alone, and two rows of unequal length run as a batch with padding on the left. A
    row is the prompt; its first tokens are appended as the continuation that both sides decode.

    Args:
        artifact: directory with `model.onnx` and `edgewright.json`.
        checkpoint: the directory it was made from. A packed checkpoint is compared with its
            dequantized weights.
        rows: token ids, at least two a row.
        decode_steps: cached steps after each prefill.
        way: how the checkpoint's logits are computed; None: as `choose_reference` says.

    Returns:
        `parity/` max_abs_diff (logits), kl (nats, mean over positions), top1_prefill and
        top1_decode (0 to 1), positions, decode_steps, low_bit_nodes.

    Raises:
        ParityFailed: a metric is outside the limits of the precision, or ONNX Runtime replaced
            low-bit products by others.
        UsageError: the rows are too short.
    """
    _check_rows(rows, decode_steps)
    provenance = read_provenance(artifact, ("precision",))
    precision = _recorded_precision(provenance)
    window = provenance.get("cut", {}).get("window", 0)
    if window:  # compared only while no position has left the window: both must agree there
        rows = [row[: max(2, window - decode_steps)] for row in rows]
    prompts = _prompts(rows)
    tally = _Tally(precision.limits.tie)
    texts = [prompt + np.resize(prompt, decode_steps).tolist() for prompt in prompts]
    # In the artifact's directory, which has room for large files anyway.
    with tempfile.TemporaryDirectory(prefix=".parity-", dir=artifact) as folder:
        spill = Path(folder)
        _write_expected(spill, checkpoint, texts, way or choose_reference(checkpoint))
        _compare(OnnxDecoder(artifact, torch.get_num_threads()), prompts, texts, spill, tally)
    linears = int(provenance["low_bit_linears"]) if precision.low_bit_here else 0
    metrics = tally.metrics() | {
        "parity/decode_steps": float(decode_steps),
        "parity/low_bit_nodes": float(low_bit_nodes(artifact).total() if linears else 0),
    }
    _judge(artifact, metrics, tally.seen, precision.name, precision.limits, linears)
    return metrics


def _recorded_precision(provenance: Mapping[str, Any]) -> Precision:
    packed_rows = provenance["shape"]["vocab_size"] if provenance.get("packed_tables") else 0
    return precision_of(provenance["precision"], packed_rows)


def _check_rows(rows: Sequence[Sequence[int]], decode_steps: int) -> None:
    if not rows or min(map(len, rows)) < 2 or decode_steps < 1:
        raise UsageError(
            "parity needs rows of at least two tokens and one decode step",
            "give longer text, or no rows at all",
        )


def _write_expected(spill: Path, checkpoint: Path, texts: list[list[int]], way: Way) -> None:
    """Write the reference logits of each text to a file named by its number."""
    for number, logits in enumerate(reference_logits(checkpoint, texts, way)):
        (spill / str(number)).write_bytes(np.ascontiguousarray(logits).data)


def _judge(
    artifact: Path,
    metrics: dict[str, float],
    seen: Mapping[str, int],
    precision: str,
    limits: Limits,
    linears: int,
) -> None:
    checks = [
        ("max_abs_diff", limits.max_abs_diff, "at most"),
        ("kl", limits.kl, "at most"),
        ("low_bit_nodes", linears, "at least"),
    ]
    broken = [
        f"{name} {metrics[f'parity/{name}']:.3g} ({side} {limit:g})"
        for name, limit, side in checks
        if limit is not None and not _within(metrics[f"parity/{name}"], limit, side)
    ]
    broken += [
        f"top1_{phase} {share:.3g} of {count} positions (at least {limits.top1:g})"
        for phase, count in seen.items()
        if is_below(share := metrics[f"parity/top1_{phase}"], count, limits.top1)
    ]
    if broken:
        raise ParityFailed(
            f"{artifact.name}: the {precision} artifact does not compute what its checkpoint "
            f"computes: {', '.join(broken)}",
            "export with another --precision; if fp32 fails too, please report it",
        )


def is_below(share: float, count: int, limit: float) -> bool:
    """Whether a share of `count` positions is below a limit by more than chance (binomial test)."""
    misses = round((1 - share) * count)
    if limit >= 1 or not misses:
        return misses > 0
    log_p, log_q = math.log(1 - limit), math.log(limit)
    fewer = sum(
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * log_p
            + (count - k) * log_q
        )
        for k in range(misses)
    )
    return 1 - fewer < CHANCE


def _within(value: float, limit: float, side: str) -> bool:
    return value <= limit if side == "at most" else value >= limit
