"""Mixtures of experts in the other verbs: export, distill, command line and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from edgewright.benchmarks.report.report import render_html, render_markdown
from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme, pack_int8
from edgewright.checkpoints.layouts.w8a8 import CompressedTensors
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import Refused, UsageError
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


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
    """Such a model cannot be pruned, and with rounded inputs it cannot even be run here."""
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
    """The student is saved with one tensor for each expert, as usual in files."""
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
    printed = json.loads(out)
    assert any(note.startswith("experts 8 -> 6 in each of 3 layers") for note in printed["notes"])
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
    assert "Load of the experts" in page and "12\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}9" in page
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
