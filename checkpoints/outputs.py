"""Where commands may write. Everything here is decided before any work starts.

- An output is no input, contains none, and lies inside none, after links are resolved.
- Only files that edgewright wrote are replaced or removed: a directory that it made lists them in
  its `edgewright.json`, and a directory with any other file in it stays as it is.
- An impossible place is refused: a link, the working directory, a file where a directory belongs.

Imports no torch, which reports and gates do not need.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from .locks import SUFFIX, resolved
from .own_files import ELSEWHERE, check_output

__all__ = [
    "ANSWERS",
    "LEDGER",
    "RECORD",
    "RECORD_MARKS",
    "REPORTS",
    "RESERVED",
    "Input",
    "Kind",
    "Output",
    "beside",
    "check_own",
    "check_places",
]

Kind = Literal[
    "directory", "run", "sweep", "cache", "report", "ledger", "file", "traces", "record", "shared"
]
"""What is written.

- directory: a checkpoint, artifact or bundle, replaced as a whole
- run, sweep, cache: a directory that is filled bit by bit
- report, ledger: files in the directory of a run that is there already
- file: one file, in a directory that is there
- traces: a JSONL file, whose directory is made
- record: what was done, beside traces
- shared: the user's cache directory, which many commands fill
"""
LEDGER = "ledger.json"
"""The record of a run."""
SIGNS = {
    "run": (LEDGER, ('"edgewright"', '"steps"', '"fingerprint"')),
    "sweep": ("study.db", ("studies", "trial_params")),
    "cache": ("teacher.json", ('"shards"', '"temperatures"')),
}
"""The file by which a directory that is filled is known, and texts of which it has at least one."""
REPORTS = {
    "report.html": ("edgewright</title>", '<p class="brand">edgewright'),
    "report.md": ("edgewright", "## Reproduce"),
}
"""The reports in a directory, and texts of which each has at least one."""
ANSWERS = ".answers.jsonl"
"""The ending of the answers beside a measurement."""
RECORD = ".report.json"
"""The ending of the record beside traces."""
RECORD_MARKS = ('"fingerprint": ', '"sha256": ')
UNFINISHED = re.compile(rf"\{SUFFIX}|\..+\.tmp")
"""Names that an interrupted command leaves in a directory before it leaves a sign."""
ROOM_IN_NAME = 32
"""Bytes of the longest name of a file beside an output, without the output's own name."""
RESERVED = re.compile(
    r"\..+\.(tmp|old|lock|answers|chains|rounds|learning|journal|student|onnx|\d)"
)
"""Names of the files beside an output."""


@dataclass(frozen=True)
class Input:
    """A file or directory that a command reads.

    Attributes:
        name: of the option, for messages.
        path: where it is.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Output:
    """A place that a command writes to.

    Attributes:
        name: of the option, for messages.
        path: where it is.
        kind: what is written there.
        marks: texts that a file of edgewright contains; an existing file without them is refused.
    """

    name: str
    path: Path
    kind: Kind
    marks: tuple[str, ...] = ()

    @property
    def filled(self) -> bool:
        """Whether it is a directory that is filled, and not replaced."""
        return self.kind in ("run", "sweep", "cache", "report", "ledger")

    @property
    def written(self) -> Path:
        """The absolute path of what must not overlap with an input."""
        path = self.path / LEDGER if self.kind == "ledger" else self.path
        return resolved(path)

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


def beside(path: Path, ending: str) -> Path:
    """The file that belongs to another: `int4.answers.jsonl` to `int4.json`, by this ending.

    Only `.json` and `.jsonl` are replaced. `new.v1` and `new.v2` have files of their own.
    """
    stem = path.stem if path.suffix in (".json", ".jsonl") else path.name
    return path.with_name(f"{stem}{ending}")


def check_places(outputs: Sequence[Output], inputs: Sequence[Input]) -> None:
    """Accept the places of a command, before it locks them.

    Raises:
        UsageError: a place is impossible, or overlaps with an input or with another output.
    """
    for output in outputs:
        with _unreadable(output):
            if output.kind != "report":
                _refuse_overlap(output, inputs)
            _check_possible(output)
    for one, other in combinations(outputs, 2):
        if word := _relation(one.written, other.written):
            raise UsageError(
                f"{one}: {word} {other}, and both are written", "choose two places apart"
            )


def check_own(outputs: Sequence[Output]) -> None:
    """Accept what the places of a command hold, after it has locked them.

    Raises:
        UsageError: a place holds what edgewright did not write.
    """
    for output in outputs:
        with _unreadable(output):
            _check_own(output)


@contextmanager
def _unreadable(output: Output) -> Iterator[None]:
    """Turn what the operating system says about a place into a message."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        reason = getattr(error, "strerror", None) or error
        raise _unusable(output, f"cannot be used: {reason}") from error


def _check_possible(output: Output) -> None:
    """Refuse a place where such an output cannot be made."""
    path = output.path
    if "\0" in str(path):
        raise _unusable(output, "a null byte in the name")
    if output.kind in ("report", "ledger", "shared"):
        return
    if path.name in ("", ".."):
        what = "a root directory" if path.parent == path and path.root else "no name of its own"
        raise _unusable(output, what if path.root else "the working directory or one above it")
    if path.is_symlink():
        raise _unusable(output, f"a link, to {os.readlink(path)}")
    if RESERVED.fullmatch(path.name):
        raise _unusable(output, "a name that edgewright gives to its own unfinished files")
    _check_parents(output)
    if output.kind in ("file", "traces", "record"):
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "no regular file"
            raise _unusable(output, f"{what}, and a file is written")
        return
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: exists and was not written by edgewright", ELSEWHERE)
    if output.kind == "directory":
        if output.written in (Path.cwd(), *Path.cwd().parents):
            raise _unusable(output, "the working directory or one above it")
        if os.path.ismount(path):
            raise _unusable(
                output, "a mount point, which cannot be replaced: name a directory in it"
            )


def _check_parents(output: Output) -> None:
    """Refuse a place whose directory is missing, no directory, or not writable."""
    path = output.path
    parent = path.parent
    if output.kind == "file" and not parent.is_dir():
        raise UsageError(
            f"{output}: there is no directory {parent}", f"make it first: mkdir -p {parent}"
        )
    above = next(one for one in (parent, *parent.parents) if os.path.lexists(one))
    if not above.is_dir():
        what = "a link to nowhere" if above.is_symlink() else "a file"
        raise _unusable(output, f"below {above}, which is {what}")
    here = path if output.filled and path.is_dir() else above
    complete = output.kind == "cache" and path.is_dir()  # it may be read only
    if not complete and not os.access(here, os.W_OK | os.X_OK):
        raise _unusable(output, f"in {here}, which is not writable")
    most = os.pathconf(above, "PC_NAME_MAX") - ROOM_IN_NAME
    if len(os.fsencode(path.name)) > most:
        raise _unusable(output, f"too long a name: at most {most} bytes")


def _check_own(output: Output) -> None:
    path = output.path
    if output.kind == "directory":
        check_output(path)
    elif path.is_dir() and output.kind in SIGNS:
        _check_filled(path, *SIGNS[output.kind])
    elif output.kind == "traces":
        _check_traces(path)
    elif output.kind in ("file", "record") and not _is_marked(path, output.marks):
        raise UsageError(
            f"{output}: exists and was not written by edgewright",
            f"choose another {output.name}, or remove the file yourself",
        )
    if output.kind in ("run", "sweep", "report"):
        for name, marks in REPORTS.items():
            file = path / name
            if file.is_symlink() or file.is_dir() or not _is_marked(file, marks, any):
                raise UsageError(
                    f"{file}: exists and was not written by edgewright, and a report belongs there",
                    "move it away",
                )


def _check_filled(path: Path, sign: str, marks: Sequence[str]) -> None:
    """Refuse a directory that holds other files than those of a run, a sweep or a cache."""
    if (path / sign).is_file() and _is_marked(path / sign, marks, any):
        return
    others = sorted(one.name for one in path.iterdir() if not UNFINISHED.fullmatch(one.name))
    if others:
        raise UsageError(f"{path}: holds {others[0]}, and no {sign} of edgewright", ELSEWHERE)


def _check_traces(path: Path) -> None:
    record = beside(path, RECORD)
    if path.exists() and path.stat().st_size and not record.exists():
        raise UsageError(f"{path}: exists and was not written by edgewright", ELSEWHERE)


def _is_marked(
    file: Path, marks: Sequence[str], needed: Callable[[Iterator[bool]], bool] = all
) -> bool:
    """Whether a file is absent, empty, or contains all marks, or any of them."""
    if not file.exists() or not file.stat().st_size:
        return True
    content = file.read_bytes()
    return bool(marks) and needed(mark.encode() in content for mark in marks)


def _refuse_overlap(output: Output, inputs: Sequence[Input]) -> None:
    for source in inputs:
        for real in _real_paths(source.path):
            if word := _relation(output.written, real):
                raise UsageError(
                    f"{output}: {word} {source.name} {source.path}, which is read",
                    f"choose another {output.name}",
                )


def _real_paths(path: Path) -> Iterator[Path]:
    """Where an input is, and where the files of a directory are that are links."""
    yield path.resolve()
    if path.is_dir():
        for one in path.iterdir():
            if one.is_symlink():
                yield one.resolve()


def _relation(one: Path, other: Path) -> str:
    """How one place overlaps with another; empty: they are apart."""
    if one == other:
        return "is"
    if other in one.parents:
        return "lies inside"
    return "contains" if one in other.parents else ""


def _unusable(output: Output, what: str) -> UsageError:
    return UsageError(f"{output}: {what}", f"choose another {output.name}")
