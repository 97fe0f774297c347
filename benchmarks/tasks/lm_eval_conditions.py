"""What makes two results of an lm-eval task comparable: its version, examples, and questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..measurement_files import problems_hash

__all__ = ["first_prompt", "one_per_problem", "task_conditions"]


def task_conditions(found: Mapping[str, Any]) -> dict[str, Any]:
    """Context entries for every task and group in the output of `lm_eval.simple_evaluate`.

    Returns:
        `task_version/<task>`, `shots_used/<task>` (worked examples in each prompt, as they were
        used), `problems/<task>` and `problems_hash/<task>` (over prompts and targets). A group
        counts the problems of all of its tasks.
    """
    context: dict[str, Any] = {}
    for task in found["results"]:
        leaves = list(_leaves(task, found.get("group_subtasks") or {}))
        problems = [
            (first_prompt(sample), str(sample["target"]))
            for leaf in leaves
            for sample in one_per_problem(found["samples"].get(leaf) or [])
        ]
        shots = found["n-shot"]
        context |= {
            f"task_version/{task}": found["versions"].get(task),
            f"shots_used/{task}": shots.get(task, [shots.get(leaf) for leaf in leaves]),
            f"problems/{task}": len(problems),
            f"problems_hash/{task}": problems_hash(problems),
        }
    return context


def _leaves(task: str, subtasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The tasks of a group, at any depth; a task that is no group is its own leaf."""
    children = subtasks.get(task)
    if not children:
        yield task
    for child in children or ():
        yield from _leaves(child, subtasks)


def one_per_problem(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One sample per problem, in the order of the data: those of the first filter."""
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return sorted(first, key=lambda sample: sample["doc_id"])


def first_prompt(sample: Mapping[str, Any]) -> str:
    """The text that the model was given; for multiple choice, in front of the first choice."""
    arguments = sample["arguments"]
    first = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return str(next(iter(first.values())) if isinstance(first, Mapping) else first[0])
