"""Fit the target estimator on published Jetson measurements, and say how well it holds on data left out.

    python -m edgewright.perf.fit_estimator PUBLISHED.csv [--out FILE]

The CSV has one row a published figure: device, power_mode, engine, model, bits, weight_file_gb, context_or_prompt_tokens,
decode_tok_s, ttft_ms, source_url, notes (`key=value;` pairs such as batch, mode, kind, prefill_ms, gpu_mem_mb). Rows are
used where the model's shape is known, the engine is one we predict and decoding is plain (no speculation). Least squares
of the relative error, coefficients kept physical (see `targets/roofline.py`). Writes `targets/fit.yaml`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ..targets.estimator import hardware_of
from ..targets.profile import load_target
from ..targets.roofline import DECODE_TERMS, FIT_FILE, PREFILL_TERMS, Hardware, decode_terms, prefill_terms
from ..targets.sizes import head_bytes, kv_size, read_size, size_of

__all__ = ["Row", "fit_all", "load_rows", "main"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
NAIVE_EFFICIENCY = 0.65
ANSWER = 512
"""Tokens that an answer is taken to have where a table does not say; decode is then at half of it past the prompt."""


def _shape(kind: str, *sizes: int, tied: bool = True) -> dict[str, Any]:
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
        "vocab_size",
    )  # fmt: skip
    return {"model_type": kind, **dict(zip(names, sizes, strict=True)), "tie_word_embeddings": tied}


MODELS = {
    "Qwen3-0.6B": _shape("qwen3", 1024, 28, 16, 8, 128, 3072, 151936),
    "Qwen3-1.7B": _shape("qwen3", 2048, 28, 16, 8, 128, 6144, 151936),
    "Qwen3-4B": _shape("qwen3", 2560, 36, 32, 8, 128, 9728, 151936),
    "Qwen3-8B": _shape("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, tied=False),
    "Qwen3-32B": _shape("qwen3", 5120, 64, 64, 8, 128, 25600, 151936, tied=False),
    "Qwen2.5-3B": _shape("qwen2", 2048, 36, 16, 2, 128, 11008, 151936),
    "Llama-3.2-1B": _shape("llama", 2048, 16, 32, 8, 64, 8192, 128256),
    "Llama-3.2-3B": _shape("llama", 3072, 28, 24, 8, 128, 8192, 128256),
    "Llama-2-13B": _shape("llama", 5120, 40, 40, 40, 128, 13824, 32000, tied=False),
    "Llama-2-70B": _shape("llama", 8192, 80, 64, 8, 128, 28672, 32000, tied=False),
    "SmolLM2-135M": _shape("llama", 576, 30, 9, 3, 64, 1536, 49152),
}
ALIASES = {  # same text decoder under another name
    "Qwen3-4B-Instruct-2507": "Qwen3-4B", "Qwen3-VL-2B-Instruct": "Qwen3-1.7B", "Qwen3-VL-4B": "Qwen3-4B",
    "Qwen2.5-VL-3B": "Qwen2.5-3B", "Llava-1.5-13B": "Llama-2-13B",
}  # fmt: skip
ENGINES = {
    "edge-llm": lambda name: name.startswith("TensorRT Edge-LLM"),
    "vllm": lambda name: name.startswith("vLLM"),
    "llama.cpp": lambda name: name in ("llama.cpp", "llama.cpp CUDA"),
}
PRECISION = {"4": "int4", "8": "int8", "16": "fp16"}
EDGE_LLM_NOTE = (
    "NVIDIA's tables do not state power modes. Their prefill rates stand to each other as the clocks of MAXN on AGX Orin 64GB, "
    "40W on Orin NX 16GB and 15W on Orin Nano 8GB do, so those were taken"
)
LLAMA_NOTE = "few and mixed measurements (mostly two small models on one Orin Nano); expect no more than the order of magnitude"


@dataclass(frozen=True)
class Row:
    """One published measurement with what the arithmetic needs to know about it."""

    engine: str
    model: str
    target: str
    mode: str
    precision: str
    context: int
    batch: int
    read_bytes: int
    step_s: float
    prompt: int | None
    prefill_s: float | None
    memory: float | None

    @property
    def config(self) -> dict[str, Any]:
        """The sizes of the model."""
        return MODELS[self.model]

    @property
    def hardware(self) -> Hardware:
        """The board in its power mode."""
        target = load_target(self.target)
        return hardware_of(target, target.mode(self.mode))


def _place(device: str, mode: str) -> tuple[str, str] | None:
    """Target and power mode of a row; unstated modes as `EDGE_LLM_NOTE` says."""
    if "AGX" in device:
        return "jetson-agx-orin-64gb", "MAXN"
    if "NX 16GB" in device:
        return "jetson-orin-nx-16gb", "40W"
    if "Nano 8GB" not in device:
        return None
    named = next((name for name in ("7W", "15W", "25W", "MAXN_SUPER") if mode.startswith(name)), None)
    return "jetson-orin-nano-8gb", named or ("MAXN_SUPER" if "Super" in device else "15W")


def load_rows(path: Path) -> list[Row]:
    """The rows of the published table that can be used."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [_row(raw) for raw in csv.DictReader(handle)]
    return [row for row in rows if row is not None]


def _row(raw: Mapping[str, str]) -> Row | None:
    notes = dict(part.split("=", 1) for part in raw["notes"].split(";") if "=" in part)
    engine = next((name for name, matches in ENGINES.items() if matches(raw["engine"])), None)
    model = ALIASES.get(raw["model"], raw["model"])
    place = _place(raw["device"], raw["power_mode"])
    plain = notes.get("mode", "Vanilla") == "Vanilla"
    if not (engine and place and plain and model in MODELS and raw["bits"] in PRECISION and raw["decode_tok_s"]):
        return None
    precision, config = PRECISION[raw["bits"]], MODELS[model]
    batch = int(notes.get("batch") or notes.get("concurrency", "1").split()[0])
    # Edge-LLM counts the prompt tokens of the whole batch, vLLM those of one request.
    stated = float(raw["context_or_prompt_tokens"] or 0)
    prompt = round(stated / batch if engine == "edge-llm" else stated)
    answer = {"vllm": 128, "llama.cpp": 256}.get(engine, ANSWER)
    file_gb = raw["weight_file_gb"]
    return Row(
        engine=engine, model=model, target=place[0], mode=place[1], precision=precision, batch=batch,
        context=(prompt or 256) + answer // 2,
        read_bytes=int(float(file_gb) * 1e9) if file_gb else read_size(config, precision, 128, 2),
        step_s=batch / float(raw["decode_tok_s"]), prompt=prompt or None,
        prefill_s=_prefill_s(raw, notes, batch), memory=_memory(notes),
    )  # fmt: skip


def _prefill_s(raw: Mapping[str, str], notes: Mapping[str, str], batch: int) -> float | None:
    """Seconds of prefill. Batches of unequal text prompts are padded to an unknown length, so they are left out."""
    if batch > 1 and notes.get("kind") != "VLM":
        return None
    value = notes.get("prefill_ms") or raw["ttft_ms"]
    return float(value) / 1e3 if value else None


def _memory(notes: Mapping[str, str]) -> float | None:
    """Peak GPU memory in bytes, of text models: a vision tower beside it is not what we count."""
    stated = notes.get("gpu_mem_mb") if notes.get("kind") == "LLM" else None
    return float(stated) * 1e6 if stated else None


def least_squares(terms: Array, times: Array, floors: Array) -> Array:
    """Coefficients no smaller than `floors` that minimise the squared relative error, by trying every set of free ones."""
    scaled = terms / times[:, None]
    rest = 1.0 - scaled @ floors
    best, answer = float((rest**2).sum()), floors.copy()
    for size in range(1, terms.shape[1] + 1):
        for free in map(list, itertools.combinations(range(terms.shape[1]), size)):
            extra, *_ = np.linalg.lstsq(scaled[:, free], rest, rcond=None)
            error = float(((scaled[:, free] @ extra - rest) ** 2).sum())
            if (extra >= 0).all() and error < best - 1e-12:
                best, answer = error, floors.copy()
                answer[free] += extra
    return answer


def held_out(terms: Array, times: Array, floors: Array, groups: list[str]) -> Array | None:
    """Relative error of every rate when its group is left out of the fit; None with a single group."""
    if len(set(groups)) < 2:
        return None
    errors = np.zeros(len(times))
    for group in set(groups):
        out = np.array([g == group for g in groups])
        coefficients = least_squares(terms[~out], times[~out], floors)
        errors[out] = np.abs(times[out] / (terms[out] @ coefficients) - 1)
    return errors


@dataclass(frozen=True)
class Result:
    """A fit with its errors: in sample, with each model left out, with each board left out."""

    coefficients: Array
    fit: Array
    by_model: Array
    by_device: Array | None

    def band(self, single: Mask) -> dict[str, float]:
        """The 90th percentiles that a prediction quotes. One board only: twice the error stands in for a new one."""
        known = float(np.quantile(self.by_model[single], 0.9))
        new = float(np.quantile(self.by_device[single], 0.9)) if self.by_device is not None else 2 * known
        batched = float(np.quantile(self.by_model[~single], 0.9)) if (~single).any() else 2 * known
        return {"known": _round(known), "new": _round(max(known, new)), "batched": _round(batched)}


def _fit(rows: list[Row], times: list[float], terms: list[tuple[float, ...]], floors: tuple[float, ...]) -> Result:
    table, measured, floor = np.array(terms), np.array(times), np.array(floors)
    coefficients = least_squares(table, measured, floor)
    by_model = held_out(table, measured, floor, [row.model for row in rows])
    if by_model is None:
        raise SystemExit(f"{rows[0].engine}: measurements of one model only; nothing can be left out")
    by_device = held_out(table, measured, floor, [row.target for row in rows])
    return Result(coefficients, np.abs(measured / (table @ coefficients) - 1), by_model, by_device)


def fit_engine(engine: str, rows: list[Row], report: Callable[[str], None]) -> dict[str, Any]:
    """Decode and prefill coefficients of one engine, as `fit.yaml` holds them."""
    terms = [decode_terms(r.config, r.hardware, read_bytes=r.read_bytes, context=r.context, batch=r.batch) for r in rows]
    decode = _fit(rows, [r.step_s for r in rows], terms, (1.0, 0.0, 0.0, 0.0, 0.0))
    naive = np.array([abs(r.step_s * NAIVE_EFFICIENCY * r.hardware.bandwidth / r.read_bytes - 1) for r in rows])
    single = np.array([r.batch == 1 for r in rows])
    fitted: dict[str, Any] = {
        "decode": _named(DECODE_TERMS, decode.coefficients),
        "decode_band": decode.band(single),
        "decode_rows": len(rows),
        "fitted_on": sorted({f"{r.target}:{r.mode}" for r in rows}),
    }
    errors = _errors("decode", decode) | {"decode_naive": _median(naive), "decode_naive_single": _median(naive[single])}
    errors["decode_leave_one_model_out_single"] = _median(decode.by_model[single])
    report(f"{engine} decode, {len(rows)} rows: naive {_median(naive):.3f} ({_median(naive[single]):.3f} at batch 1)")
    first = [r for r in rows if r.prefill_s and r.prompt]
    if first:
        spent = [prefill_terms(r.config, r.hardware, prompt=r.prompt or 1, batch=r.batch) for r in first]
        prefill = _fit(first, [r.prefill_s or 0.0 for r in first], spent, (1.0, 1.0, 0.0))
        fitted["prefill"] = _named(PREFILL_TERMS, prefill.coefficients)
        fitted["prefill_band"] = prefill.band(np.array([r.batch == 1 for r in first]))
        fitted["prefill_rows"] = len(first)
        errors |= _errors("prefill", prefill)
    for name, value in errors.items():
        report(f"  {name:36s} {'-' if value is None else f'{value:.3f}'}")
    note = {"edge-llm": [EDGE_LLM_NOTE], "llama.cpp": [LLAMA_NOTE]}.get(engine, [])
    return {**fitted, "errors": errors, "notes": note}


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: _round(float(value)) for name, value in zip(names, values, strict=True)}


def _errors(kind: str, result: Result) -> dict[str, float | None]:
    return {
        f"{kind}_fit": _median(result.fit),
        f"{kind}_leave_one_model_out": _median(result.by_model),
        f"{kind}_leave_one_device_out": None if result.by_device is None else _median(result.by_device),
    }


def _median(values: Array) -> float:
    return _round(float(np.median(values)))


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def fit_runtime(rows: list[Row], report: Callable[[str], None]) -> dict[str, Any]:
    """Memory beside weights and cache. How much cache the tables reserved is not stated, so the best guess is searched."""
    used = [r for r in rows if r.memory is not None]
    total = np.array([r.memory or 0.0 for r in used])
    floors = np.array([1.0, 0.0, 0.0, 0.0])
    tries = []
    for reserved in (1024, 1536, 2048, 2560, 3072, 4096):
        terms = np.array([
            (size_of(r.config, r.precision) + kv_size(r.config, reserved, r.batch), 1.0,
             head_bytes(r.config, 2) * r.config["tie_word_embeddings"], r.batch) for r in used
        ], dtype=float)  # fmt: skip
        coefficients = least_squares(terms, total, floors)
        tries.append((np.abs((terms @ coefficients) / total - 1), reserved, coefficients))
    errors, reserved, (share, base, copies, each) = min(tries, key=lambda t: float(t[0].mean()))
    report(f"memory, {len(used)} rows: median error {_median(errors):.3f}, with {reserved} tokens of cache a sequence")
    return {
        "base_bytes": _round(base), "share": _round(share - 1), "head_copies": _round(copies), "sequence_bytes": _round(each),
        "notes": [
            f"fitted on {len(used)} rows of peak GPU memory (median error {_median(errors):.3f}), taking {reserved} tokens of "
            "cache a sequence, which the tables do not state"
        ],
    }  # fmt: skip


BY_HAND = {  # no table was published for ONNX Runtime on a CPU like the profile's
    "decode": {"memory": 1.0, "compute": 7.0, "attention": 7.0, "layers": 0.0, "sequences": 0.0},
    "prefill": {"compute": 1.5, "attention": 1.5, "layers": 0.0},
    "decode_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "prefill_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "fitted_on": ["cpu:default"],
    "notes": [
        "set by hand from one 2-thread CPU (INT4 weights read at 5.6 - 6.9 GB/s where memory gives 20 - 22), not fitted: "
        "expect no more than the order of magnitude"
    ],
}  # fmt: skip
CPU_RUNTIME = {
    "base_bytes": 4e8, "share": 0.2, "notes": ["unconfirmed: Python, ONNX Runtime and its packed copies, a guess"],
}  # fmt: skip


def fit_all(rows: list[Row], report: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything that `fit.yaml` holds."""
    fitted = {name: fit_engine(name, [r for r in rows if r.engine == name], report) for name in ENGINES}
    return {
        "source": "written by perf/fit_estimator.py from published measurements; do not edit",
        "engines": {**fitted, "onnxruntime": BY_HAND},
        "runtime": {"jetson": fit_runtime([r for r in rows if r.engine == "edge-llm"], report), "cpu": CPU_RUNTIME},
    }


def main(argv: list[str] | None = None) -> None:
    """Fit, report and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csv", type=Path, help="table of published measurements")
    parser.add_argument("--out", type=Path, default=FIT_FILE, help="the YAML file to write")
    arguments = parser.parse_args(argv)
    fitted = fit_all(load_rows(arguments.csv))
    arguments.out.write_text(yaml.safe_dump(fitted, sort_keys=False, width=120), encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
