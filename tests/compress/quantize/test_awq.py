"""AWQ: the search for scales, the search for clipped ranges, and the whole step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_awq, dequantize_gptq, part_of
from conftest import DENSE, with_loud_channels
from pydantic import ValidationError
from test_quantize import linears, logits, small
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.awq import Awq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.quantize.awq import awq_factors, round_clipped, round_trip
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.input_statistics import InputStatistics, StatisticsCollector
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
OUT = 32
WIDTH = 128
AWQ = Awq()


def sample(seed: int = 0, tokens: int = 400) -> tuple[Tensor, Tensor, InputStatistics]:
    """A weight, and inputs of which a few channels are a hundred times larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUT, WIDTH, generator=generator)
    x = torch.randn(tokens, WIDTH, generator=generator)
    x[:, ::19] *= 100
    return weight, x, seen(x)


def seen(x: Tensor, share: float = 1, pieces: tuple[int, ...] = (400,)) -> InputStatistics:
    watch = StatisticsCollector(WIDTH, share=share)
    for piece in x.split(pieces):
        watch.add(piece)
    return watch.result()


def test_inputs_are_counted_as_they_come() -> None:
    _, x, inputs = sample()
    parts = seen(x, 1, (1, 7, 2, 300, 90))
    assert seen(x, 0).hessian.numel() == 0
    torch.testing.assert_close(parts.mean, x.abs().mean(0))
    assert torch.equal(parts.peak, x.abs().amax(0))
    torch.testing.assert_close(parts.hessian, x.t() @ x, rtol=1e-4, atol=0.1)
    third = seen(x, 1 / 3)
    assert torch.equal(third.hessian, seen(x, 1 / 3).hessian)
    assert 0.2 < float(third.hessian.diagonal().sum() / inputs.hessian.diagonal().sum()) < 0.5
    torch.testing.assert_close(third.mean, inputs.mean)
    torch.testing.assert_close(inputs.hessian, x.t() @ x, rtol=1e-4, atol=0.1)
    factors = torch.rand(WIDTH, generator=torch.Generator().manual_seed(1)) + 0.5
    divided = inputs.divided(factors)
    torch.testing.assert_close(
        divided.hessian, (x / factors).t() @ (x / factors), rtol=1e-4, atol=1e-2
    )
    torch.testing.assert_close(divided.peak, (x / factors).abs().amax(0))


def test_scales_lower_the_output_error_and_the_reported_errors_are_true() -> None:
    weight, x, inputs = sample()
    scheme = Scheme(4, 32)
    channels = torch.arange(WIDTH)
    factors, before, after = awq_factors([(weight, scheme)], inputs, inputs.mean, channels)
    plain = ((round_trip(weight, scheme) - weight) @ x.t()).square().sum()
    scaled = ((round_trip(weight * factors, scheme) / factors - weight) @ x.t()).square().sum()
    assert before == pytest.approx(float(plain), rel=1e-3)
    assert after == pytest.approx(float(scaled), rel=1e-3)
    assert after < 0.7 * before
    assert factors[::19].min() > factors.median()


def test_channels_that_share_a_writer_share_a_factor() -> None:
    weight, _, inputs = sample(1)
    channels = torch.arange(WIDTH) % 64
    activity = inputs.mean.view(2, 64).mean(0)
    factors, before, after = awq_factors([(weight, Scheme(4, 64))], inputs, activity, channels)
    assert factors.shape == (64,)
    assert after <= before


def test_channels_that_were_never_used_keep_their_scale() -> None:
    weight, x, _ = sample(2)
    x[:, 5:40] = 0
    inputs = seen(x)
    factors, _, _ = awq_factors([(weight, Scheme())], inputs, inputs.mean, torch.arange(WIDTH))
    assert (factors[5:40] == 1).all()
    assert torch.isfinite(factors).all()
    dead = InputStatistics(torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH), torch.zeros(WIDTH))
    assert (awq_factors([(weight, Scheme())], dead, dead.mean, torch.arange(WIDTH))[0] == 1).all()


@pytest.mark.parametrize(
    ("bits", "sym", "group"), [(4, True, 32), (4, False, 32), (4, True, -1), (8, True, 64)]
)
def test_clipping_never_loses_on_its_own_measure(bits: int, sym: bool, group: int) -> None:
    """Within a group: between groups the inputs of `sample` are close to independent."""
    weight, x, inputs = sample(3)
    weight[::4, 7] *= 8  # a weight that widens its group's range for a small input
    scheme = Scheme(bits, group, sym)
    packed = round_clipped(weight, inputs.hessian, scheme)
    size = scheme.group(WIDTH)

    def errors(replacement: Tensor) -> Tensor:
        change = (replacement - weight).view(OUT, -1, size)
        return torch.stack(
            [
                (change[:, g] @ x.view(-1, WIDTH // size, size)[:, g].t()).square().sum(1)
                for g in range(WIDTH // size)
            ],
            1,
        )

    ours = errors(packed.dequantize())
    plain = errors(round_trip(weight, scheme))
    assert (ours <= plain * (1 + 1e-4)).all()
    assert ours.sum() < 0.98 * plain.sum()
    assert packed.sym == sym
    assert packed.zeros.min() > 0


@pytest.fixture(scope="module", params=DENSE)
def quantized(
    request: pytest.FixtureRequest,
    make_model: MakeModel,
    context: StepContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A family's model, and the same by AWQ with groups of 64."""
    source = small(make_model, request.param)
    out = tmp_path_factory.mktemp("awq") / request.param
    quantize(QuantizeOptions(method="awq", group_size=64), source, out, context)
    return source, out


def test_what_is_written_is_what_is_loaded(quantized: tuple[Path, Path]) -> None:
    source, out = quantized
    before = read_state(source)
    stored = read_state(out)
    loaded = load_model(out).state_dict()
    for module in linears(source):
        parts = part_of(stored, module)
        assert parts.keys() - {"bias"} == {"qweight", "qzeros", "scales"}
        assert torch.equal(loaded[f"{module}.weight"][:8], dequantize_awq(parts, outputs=8))
    changed = {
        key for key in before.keys() & stored.keys() if not torch.equal(before[key], stored[key])
    }
    norms = {key for key in changed if "norm" in key}
    assert (
        1 <= len(norms) <= 4
    )  # in each of two layers that of the attention and that of the FFN, where scaling helps
    assert all(key.endswith("v_proj.bias") for key in changed - norms)
    block = read_config(out)["quantization_config"]
    assert (block["quant_method"], block["bits"], block["group_size"]) == ("awq", 4, 64)


def test_awq_follows_the_model_closer_than_rounding(
    quantized: tuple[Path, Path], context: StepContext, tmp_path: Path
) -> None:
    source, out = quantized
    rows = context.calibration.rows(source, context.seed)
    quantize(QuantizeOptions(method="rtn", group_size=64), source, tmp_path / "rtn", context)
    expected = logits(source, rows).log_softmax(-1)
    kl = [
        float((expected.exp() * (expected - logits(p, rows).log_softmax(-1))).sum(-1).mean())
        for p in (out, tmp_path / "rtn")
    ]
    assert kl[0] < kl[1]


@pytest.mark.parametrize(
    ("options", "method", "family"),
    [
        ({"method": "gptq", "scaling": "awq", "group_size": 64}, "gptq", "gemma3_text"),
        (
            {"method": "gptq", "scaling": "smoothquant", "group_size": 64, "format": "awq"},
            "awq",
            "qwen2",
        ),
        ({"method": "rtn", "scaling": "awq", "sym": False, "format": "awq"}, "awq", "llama"),
        ({"method": "awq", "format": "gptq", "bits": 8}, "gptq", "qwen3"),
    ],
)
def test_scaling_rounding_and_layout_are_chosen_apart(
    options: dict[str, Any],
    method: str,
    family: str,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    source = small(make_model, family)
    quantize(QuantizeOptions(**options), source, tmp_path / "out", context)
    config = read_config(tmp_path / "out")
    stored = read_state(tmp_path / "out")
    loaded = load_model(tmp_path / "out").state_dict()
    assert config["quantization_config"]["quant_method"] == method
    module = linears(source)[-1]
    parts = part_of(stored, module)
    by_hand = (
        dequantize_awq(parts, 8)
        if method == "awq"
        else dequantize_gptq(parts, options.get("bits", 4), 8)
    )
    assert torch.equal(loaded[f"{module}.weight"][:8], by_hand)
    rows = context.calibration.rows(source, context.seed)
    agreement = (
        (logits(source, rows).argmax(-1) == logits(tmp_path / "out", rows).argmax(-1))
        .float()
        .mean()
    )
    assert agreement > 0.5


def test_scaling_helps_where_channels_are_unlike(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Scaling helps if norms amplify a few channels, as in trained models."""
    source = with_loud_channels(small(copy_model, "llama"))
    rows = context.calibration.rows(source, context.seed)
    expected = logits(source, rows).log_softmax(-1)
    kl = {}
    for scaling in ("none", "awq"):
        quantize(
            QuantizeOptions(method="rtn", scaling=scaling, group_size=128, bf16=False),
            source,
            tmp_path / scaling,
            context,
        )
        kl[scaling] = float(
            (expected.exp() * (expected - logits(tmp_path / scaling, rows).log_softmax(-1)))
            .sum(-1)
            .mean()
        )
    assert kl["awq"] < 0.95 * kl["none"], kl


def test_half_precision_norms_are_folded_as_they_are_stored(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "gemma3_text", dtype="bfloat16")
    quantize(QuantizeOptions(method="awq", group_size=64), source, tmp_path / "out", context)
    before = read_state(source)
    after = read_state(tmp_path / "out")
    kept = before.keys() & after.keys()
    assert all(after[key].dtype == torch.bfloat16 for key in kept)
    assert 1 <= sum(not torch.equal(after[key], before[key]) for key in kept) <= 4


def test_same_seed_same_bytes(make_model: MakeModel, context: StepContext, tmp_path: Path) -> None:
    source = small(make_model, "llama")
    for name in ("one", "two"):
        quantize(QuantizeOptions(method="awq"), source, tmp_path / name, context)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "awq", "bits": 8}, "awq layout holds 4-bit"),
        ({"method": "awq", "scaling": "none"}, "plain rounding"),
        ({"method": "gptq", "format": "modelopt"}, "in 8 bits"),
        ({"method": "gptq", "format": "awq", "bits": 8}, "awq layout holds 4-bit"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeOptions(**options)


def test_refusals_are_those_of_any_quantization(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="mixture of experts"):
        quantize(QuantizeOptions(method="awq"), make_model("mixtral"), tmp_path / "out", context)
    with pytest.raises(UsageError, match="group size 48"):
        quantize(
            QuantizeOptions(method="awq", group_size=48),
            make_model("llama"),
            tmp_path / "out",
            context,
        )
    with pytest.raises(Refused, match="does not divide"):
        quantize(
            QuantizeOptions(method="awq"),
            small(make_model, "llama", intermediate_size=192),
            tmp_path / "out",
            context,
        )
    assert not (tmp_path / "out").exists()


def test_the_largest_weight_of_a_group_is_on_the_grid() -> None:
    weight, _, _ = sample(4)
    groups = weight.view(OUT, -1, 32)
    largest = groups.abs() == groups.abs().amax(-1, keepdim=True)
    ours = round_trip(weight, Scheme(4, 32)).view_as(groups)
    torch.testing.assert_close(ours[largest], groups[largest], rtol=1e-3, atol=0)
    assert torch.equal(
        round_trip(weight, Scheme(4, 32, False)),
        rtn(weight, Scheme(4, 32, False), mse=False).dequantize(),
    )
