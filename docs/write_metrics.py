"""Writes docs/metrics.md: every metric, from the declarations in `benchmarks/metrics.py`.

Run `python -m edgewright.docs.write_metrics` after adding a metric.
"""

from __future__ import annotations

from pathlib import Path

from ..benchmarks.metric import Metric
from ..benchmarks.metrics import METRICS

__all__ = ["FILE", "page"]

FILE = Path(__file__).with_name("metrics.md")
HEAD = """\
# Metrics

This page is written by `python -m edgewright.docs.write_metrics` from `benchmarks/metrics.py`; do
not edit it. These are the names in measurements and ledgers, and the names that a policy of
[the gate](ci.md) limits. `<task>` stands for the name of a task, `<data>` for that of a text:
`--tasks reasoning` gives `accuracy/reasoning`, and `--perplexity text:wiki.txt` gives
`perplexity/wiki`.

Values are in the unit of the name: `size_bytes` counts bytes, also where tables show MB. *Samples*
says that a measurement keeps them, so that the gate computes an interval. *Default limit* is that
of a gate without a policy. [What is measured](evaluation.md) explains how.

| name | what it is | better | shown in | samples | default limit |
| --- | --- | --- | --- | --- | --- |
"""
BETTER = {"higher": "higher", "lower": "lower", "unknown": ""}


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(dict.fromkeys(_row(metric) for metric in METRICS))


def _row(metric: Metric) -> str:
    limit = ", ".join(f"`{key}: {value:g}`" for key, value in metric.default_limit.items())
    samples = "yes" if metric.has_samples else ""
    return (
        f"| `{metric.shown_pattern}` | {metric.label} | {BETTER[metric.better]} | {metric.unit} "
        f"| {samples} | {limit} |\n"
    )


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
