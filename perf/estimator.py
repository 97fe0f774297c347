"""Compare the target estimator with published Jetson measurements: fit, cross-validate or score.

    python -m edgewright.perf.estimator --fit PUBLISHED.csv [--out FILE]
    python -m edgewright.perf.estimator --cross-validate PUBLISHED.csv [--docs docs] [--json]
    python -m edgewright.perf.estimator --score ANY.csv [--json]

`perf/published.py` describes the columns. `perf/jetson_published.csv` is the table of the fit, and
`perf/jetson_held_out.csv` has rows that it has not seen. A score uses the coefficients in
`targets/fit.yaml`, and of each row only what a data sheet says: parameters, bits, quantization,
engine, device, power mode, context, batch, and the tokens a round of speculative decoding yields.
"""

from __future__ import annotations

if not __package__:  # `python perf/estimator.py`: run it as a module, for the relative imports
    import runpy

    runpy.run_module("edgewright.perf.estimator", run_name="__main__")

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..console import complain
from ..errors import EdgewrightError, UsageError
from ..targets.roofline import FIT_FILE, Band, load_fit
from .bands import Crossed, coverage
from .fitting import cross_validate, fit_all, same_model
from .published import LeftOut, Row, read_table
from .residuals import markdown, plot

__all__ = ["main", "predict_row", "score", "validate"]

VALIDATIONS = {
    "leave_one_model_out": "model",
    "leave_one_device_out": "device",
    "leave_one_engine_out": "engine",
    "leave_one_model_out_shape_inferred": "inferred",
    "in_sample": "fit",
}
MARKS = ("<!-- residuals: written by perf/estimator.py -->", "<!-- end of residuals -->")


def predict_row(row: Row) -> dict[str, Any]:
    """Decode rate of a row and its expected band, by the coefficients of `targets/fit.yaml`."""
    fit = load_fit().engines[row.engine]
    rate = row.batch / row.seconds(fit.kernels)
    band = _band(row, fit.decode_band, f"{row.target}:{row.mode}" in fit.fitted_on)
    return {
        "row": row.name,
        "engine": row.engine,
        "engine_measured": row.measured_engine,
        "device": row.target,
        "power_mode": row.mode,
        "shape": row.shape,
        "kind": row.kind,
        "batch": row.batch,
        "bits": row.bits,
        "measured_tok_s": row.decode_tok_s,
        "predicted_tok_s": round(rate, 2),
        "band": round(band, 3),
        "low_tok_s": round(rate / (1 + band), 2),
        "high_tok_s": round(rate * (1 + band), 2),
        "ape": round(abs(rate / row.decode_tok_s - 1), 4),
    }


def _band(row: Row, band: Band, seen: bool) -> float:
    """The widest band that applies: for a board, an engine or a shape that the fit has not seen."""
    stated = [band.known if seen else band.new]
    if row.kind == "batched":
        stated.append(band.batched)
    elif row.kind == "speculative":
        stated.append(band.speculative or band.batched)
    if row.shape != "known" and band.inferred is not None:
        stated.append(band.inferred)
    if not row.measured_engine:
        stated.append(load_fit().engines["other"].decode_band.known)
    return max(stated)


def score(table: Sequence[Row | LeftOut]) -> dict[str, Any]:
    """Median absolute errors of decode speed (as fractions), and the rows that were left out."""
    used = [row for row in table if isinstance(row, Row)]
    reasons = Counter(row.reason for row in table if isinstance(row, LeftOut))
    predictions = [predict_row(row) for row in used]
    inside = [p["low_tok_s"] <= p["measured_tok_s"] <= p["high_tok_s"] for p in predictions]
    return {
        "rows": len(table),
        "scored": len(used),
        "left_out": dict(reasons),
        "median_ape": _median([p["ape"] for p in predictions]),
        "band_coverage": round(statistics.fmean(inside), 3) if inside else None,
        "by_engine": _by(predictions, lambda p: p["engine"]),
        "by_device": _by(predictions, lambda p: p["device"]),
        "by_shape": _by(predictions, lambda p: p["shape"]),
        "by_kind": _by(predictions, lambda p: p["kind"]),
        "predictions": predictions,
    }


def validate(rows: Sequence[Row], crossed: Crossed) -> dict[str, Any]:
    """Errors with a model, a board or an engine left out of the fit.

    Returns:
        Median absolute percentage errors (as fractions), and the share of measurements inside
        the stated bands.
    """
    apes = {name: np.abs(np.expm1(getattr(crossed, field))) for name, field in VALIDATIONS.items()}
    inside = {
        "leave_one_model_out": coverage(rows, crossed.model, same_model),
        "leave_one_device_out": coverage(
            rows, crossed.device, lambda row: row.target, crossed.model
        ),
        "leave_one_model_out_shape_inferred": coverage(rows, crossed.inferred, same_model),
    }
    table: list[dict[str, Any]] = [
        {name: float(ape[i]) for name, ape in apes.items()}
        | {"engine": row.engine, "device": row.target, "kind": row.kind}
        | {"inside": bool(inside["leave_one_model_out"][i])}
        for i, row in enumerate(rows)
    ]

    def medians(key: str) -> dict[str, Any]:
        groups = sorted({entry[key] for entry in table})
        picked = {group: [entry for entry in table if entry[key] == group] for group in groups}
        return {
            g: {"rows": len(e), "inside": round(statistics.fmean(x["inside"] for x in e), 3)}
            | {name: _median([x[name] for x in e]) for name in VALIDATIONS}
            for g, e in picked.items()
        }

    return {
        "rows": len(rows),
        "median_ape": {name: _median([entry[name] for entry in table]) for name in VALIDATIONS},
        "band_coverage": {name: round(float(hits.mean()), 3) for name, hits in inside.items()},
        "by_kind": medians("kind"),
        "by_engine": medians("engine"),
        "by_device": medians("device"),
    }


def _by(
    predictions: list[dict[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, Any]:
    groups = {
        group: [p["ape"] for p in predictions if key(p) == group]
        for group in sorted({key(p) for p in predictions})
    }
    return {
        group: {"rows": len(apes), "median_ape": _median(apes)} for group, apes in groups.items()
    }


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


def _show_score(result: Mapping[str, Any]) -> None:
    for p in result["predictions"]:
        note = "" if p["engine_measured"] else " (nearest engine)"
        print(
            f"{p['row'][:88]:88s} {p['measured_tok_s']:7.1f} {p['predicted_tok_s']:7.1f} tok/s  "
            f"{p['ape']:5.0%}  {p['low_tok_s']:.1f} - {p['high_tok_s']:.1f}  "
            f"{p['engine']}{note}, shape {p['shape']}"
        )
    left = ", ".join(f"{count} {reason}" for reason, count in result["left_out"].items()) or "none"
    print(f"\nscored {result['scored']} of {result['rows']} rows; left out: {left}")
    for key in ("by_kind", "by_engine", "by_device", "by_shape"):
        for group, entry in result[key].items():
            print(f"  {group:24s} {entry['rows']:4d} rows  median error {entry['median_ape']:.1%}")
    if result["scored"]:
        print(
            f"median absolute percentage error {result['median_ape']:.1%}; "
            f"{result['band_coverage']:.0%} inside the stated 80 % band"
        )


def _write_docs(
    folder: Path, rows: Sequence[Row], crossed: Crossed, result: Mapping[str, Any]
) -> None:
    page = folder / "estimator.md"
    try:
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(MARKS[0])
        _, after = rest.split(MARKS[1])
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{page}: cannot write the table of errors: {error}",
            "give the folder that contains docs/estimator.md",
        ) from error
    page.write_text(f"{before}{MARKS[0]}\n{markdown(result)}\n{MARKS[1]}{after}", encoding="utf-8")
    plot(rows, crossed, folder / "estimator-residuals.svg")


def _run(arguments: argparse.Namespace) -> None:
    path = arguments.fit or arguments.cross_validate or arguments.score
    table = read_table(path)
    if arguments.score:
        result = score(table)
        print(json.dumps(result, indent=1)) if arguments.json else _show_score(result)
        return
    rows = [row for row in table if isinstance(row, Row)]
    if len({row.target for row in rows}) < 2 or len({same_model(row) for row in rows}) < 2:
        raise UsageError(
            f"{path}: fewer than two usable models or boards, so none can be left out",
            "give a larger table",
        )
    if arguments.fit:
        fitted, crossed = fit_all(rows)
        arguments.out.write_text(
            yaml.safe_dump(fitted, sort_keys=False, width=120), encoding="utf-8"
        )
        print(f"wrote {arguments.out}", file=sys.stderr)
    else:
        _, crossed = cross_validate(rows)
    result = validate(rows, crossed)
    if arguments.docs:
        _write_docs(arguments.docs, rows, crossed, result)
    print(json.dumps(result, indent=1) if arguments.json else markdown(result))


def main(argv: list[str] | None = None) -> int:
    """Fit, cross-validate or score; returns the exit code, as on edgewright's command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--fit",
        type=Path,
        metavar="CSV",
        help="fit the coefficients, write them, and cross-validate",
    )
    what.add_argument(
        "--cross-validate",
        type=Path,
        metavar="CSV",
        help="errors on models and boards that were left out of the fit",
    )
    what.add_argument(
        "--score", type=Path, metavar="CSV", help="errors of our coefficients on any table"
    )
    parser.add_argument(
        "--out", type=Path, default=FIT_FILE, help="the YAML file that --fit writes"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        help="folder of estimator.md; the table and plot of errors are written there",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    try:
        _run(parser.parse_args(argv))
    except EdgewrightError as error:
        complain(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
