"""A GGUF artifact as a `Backend`: llama.cpp's server generates its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...checkpoints.config import end_tokens
from ...checkpoints.hashing import read_provenance
from ...console import Bar
from ...errors import UsageError
from ...export.gguf.completion import completion_body
from ...export.gguf.server import version_of
from ...generation.decoding import Decoding, greedy
from ..llama_cpp import NAME, LocalLlama, Slots, llama_server_here

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LlamaBackend"]

SLOTS = 8
"""Answers that are generated at the same time."""
CHUNK = 32
"""Tokens of a request. The server knows no ends but tokens, so an answer that a text ends is looked
at after so many."""


class LlamaBackend:
    """See `Backend`. The server runs while answers are generated.

    Args:
        path: the artifact.
        device: `cpu`, or the GPU that computes.
        program: path of llama-server; empty: on PATH.
        threads: of the processor.

    Raises:
        UsageError: there is no llama-server.
    """

    name = NAME

    def __init__(self, path: Path, device: str, program: str, threads: int) -> None:
        self.dtype = str(read_provenance(path).get("precision", "unknown"))
        self.device = device
        self.eos = end_tokens(path)
        self._path = path
        self._program = llama_server_here(program)
        self._threads = threads
        self.versions = {"llama_cpp": version_of(self._program)}

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The server gives no logits of whole texts; see `without_logits.py`."""
        del ids, mask
        raise UsageError(
            f"{NAME} gives no logits of whole texts",
            "score tasks that generate answers: reasoning, gym, qa or code",
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        """See `Backend.generate`."""
        if decoding.choose is not greedy:
            raise UsageError(
                f"{NAME} generates greedily here", "sample from the checkpoint that was exported"
            )
        if not prompts:
            return []
        longest = max(map(len, prompts)) + decoding.max_new_tokens
        slots = Slots(min(SLOTS, len(prompts)), longest)
        with LocalLlama(self._path, self._program, slots, self.device, self._threads) as server:
            work = _Work(server, prompts, decoding, bar)
            server.run([lambda slot=slot: work.answer_in(slot) for slot in range(slots.count)])
        return [work.answers[number] for number in range(len(prompts))]


class _Work:
    """Prompts that are still to be answered, which the slots of a server share."""

    def __init__(
        self,
        server: LocalLlama,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        bar: Bar,
    ) -> None:
        self._server, self._prompts, self._decoding, self._bar = server, prompts, decoding, bar
        self._left = iter(range(len(prompts)))
        self.answers: dict[int, list[int]] = {}

    async def answer_in(self, slot: int) -> None:
        """Answer one prompt after the other in a slot, until none is left."""
        for number in self._left:
            answer = await self._answer(self._prompts[number], slot)
            self.answers[number] = answer
            if self._decoding.answered:
                self._decoding.answered(number, answer)
            self._bar.advance(1)

    async def _answer(self, prompt: Sequence[int], slot: int) -> list[int]:
        """The answer to a prompt, with the token that ended it."""
        most, ends = self._decoding.max_new_tokens, bool(self._decoding.ends)
        answer: list[int] = []
        while len(answer) < most:
            count = min(CHUNK, most - len(answer))
            body = completion_body([*prompt, *answer], count, ends=ends, slot=slot)
            found = await self._server.ask(body)
            for token in found.tokens:
                answer.append(token)
                if self._decoding.complete(answer):
                    return answer
            if found.ended or len(found.tokens) < count:
                break
        return answer
