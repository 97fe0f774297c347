"""Recipes: a model, data, steps, what to evaluate, a gate and a target.

A step has a name (by default its kind) and reads the step before it unless `from` names another.
Its options are those of the CLI verb of the same kind.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ..benchmarks.gate.policy import Policy, check_limits
from ..benchmarks.options import EvaluateOptions
from ..benchmarks.traces.options import TracesOptions
from ..checkpoints.config import BUILTIN_MODEL
from ..errors import UsageError
from ..steps.options import TRACES, Calibration, Device, Execution, Proof, Verification, shared
from ..steps.places import Reads
from ..steps.step import Step
from ..steps.strict import STRICT
from .registry import STEPS
from .run_files import why_taken

if TYPE_CHECKING:
    from ..steps.context import CalibrationData

__all__ = [
    "BASELINE",
    "Gate",
    "Recipe",
    "RecipeStep",
]

BASELINE = "baseline"


def _name_error(message: str, *at: str | int) -> PydanticCustomError:
    """An error of the whole recipe, with its place in the file."""
    return PydanticCustomError("recipe_names", "{message}", {"message": message, "at": at})


class RecipeStep(BaseModel):
    """What every step of a recipe has beside the options of its kind."""

    name: str = Field(
        default="",
        pattern=r"^[a-z0-9][a-z0-9._-]*$|^$",
        max_length=200,
        description="directory of the step; default: its kind",
    )
    source: str = Field(
        default="", alias="from", description="step or model it reads; default: the step before it"
    )
    kind: str


def _recipe_model(step: Step[Any]) -> type[BaseModel]:
    """The pydantic model of one kind of step in a recipe: its options, with name and source."""

    def check(self: RecipeStep) -> RecipeStep:
        step.check_in_recipe(self)
        return self

    bases: Any = (RecipeStep, step.Options)
    validators: dict[str, Any] = {"_check_in_recipe": model_validator(mode="after")(check)}
    fields: dict[str, Any] = {"kind": (Literal[step.kind], ...)}
    return create_model(
        f"{step.kind.title()}Step",
        __base__=bases,
        __doc__=f"`kind: {step.kind}`.",
        __validators__=validators,
        **fields,
    )


if TYPE_CHECKING:
    AnyStep = RecipeStep
else:
    AnyStep = Annotated[
        reduce(or_, map(_recipe_model, STEPS.values())), Field(discriminator="kind")
    ]


class Gate(Policy):
    """Which step is compared with which; all other settings are those of a policy file."""

    candidate: str = Field(description="step that must hold the limits")
    baseline: str = Field(default=BASELINE, description="step that it is compared with")

    @model_validator(mode="after")
    def _limits_are_useful(self) -> Gate:
        try:
            check_limits(self, "gate")
        except UsageError as error:
            raise ValueError(f"{error}; {error.hint}") from error
        return self


class Recipe(BaseModel):
    """A whole recipe."""

    model_config = STRICT

    name: str = Field(
        default="recipe",
        min_length=1,
        description="name of the recipe and of its run directory; a file that has none gives its "
        "own name",
    )
    model: Annotated[str, Reads()] = Field(
        default=BUILTIN_MODEL, description="model directory, hub id, or builtin:tiny-reasoner"
    )
    target: Annotated[str | None, Reads()] = Field(
        default=None, description="device, by name or profile file; see `edgewright targets`"
    )
    seed: int = shared(Execution, "seed")
    device: Device = shared(Execution, "device")
    memory_check: bool = shared(Execution, "memory_check")
    calibration: Calibration = Field(
        default=Calibration(), description="text that pruning and quantization measure on"
    )
    activation_budget: float = shared(Verification, "activation_budget")
    proof: Proof = shared(Verification, "proof")
    traces: TracesOptions | None = Field(
        default=None,
        description="chains of thought that the model writes before all steps; "
        "`traces` names them where a step takes data",
    )
    evaluate: EvaluateOptions = Field(
        default=EvaluateOptions(tasks=("reasoning",), perplexity=("builtin:reasoning",)),
        description="what is measured after every step",
    )
    steps: tuple[AnyStep, ...] = Field(description="the steps, in order")
    gate: Gate | None = Field(
        default=None, description="limits that one step must hold against another"
    )

    @model_validator(mode="after")
    def _check_names(self) -> Recipe:
        if not self.steps:  # min_length would also count steps that are wrong in themselves
            raise _name_error("needs at least 1 item", "steps")
        known = [BASELINE]
        for index, (step, name) in enumerate(zip(self.steps, self.step_names, strict=True)):
            if name in known:
                message = f"two steps are called `{name}`: give one of them another `name`"
                raise _name_error(message, "steps", index)
            if why := why_taken(name, self.step_names):
                message = f"a step cannot be called `{name}`: {why}; give it another `name`"
                raise _name_error(message, "steps", index)
            if step.source and step.source not in known:
                message = f"step `{name}` reads `{step.source}`, which is no step before it"
                raise _name_error(f"{message} ({', '.join(known)})", "steps", index)
            known.append(name)
        for end in ("candidate", "baseline") if self.gate else ():
            step_name = getattr(self.gate, end)
            if step_name not in known:
                message = f"the gate names `{step_name}`, which is no step ({', '.join(known)})"
                raise _name_error(message, "gate", end)
        return self

    @model_validator(mode="after")
    def _check_traces(self) -> Recipe:
        if self.traces is None and self.with_traces("") != self:
            raise ValueError(
                "`traces` is named as data, and nothing makes them: "
                "add `traces: {prompts: jsonl:FILE}` to the recipe"
            )
        return self

    def with_traces(self, source: str) -> Recipe:
        """The recipe with the data source `source` wherever it names `traces`."""
        steps = tuple(STEPS[step.kind].with_data(step, TRACES, source) for step in self.steps)
        calibration = self.calibration
        if calibration.source == TRACES:
            calibration = calibration.model_copy(update={"source": source})
        perplexity = tuple(source if name == TRACES else name for name in self.evaluate.perplexity)
        evaluate = self.evaluate.model_copy(update={"perplexity": perplexity})
        return self.model_copy(
            update={"steps": steps, "calibration": calibration, "evaluate": evaluate}
        )

    @property
    def calibration_data(self) -> CalibrationData:
        """The calibration data as steps take it."""
        from ..steps.context import CalibrationData  # late: torch takes seconds

        return CalibrationData(**self.calibration.model_dump())

    @property
    def activation_bytes(self) -> int:
        """The activation budget in bytes."""
        return int(self.activation_budget * 2**30)

    @property
    def step_names(self) -> list[str]:
        """The name of every step, in order."""
        return [step.name or step.kind for step in self.steps]

    def source_of(self, index: int) -> str:
        """The name of the step that step `index` reads."""
        return self.steps[index].source or (self.step_names[index - 1] if index else BASELINE)
