"""Generate token by token with anything that extends a cache: ONNX Runtime, or a TensorRT engine.

It needs numpy only, because bundles contain a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .sampling import GREEDY, Sampling, next_tokens

__all__ = ["Decoder", "stream"]


class Decoder(Protocol):
    """A language model with a cache.

    Attributes:
        vocabulary: number of logits of a position.
    """

    vocabulary: int

    def open_cache(self, batch: int, positions: int = 0) -> Any:
        """An empty cache for `batch` rows; its `length` is the number of positions in it.

        Args:
            batch: rows.
            positions: positions that it will hold.
        """
        ...

    def step(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], cache: Any
    ) -> NDArray[np.float32]:
        """Extend a cache by some tokens; float32 logits, the last position's at the end.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, cached + sequence].
            cache: a cache of `open_cache`, which is changed.
        """
        ...


def stream(
    decoder: Decoder,
    ids: Sequence[int],
    max_new_tokens: int,
    eos_ids: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[int]:
    """Generate token by token.

    Args:
        decoder: the model.
        ids: the prompt.
        max_new_tokens: the most tokens to add.
        eos_ids: tokens that end the text; such a token is the last one yielded.
        sampling: how tokens are chosen.

    Raises:
        UsageError: an empty prompt.
    """
    if not len(ids):
        raise UsageError("there is no prompt", "give at least one token")
    step = np.asarray([ids], np.int64)
    random = [sampling.random()]
    cache = decoder.open_cache(1, len(ids) + max_new_tokens)
    for _ in range(max_new_tokens):
        mask = np.ones((1, cache.length + step.shape[1]), np.int64)
        token = int(next_tokens(decoder.step(step, mask, cache)[:, -1], [sampling], random)[0])
        yield token
        if token in eos_ids:
            return
        step = np.array([[token]])
