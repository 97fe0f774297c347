"""Attention maps aligned beside hidden states: their divergence, its effect, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from interruptions import before_step, interrupt
from pydantic import ValidationError
from torch import Tensor

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill import attention as attention_module
from edgewright.compress.distill.attention import (
    AttentionAlignment,
    check_maps,
    eager_attention,
    summarize_maps,
)
from edgewright.compress.distill.losses import attention_kl
from edgewright.compress.distill.objectives import HiddenAlignment
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.errors import Refused, UsageError
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
IDS = torch.arange(72).view(3, 24) * 7 % 512


def options(text_file: Path, teacher: Path, *stages: Stage, **changes: Any) -> DistillOptions:
    settings = {
        "teacher": str(teacher),
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
        "save_every": 2,
    }
    return DistillOptions(**settings | {"stages": stages} | changes)


def hidden(steps: int = 4, **changes: Any) -> Stage:
    return Stage(loss="hidden", **{"steps": steps, "lr": 3e-3, "attention": 0.5} | changes)


def some_maps(seed: int, heads: int) -> Tensor:
    """Return causal attention maps."""
    scores = torch.randn(2, heads, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2
    return scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)


def test_the_divergence_of_maps_by_hand() -> None:
    student, teacher = some_maps(0, 4), some_maps(1, 4)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        rows = [
            (p[..., i, : i + 1] * (p[..., i, : i + 1] / q[..., i, : i + 1]).log()).sum(-1)
            for i in range(5)
        ]
        return torch.stack(rows).mean()

    torch.testing.assert_close(attention_kl(student, teacher), kl(teacher, student))
    torch.testing.assert_close(
        attention_kl(student[:, :2], teacher), kl(teacher.mean(1), student[:, :2].mean(1))
    )
    assert float(attention_kl(teacher.clone(), teacher)) == pytest.approx(0, abs=1e-7)
    scores = torch.randn(2, 4, 5, 5).requires_grad_()
    attention_kl(scores.softmax(-1), teacher).backward()
    assert scores.grad is not None and bool(scores.grad.isfinite().all())


@pytest.mark.parametrize("family", [*DENSE, "qwen3_moe"])
def test_the_objective_is_hidden_states_plus_a_share_of_maps(
    family: str, make_model: MakeModel
) -> None:
    teacher, student = load_model(make_model(family)), load_model(make_model(family, seed=1))
    depth = student.config.num_hidden_layers
    with torch.no_grad(), eager_attention(student, teacher):
        maps = [
            model(input_ids=IDS, output_attentions=True).attentions for model in (student, teacher)
        ]
        expected = torch.stack([attention_kl(*pair) for pair in zip(*maps, strict=True)]).mean()
        apart = float(HiddenAlignment(student, teacher)(IDS, IDS))
        assert len(maps[0]) == depth and float(expected) > 0.1
        found = float(AttentionAlignment(student, teacher, None, 0.25)(IDS, IDS))
        assert found == pytest.approx(apart + 0.25 * float(expected), rel=1e-5)
        assert float(AttentionAlignment(teacher, teacher, None, 1.0)(IDS, IDS)) == pytest.approx(
            0, abs=1e-6
        )
        crossed = float(AttentionAlignment(student, teacher, [(1, 2)], 1.0)(IDS, IDS))
        assert crossed == pytest.approx(
            float(
                HiddenAlignment(student, teacher, [(1, 2)])(IDS, IDS)
                + attention_kl(maps[0][0], maps[1][1])
            ),
            rel=1e-5,
        )
    assert [model.config._attn_implementation for model in (student, teacher)] == ["sdpa", "sdpa"]


def divergence_of_maps(folder: Path, teacher: Path) -> float:
    one, other = load_model(folder), load_model(teacher)
    with torch.no_grad(), eager_attention(one, other):
        return float(
            AttentionAlignment(one, other, [(2, 3)], 1.0)(IDS, IDS)
            - HiddenAlignment(one, other, [(2, 3)])(IDS, IDS)
        )


def test_maps_come_nearer_to_the_teachers(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The student has half the heads."""
    teacher, student = (
        make_model("llama"),
        make_model("llama", seed=1, num_attention_heads=4, **SMALL),
    )
    found = {}
    for name, weight in (("with", 5.0), ("without", 0.0)):
        result = distill(
            options(text_file, teacher, hidden(30, attention=weight)),
            student,
            tmp_path / name,
            context,
        )
        found[name] = divergence_of_maps(tmp_path / name, teacher)
        assert any("averaged over heads" in note for note in result.notes) is bool(weight)
    assert found["with"] < 0.7 * found["without"]


def test_recomputed_layers_give_the_same(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("qwen2"), make_model("qwen2", seed=1, **SMALL)
    curves = [
        distill(
            options(text_file, teacher, hidden(), **changes), student, tmp_path / name, context
        ).details["loss"]["hidden"]
        for name, changes in (("plain", {}), ("again", {"checkpoint_layers": True}))
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_a_killed_run_resumes_to_the_same(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The next stage has its usual attention implementation again."""
    teacher, student = (
        make_model("llama", **SMALL),
        make_model("llama", seed=1, hidden_size=64, **SMALL),
    )
    asked = options(text_file, teacher, hidden(5), Stage(loss="logits", steps=3))
    named = replace(context, depends_on={"this": 1})
    whole = distill(asked, student, tmp_path / "whole", named)
    seen: list[str] = []
    with before_step(6, lambda run: seen.append(run.objective.student.config._attn_implementation)):
        distill(asked, student, tmp_path / "seen", context)
    with before_step(3, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    again = distill(asked, student, tmp_path / "out", named)
    assert again.details == whole.details
    assert seen == ["sdpa"]
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_the_memory_of_maps_is_reported_and_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = (
        read_architecture(make_model("llama")),
        read_architecture(make_model("llama", seed=1, num_attention_heads=4, **SMALL)),
    )
    line = summarize_maps(*models, 8, 1000, "cpu")
    assert line.startswith(
        "attention maps of 8 rows of 1000 tokens take 1 GB at a time"
    )  # 4 * 8 * 1000^2 * (24 + 8)
    monkeypatch.setattr(attention_module, "free_memory", lambda device: 10**9)
    with pytest.raises(Refused, match="take 1 GB at a time, and 1 GB are free"):
        summarize_maps(*models, 8, 1000, "cpu")


def test_maps_that_cannot_be_compared_are_refused(
    make_model: MakeModel, text_file: Path, tmp_path: Path, context: StepContext
) -> None:
    teacher, student = make_model("llama"), make_model("mistral", seed=1, **SMALL)
    models = read_architecture(teacher), read_architecture(student)
    with pytest.raises(
        Refused, match=r"layers \[1, 2\]: the student's sees 16 tokens back and the teacher's 24"
    ):
        check_maps(*models, None, 24)
    check_maps(*models, None, 16)
    check_maps(models[1], models[0], [(3, 2)], 24)  # a teacher that sees less
    with pytest.raises(UsageError, match=r"layers \[1, 0\]: 0 is the embedding"):
        distill(
            options(text_file, teacher, hidden(layers=((1, 0),))),
            make_model("llama", seed=1, **SMALL),
            tmp_path / "out",
            context,
        )
    with pytest.raises(ValidationError, match="no place in the stage `logits`"):
        Stage(loss="logits", steps=1, attention=0.1)
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"model: {teacher}\nsteps:\n  - {{kind: distill, student: {student}, "
        f"data: 'text:{text_file}', seq_len: 24, "
        "stages: [{loss: hidden, steps: 1, attention: 1.0}]}\n"
    )
    with pytest.raises(Refused, match="sees 16 tokens back"):
        plan_recipe(load_recipe(file))


def test_attention_from_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    student, teacher = make_model("llama", seed=1, **SMALL), make_model("llama", **SMALL)
    what = (
        "distill",
        student,
        "--teacher",
        teacher,
        "--data",
        f"text:{text_file}",
        "--hidden-steps",
        2,
        "--logit-steps",
        1,
    )
    more = (
        "--attention",
        0.5,
        "--seq-len",
        16,
        "--batch-size",
        4,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    code, out, err = cli(*what, *more, "--json")
    assert code == 0, err
    assert "attention maps of 4 rows of 16 tokens" in out
