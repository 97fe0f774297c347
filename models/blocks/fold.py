"""Where a scale on the inputs of linear layers can be folded into the operation before them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fold"]


@dataclass(frozen=True)
class Fold:
    """An operation (the writer) whose output channels can be scaled without changing the model.

    Dividing its output channels by factors, and multiplying the input channels of the weights that
    read it by the same factors, leaves the result as it is.

    The writer is a norm, or a linear layer whose outputs reach the readers through something that
    is linear in each channel by itself: attention for the values, the gate's product for `up`.

    Attributes:
        readers: every linear layer that reads the writer's output; they share one input.
        writer: name of the norm or linear layer. All names are relative to a decoder layer.
        norm: whether the writer is a norm.
        offset: what the norm adds to its stored weight before it scales.
        repeat: heads of the readers, one after the other, that each head of the writer serves.
        head_dim: channels of a head; they keep their order where a head is repeated.
        first: the first of the writer's outputs, where a linear layer has others as well.
    """

    readers: tuple[str, ...]
    writer: str
    norm: bool
    offset: float = 0.0
    repeat: int = 1
    head_dim: int = 1
    first: int = 0
