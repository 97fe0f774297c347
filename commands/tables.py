"""How results look on a terminal; with --json they are printed as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..benchmarks.gate.result_files import interval_text
from ..console import IS_MAIN

__all__ = ["show"]


WORST_MODULES = 10
JSON_ONLY = "json"
"""View of a result that is always printed as JSON."""


def show(value: Any, as_json: bool, view: str) -> None:
    """Print a result on standard output: as JSON, or as the table that `view` names."""
    if not IS_MAIN:
        return
    if as_json or view == JSON_ONLY:
        print(json.dumps(value, indent=2))
        return
    output = Console(soft_wrap=False, width=None)
    if not output.is_terminal:
        output = Console(width=160)
    for item in VIEWS[view](value):
        output.print(item, highlight=False)


def _number(value: float | None, pattern: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value / scale, pattern)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _find(metrics: Mapping[str, float], kind: str) -> tuple[str, float] | None:
    return next(
        ((k, v) for k, v in metrics.items() if k.startswith(f"{kind}/") and k.count("/") == 1), None
    )


def _metric_row(name: str, metrics: Mapping[str, float], seconds: float | None) -> list[str]:
    accuracy = _find(metrics, "accuracy")
    share = (
        f"{accuracy[1]:.3f} ± {metrics.get(accuracy[0] + '/stderr', 0):.3f}" if accuracy else "-"
    )
    found = {
        kind: (_find(metrics, kind) or ("", None))[1]
        for kind in ("perplexity", "kl", "top1_agreement")
    }
    return [
        name,
        share,
        _number(found["perplexity"], ".4f"),
        _number(found["kl"], ".4f"),
        _number(found["top1_agreement"], ".4f"),
        _number(metrics.get("ttft_ms/p50"), ".1f"),
        _number(metrics.get("decode_tok_s/p50"), ",.0f"),
        _number(metrics.get("peak_rss_bytes"), ",.0f", 1e6),
        _number(metrics.get("size_bytes"), ",.2f", 1e6),
        _number(metrics.get("parameters"), ",.2f", 1e6),
        _number(seconds, ".0f"),
    ]


METRIC_COLUMNS = (
    "step",
    "exact match",
    "perplexity",
    "KL",
    "top-1",
    "TTFT ms",
    "decode tok/s",
    "peak MB",
    "size MB",
    "params M",
    "s",
)


def _ledger(ledger: Mapping[str, Any]) -> list[Any]:
    rows = [_metric_row(s["name"], s["metrics"], s["seconds"]) for s in ledger["steps"]]
    views: list[Any] = [_table(METRIC_COLUMNS, rows)]
    if ledger.get("gate"):
        views += _gate(ledger["gate"])
    if ledger.get("plan", {}).get("target"):
        views += _plan(ledger["plan"])
    return views


def _bench(result: Mapping[str, Any]) -> list[Any]:
    views: list[Any] = [
        _table(METRIC_COLUMNS[:-1], [_metric_row(result["name"], result["metrics"], None)[:-1]])
    ]
    metrics = result["metrics"]
    views += [
        f"  {name}: its runs differ by {metrics[f'{name}/cv']:.0%} (coefficient of variation): a busy machine, or too few --runs"
        for name in result["context"].get("noisy", ())
    ]
    tasks = [name for name in metrics if name.startswith("accuracy/") and name.count("/") == 1]
    if len(tasks) > 1:
        rows = [
            [
                t.partition("/")[2],
                f"{metrics[t]:.3f} ± {metrics[f'{t}/stderr']:.3f}",
                f"{metrics[f'{t}/n']:,.0f}",
            ]
            for t in tasks
        ]
        views.append(_table(("task", "accuracy", "n"), rows))
    if "against" in result:
        views.append(_against(result))
    return views


def _against(result: Mapping[str, Any]) -> Table:
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
    return _table(
        ("seconds", "ratio", "interval at 0.99", "rounds", "verdict"),
        rows,
        f"{result['name']} against {other['name']}, in turns",
    )


def _compare(found: Mapping[str, Any]) -> list[Any]:
    rows = [_metric_row(row["name"], row["metrics"], None)[:-1] for row in found["rows"]]
    first, *others = (row["name"] for row in found["rows"])
    lines = [
        [
            name,
            metric,
            _number(one.get("observed"), ".4f"),
            interval_text(one),
            one.get("verdict") or f"not comparable: {one['unlike']}",
        ]
        for name, against in zip(others, found["against_first"], strict=True)
        for metric, one in against.items()
    ]
    columns = ("run", "metric", "drop or ratio", "interval at 0.95", "no worse?")
    return [
        _table(METRIC_COLUMNS[:-1], rows),
        *([_table(columns, lines, f"against {first}")] if lines else []),
    ]


def _sweep(found: Mapping[str, Any]) -> list[Any]:
    metrics = [objective["metric"] for objective in found["objectives"]]
    keys = list(found["trials"][0]["parameters"])
    rows = []
    for number, trial in enumerate(found["trials"]):
        mark = (
            "chosen"
            if number == found["chosen"]
            else "front"
            if trial["front"]
            else "failed"
            if trial["reason"]
            else ""
        )
        values = [_number(trial["values"].get(metric), ".5g") for metric in metrics]
        rows.append(
            [
                str(number + 1),
                *(str(trial["parameters"][key]) for key in keys),
                *values,
                trial["verdict"] or "-",
                mark,
            ]
        )
    reasons = [
        f"  trial {n}: {t['reason']}" for n, t in enumerate(found["trials"], 1) if t["reason"]
    ]
    return [
        _table(("trial", *keys, *metrics, "gate", ""), rows, f"sweep of {found['name']}"),
        *reasons,
    ]


def _kv(study: Mapping[str, Any]) -> list[Any]:
    contexts = list(study["caches"][0]["bytes"])
    rows = [
        [
            *_metric_row(cache["name"], cache["metrics"], None)[:5],
            *(_number(cache["bytes"][c], ",.2f", 1e6) for c in contexts),
            f"{cache['ratio']:.3f}",
        ]
        for cache in study["caches"]
    ]
    columns = ("cache", *METRIC_COLUMNS[1:5], *(f"MB at {int(c):,}" for c in contexts), "of fp16")
    return [
        _table(
            columns, rows, f"KV cache of {study['name']}; KL and top-1 against the unrounded cache"
        )
    ]


VERDICTS = {"pass": "pass", "fail": "FAIL", "inconclusive": "inconclusive"}


def _gate(gate: Mapping[str, Any]) -> list[Any]:
    rows = [
        [
            c["metric"],
            _number(c["baseline"], ".5g"),
            _number(c["candidate"], ".5g"),
            _number(c["observed"], ".4f"),
            interval_text(c),
            c["limit"],
            VERDICTS[c["verdict"]],
            _number(c["samples"], ",.0f"),
            _number(c["samples_needed"], ",.0f"),
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
    return [_table(columns, rows, title), *notes]


def _plan(plan: Mapping[str, Any]) -> list[Any]:
    rows = [
        [
            r["step"],
            r["precision"],
            _number(r["parameters"], ",.2f", 1e6),
            _number(r["weight_bytes"], ",.2f", 1e6),
            _number(r.get("ram_bytes"), ",.0f", 1e6),
            _number(r.get("seconds"), ",.0f"),
            _number(r.get("total_bytes"), ",.0f", 1e6),
            {True: "yes", False: "NO", None: "-"}[r.get("fits")],
            _number(r.get("ttft_ms"), ",.0f"),
            _number(r.get("decode_tok_s"), ",.0f"),
            "-" if r.get("band") is None else f"×÷{1 + r['band']:.2f}",
            _number(r.get("longest_context"), ",.0f"),
            "  ".join(
                f"{mode} {value:.1f}" for mode, value in r.get("tokens_per_joule", {}).items()
            )
            or "-",
        ]
        for r in plan["rows"]
    ]
    title = f"plan for {plan['target']}" if plan.get("target") else "plan (no target)"
    columns = (
        "step",
        "precision",
        "params M",
        "weights MB",
        "RAM here MB",
        "time here s",
        "on device MB",
        "fits",
        "TTFT ms",
        "tok/s",
        "band",
        "longest context",
        "tok/J by mode",
    )
    survey = (
        plan.get("target") == "all"
    )  # the same remarks for every board would bury the table; JSON has them
    remarks = [
        f"  {r['step']}: {v}"
        for r in plan["rows"]
        for v in (*r["violations"], *r["refused"])
        if not survey
    ]
    return [_table(columns, rows, title), *remarks]


def _step(result: Mapping[str, Any]) -> list[Any]:
    state = (
        "reused, nothing it depends on has changed"
        if result["reused"]
        else f"made in {result['seconds']:.1f} s"
    )
    lines: list[Any] = [f"{result['output']}: {state}", *(f"  {note}" for note in result["notes"])]
    modules = result["details"].get("modules")
    if modules:
        rows = [
            [name, f"{m['error']:.3e}", f"{m['rtn_error']:.3e}"]
            for name, m in [*modules.items()][:WORST_MODULES]
        ]
        lines.append(_table(("worst modules", "relative output error", "round-to-nearest"), rows))
    return lines


def _traces(report: Mapping[str, Any]) -> list[Any]:
    state = "reused, nothing it depends on has changed" if report["reused"] else "written"
    maj = next(name for name in report if name.startswith("maj@"))
    shares = f"pass@1 {report['pass@1']:.3f}, {maj} {report[maj]:.3f} ± {report['stderr']:.3f} against the source's answers"
    rows = [
        [name, f"{count:,}", f"{count / report['chains']:.1%}"]
        for name, count in {"kept": report["kept"], **report["rejected"]}.items()
    ]
    asked = f"{report['chains']:,} chains of {report['questions']:,} questions, {report['tokens']:,} tokens"
    notes = [f"  {report['questions_with_traces']:,} questions have a trace; {shares}"]
    if report["doubted"]:
        first = ", ".join(str(one["row"]) for one in report["doubted_rows"][:10])
        notes.append(
            f"  {report['doubted']:,} answers of the source are outvoted by the chains, and may be wrong: rows {first}"
        )
    return [
        f"{report['output']}: {state}; {asked}",
        _table(("chains", "count", "share"), rows),
        *notes,
    ]


def _cut(plan: Mapping[str, Any]) -> list[Any]:
    rows = [
        [
            str(layer),
            "stays" if layer in plan["kept_layers"] else "GOES",
            f"{influence:.4f}",
            " ".join(map(str, gone)) or "-",
            " ".join(f"{score:.2g}" for score in scores),
        ]
        for layer, (influence, gone, scores) in enumerate(
            zip(plan["layer_influence"], plan["pruned_heads"], plan["head_importance"], strict=True)
        )
    ]
    table = _table(
        ("layer", "layer", "influence", "heads that go", "importance of the heads"),
        rows,
        "nothing was written",
    )
    return [*(f"  {note}" for note in plan["notes"]), table, *_plan(plan)]


def _targets(targets: Sequence[Mapping[str, Any]]) -> list[Any]:
    rows = [
        [
            str(t["name"]),
            str(t.get("title") or t.get("description") or ""),
            _number(t.get("usable_bytes"), ",.1f", 1e9),
        ]
        for t in targets
    ]
    return [_table(("target", "device", "usable GB"), rows)]


def _tree(value: Any) -> list[Any]:
    import yaml

    return [yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120).rstrip()]


def _doctor(checks: Sequence[Mapping[str, Any]]) -> list[Any]:
    rows = [
        [c["name"], "ok" if c["ok"] else ("MISSING" if c["required"] else "not there"), c["detail"]]
        for c in checks
    ]
    return [_table(("check", "state", "detail"), rows)]


def _written(value: Mapping[str, Sequence[str]]) -> list[Any]:
    return list(value["written"])


def _verdict(value: Mapping[str, Any]) -> list[Any]:
    rows = [[v["severity"], v["rule"], v["message"], v["nearest"]] for v in value["violations"]]
    title = f"{value['model']} as {value['format']} in {value['precision']} on {value['target']}"
    views: list[Any] = [
        _table(("", "rule", "what does not go", "nearest"), rows, title)
        if rows
        else f"{title}: nothing stands in the way"
    ]
    for jetpack, lines in value.get("commands", {}).items():
        views += [f"JetPack {jetpack}:", *(f"  {line}" for line in lines)]
    return views


def _bundle(value: Mapping[str, Any]) -> list[Any]:
    engine = value["engine"]
    return [
        f"{value['output']}: version {value['version']}, {value['size_bytes'] / 1e6:.1f} MB; an engine built from it takes prompts of "
        f"{engine['prompt']} and a context of {engine['context']} tokens, batch {engine['batch']}, workspace {engine['workspace_mib']} MiB",
        "copy the directory to the device and run ./run.sh check, ./build_engine.sh and ./run.sh bench there",
    ]


def _deploy(entry: Mapping[str, Any]) -> list[Any]:
    metrics, context = entry["metrics"], entry["context"]
    rows = [[name, f"{value:,.4g}"] for name, value in metrics.items()]
    board = context["board"] or context["system"]
    return [
        _table(METRIC_COLUMNS[:-1], [_metric_row(entry["name"], metrics, None)[:-1]]),
        _table(("on the device", "value"), rows),
        f"{board}, power mode {context['power_mode'] or 'unknown'}, version {context['version']}; entered in {entry['ledger']}",
    ]


def _rollback(value: Mapping[str, str]) -> list[Any]:
    return [f"current is {value['current']} again; previous is {value['previous']}"]


VIEWS: dict[str, Callable[[Any], list[Any]]] = {
    "ledger": _ledger,
    "bench": _bench,
    "gate": _gate,
    "plan": _plan,
    "step": _step,
    "cut": _cut,
    "targets": _targets,
    "target": _tree,
    "doctor": _doctor,
    "written": _written,
    "kv": _kv,
    "compare": _compare,
    "sweep": _sweep,
    "bundle": _bundle,
    "deploy": _deploy,
    "rollback": _rollback,
    "verdict": _verdict,
    "traces": _traces,
}
