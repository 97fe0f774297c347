"""Let a teacher model answer every question several times; each answer is a chain of thought.

Finished batches are appended to a file. All batches are planned before the first one starts, and
every chain has its own random numbers. So an interrupted run continues with the missing batches,
and its file is the same as that of an uninterrupted run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.sealed_lines import append_lines, read_lines
from ...checkpoints.tokenizer import load_tokenizer
from ...console import Bar, console, progress
from ...data.draws import uniforms
from ...data.packing import render_prompt
from ...errors import UsageError
from ...generation.decoding import Decoding, until_end
from ..tasks.backends import TorchBackend
from ..tasks.generation import by_length, end_tokens_of
from .options import TracesOptions
from .sampling import Sampler
from .teacher_questions import Question
from .votes import Chain

__all__ = ["ask_teacher"]

ROWS_A_BATCH = 64
TOKENS_A_BATCH = 2**15
"""The most tokens of a batch, prompts and answers together. Batches are planned and kept whole, so
that an interrupted run writes what an uninterrupted one does."""


@dataclass(frozen=True)
class _Teacher:
    """A loaded teacher: the model, its tokenizer, and the tokens that end its answers."""

    backend: TorchBackend
    tokenizer: Any
    ends: list[int]


def ask_teacher(
    options: TracesOptions,
    questions: Sequence[Question],
    model: Path,
    seed: int,
    device: str,
    file: Path,
) -> dict[int, list[Chain]]:
    """Let a teacher answer all questions, except those that the file already has.

    Args:
        options: number of chains, and how they are sampled.
        questions: the questions.
        model: the teacher's directory.
        seed: seed of the sampling.
        device: device for torch.
        file: the file for finished questions; new ones are appended to it.

    Returns:
        Row of a question -> its chains.

    Raises:
        UsageError: no token ends the teacher's answers.
    """
    done = {row["row"]: [Chain(**chain) for chain in row["chains"]] for row in read_lines(file)}
    tokenizer = load_tokenizer(model)
    prompts = _prompts(questions, tokenizer)
    if done:
        console.print(
            f"  resumed: {len(done)} of {len(questions)} questions were answered by an "
            "interrupted run",
            highlight=False,
        )
    batches = _batches(options, prompts)
    left = [batch for batch in batches if any(questions[i].row not in done for i in batch)]
    if not left:
        return done
    teacher = _load(model, device, tokenizer)
    total = sum(map(len, left)) * options.chains
    with progress("writing chains", total) as bar:
        for batch in left:
            asked = [questions[i] for i in batch]
            chains = _sample(options, asked, [prompts[i] for i in batch], seed, teacher, bar)
            pairs = zip(asked, chains, strict=True)
            new = {one.row: found for one, found in pairs if one.row not in done}
            append_lines(file, [_record(row, found) for row, found in new.items()])
            done |= new
    return done


def _prompts(questions: Sequence[Question], tokenizer: Any) -> list[list[int]]:
    """The token ids of each question's prompt."""
    special = not tokenizer.chat_template
    return [
        tokenizer(render_prompt(tokenizer, q.text), add_special_tokens=special)["input_ids"]
        for q in questions
    ]


def _batches(options: TracesOptions, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Plan the batches: positions of questions, whose chains are sampled together."""
    costs = [(len(prompt) + options.max_new_tokens) * options.chains for prompt in prompts]
    return list(by_length(costs, TOKENS_A_BATCH, max(1, ROWS_A_BATCH // options.chains)))


def _load(model: Path, device: str, tokenizer: Any) -> _Teacher:
    backend = TorchBackend(model, device)
    ends = end_tokens_of(backend, tokenizer)
    if not ends:
        raise UsageError(
            f"{model}: no token ends an answer", "set eos_token_id in generation_config.json"
        )
    return _Teacher(backend, tokenizer, ends)


def _record(row: int, chains: Sequence[Chain]) -> dict[str, Any]:
    """A finished question, as the file holds it."""
    return {"row": row, "chains": [asdict(chain) for chain in chains]}


def _sample(
    options: TracesOptions,
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    seed: int,
    teacher: _Teacher,
    bar: Bar,
) -> list[list[Chain]]:
    """Sample the chains of a batch of questions; `bar` counts them."""
    names = list(itertools.product((question.row for question in questions), range(options.chains)))
    sampler = Sampler(
        options.temperature, options.top_p, uniforms(seed, names, options.max_new_tokens)
    )
    asked = [prompt for prompt in prompts for _ in range(options.chains)]
    decoding = Decoding(options.max_new_tokens, teacher.ends, choose=sampler)
    rows = iter(teacher.backend.generate(asked, decoding, bar))
    entropies = iter(sampler.entropy())
    return [
        [_chain(q, next(rows), next(entropies), teacher) for _ in range(options.chains)]
        for q in questions
    ]


def _chain(question: Question, tokens: list[int], entropy: float, teacher: _Teacher) -> Chain:
    own = until_end(tokens, teacher.ends)
    # Special tokens stay in the text, because </think> may be one.
    text = teacher.tokenizer.decode(own, skip_special_tokens=False)
    return Chain(
        text,
        question.answer_of(text),
        question.verify(text),
        len(own),
        round(entropy, 6),
        len(own) < len(tokens),
    )
