"""Read published tables of decode speed: understand each row, or say why it cannot be used.

A row is one measurement. The columns are device, power_mode, engine, model, params_b, quant, bits,
context_or_prompt_tokens, decode_tok_s and notes. Notes are `key=value;` pairs (batch, mode,
prefill_ms, gpu_mem_mb) or prose. Authors spell devices and engines in many ways. Only what a reader
of a data sheet would know is used: no file sizes and no configurations.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..models import Architecture, architecture
from ..targets.engine_speed import hardware_of
from ..targets.profile import load_target
from ..targets.roofline import Hardware, Kernels, TokenPass, pass_seconds
from .shapes import shape_of
from .speculative import Speculation, method_of, round_of, tokens_of
from .spellings import engine_of, number_in, place_of, precision_of, read_bytes_of

__all__ = ["LeftOut", "Row", "read_table"]

Raw = Mapping[str, str]
DEFAULT_PROMPT = 256
ANSWER = 256
"""Tokens of prompt and answer if a table does not state them. The mean context of decoding is then
the prompt and half of the answer."""
AT_ONCE = {"ollama": 4}
"""Sequences that an engine decodes together by default; more users wait for their turn."""
MOST_SEQUENCES = 4096


@dataclass(frozen=True)
class LeftOut:
    """A row that cannot be used, and the reason in words that other such rows share."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Row:
    """One published measurement, with what the estimate needs to know about it.

    Two rows are never equal: tables repeat each other.
    """

    name: str
    device: str
    engine: str
    """Its name in `spellings`, or `other`."""
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
    speculation: Speculation | None = None
    """How tokens were proposed; None: they were decoded one by one."""

    @property
    def kind(self) -> str:
        """What the row measures: `single`, `batched` or `speculative`."""
        if self.speculation:
            return "speculative"
        return "batched" if self.batch > 1 else "single"

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return read_bytes_of(self.engine, self.architecture, self.bits)

    def seconds(self, kernels: Kernels, model: Architecture | None = None) -> float:
        """Estimated seconds in which each sequence gets a token.

        Args:
            kernels: coefficients of the engine.
            model: a shape to use instead of the row's.
        """
        used = model or self.architecture
        read = read_bytes_of(self.engine, used, self.bits)
        step = TokenPass(used, read, self.context, self.batch)
        if self.speculation is None:
            return pass_seconds(step, self.hardware, kernels)
        return 1 / round_of(self.speculation, step, self.bits, self.hardware, kernels).rate

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
    rate = number_in(raw.get("decode_tok_s", ""))
    engine, measured = engine_of(raw["engine"], raw.get("quant", ""))
    batch = min(_batch(raw, notes), AT_ONCE.get(engine, MOST_SEQUENCES))
    place = place_of(raw.get("device", ""), raw.get("power_mode", ""), engine)
    shape = shape_of(raw.get("model", ""), raw.get("params_b", ""))
    reason = _reason(raw, notes, rate)
    if reason or rate is None or place is None or shape is None:
        missing = "device unknown" if place is None else "model size unknown"
        return LeftOut(name, reason or missing)
    stated = number_in(raw.get("context_or_prompt_tokens", ""))
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
        speculation=_speculation(raw, notes),
    )


def _pairs(notes: str) -> dict[str, str]:
    """The `key=value` pairs in a row's notes."""
    return dict(part.strip().split("=", 1) for part in notes.split(";") if "=" in part)


def _reason(raw: Raw, notes: Mapping[str, str], rate: float | None) -> str | None:
    """Why a row is not a measurement of decoding on the GPU, or None."""
    if not rate:
        return "no decode rate"
    if _speculative(raw, notes) and _speculation(raw, notes) is None:
        return "speculative decoding of another kind"
    if re.search(r"\bcpu\b", raw["engine"], re.IGNORECASE):
        return "runs on the CPU"
    prose = (raw["engine"] + raw.get("notes", "")).lower()
    if re.search(r"vlm pipeline|do not use as llm", prose):
        return "no rate of text decoding"
    return None


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
    if "mode" in notes:
        return notes["mode"].strip().lower() != "vanilla"
    return bool(re.search(r"speculat|eagle|medusa|draft|lookahead|\bmtp\b", _prose(raw)))


def _speculation(raw: Raw, notes: Mapping[str, str]) -> Speculation | None:
    """How a row proposed tokens, if it did so by a method whose rounds are known."""
    if not _speculative(raw, notes):
        return None
    method = method_of(notes.get("mode") or _prose(raw))
    return Speculation(method, tokens_of(method, notes)) if method else None


def _prose(raw: Raw) -> str:
    """What a row says in words, without the denial of speculative decoding."""
    said = " ".join(raw.get(key, "") for key in ("engine", "model", "quant", "notes")).lower()
    return re.sub(r"(non-?|no |without )speculat\w*", "", said)


def _prefill_s(raw: Raw, notes: Mapping[str, str], batch: int) -> float | None:
    """Seconds of prefill. Batches of text prompts are padded to an unknown length, so: None."""
    if batch > 1 and notes.get("kind") != "VLM":
        return None
    value = number_in(notes.get("prefill_ms", "")) or number_in(raw.get("ttft_ms", ""))
    return value / 1e3 if value else None


def _memory(notes: Mapping[str, str]) -> float | None:
    """Peak GPU memory in bytes, for text models only: a vision tower would add to it."""
    stated = number_in(notes.get("gpu_mem_mb", "")) if notes.get("kind") == "LLM" else None
    return stated * 1e6 if stated else None
