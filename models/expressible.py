"""Whether a format can hold a model, and whether an operation can be done to it.

Plans, target checks and the exporters all ask `expressible`, so that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Refused
from .architecture import Architecture
from .export_format import Reason
from .formats import FORMATS

__all__ = ["HEADS", "MERGED_HEADS", "OPERATIONS", "expressible", "require_expressible"]

DENSE_ONLY = {
    "2:4": "made 2:4 sparse",
    "qat": "trained quantization-aware",
    "qlora": "trained with adapters while its weights are packed",
}
"""Operations that work for dense models only, and the participle for the message."""
FACTORS = "its factors would go into a norm that the router reads too"
NO_EXPERTS = {
    "awq": f"method awq: {FACTORS}",
    "scaling": f"scaling: {FACTORS}",
    "int8": "method int8: experts do not round their inputs",
    "smoothquant": "method smoothquant: experts do not round their inputs",
}
"""Why a quantization method, or `scaling` before it, does not work for experts."""
HEADS = "heads"
"""The operation that removes heads."""
MERGED_HEADS = "merged heads"
"""The operation that merges key/value heads."""
OPERATIONS = (*NO_EXPERTS, *DENSE_ONLY)
"""What `expressible` has words for besides the export formats."""


def expressible(architecture: Architecture, format: str) -> list[Reason]:
    """The reasons why a format cannot hold a model; an empty list if it can.

    Args:
        architecture: the model.
        format: an export format, or an operation on the weights: one of `OPERATIONS`, `HEADS`,
            `MERGED_HEADS`, or a quantization method. A method without words in `NO_EXPERTS` does
            not work for experts.
    """
    if format in (HEADS, MERGED_HEADS):
        return [*_heads(architecture, removed=format == HEADS)]
    reasons = [*_experts(architecture, format)]
    if format in FORMATS:
        reasons += FORMATS[format].reasons(architecture)
    return reasons


def require_expressible(architecture: Architecture, format: str, where: str) -> None:
    """Stop where a format cannot hold a model.

    Args:
        architecture: the model.
        format: see `expressible`.
        where: the model, for the message.

    Raises:
        Refused: with every reason.
    """
    if reasons := expressible(architecture, format):
        message = "; ".join(reason.message for reason in reasons)
        remedies = dict.fromkeys(reason.remedy for reason in reasons)
        raise Refused(f"{where}: {message}", "; ".join(remedies))


def _heads(architecture: Architecture, *, removed: bool) -> Iterator[Reason]:
    remedy = "remove FFN neurons (--ffn) or layers (--layers)"
    if any(layer.attention.whole for layer in architecture.layers):
        yield Reason(
            "one norm goes over all heads of the queries, so that no head can be "
            f"{'removed' if removed else 'merged'} without changing the others",
            remedy,
        )
    if removed and architecture.fixed_heads:
        yield Reason(
            f"stock transformers loads a `{architecture.model_type}` with one number of heads only",
            remedy,
        )


def _experts(architecture: Architecture, format: str) -> Iterator[Reason]:
    if not architecture.expert_layers:
        return
    mixture = f"a mixture of experts (`{architecture.model_type}`)"
    done = "exported" if format in FORMATS else DENSE_ONLY.get(format)
    if done is None:
        why = NO_EXPERTS.get(format, f"method {format}: not made for experts")
        yield Reason(f"{mixture} and {why}", "use --method gptq or rtn, without --scaling")
    else:
        yield Reason(
            f"{mixture} cannot be {done} yet",
            "use a dense model; a mixture can go through `plan`, `prune --experts`, `distill`, "
            "`quantize` and `bench`",
        )
