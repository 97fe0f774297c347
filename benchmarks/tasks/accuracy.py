"""Accuracy: perplexity, divergence from a reference model, and exact match on generated reasoning problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...console import progress
from ...data.packing import IGNORE, Encoded, pad, render_prompt
from ...data.reasoning import Problem, is_correct
from ...errors import EdgewrightError
from .backends import Backend
from .generation import by_length, end_tokens_of, generate_texts

__all__ = ["Answer", "Text", "continuations", "exact_match", "score_text"]

TOKENS_A_BATCH = 4096
LOGITS_A_BATCH = 2**25
"""Logits of a batch: with 262,144 tokens in the vocabulary, 128 positions; the scores need several copies of them."""


@dataclass(frozen=True)
class Text:
    """Scores of a text; KL and agreement are None without a reference."""

    perplexity: float
    stderr: float
    tokens: int
    kl: float | None
    top1_agreement: float | None
    windows: list[tuple[float, int]]
    """Of each row, in the order given: the sum of its losses in nats, and how many tokens were scored."""


@dataclass(frozen=True)
class Answer:
    """One problem, what the model wrote, and whether the verifier accepted it."""

    task: str
    question: str
    expected: str
    text: str
    correct: bool


def _positions_a_batch(backend: Backend, token: int) -> int:
    one = torch.tensor([[token]])
    return min(
        TOKENS_A_BATCH, LOGITS_A_BATCH // backend.logits(one, torch.ones_like(one)).shape[-1]
    )


def _batches(
    backend: Backend, rows: Sequence[Encoded], label: str
) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor]]:
    """The positions of the rows of each batch, the padded batch, and its logits float32 [rows, longest, vocab].

    Raises:
        EdgewrightError: the model gives logits that are not finite.
    """
    with progress(label, len(rows)) as bar:
        for batch in by_length(
            [len(row.ids) for row in rows], _positions_a_batch(backend, rows[0].ids[0])
        ):
            padded = pad([rows[i] for i in batch], 0)
            logits = backend.logits(padded["input_ids"], padded["attention_mask"])
            if not bool(torch.isfinite(logits[padded["attention_mask"].bool()]).all()):
                raise EdgewrightError(
                    f"{backend.name}: the model gives NaN or infinite logits",
                    "check the weights it was made from",
                )
            yield batch, padded, logits
            bar.advance(len(batch))


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label in nats, float64 [rows, length], 0 where it is IGNORE; logits are [rows, length, vocab].

    Not `cross_entropy`: its sum of exponentials in float32 is wrong by up to 1e-3 nats a token over 262,144 tokens of vocabulary,
    where `logsumexp` is to 2e-6.
    """
    picked = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels == IGNORE, 0.0, (logits.logsumexp(-1) - picked).double())


def continuations(backend: Backend, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
    """Of each row: the log-likelihood, in nats, of its labelled tokens, and whether greedy decoding would write exactly them."""
    found = [(0.0, False)] * len(rows)
    for batch, padded, logits in _batches(backend, rows, "scoring continuations") if rows else ():
        labels = padded["labels"][:, 1:]
        scored = labels != IGNORE
        losses = _losses(logits[:, :-1], labels).sum(1).tolist()
        greedy = ((logits[:, :-1].argmax(-1) == labels) | ~scored).all(1).tolist()
        for i, loss, exact in zip(batch, losses, greedy, strict=True):
            found[i] = (-loss, exact)
    return found


def score_text(backend: Backend, rows: Sequence[Encoded], reference: Backend | None = None) -> Text:
    """Perplexity over the scored tokens of `rows`, and mean KL(reference || model) and top-1 agreement on the same tokens.

    The standard error is that of the perplexity, by the delta method, with rows as the independent units.

    Raises:
        EdgewrightError: the model gives logits that are not finite.
    """
    windows = [(0.0, 0)] * len(rows)
    kl = agreed = 0.0
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
            one_kl, one_agreed = _divergence(logits[:, :-1][scored], expected[:, :-1][scored])
            kl, agreed = kl + one_kl, agreed + one_agreed
    tokens = sum(n for _, n in windows)
    mean = sum(s for s, _ in windows) / tokens
    variance = sum((s - n * mean) ** 2 for s, n in windows) / tokens**2
    perplexity = math.exp(min(mean, 700))
    divergence = (kl / tokens, agreed / tokens) if reference else (None, None)
    return Text(perplexity, perplexity * math.sqrt(variance), tokens, *divergence, windows)


def _divergence(logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """Sum of KL(expected || logits) and count of equal argmax over [tokens, vocab]; a padded vocabulary is cut."""
    width = min(logits.shape[-1], expected.shape[-1])
    log_q, log_p = (
        side[:, :width] - side[:, :width].logsumexp(-1, keepdim=True) for side in (logits, expected)
    )
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return float(kl), float((log_q.argmax(-1) == log_p.argmax(-1)).sum())


Verifier = Callable[[Problem, str], bool]


def exact_match(
    backend: Backend,
    tokenizer: Any,
    problems: Sequence[Problem],
    max_new_tokens: int,
    verify: Verifier = is_correct,
) -> list[Answer]:
    """Let the model solve every problem greedily and check its answers, in the order given."""
    special = not tokenizer.chat_template
    prompts = [
        tokenizer(render_prompt(tokenizer, p.question), add_special_tokens=special)["input_ids"]
        for p in problems
    ]
    written = generate_texts(backend, prompts, max_new_tokens, end_tokens_of(backend, tokenizer))
    texts = [
        tokenizer.decode(tokens, skip_special_tokens=False) for tokens in written
    ]  # as </think> may be a special token
    return [
        Answer(p.task, p.question, p.answer, text, verify(p, text))
        for p, text in zip(problems, texts, strict=True)
    ]
