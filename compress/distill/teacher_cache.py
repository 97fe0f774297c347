"""A teacher's logits on disk: made once, with the teacher alone in memory, and read while students learn.

Of every scored token the k largest logits are kept, and the log-sum of the others at each temperature that is asked for. A divergence
is then taken over k + 1 outcomes, all the others being one: zero where student and teacher agree, never above the full one, and the
full one itself where k is the whole vocabulary. Rows are found by a hash of their tokens, so that a cache serves any run that
sees the same rows, and one that was interrupted is continued.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoints.files import write_json
from ...console import progress
from ...data.packing import IGNORE
from ...errors import UsageError
from .options import TeacherCacheOptions
from .teacher_logits import Target, last_hidden, logits_of

__all__ = ["CachedTeacher", "TopK", "top_k_target"]

SHARD_BYTES = 256 * 2**20
LOGITS_AT_ONCE = 2**24
KEY_BYTES = 16
INDEX = "teacher.json"


class TopK:
    """The largest logits of tokens.

    Attributes:
        values: float32 [tokens, k], largest first; of the whole vocabulary, in its order.
        indices: int32 [tokens, k]; None where all are there.
        tails: float32 [tokens, temperatures], log-sum-exp of the other logits divided by each temperature.
    """

    def __init__(self, values: Tensor, indices: Tensor | None, tails: Tensor) -> None:
        self.values, self.indices, self.tails = values, indices, tails

    @classmethod
    def of(cls, logits: Tensor, k: int, temperatures: Iterable[float]) -> TopK:
        """From whole logits [tokens, vocab]."""
        logits = logits.float()
        if k >= logits.shape[1]:
            return cls(
                logits,
                None,
                torch.full(
                    (len(logits), len(list(temperatures))), -torch.inf, device=logits.device
                ),
            )
        values, indices = logits.topk(k)
        others = logits.scatter(1, indices, -torch.inf)
        tails = torch.stack([(others / t).logsumexp(1) for t in temperatures], 1)
        return cls(values, indices.int(), tails)

    @classmethod
    def joined(cls, parts: list[TopK], device: torch.device) -> TopK:
        """Several after each other, on a device."""
        indices = [part.indices for part in parts if part.indices is not None]
        values, tails = (
            torch.cat([part.values for part in parts]),
            torch.cat([part.tails for part in parts]),
        )
        return cls(
            values.to(device), torch.cat(indices).to(device) if indices else None, tails.to(device)
        )

    def __getitem__(self, at: slice) -> TopK:
        """Some of the tokens."""
        return TopK(
            self.values[at], None if self.indices is None else self.indices[at], self.tails[at]
        )

    def tensors(self) -> dict[str, Tensor]:
        """By the names they have in a file."""
        return {"values": self.values, "tails": self.tails} | (
            {} if self.indices is None else {"indices": self.indices}
        )

    def mass(self, temperature: float, column: int) -> Tensor:
        """The probability that the kept logits have, [tokens]."""
        kept = (self.values / temperature).logsumexp(1)
        return (kept - torch.logaddexp(kept, self.tails[:, column])).exp()


def top_k_target(
    kept: TopK, student: Tensor, temperature: float, column: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and student over the kept tokens and all others as one.

    Args:
        kept: of the teacher, for as many tokens.
        student: logits [tokens, vocab].
        temperature: of both.
        column: which of `kept.tails` is at this temperature.
    """
    scaled, values = student.float() / temperature, kept.values / temperature
    if kept.indices is None:
        return values.log_softmax(-1), scaled.log_softmax(-1)
    tail, indices = kept.tails[:, column : column + 1], kept.indices.long()
    teacher = torch.cat([values, tail], 1)
    others = scaled.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True)
    return teacher.log_softmax(-1), torch.cat([scaled.gather(1, indices), others], 1).log_softmax(
        -1
    )


def _learnt(row: Tensor) -> Tensor:
    """The labels of a row int64 [2, seq]; all of it where it has none, as in a batch that has none."""
    return row[1] if bool((row[1] != IGNORE).any()) else row[0]


def _key(ids: Tensor, labels: Tensor) -> bytes:
    return hashlib.blake2b(
        torch.stack([ids, labels]).numpy().tobytes(), digest_size=KEY_BYTES
    ).digest()


class CachedTeacher:
    """A directory of a teacher's logits, as targets for a student.

    Args:
        options: where, and how many logits of a token.
        teacher: the content hash of its checkpoint.
        vocab: logits are cut to so many.
        temperatures: that students will ask for.

    Raises:
        UsageError: what is there is of another teacher, another k, vocabulary or temperature, or no cache, or damaged.
    """

    def __init__(
        self, options: TeacherCacheOptions, teacher: str, vocab: int, temperatures: Iterable[float]
    ) -> None:
        self.folder, self.top_k = Path(options.path), min(options.top_k, vocab)
        self.temperatures = sorted(set(temperatures))
        wanted = {
            "teacher": teacher,
            "top_k": self.top_k,
            "vocab": vocab,
            "temperatures": self.temperatures,
        }
        self.index: dict[str, Any] = self._read(wanted)
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._handles: list[Any] = []
        for number in range(len(self.index["shards"])):
            self._open(number)

    def _read(self, wanted: dict[str, Any]) -> dict[str, Any]:
        file = self.folder / INDEX
        if not file.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise UsageError(
                    f"{self.folder}: holds something that is no teacher cache",
                    "choose another directory",
                )
            return {**wanted, "shards": []}
        try:
            found = json.loads(file.read_text())
            kept = {name: found[name] for name in wanted}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file}: not the index of a teacher cache: {error}",
                "delete the directory; it will be made again",
            ) from error
        for name, value in kept.items():
            if value != wanted[name]:
                short = (
                    "another teacher"
                    if name == "teacher"
                    else f"{name} {value}, and {wanted[name]} is asked for"
                )
                raise UsageError(
                    f"{self.folder}: made for {short}",
                    "choose another directory, or delete this one",
                )
        return found

    def _open(self, number: int) -> None:
        file = self.folder / self.index["shards"][number]["file"]
        try:
            handle = safe_open(file, framework="pt")
            keys, ends = handle.get_tensor("keys").numpy(), handle.get_tensor("ends").tolist()
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{file}: damaged or missing: {error}",
                "delete the directory; it will be made again",
            ) from error
        self._handles.append(handle)
        for key, begin, end in zip(keys, [0, *ends], ends, strict=False):
            self._places[key.tobytes()] = (number, begin, end)

    def missing(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of the rows, int64 [2, seq], that are not there yet, each once."""
        seen = set(self._places)
        for row in rows:
            key = _key(row[0], _learnt(row))
            if key not in seen:
                seen.add(key)
                yield row

    @torch.no_grad()
    def fill(self, teacher: Any, rows: list[Tensor], batch_size: int) -> None:
        """Add rows to the cache.

        Args:
            teacher: the frozen model.
            rows: int64 [2, seq] each, none of which is there yet.
            batch_size: how many go through the teacher together.
        """
        device, vocab = next(teacher.parameters()).device, self.index["vocab"]
        self.folder.mkdir(parents=True, exist_ok=True)
        keys: list[bytes] = []
        ends: list[int] = []
        parts: list[TopK] = []
        with progress("asking the teacher", len(rows)) as bar:
            for begin in range(0, len(rows), batch_size):
                batch = rows[begin : begin + batch_size]
                labels = torch.stack([_learnt(row) for row in batch])
                scored = labels[:, 1:] != IGNORE
                hidden = last_hidden(teacher, torch.stack([row[0] for row in batch]).to(device))[
                    :, :-1
                ][scored.to(device)]
                for some in hidden.split(LOGITS_AT_ONCE // vocab + 1):
                    kept = TopK.of(
                        logits_of(teacher, some)[:, :vocab], self.top_k, self.temperatures
                    )
                    parts.append(TopK.joined([kept], torch.device("cpu")))
                for row, learnt, count in zip(batch, labels, scored.sum(1).tolist(), strict=True):
                    keys.append(_key(row[0], learnt))
                    ends.append((ends[-1] if ends else 0) + count)
                bar.advance(len(batch))
                if ends[-1] * self.top_k * 8 >= SHARD_BYTES or begin + batch_size >= len(rows):
                    self._write(keys, ends, parts)
                    keys, ends, parts = [], [], []

    def _write(self, keys: list[bytes], ends: list[int], parts: list[TopK]) -> None:
        """One more shard, entered in the index when it is whole."""
        number = len(self.index["shards"])
        every = TopK.joined(parts, torch.device("cpu"))
        mass, tensors = every.mass(self.temperatures[0], 0), every.tensors()
        tensors |= {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(
                -1, KEY_BYTES
            ),
            "ends": torch.tensor(ends),
        }
        file = self.folder / f"logits-{number:05d}.safetensors"
        temporary = file.with_name(f".{file.name}.tmp")
        save_file(tensors, temporary)
        temporary.replace(file)
        least = float(mass.min()) if len(mass) else 1.0
        told = {
            "file": file.name,
            "rows": len(keys),
            "tokens": ends[-1],
            "mass": float(mass.double().sum()),
            "least_mass": least,
        }
        self.index["shards"].append(told)
        write_json(self.folder / INDEX, self.index)
        self._open(number)

    def told(self) -> str:
        """What is kept, in a line."""
        shards = self.index["shards"]
        tokens, rows = sum(s["tokens"] for s in shards), sum(s["rows"] for s in shards)
        mass, least = (
            sum(s["mass"] for s in shards) / max(tokens, 1),
            min((s["least_mass"] for s in shards), default=1.0),
        )
        if self.top_k == self.index["vocab"]:
            return f"teacher from {self.folder}: all {self.top_k} logits of {tokens:,} tokens in {rows:,} rows"
        return (
            f"teacher from {self.folder}: top {self.top_k} of {self.index['vocab']} logits of {tokens:,} tokens in {rows:,} rows, "
            f"{mass:.4%} of the probability (at temperature {self.temperatures[0]:g}; least {least:.2%})"
        )

    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> Target:
        """See `Targets.of`.

        Raises:
            UsageError: a row is not in the cache.
        """
        wanted = scored.sum(1).tolist()
        parts = [
            self._row(_key(row, learnt))
            for row, learnt, some in zip(ids.cpu(), labels.cpu(), wanted, strict=True)
            if some
        ]
        kept = TopK.joined(parts or [self._nothing()], ids.device)

        def target(at: slice, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            return top_k_target(
                kept[at], student, temperature, self.temperatures.index(temperature)
            )

        return target

    def _row(self, key: bytes) -> TopK:
        if key not in self._places:
            raise UsageError(
                f"{self.folder}: a row to learn on is not there",
                "delete the directory; it will be made again",
            )
        number, begin, end = self._places[key]
        handle = self._handles[number]
        indices = (
            None if self.top_k == self.index["vocab"] else handle.get_slice("indices")[begin:end]
        )
        return TopK(
            handle.get_slice("values")[begin:end], indices, handle.get_slice("tails")[begin:end]
        )

    def _nothing(self) -> TopK:
        """Of no token."""
        whole = self.top_k == self.index["vocab"]
        empty = torch.zeros(0, self.top_k)
        return TopK(empty, None if whole else empty.int(), torch.zeros(0, len(self.temperatures)))
