"""What deployments need of a runtime on a device. A new runtime is one more class like these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ...models.export_format import Runtime
from ..preflight import Problem
from ..remote import Device

__all__ = ["Ask", "DeviceRuntime", "Reply", "RunSettings", "Scored", "Session", "Stop"]

Stop = Callable[[Sequence[int]], bool]
"""Whether an answer is complete, from its tokens so far."""


@dataclass(frozen=True)
class Ask:
    """A prompt to answer greedily.

    Attributes:
        ids: its tokens, at least one.
        new_tokens: the most tokens of the answer.
        ends: tokens that end the answer; none: it has `new_tokens`.
    """

    ids: tuple[int, ...]
    new_tokens: int
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer, with the token that ended it, and what it took on the device.

    Attributes:
        tokens: the tokens of the answer.
        first_s: seconds to the first token.
        token_s: seconds of each later token. Where the runtime gives only their sum, all are equal.
        joules: energy of the device, if it measures it.
        peak_rss_bytes: peak of the runtime's resident memory so far, if it is known.
    """

    tokens: tuple[int, ...]
    first_s: float
    token_s: tuple[float, ...]
    joules: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class Scored:
    """The most likely tokens at each position of a given text.

    Attributes:
        ids: for each position, tokens, the most likely one first.
        logprobs: their log-probabilities in nats.
        not_finite: number of positions with a logit that is no finite number.
    """

    ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]
    not_finite: int = 0


@dataclass(frozen=True)
class RunSettings:
    """How a runtime is started.

    Attributes:
        python: the device's Python interpreter.
        threads: of the processor; None: all cores.
        context: tokens in the KV cache.
        llama_server: path of llama-server on the device; empty: it is searched.
        provider: execution provider of ONNX Runtime.
    """

    python: str = "python3"
    threads: int | None = None
    context: int = 2048
    llama_server: str = ""
    provider: str = "auto"

    def run_words(self, folder: str, *words: str) -> tuple[str, ...]:
        """The command that starts a verb of the bundle's run.sh."""
        threads = ("--threads", str(self.threads)) if self.threads else ()
        return ("env", f"PYTHON={self.python}", f"{folder}/run.sh", *threads, *words)


class Session(Protocol):
    """A runtime that is running on a device, with the model loaded."""

    provider: str
    """What computes: `cpu`, `cuda`, ..., as far as the runtime says."""
    load_s: float
    details: dict[str, Any]
    """What else is recorded, such as its version."""

    async def answer(self, ask: Ask, complete: Stop | None = None) -> Reply:
        """Answer a prompt.

        Args:
            ask: the prompt.
            complete: also ends the answer, if it returns true for its tokens so far.
        """
        ...

    async def score(
        self, ids: Sequence[int], continuation: Sequence[int], top: int
    ) -> Scored | None:
        """The `top` most likely tokens at each position of a continuation of a prompt.

        None if the runtime gives no log-probabilities of a given text.
        """
        ...


class DeviceRuntime(Protocol):
    """A kind of software that runs artifacts on a device."""

    name: Runtime

    def problems(self, report: Mapping[str, Any]) -> list[Problem]:
        """Why it cannot run on a device, by the output of `probe`."""
        ...

    def started(self, device: Device, folder: str) -> AbstractAsyncContextManager[Session]:
        """Start it on the bundle in a folder of the device; it is stopped when the block ends.

        Raises:
            EdgewrightError: it does not start. Known failures are explained.
        """
        ...
