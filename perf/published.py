"""Read published tables of decode speed: understand each row, or say why it cannot be used.

A row is one measurement. The columns are device, power_mode, engine, model, params_b, quant, bits,
context_or_prompt_tokens, decode_tok_s and notes. Notes are `key=value;` pairs (batch, mode,
prefill_ms, gpu_mem_mb) or prose. Authors spell devices and engines in many ways. Only what a reader
of a data sheet would know is used: no file sizes and no configurations.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..models import Architecture, architecture
from ..models.footprint import traffic
from ..targets.estimator import hardware_of
from ..targets.profile import Target, load_target
from ..targets.roofline import Hardware
from .regression import ROOT
from .shapes import shape_of

__all__ = ["STORED_BITS", "LeftOut", "Row", "engine_of", "place_of", "precision_of", "read_table"]

Raw = Mapping[str, str]
DEFAULT_PROMPT = 256
ANSWER = 256
"""Tokens of prompt and answer if a table does not state them. The mean context of decoding is then
the prompt and half of the answer."""

ENGINES = (  # first match wins
    ("llama.cpp-lowbit", r"bitnet|llama.*(fork|t?q[12]_0|tq[12]|ternary|binary)"),
    ("edge-llm", r"edge.?llm"),
    ("mlc", r"\bmlc|nano-?llm|nano-?vlm"),
    ("tinychat", r"^tiny-?chat|llm-?awq"),
    ("ollama", r"ollama"),
    ("vllm", r"vllm"),
    ("llama.cpp", r"llama-?[._]?cpp|llama-(bench|server|cli)"),
    ("transformers", r"transformers|hugging|\bhf\b"),
)
NEAREST = (  # engines that were not measured, by the nearest one that was
    ("edge-llm", r"tensorrt|trt"),
    ("vllm", r"sglang|lmdeploy|aphrodite"),
    ("mlc", r"\btvm|exllama"),
    ("llama.cpp", r"llama|gguf|ggml|kobold|lm-? ?studio|gpt4all|\bjan\b"),
    ("transformers", r"pytorch|torch|llava\.serve|eager"),
)
BITS = (  # bits per weight of the linear layers, with scales; the first match wins
    (1.1, r"q1_0|iq1|binary|1[.]58|tq1"),
    (2.1, r"q2_0|tq2|ternary"),
    (2.6, r"q2_k|iq2"),
    (3.5, r"iq3|q3_k_s"),
    (3.9, r"q3_k|q3"),
    (4.5, r"q4f16|q4f32|q4_0|iq4"),
    (5.0, r"q4_1"),
    (4.85, r"q4_k|q4"),
    (5.6, r"q5"),
    (6.56, r"q6"),
    (8.5, r"q8"),
    (4.0, r"int-?4|w4|4-?bit|fp4|nf4|\bu4|\bi4"),
    (8.0, r"int-?8|w8|8-?bit|fp8|\bi8"),
    (4.0, r"awq|gptq"),
    (16.0, r"fp-?16|bf-?16|f16|w16|half|16-?bit"),
    (32.0, r"fp-?32|f32|float32"),
)
GGUF = {"int4": 4.85, "int8": 8.5, "head": 6.56}
STORED_BITS = {"mlc": {"int4": 4.5, "head": 4.5}} | dict.fromkeys(
    ("llama.cpp", "llama.cpp-lowbit", "ollama"), GGUF
)
"""Bits per weight of engines with formats of their own. Q4_K_M keeps some layers and the head at 6
bits; q4f16_1 has groups of 32 and a 4-bit head. The other engines use 4 bits in groups of 128, and
a float16 head."""


BOARDS = (
    ("jetson-orin-nano-4gb", r"orin.*nano.*\b4 ?gb"),
    ("jetson-orin-nano-8gb", r"orin.*nano|nano.*(orin|super)"),
    ("jetson-orin-nx-8gb", r"nx.*\b8 ?gb"),
    ("jetson-orin-nx-16gb", r"orin.*nx"),
    ("jetson-agx-orin-32gb", r"orin.*\b32 ?gb"),
    ("jetson-agx-orin-64gb", r"(agx|igx).*orin|orin.*agx|^(nvidia )?(jetson )?orin$"),
)


@dataclass(frozen=True)
class LeftOut:
    """A row that cannot be used, and the reason in words that other such rows share."""

    name: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One published measurement, with what the estimate needs to know about it."""

    name: str
    device: str
    engine: str
    """One of `ENGINES`, or `other`."""
    measured_engine: bool
    """Whether this engine was measured, and not only a similar one."""
    model: str
    target: str
    mode: str
    bits: float
    architecture: Architecture
    params_b: float
    """Billions of parameters; for a mixture of experts, the geometric mean of all and active."""
    shape: str
    """`known`, `sketched` or `inferred`; see `shape_of`."""
    context: int
    batch: int
    decode_tok_s: float
    prompt: int | None = None
    prefill_s: float | None = None
    memory: float | None = None

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        head = max(STORED_BITS.get(self.engine, {}).get("head", 16.0), self.bits)
        return traffic(self.architecture, self.bits, head)

    @property
    def hardware(self) -> Hardware:
        """The board in its power mode."""
        target = load_target(self.target)
        return hardware_of(target, target.mode(self.mode))


def read_table(path: Path) -> list[Row | LeftOut]:
    """Read all rows of a table, the usable ones and those to leave out.

    Raises:
        UsageError: the file cannot be read, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            table = csv.DictReader(handle)
            missing = {"device", "engine", "model", "decode_tok_s"} - set(table.fieldnames or ())
            if missing:
                raise UsageError(
                    f"{path}: no column {', '.join(sorted(missing))}",
                    "give a table with the columns of docs/estimator.md",
                )
            return [
                _row(
                    {
                        key: value or ""
                        for key, value in raw.items()
                        if isinstance(key, str) and not isinstance(value, list)
                    }
                )
                for raw in table
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: {error}", "give a CSV table of measurements") from error


def _row(raw: Raw) -> Row | LeftOut:
    name = " | ".join(
        raw.get(key, "").strip() for key in ("device", "power_mode", "engine", "model", "quant")
    )
    notes = _pairs(raw.get("notes", ""))
    batch = _batch(raw, notes)
    rate = _number(raw.get("decode_tok_s", ""))
    engine, measured = engine_of(raw["engine"], raw.get("quant", ""))
    place = place_of(raw.get("device", ""), raw.get("power_mode", ""), engine)
    shape = shape_of(raw.get("model", ""), raw.get("params_b", ""))
    reason = _reason(raw, notes, rate)
    if reason or rate is None or place is None or shape is None:
        missing = "device unknown" if place is None else "model size unknown"
        return LeftOut(name, reason or missing)
        return LeftOut(name, reason or "unreadable")
    stated = _number(raw.get("context_or_prompt_tokens", ""))
    # Edge-LLM counts the prompt tokens of the whole batch, the others those of one request.
    prompt = round(stated / batch if engine == "edge-llm" else stated) if stated else None
    return Row(
        name=name,
        device=raw["device"].strip(),
        engine=engine,
        measured_engine=measured,
        model=raw["model"].strip(),
        target=place[0].name,
        mode=place[1],
        batch=batch,
        bits=precision_of(raw.get("quant", ""), raw.get("bits", ""), engine),
        architecture=architecture(shape[0]),
        params_b=shape[1],
        shape=shape[2],
        context=(prompt or DEFAULT_PROMPT) + ANSWER // 2,
        decode_tok_s=rate,
        prompt=prompt,
        prefill_s=_prefill_s(raw, notes, batch),
        memory=_memory(notes),
    )


def _pairs(notes: str) -> dict[str, str]:
    """The `key=value` pairs in a row's notes."""
    return dict(part.strip().split("=", 1) for part in notes.split(";") if "=" in part)


def _reason(raw: Raw, notes: Mapping[str, str], rate: float | None) -> str | None:
    """Why a row is not a measurement of plain decoding on the GPU, or None."""
    if not rate:
        return "no decode rate"
    if _speculative(raw, notes):
        return "speculative decoding"
    if re.search(r"\bcpu\b", raw["engine"], re.IGNORECASE):
        return "runs on the CPU"
    prose = (raw["engine"] + raw.get("notes", "")).lower()
    if re.search(r"vlm pipeline|do not use as llm", prose):
        return "no rate of text decoding"
    return None


def engine_of(stated: str, quant: str = "") -> tuple[str, bool]:
    """The engine that a spelling means, and whether that engine itself was measured.

    An engine without measurements is replaced by the most similar one, or by `other`.
    """
    low = stated.lower().strip()
    lowbit = re.search(r"q[12]_0|tq[12]|ternary|binary", quant.lower())
    if lowbit:
        low += " " + lowbit[0]
    for table, measured in ((ENGINES, True), (NEAREST, False)):
        for engine, pattern in table:
            if re.search(pattern, low):
                return engine, measured
    return ROOT, False


def precision_of(quant: str, bits: str, engine: str) -> float:
    """Bits per weight of the linear layers, with scales: by the quantization's name, or stated."""
    # `INT4 AWQ / FP16` names the language model first, then a draft model or vision tower.
    first = quant.lower().split("/")[0]
    named = next((size for size, pattern in BITS if re.search(pattern, first)), None)
    found = named or _number(bits) or (16.0 if engine == "transformers" else 4.0)
    return STORED_BITS.get(engine, {}).get("int4", 4.125) if found == 4.0 else min(found, 32.0)


def place_of(device: str, mode: str, engine: str = "") -> tuple[Target, str] | None:
    """The target and power mode that a row means; None for a device without a profile.

    A mode is found by its name or by its watts. If none is stated: NVIDIA's Edge-LLM tables used
    Orin Nano at the clocks of 15W (their prefill rates show it), all others its default mode. NX
    and AGX ran in their fastest mode.
    """
    low = re.sub(r"\s+", " ", device.lower())
    low = "agx orin" if "agx" in low and "presumed" in low else low
    name = next((name for name, pattern in BOARDS if re.search(pattern, low)), None)
    if name is None:
        return None
    target = load_target(name)
    return target, _mode(target, mode.lower(), low, engine)


def _mode(target: Target, stated: str, device: str, engine: str) -> str:
    names = {mode.name.lower(): mode.name for mode in target.power_modes}
    fastest = max(
        target.power_modes, key=lambda mode: (mode.bandwidth_gb_s, target.tflops(mode))
    ).name
    stated = stated.strip().replace("max-n", "maxn").replace("max n", "maxn")
    if re.match(r"original|pre-?super|legacy", stated):
        return names.get("15w") or names.get("10w") or names.get("maxn", fastest)
    if not re.match(r"\d", stated) and re.search("super|maxn", stated):
        return names.get("maxn_super" if "super" in stated else "maxn", fastest)
    if watts := re.search(r"(\d+(?:[.]\d+)?) ?w\b", stated):
        labelled = [mode for mode in target.power_modes if mode.watts]
        return min(labelled, key=lambda mode: abs((mode.watts or 0) - float(watts[1]))).name
    if "super" in device or "nano" not in target.name:
        return fastest
    return names.get("15w", target.default_mode) if engine == "edge-llm" else target.default_mode


def _batch(raw: Raw, notes: Mapping[str, str]) -> int:
    stated = notes.get("batch") or notes.get("concurrency") or notes.get("batch_size")
    prose = re.search(
        r"(\d+) (?:concurrent|parallel|users|sequences)|batch(?: size)?[ =:](\d+)",
        raw.get("notes", "").lower(),
    )
    found = re.match(r"\d+", stated.strip()) if stated else None
    count = int(found[0]) if found else int(prose[1] or prose[2]) if prose else 1
    return max(
        count, 2 if re.search(r"\baggregate|whole batch", raw.get("notes", "").lower()) else 1
    )


def _speculative(raw: Raw, notes: Mapping[str, str]) -> bool:
    prose = " ".join(raw.get(key, "") for key in ("engine", "model", "quant", "notes")).lower()
    if "mode" in notes:
        return notes["mode"].strip().lower() != "vanilla"
    plain = re.sub(r"(non-?|no |without )speculat\w*", "", prose)
    return bool(re.search(r"speculat|eagle|medusa|draft|lookahead|\bmtp\b", plain))


def _prefill_s(raw: Raw, notes: Mapping[str, str], batch: int) -> float | None:
    """Seconds of prefill. Batches of text prompts are padded to an unknown length, so: None."""
    if batch > 1 and notes.get("kind") != "VLM":
        return None
    value = _number(notes.get("prefill_ms", "")) or _number(raw.get("ttft_ms", ""))
    return value / 1e3 if value else None


def _memory(notes: Mapping[str, str]) -> float | None:
    """Peak GPU memory in bytes, for text models only: a vision tower would add to it."""
    stated = _number(notes.get("gpu_mem_mb", "")) if notes.get("kind") == "LLM" else None
    return stated * 1e6 if stated else None


def _number(text: str) -> float | None:
    """The first positive number in a cell (`~2,048 tokens`, `4k`), or None."""
    found = re.search(r"(\d+(?:[.]\d+)?)\s*(k\b)?", text.lower().replace(",", ""))
    value = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
    return value if math.isfinite(value) and value > 0 else None
