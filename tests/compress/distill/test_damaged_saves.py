"""Damaged training states and teacher caches: left out and made again, and never used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from file_damage import DAMAGES, flip, flips

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.options import TeacherCacheOptions
from edgewright.compress.distill.processes import Processes
from edgewright.compress.distill.teacher_cache import CachedTeacher
from edgewright.compress.distill.training_state import Saves
from edgewright.errors import UsageError

MakeModel = Callable[..., Path]
LOSSES = {"logits": [3.5, 2.25]}
STATE_FILES = ["losses.json", "model.safetensors", "optimizer.bin", "random_states_0.pkl"]
ROWS = [torch.stack([torch.arange(12) * (i + 3) % 500] * 2) for i in range(4)]
TOP_K = 4


class FakeAccelerator:
    """Writes the files that accelerate writes, with other contents."""

    def save_state(self, folder: str) -> None:
        Path(folder).mkdir()
        for number, name in enumerate(STATE_FILES[1:]):
            (Path(folder) / name).write_bytes(bytes([number]) * 64)


def saves(folder: Path) -> Saves:
    return Saves(folder, 1, Processes("cpu"))


def saved(folder: Path) -> Path:
    """A directory with one save, after step 2 of stage 1."""
    accelerator: Any = FakeAccelerator()
    saves(folder).save(accelerator, 1, 2, LOSSES)
    return folder / "step-00001-00002"


@pytest.mark.parametrize("name", STATE_FILES)
def test_a_damaged_save_is_not_resumed_from(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path) / name
    found = saves(tmp_path)
    assert (found.step, found.losses) == (2, LOSSES)
    good = file.read_bytes()
    for bit in flips(file, 40):
        flip(file, bit)
        found = saves(tmp_path)
        assert found.newest is None or found.losses == LOSSES
        if found.newest is None:
            assert "trained again" in capsys.readouterr().err
        else:
            assert name == "losses.json", "of JSON, a flipped bit may change white space only"
        file.write_bytes(good)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STATE_FILES[:3])
def test_every_damage_of_a_save_is_said_and_the_next_save_replaces_it(
    name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](saved(tmp_path) / name)
    capsys.readouterr()
    found = saves(tmp_path)
    assert (found.newest, found.stage, found.step, found.losses) == (None, 1, 0, {})
    said = "".join(capsys.readouterr().err.split())
    assert "trainedagain" in said
    assert name in said
    saved(tmp_path)
    assert saves(tmp_path).losses == LOSSES


def test_an_older_save_is_used_if_the_newest_is_damaged(tmp_path: Path) -> None:
    first = saved(tmp_path)
    (tmp_path / "kept").mkdir()
    first.rename(tmp_path / "kept" / first.name)
    accelerator: Any = FakeAccelerator()
    saves(tmp_path).save(accelerator, 1, 3, LOSSES)
    (tmp_path / "kept" / first.name).rename(first)  # killed before it was deleted
    assert saves(tmp_path).step == 3
    flip(tmp_path / "step-00001-00003" / "optimizer.bin", 9)
    assert saves(tmp_path).step == 2


# The teacher's cache


def opened(model: Path, folder: Path, *, repair: bool = False) -> CachedTeacher:
    options = TeacherCacheOptions(path=str(folder), top_k=TOP_K)
    return CachedTeacher(options, content_hash(model), 512, (1.0,), repair=repair)


def answers(cache: CachedTeacher) -> list[torch.Tensor]:
    """The log-probabilities of all rows."""
    ids, labels = torch.stack(ROWS).unbind(1)
    scored = torch.ones(len(ROWS), 11, dtype=torch.bool)
    student = torch.zeros(scored.sum(), 512)
    return list(cache.of(ids, labels, scored)(slice(0, len(student)), student, 1.0))


@pytest.fixture
def filled(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model, its cache of two shards, and what it answers."""
    monkeypatch.setattr("edgewright.compress.distill.teacher_cache.SHARD_BYTES", 1)
    model = make_model("qwen2")
    folder = tmp_path / "cache"
    teacher = load_model(model).requires_grad_(False)
    opened(model, folder).fill(teacher, ROWS, 2)
    assert len(list(folder.glob("logits-*"))) == 2
    return model, teacher, folder, answers(opened(model, folder))


@pytest.mark.parametrize(
    "name", ["teacher.json", "logits-00000.safetensors", "logits-00001.safetensors"]
)
def test_a_damaged_cache_is_refused_or_completed(name: str, filled: Any) -> None:
    model, teacher, folder, expected = filled
    file = folder / name
    harms = [lambda at, bit=bit: flip(at, bit) for bit in flips(file, 5)]
    for harm in [*harms, *DAMAGES.values()]:
        harm(file)
        try:
            found = answers(opened(model, folder))  # white space of the index
        except UsageError as error:
            assert name in str(error)
            assert "made again" in error.hint
            repaired = opened(model, folder, repair=True)
            repaired.fill(teacher, list(repaired.missing(ROWS)), 2)
            found = answers(opened(model, folder))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_repaired_cache_is_usable_if_nothing_is_missing(filled: Any) -> None:
    model, _, folder, _ = filled
    flip(folder / "logits-00001.safetensors", 8000)
    repaired = opened(model, folder, repair=True)
    assert len(list(repaired.missing(ROWS[:2]))) == 0
    assert len(list(opened(model, folder).missing(ROWS))) == 2
