"""A teacher's logits on disk: exact with all logits, bounded with few, and completed on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edgewright.compress.distill.student as student_module
import edgewright.compress.distill.teacher as teacher_module
import edgewright.compress.distill.teacher_cache as teacher_cache
from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.losses import divergence
from edgewright.compress.distill.objectives import LogitDistillation
from edgewright.compress.distill.options import DistillOptions, Stage, TeacherCacheOptions
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.teacher_cache import CachedTeacher
from edgewright.compress.distill.teacher_logits import OnlineTeacher
from edgewright.compress.distill.top_k import TopK, top_k_log_probs
from edgewright.errors import UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
ROWS = [
    torch.stack([torch.arange(12) * (i + 3) % 500, torch.arange(12) * (i + 3) % 500])
    for i in range(6)
]
for _row in ROWS[2:]:
    _row[1, :5] = -100  # prompts
ROWS[5][1, :] = -100  # no labels: scored only in a batch without any


def logits(seed: int, width: int = 40) -> Tensor:
    return torch.randn(7, width, generator=torch.Generator().manual_seed(seed)) * 3


# Tensor functions


def test_all_other_outcomes_are_one() -> None:
    """By hand: the k largest and the rest of the probability."""
    teacher = logits(0)
    student = logits(1)
    t = 2.0
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    chosen = teacher.topk(5).indices
    by_hand = [
        torch.cat([x.gather(1, chosen), 1 - x.gather(1, chosen).sum(1, keepdim=True)], 1).log()
        for x in (p, q)
    ]
    found = top_k_log_probs(TopK.of(teacher, 5, [1.0, t]), student, t, 1)
    torch.testing.assert_close(found[0], by_hand[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], by_hand[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_the_divergence_grows_with_k_up_to_the_full_one(kind: Any) -> None:
    """Merging outcomes never adds to a divergence (the data processing inequality)."""
    teacher, student = logits(0), logits(1)
    losses = [
        float(divergence(*top_k_log_probs(TopK.of(teacher, k, [1.0]), student, 1.0, 0), kind))
        for k in (1, 4, 16, 40)
    ]
    assert losses == sorted(losses)
    whole = divergence(teacher.log_softmax(1), student.log_softmax(1), kind)
    assert torch.equal(
        divergence(*top_k_log_probs(TopK.of(teacher, 40, [1.0]), student, 1.0, 0), kind), whole
    )
    assert losses[0] < 0.9 * losses[-1]


def test_the_gradient_is_zero_for_the_teacher_itself() -> None:
    teacher, student = logits(0), logits(0).requires_grad_()
    loss = divergence(*top_k_log_probs(TopK.of(teacher, 5, [1.0]), student, 1.0, 0))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-5


def test_the_kept_probability() -> None:
    teacher = logits(0)
    for column, t in enumerate((0.5, 2.0)):
        expected = (teacher / t).softmax(1).topk(5).values.sum(1)
        torch.testing.assert_close(TopK.of(teacher, 5, [0.5, 2.0]).mass(t, column), expected)
    assert bool((TopK.of(teacher, 40, [1.0]).mass(1.0, 0) == 1).all())


# Cache directory


def cached(
    teacher: Path,
    folder: Path,
    top_k: int,
    temperatures: tuple[float, ...] = (1.0,),
    vocab: int = 512,
) -> CachedTeacher:
    return CachedTeacher(
        TeacherCacheOptions(path=str(folder), top_k=top_k),
        content_hash(teacher),
        vocab,
        temperatures,
    )


@pytest.mark.parametrize("batch", [[0, 1, 2], [2, 5, 3], [5], [4, 4]])
@pytest.mark.parametrize("top_k", [512, 500])
def test_a_batch_has_the_loss_it_has_online(
    top_k: int, batch: list[int], make_model: MakeModel, tmp_path: Path
) -> None:
    """Packed rows, prompts, a row without labels beside others and on its own, and a row twice."""
    path = make_model("qwen2")
    teacher, student = (
        load_model(path).requires_grad_(False),
        load_model(make_model("qwen2", seed=1)),
    )
    cache = cached(path, tmp_path / "cache", top_k, (1.0, 2.0))
    cache.fill(teacher, ROWS, 4)
    rows = torch.stack([ROWS[i] for i in batch])
    for temperature in (1.0, 2.0):
        with torch.no_grad():
            online, offline = (
                LogitDistillation(student, targets, temperature, 0.1, 512)(rows[:, 0], rows[:, 1])
                for targets in (OnlineTeacher(teacher, 512), cache)
            )
        torch.testing.assert_close(offline, online, rtol=1e-5 if top_k == 512 else 1e-2, atol=1e-6)


def test_only_what_is_missing_is_added(make_model: MakeModel, tmp_path: Path) -> None:
    path = make_model("qwen2")
    folder = tmp_path / "cache"
    teacher = load_model(path).requires_grad_(False)
    first = cached(path, folder, 8)
    assert len(list(first.missing([*ROWS, *ROWS]))) == 6
    first.fill(teacher, ROWS[:3], 2)
    again = cached(path, folder, 8)
    assert [
        torch.equal(a, b) for a, b in zip(again.missing([*ROWS, *ROWS]), ROWS[3:], strict=True)
    ] == [True] * 3
    again.fill(teacher, ROWS[3:], 2)
    assert not list(cached(path, folder, 8).missing(ROWS))
    index = json.loads((folder / "teacher.json").read_text())
    assert [shard["rows"] for shard in index["shards"]] == [3, 3]
    assert sum(shard["tokens"] for shard in index["shards"]) == 2 * 11 + 3 * 7 + 11
    assert 0 < index["shards"][0]["least_mass"] < 1
    assert "top 8 of 512 logits of 54 tokens in 6 rows" in again.summary()


def test_shards_are_of_bounded_size(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model("qwen2")
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 8 * 8 * 11)
    cache = cached(path, tmp_path / "cache", 8)
    cache.fill(load_model(path).requires_grad_(False), ROWS, 1)
    assert len(list((tmp_path / "cache").glob("logits-*.safetensors"))) > 3
    assert not list(cached(path, tmp_path / "cache", 8).missing(ROWS))


def test_what_is_not_this_teachers_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    path, other, folder = make_model("qwen2"), make_model("qwen2", seed=1), tmp_path / "cache"
    cached(path, folder, 8).fill(load_model(path).requires_grad_(False), ROWS[:1], 1)
    for make, named in (
        (lambda: cached(other, folder, 8), "another teacher"),
        (lambda: cached(path, folder, 9), "top_k 8, and 9 is asked for"),
        (lambda: cached(path, folder, 8, (2.0,)), "temperatures"),
        (lambda: cached(path, folder, 8, vocab=500), "vocab 512, and 500"),
    ):
        with pytest.raises(UsageError, match=named):
            make()
    shard = next(folder.glob("logits-*"))
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(UsageError, match="damaged or missing"):
        cached(path, folder, 8)
    (folder / "teacher.json").write_text("{}")
    with pytest.raises(UsageError, match="not the index"):
        cached(path, folder, 8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no teacher cache"):
        cached(path, tmp_path / "mine", 8)


# The step


def options(teacher: Path, text_file: Path, **changes: Any) -> DistillOptions:
    settings: dict[str, Any] = {
        "teacher": str(teacher),
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 3,
        "bf16": False,
        "stages": (Stage(loss="logits", steps=6, lr=3e-3, temperature=2.0, hard=0.1),),
    }
    return DistillOptions(**settings | changes)


def test_a_student_learns_the_same_bytes_online_and_offline(
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All logits are kept; the second run loads no teacher."""
    teacher, student = make_model("qwen3"), make_model("qwen3", seed=1, **SMALL)
    cache = {"path": str(tmp_path / "cache"), "top_k": 512}
    distill(options(teacher, text_file), student, tmp_path / "online", context)
    result = distill(
        options(teacher, text_file, teacher_cache=cache), student, tmp_path / "offline", context
    )
    assert (tmp_path / "online" / "model.safetensors").read_bytes() == (
        tmp_path / "offline" / "model.safetensors"
    ).read_bytes()
    assert any("all 512 logits of 414 tokens in 18 rows" in note for note in result.notes)
    loaded: list[Path] = []

    def watched(path: Path, device: str) -> Any:
        loaded.append(path)
        return load_model(path, device)

    for module in (student_module, teacher_module):
        monkeypatch.setattr(module, "load_model", watched)
    distill(options(teacher, text_file, teacher_cache=cache), student, tmp_path / "again", context)
    assert loaded == [student]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "online" / "model.safetensors"
    ).read_bytes()


def test_distilling_from_few_logits_works_too(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama"), make_model("llama", seed=1)
    cache = {"path": str(tmp_path / "cache"), "top_k": 16}
    stages = (Stage(loss="logits", steps=30, lr=3e-3),)
    result = distill(
        options(teacher, text_file, teacher_cache=cache, stages=stages),
        student,
        tmp_path / "out",
        context,
    )
    rows = torch.stack([row[0] for row in context.calibration.rows(teacher, 0)])
    with torch.no_grad():
        expected, before, after = (
            load_model(p)(rows).logits.log_softmax(-1) for p in (teacher, student, tmp_path / "out")
        )
    kl = [float((expected.exp() * (expected - other)).sum(-1).mean()) for other in (before, after)]
    assert kl[1] < 0.8 * kl[0]
    assert any(
        "top 16 of 512 logits" in note and "% of the probability" in note for note in result.notes
    )


def test_rows_of_other_stages_are_not_asked_for(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The first stage uses labels: the cache holds only the rows of the second."""
    teacher = make_model("qwen2")
    stages = (Stage(loss="labels", steps=2), Stage(loss="logits", steps=2))
    cache = {"path": str(tmp_path / "cache"), "top_k": 4}
    result = distill(
        options(teacher, text_file, teacher_cache=cache, stages=stages),
        make_model("qwen2", seed=1),
        tmp_path / "out",
        context,
    )
    assert {name: len(curve) for name, curve in result.details["loss"].items()} == {
        "labels": 2,
        "logits": 2,
    }
    assert any("in 6 rows" in note for note in result.notes)
    distill(
        options(teacher, text_file, teacher_cache=cache, stages=stages),
        make_model("qwen2", seed=1),
        tmp_path / "b",
        replace(context, seed=3),
    )
    assert (
        sum(
            s["rows"]
            for s in json.loads((tmp_path / "cache" / "teacher.json").read_text())["shards"]
        )
        > 6
    )


def test_stages_that_a_cache_cannot_serve(text_file: Path) -> None:
    cache = {"path": "cache"}
    assert [stage.loss for stage in DistillOptions(teacher="x", teacher_cache=cache).stages] == [
        "logits"
    ]
    with pytest.raises(ValueError, match="holds no hidden states"):
        DistillOptions(
            teacher="x",
            teacher_cache=cache,
            stages=({"loss": "hidden", "steps": 1}, {"loss": "logits", "steps": 1}),
        )
    with pytest.raises(ValueError, match="no stage uses them"):
        DistillOptions(teacher=None, teacher_cache=cache)


def test_by_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    common = [
        make_model("qwen2", seed=1),
        "--teacher",
        make_model("qwen2"),
        "--data",
        f"text:{text_file}",
        "--seq-len",
        24,
        "--batch-size",
        2,
    ]
    cache = [
        "--teacher-cache",
        tmp_path / "cache",
        "--top-k",
        32,
        "--logit-steps",
        2,
        "--divergence",
        "js",
    ]
    code, out, _ = cli("distill", *common, *cache, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert list(json.loads(out)["details"]["loss"]) == ["logits"]
    written = json.loads((tmp_path / "out" / "edgewright.json").read_text())["options"]
    assert written["teacher_cache"] == {"path": str(tmp_path / "cache"), "top_k": 32}
    assert written["stages"][0]["divergence"] == "js"
    code, _, err = cli("distill", *common, *cache, "--top-k", 8, "--out", tmp_path / "no")
    assert code == 2
    assert "top_k 32, and 8 is asked for" in err
    code, _, err = cli("distill", *common, *cache, "--hidden-steps", 3, "--out", tmp_path / "no")
    assert code == 2
    assert "hidden states" in err
    assert not (tmp_path / "no").exists()
