"""Accuracy: perplexity, divergence from a reference model, and exact match on generated reasoning problems."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..console import progress
from ..data.packing import IGNORE, Encoded, pad, render_prompt
from ..data.reasoning import Problem, is_correct
from ..errors import EdgewrightError
from .backends import Backend

__all__ = ["Answer", "Text", "exact_match", "score_text"]

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


def _batches(rows: Sequence[Encoded], tokens: int) -> Iterator[list[int]]:
    """The positions of the rows of each batch of at most so many tokens, or of one row."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):  # like lengths together: less padding
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def score_text(backend: Backend, rows: Sequence[Encoded], reference: Backend | None = None) -> Text:
    """Perplexity over the scored tokens of `rows`, and mean KL(reference || model) and top-1 agreement on the same tokens.

    The standard error is that of the perplexity, by the delta method, with rows as the independent units.

    Raises:
        EdgewrightError: the model gives logits that are not finite.
    """
    windows = [(0.0, 0)] * len(rows)
    kl = agreed = 0.0
    with progress("scoring text", len(rows)) as bar:
        one = torch.tensor([rows[0].ids[:1]])
        vocabulary = backend.logits(one, torch.ones_like(one)).shape[-1]
        for batch in _batches(rows, min(TOKENS_A_BATCH, LOGITS_A_BATCH // vocabulary)):
            padded = pad([rows[i] for i in batch], 0)
            logits = backend.logits(padded["input_ids"], padded["attention_mask"])
            if not bool(torch.isfinite(logits[padded["attention_mask"].bool()]).all()):
                raise EdgewrightError(f"{backend.name}: the model gives NaN or infinite logits", "check the weights it was made from")
            labels = padded["labels"][:, 1:]
            nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
            scored = labels != IGNORE
            for i, nll_sum, count in zip(batch, nll.sum(1).tolist(), scored.sum(1).tolist(), strict=True):
                windows[i] = (nll_sum, count)
            if reference:
                expected = reference.logits(padded["input_ids"], padded["attention_mask"])
                one_kl, one_agreed = _divergence(logits[:, :-1][scored], expected[:, :-1][scored])
                kl, agreed = kl + one_kl, agreed + one_agreed
            bar.advance(len(batch))
    tokens = sum(n for _, n in windows)
    mean = sum(s for s, _ in windows) / tokens
    variance = sum((s - n * mean) ** 2 for s, n in windows) / tokens**2
    perplexity = math.exp(min(mean, 700))
    divergence = (kl / tokens, agreed / tokens) if reference else (None, None)
    return Text(perplexity, perplexity * math.sqrt(variance), tokens, *divergence, windows)


def _divergence(logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """Sum of KL(expected || logits) and count of equal argmax over [tokens, vocab]; a padded vocabulary is cut."""
    width = min(logits.shape[-1], expected.shape[-1])
    log_q, log_p = F.log_softmax(logits[:, :width], -1), F.log_softmax(expected[:, :width], -1)
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return float(kl), float((log_q.argmax(-1) == log_p.argmax(-1)).sum())


def exact_match(backend: Backend, tokenizer: Any, problems: Sequence[Problem], max_new_tokens: int, batch: int = 64) -> list[Answer]:
    """Let the model solve every problem greedily and check its answers, in the order given."""
    prompts = [render_prompt(tokenizer, p.question) for p in problems]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    own: list[int] = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    eos = sorted({*backend.eos, *own}) or [-1]
    answers: dict[int, Answer] = {}
    with progress("solving problems", len(problems)) as bar:
        for begin in range(0, len(order), batch):
            chosen = order[begin : begin + batch]
            special = not tokenizer.chat_template
            inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=special)
            new = backend.generate(inputs["input_ids"], inputs["attention_mask"], max_new_tokens, eos)
            for i, text in zip(chosen, _decode(tokenizer, new, eos), strict=True):
                p = problems[i]
                answers[i] = Answer(p.task, p.question, p.answer, text, is_correct(p, text))
            bar.advance(len(chosen))
    return [answers[i] for i in range(len(problems))]


def _decode(tokenizer: Any, new: Tensor, eos: list[int]) -> list[str]:
    """Text of each row up to its first end token; special tokens stay, as </think> may be one."""
    texts = []
    for row in new.tolist():
        end = next((i for i, token in enumerate(row) if token in eos), len(row))
        texts.append(tokenizer.decode(row[:end], skip_special_tokens=False))
    return texts
