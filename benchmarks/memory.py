"""How much memory a measurement takes on this machine, from config.json and the options alone."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.artifacts import is_artifact
from ..checkpoints.compute_dtype import fast_dtype
from ..checkpoints.config import dtype_name, quantization, read_architecture
from ..checkpoints.hashing import read_provenance, weight_bytes
from ..checkpoints.tensors import stored_dtype
from ..generation.memory import BUDGET, CHUNK_TOKENS, rows_within
from ..models import Architecture
from ..steps.memory_check import Alternative
from .options import EvaluateOptions
from .tasks.accuracy import LOGITS_A_BATCH, TOKENS_A_BATCH

__all__ = ["alternatives", "answering_bytes", "loaded_bytes", "measurement_bytes"]

OVERHEAD = 100 << 20
"""Bytes for the tokenizer, the progress and the allocator's reserve."""
SESSION_COPIES = {"int4": 0.4, "int4-a8": 0.4, "fp16": 2.0, "bf16": 2.0}
"""By precision, bytes that ONNX Runtime adds to a byte of an artifact's weights; measured."""
LOGIT_BYTES = 4 * 3
"""A logit of a batch of text, its copy in float32, and that of the reference."""
PROMPT_TOKENS = 512
"""Tokens of the longest prompt that is expected."""
FLOAT32 = "float32"
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


def loaded_bytes(path: Path, dtype: str = FLOAT32) -> float:
    """Bytes of a loaded model or artifact. A packed checkpoint is dequantized in float32 first.

    Args:
        path: a checkpoint or an artifact.
        dtype: what torch computes in.
    """
    if is_artifact(path):
        precision = str(read_provenance(path).get("precision"))
        return (1 + SESSION_COPIES.get(precision, 0.2)) * weight_bytes(path)
    model = read_architecture(path)
    packed = 4 * model.parameters if quantization(model.config) else 0
    return WIDTH[dtype] * model.parameters + packed


def measurement_bytes(
    path: Path, options: EvaluateOptions, device: str = "cpu", reference: Path | None = None
) -> float:
    """Peak memory of a measurement, beyond a process that has loaded torch and transformers.

    Answers are generated in one dtype and texts scored in another, so the model is read twice, and
    is in memory once. The reference stays. Latency is measured in a process of its own.

    Args:
        path: a checkpoint or an artifact.
        options: what to measure.
        device: where torch runs.
        reference: the model that outputs are compared with, if it is not loaded yet.
    """
    model = read_architecture(path)
    dtype = options.dtype
    if dtype == "auto":
        dtype = fast_dtype(dtype_name(model.config), device)
    first = loaded_bytes(path, dtype)
    beside = loaded_bytes(reference) if reference and options.perplexity else 0.0
    needs = [first]
    if options.tasks:
        longest = options.max_new_tokens + options.seq_len
        needs.append(first + _answer_bytes(model, longest, options.limit, WIDTH[dtype]))
    if options.perplexity:
        positions = min(TOKENS_A_BATCH, LOGITS_A_BATCH // model.vocab_size)
        logits = LOGIT_BYTES * max(positions, options.seq_len) * model.vocab_size
        needs.append(loaded_bytes(path) + beside + logits)
    if options.latency:
        needs.append(loaded_bytes(path) + beside)
    return OVERHEAD + max(needs)


def alternatives(
    path: Path, options: EvaluateOptions, device: str, reference: Path | None
) -> list[Alternative]:
    """Measurements that take less memory."""
    found: list[Alternative] = []

    def offer(advice: str, fewer: EvaluateOptions, compared: Path | None = reference) -> None:
        found.append(Alternative(advice, measurement_bytes(path, fewer, device, compared)))

    if options.tasks:
        offer("--limit 8", options.model_copy(update={"limit": 8}))
    if reference:
        offer("no --reference", options, None)
    if options.tasks and options.perplexity:
        offer("--tasks alone", options.model_copy(update={"perplexity": (), "latency": None}))
    if not is_artifact(path) and stored_dtype(read_architecture(path).config).itemsize < 4:
        small = {"perplexity": (), "latency": None, "limit": 8, "dtype": "bfloat16"}
        if options.tasks:
            offer("--tasks alone with --dtype bfloat16 --limit 8", options.model_copy(update=small))
    return found


def answering_bytes(path: Path, new_tokens: int, prompts: int) -> float:
    """Peak memory of a checkpoint that answers prompts in float32."""
    model = read_architecture(path)
    longest = new_tokens + PROMPT_TOKENS
    answers = _answer_bytes(model, longest, prompts, WIDTH[FLOAT32])
    return OVERHEAD + loaded_bytes(path) + answers


def _answer_bytes(model: Architecture, longest: int, prompts: int, width: int) -> float:
    """Caches and logits of the rows that are generated together, and a pass of their prefill."""
    position = model.state_bytes(1, element_bytes=width)
    rows = rows_within(longest, position, model.vocab_size, prompts)
    caches = min(BUDGET, rows * (longest * position + 8 * model.vocab_size))
    kinds = model.linear_counts()
    widths = 2 * model.hidden_size + sum(linear.out_features for linear in kinds)
    return caches + width * CHUNK_TOKENS * widths
