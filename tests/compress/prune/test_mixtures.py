"""Mixtures of experts in the rest of the toolkit: planned, distilled, measured and reported, or refused in one clear message."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from known_models import AGX
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from edgewright.benchmarks.report.report import render_html, render_markdown
from edgewright.checkpoints.files import read_config, read_state
from edgewright.checkpoints.layouts import Scheme, pack_int8
from edgewright.checkpoints.layouts.w8a8 import CompressedTensors
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.runner import DistillOptions, Stage, distill
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import Refused, UsageError
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models import architecture
from edgewright.models.footprint import read_size, size_of
from edgewright.pipeline.forecast import plan_model
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext
from edgewright.steps.state import State
from edgewright.targets import load_target, predict

MakeModel = Callable[..., Path]
ATTENTION = 2 * 2048 * 128 * (32 + 4)
"""Weights of q, k, v and o in a layer of `A3B`."""
EXPERT = 3 * 2048 * 768
A3B = architecture(
    {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }
)


# Sizes and speeds


def test_all_experts_are_stored_and_those_in_use_are_read() -> None:
    rest = (
        2 * 151936 * 2048 + 2048 + 48 * (2 * 2048 + 2 * 128 + 128 * 2048)
    )  # embedding, head, norms and routers
    every, used = (48 * (ATTENTION + n * EXPERT) for n in (128, 8))
    assert State(A3B, "fp16").parameters - State(A3B, "fp16").active_parameters == every - used
    assert size_of(A3B, "fp16") == 2 * (every + rest)
    assert read_size(A3B, "fp16", 128, 2) == 2 * (used + rest - 151936 * 2048)
    assert size_of(A3B, "int4") == every // 2 + 2 * every // 128 + 2 * rest
    two = 48 * (
        ATTENTION + (8 + 8 * 120 / 128) * EXPERT
    )  # the second token's experts, less those that the first one has
    assert read_size(A3B, "fp16", 128, 2, tokens=2) == 2 * (two + rest - 151936 * 2048)
    assert (
        read_size(A3B, "fp16", 128, 2, tokens=100_000) == size_of(A3B, "fp16") - 2 * 151936 * 2048
    )


def test_a_dense_layer_among_the_others_is_counted_as_one() -> None:
    some = A3B.with_config(mlp_only_layers=[0, 5])
    assert size_of(some, "fp16") - size_of(A3B, "fp16") == 2 * 2 * (
        3 * 2048 * 6144 - 128 * EXPERT - 128 * 2048
    )


def test_speed_goes_by_the_mean_of_all_and_of_active_weights() -> None:
    target = load_target(AGX)
    mixture = predict(target, A3B, precision="int4")
    (note,) = (note for note in mixture.notes if "mixture" in note)
    read, every = (read_size(A3B, "int4", 128, 2, tokens=tokens) for tokens in (1, None))
    assert f"reads {read / 1e9:.2f} GB of {every / 1e9:.2f} GB" in note
    assert f"as long as {math.sqrt(read * every) / 1e9:.2f} GB" in note
    dense = A3B.with_config(model_type="qwen3", tie_word_embeddings=False)

    def of_size(weights):
        size = round((weights / 48 - ATTENTION) / (3 * 2048))
        return dense.with_config(intermediate_size=size)

    slow, fast = (
        predict(target, of_size(48 * (ATTENTION + n * EXPERT)), precision="int4").decode_tok_s
        or 0.0
        for n in (128, 8)
    )
    assert mixture.decode_tok_s
    assert 1.5 * slow < mixture.decode_tok_s < fast / 1.5
    assert mixture.weight_bytes == size_of(A3B, "int4")


# Published figures of the one mixture that Orin boards were measured with: 35 billion parameters, 3 of them active.
CLOSE = architecture(
    {
        "model_type": "qwen2_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "vocab_size": 248320,
    }
)


@pytest.mark.parametrize(
    ("engine", "measured"), [("edge-llm", 31.0), ("vllm", 31.4), ("llama.cpp", 22.5)]
)
def test_a_measured_mixture_is_predicted_within_a_third(engine: str, measured: float) -> None:
    """A stand-in of the same size for its hybrid attention; by active weights alone it would be twice too fast."""
    got = predict(
        load_target(AGX),
        CLOSE,
        precision="int4",
        context=512,
        prompt=256,
        engine=engine,
        power_mode="MAXN",
    ).decode_tok_s
    assert got == pytest.approx(measured, rel=1 / 3)


# Plans


def recipe(model: Path, *steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"model": str(model), "target": AGX, "steps": steps})


@pytest.mark.parametrize("family", MIXTURES)
def test_a_planned_cut_is_the_cut_that_is_made(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, options = make_model(family), {"experts": 0.25, "heads": 0.5, "layers": 1}
    planned = plan_recipe(recipe(source, {"kind": "prune", **options}))[-1]
    prune(PruneOptions(**options, criterion="magnitude"), source, tmp_path / "out", context)
    config = read_config(tmp_path / "out")
    gap = architecture(config).parameters - planned["parameters"]
    # Which layer goes is not known beforehand: a dense one may be larger or smaller than one with experts.
    assert gap == 0 if family == "mixtral" else abs(gap) < 0.2 * planned["parameters"]
    assert planned["seconds"] > 0
    without = plan_recipe(recipe(source, {"kind": "prune", "experts": 0.25}))[-1]
    prune(PruneOptions(experts=0.25, compensate=False), source, tmp_path / "experts", context)
    config = read_config(tmp_path / "experts")
    assert (
        without["parameters"]
        == architecture(config).parameters
        == load_model(tmp_path / "experts").num_parameters()
    )


def test_a_plan_of_a_mixture_covers_every_board(make_model: MakeModel) -> None:
    rows = plan_model(str(make_model("qwen3_moe")), "all")
    assert {row["precision"] for row in rows} == {"fp16", "int8", "int4"}
    assert all(any("mixture" in note for note in row["notes"]) for row in rows)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"kind": "quantize", "method": "awq"}, "the router reads too"),
        ({"kind": "export"}, "exported"),
        ({"kind": "prune", "ffn": 0.5}, "FFN neurons"),
        ({"kind": "prune", "experts": 0.95}, "a token goes to 2"),
        ({"kind": "prune", "experts": 0.01}, "less than one"),
    ],
)
def test_a_plan_refuses_what_the_step_would(
    step: dict[str, Any], words: str, make_model: MakeModel
) -> None:
    with pytest.raises(Refused, match=words):
        plan_recipe(recipe(make_model("mixtral"), step))


# Steps


@pytest.mark.parametrize("family", MIXTURES)
def test_exports_refuse(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family)
    for precision in ("fp32", "int8-dynamic"):
        with pytest.raises(Refused, match="cannot be exported yet"):
            export(ExportOptions(precision=precision), source, tmp_path / "out", context)
    with pytest.raises(Refused, match="cannot be made 2:4 sparse yet"):
        prune(PruneOptions(sparsity="2:4", heads=0.5), source, tmp_path / "out", context)
    assert not (tmp_path / "out").exists()


def test_a_packed_mixture_of_another_tool_is_refused(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """One whose experts round their inputs cannot be run here; none can be pruned."""
    source = copy_model("qwen3_moe")
    config, state = read_config(source), read_state(source)
    name = "model.layers.1.mlp.experts.0.up_proj"
    state |= {
        f"{name}.{part}": tensor
        for part, tensor in CompressedTensors()
        .write(pack_int8(state[f"{name}.weight"], None))
        .items()
    }
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    block = CompressedTensors().config(Scheme(8, -1), 0.0)
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": block}))
    with pytest.raises(Refused, match=rf"{name}: experts whose inputs are rounded"):
        load_model(source)
    with pytest.raises(Refused, match="quantized already"):
        prune(PruneOptions(experts=0.25), source, tmp_path / "out", context)


@pytest.mark.parametrize(
    ("family", "optimizer"), [*((name, "adamw") for name in MIXTURES), ("qwen2_moe", "muon")]
)
def test_a_pruned_mixture_learns(
    family: str,
    optimizer: Any,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    """And is saved as files have it, one tensor an expert."""
    teacher, other = make_model(family), make_model(family, seed=1)
    cut = {"experts": 0.5, "layers": 1}
    options = DistillOptions(
        teacher=str(teacher),
        student={"from": str(other), **cut},
        data=f"text:{text_file}",
        seq_len=24,
        batch_size=4,
        bf16=False,
        stages=(Stage(loss="logits", steps=30, lr=3e-3),),
        optimizer=optimizer,
    )
    curve = distill(options, teacher, tmp_path / "out", context).details["loss"]["logits"]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    prune(PruneOptions(**cut), other, tmp_path / "cut", context)
    before, after = read_state(tmp_path / "cut"), read_state(tmp_path / "out")
    assert {key: tensor.shape for key, tensor in after.items()} == {
        key: tensor.shape for key, tensor in before.items()
    }
    experts = [key for key in after if ".experts." in key]
    assert sum(not torch.equal(after[key], before[key]) for key in experts) > 0.9 * len(experts)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_adapters_on_the_attention_of_a_mixture(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    source = make_model("qwen2_moe")
    settings = {
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
        "stages": [{"loss": "labels", "steps": 3}],
        "teacher": None,
    }
    distill(
        DistillOptions.model_validate(settings | {"lora": {"r": 4}}),
        source,
        tmp_path / "out",
        context,
    )
    before, after = read_state(source), read_state(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {key.split(".", 3)[3] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"self_attn.q_proj.weight", "self_attn.v_proj.weight"}
    with pytest.raises(
        UsageError, match=r"lora targets mlp\.up_proj: no linear layer in this model"
    ):
        distill(
            DistillOptions.model_validate(settings | {"lora": {"targets": ["up_proj"]}}),
            source,
            tmp_path / "no",
            context,
        )


# The command line and the report


def test_experts_on_the_command_line(
    make_model: MakeModel, text_file: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    model, few = (
        make_model("mixtral"),
        ["--calibration", f"text:{text_file}", "--samples", 4, "--seq-len", 32, "--device", "cpu"],
    )
    code, out, err = cli(
        "prune", model, "--experts", 0.25, "--out", tmp_path / "out", "--json", *few
    )
    assert code == 0, err
    told = json.loads(out)
    assert any(note.startswith("experts 8 -> 6 in each of 3 layers") for note in told["notes"])
    assert read_config(tmp_path / "out")["num_local_experts"] == 6
    before = {path.name for path in tmp_path.iterdir()}
    code, dry, err = cli("prune", model, "--experts", 0.25, "--dry-run", "--json", *few)
    assert code == 0, err
    cut = json.loads(dry)
    assert [cut["sizes"][when]["experts"]["count"] for when in ("before", "after")] == [8, 6]
    assert (
        cut["kept_experts"]
        == json.loads((tmp_path / "out" / "edgewright.json").read_text())["kept_experts"]
    )
    assert {path.name for path in tmp_path.iterdir()} == before
    for args, words in (
        (("--experts", 0.01), "--experts 0.125"),
        (("--ffn", 0.5), "--experts 0.25"),
    ):
        code, out, err = cli("prune", model, *args, "--out", tmp_path / "no", *few)
        assert (code, out) == (3, "")
        assert words in " ".join(err.split()) and "Traceback" not in err
    code, _, err = cli(
        "prune", make_model("llama"), "--experts", 0.25, "--out", tmp_path / "no", *few
    )
    assert code == 3 and "dense" in err
    code, out, err = cli(
        "bench",
        tmp_path / "out",
        "--perplexity",
        f"text:{text_file}",
        "--reference",
        model,
        "--json",
    )
    assert code == 0, err
    assert any(name.startswith("kl/") for name in json.loads(out)["metrics"])


def test_the_report_has_a_table_of_the_experts_where_there_are_some(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    result = prune(PruneOptions(experts=0.25), make_model("qwen3_moe"), tmp_path / "out", context)
    step: dict[str, Any] = {
        "name": "lighter",
        "kind": "prune",
        "details": result.details,
        "notes": result.notes,
    }
    ledger: dict[str, Any] = {"schema": 1, "steps": [step]}
    page, text = render_html(ledger), render_markdown(ledger)
    assert "Load of the experts" in page and "12 → 9" in page
    (row,) = (line for line in text.splitlines() if line.startswith("| lighter | 2 "))
    lost = sum(entry["removed_share"] for entry in result.details["experts"]) / 2
    evenness = sum(entry["after"]["entropy"] for entry in result.details["experts"]) / 2
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[3]) == pytest.approx(lost, rel=0.01)
    assert float(cells[4].split("→")[1]) == pytest.approx(evenness, rel=0.01)
    step["details"] = {"experts": [{"importance": 3, "removed": None, "before": "x"}, 5]}
    assert "Load of the experts" in render_html(ledger)
    step["details"] = {}
    assert "Load of the experts" not in render_html(ledger) + render_markdown(ledger)
