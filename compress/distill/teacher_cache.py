"""A teacher's logits on disk: computed once, then read while students are trained.

The teacher runs alone in memory. For every scored token the cache keeps the k largest logits, and
the log-sum-exp of the others at each temperature in use. The divergence is taken over k + 1
outcomes, where all other tokens are one outcome. It is zero where student and teacher agree, and
never above the full divergence. With k = the whole vocabulary it is the full divergence.

Rows are found by a hash of their tokens. So one cache serves any run with the same rows, and an
interrupted cache is completed. The index has a checksum, and those of all shards.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoints.disk import writing
from ...checkpoints.sealed import Damaged, fast_file_digest, read_sealed, write_sealed
from ...console import console, progress
from ...data.packing import IGNORE
from ...errors import UsageError
from .losses import scored_labels
from .options import TeacherCacheOptions
from .teacher_logits import LOGITS_AT_ONCE, LogProbs, last_hidden, logits_of
from .top_k import TopK, top_k_log_probs

__all__ = ["CachedTeacher"]

SHARD_BYTES = 256 * 2**20
KEY_BYTES = 16
INDEX = "teacher.json"
REBUILD_HINT = "delete the directory; it will be made again"


def _key(ids: Tensor, labels: Tensor) -> bytes:
    """Hash the tokens of a row."""
    return hashlib.blake2b(
        torch.stack([ids, labels]).numpy().tobytes(), digest_size=KEY_BYTES
    ).digest()


class CachedTeacher:
    """A directory of a teacher's logits, in place of a teacher in memory (`TeacherLogits`).

    Args:
        options: the directory, and how many logits to keep per token.
        teacher: content hash of the teacher's checkpoint.
        vocab: number of logits to use, from the first on.
        temperatures: temperatures of all stages that use the cache.
        repair: leave out what is damaged, so that it is made again.

    Raises:
        UsageError: the directory holds something else, a damaged cache, or a cache for another
            teacher, k, vocabulary or temperature.
    """

    def __init__(
        self,
        options: TeacherCacheOptions,
        teacher: str,
        vocab: int,
        temperatures: Iterable[float],
        *,
        repair: bool = False,
    ) -> None:
        self.folder = Path(options.path)
        self.top_k = min(options.top_k, vocab)
        self.temperatures = sorted(set(temperatures))
        wanted = {
            "teacher": teacher,
            "top_k": self.top_k,
            "vocab": vocab,
            "temperatures": self.temperatures,
        }
        self.index: dict[str, Any] = self._read(wanted, repair)
        self._places: dict[bytes, tuple[Any, int, int]] = {}
        shards = self.index["shards"]
        self.index["shards"] = []
        for shard in shards:
            try:
                self._open(shard)
            except Damaged as error:
                if not repair:
                    raise UsageError(
                        f"{error}; a shard is damaged or missing", REBUILD_HINT
                    ) from error
                console.print(f"  made again: {error}", highlight=False, markup=False)
        if len(self.index["shards"]) < len(shards):
            write_sealed(self.folder / INDEX, self.index)

    def _read(self, wanted: dict[str, Any], repair: bool) -> dict[str, Any]:
        """Return the cache's index, or that of an empty cache; check that it is as wanted."""
        file = self.folder / INDEX
        if not file.exists():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise UsageError(
                    f"{self.folder}: holds other files, and is no teacher cache",
                    "choose another directory",
                )
            return {**wanted, "shards": []}
        try:
            found = read_sealed(file, REBUILD_HINT)
        except Damaged as error:
            if not repair:
                raise UsageError(
                    f"{error}; so it is not the index of a teacher cache", REBUILD_HINT
                ) from error
            console.print(f"  made again: {error}", highlight=False, markup=False)
            if file.is_dir():
                shutil.rmtree(file)
            write_sealed(file, {**wanted, "shards": []})
            return {**wanted, "shards": []}
        for name in wanted:
            value = found.get(name)
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

    def _open(self, shard: dict[str, Any]) -> None:
        """Open a shard, note where each of its rows is, and list it in the index.

        Raises:
            Damaged: it is not what was written.
        """
        file = self.folder / shard["file"]
        try:
            if fast_file_digest(file) != shard["digest"]:
                raise Damaged(file, "its content is not what edgewright wrote", REBUILD_HINT)
            handle: Any = safe_open(file, framework="pt")
            keys = handle.get_tensor("keys").numpy()
            ends = handle.get_tensor("ends").tolist()
        except (SafetensorError, OSError) as error:
            raise Damaged(file, error, REBUILD_HINT) from error
        self.index["shards"].append(shard)
        for key, begin, end in zip(keys, [0, *ends], ends, strict=False):
            self._places[key.tobytes()] = (handle, begin, end)

    def missing(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the rows, int64 [2, seq], that the cache lacks, each once."""
        seen = set(self._places)
        for row in rows:
            key = _key(row[0], scored_labels(row[0], row[1]))
            if key not in seen:
                seen.add(key)
                yield row

    @torch.no_grad()
    def fill(self, teacher: Any, rows: list[Tensor], batch_size: int) -> None:
        """Compute the logits of rows and add them to the cache.

        Args:
            teacher: the frozen model.
            rows: int64 [2, seq] each; none is in the cache.
            batch_size: rows that go through the teacher together.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_sealed(self.folder / INDEX, self.index)  # so that an interrupted cache is known
        keys: list[bytes] = []
        ends: list[int] = []
        parts: list[TopK] = []
        with progress("running the teacher", len(rows)) as bar:
            for begin in range(0, len(rows), batch_size):
                ids, labels = torch.stack(rows[begin : begin + batch_size]).unbind(1)
                labels = torch.stack([scored_labels(*row) for row in zip(ids, labels, strict=True)])
                scored = labels[:, 1:] != IGNORE
                parts += self._top_logits(teacher, ids, scored)
                for row, label, count in zip(ids, labels, scored.sum(1).tolist(), strict=True):
                    keys.append(_key(row, label))
                    ends.append((ends[-1] if ends else 0) + count)
                bar.advance(len(ids))
                if ends[-1] * self.top_k * 8 >= SHARD_BYTES or begin + batch_size >= len(rows):
                    self._write(keys, ends, parts)
                    keys = []
                    ends = []
                    parts = []

    def _top_logits(self, teacher: Any, ids: Tensor, scored: Tensor) -> Iterator[TopK]:
        """Yield the largest logits of the scored tokens of a batch, chunk by chunk, on the CPU."""
        device = next(teacher.parameters()).device
        vocab = self.index["vocab"]
        hidden = last_hidden(teacher, ids.to(device))[:, :-1][scored.to(device)]
        for some in hidden.split(LOGITS_AT_ONCE // vocab + 1):
            kept = TopK.of(logits_of(teacher, some)[:, :vocab], self.top_k, self.temperatures)
            yield TopK.joined([kept], torch.device("cpu"))

    def _write(self, keys: list[bytes], ends: list[int], parts: list[TopK]) -> None:
        """Write one more shard; the index lists it only when it is complete."""
        used = {shard["file"] for shard in self.index["shards"]}
        names = (f"logits-{number:05d}.safetensors" for number in count())
        every = TopK.joined(parts, torch.device("cpu"))
        mass = every.mass(self.temperatures[0], 0)
        tensors = every.tensors()
        tensors |= {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(
                -1, KEY_BYTES
            ),
            "ends": torch.tensor(ends),
        }
        file = self.folder / next(name for name in names if name not in used)
        temporary = file.with_name(f".{file.name}.tmp")
        with writing(file, sum(tensor.nbytes for tensor in tensors.values())):
            try:
                save_file(tensors, temporary)
                digest = fast_file_digest(temporary)
                if file.is_dir():
                    shutil.rmtree(file)
                temporary.replace(file)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        least = float(mass.min()) if len(mass) else 1.0
        entry = {
            "file": file.name,
            "digest": digest,
            "rows": len(keys),
            "tokens": ends[-1],
            "mass": float(mass.double().sum()),
            "least_mass": least,
        }
        self._open(entry)
        write_sealed(self.folder / INDEX, self.index)

    def summary(self) -> str:
        """Return one line: what the cache holds."""
        shards = self.index["shards"]
        tokens = sum(s["tokens"] for s in shards)
        rows = sum(s["rows"] for s in shards)
        mass = sum(s["mass"] for s in shards) / max(tokens, 1)
        least = min((s["least_mass"] for s in shards), default=1.0)
        size = f"logits of {tokens:,} tokens in {rows:,} rows"
        if self.top_k == self.index["vocab"]:
            return f"teacher from {self.folder}: all {self.top_k} {size}"
        return (
            f"teacher from {self.folder}: top {self.top_k} of {self.index['vocab']} {size}, "
            f"{mass:.4%} of the probability "
            f"(at temperature {self.temperatures[0]:g}; least {least:.2%})"
        )

    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> LogProbs:
        """See `TeacherLogits.of`.

        Raises:
            UsageError: a row is not in the cache.
        """
        wanted = scored.sum(1).tolist()
        parts = [
            self._row(_key(row, label))
            for row, label, some in zip(ids.cpu(), labels.cpu(), wanted, strict=True)
            if some
        ]
        kept = TopK.joined(parts or [self._no_tokens()], ids.device)

        def log_probs(at: slice, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            return top_k_log_probs(
                kept[at], student, temperature, self.temperatures.index(temperature)
            )

        return log_probs

    def _row(self, key: bytes) -> TopK:
        """Read the logits of one row."""
        if key not in self._places:
            raise UsageError(
                f"{self.folder}: a row of the training data is missing",
                REBUILD_HINT,
            )
        handle, begin, end = self._places[key]
        indices = (
            None if self.top_k == self.index["vocab"] else handle.get_slice("indices")[begin:end]
        )
        return TopK(
            handle.get_slice("values")[begin:end], indices, handle.get_slice("tails")[begin:end]
        )

    def _no_tokens(self) -> TopK:
        """Return the logits of zero tokens."""
        whole = self.top_k == self.index["vocab"]
        empty = torch.zeros(0, self.top_k)
        return TopK(empty, None if whole else empty.int(), torch.zeros(0, len(self.temperatures)))
