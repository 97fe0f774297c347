"""Terminal tables: steps, plans, traces, previews of pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..pipeline.run_progress import duration
from .table_parts import cell, table

__all__ = ["cut_view", "plan_view", "step_view", "traces_view"]

WORST_MODULES = 10
FITS = {True: "yes", False: "NO", None: "-"}
SURVEY = "all"
"""Target of a plan that surveys every device."""
REUSED = "reused, nothing it depends on has changed"


def _by_mode(row: Mapping[str, Any], key: str, form: str) -> str:
    """A figure in every power mode that has it; of the plan of a model only."""
    if "commands" not in row:
        return "-"
    values = row.get(key, {})
    return "  ".join(f"{mode}:{value:{form}}" for mode, value in values.items()) or "-"


def _bytes(size: float | None) -> str:
    """A size: in GB, or in MB where that is less than 100 MB."""
    if size is None:
        return "-"
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _step_name(row: Mapping[str, Any]) -> str:
    """The name of a step; empty in the plan of a model, which has none."""
    return "-" if "commands" in row else row["step"]


PLAN_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "target": lambda row: row.get("target", "-"),
    "step": _step_name,
    "precision": lambda row: row["precision"],
    "format": lambda row: row.get("format") or "-",
    "params M": lambda row: cell(row["parameters"], ",.2f", 1e6),
    "size": lambda row: _bytes(row["weight_bytes"]),
    "RAM here": lambda row: _bytes(row.get("ram_bytes")),
    "disk here": lambda row: _bytes(row.get("disk_bytes")),
    "time here": lambda row: f"~{duration(row['seconds'])}" if "seconds" in row else "-",
    "on device": lambda row: _bytes(row.get("total_bytes")),
    "fits": lambda row: FITS[row.get("fits")],
    "power mode": lambda row: row.get("power_mode", "-"),
    "TTFT ms": lambda row: cell(row.get("ttft_ms"), ",.0f"),
    "tok/s": lambda row: cell(row.get("decode_tok_s"), ",.0f"),
    "band": lambda row: "-" if row.get("band") is None else f"×÷{1 + row['band']:.2f}",
    "longest context": lambda row: cell(row.get("longest_context"), ",.0f"),
    "tok/s by mode": lambda row: _by_mode(row, "decode_by_mode", ",.0f"),
    "tok/J by mode": lambda row: _by_mode(row, "tokens_per_joule", ".1f"),
}
"""The columns of a plan, and how each is read from a row. Columns without a value are left out."""
SURVEYED = ("target", "precision", "on device", "fits", "power mode", "tok/s")
"""The columns of a survey of every device, which fit into 80 columns. JSON has all."""


def plan_view(plan: Mapping[str, Any]) -> list[Any]:
    """A plan: what each step needs here, and what the device will do with it."""
    columns = SURVEYED if plan.get("target") == SURVEY else PLAN_COLUMNS
    cells = {name: [PLAN_COLUMNS[name](row) for row in plan["rows"]] for name in columns}
    filled = {name: texts for name, texts in cells.items() if set(texts) != {"-"}}
    rows = list(zip(*filled.values(), strict=True))
    title = f"plan for {plan['target']}" if plan.get("target") else "plan (no target)"
    keys = len({"target", "step", "precision"} & filled.keys())
    refuses = all(row["refused"] or "commands" not in row for row in plan["rows"])
    # Where the plan ends in an error, the error has these lines.
    remarks = _by_step(
        (row["step"], violation)
        for row in plan["rows"]
        for violation in (*row["violations"], *([] if refuses else row["refused"]))
    )
    remarks += [line for row in plan["rows"] for line in _drafts(row)]
    remarks += _what_runs(plan) if plan.get("target") else []
    if plan.get("target") == SURVEY:
        remarks = []  # the same for every device; JSON has them
    remarks += _by_step(
        (row["step"], f"calibrates on {row['calibration']}")
        for row in plan["rows"]
        if row.get("calibration")
    )
    return [table(tuple(filled), rows, title, keys), *remarks, *plan.get("advice", ())]


def _by_step(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Remarks on steps, each once with the names of all steps that it is about."""
    steps: dict[str, list[str]] = {}
    for name, text in remarks:
        steps.setdefault(text, []).append(name)
    return [f"  {', '.join(names)}: {text}" for text, names in steps.items()]


def _drafts(row: Mapping[str, Any]) -> list[str]:
    """What a draft model gains, one line for each engine."""
    lines: list[str] = []
    for draft in row.get("drafts", ()):
        least = draft["break_even"]
        pays = "never" if least is None else f"from an agreement of {least:.2f}"
        room = "" if draft["fits"] else f"; both need {_bytes(draft['total_bytes'])}: NO room"
        lines.append(
            f"  {row['precision']} with the draft, {draft['engine']}: {draft['decode_tok_s']:,.0f} "
            f"tok/s (×÷{1 + draft['band']:.2f}), {draft['speedup']:.2f}x of "
            f"{draft['alone_tok_s']:,.0f}; {draft['drafted']} tokens a round, of which "
            f"{draft['tokens_a_round'] - 1:.1f} agree; pays {pays}{room}"
        )
    return lines


def _what_runs(plan: Mapping[str, Any]) -> list[str]:
    """For the plan of a model, what to type for each precision that the device can run."""
    lines: list[str] = []
    for row in plan["rows"]:
        if "commands" in row and not row["refused"]:
            longest = row["longest_context_int8"] or 0
            if longest > row["longest_context"] and row["kv_cache"] == "float":
                what = f"{row['precision']} with --kv-cache int8"
                lines.append(f"{what}: its longest context is {longest:,} tokens")
            lines.append(f"{row['precision']} runs on {plan['target']}, {_speed(row)}. To make it:")
            lines += [f"  {command}" for command in row["commands"]]
    return lines


def _speed(row: Mapping[str, Any]) -> str:
    """How much of a device's memory a model takes, and how fast it is there."""
    memory = f"in {row['total_bytes'] / 1e9:.2f} of its {row['usable_bytes'] / 1e9:.2f} GB"
    rate = row.get("decode_tok_s")
    if rate is None:
        return memory
    return f"{memory}, at about {rate:,.0f} tokens/s (×÷{1 + row['band']:.2f})"


def step_view(result: Mapping[str, Any]) -> list[Any]:
    """One step: where its output is, its notes, and its worst modules."""
    state = REUSED if result["reused"] else f"made in {result['seconds']:.1f} s"
    lines: list[Any] = [f"{result['output']}: {state}", *(f"  {note}" for note in result["notes"])]
    modules = result["details"].get("modules")
    if modules:
        rows = [
            [name, f"{m['error']:.3e}", f"{m['rtn_error']:.3e}"]
            for name, m in [*modules.items()][:WORST_MODULES]
        ]
        lines.append(table(("worst modules", "relative output error", "round-to-nearest"), rows))
    return lines


def traces_view(report: Mapping[str, Any]) -> list[Any]:
    """What a teacher wrote, and how many chains were kept or rejected."""
    majority = next(name for name in report if name.startswith("maj@"))
    counts = {"kept": report["kept"], **report["rejected"]}
    rows = [[name, f"{n:,}", f"{n / report['chains']:.1%}"] for name, n in counts.items()]
    notes = [
        *(f"  {note}" for note in report.get("notes", ())),
        f"  {report['questions_with_traces']:,} questions have a trace; "
        f"pass@1 {report['pass@1']:.3f}, {majority} {report[majority]:.3f} ± "
        f"{report['stderr']:.3f} against the source's answers",
    ]
    if report["doubted"]:
        first = ", ".join(str(one["row"]) for one in report["doubted_rows"][:10])
        notes.append(
            f"  for {report['doubted']:,} questions most chains agree on another answer than the "
            f"source, which may be wrong: rows {first}"
        )
    return [
        f"{report['output']}: {REUSED if report['reused'] else 'written'}; "
        f"{report['chains']:,} chains of {report['questions']:,} questions, "
        f"{report['tokens']:,} tokens",
        table(("chains", "count", "share"), rows),
        *notes,
    ]


def cut_view(plan: Mapping[str, Any]) -> list[Any]:
    """What a prune step would remove, and the plan of the result."""
    rows = [
        [
            str(layer),
            "kept" if layer in plan["kept_layers"] else "REMOVED",
            f"{influence:.4f}",
            " ".join(map(str, removed)) or "-",
            " ".join(f"{score:.2g}" for score in scores),
        ]
        for layer, (influence, removed, scores) in enumerate(
            zip(plan["layer_influence"], plan["pruned_heads"], plan["head_importance"], strict=True)
        )
    ]
    columns = ("layer", "state", "influence", "heads removed", "importance of the heads")
    layers = table(columns, rows, "nothing was written")
    return [*(f"  {note}" for note in plan["notes"]), layers, *plan_view(plan)]
