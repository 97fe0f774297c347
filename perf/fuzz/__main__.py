"""The command line of the campaign; see the docstring of the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported

from . import __doc__ as description
from .campaign import Result, run
from .readers import all_readers


def main() -> int:
    """Run all readers, print the table, and return 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers by a part of their name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        readers = [one for one in all_readers(Path(work) / "valid") if args.only in one.name]
        weights = sum(one.weight for one in readers)
        results: list[Result] = []
        for reader in readers:
            cases = -(-args.cases * reader.weight // weights)
            found = run(reader, cases, args.seed, Path(work) / "case")
            print(_row(found), file=sys.stderr, flush=True)
            results.append(found)
    print(_table(results))
    findings = [one for result in results for one in result.findings.values()]
    for one in findings:
        print(f"\n{one.what}\n  at {one.where}\n  case {one.case}")
    return 1 if findings else 0


def _row(one: Result) -> str:
    refused = f"{one.refused:,} | {one.cases - one.refused:,}"
    times = f"{1000 * one.seconds / max(one.cases, 1):.1f} | {one.longest:.2f}"
    return f"| {one.name} | {one.cases:,} | {refused} | {times} | {len(one.findings)} |"


def _table(results: list[Result]) -> str:
    total = Result("all", sum(one.cases for one in results), sum(one.refused for one in results))
    total.seconds = sum(one.seconds for one in results)
    total.longest = max((one.longest for one in results), default=0.0)
    for one in results:
        total.findings |= {f"{one.name} {key}": value for key, value in one.findings.items()}
    head = "| reader | cases | refused | accepted | ms each | longest, s | findings |"
    return "\n".join([head, "| --- | " + "---: | " * 6, *map(_row, results), _row(total)])


if __name__ == "__main__":
    sys.exit(main())
