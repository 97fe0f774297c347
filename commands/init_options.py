"""Options of the verb `init`: the answers to its questions, and where the recipe goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from ..pipeline.goals import FILE, GOALS, MADE_BY, GoalName
from ..steps.options import Cli
from ..steps.panels import COMMON, Panels
from ..steps.places import Reads, Writes
from ..steps.strict import STRICT

__all__ = ["InitOptions"]


class InitOptions(BaseModel):
    """What a first recipe is for. On a terminal, what is not given is asked."""

    model_config = STRICT
    panels: ClassVar = Panels(COMMON)

    model: Annotated[str | None, Reads()] = Field(
        default=None, description="model directory, hub id, or builtin:tiny-reasoner"
    )
    target: Annotated[str | None, Reads()] = Field(
        default=None, description="device, by name or profile file; see `edgewright targets`"
    )
    goal: GoalName | None = Field(
        default=None,
        description="; ".join(f"{name}: {goal.summary}" for name, goal in GOALS.items()),
    )
    data: Annotated[str | None, Reads()] = Field(
        default=None,
        description="SOURCE with text of yours, to calibrate, train and measure on, such as "
        "text:FILE; needed where a model that is not the built-in one is trained",
    )
    out: Annotated[Path, Writes("file", (MADE_BY,))] = Field(
        default=Path(FILE), description="recipe to write"
    )
    overwrite: Annotated[bool, Cli("--overwrite")] = Field(
        default=False, description="replace a recipe that `init` wrote before"
    )
