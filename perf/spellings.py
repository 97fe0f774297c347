"""The spellings of published tables: engines, quantizations, boards and power modes."""

from __future__ import annotations

import math
import re

from ..models import Architecture
from ..models.footprint import traffic
from ..targets.profile import Target, load_target
from .regression import ROOT

__all__ = [
    "STORED_BITS",
    "engine_of",
    "number_in",
    "place_of",
    "precision_of",
    "read_bytes_of",
]

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

MLC_FLOAT_HEAD = 200_000
"""Vocabulary from which MLC is taken to leave the head in float16: its rates of Gemma (256k) fit
that, and those of Llama 3 (128k) do not."""

BOARDS = (
    ("jetson-orin-nano-4gb", r"orin.*nano.*\b4 ?gb"),
    ("jetson-orin-nano-8gb", r"orin.*nano|nano.*(orin|super)"),
    ("jetson-orin-nx-8gb", r"nx.*\b8 ?gb"),
    ("jetson-orin-nx-16gb", r"orin.*nx"),
    ("jetson-agx-orin-32gb", r"orin.*\b32 ?gb"),
    ("jetson-agx-orin-64gb", r"(agx|igx).*orin|orin.*agx|^(nvidia )?(jetson )?orin$"),
)
BY_DEFAULT = r"nano|agx-orin-32gb"
"""Boards that are taken to have run in their default mode if a table does not state one."""


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
    found = named or number_in(bits) or (16.0 if engine == "transformers" else 4.0)
    return STORED_BITS.get(engine, {}).get("int4", 4.125) if found == 4.0 else min(found, 32.0)


def place_of(device: str, mode: str, engine: str = "") -> tuple[Target, str] | None:
    """The target and power mode that a row means; None for a device without a profile.

    A mode is found by its name or by its watts. If none is stated: NVIDIA's Edge-LLM tables used
    Orin Nano at the clocks of 15W (their prefill rates show it), all others its default mode. NX
    and AGX 64GB ran in their fastest mode. The AGX of 32GB ran in its default mode: its published
    rates are from users who had not changed it.
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
    if "super" in device or not re.search(BY_DEFAULT, target.name):
        return fastest
    return names.get("15w", target.default_mode) if engine == "edge-llm" else target.default_mode


def read_bytes_of(engine: str, model: Architecture, bits: float) -> int:
    """Bytes of weights that one step of an engine reads."""
    head = STORED_BITS.get(engine, {}).get("head", 16.0)
    if engine == "mlc" and model.vocab_size >= MLC_FLOAT_HEAD:
        head = 16.0
    return traffic(model, bits, max(head, bits))


def number_in(text: str) -> float | None:
    """The first positive number in a cell (`~2,048 tokens`, `4k`), or None."""
    found = re.search(r"(\d+(?:[.]\d+)?)\s*(k\b)?", text.lower().replace(",", ""))
    value = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
    return value if math.isfinite(value) and value > 0 else None
