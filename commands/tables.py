"""Prints the result of a verb: as JSON, or as tables on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from ..checkpoints.disk import is_full
from ..console import IS_MAIN, visible, width_of
from ..errors import NoSpace
from .device_tables import (
    bundle_view,
    deploy_view,
    doctor_view,
    recipes_view,
    rehearsal_view,
    rollback_view,
    targets_view,
    tree_view,
    verdict_view,
    written_view,
)
from .measurement_tables import (
    bench_view,
    compare_view,
    gate_view,
    kv_view,
    ledger_view,
    server_view,
    sweep_view,
)
from .step_tables import cut_view, plan_view, step_view, traces_view

__all__ = ["VIEWS", "cleaned", "show", "view_of"]

WIDTH = 160
"""Columns of a table that is written to a file or a pipe."""
VIEWS: dict[str, Callable[[Any], list[Any]]] = {
    "bench": bench_view,
    "bundle": bundle_view,
    "compare": compare_view,
    "cut": cut_view,
    "deploy": deploy_view,
    "doctor": doctor_view,
    "gate": gate_view,
    "kv": kv_view,
    "ledger": ledger_view,
    "plan": plan_view,
    "recipes": recipes_view,
    "rehearsal": rehearsal_view,
    "rollback": rollback_view,
    "server": server_view,
    "step": step_view,
    "sweep": sweep_view,
    "target": tree_view,
    "targets": targets_view,
    "traces": traces_view,
    "verdict": verdict_view,
    "written": written_view,
}
"""By name, a function that turns a result into tables and lines for a terminal."""


def cleaned(value: Any) -> Any:
    """A result without the characters that a terminal would obey, in every text and name of it."""
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(inner) for inner in value]
    return visible(value) if isinstance(value, str) else value


def view_of(value: Any, view: str) -> list[Any]:
    """The tables and lines that show a result, whatever its names and messages contain.

    Args:
        value: the result.
        view: a key of `VIEWS`.
    """
    return VIEWS[view](cleaned(value))


def show(value: Any, as_json: bool, view: str) -> None:
    """Print a result on standard output: as the view of this name, or as JSON if there is none.

    Raises:
        NoSpace: standard output is a file on a full disk.
    """
    if not IS_MAIN:
        return
    try:
        _print(value, as_json, view)
        sys.stdout.flush()
    except OSError as error:
        if not is_full(error):
            raise
        # What is left in the buffer would fail again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise NoSpace(
            f"standard output could not be written: {error.strerror}",
            "free disk space; files of this command are complete",
        ) from error


def _print(value: Any, as_json: bool, view: str) -> None:
    if as_json or not view:
        print(json.dumps(value, indent=2))
        return
    # What is shown are names and messages of users, and so no markup: `a[b]` is a directory.
    output = Console(width=width_of(sys.stdout, WIDTH), emoji=False, markup=False)
    for item in view_of(value, view):
        output.print(item, highlight=False)
