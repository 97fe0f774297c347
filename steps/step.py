"""The contract of a step.

A step reads a checkpoint and writes a new directory. Each step is an object that answers every
question the pipeline, the plan and the recipe have about it, so none of them knows the kinds.
To add a step, write a package with one subclass of `Step` and add it to `pipeline/registry.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel

from .options import Proof
from .state import State

if TYPE_CHECKING:  # torch takes seconds to import, and a recipe needs only the options
    from .context import CalibrationData, StepContext, StepResult

__all__ = ["FOUNDATION", "Cost", "Inputs", "PlanContext", "Smaller", "Step"]

FOUNDATION = ("checkpoints", "data", "documents.py", "generation", "models", "steps")
"""Packages whose code every step runs."""

OptionsT = TypeVar("OptionsT", bound=BaseModel)


@dataclass(frozen=True)
class Inputs:
    """Names that a step's options give, beside the model it reads and the calibration data."""

    models: frozenset[str] = frozenset()
    """Steps, directories and hub ids."""
    data: frozenset[str] = frozenset()
    """Data sources."""


@dataclass(frozen=True)
class Cost:
    """What a step needs on this machine."""

    ram_bytes: float
    """Memory at the highest point, beyond a process that has loaded torch and transformers. Too
    low, and the system kills the step; too high, and a step that fits is refused."""
    operations: float
    """Floating-point operations."""
    workspace_bytes: float = 0
    """Disk space for work in progress, beside the output."""


@dataclass(frozen=True)
class PlanContext:
    """What a step may ask while it is planned."""

    name: str
    """Name of the step, for messages."""
    calibration: CalibrationData
    activation_budget: int
    """Bytes of hidden states that a step keeps in memory."""
    state_of: Callable[[str], State]
    """From the name of an earlier step, or of a model, to its state."""
    fit: Callable[[Any, State], Any]
    """Prune options with their budget turned into shares that meet it on the target.

    The state is that of the model to prune.
    """
    proof: Proof = "auto"
    """How a pruned model is verified; see `StepContext`."""
    aliases: Mapping[str, State] = field(default_factory=dict[str, State])
    """Names that a step defines for its own parts."""

    @property
    def tokens(self) -> int:
        """Calibration tokens, all rows together."""
        return self.calibration.samples * self.calibration.seq_len

    def state(self, name: str) -> State:
        """The state of a named model.

        Raises:
            UsageError: there is no such model.
        """
        return self.aliases[name] if name in self.aliases else self.state_of(name)

    def with_alias(self, name: str, state: State) -> PlanContext:
        """The same context in which `name` stands for `state`."""
        return replace(self, aliases={**self.aliases, name: state})


@dataclass(frozen=True)
class Smaller:
    """A change of a step's settings that may save memory.

    Attributes:
        advice: what to type: `--batch-size 1`.
        options: fields of the options that change, with their new values.
        inside: field of the step's options that holds the options that change; empty: themselves.
        activation_budget: the new budget; None: unchanged.
        seq_len: tokens of a calibration row; None: unchanged.
    """

    advice: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inside: str = ""
    activation_budget: int | None = None
    seq_len: int | None = None

    def applied(
        self, options: Any, source: State, plan: PlanContext
    ) -> tuple[Any, State, PlanContext]:
        """Options, source and plan after the change."""
        if self.activation_budget is not None:
            plan = replace(plan, activation_budget=self.activation_budget)
        if self.seq_len is not None:
            plan = replace(plan, calibration=replace(plan.calibration, seq_len=self.seq_len))
        changes = dict(self.options)
        if self.inside:
            changes = {self.inside: getattr(options, self.inside).model_copy(update=changes)}
        return options.model_copy(update=changes), source, plan


class Step(ABC, Generic[OptionsT]):
    """One kind of step. `options` is always an instance of the step's `Options`."""

    kind: ClassVar[str]
    """Name of the step in recipes and on the command line."""
    Options: ClassVar[type[BaseModel]]
    """Pydantic model of the options."""
    done: ClassVar[str]
    """What the step did to a model, in a few words for its model card: `quantized`."""
    hub_relation: ClassVar[Literal["finetune", "quantized"]] = "finetune"
    """The hub's word for the result's relation to the model before; it has none for pruning."""
    multi_process: ClassVar[bool] = False
    """Whether torchrun or accelerate may run the step in several processes."""

    @abstractmethod
    def code(self, options: OptionsT) -> tuple[str, ...]:
        """Packages (`compress/prune`) and modules (`compress/x.py`) with all code the step runs.

        Their hash is part of the fingerprint: a result of older code is never reused. A test
        compares this list with the imports of the step's module.
        """

    def inputs(self, options: OptionsT) -> Inputs:
        """Models and data that the options name."""
        del options
        return Inputs()

    def calibrates(self, options: OptionsT) -> bool:
        """Whether the result depends on the calibration text; if not, figures in notes may."""
        del options
        return False

    def check_in_recipe(self, options: OptionsT) -> None:
        """Refuse options that a recipe does not allow, although the verb does.

        Raises:
            ValueError: saying which option, and what to use.
        """

    def with_data(self, options: OptionsT, named: str, source: str) -> OptionsT:
        """The options with the data source `source` wherever they name `named`."""
        del named, source
        return options

    def settled(self, options: OptionsT, source: State, plan: PlanContext) -> OptionsT:
        """The options with every budget turned into shares, which depend on the model.

        Raises:
            Refused: the budget cannot be met.
        """
        del source, plan
        return options

    @abstractmethod
    def after(self, options: OptionsT, source: State, plan: PlanContext) -> State:
        """The state that the step will leave, from config.json alone.

        Args:
            options: settled options.
            source: state of the model that the step reads.
            plan: states of other models, calibration and limits.

        Raises:
            UsageError: options that do not fit the model.
            Refused: the step cannot be done to this model.
        """

    @abstractmethod
    def cost(self, options: OptionsT, source: State, result: State, plan: PlanContext) -> Cost:
        """Memory, disk space and operations that the step takes on this machine.

        Args:
            options: settled options.
            source: state of the model that the step reads.
            result: what `after` returned for it.
            plan: as for `after`.
        """

    def smaller(self, options: OptionsT, plan: PlanContext) -> tuple[Smaller, ...]:
        """Changes of the settings that may save memory, those that change least first."""
        del options, plan
        return ()

    @abstractmethod
    def run(self, options: OptionsT, source: Path, out: Path, context: StepContext) -> StepResult:
        """Read the model in `source` and write the result to the new directory `out`.

        Raises:
            EdgewrightError: the step failed; it leaves nothing in `out`.
        """
