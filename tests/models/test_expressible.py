"""Which formats can hold which models, and that everyone who asks gets one answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, DENSE, MIXTURES
from conftest import FAMILIES as SETTINGS
from family_table import SETTINGS as MORE
from known_models import violations

from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.sizes import sizes_after
from edgewright.errors import Refused
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models import FORMATS, HEADS, architecture, expressible, require_expressible
from edgewright.models.expressible import OPERATIONS
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext
from edgewright.targets import load_target

GRAPHS = ("onnx", "ort", "tensorrt", "triton")
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def reasons(family: str, format: str, **config: Any) -> str:
    model = architecture({"model_type": family, **BASE, **SETTINGS[family], **config})
    return "; ".join(reason.message for reason in expressible(model, format))


@pytest.mark.parametrize("family", DENSE)
def test_every_graph_holds_every_dense_family(family: str) -> None:
    assert [reasons(family, format) for format in (*GRAPHS, "edge-llm")] == [""] * 5
    assert not any(reasons(family, operation) for operation in OPERATIONS)
    assert set(FORMATS) == {*GRAPHS, "edge-llm", "gguf"}


def test_soft_caps_are_those_of_families_that_apply_them() -> None:
    """Stock transformers ignores these keys in a Llama."""
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    for family, has in (("llama", False), ("gemma3_text", True)):
        model = architecture({"model_type": family, **BASE, **SETTINGS[family], **caps})
        assert model.logit_softcap == (30.0 if has else None)
        assert model.layers[0].attention.softcap == (50.0 if has else None)
        assert expressible(model, "onnx") == []


@pytest.mark.parametrize(
    ("family", "words"),
    [("olmo2", "norm goes over all heads"), ("cohere2", "one number of heads"), ("granite", "")],
)
def test_heads_that_cannot_go_are_refused(family: str, words: str) -> None:
    model = architecture({"model_type": family, **BASE, **MORE[family]})
    found = "; ".join(reason.message for reason in expressible(model, HEADS))
    assert words in found
    assert bool(found) == bool(words)
    if words:
        with pytest.raises(Refused, match=words):
            sizes_after(PruneOptions(kv_heads=0.5), model)
    assert sizes_after(PruneOptions(ffn=0.5), model)["ffn"] == 256


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("format", (*FORMATS, *OPERATIONS))
def test_nothing_is_done_to_experts_but_gptq_and_rounding(family: str, format: str) -> None:
    assert f"a mixture of experts (`{family}`)" in reasons(family, format)


@pytest.mark.parametrize("family", MIXTURES)
def test_a_quantization_method_without_a_reason_of_its_own_is_refused_for_experts(
    family: str,
) -> None:
    assert "method new: not made for experts" in reasons(family, "new")
    assert reasons("llama", "new") == ""


def test_a_mixture_without_experts_is_dense() -> None:
    assert reasons("qwen3_moe", "onnx", mlp_only_layers=[0, 1, 2, 3]) == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_parameters": ROPE | {"rope_type": "new"}}, "rope_type `new`"),
        ({"rope_scaling": {"type": "proportional"}, "rope_parameters": None}, "`proportional`"),
        ({"hidden_act": "relu"}, "activation `relu`"),
        ({"use_bidirectional_attention": True}, "`use_bidirectional_attention` is True"),
    ],
)
def test_arithmetic_that_graphs_do_not_have(config: dict[str, Any], words: str) -> None:
    for format in GRAPHS:
        assert words in reasons("llama", format, **config)


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("llama", {}, ""),
        ("qwen2", {}, ""),
        ("qwen3", {"use_sliding_window": False}, ""),
        ("qwen3", {"sliding_window": 256}, ""),  # as long as the longest sequence
        ("qwen3", {}, "sliding window"),
        ("mistral", {}, "sliding window"),
        ("gemma3_text", {}, ""),
        ("llama", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}}, ""),
        ("llama", {"rope_parameters": ROPE | {"rope_type": "yarn", "factor": 2.0}}, ""),
    ],
)
def test_gguf(family: str, config: dict[str, Any], words: str) -> None:
    found = reasons(family, "gguf", **config)
    assert words in found
    assert bool(words) == bool(found)


def test_a_refusal_names_every_reason_and_a_way_out() -> None:
    config = {"model_type": "llama", **BASE, "hidden_act": "relu"}
    config["use_bidirectional_attention"] = True
    with pytest.raises(Refused, match=r"^here: .*bidirectional.*; activation `relu`") as caught:
        require_expressible(architecture(config), "onnx", "here")
    assert "export another model; use a model with one of silu" in caught.value.hint


@pytest.mark.parametrize(
    ("family", "format"), [("mixtral", "onnx"), ("qwen2_moe", "tensorrt"), ("mistral", "gguf")]
)
def test_plan_check_and_export_agree(
    family: str,
    format: str,
    make_model: Callable[..., Path],
    context: StepContext,
    tmp_path: Path,
) -> None:
    source = make_model(family)
    model = architecture({"model_type": family, **BASE, **SETTINGS[family]})
    (first, *_) = expressible(model, format)
    options = ExportOptions(format=format, precision="fp16")
    with pytest.raises(Refused) as exported:
        export(options, source, tmp_path / "out", context)
    step = {"kind": "export", "format": format, "precision": "fp16"}
    if format != "gguf":  # which no recipe has
        with pytest.raises(Refused) as planned:
            plan_recipe(Recipe.model_validate({"model": str(source), "steps": [step]}))
        assert first.message in str(planned.value)
    assert first.message in str(exported.value)
    found = violations(load_target("cpu"), model, format=format, precision="fp16")
    assert any(first.message in violation.message for violation in found)
    assert not list(tmp_path.iterdir())
