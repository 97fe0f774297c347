"""Terminal tables: runs, benchmarks, comparisons, sweeps, KV caches, gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..benchmarks.gate.policy import Policy
from ..benchmarks.gate.result_files import NOT_COMPARED, interval_rule, interval_text
from ..benchmarks.load_metrics import loads_of
from ..benchmarks.metrics import ACCURACY, names_of
from .run_end import RunEnd
from .table_parts import (
    METRIC_COLUMNS,
    QUALITY_COLUMNS,
    ColumnTable,
    cell,
    metric_row,
    table,
)

__all__ = [
    "bench_view",
    "compare_view",
    "gate_view",
    "kv_view",
    "ledger_view",
    "server_view",
    "sweep_view",
]

VERDICTS = {"pass": "pass", "fail": "FAIL", "inconclusive": "inconclusive"}


def ledger_view(ledger: Mapping[str, Any]) -> list[Any]:
    """A run: its verdict, its steps, and what the device will say to the candidate."""
    return [RunEnd(ledger)]


def bench_view(result: Mapping[str, Any]) -> list[Any]:
    """One measurement: its metrics, its tasks, and a comparison of latency."""
    views: list[Any] = [
        table(METRIC_COLUMNS[:-1], [metric_row(result["name"], result["metrics"], None)[:-1]])
    ]
    metrics = result["metrics"]
    views += [f"  {note}" for note in result["notes"]]
    views += [
        f"  {name}: runs vary by {metrics[f'{name}/cv']:.0%} (coefficient of variation): the "
        "machine is busy, or --runs is too small"
        for name in result["context"].get("noisy", ())
    ]
    if len(names_of(metrics, ACCURACY)) > 1:
        views.append(_tasks(metrics))
    if "against" in result:
        views.append(_against(result))
    return views


def _tasks(metrics: Mapping[str, float], title: str = "") -> ColumnTable:
    rows = [
        [
            name.partition("/")[2],
            f"{metrics[name]:.3f} ± {metrics[f'{name}/stderr']:.3f}",
            f"{metrics[f'{name}/n']:,.0f}",
        ]
        for name in names_of(metrics, ACCURACY)
    ]
    return table(("task", "accuracy", "n"), rows, title)


def server_view(result: Mapping[str, Any]) -> list[Any]:
    """A server: one row for each task, and one for each load."""
    metrics = result["metrics"]
    name = result["name"]
    views = [_tasks(metrics, name)] if names_of(metrics, ACCURACY) else []
    if loads_of(metrics):
        views.append(_loads(result, f"{name}: milliseconds, p50 / p90 / p99"))
    return [*views, *(f"  {note}" for note in result["notes"])]


def _loads(result: Mapping[str, Any], title: str) -> ColumnTable:
    metrics = result["metrics"]

    def times(kind: str, load: str) -> str:
        values = [metrics.get(f"{kind}/p{share}/{load}") for share in (50, 90, 99)]
        return " / ".join(cell(value, ",.1f") for value in values)

    rows = [
        [
            load,
            f"{result['context'].get(f'load/{load}', {}).get('requests', '-')}",
            f"{metrics[f'failed_requests/{load}']:,.0f}",
            *(times(kind, load) for kind in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")),
            cell(metrics.get(f"output_tok_s/{load}"), ",.1f"),
            cell(metrics.get(f"requests_s/{load}"), ",.2f"),
        ]
        for load in loads_of(metrics)
    ]
    columns = ("load", "requests", "failed", "TTFT", "ITL", "TPOT", "e2e", "tok/s", "requests/s")
    return table(columns, rows, title)


def _against(result: Mapping[str, Any]) -> ColumnTable:
    other = result["against"]
    rows = [
        [
            name,
            f"{one['ratio']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
            str(one["rounds"]),
            one["verdict"],
        ]
        for name, one in other.items()
        if name != "name"
    ]
    return table(
        ("seconds", "ratio", "interval at 0.99", "rounds", "verdict"),
        rows,
        f"{result['name']} against {other['name']}, in turns",
    )


def compare_view(found: Mapping[str, Any]) -> list[Any]:
    """Runs beside each other, and how they differ from the first."""
    rows = [metric_row(row["name"], row["metrics"], None)[:-1] for row in found["rows"]]
    first, *others = (row["name"] for row in found["rows"])
    lines = [
        [
            name,
            metric,
            cell(one.get("observed"), ".4f"),
            interval_text(one),
            one.get("verdict") or f"not comparable: {one['unlike']}",
        ]
        for name, against in zip(others, found["against_first"], strict=True)
        for metric, one in against.items()
    ]
    confidence = Policy().confidence
    columns = ("run", "metric", "drop or ratio", f"interval at {confidence:g}", "no worse?")
    rule = f"  interval: {interval_rule(confidence)}"
    against = [table(columns, lines, f"against {first}"), rule] if lines else []
    return [table(METRIC_COLUMNS[:-1], rows), *against]


def sweep_view(found: Mapping[str, Any]) -> list[Any]:
    """The trials of a sweep, with what was varied and what was optimized."""
    metrics = [objective["metric"] for objective in found["objectives"]]
    keys = list(found["trials"][0]["parameters"])
    rows = [
        [
            str(number + 1),
            *(str(trial["parameters"][key]) for key in keys),
            *(cell(trial["values"].get(metric), ".5g") for metric in metrics),
            trial["verdict"] or "-",
            "chosen" if number == found["chosen"] else _trial_mark(trial),
        ]
        for number, trial in enumerate(found["trials"])
    ]
    reasons = [
        f"  trial {n}: {t['reason']}" for n, t in enumerate(found["trials"], 1) if t["reason"]
    ]
    return [
        table(("trial", *keys, *metrics, "gate", ""), rows, f"sweep of {found['name']}"),
        *reasons,
    ]


def _trial_mark(trial: Mapping[str, Any]) -> str:
    if trial["front"]:
        return "front"
    return "failed" if trial["reason"] else ""


def kv_view(study: Mapping[str, Any]) -> list[Any]:
    """KV caches of several precisions: accuracy and size."""
    contexts = list(study["caches"][0]["bytes"])
    rows = [
        [
            *metric_row(cache["name"], cache["metrics"], None)[:QUALITY_COLUMNS],
            *(cell(cache["bytes"][c], ",.2f", 1e6) for c in contexts),
            f"{cache['ratio']:.3f}",
        ]
        for cache in study["caches"]
    ]
    sizes = (f"MB at {int(context):,}" for context in contexts)
    columns = ("cache", *METRIC_COLUMNS[1:QUALITY_COLUMNS], *sizes, "of fp16")
    return [
        table(
            columns, rows, f"KV cache of {study['name']}; KL and top-1 against the unrounded cache"
        ),
        *(f"  {note}" for note in study["notes"]),
    ]


def gate_view(gate: Mapping[str, Any]) -> list[Any]:
    """The checks of a gate, and their notes."""
    rows = [
        [
            c["metric"],
            cell(c["baseline"], ".5g"),
            cell(c["candidate"], ".5g"),
            cell(c["observed"], ".4f"),
            interval_text(c),
            c["limit"],
            VERDICTS[c["verdict"]],
            cell(c["samples"], ",.0f"),
            cell(c["samples_needed"], ",.0f"),
        ]
        for c in gate["checks"]
    ]
    title = f"gate: {gate['verdict'].upper()} ({gate['candidate']} against {gate['baseline']})"
    columns = (
        "metric",
        "baseline",
        "candidate",
        "observed",
        f"interval at {gate['confidence']:g}",
        "limit",
        "verdict",
        "n",
        "n needed",
    )
    notes = dict.fromkeys(f"  {c['metric']}: {c['note']}" for c in gate["checks"] if c["note"])
    lost = [f"  {name}: {NOT_COMPARED}" for name in gate.get("missing", [])]
    rule = f"  interval: {interval_rule(gate['confidence'])}"
    rules = [rule] if any(c["interval"] for c in gate["checks"]) else []
    return [table(columns, rows, title), *rules, *notes, *lost]
