"""Terminal tables of devices show the values of the profiles."""

from __future__ import annotations

import io
from typing import Any

from report_ledger import make_ledger
from rich.console import Console

from edgewright.commands.measurement_tables import ledger_view
from edgewright.targets import list_targets, usable_bytes


def test_every_board_is_listed_with_its_description_and_its_usable_memory(cli) -> None:
    code, out, _ = cli("targets")
    assert code == 0
    listed = {
        columns[0]: columns[1:]
        for line in out.splitlines()
        if line.startswith("│")
        for columns in [[text.strip() for text in line.strip("│").split("│")]]
    }
    targets = list_targets()
    assert listed.keys() == {target.name for target in targets}
    for target in targets:  # the profile of a CPU means the machine at hand
        shown = f"{usable_bytes(target) / 1e9:,.1f}"
        assert float(shown) > 0
        assert listed[target.name] == [target.description, shown]


def printed(views: list[Any]) -> str:
    """Views on a terminal of 140 columns."""
    console = Console(width=140, file=io.StringIO(), record=True)
    for view in views:
        console.print(view, highlight=False)
    return console.export_text()


def test_a_run_ends_on_one_screen_with_what_the_device_says() -> None:
    ledger = make_ledger()
    ledger["steps"] = [{**one, "seconds": 1.0} for one in ledger["steps"]]
    limits = [f"limit number {n}" for n in range(5)]
    ledger["plan"]["rows"][1]["violations"] = limits
    ledger["gate"]["checks"] = [
        {**check, "verdict": "pass", "samples": None, "samples_needed": None, "interval": None}
        | {"note": ""}
        for check in ledger["gate"]["checks"]
    ]
    ledger["gate"] |= {"confidence": 0.95, "inconclusive": "warn", "accepted": True}
    text = printed(ledger_view(ledger))
    assert "on jetson-orin-nano-8gb: export-int4 fits, with limits (5.10 of 6.20 GB" in text
    shown = [limit in text for limit in limits]
    assert shown[:3] == [True, True, True] and shown == sorted(shown, reverse=True)
    left = 6 - sum(shown)  # one is about another step
    assert f"{left} more, of this step or others, in the report" in text
    assert len(text.splitlines()) <= 17
