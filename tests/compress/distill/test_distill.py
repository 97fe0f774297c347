"""Distillation: a student learns, the same way every time, and the vocabularies must fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import logit_kl
from torch import Tensor, nn

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.checks import SharedVocabulary, shared_vocabulary
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.prepared_objective import batches
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.trainer import TrainConfig, train
from edgewright.errors import EdgewrightError, Refused, UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}


# Training loop


class Square(nn.Module):
    """Its minimum is where the weight is 3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        return (self.weight - 3).square() * ids.float().mean().clamp(1, 1) + 0 * labels.sum()


ROW = torch.ones(2, 4, dtype=torch.int64)
QUIET = TrainConfig(steps=200, lr=0.1, batch_size=2, weight_decay=0.0, bf16=False)


def endless() -> Any:
    while True:
        yield ROW


def test_training_minimises() -> None:
    model = Square()
    losses = train(model, endless(), QUIET)
    assert len(losses) == 200
    assert losses[0] == pytest.approx(9)
    assert float(model.weight.detach()) == pytest.approx(3, abs=0.05)


def test_training_stops_where_it_makes_no_sense() -> None:
    with pytest.raises(EdgewrightError, match="ran out at step 3 of 200"):
        train(Square(), [ROW] * 6, QUIET)
    broken = Square()
    nn.init.constant_(broken.weight, float("inf"))
    with pytest.raises(EdgewrightError, match="the loss became inf at step 0") as caught:
        train(broken, endless(), QUIET)
    assert "learning rate" in caught.value.hint


def test_batches() -> None:
    rows = [torch.full((2, 3), i) for i in range(5)]
    assert [(b.shape[0], int(b[0, 0, 0])) for b in batches(rows, 2)] == [(2, 0), (2, 2), (1, 4)]


# Step


def options(teacher: Path, text_file: Path, steps: int = 30, **changes: Any) -> DistillOptions:
    stages = (
        Stage(loss="hidden", steps=steps, lr=3e-3),
        Stage(loss="logits", steps=steps, lr=3e-3, temperature=2.0, hard=0.1),
    )
    settings = {
        "teacher": str(teacher),
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "stages": stages,
        "bf16": False,
    }
    return DistillOptions(**settings | changes)


def test_a_student_learns_and_the_teacher_stays(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("qwen3"), make_model("qwen3", seed=1, hidden_size=256, **SMALL)
    before = (
        (teacher / "model.safetensors").read_bytes(),
        (student / "model.safetensors").read_bytes(),
    )
    result = distill(options(teacher, text_file), student, tmp_path / "out", context)
    assert before == (
        (teacher / "model.safetensors").read_bytes(),
        (student / "model.safetensors").read_bytes(),
    )
    losses = result.details["loss"]
    assert {name: len(curve) for name, curve in losses.items()} == {"hidden": 30, "logits": 30}
    for curve in losses.values():
        assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    old, new = read_state(student), read_state(tmp_path / "out")
    assert {k: (v.shape, v.dtype) for k, v in new.items()} == {
        k: (v.shape, v.dtype) for k, v in old.items()
    }
    assert not torch.equal(new["lm_head.weight"], old["lm_head.weight"])
    assert read_config(tmp_path / "out")["rope_theta"] == 500000.0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        student / "tokenizer.json"
    ).read_bytes()
    assert any(f"{60 * 4 * 24:,} tokens seen" in note for note in result.notes)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    load_model(tmp_path / "out")


def test_a_step_nearer_to_the_teacher(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama"), make_model("llama", seed=1)
    only_logits = options(teacher, text_file, stages=(Stage(loss="logits", steps=30, lr=3e-3),))
    distill(only_logits, student, tmp_path / "out", context)
    rows = torch.stack([row[0] for row in context.calibration.rows(teacher, 0)])
    with torch.no_grad():
        expected, before, after = (
            load_model(p)(input_ids=rows).logits for p in (teacher, student, tmp_path / "out")
        )
    assert logit_kl(after, expected, rows) < 0.8 * logit_kl(before, expected, rows)


def test_same_seed_same_bytes(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = (
        make_model("qwen2"),
        make_model("qwen2", seed=1, dtype="bfloat16", hidden_size=256, **SMALL),
    )
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        distill(
            options(teacher, text_file, steps=3),
            student,
            tmp_path / name,
            replace(context, seed=seed),
        )
    one, two, three = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three
    state = read_state(tmp_path / "one")
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in state


def test_a_student_is_cut_when_asked(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher = make_model("llama")
    student = {"from": str(teacher), "ffn": 0.5, "layers": 1, "criterion": "magnitude"}
    result = distill(
        options(teacher, text_file, steps=2, student=student, bf16=True),
        teacher,
        tmp_path / "out",
        context,
    )
    config = read_config(tmp_path / "out")
    assert (config["intermediate_size"], config["num_hidden_layers"]) == (256, 2)
    assert any(note.startswith("student: FFN 512 -> 256, layers 3 -> 2") for note in result.notes)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    written = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert written["options"]["student"]["ffn"] == 0.5


def test_two_stages_of_a_kind_keep_both_curves(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    stages = tuple(Stage(loss="logits", steps=n) for n in (1, 2))
    result = distill(
        options(make_model("llama"), text_file, stages=stages),
        make_model("llama", seed=1),
        tmp_path / "out",
        context,
    )
    assert [len(curve) for curve in result.details["loss"].values()] == [1, 2]


# Vocabularies


def exchange(folder: Path, first: int, second: int) -> None:
    """Swap two tokens of a tokenizer."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    names = {i: name for name, i in vocab.items()}
    vocab[names[first]], vocab[names[second]] = second, first
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_other_tokenizers_are_refused(
    make_model: MakeModel,
    copy_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    student = copy_model("llama", seed=1)
    exchange(student, 301, 400)
    with pytest.raises(Refused, match="id 301 is") as caught:
        distill(options(make_model("llama"), text_file), student, tmp_path / "out", context)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def rename(folder: Path, number: int, name: str) -> None:
    """Give an added token another name."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (token,) = (one for one in tokenizer["added_tokens"] if one["id"] == number)
    del tokenizer["model"]["vocab"][token["content"]]
    token["content"], tokenizer["model"]["vocab"][name] = name, number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_added_tokens_of_other_names_go_with_the_teachers_tokenizer(
    make_model: MakeModel,
    copy_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    """DeepSeek-R1's distilled Qwen names the tokens of a conversation otherwise than Qwen."""
    teacher, student = make_model("qwen2", vocab_size=640), copy_model("qwen2", seed=1, **SMALL)
    rename(student, 1, "<|im_start|>")
    (student / "config.json").write_text(json.dumps(read_config(student) | {"eos_token_id": 7}))
    result = distill(options(teacher, text_file, steps=2), student, tmp_path / "out", context)
    renamed = (
        "1 added tokens have other names (id 1: teacher '<|user|>', student '<|im_start|>'): "
        "the student is written with the teacher's tokenizer"
    )
    assert result.notes[-2:] == [
        "logits cut to the 512 ids both models have (teacher 640, student 512)",
        renamed,
    ]
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        teacher / "tokenizer.json"
    ).read_bytes()
    config = read_config(tmp_path / "out")
    assert (config["eos_token_id"], config["vocab_size"]) == (0, 512)
    load_model(tmp_path / "out")
    exchange(student, 301, 400)
    with pytest.raises(Refused, match="id 301 is"):
        shared_vocabulary(teacher, student)


def test_padding_of_the_vocabulary_is_cut(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("qwen2", vocab_size=640), make_model("qwen2", seed=1)
    cut = "logits cut to the 512 ids both models have (teacher 640, student 512)"
    assert shared_vocabulary(teacher, student) == SharedVocabulary(512, student, [cut])
    assert shared_vocabulary(student, teacher).size == 512
    assert shared_vocabulary(student, student) == SharedVocabulary(512, student, [])
    result = distill(options(teacher, text_file, steps=2), student, tmp_path / "out", context)
    assert any("teacher 640, student 512" in note for note in result.notes)
    assert len(read_state(tmp_path / "out")["model.embed_tokens.weight"]) == 512
    distill(options(student, text_file, steps=2), teacher, tmp_path / "wide", context)
    assert len(read_state(tmp_path / "wide")["model.embed_tokens.weight"]) == 640


def test_packed_checkpoints_cannot_be_trained(
    make_model: MakeModel,
    copy_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    packed = copy_model("llama")
    config = read_config(packed) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot be trained"):
        distill(options(make_model("llama"), text_file), packed, tmp_path / "out", context)
    assert shared_vocabulary(packed, make_model("llama")).size == 512
