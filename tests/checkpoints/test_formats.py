"""Every kind of GPTQ checkpoint that quantize can write: bits, and groups by order of columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from test_gptq import correlated_hessian, random_weight

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.hessian import output_error
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.permuted_groups import permuted_gptq
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.export.onnx.export import export_onnx
from edgewright.steps.context import StepContext
from edgewright.steps.state import checkpoint_state

MakeModel = Callable[..., Path]
SMALL = {
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("options", "sym"),
    [
        ({"bits": 2, "group_size": 32}, True),
        ({"bits": 2, "group_size": 64, "sym": False}, False),
        ({"bits": 3, "group_size": 128}, True),
        ({"bits": 3, "group_size": -1, "sym": False, "act_order": "permuted"}, False),
        ({"bits": 4, "group_size": 32, "act_order": "permuted"}, True),
        ({"bits": 8, "group_size": 64, "act_order": "permuted"}, True),
    ],
)
def test_what_was_asked_for_is_written_and_read(
    options: dict[str, Any], sym: bool, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(QuantizeOptions(**options), make_model("llama", **SMALL), out, context)
    block = read_config(out)["quantization_config"]
    stored = read_state(out)
    loaded = load_model(out).state_dict()
    permuted = options.get("act_order") == "permuted"
    assert (block["bits"], block["group_size"], block["sym"]) == (
        options["bits"],
        options["group_size"],
        sym,
    )
    assert (block["desc_act"], block["static_groups"]) == (permuted, not permuted)
    parts = part_of(stored, DOWN)
    width = 256
    group = options["group_size"]
    assert tuple(parts["qweight"].shape) == (width * options["bits"] // 32, 128)
    assert torch.equal(
        loaded[f"{DOWN}.weight"][:3], dequantize_gptq(parts, options["bits"], outputs=3)
    )
    counts = parts["g_idx"].long().bincount()
    assert (counts == (width if group == -1 else group)).all()
    consecutive = parts["g_idx"].tolist() == sorted(parts["g_idx"].tolist())
    assert consecutive == (not permuted or group == -1)
    assert checkpoint_state(out).g_idx == permuted


@pytest.mark.parametrize("sym", [True, False])
def test_permuted_groups_beat_rounding(sym: bool) -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    packed = (
        permuted_gptq(weight, hessian, Scheme(4, 32, sym), 0.01).packed,
        rtn(weight, Scheme(4, 32, sym)),
    )
    permuted, plain = (output_error(weight, p.dequantize(), hessian) for p in packed)
    assert permuted < 0.5 * plain


def test_groups_are_cut_from_the_row_of_falling_energy() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    g_idx = permuted_gptq(weight, hessian, Scheme(3, 32), 0.01).packed.g_idx
    assert g_idx is not None
    energy = hessian.diagonal()
    least = [float(energy[g_idx == group].min()) for group in range(8)]
    most = [float(energy[g_idx == group].max()) for group in range(8)]
    assert all(low >= high for low, high in zip(least, most[1:], strict=False))


def test_without_a_hessian_groups_stay_where_they_are() -> None:
    weight = random_weight()
    found = permuted_gptq(weight, torch.zeros(256, 256), Scheme(4, 64), 0.01)
    assert found.damp is None
    assert found.packed.g_idx is None
    assert torch.equal(found.packed.integers, rtn(weight, Scheme(4, 64)).integers)


def test_blocks_cannot_be_permuted(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(
        QuantizeOptions(act_order="permuted", group_size=32),
        make_model("llama", **SMALL),
        out,
        context,
    )
    with pytest.raises(
        Refused, match=r"model\.layers\.0\.\S+: g_idx permutes the groups"
    ) as caught:
        export_onnx(out, tmp_path / "onnx", "int4")
    assert "static act-order" in caught.value.hint
    assert not (tmp_path / "onnx").exists()


def test_the_switch_of_earlier_recipes_is_read() -> None:
    said = [
        QuantizeOptions.model_validate({"act_order": value}).act_order
        for value in (True, False, "permuted")
    ]
    assert said == ["static", "none", "permuted"]
    assert not QuantizeOptions(method="rtn", act_order="permuted").permuted


def test_options_on_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("llama", **SMALL)
    out = tmp_path / "out"
    code, _, err = cli(
        "quantize",
        model,
        "--bits",
        3,
        "--group-size",
        32,
        "--act-order",
        "permuted",
        "--samples",
        2,
        "--seq-len",
        32,
        "--out",
        out,
    )
    assert code == 0, err
    block = read_config(out)["quantization_config"]
    assert (block["bits"], block["desc_act"]) == (3, True)
    code, _, err = cli("quantize", model, "--bits", 5, "--out", tmp_path / "no")
    assert code == 2
    assert "bits" in err
    assert not (tmp_path / "no").exists()
