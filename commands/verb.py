"""A verb: one function that the command line and the Python API both call.

The function's parameters are positional arguments (annotated with `typer.Argument`) and pydantic
models (perhaps annotated with `Expand`). Each model is expanded into its options, and the function
receives the validated model. What the function returns is printed, or returned to Python.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel, ConfigDict, Field

from ..console import console
from ..redaction import redacted
from ..steps.options import Cli
from ..steps.panels import TERMINAL, Panels
from .failures import explained_failures
from .interruption import interruption
from .options import REQUIRED, Expand, Parameter, composed_fields, parameters
from .places import places_of
from .validation import validated

__all__ = ["Outcome", "Verb", "command_line", "verb"]

INVOCATION = "invocation"
"""Name of the parameter through which Typer passes its context."""
_python_call: ContextVar[str] = ContextVar("python_call", default="")


@dataclass(frozen=True)
class Outcome:
    """What a verb found.

    Attributes:
        value: what `--json` prints and the Python API returns.
        view: the table that shows it on a terminal; empty: it is always printed as JSON.
        judge: called after it was printed; raises the error that decides the exit code.
        then: the command that usually comes next; shown on a terminal where nothing is wrong.
    """

    value: Any
    view: str = ""
    judge: Callable[[], None] | None = None
    then: str = ""


class Display(BaseModel):
    """Options of every verb of the command line."""

    model_config = ConfigDict(frozen=True)
    panels: ClassVar = Panels(TERMINAL)

    as_json: Annotated[bool, Cli("--json")] = Field(
        default=False, description="print one JSON document on standard output"
    )
    debug: Annotated[bool, Cli("--debug")] = Field(
        default=False, description="show the traceback of an error"
    )


@dataclass(frozen=True)
class Group:
    """A parameter of a verb's function that takes a model, and the options made from the model."""

    name: str
    model: type[BaseModel]
    parameters: tuple[Parameter, ...]

    @property
    def whole(self) -> tuple[str, ...]:
        """Fields that Python also takes as a whole, such as `stages`, by their recipe names."""
        names = {parameter.name for parameter in self.parameters}
        places = {parameter.path[0] for parameter in self.parameters}
        return tuple(
            name for name in composed_fields(self.model) if name in places and name not in names
        )


class Verb:
    """One verb.

    Args:
        function: what it does.
        name: as it is typed.
        resumable: whether the same command resumes after an interruption, which Ctrl-C prints; or
            a function that says so of what was given.
        prepare: changes what was given before it is validated.
        has_json: whether the verb prints a result.
    """

    def __init__(
        self,
        function: Callable[..., Outcome | None],
        name: str,
        *,
        resumable: bool | Callable[[Mapping[str, Any]], bool] = False,
        prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        has_json: bool = True,
    ) -> None:
        self.function = function
        self.name = name
        self.resumable = resumable
        self.prepare = prepare
        self.has_json = has_json
        self.__doc__ = _joined(function.__doc__ or "")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The positional arguments, by name, with their Typer annotations."""
        hints = get_type_hints(self.function, include_extras=True)
        return {
            name: hint
            for name, hint in hints.items()
            if name != "return" and _model_of(hint) is None
        }

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The models that the function takes, expanded."""
        found: list[Group] = []
        for name, hint in get_type_hints(self.function, include_extras=True).items():
            model = _model_of(hint)
            if model is not None and name != "return":
                expanded = tuple(parameters(model, _expand_of(hint)))
                found.append(Group(name, model, expanded))
        return tuple(found)

    @property
    def options(self) -> tuple[Parameter, ...]:
        """All options, without those of the terminal."""
        return tuple(parameter for group in self.groups for parameter in group.parameters)

    @property
    def command(self) -> Callable[..., None]:
        """The function that Typer registers."""
        display = tuple(parameters(Display, None if self.has_json else Expand(only=("debug",))))
        made = {
            INVOCATION: _typer_parameter(INVOCATION, typer.Context, REQUIRED),
            **{
                name: _typer_parameter(name, hint, REQUIRED)
                for name, hint in self.arguments.items()
            },
        }
        for parameter in (*self.options, *display):
            if parameter.name in made:
                raise ValueError(f"{self.name}: two options are called {parameter.name}")
            made[parameter.name] = _typer_parameter(
                parameter.name, parameter.typer_annotation, parameter.default
            )

        def command(invocation: typer.Context, **typed: Any) -> None:
            self._run_typed(invocation, typed)

        command.__doc__ = _unwrapped_examples(self.__doc__ or "")
        command.__name__ = self.name.replace("-", "_")
        command.__dict__["__signature__"] = inspect.Signature(list(made.values()))
        command.__annotations__ = {name: one.annotation for name, one in made.items()}
        return command

    def _run_typed(self, invocation: typer.Context, typed: Mapping[str, Any]) -> None:
        if invocation.invoked_subcommand is not None:
            return
        given = {
            name: value
            for name, value in typed.items()
            if name in self.arguments or _was_typed(invocation, name)
        }
        resumable = self.resumable(given) if callable(self.resumable) else self.resumable
        with interruption(resumable=resumable):
            outcome = self._call(given, in_python=False)
        if outcome is None:
            return
        from .tables import show  # late: `--help` needs no tables

        show(outcome.value, bool(typed.get("json")), outcome.view)
        if outcome.judge:
            outcome.judge()
        if outcome.then and not typed.get("json"):
            console.print(f"next: {outcome.then}", highlight=False, markup=False, soft_wrap=True)

    def call(self, *arguments: Any, **options: Any) -> Outcome:
        """Run the verb from Python.

        Args:
            arguments: the positional arguments.
            options: the options, by keyword.

        Returns:
            What the verb found; nobody has judged it.

        Raises:
            TypeError: an argument is missing or unknown.
            EdgewrightError: what the verb raises.
        """
        given = self.signature.bind(*arguments, **options).arguments
        text = ", ".join([*map(repr, arguments), *(f"{k}={v!r}" for k, v in options.items())])
        token = _python_call.set(f"edgewright.{self.name.replace('-', '_')}({text})")
        try:
            outcome = self._call(dict(given), in_python=True)
        finally:
            _python_call.reset(token)
        return outcome or Outcome(None)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the Python function: arguments, then the options as keywords."""
        arguments = {name: (_bare(hint), REQUIRED) for name, hint in self.arguments.items()}
        options = {p.name: (p.python_type, p.python_default) for p in self.options}
        whole = {
            name: (group.model.model_fields[name].annotation, None)
            for group in self.groups
            for name in group.whole
        }
        keywords = {**options, **whole}
        return inspect.Signature(
            [
                *(_python_parameter(n, *one, positional=True) for n, one in arguments.items()),
                *(_python_parameter(n, *one, positional=False) for n, one in keywords.items()),
            ]
        )

    def _call(self, given: dict[str, Any], *, in_python: bool) -> Outcome | None:
        if self.prepare:
            given = self.prepare(given)
        values: dict[str, Any] = {
            name: _bare(hint)(given[name]) if _bare(hint) in (Path, str) else given[name]
            for name, hint in self.arguments.items()
        }
        for group in self.groups:
            own = {*group.whole, *(parameter.name for parameter in group.parameters)}
            mine = {name: value for name, value in given.items() if name in own}
            values[group.name] = validated(group.model, group.parameters, mine, in_python=in_python)
        names = {p.path: p.name if in_python else p.flag for p in self.options}
        places = places_of(values, self.arguments, names)
        with explained_failures(), places.held(command_line()):
            return self.function(**values)


def verb(name: str, **settings: Any) -> Callable[[Callable[..., Outcome | None]], Verb]:
    """Make a verb of a function.

    Args:
        name: as it is typed.
        settings: see `Verb`.
    """
    return lambda function: Verb(function, name, **settings)


def command_line() -> str:
    """What was typed, or called in Python, for the records of a run; without secrets."""
    return redacted(_python_call.get() or shlex.join(["edgewright", *sys.argv[1:]]))


def _joined(text: str) -> str:
    """A docstring with every paragraph on one line, so that long examples stay whole."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    indents = [one[: len(one) - len(one.lstrip())] for one in paragraphs]
    return "\n\n".join(
        indent + " ".join(line.strip() for line in one.splitlines())
        for indent, one in zip(indents, paragraphs, strict=True)
    )


def _unwrapped_examples(text: str) -> str:
    """A docstring whose indented lines are printed as they are, so that they can be copied."""
    return "\n\n".join(f"\b\n{one}" if one.startswith(" ") else one for one in text.split("\n\n"))


def _model_of(hint: Any) -> type[BaseModel] | None:
    bare = _bare(hint)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _expand_of(hint: Any) -> Expand | None:
    return next((item for item in get_args(hint)[1:] if isinstance(item, Expand)), None)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _was_typed(invocation: typer.Context, name: str) -> bool:
    source = invocation.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _typer_parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=empty if default is REQUIRED else default,
        annotation=annotation,
    )


def _python_parameter(
    name: str, annotation: Any, default: Any, *, positional: bool
) -> inspect.Parameter:
    kinds = inspect.Parameter
    return inspect.Parameter(
        name,
        kinds.POSITIONAL_OR_KEYWORD if positional else kinds.KEYWORD_ONLY,
        default=kinds.empty if default is REQUIRED else default,
        annotation=annotation,
    )
