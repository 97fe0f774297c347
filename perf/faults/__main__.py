"""Disturb every command that writes in every way, run it again, and say what is not as it was.

    python -m edgewright.perf.faults                              all cases, or those that are left
    python -m edgewright.perf.faults --only quantize-gptq:kill    some of them, again
    python -m edgewright.perf.faults --only run:disk-full:3       one of them
    python -m edgewright.perf.faults --wrong                      those that went wrong, again

Exit code 1 if a case went wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .arena import Arena
from .commands import COMMANDS, DERIVED
from .inputs import write_inputs
from .process import kill_all, preload, start
from .results import Result, findings, read_results, table, write_result
from .scenarios import FAULTS
from .site import Reference, Site, last_line
from .snapshot import merged

MARKS = ("<!-- faults -->", "<!-- end of faults -->")
"""Lines of a page around the table."""
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
    "COLUMNS": "1000",
}


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/faults"), help="its directory")
    parser.add_argument("--only", nargs="*", default=[], help="COMMAND[:FAULT[:SEED]]; either *")
    parser.add_argument("--wrong", action="store_true", help="only cases that went wrong, again")
    parser.add_argument("--seeds", type=int, default=99, help="seeds of each fault at most")
    parser.add_argument("--page", type=Path, help="page that gets the table between its marks")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many minutes")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    file = arguments.work.resolve() / "results.jsonl"
    done = read_results(file)
    campaign = Campaign(arguments.work.resolve())
    deadline = time.monotonic() + 60 * arguments.minutes
    for command, fault, seed in _cases(arguments.only, arguments.seeds):
        name = f"{command}:{fault}:{seed}"
        known = done.get(name)
        if (arguments.wrong and not (known and known.problems)) or (
            known and not arguments.only and not arguments.wrong
        ):
            continue
        if time.monotonic() > deadline:
            break
        result = campaign.case(command, fault, seed)
        done[name] = result
        write_result(file, result)
        verdict = "; ".join(result.problems) or "right"
        print(f"{name} [{result.seconds:.1f} s] {verdict}", file=sys.stderr, flush=True)
    commands, faults = list(COMMANDS), list(FAULTS)
    ordered = sorted(
        done.values(), key=lambda one: (commands.index(one.command), faults.index(one.fault))
    )
    print(table(ordered))
    print(findings(ordered))
    if arguments.page:
        before, rest = arguments.page.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        shown = f"{MARKS[0]}\n{table(ordered)}\n{MARKS[1]}"
        arguments.page.write_text(before + shown + after)
    return int(any(result.problems for result in done.values()))


def _cases(only: list[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """Commands, faults and seeds: one seed of everything, in mixed order, then the next."""
    wanted = [[*one.split(":"), "*", "*"][:3] for one in only] or [["*", "*", "*"]]
    pairs = list(itertools.product(COMMANDS, FAULTS))
    for seed in range(seeds):
        for command, fault in random.Random(seed).sample(pairs, len(pairs)):
            named = (command, fault, str(seed))
            if seed < FAULTS[fault].seeds and any(
                all(want in ("*", name) for want, name in zip(one, named, strict=True))
                for one in wanted
            ):
                yield command, fault, seed


class Campaign:
    """The inputs, the references, and one case after another.

    Args:
        work: directory of the campaign.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.arena = work / "arena"
        self.inputs = work / "inputs"
        self.logs = Path(tempfile.mkdtemp(prefix="faults-"))
        self.references: dict[str, Reference] = {}
        os.environ.update(SETTINGS)
        os.environ["MPLCONFIGDIR"] = str(self.logs / "matplotlib")
        os.environ["EDGEWRIGHT_CACHE"] = str(self.arena / "own")
        preload()
        os.environ["TMPDIR"] = str(self.arena / "tmp")
        tempfile.tempdir = None
        if not (work / "ready").is_file():
            _forked(self._make_inputs)
            (work / "ready").touch()

    def case(self, command: str, fault: str, seed: int) -> Result:
        """Run one case in a process of its own."""
        begin = time.monotonic()
        try:
            found = _forked(lambda: self._strike(command, fault, seed))
        except RuntimeError as error:
            found = [[str(error)], []]
        seconds = round(time.monotonic() - begin, 2)
        return Result(command, fault, seed, found[0], found[1], seconds)

    def _strike(self, name: str, fault: str, seed: int) -> tuple[list[str], list[str]]:
        site = self._site(name, self._reference(name), random.Random(f"{name}:{fault}:{seed}"))
        kind = FAULTS[fault]
        if kind.needs_mount and not site.arena.mounted:
            return [], ["left out: no file system can be mounted here"]
        try:
            kind.strike(site)
        except Exception as error:
            site.problems.append(f"{type(error).__name__}: {error}")
        finally:
            kill_all()
        return site.problems, site.notes

    def _site(self, name: str, reference: Reference, draw: random.Random) -> Site:
        site = Site(
            COMMANDS[name], Arena(self.arena), self.inputs, self.logs / name, reference, draw
        )
        site.prepare()
        return site

    def _reference(self, name: str) -> Reference:
        """What a command leaves undisturbed; computed once."""
        file = self.work / "references" / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            runs = [_forked(lambda: self._undisturbed(name)) for _ in range(2)]
            files = merged(runs[0][0], runs[1][0])
            reference = Reference(files, min(one[1] for one in runs), runs[0][2], runs[0][3])
            file.write_text(json.dumps(asdict(reference)))
        return Reference(**json.loads(file.read_text()))

    def _undisturbed(self, name: str) -> tuple[Any, float, int, int]:
        site = self._site(name, Reference({}, 0.0, 0, 0), random.Random(0))
        ended = site.run()
        if ended.code:
            raise RuntimeError(f"{name}, undisturbed: exit {ended.code}: {last_line(ended)}")
        return site.look(), ended.seconds, ended.events, max(ended.peak, site.arena.used())

    def _make_inputs(self) -> None:
        shutil.rmtree(self.inputs, ignore_errors=True)
        self.inputs.mkdir(parents=True)
        os.chdir(self.inputs)
        _forked(write_inputs)
        for arguments in DERIVED:
            ended = start(arguments.split(), self.logs / "inputs").end()
            if ended.code:
                raise RuntimeError(f"{arguments}: exit {ended.code}: {ended.err}")
        for path in self.inputs.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


def _forked(work: Callable[[], Any]) -> Any:
    """Call a function in a forked process, and return what it returned, as JSON holds it.

    Raises:
        RuntimeError: it failed.
    """
    # A file, and not a pipe, which a process that the child left behind would keep open.
    with tempfile.TemporaryFile("w+") as answer:
        child = os.fork()
        if not child:
            code = 1
            try:
                json.dump(work(), answer)
                answer.flush()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError("a case could not be run; see the traceback above")
        answer.seek(0)
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
