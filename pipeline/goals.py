"""What a first recipe can be for: the steps that a goal needs, and what its gate asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "FILE",
    "GOALS",
    "INT4_STEPS",
    "LATER_EXPORT",
    "MADE_BY",
    "MEASURED_EXPORT",
    "QUANTIZE",
    "QUANTIZED",
    "Goal",
    "GoalName",
]

GoalName = Literal["small", "accurate", "fast", "smallest"]
FILE = "recipe.yaml"
"""Where a recipe is written unless another name is given."""
MADE_BY = "# Made by `edgewright init`"
"""Begins such a recipe, by which it is known."""
QUANTIZED = "QUANTIZED"
"""Stands for the step that quantizes to 4 bits."""
INT4_STEPS = {
    "gptq": """\
# 4-bit weights in groups of 128, rounded so that later columns make up for earlier ones (GPTQ).
- kind: quantize
  method: gptq
  bits: 4
  group_size: 128

""",
    "mixed": """\
# 4-bit weights in groups of 64 with zero points, and keys and values in 8 bits, rounded so that
# later columns make up for earlier ones (GPTQ). This keeps more than one scheme for all layers.
- kind: quantize
  method: mixed

""",
}
"""That step, by its method; the format of the export decides which."""
EIGHT_BITS = """\
# 8-bit weights and activations; large activations move to the weights first (SmoothQuant).
- kind: quantize
  method: smoothquant

"""
QUANTIZE = "quantize"
"""Name of the step that quantizes."""
MEASURED_EXPORT = """\
# Format FORMAT: SUMMARY, compared with the model in torch.
- kind: export
  format: FORMAT
  precision: PRECISION

"""
LATER_EXPORT = """\
# This device runs format FORMAT best (SUMMARY). Its runtime is not here to measure
# it. The run ends with the command that makes it.

"""
RECOVERED = """\
# A quarter of the query heads and of the FFN neurons goes. What stays is refitted.
- kind: prune
  heads: 0.25
  ffn: 0.25

# The original model teaches the pruned one: first the layers' outputs, then the predictions.
- kind: distill
  teacher: baseline
  data: DATA
  seq_len: 256
  stages:
    - {loss: hidden, steps: 100, lr: 1.0e-3}
    - {loss: logits, steps: 400, lr: 1.0e-4}

"""
STUDENT = """\
# A quarter of the query heads goes. What stays is refitted.
- kind: prune
  heads: 0.25

# The original model teaches a student that is cut from the pruned one, with half of its FFN
# neurons.
- kind: distill
  teacher: baseline
  student: {from: prune, ffn: 0.5}
  data: DATA
  seq_len: 256
  stages:
    - {loss: hidden, steps: 400, lr: 1.0e-3}
    - {loss: logits, steps: 1000, lr: 1.0e-4}

"""


@dataclass(frozen=True)
class Goal:
    """What a recipe is for.

    Attributes:
        summary: for the question.
        steps: YAML of the steps before the export. `DATA` stands for the text to train on, and
            `QUANTIZED` for one of `INT4_STEPS`.
        precision: of the export.
        accuracy: least share of the accuracy that is kept.
        perplexity: largest ratio of the perplexity.
        size: largest share of the bytes.
    """

    summary: str
    steps: str
    precision: str
    accuracy: float
    perplexity: float
    size: float

    @property
    def trains(self) -> bool:
        """Whether a step trains, and so needs text."""
        return "DATA" in self.steps


GOALS: dict[GoalName, Goal] = {
    "small": Goal("4-bit weights, no training", QUANTIZED, "int4", 0.95, 1.15, 0.5),
    "accurate": Goal(
        "8-bit weights and activations, no training", EIGHT_BITS, "int8", 0.98, 1.05, 0.7
    ),
    "fast": Goal(
        "fewer heads and neurons, trained to recover, in 4 bits",
        RECOVERED + QUANTIZED,
        "int4",
        0.9,
        1.3,
        0.45,
    ),
    "smallest": Goal(
        "a student with half of the FFN, taught by the model, in 4 bits; takes longest",
        STUDENT + QUANTIZED,
        "int4",
        0.8,
        1.5,
        0.4,
    ),
}
"""By name."""
