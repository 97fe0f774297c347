"""What a model is predicted to need and give on a target."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """Memory and speed of a model on a target, in one power mode.

    Attributes:
        target: name of the target.
        power_mode: name of the power mode.
        engine: software that runs the model; the speeds are those of this engine.
        precision: of the linear layers.
        kv_cache: how keys and values are cached, `float` or `int8`.
        context: tokens in the cache of each sequence, for which decode speed and memory are given.
        prompt: tokens of the prompt that `ttft_ms` is for.
        batch: sequences at a time.
        weight_bytes: weights on disk.
        kv_bytes: KV cache of all sequences.
        runtime_bytes: engine, CUDA context, activations and the engine's own copies of weights.
        total_bytes: the three together.
        usable_bytes: memory that the target has for them.
        fits: whether the total is within it.
        ttft_ms: milliseconds to the first token of each sequence; None: no published measurements.
        decode_tok_s: tokens a second of all sequences together; None: as for `ttft_ms`.
        decode_by_mode: `decode_tok_s` in every power mode; empty: as for `ttft_ms`.
        tokens_per_joule: decode tokens a joule by power mode, for modes with a watt label. It
            assumes that the whole budget of the label is used. So it is a lower bound, good for
            comparing boards. MAXN modes have no label.
        band: eight of ten held-out measurements were within a factor of 1 + `band` of
            `decode_tok_s`, either way.
        ttft_band: the same for `ttft_ms`.
        notes: limits of the prediction that a user should know.
    """

    target: str
    power_mode: str
    engine: str
    precision: str
    kv_cache: str
    context: int
    prompt: int
    batch: int
    weight_bytes: int
    kv_bytes: int
    runtime_bytes: int
    total_bytes: int
    usable_bytes: int
    fits: bool
    ttft_ms: float | None
    decode_tok_s: float | None
    decode_by_mode: dict[str, float]
    tokens_per_joule: dict[str, float]
    band: float | None
    ttft_band: float | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, for JSON."""
        return asdict(self)
