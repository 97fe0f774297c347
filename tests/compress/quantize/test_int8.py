"""8-bit weights and activations: INT8 per token, SmoothQuant with fixed scales, their layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_int8, part_of, rounded_by_hand
from conftest import DENSE, with_loud_channels
from pydantic import ValidationError
from test_quantize import linears, logits, small
from torch import nn

from edgewright.checkpoints.config import packing, read_config
from edgewright.checkpoints.layouts import Int8Inputs, Scheme, layout_of, pack_int8, round_inputs
from edgewright.checkpoints.layouts.w8a8 import CompressedTensors, ModelOpt
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.compress.quantize.smoothquant import smooth_factors
from edgewright.errors import Refused, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.steps.context import StepContext
from edgewright.steps.state import checkpoint_state

MakeModel = Callable[..., Path]
LAYOUTS = {"int8": CompressedTensors(), "smoothquant": ModelOpt()}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [None, 0.013])
def test_inputs_are_rounded_as_by_hand(scale: float | None) -> None:
    x = noise(3, 5, 16)
    rounded = round_inputs(x, Int8Inputs(scale))
    expected = torch.tensor(
        [[rounded_by_hand(row, scale) for row in rows] for rows in x.double().tolist()]
    )
    torch.testing.assert_close(rounded, expected, rtol=1e-5, atol=1e-6)
    assert round_inputs(x.bfloat16(), Int8Inputs(scale)).dtype == torch.bfloat16
    assert (round_inputs(torch.zeros(2, 4), Int8Inputs(scale)) == 0).all()


def test_a_token_does_not_see_the_others() -> None:
    x = noise(1, 6, 8)
    alone = round_inputs(x, Int8Inputs())
    x[0, 3] *= 1000
    assert torch.equal(round_inputs(x, Int8Inputs())[0, :3], alone[0, :3])


@pytest.mark.parametrize(("method", "peak"), [("int8", None), ("smoothquant", 2.5)])
def test_layout_round_trip_and_another_reader(method: str, peak: float | None) -> None:
    weight = noise(24, 40)
    layout = LAYOUTS[method]
    weight[3] = 0
    packed = pack_int8(weight, peak)
    parts = layout.write(packed)
    back = layout.read(parts, Scheme(8, -1), "layer")
    assert torch.equal(back.integers, packed.integers)
    assert torch.equal(back.scales, packed.scales)
    assert back.inputs is not None
    assert back.inputs.scale == (None if peak is None else pytest.approx(2.5 / 127, rel=1e-6))
    torch.testing.assert_close(dequantize_int8(parts), packed.dequantize(), rtol=1e-6, atol=0)
    assert (packed.dequantize() - weight).abs().max() <= packed.scales.max() / 2 * 1.001
    specs = layout.specs(24, 40, Scheme(8, -1))
    assert {n: (t.shape, t.dtype) for n, t in parts.items()} == {
        n: (t.shape, t.dtype) for n, t in specs.items()
    }
    assert int(parts["weight"].min()) >= -127


def test_smoothing_is_the_papers_formula() -> None:
    factors = smooth_factors(torch.tensor([8.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]), 0.5)
    torch.testing.assert_close(factors, torch.tensor([2.0, 2.0, 1.0]))
    assert smooth_factors(torch.tensor([8.0]), torch.tensor([2.0]), 1.0).tolist() == [8.0]


def test_what_other_tools_write_is_read_or_refused() -> None:
    block = CompressedTensors().config(Scheme(8, -1), 0.01, ["head"])
    assert isinstance(layout_of({"quantization_config": block}), CompressedTensors)
    assert block["ignore"] == ["head"]
    block["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    with pytest.raises(Refused, match="not read here"):
        CompressedTensors().scheme(block, "layer")
    with pytest.raises(Refused, match="FP8"):
        ModelOpt().scheme({"quant_algo": "FP8"}, "layer")
    parts = ModelOpt().write(pack_int8(noise(8, 8), 1.0))
    parts["pre_quant_scale"][2] = 0.5
    with pytest.raises(UsageError, match=r"layer: smoothing that was not folded"):
        ModelOpt().read(parts, Scheme(8, -1), "layer")


@pytest.fixture(
    scope="module",
    params=[(family, method) for family in DENSE for method in LAYOUTS],
    ids="-".join,
)
def quantized(
    request: pytest.FixtureRequest,
    make_model: MakeModel,
    context: StepContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, str]:
    """A family's model, the same with 8-bit weights and activations, and the method."""
    family, method = request.param
    source = small(make_model, family)
    out = tmp_path_factory.mktemp("int8") / family
    quantize(QuantizeOptions(method=method), source, out, context)
    return source, out, method


def test_what_is_written_is_what_is_loaded(quantized: tuple[Path, Path, str]) -> None:
    source, out, method = quantized
    stored = read_state(out)
    loaded = load_model(out).state_dict()
    config = read_config(out)
    for module in linears(source):
        parts = part_of(stored, module)
        assert parts.keys() - {"bias"} == set(LAYOUTS[method].parts)
        assert parts["weight"].dtype == torch.int8
        torch.testing.assert_close(
            loaded[f"{module}.weight"], dequantize_int8(parts), rtol=1e-6, atol=0
        )
    assert packing(config) == (8, -1, True)
    assert checkpoint_state(out).precision == "int8"
    assert (out / "hf_quant_config.json").exists() == (method == "smoothquant")
    if method == "smoothquant":
        config_file = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
        assert config_file["quant_algo"] == "W8A8_SQ_PER_CHANNEL"
        assert config_file["exclude_modules"] == ["lm_head"]
    before = read_state(source)
    kept = before.keys() - {f"{module}.weight" for module in linears(source)}
    changed = [key for key in kept if not torch.equal(stored[key], before[key])]
    assert sum("norm" in key for key in changed) == 4
    assert all("norm" in key or key.endswith("v_proj.bias") for key in changed)


def test_a_loaded_model_rounds_what_its_layers_are_given(quantized: tuple[Path, Path, str]) -> None:
    """A model that the test builds from the stored tensors gives the same logits."""
    source, out, method = quantized
    stored = read_state(out)
    model = load_model(out)
    plain = load_model(source)
    for module in linears(source):
        parts = part_of(stored, module)
        linear: Any = plain.get_submodule(module)
        linear.weight = nn.Parameter(dequantize_int8(parts))
        if "bias" in parts:
            linear.bias = nn.Parameter(parts["bias"])
        scale = float(parts["input_scale"]) if method == "smoothquant" else None

        def rounded(_module: nn.Module, args: Any, scale: float | None = scale) -> Any:
            rows = args[0].reshape(-1, args[0].shape[-1]).tolist()
            return (torch.tensor([rounded_by_hand(row, scale) for row in rows]).view_as(args[0]),)

        linear.register_forward_pre_hook(rounded)
    for key, tensor in stored.items():
        if "norm" in key:
            plain.get_parameter(key).data = tensor
    ids = torch.arange(20, 28).unsqueeze(0)
    with torch.no_grad():
        ours = model(input_ids=ids).logits
        theirs = plain(input_ids=ids).logits
    assert (ours - theirs).abs().mean() <= 2e-3 * theirs.abs().max()
    assert (ours - theirs).abs().max() <= 3e-2 * theirs.abs().max()


def test_it_stays_close_to_the_model(
    quantized: tuple[Path, Path, str], context: StepContext
) -> None:
    source, out, method = quantized
    rows = context.calibration.rows(source, context.seed)
    expected = logits(source, rows).log_softmax(-1)
    ours = logits(out, rows).log_softmax(-1)
    kl = float((expected.exp() * (expected - ours)).sum(-1).mean())
    assert kl < (2e-3 if method == "int8" else 2e-2)


def test_without_smoothing_nothing_but_the_linear_layers_changes(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "qwen2")
    quantize(QuantizeOptions(method="int8", scaling="none"), source, tmp_path / "out", context)
    before = read_state(source)
    after = read_state(tmp_path / "out")
    kept = before.keys() - {f"{module}.weight" for module in linears(source)}
    assert all(torch.equal(after[key], before[key]) for key in kept)


def test_smoothing_pays_where_channels_are_unlike(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """SmoothQuant helps if a few channels of the norms are much larger, as in trained models.

    Without it, these channels take the whole range of a token.
    """
    source = with_loud_channels(small(copy_model, "llama"))
    rows = context.calibration.rows(source, context.seed)
    expected = logits(source, rows).log_softmax(-1)
    kl = {}
    for scaling in ("none", "smoothquant"):
        quantize(
            QuantizeOptions(method="int8", scaling=scaling), source, tmp_path / scaling, context
        )
        kl[scaling] = float(
            (expected.exp() * (expected - logits(tmp_path / scaling, rows).log_softmax(-1)))
            .sum(-1)
            .mean()
        )
    assert kl["smoothquant"] < 0.5 * kl["none"], kl


def test_export_takes_dynamic_int8_and_nothing_else(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "llama")
    for method in LAYOUTS:
        quantize(QuantizeOptions(method=method), source, tmp_path / method, context)
    result = export_onnx(tmp_path / "int8", tmp_path / "onnx", "int8-dynamic")
    assert result.parity["parity/kl"] < 5e-3
    for method, precision in (
        ("int8", "fp32"),
        ("smoothquant", "int8-dynamic"),
        ("smoothquant", "fp16"),
    ):
        with pytest.raises(UsageError, match="activations in 8 bits cannot be exported"):
            export_onnx(tmp_path / method, tmp_path / "no", precision)
    with pytest.raises(Refused, match="8-bit"):
        export_onnx(tmp_path / "int8", tmp_path / "no", "int4")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "int8", "bits": 4},
        {"method": "smoothquant", "group_size": 128},
        {"method": "int8", "sym": False},
        {"method": "int8", "format": "gptq"},
        {"method": "smoothquant", "scaling": "none"},
        {"method": "smoothquant", "alpha": 1.5},
    ],
)
def test_what_does_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuantizeOptions(**options)
    assert (QuantizeOptions(method="int8").bits, QuantizeOptions(method="int8").group_size) == (
        8,
        -1,
    )
