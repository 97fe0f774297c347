"""Options that several steps share, and the marker that spells a field on the command line.

Every option of edgewright is one pydantic field with a description and a default. The recipe reads
it as YAML, `commands/options.py` makes a Typer parameter of it, and `commands/api.py` a keyword
argument. This module and all `options.py` modules import no torch, so that `--help` is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, Field

from ..data.kinds import USAGE
from ..data.rows import BadRows
from .panels import EXPERT, Panels
from .places import Reads
from .strict import STRICT

__all__ = [
    "AUTO",
    "OWN",
    "PROMPTS",
    "REASONING",
    "TRACES",
    "Calibration",
    "Cli",
    "Device",
    "Execution",
    "Proof",
    "Shorthand",
    "Verification",
    "shared",
]

AUTO = "auto"
"""As a SOURCE: what fits the model; `resolved` in `CalibrationData` decides."""
TRACES = "traces"
"""As a SOURCE in a recipe: the traces that its `traces` makes."""
OWN = "builtin:own"
"""The model's own answers to the built-in prompts."""
REASONING = "builtin:reasoning"
"""The task of the built-in model."""
PROMPTS = "builtin:prompts"
"""The built-in prompts as plain text."""
MOST_GIB = 1e6
"""More memory than any machine has."""
Device = Literal["auto", "cpu", "cuda"]
Proof = Literal["auto", "stock", "streamed"]


class Shorthand(Protocol):
    """A model of flags that stands for one field of another model: `--lr` for all stages."""

    def expand(self, options: Mapping[str, Any]) -> Any:
        """The value of the field, made from these flags and the options beside it."""
        ...


@dataclass(frozen=True)
class Cli:
    """How a field is spelled on the command line, where its own name and type do not say it.

    Attributes:
        name: the flag; default: the field's name after the prefix. `--sym/--asym`: a pair.
        separator: one flag holds the whole list, `--bits 8,4`; default: a list repeats its flag.
        takes: type that the flag takes, where it is not the field's own type.
        convert: from what the flag takes to the field's value; of a list, item by item.
        required: the command line demands it, although a recipe has a default.
        hidden: not a flag.
        prefix: of the flags of a nested model; default: the field's name.
        switch: field of a nested model that the flag of its name sets; without it there is no
            nested model. `--lora 16` gives adapters of rank 16.
        toggle: a flag with no value switches the nested model on, as `--latency` does.
        off: value of the switch that stands for no nested model; also its default.
        skip: flags of a nested model that are left out, by name without dashes.
        strict: the flag is refused without the switch of its model; others only warn.
        flags: model of flags that stand for this field.
    """

    name: str = ""
    separator: str = ""
    takes: type | None = None
    convert: Callable[[Any], Any] | None = None
    required: bool = False
    hidden: bool = False
    prefix: str | None = None
    switch: str = ""
    toggle: bool = False
    off: Any = None
    skip: tuple[str, ...] = ()
    strict: bool = False
    flags: type[BaseModel] | None = None


def shared(model: type[BaseModel], name: str) -> Any:
    """The declaration of a field, for another model that has the same option."""
    return copy(model.model_fields[name])


class Calibration(BaseModel):
    """Text on which pruning and quantization measure activations."""

    model_config = STRICT
    panels: ClassVar = Panels("Calibration text", common=("source",), expert=("bad_rows",))

    source: Annotated[str, Cli("--calibration"), Reads()] = Field(
        default=AUTO,
        description=f"SOURCE to calibrate on: {USAGE}; auto: the model's own answers to built-in "
        "prompts (builtin:own), and for the built-in model its task (builtin:reasoning)",
    )
    samples: int = Field(default=128, gt=0, description="calibration rows")
    seq_len: int = Field(default=512, gt=1, description="tokens per calibration row")
    bad_rows: BadRows = Field(
        default="refuse",
        description="what to do with a row of data that has something else where text belongs: "
        "refuse the data, or skip the row and count it",
    )


class Execution(BaseModel):
    """Where and with which random numbers a verb runs."""

    model_config = STRICT
    panels: ClassVar = Panels("How it runs")

    seed: int = Field(default=0, description="seed of all random numbers")
    device: Device = Field(
        default="auto", description="where torch runs; auto: CUDA if there is a GPU, else the CPU"
    )
    memory_check: Annotated[bool, Cli("--memory-check/--no-memory-check")] = Field(
        default=True,
        description="refuse work that is predicted to need more memory than is free, before it "
        "begins",
    )


class Verification(BaseModel):
    """How much memory a step may use for activations, and how a pruned model is verified."""

    model_config = STRICT
    panels: ClassVar = Panels(EXPERT)

    proof: Proof = Field(
        default="auto",
        description="how a pruned model is verified: loaded whole (stock), layer by layer "
        "(streamed), or as memory allows (auto)",
    )
    activation_budget: float = Field(
        default=1.0,
        ge=0,
        le=MOST_GIB,
        description="GiB of hidden states kept in memory; the rest goes to disk",
    )

    @property
    def activation_bytes(self) -> int:
        """The activation budget in bytes."""
        return int(self.activation_budget * 2**30)
