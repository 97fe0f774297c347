"""Quantization blocks of others are read by every field, or refused by name by every verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import configure, rewrite
from test_layouts import random_packed

from edgewright.checkpoints.config import packing, read_config
from edgewright.checkpoints.layouts import LAYOUTS, Scheme, layout_of
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.packing import METHODS
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}


def int8_block(**changes: Any) -> dict[str, Any]:
    """A compressed-tensors block that is read, but for some fields."""
    return LAYOUTS["compressed-tensors"].config(Scheme(8, -1), 0.01) | changes


def weights_of(**changes: Any) -> dict[str, Any]:
    """The same, with other weights in its one group."""
    block = int8_block()
    block["config_groups"]["group_0"]["weights"] |= changes
    return block


def without_inputs(bits: int) -> dict[str, Any]:
    block = weights_of(num_bits=bits, strategy="group")
    block["config_groups"]["group_0"]["input_activations"] = None
    return block


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "torchao": ({"quant_method": "torchao", "quant_type": "int4"}, "torchao"),
    "hqq": ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    "unnamed": ({"bits": 4}, "None"),
    "gptq as marlin": (GPTQ | {"checkpoint_format": "marlin"}, "format marlin"),
    "gptq as old marlin": (GPTQ | {"is_marlin_format": True}, "format marlin"),
    "gptq in int16": (GPTQ | {"pack_dtype": "int16"}, "packed into int16"),
    "gptq in 5 bits": (GPTQ | {"bits": 5}, "gptq in 5 bits"),
    "awq gemv": (AWQ | {"version": "GEMV"}, "version gemv"),
    "awq of llm-awq": (AWQ | {"backend": "llm-awq"}, "version llm-awq"),
    "awq in 8 bits": (AWQ | {"bits": 8}, "awq in 8 bits"),
    "w4a16": (without_inputs(4), r"compressed-tensors w4a16 \(int, group\)"),
    "w8a16": (without_inputs(8), "w8a16"),
    "fp8 of compressed-tensors": (weights_of(type="float"), r"w8a8 \(float, channel\)"),
    "asymmetric": (weights_of(symmetric=False), "asymmetric"),
    "no groups": (int8_block(config_groups={}), "without config_groups"),
    "packed": (int8_block(format="pack-quantized"), "format pack-quantized"),
    "sparse": (int8_block(sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    "rounded cache": (int8_block(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
    "rotated": (int8_block(transform_config={"config_groups": {}}), "transform_config"),
    "modelopt fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt FP8"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_read_is_refused_by_name(kind: str, copy_model: MakeModel) -> None:
    block, name = UNKNOWN[kind]
    folder = configure(copy_model("llama"), quantization_config=block)
    for read in (read_config, load_model):
        with pytest.raises(Refused, match=name) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert caught.value.hint
    for ask in (packing, layout_of):
        with pytest.raises(Refused, match=name):
            ask({"quantization_config": block})


VERBS = (
    ("plan", "MODEL"),
    ("targets", "check", "MODEL", "--target", "jetson-orin-nx-16gb"),
    ("prune", "MODEL", "--heads", 0.5, "--out", "OUT"),
    ("iterate", "MODEL", "--heads", 0.5, "--out", "OUT"),
    ("quantize", "MODEL", "--out", "OUT"),
    ("distill", "MODEL", "--teacher", "MODEL", "--data", "builtin:reasoning", "--out", "OUT"),
    ("bench", "MODEL", "--perplexity", "builtin:reasoning"),
    ("kv-study", "MODEL", "--perplexity", "builtin:reasoning"),
    *(
        ("export", "MODEL", "--format", format, "--precision", "fp16", "--out", "OUT")
        for format in ("onnx", "ort", "tensorrt", "triton", "edge-llm", "gguf")
    ),
)


def run(cli: Cli, verb: tuple[object, ...], model: Path, out: Path) -> tuple[int, str, str]:
    names = {"MODEL": model, "OUT": out}
    return cli(*(names.get(str(part), part) for part in verb))


@pytest.mark.parametrize("kind", ["fp8", "w4a16"])
def test_every_verb_refuses_it(kind: str, copy_model: MakeModel, cli: Cli, tmp_path: Path) -> None:
    block, name = UNKNOWN[kind]
    folder = configure(copy_model("llama"), quantization_config=block)
    for verb in VERBS:
        code, _, err = run(cli, verb, folder, tmp_path / "out")
        assert (code, "Traceback" in err) == (3, False), (verb, err)
        assert name.split()[0].split("\\")[0] in err, (verb, err)
        assert not (tmp_path / "out").exists()


def test_every_verb_refuses_an_adapter(copy_model: MakeModel, cli: Cli, tmp_path: Path) -> None:
    """Stock transformers would load the adapter too, and so compute something else."""
    folder = copy_model("llama")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    for verb in VERBS:
        code, _, err = run(cli, verb, folder, tmp_path / "out")
        assert code == 3, (verb, err)
        assert "adapter_config.json" in err


@pytest.mark.parametrize(
    ("block", "scheme"),
    [
        (
            {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "zero_point": True},
            (4, 32, False),
        ),
        (AWQ | {"version": "GEMM", "zero_point": False}, (4, 32, True)),
        ({"quant_method": "awq"}, (4, 128, False)),
        (GPTQ, (4, 32, True)),
        (GPTQ | {"checkpoint_format": "gptq_v2", "sym": False}, (4, 32, False)),
        (int8_block(), (8, -1, True)),
        (int8_block(format="naive-quantized"), (8, -1, True)),
    ],
)
def test_the_same_scheme_for_plans_and_for_readers(block: Any, scheme: Any) -> None:
    config = {"quantization_config": block}
    layout = layout_of(config)
    assert layout is not None
    assert packing(config) == scheme
    assert layout.scheme(block, "any") == Scheme(*scheme)


def test_every_readable_method_has_a_layout() -> None:
    assert METHODS.keys() == LAYOUTS.keys()


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match="no number `bits`"):
        packing({"quantization_config": {"quant_method": "gptq", "group_size": 32}})


def test_old_keys_of_awq_are_no_traceback(copy_model: MakeModel, cli: Cli, tmp_path: Path) -> None:
    block = {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "gemm"}
    folder = configure(copy_model("llama"), quantization_config=block)
    for verb in VERBS:
        code, _, err = run(cli, verb, folder, tmp_path / "out")
        assert "Traceback" not in err, verb
        assert code in (0, 2, 3), (verb, err)


@pytest.mark.parametrize("place", ["compression_config", "hf_quant_config.json"])
def test_blocks_in_other_places_count(
    place: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    method = "int8" if place == "compression_config" else "smoothquant"
    quantize(QuantizeOptions(method=method), make_model("llama"), out, context)
    expected = load_model(out).state_dict()
    block = read_config(out)["quantization_config"]
    configure(out, drop=("quantization_config",))
    if place == "compression_config":
        configure(out, compression_config={k: v for k, v in block.items() if k != "quant_method"})
    assert packing(read_config(out)) == (8, -1, True)
    found = load_model(out).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


# Zero points of GPTQ


def stored(bits: int, sym: bool, plain: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """A packed layer and its tensors, with the zero points of version 2 if `plain`."""
    packed = random_packed(bits, sym, 32)
    parts = Gptq().write(packed)
    if plain:
        one = sum(1 << shift for shift in range(0, 32, bits)) if bits != 3 else None
        if one is None:
            pytest.skip("three bits lie across words")
        parts["qzeros"] = ((parts["qzeros"].long() + one) & 0xFFFFFFFF).to(torch.int32)
    return packed, parts


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("sym", [True, False])
def test_zero_points_of_both_versions(bits: int, plain: bool, sym: bool) -> None:
    packed, parts = stored(bits, sym, plain)
    block = GPTQ | {"bits": bits, "checkpoint_format": "gptq_v2" if plain else "gptq"}
    layout = layout_of({"quantization_config": block})
    assert isinstance(layout, Gptq)
    back = layout.read(parts, Scheme(bits, 32, sym), "layer")
    assert torch.equal(back.zeros, packed.zeros)
    assert torch.equal(back.dequantize(), packed.dequantize())


@pytest.mark.parametrize("said", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("plain", [True, False])
def test_symmetric_zero_points_are_recognized_by_their_values(said: str, plain: bool) -> None:
    """Some published files name the other version."""
    packed, parts = stored(4, True, plain)
    layout = layout_of({"quantization_config": GPTQ | {"checkpoint_format": said}})
    assert layout is not None
    assert torch.equal(layout.read(parts, Scheme(4, 32), "layer").zeros, packed.zeros)


@pytest.mark.parametrize("sym", [True, False])
def test_version_2_is_the_same_model_to_all_readers(
    sym: bool, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(
        QuantizeOptions(method="rtn", group_size=32, sym=sym), make_model("llama"), out, context
    )
    expected = load_model(out).state_dict()

    def to_version_2(state: dict[str, torch.Tensor]) -> None:
        for name in (name for name in state if name.endswith(".qzeros")):
            zeros = torch.stack([state[name].long() >> shift & 15 for shift in range(0, 32, 4)])
            zeros = (zeros + 1) & 15
            words = sum(zeros[i] << 4 * i for i in range(8))
            state[name] = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    rewrite(out, to_version_2)
    configure(
        out,
        quantization_config=read_config(out)["quantization_config"]
        | {"checkpoint_format": "gptq_v2"},
    )
    found = load_model(out).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    if sym:
        assert export_onnx(out, tmp_path / "onnx", "int4").parity["parity/top1_decode"] > 0.99
