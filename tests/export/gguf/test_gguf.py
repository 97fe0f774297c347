"""GGUF files, read with the gguf package and with transformers; test_compat_gguf has llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.checkpoints.loading import load_model
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export

IDS = torch.arange(40, 60).unsqueeze(0)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits[0].float()


@pytest.fixture(scope="module")
def pruned(
    make_model: Callable[..., Path], context: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A model with half of its heads and neurons, so that heads times head_dim is not the width."""

    def make(family: str) -> Path:
        out = tmp_path_factory.mktemp("pruned") / family
        prune(
            PruneOptions(heads=0.5, ffn=0.5, criterion="magnitude"),
            make_model(family, num_hidden_layers=2, use_sliding_window=False),
            out,
            context,
        )
        return out

    return make


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_f16_of_a_pruned_model_is_the_model(
    family: str, pruned: Any, context: Any, tmp_path: Path
) -> None:
    source = pruned(family)
    result = export(
        ExportOptions(format="gguf", precision="fp16"), source, tmp_path / "out", context
    )
    assert result.details["checked"]["largest_difference"] < 1e-3
    fields = gguf.GGUFReader(str(tmp_path / "out" / "model.gguf")).fields
    assert fields[f"{family}.rope.freq_base"].contents() == 500000
    assert fields[f"{family}.attention.head_count"].contents() == 4
    assert fields[f"{family}.attention.key_length"].contents() == 64
    # The reader of transformers ignores key_length, so the test gives it the shape.
    settings = AutoConfig.from_pretrained(source)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", config=settings, dtype=torch.float32
    )
    ours = load_model(source)
    assert (logits(ours) - logits(theirs)).abs().max() < 0.05


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_gptq_checkpoint_becomes_q4_0_bit_for_bit(
    family: str, pruned: Any, context: Any, tmp_path: Path
) -> None:
    quantize(QuantizeOptions(), pruned(family), tmp_path / "int4", context)
    result = export(
        ExportOptions(format="gguf", precision="int4"), tmp_path / "int4", tmp_path / "out", context
    )
    checked = result.details["checked"]
    assert checked["tensors"]["Q4_0"] == 14
    reader = gguf.GGUFReader(str(tmp_path / "out" / "model.gguf"))
    state = load_model(tmp_path / "int4").state_dict()
    name = next(key for key in state if key.endswith("down_proj.weight"))
    (tensor,) = [t for t in reader.tensors if t.name == "blk.0.ffn_down.weight"]
    theirs = torch.from_numpy(
        gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()
    ).reshape(state[name].shape)
    assert torch.equal(theirs, state[name].float())


def test_a_qwen2_with_pruned_heads_goes_as_a_llama(
    pruned: Any, context: Any, tmp_path: Path
) -> None:
    """llama.cpp's qwen2 cannot have fewer heads, its llama can; see also test_compat_gguf."""
    export(
        ExportOptions(format="gguf", precision="fp16"), pruned("qwen2"), tmp_path / "out", context
    )
    reader = gguf.GGUFReader(str(tmp_path / "out" / "model.gguf"))
    assert reader.fields["general.architecture"].contents() == "llama"
    assert {"blk.0.attn_q.bias", "blk.1.attn_v.bias"} <= {tensor.name for tensor in reader.tensors}


def test_q8_0_is_near(make_model: Callable[..., Path], context: Any, tmp_path: Path) -> None:
    result = export(
        ExportOptions(format="gguf", precision="int8"),
        make_model("qwen2"),
        tmp_path / "out",
        context,
    )
    assert result.details["checked"]["tensors"]["Q8_0"] > 20
    assert 0 < result.details["checked"]["largest_difference"] < 0.01


def test_what_llama_cpp_has_no_counterpart_for_is_refused(
    make_model: Callable[..., Path], context: Any, tmp_path: Path
) -> None:
    options = ExportOptions(format="gguf", precision="fp16")
    with pytest.raises(Refused, match="sliding window"):
        export(options, make_model("qwen3"), tmp_path / "out", context)
    growing = {
        "rope_type": "dynamic",
        "rope_theta": 500000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 128,
    }
    with pytest.raises(Refused, match="dynamic"):
        export(options, make_model("llama", rope_parameters=growing), tmp_path / "out", context)
    with pytest.raises(Refused, match="activation `gelu_tanh`"):
        export(
            options, make_model("llama", hidden_act="gelu_pytorch_tanh"), tmp_path / "out", context
        )
    assert not (tmp_path / "out").exists()
