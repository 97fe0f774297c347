"""Recovery after pruning: training on data alone, and adapters that are merged into the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from pydantic import ValidationError
from torch import Tensor
from typer.testing import CliRunner

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.cli import app
from edgewright.compress.distill.lora import LoraOptions, adapted_matrices, lora_adapters
from edgewright.compress.distill.losses import next_token_loss
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import UsageError
from edgewright.models import architecture
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]
IDS = torch.arange(1, 49).view(2, -1) * 7 % 500
LABELS = (Stage(loss="labels", steps=30, lr=3e-3),)


def options(text_file: Path, **changes: Any) -> DistillOptions:
    settings: dict[str, Any] = {
        "teacher": None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "stages": LABELS,
        "bf16": False,
    }
    return DistillOptions(**{"bf16": False} | settings | changes)


def changed(before: Path, after: Path) -> set[str]:
    """The modules whose tensors differ (`q_proj`, `norm`, ...)."""
    old, new = read_state(before), read_state(after)
    assert {k: (v.shape, v.dtype) for k, v in new.items()} == {
        k: (v.shape, v.dtype) for k, v in old.items()
    }
    return {name.split(".")[-2] for name in old if not torch.equal(old[name], new[name])}


def held_out(folder: Path) -> float:
    """Next-token loss on rows of the built-in tasks that training never sees."""
    rows = torch.stack(
        CalibrationData("builtin:reasoning", samples=8, seq_len=64).rows(folder, seed=77)
    )
    with torch.no_grad():
        return float(
            next_token_loss(
                load_model(folder)(input_ids=rows[:, 0], use_cache=False).logits, rows[:, 0]
            )
        )


# No teacher


@pytest.mark.parametrize("loss", ["hidden", "logits"])
def test_only_labels_can_be_learned_without_a_teacher(loss: str) -> None:
    with pytest.raises(ValidationError, match=f"`{loss}` needs a teacher, and there is none"):
        DistillOptions(teacher=None, stages=({"loss": loss, "steps": 1},))
    assert DistillOptions(teacher="none") == DistillOptions(teacher=None)
    assert [s.loss for s in DistillOptions(teacher=None).stages] == ["labels"]
    assert [s.loss for s in DistillOptions().stages] == ["hidden", "logits"]


@pytest.mark.parametrize("lora", [None, LoraOptions(r=8, alpha=16)], ids=["all", "lora"])
def test_a_pruned_model_recovers_without_a_teacher(
    lora: LoraOptions | None, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    pruned = tmp_path / "pruned"
    prune(
        PruneOptions(heads=0.25, ffn=0.5, criterion="magnitude"),
        make_model("qwen2"),
        pruned,
        context,
    )
    result = distill(
        DistillOptions(
            teacher=None,
            data="builtin:reasoning",
            lora=lora,
            seq_len=64,
            batch_size=4,
            bf16=False,
            stages=LABELS,
        ),
        pruned,
        tmp_path / "out",
        context,
    )
    assert held_out(tmp_path / "out") < held_out(pruned) - 0.2
    curve = result.details["loss"]["labels"]
    assert sum(curve[-5:]) < 0.95 * sum(curve[:5])
    written = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert written["teacher"] is None
    assert changed(pruned, tmp_path / "out") == (
        {"q_proj", "v_proj"} if lora else {n.split(".")[-2] for n in read_state(pruned)}
    )
    assert any(f"{30 * 4 * 64:,} tokens seen" in note for note in result.notes)


def test_learning_from_labels_can_follow_a_teacher(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    stages = (Stage(loss="logits", steps=3), Stage(loss="labels", steps=4))
    result = distill(
        options(text_file, teacher=str(make_model("llama")), stages=stages),
        make_model("llama", seed=1),
        tmp_path / "out",
        context,
    )
    assert {name: len(curve) for name, curve in result.details["loss"].items()} == {
        "logits": 3,
        "labels": 4,
    }


# Adapters


def test_targets(make_model: MakeModel) -> None:
    model = architecture(read_config(make_model("llama")))
    attention, ffn = model.layers[0].attention, model.layers[0].dense_ffn
    assert ffn
    assert adapted_matrices(model, LoraOptions()) == (attention.q.name, attention.v.name)
    assert adapted_matrices(model, LoraOptions(targets=("down_proj", "k_proj", "down_proj"))) == (
        ffn.down.name,
        attention.k.name,
    )
    with pytest.raises(UsageError, match="lora targets qkv: no matrix") as caught:
        adapted_matrices(model, LoraOptions(targets=("q_proj", "qkv")))
    assert (
        caught.value.hint
        == "choose from q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )


@pytest.mark.parametrize("family", DENSE)
def test_the_scaled_product_is_merged(family: str, make_model: MakeModel) -> None:
    folder = make_model(family)
    student = load_model(folder)
    names = architecture(read_config(folder))
    before = {k: v.clone() for k, v in student.state_dict().items()}
    parts: dict[str, Tensor] = {}
    with lora_adapters(
        student, names, LoraOptions(r=4, alpha=12, targets=("o_proj", "up_proj"))
    ) as count:
        for key, parameter in student.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(
                    parameter, generator=torch.Generator().manual_seed(len(parts))
                )
                parts[key] = parameter.detach().clone()
        with torch.no_grad():
            expected = student(input_ids=IDS, use_cache=False).logits
    assert count == sum(p.numel() for p in parts.values()) == 3 * 4 * (512 + 128 + 128 + 512)
    after = student.state_dict()
    assert list(after) == list(before)
    for key, weight in before.items():
        module = key.removesuffix(".weight")
        a, b = (parts.get(f"{module}.lora_{x}.default.weight") for x in "AB")
        if a is None or b is None:
            assert torch.equal(after[key], weight)
        else:
            torch.testing.assert_close(after[key], weight + 12 / 4 * b @ a)
    assert len(parts) == 2 * 2 * 3
    with torch.no_grad():
        torch.testing.assert_close(
            student(input_ids=IDS, use_cache=False).logits, expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("taught", [False, True])
def test_adapters_learn(
    optimizer: str,
    taught: bool,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    source = make_model("qwen3", seed=1)
    teacher = make_model("qwen3", hidden_size=256)
    stages = (
        (Stage(loss="hidden", steps=20, lr=1e-2), Stage(loss="logits", steps=30, lr=1e-2))
        if taught
        else LABELS
    )
    lora = LoraOptions(targets=("k_proj", "down_proj"))
    asked = options(
        text_file,
        teacher=str(teacher) if taught else None,
        stages=stages,
        lora=lora,
        optimizer=optimizer,
    )
    result = distill(asked, source, tmp_path / "out", context)
    for curve in result.details["loss"].values():
        assert sum(curve[-5:]) < 0.97 * sum(curve[:5])
    assert changed(source, tmp_path / "out") == {"k_proj", "down_proj"}
    assert any(
        note.startswith("adapters of rank 16 on k_proj, down_proj, merged: ")
        for note in result.notes
    )
    load_model(tmp_path / "out")


def test_same_seed_same_adapters(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    source = make_model("qwen2", dtype="bfloat16")
    for name in ("one", "two"):
        distill(
            options(text_file, lora=LoraOptions(), stages=(Stage(loss="labels", steps=3),)),
            source,
            tmp_path / name,
            context,
        )
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_unknown_targets_leave_nothing(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="lora targets c_attn"):
        distill(
            options(text_file, lora=LoraOptions(targets=("c_attn",))),
            make_model("llama"),
            tmp_path / "out",
            context,
        )
    assert not list(tmp_path.iterdir())


# The command line


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def test_recovery_from_the_command_line(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    source = make_model("llama")
    out = tmp_path / "out"
    what = [
        "distill",
        str(source),
        "--teacher",
        "none",
        "--data",
        f"text:{text_file}",
        "--out",
        str(out),
        "--json",
        "--device",
        "cpu",
    ]
    sizes = ["--label-steps", "2", "--seq-len", "16", "--batch-size", "2"]
    done = run(*what, *sizes, "--lora", "4", "--lora-alpha", "8", "--lora-targets", "v_proj")
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["details"]["loss"]) == ["labels"]
    assert changed(source, out) == {"v_proj"}
    written = json.loads((out / "edgewright.json").read_text())["options"]
    assert (written["teacher"], written["lora"]) == (
        None,
        {"r": 4, "alpha": 8, "targets": ["v_proj"]},
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--logit-steps", "5"], "`logits` needs a teacher"),
        (["--lora-targets", "v_proj"], "--lora-targets needs --lora"),
        (["--lora", "4", "--lora-targets", "attn"], "choose from q_proj"),
        (["--label-steps", "0"], "at least 1 item"),
    ],
)
def test_what_makes_no_sense_is_refused(
    extra: list[str], message: str, make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    what = [
        "distill",
        str(make_model("llama")),
        "--teacher",
        "none",
        "--data",
        f"text:{text_file}",
        "--out",
        str(tmp_path / "out"),
    ]
    failed = run(*what, *extra)
    assert isinstance(failed.exception, UsageError)
    assert message in f"{failed.exception} {failed.exception.hint}"
    assert not list(tmp_path.iterdir())


def test_recovery_in_a_recipe(make_model: MakeModel, text_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "recover.yaml"
    file.write_text(
        f"model: {make_model('llama')}\n"
        "steps:\n"
        "  - {kind: prune, ffn: 0.5}\n"
        f"  - {{kind: distill, teacher: null, data: 'text:{text_file}', "
        "lora: {r: 4, targets: [q_proj, o_proj]}}\n"
    )
    recipe = load_recipe(file)
    step = recipe.steps[1]
    assert isinstance(step, DistillOptions)
    assert (step.teacher, step.lora) == (None, LoraOptions(r=4, targets=("q_proj", "o_proj")))
    assert [stage.loss for stage in step.stages] == ["labels"]
    assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe
    adapters, everything = (
        plan_recipe(load_recipe(file, extra))[2]["ram_bytes"]
        for extra in ([], ["steps.distill.lora=null"])
    )
    assert adapters < everything
    with pytest.raises(
        UsageError,
        match=r"--set steps.distill.stages=.*: `steps.1.stages`: `hidden` needs a teacher",
    ):
        load_recipe(file, ["steps.distill.stages=[{loss: hidden, steps: 1}]"])
