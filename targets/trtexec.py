"""Parse what trtexec writes: its log, and the files of `--exportTimes` and `--exportProfile`.

One parser reads the output of TensorRT 8 to 11. The differences between them:

* TensorRT 8.4 and earlier print an end-to-end latency, a single percentile, and the name of a
  layer before its times.
* Later releases print several percentiles, a median per layer, and the name after the times.
* TensorRT 11 does not measure transfers. They are reported as 0.

If trtexec was killed, its files are cut off. Everything that was completely written is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, cast

from ..errors import UsageError

__all__ = [
    "Distribution",
    "Layer",
    "Log",
    "Profile",
    "Query",
    "Times",
    "parse_log",
    "parse_profile",
    "parse_times",
]

NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf|nan)"  # a float as C++ streams print it
COUNT = r"\d{1,18}"
PREFIX = re.compile(r"^(?:\[[^\]]*\] )?\[([VIWEF])\] ")
BANNER = re.compile(
    rf"&&&& (RUNNING|PASSED|FAILED|WAIVED) TensorRT\.\S+(?: \[TensorRT v({COUNT})\])?"
)
QUANTITY = re.compile(rf"({NUMBER}) (qps|s|ms)(?![a-z])")
STATISTIC = re.compile(rf"(min|max|mean|median|percentile\(({NUMBER})%\)) = ({NUMBER}) ms(?![a-z])")
COUNTS = re.compile(rf"(Warmup completed|Timing trace has) ({COUNT}) queries over {NUMBER} m?s")
BUILT = re.compile(rf"Engine (?:built|generation completed) in ({NUMBER}) sec")
TABLE = re.compile(rf"=== Profile \(({COUNT}) iterations ?\) ===")
DURATIONS = {
    "Latency": "latency",
    "End-to-End Host Latency": "end_to_end",
    "Enqueue Time": "enqueue",
    "H2D Latency": "h2d",
    "GPU Compute Time": "gpu_compute",
    "D2H Latency": "d2h",
}
TOTALS = {
    "Throughput": "throughput_qps",
    "Total Host Walltime": "walltime_s",
    "Total GPU Compute Time": "gpu_compute_s",
}


@dataclass(frozen=True)
class Distribution:
    """The distribution of one duration over the queries, in ms; None if the log has no value."""

    min: float | None = None
    max: float | None = None
    mean: float | None = None
    median: float | None = None
    percentiles: dict[float, float] = field(default_factory=dict)
    """Percentage -> milliseconds, for the percentages that `--percentile` asked for."""


@dataclass(frozen=True)
class Layer:
    """One row of a layer profile.

    Attributes:
        name: name of the layer.
        total_ms: milliseconds over all iterations.
        average_ms: milliseconds of one iteration.
        median_ms: median over the iterations (TensorRT 8.5 and later).
        percent: share of the total time.
    """

    name: str
    total_ms: float
    average_ms: float
    median_ms: float | None
    percent: float


@dataclass
class Log:
    """The contents of trtexec's output. Any field may be missing, since a run can end early.

    Attributes:
        version: version of TensorRT, such as `10.3.0`.
        passed: trtexec's own result; None if the log ends before it.
        build_s: seconds spent on building the engine.
        throughput_qps: queries per second.
        walltime_s: time of all measured queries together, on the host.
        gpu_compute_s: time of all measured queries together, on the GPU.
        warmups: number of queries that were not measured.
        queries: number of measured queries.
        durations: `latency`, `enqueue`, `h2d`, `gpu_compute`, `d2h` and, up to TensorRT 8.4,
            `end_to_end`.
        layers: the table of `--dumpProfile`.
        warnings: lines marked as warnings, without the mark.
        errors: lines marked as errors, without the mark.
    """

    version: str | None = None
    passed: bool | None = None
    build_s: float | None = None
    throughput_qps: float | None = None
    walltime_s: float | None = None
    gpu_compute_s: float | None = None
    warmups: int | None = None
    queries: int | None = None
    durations: dict[str, Distribution] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Query:
    """One measured query of `--exportTimes`, in milliseconds.

    trtexec prints time stamps with six significant digits only. Do not compute durations as
    differences of time stamps.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    latency_ms: float
    start_compute_ms: float


@dataclass(frozen=True)
class Times:
    """An `--exportTimes` file: its queries, and whether the file is complete."""

    queries: list[Query]
    complete: bool


@dataclass(frozen=True)
class Profile:
    """An `--exportProfile` file: measured iterations, layers, and whether the file is complete."""

    iterations: int | None
    layers: list[Layer]
    complete: bool


def parse_log(text: str) -> Log:
    """Parse trtexec's output. Other text gives an empty log."""
    log = Log()
    lines = text.splitlines(keepends=True)
    for line in lines:
        _read_line(log, line.rstrip("\r\n"))
    log.layers = list(_table([line.rstrip("\r\n") for line in lines if line.endswith("\n")]))
    return log


def _read_line(log: Log, line: str) -> None:
    if banner := BANNER.search(line):
        log.version = _version(banner[2]) or log.version
        log.passed = {"PASSED": True, "FAILED": False}.get(banner[1], log.passed)
        return
    tag = PREFIX.match(line)
    line = line[tag.end() :] if tag else line
    if tag and tag[1] in "WEF":
        (log.warnings if tag[1] == "W" else log.errors).append(line)
        return
    name, separator, rest = line.partition(": ")
    if separator and name in DURATIONS:
        if distribution := _distribution(rest):
            log.durations[DURATIONS[name]] = distribution
    elif separator and name in TOTALS:
        if quantity := QUANTITY.match(rest):
            setattr(log, TOTALS[name], float(quantity[1]))
    elif counts := COUNTS.match(line):
        setattr(log, "warmups" if counts[1].startswith("Warmup") else "queries", int(counts[2]))
    elif built := BUILT.search(line):
        log.build_s = float(built[1])


def _version(digits: str | None) -> str | None:
    """Convert `8601` to 8.6.1, and `100300` to 10.3.0 (two digits per part since TensorRT 10)."""
    if digits is None or len(digits) < 4:
        return None
    width = 2 if len(digits) > 4 else 1
    return f"{int(digits[: -2 - width])}.{int(digits[-2 - width : -2])}.{int(digits[-2:])}"


def _distribution(text: str) -> Distribution | None:
    """The statistics in one line. None without any, as in the explanations of `--verbose`."""
    plain: dict[str, float] = {}
    percentiles: dict[float, float] = {}
    for found in STATISTIC.finditer(text):
        if found[2] is None:
            plain[found[1]] = float(found[3])
        else:
            percentiles[float(found[2])] = float(found[3])
    return Distribution(**plain, percentiles=percentiles) if plain or percentiles else None


def _table(lines: list[str]) -> Iterator[Layer]:
    """The rows of `--dumpProfile`.

    The header shows how many columns there are, and whether the name is first or last.
    """
    rows = iter(lines)
    for line in rows:
        if TABLE.search(line):
            break
    header = PREFIX.sub("", next(rows, ""))
    columns = len(re.findall(r"\(ms\)|%", header))
    if columns < 3:
        return
    numbers = r"\s+".join([f"({NUMBER})"] * columns)
    name_first = header.lstrip().startswith("Layer")
    row = re.compile(
        rf"^\s*(?P<name>\S.*?)\s+{numbers}\s*$"
        if name_first
        else rf"^\s*{numbers}\s+(?P<name>\S.*?)\s*$"
    )
    for line in rows:
        found = row.match(PREFIX.sub("", line))
        if not found or found["name"] == "Total":
            return
        values = [
            float(value)
            for name, value in zip(_order(row), found.groups(), strict=True)
            if name != "name"
        ]
        yield Layer(
            found["name"], values[0], values[1], values[2] if columns > 3 else None, values[-1]
        )


def _order(pattern: re.Pattern[str]) -> list[str]:
    """The name of each group of a pattern, in order; an empty string for an unnamed group."""
    named = {index: name for name, index in pattern.groupindex.items()}
    return [named.get(index, "") for index in range(1, pattern.groups + 1)]


# Both files have one object per line. They are not always valid JSON: trtexec does not escape
# names, can write `nan`, and leaves out the closing bracket when it is killed. So if JSON parsing
# fails, the files are parsed line by line.
PAIR = re.compile(rf'"(\w+)"\s*:\s*({NUMBER})(?=\s*[,}}])')
NAMED = re.compile(r'"name"\s*:\s*"(.*)"\s*,\s*"timeMs"')
LARGEST = 2**63
"""A whole number beyond this is damage."""
TIME_FIELDS = ("h2dMs", "computeMs", "d2hMs", "latencyMs", "startComputeMs")


def parse_times(text: str) -> Times:
    """Parse an `--exportTimes` file.

    Raises:
        UsageError: the text is not such a file.
    """
    rows = [values for _, values in _objects(text, "--exportTimes")]
    if any(not values.keys() >= set(TIME_FIELDS) for values in rows):
        raise UsageError(
            "not an --exportTimes file of trtexec: its objects have no durations",
            "give the file that --exportTimes named",
        )
    return Times([Query(*(values[name] for name in TIME_FIELDS)) for values in rows], _closed(text))


def parse_profile(text: str) -> Profile:
    """Parse an `--exportProfile` file.

    Raises:
        UsageError: the text is not such a file.
    """
    iterations = None
    layers: list[Layer] = []
    for name, values in _objects(text, "--exportProfile"):
        if name is None and "count" in values:
            iterations = int(values["count"]) if isfinite(values["count"]) else None
        elif name is None or not values.keys() >= {"timeMs", "averageMs", "percentage"}:
            raise UsageError(
                "not an --exportProfile file of trtexec: its objects are not layers",
                "give the file that --exportProfile named",
            )
        else:
            layers.append(
                Layer(
                    name,
                    values["timeMs"],
                    values["averageMs"],
                    values.get("medianMs"),
                    values["percentage"],
                )
            )
    return Profile(iterations, layers, _closed(text))


def _closed(text: str) -> bool:
    return text.rstrip().endswith("]")


def _objects(text: str, option: str) -> Iterator[tuple[str | None, dict[str, float]]]:
    """Name and numbers of each object in an array of flat objects."""
    if not text.lstrip().startswith("["):
        raise UsageError(
            f"not an {option} file of trtexec: it does not start with `[`",
            f"give the file that {option} named",
        )
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):  # cut off, or numbers and brackets without end
        yield from _by_line(text)
        return
    for entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(
                f"not an {option} file of trtexec: its array holds {type(entry).__name__}",
                f"give the file that {option} named",
            )
        known = cast(dict[str, Any], entry)
        numbers = {
            key: float(value)
            for key, value in known.items()
            if isinstance(value, float) or (type(value) is int and abs(value) < LARGEST)
        }
        yield (str(known["name"]) if "name" in known else None), numbers


def _by_line(text: str) -> Iterator[tuple[str | None, dict[str, float]]]:
    for line in text.splitlines(keepends=True):
        body = line.strip().lstrip("[,").strip()
        if not (body.startswith("{") and body.rstrip(",").endswith("}")):
            continue  # a bracket, or the line that trtexec was writing when it was killed
        name = NAMED.search(body)
        numbers = {
            key: float(value)
            for key, value in PAIR.findall(body[name.end() - len('"timeMs"') :] if name else body)
        }
        # An unfinished line without numbers is cut within a name that contains a `}`.
        if numbers or line.endswith("\n"):
            yield (name[1] if name else None), numbers
