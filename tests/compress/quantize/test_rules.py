"""Mixed precision: rules by name, quantized embedding and head, and readers of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from pydantic import ValidationError

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.hashing import weight_bytes
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.quantize.assignment import assign_schemes, extra_bytes, table_bytes
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.rules import Rule, parsed_rule
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.models import architecture
from edgewright.models.footprint import size_of
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext
from edgewright.steps.state import checkpoint_state

MakeModel = Callable[..., Path]
SMALL = {
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
PACKED = {"qweight", "qzeros", "scales", "g_idx"}


def options(**values: Any) -> QuantizeOptions:
    return QuantizeOptions.model_validate(values)


@pytest.mark.parametrize(
    ("match", "name", "expected"),
    [
        ("*.down_proj", "model.layers.0.mlp.down_proj", True),
        ("*.down_proj", "model.layers.0.mlp.down_projection", False),
        ("model.layers.1.*", "model.layers.1.mlp.up_proj", True),
        ("model.layers.1.*", "model.layers.11.mlp.up_proj", False),
        ("model.layers.1", "model.layers.1.mlp.up_proj", False),
        ("re:.*layers\\.(0|1)\\..*", "model.layers.1.mlp.up_proj", True),
        ("re:.*layers\\.(0|1)\\.", "model.layers.10.mlp.up_proj", False),
    ],
)
def test_patterns(match: str, name: str, expected: bool) -> None:
    assert Rule(match=match, bits=8).matches(name) == expected


def test_the_first_rule_that_matches_counts() -> None:
    chosen = options(
        rules=[
            {"match": "*.0.mlp.*", "skip": True},
            {"match": "*.mlp.*", "bits": 8},
            {"match": "*.down_proj", "bits": 2},
            {"match": "*.q_proj", "group_size": 32},
        ]
    )
    schemes = [
        chosen.scheme(f"model.layers.{name}")
        for name in ("0.mlp.down_proj", "1.mlp.down_proj", "1.self_attn.q_proj", "1.x")
    ]
    assert schemes == [None, Scheme(8, 128), Scheme(4, 32), Scheme(4, 128)]


@pytest.mark.parametrize(
    "rule",
    [
        {"match": "a"},
        {"match": "a", "bits": 8, "skip": True},
        {"match": "re:(", "bits": 8},
        {"match": "a", "bits": 5},
    ],
)
def test_rules_that_mean_nothing_are_errors(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(rules=[rule])


def test_rules_on_the_command_line_are_read() -> None:
    assert parsed_rule("*.a=8") == {"match": "*.a", "bits": 8}
    assert parsed_rule("re:a=b=4:-1") == {"match": "re:a=b", "bits": 4, "group_size": -1}
    assert parsed_rule("lm_head=skip") == {"match": "lm_head", "skip": True}
    for wrong in ("*.a", "=8", "a=8:x", "a=much"):
        with pytest.raises(UsageError, match="--rule"):
            parsed_rule(wrong)


@pytest.fixture(scope="module")
def mixed(
    make_model: MakeModel, context: StepContext, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model, and the same with 8 bits in some layers, other groups in some, and one skipped."""
    source = make_model("llama", **SMALL)
    out = tmp_path_factory.mktemp("mixed") / "out"
    rules = [
        {"match": "model.layers.0.self_attn.v_proj", "skip": True},
        {"match": "*.down_proj", "bits": 8},
        {"match": "re:.*\\.1\\.self_attn\\.[qkv]_proj", "group_size": 32},
    ]
    quantize(options(group_size=64, rules=rules), source, out, context)
    return source, out


def test_every_layer_is_what_its_rule_says(mixed: tuple[Path, Path]) -> None:
    source, out = mixed
    block = read_config(out)["quantization_config"]
    before = read_state(source)
    stored = read_state(out)
    loaded = load_model(out).state_dict()
    layout = Gptq()
    assert (block["bits"], block["group_size"]) == (4, 64)
    seen = set[tuple[int, int]]()
    for name in architecture(read_config(source)).linears():
        parts = part_of(stored, name)
        if name == "model.layers.0.self_attn.v_proj":
            assert torch.equal(parts["weight"], before[f"{name}.weight"])
            continue
        bits = 8 if name.endswith("down_proj") else 4
        group = 32 if ".1.self_attn." in name and not name.endswith("o_proj") else 64
        assert layout.scheme(block, name) == Scheme(bits, group)
        assert parts.keys() == PACKED
        width = before[f"{name}.weight"].shape[1]
        assert (len(parts["qweight"]), len(parts["scales"])) == (width * bits // 32, width // group)
        assert torch.equal(loaded[f"{name}.weight"][:2], dequantize_gptq(parts, bits, outputs=2))
        seen.add((bits, group))
    assert seen == {(8, 64), (4, 32), (4, 64)}


def test_config_json_has_the_schemes_for_readers(mixed: tuple[Path, Path]) -> None:
    _, out = mixed
    dynamic = read_config(out)["quantization_config"]["dynamic"]
    assert list(dynamic.items()) == [
        ("-:^model\\.layers\\.0\\.self_attn\\.v_proj$", {}),
        ("+:^.*\\.down_proj$", {"bits": 8}),
        ("+:.*\\.1\\.self_attn\\.[qkv]_proj", {"group_size": 32}),
    ]
    assert (
        json.loads((out / "quantize_config.json").read_text())
        == read_config(out)["quantization_config"]
    )


def test_without_rules_nothing_is_said(make_model: MakeModel) -> None:
    config = read_config(make_model("llama", **SMALL))
    assert assign_schemes(architecture(config), options()).dynamic(options()) == {}
    assert "dynamic" not in Gptq().config(Scheme(), 0.01)


def test_a_rule_about_nothing_names_what_is_near(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    rules = [{"match": "*.mlp.*", "bits": 8}, {"match": "model.layers.1.mlp.dwn_proj", "bits": 8}]
    with pytest.raises(
        UsageError, match=r"matches the rule `model\.layers\.1\.mlp\.dwn_proj`$"
    ) as caught:
        quantize(options(rules=rules), make_model("llama", **SMALL), tmp_path / "out", context)
    assert "model.layers.1.mlp.down_proj" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_rule_may_make_room_for_a_width(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", **SMALL | {"intermediate_size": 192})
    with pytest.raises(
        Refused, match=r"group size 128 does not divide the width of \S+down_proj \(192 inputs\)$"
    ):
        quantize(options(), source, tmp_path / "out", context)
    result = quantize(
        options(rules=[{"match": "*.down_proj", "group_size": 64}]),
        source,
        tmp_path / "out",
        context,
    )
    assert "14 linear layers to 4 bit" in result.notes[0]
    assert len(read_state(tmp_path / "out")["model.layers.1.mlp.down_proj.scales"]) == 3


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("qwen2", True), ("gemma3_text", True)]
)
def test_the_head_and_the_embedding_are_packed_by_rows(
    family: str, tied: bool, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    )
    source = make_model(family, dtype="bfloat16", **SMALL, **layers)
    out = tmp_path / "out"
    result = quantize(
        options(group_size=64, head_bits=8, **({} if tied else {"embedding_bits": 3})),
        source,
        out,
        context,
    )
    before = read_state(source)
    stored = read_state(out)
    model = load_model(out)
    assert "lm_head.weight" not in stored
    for name, bits in (
        {"model.embed_tokens": 8} if tied else {"model.embed_tokens": 3, "lm_head": 8}
    ).items():
        parts = part_of(stored, name)
        assert parts.keys() == PACKED
        expected = rtn(before[f"{name}.weight"].float(), Scheme(bits, 64)).dequantize()
        assert torch.equal(model.get_submodule(name).weight, expected)
        assert torch.equal(expected[:2], dequantize_gptq(parts, bits, outputs=2))
        assert any(f"{name} to {bits} bit, relative weight error" in note for note in result.notes)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert read_config(out)["quantization_config"]["lm_head"] is not tied


def test_a_star_means_the_layers_and_a_full_name_the_head(make_model: MakeModel) -> None:
    config = read_config(make_model("llama", **SMALL))
    model = architecture(config)
    assert assign_schemes(model, options(rules=[{"match": "*", "bits": 8}])).vocab == {}
    assert assign_schemes(model, options(rules=[{"match": "lm_head", "bits": 8}])).vocab == {
        "lm_head": Scheme(8)
    }
    skipped = options(head_bits=4, rules=[{"match": "lm_head", "skip": True}])
    assert assign_schemes(model, skipped).vocab == {}


def test_tied_tables_cannot_differ(make_model: MakeModel) -> None:
    config = read_config(make_model("qwen2", **SMALL))
    with pytest.raises(UsageError, match="tied"):
        assign_schemes(architecture(config), options(head_bits=8, embedding_bits=4))


@pytest.mark.parametrize(
    "asked",
    [
        {"head_bits": 8},
        {"rules": [{"match": "*.down_proj", "bits": 8}]},
        {"embedding_bits": 4, "rules": [{"match": "*.0.*", "skip": True}]},
    ],
)
def test_a_plan_counts_what_rules_and_tables_weigh(
    asked: dict[str, Any], make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("qwen2", dtype="bfloat16", **SMALL)
    config = read_config(source)
    step = {"kind": "quantize", **asked}
    recipe = Recipe.model_validate(
        {"model": str(source), "target": "jetson-orin-nano-8gb", "steps": [step]}
    )
    row = plan_recipe(recipe)[1]
    model = architecture(config)
    assignment = assign_schemes(model, options(**asked))
    tables = table_bytes(assignment, model)
    extra = extra_bytes(assignment, model, options(**asked))
    assert row["weight_bytes"] == size_of(model, "int4", table_bytes=tables) + extra
    quantize(options(**asked), source, tmp_path / "out", context)
    assert row["weight_bytes"] == pytest.approx(weight_bytes(tmp_path / "out"), rel=0.1)
    there = checkpoint_state(tmp_path / "out")
    assert there.weight_bytes == pytest.approx(weight_bytes(tmp_path / "out"), rel=0.1)
    assert (there.table_bytes is None) == (tables is None) == ("rules" in asked and len(asked) == 1)
    if tables:
        assert there.table_bytes
        assert there.table_bytes.embedding == tables.embedding == 0
        assert there.table_bytes.head == pytest.approx(tables.head, rel=0.1)
    assert row["total_bytes"] - row["kv_bytes"] > row["weight_bytes"]


def test_rules_and_head_on_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("llama", **SMALL)
    out = tmp_path / "out"
    code, _, err = cli(
        "quantize",
        model,
        "--rule",
        "*.down_proj=8:64",
        "--rule",
        "model.layers.0.*=skip",
        "--head-bits",
        8,
        "--samples",
        2,
        "--seq-len",
        32,
        "--out",
        out,
    )
    assert code == 0, err
    assert read_config(out)["quantization_config"]["dynamic"]["+:^.*\\.down_proj$"] == {
        "bits": 8,
        "group_size": 64,
    }
    code, _, err = cli(
        "quantize",
        model,
        "--rule",
        "*.dwn_proj=8",
        "--samples",
        2,
        "--seq-len",
        32,
        "--out",
        tmp_path / "no",
    )
    assert code == 2
    assert "similar names" in err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_exports_dequantize_a_packed_head_and_embedding(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """The export compares itself with torch, which fails on any other weights."""
    source = make_model(family, **SMALL)
    asked = options(group_size=32, head_bits=4, embedding_bits=4)
    quantize(asked, source, tmp_path / "out", context)
    assert export_onnx(tmp_path / "out", tmp_path / "onnx", "int4").parity
