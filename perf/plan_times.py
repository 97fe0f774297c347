"""How long the steps of a run took, compared with what its plan had said.

    python -m edgewright.perf.plan_times RUN...

RUN is the directory of a finished run, with its ledger.json. The measurement after a step is not
counted. Text that a model writes for its own calibration is, though no plan knows its time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Print one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args(argv).runs:
        ledger = json.loads((run / "ledger.json").read_text())
        planned = {row["step"]: row.get("seconds") for row in ledger["plan"]["rows"]}
        for step in ledger["steps"]:
            if seconds := planned.get(step["name"]):
                took = step["seconds"]
                print(
                    f"{run.name} {step['name']}: planned {seconds:.1f} s, took {took:.1f} s, "
                    f"ratio {took / seconds:.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
