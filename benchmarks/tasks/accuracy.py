"""Accuracy of a model: perplexity, divergence from a reference model, and exact-match answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...checkpoints.tensors import all_finite
from ...console import progress
from ...data.packing import IGNORE, Encoded, plain_prompt
from ...data.reasoning import Problem, is_correct
from ...errors import EdgewrightError
from .backends import Backend
from .generation import by_length
from .writers import TaskPrompt, Writer

__all__ = [
    "LOGITS_A_BATCH",
    "TOKENS_A_BATCH",
    "Answer",
    "TextScores",
    "continuations",
    "cut_off_note",
    "exact_match",
    "pad",
    "score_text",
]

TOKENS_A_BATCH = 4096
LOGITS_A_BATCH = 2**25
"""The most logits of a batch: 128 positions with a vocabulary of 262,144 tokens. Scoring needs
several copies of them."""


@dataclass(frozen=True)
class TextScores:
    """Scores of a text. KL and agreement are None without a reference model."""

    perplexity: float
    stderr: float
    tokens: int
    kl: float | None
    top1_agreement: float | None
    windows: list[tuple[float, int]]
    """For each row, in order: the sum of its losses in nats, and the number of scored tokens."""


@dataclass(frozen=True)
class Answer:
    """One problem, the model's answer, and whether the verifier accepted it.

    Attributes:
        task: the name of the task.
        question: the problem.
        expected: the right answer.
        text: what the model wrote.
        correct: whether it was accepted.
        cut_off: whether it reached the most tokens of an answer before its end.
    """

    task: str
    question: str
    expected: str
    text: str
    correct: bool
    cut_off: bool = False


def _positions_a_batch(backend: Backend, token: int) -> int:
    one = torch.tensor([[token]])
    return min(
        TOKENS_A_BATCH, LOGITS_A_BATCH // backend.logits(one, torch.ones_like(one)).shape[-1]
    )


def pad(rows: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the same length.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each int64 [rows, longest].
    """
    longest = max(len(r.ids) for r in rows)

    def fill(values: list[int], value: int) -> list[int]:
        return values + [value] * (longest - len(values))

    return {
        "input_ids": torch.tensor([fill(r.ids, pad_id) for r in rows]),
        "attention_mask": torch.tensor([fill([1] * len(r.ids), 0) for r in rows]),
        "labels": torch.tensor([fill(r.labels, IGNORE) for r in rows]),
    }


def _batches(
    backend: Backend, rows: Sequence[Encoded], label: str
) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor]]:
    """Run the model on batches of the rows.

    Yields:
        The positions of the batch's rows, the padded batch, and its logits, float32 [rows,
        longest, vocab].

    Raises:
        EdgewrightError: a logit is not finite.
    """
    with progress(label, len(rows)) as bar:
        for batch in by_length(
            [len(row.ids) for row in rows], _positions_a_batch(backend, rows[0].ids[0])
        ):
            padded = pad([rows[i] for i in batch], 0)
            logits = backend.logits(padded["input_ids"], padded["attention_mask"])
            extremes = torch.stack([logits.amin(-1), logits.amax(-1)])
            if not all_finite(extremes[:, padded["attention_mask"].bool()]):
                raise EdgewrightError(
                    f"{backend.name}: the model outputs NaN or infinite logits",
                    "check the weights that it was made from",
                )
            yield batch, padded, logits
            bar.advance(len(batch))


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label in nats, float64 [rows, length]; 0 where it is IGNORE.

    Logits are [rows, length, vocab]. One token at a time stays in the cache of the processor, which
    is twice as fast. `cross_entropy` is not used, because its sum of exponentials in float32 is
    wrong by up to 1e-3 nats a token over a vocabulary of 262,144 tokens. The error of `logsumexp`
    is 2e-6.
    """
    losses = torch.zeros(labels.shape, dtype=torch.float64)
    for row, column in (labels != IGNORE).nonzero().tolist():
        scores = logits[row, column]
        losses[row, column] = scores.logsumexp(-1) - scores[labels[row, column]]
    return losses


def continuations(backend: Backend, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
    """Score the labelled tokens of each row.

    Returns:
        For each row, their log-likelihood in nats, and whether greedy decoding would generate
        exactly them.
    """
    found = [(0.0, False)] * len(rows)
    for batch, padded, logits in _batches(backend, rows, "scoring continuations") if rows else ():
        labels = padded["labels"][:, 1:]
        scored = labels != IGNORE
        losses = _losses(logits[:, :-1], labels).sum(1).tolist()
        greedy = ((logits[:, :-1].argmax(-1) == labels) | ~scored).all(1).tolist()
        for i, loss, exact in zip(batch, losses, greedy, strict=True):
            found[i] = (-loss, exact)
    return found


def score_text(
    backend: Backend, rows: Sequence[Encoded], reference: Backend | None = None
) -> TextScores:
    """Measure perplexity over the labelled tokens of the rows.

    With a reference model, also measure the mean KL(reference || model) and how often both find
    the same token most probable (top-1 agreement). The standard error is that of the perplexity,
    by the delta method, with rows as the independent units.

    Raises:
        EdgewrightError: a logit is not finite.
    """
    windows = [(0.0, 0)] * len(rows)
    kl = 0.0
    agreed = 0.0
    for batch, padded, logits in _batches(backend, rows, "scoring text"):
        labels = padded["labels"][:, 1:]
        nll = _losses(logits[:, :-1], labels)
        scored = labels != IGNORE
        for i, nll_sum, count in zip(
            batch, nll.sum(1).tolist(), scored.sum(1).tolist(), strict=True
        ):
            windows[i] = (nll_sum, count)
        if reference:
            expected = reference.logits(padded["input_ids"], padded["attention_mask"])
            one_kl, one_agreed = _divergence(logits, expected, scored)
            kl += one_kl
            agreed += one_agreed
    tokens = sum(n for _, n in windows)
    mean = sum(s for s, _ in windows) / tokens
    variance = sum((s - n * mean) ** 2 for s, n in windows) / tokens**2
    perplexity = math.exp(min(mean, 700))
    divergence = (kl / tokens, agreed / tokens) if reference else (None, None)
    stderr = perplexity * math.sqrt(variance)
    return TextScores(perplexity, stderr, tokens, *divergence, windows)


def _divergence(logits: Tensor, expected: Tensor, scored: Tensor) -> tuple[float, float]:
    """The sum of KL(expected || logits) over the scored tokens, and the number of equal argmax.

    If one of the vocabularies is padded, the longer one is cut.

    Args:
        logits: float32 [rows, length, vocab].
        expected: the same of the reference model.
        scored: bool [rows, up to length].
    """
    width = min(logits.shape[-1], expected.shape[-1])
    kl = 0.0
    agreed = 0
    for row, column in scored.nonzero().tolist():
        sides = (side[row, column, :width] for side in (logits, expected))
        log_q, log_p = (scores - scores.logsumexp(-1) for scores in sides)
        kl += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        agreed += int(log_q.argmax() == log_p.argmax())
    return kl, agreed


Verifier = Callable[[Problem, str], bool]


def exact_match(
    writer: Writer,
    problems: Sequence[Problem],
    max_new_tokens: int,
    verify: Verifier = is_correct,
) -> list[Answer]:
    """Let the model solve all problems greedily, and verify its answers, in the order given."""
    asked = [
        TaskPrompt([{"role": "user", "content": p.question}], plain_prompt(p.question))
        for p in problems
    ]
    written = writer.write(asked, max_new_tokens)
    return [
        Answer(p.task, p.question, p.answer, one.text, verify(p, one.text), one.cut_off)
        for p, one in zip(problems, written, strict=True)
    ]


def cut_off_note(answers: Sequence[Answer], task: str, most: int) -> list[str]:
    """A note if answers were cut off, because those say little about the model; else none.

    Args:
        answers: to the task.
        task: its name.
        most: the most tokens of an answer.
    """
    count = sum(answer.cut_off for answer in answers)
    were = "was" if count == 1 else "were"
    note = (
        f"{count:,} of {len(answers):,} answers of {task} {were} cut off at {most:,} tokens; "
        "give a larger --max-new-tokens"
    )
    return [note] if count else []
