"""Which metrics a measurement will have, as far as its options say."""

from __future__ import annotations

from ..data.sources import Source
from ..errors import nearest
from ..steps.options import AUTO, TRACES
from .lm_eval_metrics import LM_EVAL_METRICS
from .metric import Metric
from .metric_conditions import ANSWERS, DEVICE, ENGINE, LOAD, LOADING, MEMORY, TIMING
from .metrics import find
from .options import EvaluateOptions
from .tasks.kinds import HARNESS
from .tasks.task import Task

__all__ = ["why_unmeasured"]

TIMED = (TIMING, LOADING, MEMORY)
"""The kinds of metrics that `evaluate.latency` measures."""
ON_DEVICE = (ANSWERS, DEVICE, ENGINE)


def why_unmeasured(name: str, options: EvaluateOptions) -> str:
    """Why a measurement with these options has no such metric; empty if it may have it.

    Args:
        name: of a metric, such as `accuracy/gsm8k`.
        options: of the measurement.
    """
    metric = find(name)
    if metric is None:
        return ""
    parts = metric.parts(name) or {}
    if not {"task", "data"} & parts.keys():
        return _not_of_a_model(metric, options)
    tasks = [Task.parse(task) for task in options.tasks]
    harness = any(task.kind == HARNESS for task in tasks)  # a group has tasks of other names
    if metric in LM_EVAL_METRICS and not harness:
        return "`evaluate.tasks` has no task of lm-eval"
    if "task" in parts and not harness:
        return _absent(parts["task"], "tasks", [task.label for task in tasks])
    if "data" in parts and not {TRACES, AUTO} & {*options.perplexity}:
        known = [Source.parse(text).label for text in options.perplexity]
        return _absent(parts["data"], "perplexity", known)
    return ""


def _not_of_a_model(metric: Metric, options: EvaluateOptions) -> str:
    """Why a metric that is neither of a task nor of a text is not measured; empty if it is."""
    if metric.conditions in TIMED and options.latency is None:
        return "`evaluate.latency` is null, so that no time and no memory is measured"
    if metric.conditions in ON_DEVICE:
        return "only `deploy` measures it, on the device"
    return "only `bench` of a server measures it" if metric.conditions == LOAD else ""


def _absent(asked: str, option: str, known: list[str]) -> str:
    """Why nothing of this name is measured; empty if it is."""
    if asked in known:
        return ""
    near = nearest(asked, known)
    meant = f"; did you mean `{near}`?" if near else ""
    measured = ", ".join(known) or "nothing"
    return f"`evaluate.{option}` measures {measured} and not `{asked}`{meant}"
