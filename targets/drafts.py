"""Predict speculative decoding with a second, smaller model as the draft: a distilled student."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError
from ..models import Architecture
from .engine_speed import EngineSpeed
from .estimator import predict
from .profile import PowerMode, Target, usable_bytes
from .roofline import load_fit
from .speculation import Round, best_count, break_even, expected_tokens
from .workload import Workload

__all__ = [
    "ASSUMED_AGREEMENT",
    "MOST_DRAFTED",
    "DraftPrediction",
    "draft_engines",
    "predict_draft",
]

Used = tuple[Architecture, Workload]
"""A model, and how it is stored and used."""

ASSUMED_AGREEMENT = 0.7
"""Agreement that is assumed where none was measured."""
MOST_DRAFTED = 8
"""Proposed tokens up to which the best number is searched."""
WITH_ANY_DRAFT = ("llama.cpp", "vllm")
"""Engines that take any model with the same tokens as a draft. TensorRT-Edge-LLM takes drafts of
its own kinds only (EAGLE-3, MTP and others)."""


@dataclass(frozen=True)
class DraftPrediction:
    """A model on a target with a draft, in one engine and power mode.

    Attributes:
        engine: software that runs both models.
        power_mode: name of the power mode.
        drafted: tokens that the draft proposes in a round.
        agreement: probability that the model agrees with a proposed token.
        assumed: whether the agreement is an assumption.
        tokens_a_round: that a round yields in the mean, for each sequence.
        decode_tok_s: tokens a second of all sequences together.
        alone_tok_s: the same without the draft, in the same engine.
        speedup: their ratio.
        break_even: the lowest agreement at which the draft gains time; None: at none.
        band: eight of ten measurements of other drafts were within a factor of 1 + `band` of
            `decode_tok_s`, either way, where the agreement was known.
        total_bytes: memory of both models, their caches and the engine.
        fits: whether the target has so much.
    """

    engine: str
    power_mode: str
    drafted: int
    agreement: float
    assumed: bool
    tokens_a_round: float
    decode_tok_s: float
    alone_tok_s: float
    speedup: float
    break_even: float | None
    band: float | None
    total_bytes: int
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, for JSON."""
        return asdict(self)


def draft_engines(target: Target) -> tuple[str, ...]:
    """Engines that take any model as a draft, and whose speed on the target can be predicted."""
    return WITH_ANY_DRAFT if target.platform.kind == "jetson" else ()


def predict_draft(
    target: Target,
    model: Used,
    draft: Used,
    engine: str,
    *,
    drafted: int | None = None,
    agreement: float | None = None,
    power_mode: str | None = None,
) -> DraftPrediction | None:
    """Speed and memory of a model with a draft; None if the GPU cannot run one of the two.

    Args:
        target: the device.
        model: the model, and how it is stored and used.
        draft: the same of the draft.
        engine: one of `draft_engines(target)`.
        drafted: tokens that the draft proposes in a round; None: the fastest number.
        agreement: share of proposed tokens that the model agrees with; None: assumed.
        power_mode: by name; None: the default of the target.

    Raises:
        UsageError: the draft has another vocabulary, or a value is out of range.
    """
    _check(model[0], draft[0], drafted, agreement)
    mode = target.mode(power_mode)
    fit = load_fit().engines[engine]
    large, small = (EngineSpeed(target, m, fit, work) for m, work in (model, draft))
    if not (large.measurable and small.measurable):
        return None
    used = ASSUMED_AGREEMENT if agreement is None else agreement
    count, chosen = _fastest(large, small, mode, drafted, used)
    alone = 1 / large.pass_seconds(mode)
    total = _bytes_together(target, model, draft, engine, power_mode)
    return DraftPrediction(
        engine=engine,
        power_mode=mode.name,
        drafted=count,
        agreement=used,
        assumed=agreement is None,
        tokens_a_round=chosen.tokens,
        decode_tok_s=model[1].batch * chosen.rate,
        alone_tok_s=model[1].batch * alone,
        speedup=chosen.rate / alone,
        break_even=break_even(chosen.seconds * alone, count),
        band=large.band(fit.decode_band, f"{target.name}:{mode.name}" in fit.fitted_on, True),
        total_bytes=total,
        fits=total <= usable_bytes(target),
    )


def _fastest(
    large: EngineSpeed, small: EngineSpeed, mode: PowerMode, drafted: int | None, agreement: float
) -> tuple[int, Round]:
    """The given number of proposed tokens, or the fastest one, and its round."""
    propose = small.pass_seconds(mode)

    def round_of(count: int) -> Round:
        check = large.pass_seconds(mode, count + 1)
        return Round(propose, check, count, expected_tokens(agreement, count))

    count = drafted or best_count(lambda k: round_of(k).rate, MOST_DRAFTED)
    return count, round_of(count)


def _check(
    model: Architecture, draft: Architecture, drafted: int | None, agreement: float | None
) -> None:
    if model.vocab_size != draft.vocab_size:
        raise UsageError(
            f"the draft has {draft.vocab_size:,} tokens and the model {model.vocab_size:,}: the "
            "model cannot check tokens that it does not have",
            "give a draft with the model's tokenizer, such as a student distilled from it",
        )
    if drafted is not None and drafted < 1:
        raise UsageError("--draft-tokens must be at least 1", "give a positive number")
    if agreement is not None and not 0 <= agreement <= 1:
        raise UsageError("--draft-agreement is a share, 0 to 1", "give 0.75 for 75 %")


def _bytes_together(
    target: Target,
    model: Used,
    draft: Used,
    engine: str,
    power_mode: str | None,
) -> int:
    """Bytes of both models and caches, and of one engine for them."""
    large, small = (
        predict(target, m, work, power_mode=power_mode, engine=engine) for m, work in (model, draft)
    )
    share = load_fit().runtime[target.platform.kind].share
    return large.total_bytes + int((1 + share) * (small.weight_bytes + small.kv_bytes))
