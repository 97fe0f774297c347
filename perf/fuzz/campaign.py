"""Runs the cases of one reader and collects what nobody expected."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ...errors import EdgewrightError
from .watch import watched

__all__ = ["Finding", "Reader", "Result", "run"]

QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
NOT_OURS = ("perf/fuzz", "hypothesis/", "contextlib.py")


class Reader(Protocol):
    """One kind of file, and what reads it."""

    @property
    def name(self) -> str:
        """In the table."""
        ...

    def prepare(self) -> None:
        """Make what all cases need."""
        ...

    def cases(self) -> st.SearchStrategy[Any]:
        """The damaged files."""
        ...

    def read(self, folder: Path, case: Any) -> None:
        """Write the case into the folder and read it, as a verb would."""
        ...


@dataclass(frozen=True)
class Finding:
    """One place where a reader failed.

    Attributes:
        what: the kind of the exception and its message.
        where: the last line of edgewright in its traceback.
        case: the first file that led there.
    """

    what: str
    where: str
    case: str


@dataclass
class Result:
    """What happened to the cases of one reader."""

    name: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict[str, Finding])


def run(reader: Reader, cases: int, number: int, folder: Path) -> Result:
    """Run a reader on this many cases.

    Args:
        reader: the reader.
        cases: how many.
        number: the seed.
        folder: where cases are written; it is emptied before each one.
    """
    reader.prepare()
    result = Result(reader.name)
    begin = time.process_time()

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=QUIET,
    )
    @given(reader.cases())
    def check(case: Any) -> None:
        _one(reader, case, folder, result)

    check()
    result.seconds = time.process_time() - begin
    return result


def _one(reader: Reader, case: Any, folder: Path, result: Result) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result.cases += 1
    begin = time.process_time()
    try:
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), watched(folder):
            reader.read(folder, case)
    except EdgewrightError:
        result.refused += 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [one for one in frames if not any(part in one.filename for part in NOT_OURS)]
        last = next((one for one in reversed(ours) if "site-packages" not in one.filename), None)
        where = f"{Path(last.filename).name}:{last.lineno} {last.name}" if last else "?"
        what = f"{type(error).__name__}: {str(error)[:200]}"
        key = f"{type(error).__name__} {where}"
        result.findings.setdefault(key, Finding(what, where, repr(case)[:2000]))
    result.longest = max(result.longest, time.process_time() - begin)
