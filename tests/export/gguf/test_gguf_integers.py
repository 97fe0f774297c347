"""Integers in a GGUF file are those of the checkpoint, or the export says so or refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from family_table import WHOLE
from numpy.typing import NDArray
from safetensors.numpy import load_file
from wrapped_models import make_wrapped

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.export.gguf.writer import export_gguf
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export

FFN = "model.layers.0.mlp.down_proj"
IN_FILE = "blk.0.ffn_down.weight"


@pytest.fixture
def packed(make_model: Callable[..., Path], context: Any, tmp_path: Path) -> Callable[..., Path]:
    """A tiny llama, quantized with these options."""

    def make(**options: Any) -> Path:
        given = QuantizeOptions.model_validate({"group_size": 32} | options)
        out = tmp_path / f"packed{len(list(tmp_path.iterdir()))}"
        quantize(given, make_model("llama"), out, context)
        return out

    return make


def read(folder: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(str(folder / "model.gguf"))


def kinds(folder: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in read(folder).tensors}


def unpacked(folder: Path, bits: int) -> NDArray[np.int64]:
    """The integers of a layer as AutoGPTQ stores them, [out, in]: 32 bits hold several inputs."""
    words = load_file(folder / "model.safetensors")[f"{FFN}.qweight"].view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    integers = (words[:, None, :] >> shifts[None, :, None]) & (2**bits - 1)
    return integers.reshape(-1, words.shape[1]).T.astype(np.int64)


def test_a_checkpoint_in_floating_point_is_not_rounded_to_4_bits(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not quantized, and int4 is taken bit for bit"):
        export_gguf(make_model("llama"), tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "quantized 3-bit"),
        ({"bits": 8}, "quantized 8-bit"),
        ({"act_order": "permuted"}, "g_idx permutes the groups"),
    ],
)
def test_integers_that_no_block_holds_are_refused(
    options: dict[str, Any], message: str, packed: Any, tmp_path: Path
) -> None:
    source = packed(**options)
    with pytest.raises(Refused, match=message):
        export_gguf(source, tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


def test_8_bits_are_copied(packed: Any, tmp_path: Path) -> None:
    source = packed(bits=8, sym=True)
    checked = export_gguf(source, tmp_path / "out", "int8")
    assert checked["matrices"]["copied"] == 21
    reader = read(tmp_path / "out")
    (tensor,) = [tensor for tensor in reader.tensors if tensor.name == IN_FILE]
    assert tensor.tensor_type.name == "Q8_0"
    blocks = np.asarray(tensor.data).reshape(-1, 34)  # a scale of 2 bytes, and 32 signed bytes
    stored = blocks[:, 2:].view(np.int8).astype(np.int64)
    ours = unpacked(source, 8)
    assert np.array_equal(stored.reshape(ours.shape), ours - 128)
    assert reader.fields["general.file_type"].contents() == 7


def test_a_layer_that_was_kept_in_floating_point_stays_so(
    packed: Any, context: Any, tmp_path: Path
) -> None:
    source = packed(rules=({"match": "model.layers.0.*", "skip": True},))
    options = ExportOptions(format="gguf", precision="int4")
    result = export(options, source, tmp_path / "out", context)
    found = kinds(tmp_path / "out")
    assert found[IN_FILE] == "F16" and found["blk.1.ffn_down.weight"] == "Q4_0"
    assert result.details["checked"]["matrices"] == {"rounded": 2, "kept": 7, "copied": 14}
    assert "14 hold the checkpoint's integers bit for bit" in result.notes[0]
    assert "7 are in fp16" in result.notes[0]
    (tensor,) = [tensor for tensor in read(tmp_path / "out").tensors if tensor.name == IN_FILE]
    stored = load_file(source / "model.safetensors")[f"{FFN}.weight"]
    assert np.abs(np.asarray(tensor.data).astype(np.float32) - stored).max() < 1e-3
    assert read(tmp_path / "out").fields["general.file_type"].contents() == 2


def test_zero_points_say_q4_1(packed: Any, tmp_path: Path) -> None:
    export_gguf(packed(sym=False), tmp_path / "out", "int4")
    assert kinds(tmp_path / "out")[IN_FILE] == "Q4_1"
    assert read(tmp_path / "out").fields["general.file_type"].contents() == 3


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "qwen2_5_vl"])
def test_the_text_model_of_a_wrapper_in_floating_point_is_written(
    name: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    source = make_wrapped(tmp_path / "wrapped", name, tokenizer_dir)
    export_gguf(source, tmp_path / "out", "fp16")
    stored = load_file(source / "model.safetensors")
    (key,) = [key for key in stored if key.endswith("layers.0.mlp.down_proj.weight")]
    (tensor,) = [tensor for tensor in read(tmp_path / "out").tensors if tensor.name == IN_FILE]
    assert np.abs(np.asarray(tensor.data).astype(np.float32) - stored[key]).max() < 1e-3


def test_longrope_says_when_llama_cpp_takes_the_long_factors(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 32,
        "long_factor": [4.0] * 32,
    }
    sizes = {"max_position_embeddings": 1024, "original_max_position_embeddings": 256}
    source = make_model("phi3", **WHOLE, rope_parameters=rope, **sizes)
    (note,) = [n for n in export_gguf(source, tmp_path / "out", "fp16")["notes"] if "longrope" in n]
    assert "more than 256 tokens" in note
