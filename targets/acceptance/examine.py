"""Ask a version on the device: the reference's prompts, the tasks, and how fast it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...benchmarks.bootstrap import share_error
from ...benchmarks.latency.latency import round_metrics
from ...benchmarks.latency.worker import Round, synthetic_prompt
from ...benchmarks.measure import Measurement, add_task
from ...benchmarks.measurement_files import problem_samples
from ...benchmarks.options import EvaluateOptions
from ...benchmarks.tasks.task import Task, TaskSettings, run_task
from ...console import Bar, progress
from ...generation.decoding import until_end
from ..runtimes.device_backend import DeviceBackend
from ..runtimes.interface import Ask, DeviceRuntime, Reply, Session
from .agreement import agreement, same_beginning
from .garbage import Kind, garbage_kind
from .reference import TOP, Reference, ReferenceAnswer

__all__ = ["Exam", "Examined", "examine", "timed_rounds"]

PROMPT_TOKENS = 64
NEW_TOKENS = 64
ROUNDS = 5


@dataclass(frozen=True)
class Exam:
    """What a version is asked on the device.

    Attributes:
        precision: of the artifact.
        tokenizer: for texts of answers and prompts of tasks.
        eos: tokens that end an answer of a task.
        reference: the checkpoint's answers; None: none are compared.
        tasks: tasks to score there.
        evaluate: their limits.
        path: directory of the artifact.
    """

    precision: str
    tokenizer: Any
    eos: Sequence[int]
    path: Path
    reference: Reference | None = None
    tasks: tuple[Task, ...] = ()
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)


@dataclass
class Examined:
    """What a version answered.

    Attributes:
        measured: metrics, samples, answers and their context.
        hits: for each answer, whether its tokens are the checkpoint's, by position.
        garbage: for each answer, in which way it is garbage.
        not_finite: positions with a logit that is no finite number.
        replies: the record of each answer: its text, times, memory and energy.
    """

    measured: Measurement = field(default_factory=Measurement)
    hits: list[tuple[bool, ...]] = field(default_factory=list[tuple[bool, ...]])
    garbage: list[Kind | None] = field(default_factory=list["Kind | None"])
    not_finite: int = 0
    replies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


async def examine(session: Session, runtime: DeviceRuntime, exam: Exam) -> Examined:
    """Ask everything of an exam.

    Args:
        session: the running runtime.
        runtime: its kind.
        exam: what is asked.
    """
    found = Examined()
    if exam.reference:
        with progress("answers on the device", len(exam.reference.answers)) as bar:
            await _compare(session, exam, exam.reference, found, bar)
    loop = asyncio.get_running_loop()
    backend = DeviceBackend(session, runtime, exam.precision, exam.eos, loop)
    for task in exam.tasks:
        settings = TaskSettings(
            exam.evaluate.limit,
            exam.evaluate.max_new_tokens,
            exam.evaluate.shots,
            exam.evaluate.allow_code,
        )
        outcome = await asyncio.to_thread(
            run_task, task, backend, exam.tokenizer, exam.path, settings
        )
        add_task(found.measured, outcome, exam.evaluate)
    return found


async def _compare(
    session: Session, exam: Exam, reference: Reference, found: Examined, bar: Bar
) -> None:
    """Ask the reference's prompts, and add the metrics of the comparison."""
    kl: list[float] = []
    same: list[bool] = []
    longest = int(reference.settings["answer_tokens"])
    for row in reference.answers:
        scored = await session.score(row.ids, row.tokens, TOP)
        if scored is not None:
            compared = agreement(row.scored, scored)
            found.hits.append(compared.hits)
            kl += compared.kl
            found.not_finite += scored.not_finite
        reply = await session.answer(Ask(row.ids, longest, reference.ends))
        equal = same_beginning(row.tokens, reply.tokens)
        same += [at < equal for at in range(len(row.tokens))]
        found.garbage.append(_garbage(exam.tokenizer, reference, row, reply))
        found.replies.append(_record(exam.tokenizer, row, reply, found.garbage[-1]))
        bar.advance(1)
    measured = found.measured
    hits = [hit for row in found.hits for hit in row]
    if hits:
        _add_share(measured, "answers/top1", hits)
        measured.metrics["answers/kl"] = sum(kl) / len(kl)
    _add_share(measured, "answers/prefix", same)
    _add_share(measured, "answers/garbage", [kind is not None for kind in found.garbage])
    measured.context["answers"] = {"reference": reference.identity, **reference.settings}


def _add_share(measured: Measurement, name: str, values: Sequence[bool]) -> None:
    share = sum(values) / len(values)
    measured.metrics |= {
        name: share,
        f"{name}/stderr": share_error(share, len(values)),
        f"{name}/n": len(values),
    }
    measured.samples[name] = problem_samples(values)


def _garbage(
    tokenizer: Any, reference: Reference, row: ReferenceAnswer, reply: Reply
) -> Kind | None:
    made, expected = (until_end(side.tokens, reference.ends) for side in (reply, row))
    texts = [tokenizer.decode(side, skip_special_tokens=True) for side in (made, expected)]
    return garbage_kind(texts[0], made, texts[1], expected, row.prompt)


def _record(
    tokenizer: Any, row: ReferenceAnswer, reply: Reply, kind: Kind | None
) -> dict[str, Any]:
    """What is kept of one answer."""
    return {
        "prompt": row.prompt,
        "expected": tokenizer.decode(row.tokens, skip_special_tokens=True),
        "answer": tokenizer.decode(reply.tokens, skip_special_tokens=True),
        "garbage": kind,
        "tokens": len(reply.tokens),
        "first_s": reply.first_s,
        "token_s": sum(reply.token_s) / max(len(reply.token_s), 1),
        "joules": reply.joules,
        "peak_rss_bytes": reply.peak_rss_bytes,
    }


async def timed_rounds(
    session: Session, vocabulary: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Time answers to a synthetic prompt, as `bench` does: metrics, and the shape of a round.

    Args:
        session: the running runtime.
        vocabulary: number of tokens that a prompt may have.
    """
    (ids,) = synthetic_prompt(1, PROMPT_TOKENS, vocabulary)
    ask = Ask(tuple(ids), NEW_TOKENS + 1)
    replies = [await session.answer(ask) for _ in range(ROUNDS + 1)][1:]  # the first one warms up
    rounds = [Round(one.first_s, list(one.token_s), one.joules) for one in replies]
    metrics = round_metrics(rounds, PROMPT_TOKENS, 1) | {"load_s": session.load_s}
    peaks = [one.peak_rss_bytes for one in replies if one.peak_rss_bytes is not None]
    if peaks:
        metrics["peak_rss_bytes"] = max(peaks)
    shape = {"prompt": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "runs": ROUNDS, "batch": 1}
    return metrics, shape
