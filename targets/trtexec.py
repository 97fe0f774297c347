"""What trtexec leaves behind, read back: its log, `--exportTimes` and `--exportProfile`.

One reader for TensorRT 8 to 11. What differs between them: 8.4 and earlier print an end-to-end latency, one percentile and the
layer's name in front of its times; later ones a list of percentiles, a median a layer and the name behind; 11 leaves transfers
out, so that they read 0. A run that was killed leaves a truncated file, of which everything that was written whole counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import UsageError

__all__ = [
    "Layer",
    "Log",
    "Profile",
    "Query",
    "Spread",
    "Times",
    "parse_log",
    "parse_profile",
    "parse_times",
]

NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf|nan)"  # as C++ streams print a float
PREFIX = re.compile(r"^(?:\[[^\]]*\] )?\[([VIWEF])\] ")
BANNER = re.compile(r"&&&& (RUNNING|PASSED|FAILED|WAIVED) TensorRT\.\S+(?: \[TensorRT v(\d+)\])?")
FIGURE = re.compile(rf"({NUMBER}) (qps|s|ms)(?![a-z])")
STATISTIC = re.compile(rf"(min|max|mean|median|percentile\(({NUMBER})%\)) = ({NUMBER}) ms(?![a-z])")
PROLOG = re.compile(rf"(Warmup completed|Timing trace has) (\d+) queries over {NUMBER} m?s")
BUILT = re.compile(rf"Engine (?:built|generation completed) in ({NUMBER}) sec")
TABLE = re.compile(r"=== Profile \((\d+) iterations ?\) ===")
SPREADS = {
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
class Spread:
    """How one duration was distributed over the measured queries, in milliseconds; None for what the log does not have."""

    min: float | None = None
    max: float | None = None
    mean: float | None = None
    median: float | None = None
    percentiles: dict[float, float] = field(default_factory=dict)
    """Per cent -> milliseconds, as `--percentile` asked for."""


@dataclass(frozen=True)
class Layer:
    """One row of a layer profile: milliseconds over all iterations, a single one, its median (TensorRT 8.5 on), and its share."""

    name: str
    total_ms: float
    average_ms: float
    median_ms: float | None
    percent: float


@dataclass
class Log:
    """What trtexec's output says. Anything may be missing, as a run can end anywhere.

    Attributes:
        version: of TensorRT, such as `10.3.0`.
        passed: trtexec's own verdict; None where the log ends before it.
        build_s: seconds that building the engine took.
        throughput_qps: queries a second.
        walltime_s, gpu_compute_s: of all measured queries together.
        warmups, queries: how many ran unmeasured and measured.
        spreads: `latency`, `enqueue`, `h2d`, `gpu_compute`, `d2h` and, up to 8.4, `end_to_end`.
        layers: of `--dumpProfile`.
        warnings, errors: lines tagged so, without their tag.
    """

    version: str | None = None
    passed: bool | None = None
    build_s: float | None = None
    throughput_qps: float | None = None
    walltime_s: float | None = None
    gpu_compute_s: float | None = None
    warmups: int | None = None
    queries: int | None = None
    spreads: dict[str, Spread] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Query:
    """One measured query of `--exportTimes`, milliseconds. Stamps have six significant digits: subtract none of them."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    latency_ms: float
    start_compute_ms: float


@dataclass(frozen=True)
class Times:
    """An `--exportTimes` file: its queries, and whether it was written to its end."""

    queries: list[Query]
    complete: bool


@dataclass(frozen=True)
class Profile:
    """An `--exportProfile` file: iterations measured, its layers, and whether it was written to its end."""

    iterations: int | None
    layers: list[Layer]
    complete: bool


def parse_log(text: str) -> Log:
    """Read trtexec's output; text that is something else gives an empty log."""
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
    if separator and name in SPREADS:
        if spread := _spread(rest):
            log.spreads[SPREADS[name]] = spread
    elif separator and name in TOTALS:
        if figure := FIGURE.match(rest):
            setattr(log, TOTALS[name], float(figure[1]))
    elif prolog := PROLOG.match(line):
        setattr(log, "warmups" if prolog[1].startswith("Warmup") else "queries", int(prolog[2]))
    elif built := BUILT.search(line):
        log.build_s = float(built[1])


def _version(digits: str | None) -> str | None:
    """`8601` is 8.6.1; from TensorRT 10 on every part has two digits: `100300` is 10.3.0."""
    if digits is None or len(digits) < 4:
        return None
    width = 2 if len(digits) > 4 else 1
    return f"{int(digits[: -2 - width])}.{int(digits[-2 - width : -2])}.{int(digits[-2:])}"


def _spread(text: str) -> Spread | None:
    """The statistics of one line; None where there are none, as in the explanations that `--verbose` adds."""
    plain: dict[str, float] = {}
    percentiles: dict[float, float] = {}
    for found in STATISTIC.finditer(text):
        if found[2] is None:
            plain[found[1]] = float(found[3])
        else:
            percentiles[float(found[2])] = float(found[3])
    return Spread(**plain, percentiles=percentiles) if plain or percentiles else None


def _table(lines: list[str]) -> Iterator[Layer]:
    """The rows of `--dumpProfile`. The header tells how many columns there are, and on which side the name is."""
    rows = iter(lines)
    for line in rows:
        if TABLE.search(line):
            break
    header = PREFIX.sub("", next(rows, ""))
    columns = len(re.findall(r"\(ms\)|%", header))
    if columns < 3:
        return
    numbers = r"\s+".join([f"({NUMBER})"] * columns)
    first = header.lstrip().startswith("Layer")
    row = re.compile(
        rf"^\s*(?P<name>\S.*?)\s+{numbers}\s*$"
        if first
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
    """The name of each group of a pattern, in order; empty for those without one."""
    named = {index: name for name, index in pattern.groupindex.items()}
    return [named.get(index, "") for index in range(1, pattern.groups + 1)]


# Both files have one object a line. Line by line is how they are read, because neither is always JSON: names are written
# unescaped, a quantity can be `nan`, and a killed run leaves no closing bracket.
PAIR = re.compile(rf'"(\w+)"\s*:\s*({NUMBER})(?=\s*[,}}])')
NAMED = re.compile(r'"name"\s*:\s*"(.*)"\s*,\s*"timeMs"')
TIME_FIELDS = ("h2dMs", "computeMs", "d2hMs", "latencyMs", "startComputeMs")


def parse_times(text: str) -> Times:
    """Read an `--exportTimes` file.

    Raises:
        UsageError: it is no such file.
    """
    rows = [values for _, values in _objects(text, "--exportTimes")]
    if any(not values.keys() >= set(TIME_FIELDS) for values in rows):
        raise UsageError(
            "not an --exportTimes file of trtexec: its objects have no durations",
            "give the file that --exportTimes named",
        )
    return Times([Query(*(values[name] for name in TIME_FIELDS)) for values in rows], _closed(text))


def parse_profile(text: str) -> Profile:
    """Read an `--exportProfile` file.

    Raises:
        UsageError: it is no such file.
    """
    iterations, layers = None, list[Layer]()
    for name, values in _objects(text, "--exportProfile"):
        if name is None and "count" in values:
            iterations = int(values["count"])
        elif name is None or not values.keys() >= {"timeMs", "averageMs", "percentage"}:
            raise UsageError(
                "not an --exportProfile file of trtexec: its objects are no layers",
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
    """Name and numbers of every object in an array of flat objects."""
    if not text.lstrip().startswith("["):
        raise UsageError(
            f"not an {option} file of trtexec: it does not start with `[`",
            f"give the file that {option} named",
        )
    try:
        entries = json.loads(text)
    except json.JSONDecodeError:
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
            key: float(value) for key, value in known.items() if isinstance(value, int | float)
        }
        yield (str(known["name"]) if "name" in known else None), numbers


def _by_line(text: str) -> Iterator[tuple[str | None, dict[str, float]]]:
    for line in text.splitlines(keepends=True):
        body = line.strip().lstrip("[,").strip()
        if not (body.startswith("{") and body.rstrip(",").endswith("}")):
            continue  # brackets, and the line that was being written when the run was killed
        name = NAMED.search(body)
        numbers = {
            key: float(value)
            for key, value in PAIR.findall(body[name.end() - len('"timeMs"') :] if name else body)
        }
        if numbers or line.endswith(
            "\n"
        ):  # else the run was killed within a name, behind a bracket of its own
            yield (name[1] if name else None), numbers
