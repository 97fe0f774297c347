"""Scores a server with OpenAI's interface on the tasks whose answers are texts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from ...checkpoints.tokenizer import load_tokenizer
from ...errors import UsageError
from ..inputs import parse_inputs
from ..measure import Measurement, add_task
from ..measurement_files import answers_file, save_measurement, write_answers
from ..options import EvaluateOptions
from ..tasks.kinds import WRITTEN
from ..tasks.task import Task, TaskSettings, run_written
from .latency import bench_server
from .options import LoadOptions
from .server import Server, open_server
from .writer import ServerWriter

__all__ = ["bench_url"]

OPEN = "<think>"
CLOSE = "</think>"


def bench_url(
    url: str, options: EvaluateOptions, load: LoadOptions, save: Path | None
) -> dict[str, Any]:
    """Score a server on tasks, and save the result and the answers if a file is given.

    Args:
        url: of the server.
        options: tasks and their limits, and whether the latency is measured, too.
        load: how requests are sent.
        save: the file.

    Returns:
        The measurement: name, metrics, context, samples, notes.

    Raises:
        UsageError: the URL, a task, a key or a number is wrong.
        EdgewrightError: the server cannot be measured.
    """
    tasks = parse_inputs(options.tasks, Task.parse)
    for task in tasks:
        if task.kind not in WRITTEN:
            raise UsageError(
                f"{task.kind}:{task.name}: needs the likelihood of given answers, which servers do "
                "not tell",
                f"of a server, score tasks whose answers are texts: {', '.join(WRITTEN)}",
            )
    server = open_server(url, load, "chat")
    found = _scored(server, tasks, options)
    shown = {
        "name": str(server.address),
        "metrics": found.metrics,
        "context": found.context,
        "samples": found.samples,
        "notes": found.notes,
    }
    if options.latency:
        timed = bench_server(url, load, None)
        shown["metrics"] = found.metrics | timed["metrics"]
        shown["context"] = found.context | timed["context"]
        shown["notes"] = [*found.notes, *timed["notes"]]
    if save:
        save_measurement(save, shown)
        write_answers(answers_file(save), found.answers)
    return shown


def _hides_thoughts(tokenizer: Any) -> bool:
    """Whether a model thinks first, and the end of its thoughts is a special token."""
    special = {str(one.content) for one in tokenizer.added_tokens_decoder.values() if one.special}
    template = str(tokenizer.chat_template or "")
    return CLOSE in special and (OPEN in template or CLOSE in template)


def _scored(server: Server, tasks: list[Task], options: EvaluateOptions) -> Measurement:
    """The accuracy of a server's answers."""
    folder = server.options.tokenizer
    tokenizer = load_tokenizer(folder) if folder else None
    if server.api == "completions" and tokenizer is not None and _hides_thoughts(tokenizer):
        raise UsageError(
            f"--api completions: servers leave {CLOSE} out of texts, so where the thoughts of this "
            "model end could not be seen",
            "use chats, where they are apart: leave --api out",
        )

    async def find_model() -> None:
        await server.find_model()
        server.client.close()

    asyncio.run(find_model())
    found = Measurement(context={**server.context, "tasks_api": server.api})
    settings = TaskSettings.of(options, os.cpu_count() or 1)
    writer = ServerWriter(server, tokenizer)
    for task in tasks:
        add_task(found, run_written(task, writer, settings), options)
    return found
