"""Published rates of speculative decoding: how each method proposes tokens, and what a round takes.

Tables name the method, and most state how many tokens a round yields ("acceptance rate"). How many
passes and positions a round has is in the documentation of TensorRT-Edge-LLM, which measured them:
https://nvidia.github.io/TensorRT-Edge-LLM/0.10.0/user_guide/examples/speculative-decoding.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..models import Architecture
from ..models.footprint import traffic
from ..targets.roofline import Hardware, Kernels, TokenPass, pass_seconds
from ..targets.speculation import Round

__all__ = ["METHODS", "Method", "Speculation", "method_of", "round_of", "tokens_of"]

FLOAT_BITS = 16.0


@dataclass(frozen=True)
class Method:
    """How a method proposes tokens. Its draft is one layer of the target's width, and a head.

    Attributes:
        passes: of the draft in a round.
        width: positions of a sequence in a pass of the draft; a tree has several.
        checked: positions of a sequence that the target checks.
        vocabulary: tokens that the draft's head knows; None: the target's head is used.
        tokens: that a round yields if a table does not say, the median of published ones.
    """

    passes: int
    width: int
    checked: int
    vocabulary: int | None
    tokens: float


METHODS = {
    "eagle": Method(passes=6, width=10, checked=60, vocabulary=32000, tokens=3.87),
    "mtp": Method(passes=3, width=1, checked=4, vocabulary=None, tokens=2.55),
}


@dataclass(frozen=True)
class Speculation:
    """How a row was decoded: the name of its method, and the tokens that a round yields."""

    method: str
    tokens: float


def method_of(prose: str) -> str | None:
    """The method that a text names, or None."""
    return next((name for name in METHODS if re.search(rf"\b{name}", prose.lower())), None)


def tokens_of(method: str, notes: Mapping[str, str]) -> float:
    """Tokens that a round yields, as a row states them, or as usual for the method."""
    stated = re.match(r"\s*(\d+(?:[.]\d+)?)", notes.get("accept_rate", ""))
    tokens = float(stated[1]) if stated else 0.0
    return tokens if tokens >= 1 else METHODS[method].tokens


def round_of(
    used: Speculation, check: TokenPass, bits: float, hardware: Hardware, kernels: Kernels
) -> Round:
    """The round of a published row.

    Args:
        used: the method and its yield.
        check: a decode step of the target.
        bits: per weight of the draft's layer, and of a head of its own.
        hardware: the board in its power mode.
        kernels: coefficients of the engine.
    """
    method = METHODS[used.method]
    draft = _draft(check.model, method)
    head_bits = bits if method.vocabulary else FLOAT_BITS
    propose = TokenPass(
        draft,
        traffic(draft, bits, head_bits),
        check.context,
        check.batch,
        method.width,
        samples=False,
    )
    verify = TokenPass(check.model, check.read_bytes, check.context, check.batch, method.checked)
    return Round(
        pass_seconds(propose, hardware, kernels),
        pass_seconds(verify, hardware, kernels),
        method.passes,
        used.tokens,
    )


def _draft(model: Architecture, method: Method) -> Architecture:
    """One layer of the target, with the draft's own vocabulary."""
    vocabulary = method.vocabulary or model.vocab_size
    return model.with_config(num_hidden_layers=1, vocab_size=vocabulary, tie_word_embeddings=True)
