"""Measurements with samples, as the gate compares them."""

from __future__ import annotations

import math
from typing import Any

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy

CONTEXT = {"problems/reasoning": 0, "data_hash/text": "aaaa", "seq_len/text": 256}


def answered(correct: str, name: str = "candidate", **more: Any) -> dict[str, Any]:
    """A measurement of a task from its digits."""
    metrics = {"accuracy/reasoning": correct.count("1") / len(correct)}
    return {
        "name": name,
        "metrics": metrics,
        "context": CONTEXT,
        "samples": {"accuracy/reasoning": {"correct": correct}},
    } | more


def scored(nll: list[float], tokens: list[int], name: str = "candidate") -> dict[str, Any]:
    metrics = {"perplexity/text": math.exp(sum(nll) / sum(tokens))}
    return {
        "name": name,
        "metrics": metrics,
        "context": CONTEXT,
        "samples": {"perplexity/text": {"nll": nll, "tokens": tokens}},
    }


def gate(
    new: dict[str, Any], old: dict[str, Any], metric: str = "accuracy/reasoning", **limit: float
) -> dict[str, Any]:
    return check_gate(new, old, Policy(limits={metric: Limit.model_validate(limit)}))["checks"][0]
