"""Which options of `bench` are for models, and which for servers; the others are refused."""

from __future__ import annotations

from pydantic import BaseModel

from ..benchmarks.endpoint.options import LoadOptions
from ..benchmarks.options import EvaluateOptions, LatencyOptions
from ..errors import UsageError
from ..steps.options import Execution
from .verb_options import BenchInputs

__all__ = ["check_server_options", "refuse_load"]

OF_TASKS = ("limit", "max_new_tokens", "shots", "allow_code")
"""Options of tasks that hold for the tasks of a server, too."""


def _given(options: BaseModel, *besides: str) -> list[str]:
    """Flags of the fields that have another value than their default."""
    fields = type(options).model_fields
    return [
        f"--{name.replace('_', '-')}"
        for name, field in fields.items()
        if name not in besides and getattr(options, name) != field.get_default()
    ]


def check_server_options(
    options: EvaluateOptions, inputs: BenchInputs, execution: Execution
) -> None:
    """Check the options of a measurement of a server.

    Raises:
        UsageError: nothing was asked for, or something that only a model has.
    """
    wrong = [
        *_given(options, "latency", "tasks", *(OF_TASKS if options.tasks else ())),
        *_given(options.latency or LatencyOptions()),
        *_given(inputs, "save"),
        *_given(execution),
    ]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: not for the URL of a server, of which --tasks and --latency are "
            "measured",
            "leave them out, or give the directory of a model",
        )
    if options.latency is None and not options.tasks:
        raise UsageError("nothing to measure", "add --latency, or --tasks")


def refuse_load(load: LoadOptions) -> None:
    """Check that a model is not measured with the options of a server.

    Raises:
        UsageError: it would be.
    """
    wrong = _given(load)
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: only for the URL of a server", "leave them out, or give its URL"
        )
