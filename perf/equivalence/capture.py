"""Run the jobs and write what they gave; or record the files of an earlier run again."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .checkout import LIMIT_S, Checkout
from .matrix import DEMO, chosen, matching, matrix, typed
from .record import files_below, printed, recorded, sha


def capture(root: Path, out: Path, only: str, work: Path, fresh: bool) -> None:
    """Run the jobs that `out` does not hold yet, and add their records to it.

    Args:
        root: checkout under test.
        out: JSON file of the records, by job.
        only: comma-separated patterns of jobs; empty: all.
        work: folder for inputs, outputs and logs.
        fresh: also run jobs that `out` holds.
    """
    jobs = matrix()
    names = chosen(jobs, only)
    results: dict[str, dict[str, Any]] = json.loads(out.read_text()) if out.is_file() else {}
    checkout = Checkout(root, work)
    results["inputs"] = inputs(checkout)
    for number, name in enumerate(names, 1):
        folder = checkout.work / "out" / name
        if name in results and folder.is_dir() and not fresh:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        begin = time.monotonic()
        arguments = typed(name, jobs[name])
        code = checkout.ask(name, arguments, LIMIT_S * (4 if name == DEMO else 1))
        results[name] = recorded(checkout.work, name, jobs[name], arguments, code)
        seconds = results[name]["seconds"] = round(time.monotonic() - begin, 2)
        print(f"{number}/{len(names)} {name}: exit code {code}, {seconds} s", flush=True)
        save(results, out)
    checkout.close()


def record(out: Path, only: str, work: Path) -> None:
    """Record the jobs of `out` again from the files and logs that the work folder still has."""
    jobs = matrix()
    results: dict[str, dict[str, Any]] = json.loads(out.read_text())
    for name in matching(results, only):
        old = results[name]
        if name not in jobs or not (work / "out" / name).is_dir():
            continue
        new = recorded(work, name, jobs[name], old["arguments"], old["code"])
        results[name] = new | {"seconds": old["seconds"]}
    save(results, out)


def save(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Write the records, so that a killed run leaves a whole file."""
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True))
    temporary.replace(out)


def inputs(checkout: Checkout) -> dict[str, Any]:
    """Make the files that the jobs read, and return their hashes as a record."""
    work = checkout.work
    folders = (folder for folder, _, files in os.walk(checkout.package) if files)
    model = next(folder for folder in folders if folder.endswith("demo/model"))
    if checkout.ask("inputs", [], build=model):
        sys.exit(printed(work, "inputs", "err"))
    parts = [work / "models", work / "demo-model", work / "tokenizer", work / "out" / "inputs"]
    files = [file for part in parts for file in files_below(part)]
    files += [file for file in sorted(work.iterdir()) if file.is_file()]
    hashes = {str(file.relative_to(work)): sha(file.read_bytes()) for file in files}
    return {"arguments": [], "code": 0, "files": hashes}
