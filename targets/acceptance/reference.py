"""The answers of the checkpoint to some built-in prompts: what the device's are compared with.

They are computed in float32 on this machine, and kept in the cache directory under everything that
they depend on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ...benchmarks.memory import measurement_bytes
from ...benchmarks.options import EvaluateOptions
from ...benchmarks.tasks.backends import TorchBackend
from ...checkpoints.config import end_tokens
from ...checkpoints.hashing import content_hash
from ...checkpoints.sealed import Damaged, digest, read_sealed, write_sealed
from ...checkpoints.tokenizer import all_end_tokens, load_tokenizer
from ...console import console, progress
from ...data.prompts import builtin_prompts, prompts_hash
from ...generation.decoding import Decoding
from ...steps.cache_directory import cache_directory
from ...steps.memory_check import require_memory
from ...steps.own_text import prompt_tokens
from ..options import AcceptanceOptions
from ..runtimes.interface import Scored

__all__ = ["TOP", "Reference", "ReferenceAnswer", "reference_answers"]

VERSION = 1
"""Part of the name of a kept file. Raise it when the same model would give other answers."""
TOP = 64
"""Tokens whose log-probabilities are compared at each position."""


@dataclass(frozen=True)
class ReferenceAnswer:
    """A prompt, and what the checkpoint answered.

    Attributes:
        prompt: its text.
        ids: its tokens.
        tokens: those of the answer, with the token that ended it.
        scored: the most likely tokens at each position of the answer.
    """

    prompt: str
    ids: tuple[int, ...]
    tokens: tuple[int, ...]
    scored: Scored


@dataclass(frozen=True)
class Reference:
    """The answers of one checkpoint.

    Attributes:
        path: its directory.
        identity: the hash of its files.
        ends: tokens that end an answer.
        answers: the answers.
        settings: what decides which prompts and how many tokens these are.
    """

    path: Path
    identity: str
    ends: tuple[int, ...]
    answers: tuple[ReferenceAnswer, ...]
    settings: dict[str, Any]


def reference_answers(path: Path, options: AcceptanceOptions) -> Reference:
    """The checkpoint's answers, kept or computed now.

    Args:
        path: directory of the checkpoint.
        options: how many prompts, and how many tokens of an answer.

    Raises:
        Refused: the checkpoint does not fit into memory.
    """
    identity = content_hash(path)
    settings: dict[str, Any] = {
        "prompts": prompts_hash(),
        "questions": min(options.questions, len(builtin_prompts())),
        "answer_tokens": options.answer_tokens,
        "question_seed": options.question_seed,
    }
    name = digest({"model": identity, "version": VERSION, "top": TOP, **settings})[:32]
    file = cache_directory() / "reference-answers" / f"{name}.json"
    tokenizer = load_tokenizer(path)
    kept = _kept(file)
    if kept is None:
        kept = _computed(path, tokenizer, settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, {"answers": [asdict(answer) for answer in kept]})
    ends = tuple(all_end_tokens(end_tokens(path), tokenizer))
    return Reference(path, identity[:16], ends, tuple(kept), settings)


def _kept(file: Path) -> list[ReferenceAnswer] | None:
    """The answers in a file; None if there is none, or it is damaged."""
    if not file.is_file():
        return None
    try:
        rows = read_sealed(file, "")["answers"]
    except Damaged as error:
        console.print(f"{error}; computed again", highlight=False, markup=False)
        return None
    return [
        ReferenceAnswer(
            row["prompt"], tuple(row["ids"]), tuple(row["tokens"]), Scored(**row["scored"])
        )
        for row in rows
    ]


def _computed(path: Path, tokenizer: Any, settings: dict[str, Any]) -> list[ReferenceAnswer]:
    """Let the checkpoint answer."""
    scored = EvaluateOptions(perplexity=("",), latency=None, dtype="float32")
    require_memory(f"answers of {path.name}", measurement_bytes(path, scored))
    drawn = random.Random(settings["question_seed"])
    prompts = drawn.sample(builtin_prompts(), settings["questions"])
    ids = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    backend = TorchBackend(path)
    ends = all_end_tokens(backend.eos, tokenizer)
    with progress("answers of the checkpoint", len(ids)) as bar:
        made = backend.generate(ids, Decoding(settings["answer_tokens"], ends), bar)
    with progress("its probabilities", len(ids)) as bar:
        found: list[ReferenceAnswer] = []
        for prompt, asked, tokens in zip(prompts, ids, made, strict=True):
            row = ReferenceAnswer(
                prompt, tuple(asked), tuple(tokens), _scored(backend, asked, tokens)
            )
            found.append(row)
            bar.advance(1)
    return found


def _scored(backend: TorchBackend, ids: Sequence[int], tokens: Sequence[int]) -> Scored:
    """The most likely tokens at each position of an answer, in float32."""
    row = torch.tensor([[*ids, *tokens[:-1]]])
    logits = backend.logits(row, torch.ones_like(row))[0, len(ids) - 1 :].double()
    logprobs, best = logits.log_softmax(-1).topk(min(TOP, logits.shape[-1]))
    values: list[list[float]] = cast(Any, logprobs).tolist()
    places: list[list[int]] = cast(Any, best).tolist()
    return Scored(places, [[round(one, 5) for one in at] for at in values])
