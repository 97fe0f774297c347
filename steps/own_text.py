"""Calibration text that a model writes itself: its answers to the built-in prompts.

Text of the model's own distribution calibrates it better than foreign text (Williams and Aletras
2024, "Self-calibration for Language Model Quantization and Pruning"). Answers are sampled with
random numbers of their own, kept in a file of the user's cache directory, and used again. If more
tokens are asked for, more answers are appended. So an interrupted run resumes, too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.atomic_files import write_text
from ..checkpoints.config import dtype_name, end_tokens, read_architecture, read_json
from ..checkpoints.disk import disk_error, is_full
from ..checkpoints.free_memory import free_memory
from ..checkpoints.hashing import content_hash
from ..checkpoints.locks import locked
from ..checkpoints.sealed import digest, open_line, seal_line
from ..checkpoints.tokenizer import all_end_tokens, load_tokenizer
from ..console import console, progress
from ..data.packing import IGNORE, Encoded, Example, encode, render_prompt, windows
from ..data.prompts import builtin_prompts, prompts_hash
from ..errors import Refused, UsageError
from ..generation.decoding import Decoding, until_end
from ..generation.memory import BUDGET
from .cache_directory import CACHE, cache_directory

if TYPE_CHECKING:  # torch takes seconds to import, and a plan generates nothing
    from torch import Tensor

    from ..generation.generate import Engine

__all__ = ["OwnText", "Sampling"]

VERSION = 1
"""Part of a file's name. Raise it when the same model and settings would give other answers."""
WAVE = 96
"""Answers that are generated together, and kept when all of them are complete."""
TOKENS_AN_ANSWER = 300
"""Tokens of a prompt with its answer, about. Decides how many the first wave asks for."""
NAME_IT = "give --calibration SOURCE (in a recipe: calibration.source) for text of your own"


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled.

    Attributes:
        temperature: below 1, because a small model's rare tokens are often mistakes.
        top_p: see `nucleus_sample`.
        top_k: see `nucleus_sample`.
        max_new_tokens: longer answers are cut there.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 50
    max_new_tokens: int = 384

    @classmethod
    def of(cls, model: Path) -> Sampling:
        """Settings for a model; top_p and top_k are those of its generation_config.json."""
        file = model / "generation_config.json"
        named = read_json(file) if file.is_file() else {}
        top_p = named.get("top_p")
        top_k = named.get("top_k")
        return cls(
            top_p=float(top_p) if isinstance(top_p, int | float) and 0 < top_p <= 1 else cls.top_p,
            top_k=top_k if isinstance(top_k, int) and top_k > 0 else cls.top_k,
        )


@dataclass(frozen=True)
class Answer:
    """A prompt with the model's answer; `ended`: it was not cut at the most tokens."""

    prompt: str
    completion: str
    ended: bool

    def line(self, number: int) -> str:
        """The answer as a line of the file, with a check of its content."""
        row = {"number": number, **asdict(self)}
        return seal_line(row)

    def tokens(self, tokenizer: Any) -> Encoded:
        """Ids and labels: the answer is scored, the prompt is not."""
        if tokenizer.chat_template and self.ended:
            return encode(tokenizer, Example(self.completion, self.prompt))
        prompt = prompt_tokens(tokenizer, self.prompt)
        answer = tokenizer(self.completion, add_special_tokens=False)["input_ids"]
        if self.ended and tokenizer.eos_token_id is not None:
            answer = [*answer, tokenizer.eos_token_id]
        return Encoded(prompt + answer, [IGNORE] * len(prompt) + answer)


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a prompt: by the chat template if there is one, else of the text to continue."""
    templated = bool(tokenizer.chat_template)
    text = render_prompt(tokenizer, prompt) if templated else prompt
    return list(tokenizer(text, add_special_tokens=not templated)["input_ids"])


class OwnText:
    """The answers of one model to the built-in prompts.

    Args:
        model: directory of the model that writes.
        device: where it runs.
        seed: of the sampling.
    """

    def __init__(self, model: Path, device: str, seed: int) -> None:
        self.model = model
        self.device = device
        self.seed = seed
        self._announced = False

    @cached_property
    def identity(self) -> str:
        """The hash of the model's files."""
        return content_hash(self.model)

    @cached_property
    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling.of(self.model)

    @property
    def file(self) -> Path:
        """Where the answers are kept; the name stands for all that they depend on."""
        depends_on = {
            "model": self.identity,
            "prompts": prompts_hash(),
            "seed": self.seed,
            "version": VERSION,
            **asdict(self.sampling),
        }
        return cache_directory() / "own-text" / f"{digest(depends_on)[:32]}.jsonl"

    def rows(self, tokenizer: Any, samples: int, seq_len: int) -> list[Encoded]:
        """Packed rows of `seq_len` tokens; missing answers are generated first.

        Args:
            tokenizer: of the model that is calibrated.
            samples: number of rows.
            seq_len: tokens of a row.

        Raises:
            UsageError: the cache directory cannot be written.
            Refused: the model cannot generate here.
        """
        file = self.file
        if not self._announced:
            line = f"{self.summary(samples, seq_len)}, kept in {file}; {NAME_IT}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._announced = True
        rows = _packed(tokenizer, self._kept(file), seq_len)
        if len(rows) < samples:
            self._check_cache(file)
            with locked(file, wait=True):  # another command may write the same answers
                rows = self._completed(file, tokenizer, samples, seq_len)
        return rows[:samples]

    def _completed(self, file: Path, tokenizer: Any, samples: int, seq_len: int) -> list[Encoded]:
        """Write the answers that are missing for so many rows; returns the rows."""
        answers = self._kept(file)
        rows = _packed(tokenizer, answers, seq_len)
        engine: Engine | None = None
        while len(rows) < samples:
            engine = engine or self._engine()
            missing = (samples - len(rows)) * seq_len
            count = min(WAVE, max(1, round(missing / _tokens_an_answer(rows, answers))))
            answers += self._generate(engine, len(answers), count)
            lines = (answer.line(number) for number, answer in enumerate(answers))
            write_text(file, "".join(lines))
            rows = _packed(tokenizer, answers, seq_len)
            if not rows and len(answers) >= len(builtin_prompts()):
                raise UsageError(f"{self.model}: writes no text to calibrate on", NAME_IT)
        return rows

    def summary(self, samples: int, seq_len: int) -> str:
        """What the calibration text is, for messages and notes."""
        return (
            f"calibration: {samples} x {seq_len} tokens of the model's own answers to built-in "
            f"prompts (code, mathematics, general; seed {self.seed})"
        )

    def _kept(self, file: Path) -> list[Answer]:
        """The answers in the file, up to the first damaged line."""
        if not file.is_file():
            return []
        lines = file.read_bytes().splitlines(keepends=True)
        answers = list(_valid(lines))
        if len(answers) < len(lines):
            console.print(
                f"{file}: damaged from line {len(answers) + 1} on, which is made again",
                highlight=False,
            )
        return answers

    def _check_cache(self, file: Path) -> None:
        """Refuse to generate answers that cannot be kept."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            writable = os.access(file.parent, os.W_OK)
        except OSError as error:
            if is_full(error):
                raise disk_error(file.parent, error) from error
            writable = False
        if not writable:
            raise UsageError(
                f"{file.parent}: cannot be written, and the model's answers are kept there",
                f"set {CACHE} to a directory that can be written, or {NAME_IT}",
            )

    def _engine(self) -> Engine:
        """The loaded model."""
        import torch  # late, like all that generates

        from ..checkpoints.compute_dtype import fast_dtype
        from ..checkpoints.loading import load_model
        from ..generation.torch_engine import TorchEngine

        try:
            architecture = read_architecture(self.model)
            dtype = getattr(torch, fast_dtype(dtype_name(architecture.config), self.device))
            self._check_memory(dtype.itemsize * architecture.parameters)
            return TorchEngine(load_model(self.model, self.device, dtype), architecture)
        except Refused as error:
            raise Refused(f"{error}; so it cannot write its calibration text", NAME_IT) from error

    def _check_memory(self, weights: int) -> None:
        free = free_memory(self.device)
        needed = weights + BUDGET
        if free is not None and needed > free:
            raise Refused(
                f"{self.model}: takes {needed / 1e9:.1f} GB of memory to generate text, and "
                f"{free / 1e9:.1f} GB are free"
            )

    def _generate(self, engine: Engine, first: int, count: int) -> list[Answer]:
        """Sample the answers `first` to `first + count`. Prompts are repeated if used up."""
        from ..data.draws import uniforms
        from ..generation.generate import generate
        from ..generation.sampling import nucleus_sample

        prompts = builtin_prompts()
        numbers = range(first, first + count)
        asked = [prompts[number % len(prompts)] for number in numbers]
        tokenizer = load_tokenizer(self.model)
        ends = all_end_tokens(end_tokens(self.model), tokenizer)
        settings = self.sampling
        names = [(number,) for number in numbers]
        uniform = uniforms(self.seed, names, settings.max_new_tokens)

        def choose(logits: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
            drawn = uniform[rows, steps].to(logits.device)
            return nucleus_sample(
                logits, settings.temperature, settings.top_p, drawn, settings.top_k
            )

        decoding = Decoding(settings.max_new_tokens, ends, choose=choose)
        tokens = [prompt_tokens(tokenizer, prompt) for prompt in asked]
        with progress("writing calibration text", count) as bar:
            written = generate(engine, tokens, decoding, bar)
        return [
            Answer(prompt, tokenizer.decode(own), ended=len(own) < len(answer))
            for prompt, answer in zip(asked, written, strict=True)
            for own in [until_end(answer, ends)]
        ]


def _packed(tokenizer: Any, answers: list[Answer], seq_len: int) -> list[Encoded]:
    """Rows of all answers but the empty ones."""
    encoded = (answer.tokens(tokenizer) for answer in answers if answer.completion.strip())
    return list(windows(tokenizer, encoded, seq_len))


def _tokens_an_answer(rows: list[Encoded], answers: list[Answer]) -> float:
    """The mean length so far, or an estimate before there are rows."""
    if not rows:
        return TOKENS_AN_ANSWER
    return len(rows) * len(rows[0].ids) / len(answers)


def _valid(lines: list[bytes]) -> Iterator[Answer]:
    """The answers of lines up to the first one that is not what `Answer.line` wrote."""
    prompts = itertools.cycle(builtin_prompts())
    for number, (line, prompt) in enumerate(zip(lines, prompts, strict=False)):
        try:
            row = open_line(line) or {}
            answer = Answer(row["prompt"], row["completion"], row["ended"])
            whole = answer.line(number).encode() == line and answer.prompt == prompt
        except (KeyError, UnicodeError):
            return
        if not whole:
            return
        yield answer
