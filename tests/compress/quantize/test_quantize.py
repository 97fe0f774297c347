"""The quantize step on every family: what it writes, and the inputs that it calibrates on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import DENSE
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import PackedLinear, Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import InMemory
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.hessian import Hessian
from edgewright.compress.quantize.gptq import gptq
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.compress.quantize.scaling import Scaler
from edgewright.compress.quantize.sequential import sequential_layers
from edgewright.compress.quantize.session import QuantizeSession
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def from_gptq(parts: Mapping[str, Tensor], bits: int, name: str) -> PackedLinear:
    return Gptq().read(parts, Scheme(bits), name)


def small(make: MakeModel, family: str, **config: Any) -> Path:
    """Two narrow layers: fast to quantize, and enough to see the inputs of the second one."""
    sizes = {
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    }
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    )
    return make(family, **sizes | layers | config)


def linears(folder: Path) -> list[str]:
    """The full names of all linear layers of the decoder."""
    return list(architecture(read_config(folder)).linears())


def logits(folder: Path, rows: list[Tensor]) -> Tensor:
    model = load_model(folder)
    with torch.no_grad():
        return torch.cat([model(input_ids=row[:1], use_cache=False).logits for row in rows])


@pytest.fixture(scope="module", params=DENSE)
def quantized(
    request: pytest.FixtureRequest,
    make_model: MakeModel,
    context: StepContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A family's model, and the same in 4 bits with groups of 64."""
    source = small(make_model, request.param)
    out = tmp_path_factory.mktemp("quantized") / request.param
    quantize(QuantizeOptions(group_size=64, bf16=False), source, out, context)
    return source, out


def test_weights_are_the_integers_and_nothing_else_changes(quantized: tuple[Path, Path]) -> None:
    source, out = quantized
    before = read_state(source)
    stored = read_state(out)
    loaded = load_model(out).state_dict()
    packed = linears(source)
    for module in packed:
        parts = part_of(stored, module)
        assert parts.keys() - {"bias"} == {"qweight", "qzeros", "scales", "g_idx"}
        weight = loaded[f"{module}.weight"]
        assert torch.equal(weight, from_gptq(parts, 4, module).dequantize())
        assert torch.equal(weight[:8], dequantize_gptq(parts, 4, outputs=8))
        assert (parts["qzeros"] == 0x77777777).all()
        assert not torch.equal(weight, before[f"{module}.weight"])
        torch.testing.assert_close(
            weight, before[f"{module}.weight"], rtol=0, atol=float(parts["scales"].max()) * 6
        )
    rest = {key for key in before if key.rpartition(".")[0] not in packed or key.endswith(".bias")}
    assert (
        stored.keys()
        - {f"{m}.{part}" for m in packed for part in ("qweight", "qzeros", "scales", "g_idx")}
        == rest
    )
    for key in rest:
        assert torch.equal(stored[key], before[key]), key


def test_directory_is_for_readers_of_both_transformers(quantized: tuple[Path, Path]) -> None:
    source, out = quantized
    for name in TOKENIZER:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    rope = config["rope_parameters"]
    assert config["rope_theta"] == 500000.0 == rope.get("full_attention", rope)["rope_theta"]
    if "sliding_attention" in rope:
        assert config["rope_local_base_freq"] == 20000.0 == rope["sliding_attention"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config.get("rope_scaling", 0) is not None
    block = config["quantization_config"]
    assert (
        block["quant_method"],
        block["bits"],
        block["group_size"],
        block["sym"],
        block["desc_act"],
    ) == ("gptq", 4, 64, True, False)
    unchanged = json.loads((source / "config.json").read_text())
    assert {k: config[k] for k in unchanged} == unchanged


def test_every_layer_was_calibrated_on_outputs_of_the_quantized_layers_before_it(
    quantized: tuple[Path, Path], context: StepContext
) -> None:
    """Calibrating on the finished model gives the same integers.

    There, all inputs of a layer come from finished layers.
    """
    source, out = quantized
    before = read_state(source)
    stored = read_state(out)
    model = load_model(out)
    names = linears(source)
    hessians = {name: Hessian(before[f"{name}.weight"].shape[1]) for name in names}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, hessian=hessians[name]: hessian.add(args[0])
        )
    with torch.no_grad():
        for row in context.calibration.rows(source, context.seed):
            model(input_ids=row[:1], use_cache=False)
    for name in names:
        o = QuantizeOptions()
        again = gptq(
            before[f"{name}.weight"],
            hessians[name].matrix(),
            Scheme(4, 64),
            damp=o.damp,
            refine=o.refine,
        ).packed.integers
        same = again == from_gptq(part_of(stored, name), 4, name).integers
        assert same.float().mean() > 0.98, (
            name
        )  # two ways to the same sums: a tie may fall either way, and pull others along


def test_bfloat16_calibration_is_asked_for_and_differs_little(
    quantized: tuple[Path, Path], context: StepContext, tmp_path: Path
) -> None:
    source, out = quantized
    quantize(QuantizeOptions(group_size=64, bf16=True), source, tmp_path / "out", context)
    one = read_state(out)
    other = read_state(tmp_path / "out")
    names = linears(source)
    integers = [
        [from_gptq(part_of(state, name), 4, name).integers for name in names]
        for state in (one, other)
    ]
    same = torch.cat([(a == b).flatten() for a, b in zip(*integers, strict=True)]).float().mean()
    assert 0.5 < same < 1  # products that were not rounded would give the same
    rows = context.calibration.rows(source, context.seed)
    expected = logits(source, rows).log_softmax(-1)
    kl = [
        float((expected.exp() * (expected - logits(p, rows).log_softmax(-1))).sum(-1).mean())
        for p in (out, tmp_path / "out")
    ]
    assert kl[1] < 1.1 * kl[0]


def test_gptq_follows_the_model_closer_than_rounding(
    quantized: tuple[Path, Path], context: StepContext, tmp_path: Path
) -> None:
    source, out = quantized
    rows = context.calibration.rows(source, context.seed)
    rounded = tmp_path / "rtn"
    result = quantize(QuantizeOptions(method="rtn", group_size=64), source, rounded, context)
    expected = logits(source, rows).log_softmax(-1)
    kl = [
        float((expected.exp() * (expected - logits(p, rows).log_softmax(-1))).sum(-1).mean())
        for p in (out, rounded)
    ]
    assert kl[0] < 0.9 * kl[1]
    assert all(m["error"] == m["rtn_error"] for m in result.details["modules"].values())


def test_no_module_errs_more_than_rounding_and_smaller_groups_err_less(
    make_model: MakeModel, context: StepContext
) -> None:
    source = small(make_model, "llama")
    rows = context.calibration.rows(source, 0)
    config = read_config(source)
    errors = []
    for size in (32, 64, 128):
        model = InMemory(load_model(source), architecture(config))
        run = QuantizeSession(QuantizeOptions(group_size=size))
        deque(
            sequential_layers(run, model, rows, ActivationBuffer(), Scaler(run, torch.float32)),
            maxlen=0,
        )
        assert run.modules.keys() == set(linears(source))
        assert all(module["error"] <= module["rtn_error"] for module in run.modules.values())
        errors.append(sum(module["error"] for module in run.modules.values()))
    assert errors == sorted(errors)
    assert errors[0] < 0.9 * errors[-1]


@pytest.mark.parametrize(
    ("options", "family", "config"),
    [
        ({"bits": 8, "group_size": 32}, "qwen2", {}),
        (
            {"sym": False, "group_size": 128, "act_order": False},
            "llama",
            {"attention_bias": True, "mlp_bias": True},
        ),
        ({"group_size": -1}, "qwen3", {"attention_bias": True}),
        ({"method": "rtn", "sym": False, "bits": 8}, "gemma3_text", {}),
    ],
)
def test_options_are_what_is_written(
    options: dict[str, Any],
    family: str,
    config: dict[str, Any],
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    source = small(make_model, family, **config)
    chosen = QuantizeOptions(**options)
    result = quantize(chosen, source, tmp_path / "out", context)
    block = read_config(tmp_path / "out")["quantization_config"]
    stored = read_state(tmp_path / "out")
    assert (block["bits"], block["group_size"], block["sym"]) == (
        chosen.bits,
        chosen.group_size,
        chosen.sym,
    )
    loaded = load_model(tmp_path / "out").state_dict()
    for module in linears(source):
        parts = part_of(stored, module)
        width = read_state(source)[f"{module}.weight"].shape[1]
        assert len(parts["scales"]) == (
            1 if chosen.group_size == -1 else width // chosen.group_size
        )
        assert torch.equal(
            loaded[f"{module}.weight"][:4], dequantize_gptq(parts, chosen.bits, outputs=4)
        )
        packed = from_gptq(parts, chosen.bits, module)
        assert packed.sym == chosen.sym
        assert packed.zeros.min() > 0
    assert f"{len(linears(source))} linear layers to {chosen.bits} bit" in result.notes[0]


def test_half_precision_stays_half_precision(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = small(make_model, "qwen2", dtype="bfloat16")
    quantize(QuantizeOptions(), source, tmp_path / "out", context)
    before = read_state(source)
    after = read_state(tmp_path / "out")
    assert read_config(tmp_path / "out")["torch_dtype"] == "bfloat16"
    kept = before.keys() & after.keys()
    assert kept >= {"model.embed_tokens.weight", "model.norm.weight"}
    assert all(torch.equal(after[k], before[k]) and after[k].dtype == torch.bfloat16 for k in kept)


def test_same_seed_same_bytes(make_model: MakeModel, context: StepContext, tmp_path: Path) -> None:
    source = small(make_model, "llama")
    for name in ("one", "two"):
        quantize(QuantizeOptions(), source, tmp_path / name, context)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_quantizing_twice_is_refused(
    quantized: tuple[Path, Path], context: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="quantized already") as caught:
        quantize(QuantizeOptions(), quantized[1], tmp_path / "out", context)
    assert caught.value.exit_code == 3


def test_unusable_calibration_is_noted(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """A layer whose inputs are all zero has no usable Hessian: it is rounded, with a note."""
    from safetensors.torch import save_file

    source = small(copy_model, "llama")
    state = read_state(source)
    key = "model.layers.1.mlp.up_proj.weight"
    save_file(
        state | {key: torch.zeros_like(state[key])},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    result = quantize(QuantizeOptions(), source, tmp_path / "out", context)
    assert [note for note in result.notes if "could not be factorised" in note] == [
        "model.layers.1.mlp.down_proj: the Hessian could not be factorised; rounded to nearest"
    ]
    assert (
        json.loads((tmp_path / "out" / "edgewright.json").read_text())["fallbacks"]
        == result.notes[2:]
    )


def test_too_little_text(make_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    short = StepContext(CalibrationData(f"text:{tmp_path / 'short.txt'}", 4, 64))
    with pytest.raises(UsageError, match="fewer than 64 tokens"):
        quantize(QuantizeOptions(), make_model("llama"), tmp_path / "out", short)
