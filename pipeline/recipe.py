"""Recipes: a model, data, steps, what to evaluate, a gate and a target, in typed YAML.

All errors of a file are reported at once, each with its line. Steps are named (by their kind, if nothing is said), read
the step before them unless `from` names another, and their options are those of the CLI verb of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..benchmarks.gate.policy import Policy
from ..benchmarks.options import EvaluateOptions
from ..benchmarks.traces.options import TracesOptions
from ..checkpoints.config import BUILTIN_MODEL, model_path
from ..compress.distill.options import DistillOptions
from ..compress.iterate.options import IterateOptions
from ..compress.prune.options import PruneOptions
from ..compress.quantize.options import QuantizeOptions
from ..errors import UsageError
from ..export.options import ExportOptions
from ..steps.options import Calibration, Device, Execution, Proof, Verification, shared

__all__ = [
    "BASELINE",
    "BUILTIN_MODEL",
    "TRACES",
    "Recipe",
    "Step",
    "builtin_recipe",
    "load_recipe",
    "model_path",
]

BASELINE = "baseline"
TRACES = "traces"
"""Stands, where data is named, for what the recipe's `traces` makes."""
ROOT = Path(__file__).parents[1]


def _misnamed(message: str, *at: str | int) -> PydanticCustomError:
    """An error about names, which a validator of the whole recipe finds, with the place in the file that it is about."""
    return PydanticCustomError("recipe_names", "{message}", {"message": message, "at": at})


class _Named(BaseModel):
    name: str = Field(
        default="",
        pattern=r"^[a-z0-9][a-z0-9._-]*$|^$",
        description="directory of the step; default: its kind",
    )
    source: str = Field(
        default="", alias="from", description="step or model it reads; default: the step before it"
    )


class PruneStep(_Named, PruneOptions):
    """`kind: prune`."""

    kind: Literal["prune"]


class DistillStep(_Named, DistillOptions):
    """`kind: distill`."""

    kind: Literal["distill"]


class IterateStep(_Named, IterateOptions):
    """`kind: iterate`."""

    kind: Literal["iterate"]


class QuantizeStep(_Named, QuantizeOptions):
    """`kind: quantize`."""

    kind: Literal["quantize"]


class ExportStep(_Named, ExportOptions):
    """`kind: export`."""

    kind: Literal["export"]

    @model_validator(mode="after")
    def _is_measured(self) -> ExportStep:
        if self.format not in ("onnx", "ort", "tensorrt"):
            raise ValueError(
                f"format: {self.format} cannot be measured here; use the verb, `edgewright export --format {self.format}`"
            )
        return self


Step = Annotated[
    PruneStep | DistillStep | IterateStep | QuantizeStep | ExportStep, Field(discriminator="kind")
]


def _on_traces(options: DistillOptions, source: str) -> dict[str, Any]:
    """The data of a distillation and of its stages, with `source` in place of `traces`."""
    stages = tuple(
        stage.model_copy(update={"data": source}) if stage.data == TRACES else stage
        for stage in options.stages
    )
    return {"data": source if options.data == TRACES else options.data, "stages": stages}


class Gate(Policy):
    """Which step must hold which limits against which, and how that is decided: the settings are those of a policy file."""

    candidate: str = Field(description="step that must hold the limits")
    baseline: str = Field(default=BASELINE, description="step that it is compared with")


class Recipe(BaseModel):
    """A whole recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="recipe", description="name of the recipe and of its run directory")
    model: str = Field(
        default=BUILTIN_MODEL, description="model directory, hub id, or builtin:tiny-reasoner"
    )
    target: str | None = Field(
        default=None, description="device, by name or profile file; see `edgewright targets`"
    )
    seed: int = shared(Execution, "seed")
    device: Device = shared(Execution, "device")
    calibration: Calibration = Field(
        default=Calibration(), description="text that pruning and quantization measure on"
    )
    activation_budget: float = shared(Verification, "activation_budget")
    proof: Proof = shared(Verification, "proof")
    traces: TracesOptions | None = Field(
        default=None,
        description="chains of thought that the model writes before all steps; as a data source, "
        "`traces` stands for them",
    )
    evaluate: EvaluateOptions = Field(
        default=EvaluateOptions(tasks=("reasoning",), perplexity=("builtin:reasoning",)),
        description="what is measured after every step",
    )
    steps: tuple[Step, ...] = Field(description="the steps, in order")
    gate: Gate | None = Field(
        default=None, description="limits that one step must hold against another"
    )

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        if (
            not self.steps
        ):  # min_length would also complain of a list whose every step is wrong in itself
            raise _misnamed("needs at least 1 item", "steps")
        known = [BASELINE]
        for index, (step, name) in enumerate(zip(self.steps, self.step_names, strict=True)):
            if name in known:
                raise _misnamed(
                    f"two steps are called `{name}`: give one of them another `name`",
                    "steps",
                    index,
                )
            if step.source and step.source not in known:
                raise _misnamed(
                    f"step `{name}` reads `{step.source}`, which is no step before it ({', '.join(known)})",
                    "steps",
                    index,
                )
            known.append(name)
        for end in ("candidate", "baseline") if self.gate else ():
            if getattr(self.gate, end) not in known:
                raise _misnamed(
                    f"the gate names `{getattr(self.gate, end)}`, which is no step ({', '.join(known)})",
                    "gate",
                    end,
                )
        return self

    @model_validator(mode="after")
    def _traces_are_made(self) -> Recipe:
        if self.traces is None and self.with_traces("") != self:
            raise ValueError(
                "`traces` is named as data, and nothing makes them: add `traces: {prompts: jsonl:FILE}` to the recipe"
            )
        return self

    def with_traces(self, source: str) -> Recipe:
        """The same with `source` in place of `traces`, wherever data is named."""
        steps: list[Step] = []
        for step in self.steps:
            if isinstance(step, DistillStep):
                steps.append(step.model_copy(update=_on_traces(step, source)))
            elif isinstance(step, IterateStep):
                recover = step.recover.model_copy(update=_on_traces(step.recover, source))
                steps.append(step.model_copy(update={"recover": recover}))
            else:
                steps.append(step)
        named = self.calibration.source
        calibration = self.calibration.model_copy(
            update={"source": source if named == TRACES else named}
        )
        scored = tuple(source if name == TRACES else name for name in self.evaluate.perplexity)
        evaluate = self.evaluate.model_copy(update={"perplexity": scored})
        return self.model_copy(
            update={"steps": tuple(steps), "calibration": calibration, "evaluate": evaluate}
        )

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


def builtin_recipe(name: str) -> Path:
    """The path of a recipe that ships with edgewright."""
    return ROOT / "recipes" / f"{name}.yaml"


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file.
        overrides: `KEY=VALUE` strings; KEY is a dotted path, in which a step goes by its name or number
            (`model=DIR`, `steps.prune.heads=0.5`, `evaluate.limit=50`); VALUE is YAML.

    Raises:
        UsageError: with every error in the file and its line.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such recipe", "give the path of a YAML file, or see `edgewright demo`"
        )
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not valid YAML: {error}", "mend the file at the line named"
        ) from error
    if not isinstance(data, dict):
        raise UsageError(
            f"{path}: a recipe is a mapping with `model` and `steps`", "see recipes/demo.yaml"
        )
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [f"  {_place(path, tree, _where(e))}: {_wording(e)}" for e in error.errors()]
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise UsageError(
            "\n".join([f"{path}: {count} in the recipe", *lines]),
            "mend them and run the command again",
        ) from error


def _where(error: Any) -> tuple[int | str, ...]:
    return tuple(error.get("ctx", {}).get("at") or error["loc"])


def _wording(error: Any) -> str:
    where = ".".join(str(part) for part in _where(error)) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"`{where}` is not an option here"
    return f"`{where}`: {error['msg'].removeprefix('Value error, ')}"


def _place(path: Path, tree: yaml.Node | None, loc: tuple[int | str, ...]) -> str:
    """`FILE:LINE` of the deepest node of `loc` that the file has."""
    node, line = tree, 1
    for part in loc:
        child = _child(node, part)
        if child is None:
            continue  # a tag that pydantic adds for a union, or a key that is missing
        node, line = child
    return f"{path}:{line}"


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set {override}: not KEY=VALUE",
            "write --set model=DIR or --set steps.prune.heads=0.5",
        )
    *path, last = (
        key.split(".")
        if not key.startswith("gate.limits.")
        else ["gate", "limits", *_limit_key(key)]
    )
    try:
        new, place = yaml.safe_load(value), _reach(data, path, override)
    except yaml.YAMLError as error:
        raise UsageError(
            f"--set {override}: the value is not valid YAML",
            "quote it, or write it as it stands in a recipe",
        ) from error
    if isinstance(place, list):
        place[_position(place, last, override)] = new
    else:
        place[last] = new


def _reach(data: Any, path: list[str], override: str) -> Any:
    """The mapping or list that the last part of an override's key is in."""
    for part in path:
        data = _descend(data, part, override)
    if not isinstance(data, dict | list):
        raise UsageError(
            f"--set {override}: `{path[-1]}` is a value and has no parts",
            "leave the last part of the key out",
        )
    return data


def _limit_key(key: str) -> list[str]:
    metric, _, bound = key.removeprefix("gate.limits.").rpartition(".")
    return [metric, bound]


def _descend(place: Any, part: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, override)]
    if isinstance(place.get(part), str) or place.get(part) is None:
        place[part] = {}
    return place[part]


def _position(steps: list[Any], part: str, override: str) -> int:
    names = [str(s.get("name") or s.get("kind")) for s in steps]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(steps):
        return int(part)
    raise UsageError(f"--set {override}: no step `{part}`", f"steps: {', '.join(names)}")
