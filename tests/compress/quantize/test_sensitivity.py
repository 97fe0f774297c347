"""Sensitivity: the measured errors are true, and the budget saves the most error per byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.hessian import Hessian, output_error
from edgewright.compress.quantize.assignment import assign_schemes, extra_bytes
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.compress.quantize.sensitivity import (
    MatrixSensitivity,
    measure_sensitivity,
    select_matrices,
)
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_is_measured_is_what_rounding_does_to_the_outputs(
    family: str, make_model: MakeModel, context: StepContext
) -> None:
    source = make_model(family, **SMALL)
    model = load_model(source)
    names = architecture(read_config(source))
    head = names.embedding if family == "qwen2" else names.head
    schemes = {name: Scheme(4, 64) for name in names.linears()} | {head: Scheme(4, 64)}
    rows = context.calibration.rows(source, context.seed)
    found = measure_sensitivity(Streamed(source), rows, ActivationBuffer(), schemes, 8)
    assert found.keys() == schemes.keys()
    seen = {name: names.head if name == head else name for name in schemes}
    hessians = {}
    for name, module in seen.items():
        hessians[name] = Hessian(model.get_submodule(module).weight.shape[1])
        model.get_submodule(module).register_forward_pre_hook(
            lambda _m, args, h=hessians[name]: h.add(args[0])
        )
    with torch.no_grad():
        for row in rows:
            model(input_ids=row[:1], use_cache=False)
    for name, module in seen.items():
        hessian = hessians[name].matrix()
        weight = model.get_submodule(module).weight.detach()
        for bits, error in ((4, found[name].error), (8, found[name].kept_error)):
            expected = output_error(weight, rtn(weight, Scheme(bits, 64)).dequantize(), hessian)
            assert error == pytest.approx(expected, rel=1e-3), name
        assert found[name].extra_bytes == weight.numel() // 2


def test_the_budget_buys_the_most_error_a_byte() -> None:
    found = {
        "large": MatrixSensitivity(4, 0.9, 0.1, 1000),
        "small": MatrixSensitivity(4, 0.2, 0.1, 100),
        "best": MatrixSensitivity(4, 0.3, 0.1, 100),
        "worse": MatrixSensitivity(4, 0.1, 0.2, 1),
    }
    assert select_matrices(found, 100) == ["best"]
    assert select_matrices(found, 200) == ["best", "small"]
    assert select_matrices(found, 1000) == ["best", "small"]
    assert select_matrices(found, 1200) == ["best", "small", "large"]
    assert select_matrices(found, 50) == []


def test_the_worst_are_kept_and_the_budget_holds(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", **SMALL)
    options = QuantizeOptions.model_validate(
        {"group_size": 64, "head_bits": 4, "sensitivity": {"budget": 0.3}}
    )
    result = quantize(options, source, tmp_path / "out", context)
    quantize(options.model_copy(update={"sensitivity": None}), source, tmp_path / "plain", context)
    report: dict[str, dict[str, Any]] = result.details["sensitivity"]
    kept = [name for name, row in report.items() if row["kept"]]
    config = read_config(source)
    block = read_config(tmp_path / "out")["quantization_config"]
    choice = assign_schemes(architecture(config), options)
    spent = sum(report[name]["extra_bytes"] for name in kept)
    assert 0 < spent <= 0.3 * choice.quantized_bytes
    assert (
        spent + min(row["extra_bytes"] for row in report.values() if not row["kept"])
        > 0.3 * choice.quantized_bytes
    )
    with_budget, without = (
        extra_bytes(choice, architecture(config), o)
        for o in (options, options.model_copy(update={"sensitivity": None}))
    )
    assert with_budget - without == int(0.3 * choice.quantized_bytes)
    for name in report:
        assert Gptq().scheme(block, name) == Scheme(8 if name in kept else 4, 64)
    stored, plain = (
        {k: t.nbytes for k, t in read_state(tmp_path / d).items() if k.endswith("qweight")}
        for d in ("out", "plain")
    )
    assert sum(stored.values()) - sum(plain.values()) == spent
    assert any(
        f"{len(kept)} of {len(report)} matrices kept at 8 bit" in note for note in result.notes
    )


def test_more_bits_where_they_matter_follow_the_model_closer(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", **SMALL)
    rows = context.calibration.rows(source, context.seed)

    def kl(path: Path) -> float:
        with torch.no_grad():
            ours, theirs = (
                torch.cat([m(input_ids=r[:1]).logits for r in rows]).log_softmax(-1)
                for m in map(load_model, (source, path))
            )
        return float((ours.exp() * (ours - theirs)).sum(-1).mean())

    for budget in (0.0, 0.3, 0.95):
        sensitivity = {"budget": budget} if budget else None
        options = QuantizeOptions.model_validate({"group_size": 64, "sensitivity": sensitivity})
        quantize(options, source, tmp_path / str(budget), context)
    errors = [kl(tmp_path / str(budget)) for budget in (0.0, 0.3, 0.95)]
    assert errors[0] > errors[1] > errors[2]


def test_on_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("llama", **SMALL)
    out = tmp_path / "out"
    code, _, err = cli(
        "quantize", model, "--sensitivity", 0.2, "--samples", 2, "--seq-len", 32, "--out", out
    )
    assert code == 0, err
    assert all(
        said == {"bits": 8} for said in read_config(out)["quantization_config"]["dynamic"].values()
    )
    code, _, err = cli("quantize", model, "--sensitivity", 0, "--out", tmp_path / "no")
    assert (code, "--sensitivity: Input should be greater than 0" in err) == (2, True)
