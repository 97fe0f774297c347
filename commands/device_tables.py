"""Terminal tables: devices, deployments, checks of this installation, written files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from ..documents import to_yaml
from .measurement_tables import gate_view
from .table_parts import METRIC_COLUMNS, metric_row, table

__all__ = [
    "bundle_view",
    "deploy_view",
    "doctor_view",
    "recipes_view",
    "rehearsal_view",
    "rollback_view",
    "targets_view",
    "tree_view",
    "verdict_view",
    "written_view",
]


def targets_view(targets: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The list of devices."""
    rows = [
        [
            str(t["name"]),
            str(t["description"]),
            f"{t['memory']['usable_bytes'] / 1e9:,.1f}",
        ]
        for t in targets
    ]
    return [table(("target", "device", "usable GB"), rows)]


def recipes_view(recipes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The recipes that ship with edgewright."""
    rows = [[str(r["name"]), str(r["model"]), str(r["purpose"])] for r in recipes]
    return [table(("recipe", "model", "what it does"), rows)]


def tree_view(value: Any) -> list[Any]:
    """Any value as YAML, short lists in one line."""
    return [to_yaml(value, width=100, default_flow_style=None).rstrip()]


def doctor_view(checks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The checks of an installation."""
    rows = [
        [check["name"], "ok" if check["ok"] else _absent(check), check["detail"]]
        for check in checks
    ]
    return [table(("check", "state", "detail"), rows)]


def _absent(check: Mapping[str, Any]) -> str:
    return "MISSING" if check["required"] else "not there"


def written_view(value: Mapping[str, Sequence[str]]) -> list[Any]:
    """The files that were written."""
    return list(value["written"])


def verdict_view(value: Mapping[str, Any]) -> list[Any]:
    """What a device cannot do with a model, and what it can."""
    rows = [[v["severity"], v["rule"], v["message"], v["nearest"]] for v in value["violations"]]
    title = f"{value['model']} as {value['format']} in {value['precision']} on {value['target']}"
    views: list[Any] = [
        table(("", "rule", "problem", "nearest alternative"), rows, title)
        if rows
        else f"{title}: no problem found"
    ]
    for jetpack, lines in value.get("commands", {}).items():
        views += [f"JetPack {jetpack}:", *(f"  {line}" for line in lines)]
    return views


def bundle_view(value: Mapping[str, Any]) -> list[Any]:
    """The bundle of an artifact."""
    engine = value["engine"]
    written = f"{value['output']}: version {value['version']}, {value['size_bytes'] / 1e6:.1f} MB"
    if "workspace_mib" not in engine:
        return [
            f"{written}; copy the directory to the device and start llama-server there with "
            "model/model.gguf"
        ]
    return [
        f"{written}; an engine built from it takes prompts of {engine['prompt']} and a context of "
        f"{engine['context']} tokens, batch {engine['batch']}, workspace "
        f"{engine['workspace_mib']} MiB",
        "copy the directory to the device and run ./run.sh check, ./build_engine.sh and "
        "./run.sh bench there",
    ]


def rehearsal_view(value: Mapping[str, Any]) -> list[Any]:
    """What a rehearsal ran, and what it found, by JetPack release."""
    lines: list[Any] = []
    for one in value["rehearsals"]:
        tools = ", ".join(dict.fromkeys(command[0] for command in one["commands"]))
        result = f"{len(one['faults'])} faults" if one["faults"] else "no fault found"
        lines += [
            f"JetPack {one['jetpack']} (TensorRT {one['tensorrt']}): {len(one['commands'])} runs "
            f"of {tools or 'no tool'}; {result}",
            *(f"  fault: {fault}" for fault in one["faults"]),
            *(f"  note: {note}" for note in one["notes"]),
        ]
    return lines


def deploy_view(entry: Mapping[str, Any]) -> list[Any]:
    """What a device measured."""
    metrics = entry["metrics"]
    context = entry["context"]
    rows = [[name, f"{value:,.4g}"] for name, value in metrics.items()]
    board = context["board"] or context["system"]
    verdict = gate_view(entry["gate"]) if entry["gate"] else []
    return [
        table(METRIC_COLUMNS[:-1], [metric_row(entry["name"], metrics, None)[:-1]]),
        table(("on the device", "value"), rows),
        f"{board}, power mode {context['power_mode'] or 'unknown'}, version {context['version']}; "
        f"recorded in {entry['ledger']}",
        *verdict,
        *(Text(f"  {note}") for note in entry["notes"]),
    ]


def rollback_view(value: Mapping[str, str]) -> list[Any]:
    """Which version is current after a rollback."""
    return [f"current is {value['current']} again; previous is {value['previous']}"]
