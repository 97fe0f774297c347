"""Which tensors are the model, held against stock transformers: files, ties, types and buffers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from model_files import configure, put, rewrite, sharded, write_shards
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.checkpoints.config import read_architecture, read_config
from edgewright.checkpoints.hashing import weight_bytes
from edgewright.checkpoints.inventory import weight_files
from edgewright.checkpoints.loading import load_model, stock_model
from edgewright.checkpoints.settings import load_settings
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state, rows_of, stored_dtype, tensor_specs
from edgewright.compress.calibration.layer_inputs import first_inputs
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.export.onnx.reference import reference_logits
from edgewright.export.onnx.weights import Weights
from edgewright.models import is_buffer
from edgewright.steps.context import StepContext
from edgewright.steps.state import checkpoint_state

MakeModel = Callable[..., Path]
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
TIED = {
    "qwen2": {},
    "gemma3_text": {"tie_word_embeddings": None},
    "llama": {"tie_word_embeddings": True},
}
IDS = [5, 9, 101, 7, 33, 250, 4, 18]


def noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.randn_like(tensor, dtype=torch.float32) for key, tensor in state.items()}


def stock_logits(folder: Path) -> Tensor:
    with torch.no_grad():
        return stock_model(folder)(input_ids=torch.tensor([IDS])).logits[0]


def every_readers_logits(folder: Path) -> dict[str, Tensor]:
    """The logits of each of our ways to read a floating-point checkpoint."""
    model = Streamed(folder)
    (row,) = [torch.tensor([IDS, IDS])]
    states, calls = first_inputs(model, [row])
    with torch.no_grad():
        for index, call in enumerate(calls):
            with model.held(index) as layer:
                states[:] = call(layer, states[0])
        streamed = torch.cat(list(model.logit_parts(states[0])), -1)[0]
        loaded = load_model(folder)(input_ids=torch.tensor([IDS])).logits[0]
    (exported,) = reference_logits(folder, [IDS], "streamed")
    return {"streamed": streamed, "loaded": loaded, "exported": torch.from_numpy(exported)}


# Files


def old_copy(folder: Path) -> None:
    put(folder, noise(load_file(folder / "model.safetensors")), "model_old.safetensors")


def first_name_wins(folder: Path) -> None:
    put(folder, noise(load_file(folder / "model.safetensors")), "a.safetensors")


def variant_beside_shards(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    sharded(folder)
    names = write_shards(folder, noise(state), 2, "model.fp16")
    (folder / "model.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": names}))


def shards_of_an_earlier_save(folder: Path) -> None:
    """One file and an index beside it: transformers takes the file."""
    names = write_shards(folder, noise(load_file(folder / "model.safetensors")), 2)
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def named_in_the_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    put(folder, noise(load_file(folder / "other.safetensors")))
    configure(folder, transformers_weights="other.safetensors")


DIRECTORIES: dict[str, Callable[[Path], Any]] = {
    "a copy behind": old_copy,
    "a file before": first_name_wins,
    "a variant beside shards": variant_beside_shards,
    "shards of an earlier save": shards_of_an_earlier_save,
    "named in the config": named_in_the_config,
}


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_all_readers_take_the_files_that_transformers_takes(
    kind: str, copy_model: MakeModel
) -> None:
    folder = copy_model("llama")
    expected = load_file(folder / "model.safetensors")
    DIRECTORIES[kind](folder)
    stock = stock_model(folder).state_dict()
    assert all(torch.equal(stock[key], tensor) for key, tensor in expected.items())
    state = read_state(folder)
    weights = Weights(folder, read_config(folder))
    assert state.keys() == expected.keys() == tensor_specs(folder).keys() == weights.state_names()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor)
        assert torch.equal(weights.tensor(key), tensor)
        assert torch.equal(torch.cat(list(rows_of(folder, key, 100))), tensor)
    assert all(torch.equal(load_model(folder).state_dict()[key], t) for key, t in expected.items())
    assert weight_bytes(folder) == sum(file.stat().st_size for file in weight_files(folder))


@pytest.mark.parametrize(
    "named",
    ["../other.safetensors", "pytorch_model.bin", "a/b.safetensors", f"{'a' * 250}.safetensors"],
)
def test_files_outside_the_directory_are_not_read(named: str, copy_model: MakeModel) -> None:
    folder = configure(copy_model("llama"), transformers_weights=named)
    with pytest.raises(UsageError, match="transformers_weights is"):
        read_state(folder)


# Ties


def head_absent(folder: Path) -> None:
    pass


def head_equal(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({HEAD: state[EMBEDDING].clone()}))


def head_of_its_own(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({HEAD: state[EMBEDDING].flip(0) * 1.5}))


def head_alone(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({HEAD: state.pop(EMBEDDING)}))


TIES = {"absent": head_absent, "equal": head_equal, "own": head_of_its_own, "alone": head_alone}


@pytest.mark.parametrize("kind", TIES)
@pytest.mark.parametrize("family", TIED)
def test_all_readers_tie_what_transformers_ties(
    family: str, kind: str, copy_model: MakeModel
) -> None:
    folder = copy_model(family, **{k: v for k, v in TIED[family].items() if v is not None})
    configure(folder, drop=tuple(k for k, v in TIED[family].items() if v is None))
    TIES[kind](folder)
    expected = stock_logits(folder)
    for name, logits in every_readers_logits(folder).items():
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4, msg=f"{name} differs")
    own = kind == "own"
    found = read_architecture(folder)
    assert found.tied == (not own)
    assert bool(load_settings(folder).tie_word_embeddings) == (not own)
    assert (HEAD in read_state(folder)) == own
    assert found.parameters == sum(t.numel() for t in read_state(folder).values())
    assert checkpoint_state(folder).parameters == found.parameters


@pytest.mark.parametrize("family", TIED)
@pytest.mark.parametrize("method", ["rtn", "int8"])
def test_an_untied_head_stays_untied_when_packed(
    family: str, method: Any, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = copy_model(family, **{k: v for k, v in TIED[family].items() if v is not None})
    head_of_its_own(folder)
    bits = {"bits": 8, "group_size": 32} if method == "rtn" else {}
    quantize(QuantizeOptions(method=method, **bits), folder, tmp_path / "out", context)
    state = load_model(tmp_path / "out").state_dict()
    assert torch.equal(state[HEAD], read_state(folder)[HEAD].float())
    assert torch.equal(state[EMBEDDING], read_state(folder)[EMBEDDING].float())
    # config.json says the same, for readers that look at nothing else.
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )


def test_packed_checkpoints_of_others_are_tied_by_the_same_rule(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(QuantizeOptions(method="rtn"), copy_model("qwen2"), out, context)
    head_of_its_own(out)
    assert configure(out, tie_word_embeddings=True)
    state = read_state(out)
    model = load_model(out)
    assert torch.equal(model.lm_head.weight, state[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, state[EMBEDDING])


# The stored type


@pytest.mark.parametrize("said", [None, "float32", "float16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_tensors_say_their_type(
    dtype: str, said: str | None, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = configure(copy_model("llama", dtype=dtype), drop=("dtype", "torch_dtype"))
    if said:
        configure(folder, dtype=said)
    assert stored_dtype(read_config(folder)) is getattr(torch, dtype)
    assert checkpoint_state(folder).precision == {"bfloat16": "bf16", "float16": "fp16"}.get(
        dtype, "fp32"
    )
    quantize(QuantizeOptions(method="rtn", group_size=32), folder, tmp_path / "out", context)
    assert read_state(tmp_path / "out")[EMBEDDING].dtype is getattr(torch, dtype)
    assert stored_dtype(read_config(tmp_path / "out")) is getattr(torch, dtype)


def test_without_weights_config_json_decides(copy_model: MakeModel) -> None:
    folder = configure(copy_model("llama"), dtype="bfloat16", tie_word_embeddings=True)
    (folder / "model.safetensors").unlink()
    config = read_config(folder)
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_weights_that_stand_for_other_values_are_refused(
    dtype: torch.dtype, copy_model: MakeModel
) -> None:
    folder = copy_model("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda state: state.update({name: state[name].to(dtype)}))
    for read in (read_config, read_state, load_model, checkpoint_state):
        with pytest.raises(Refused, match=rf"`{name}` is in .8.*names no quantization"):
            read(folder)


# Buffers

BUFFERS = (
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.rotary_emb.inv_freq",
    "model.layers.1.self_attn.rotary_emb.cos_cached",
    "model.layers.1.self_attn.masked_bias",
    "model.position_ids",
)


@pytest.mark.parametrize("name", BUFFERS)
def test_stored_buffers_are_no_part_of_the_model(name: str, copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    expected = stock_logits(folder)
    rewrite(folder, lambda state: state.update({name: torch.ones(32)}))
    assert name not in read_state(folder)
    assert name not in tensor_specs(folder)
    for logits in every_readers_logits(folder).values():
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_transformers_ignores_nothing_that_we_do_not(family: str, make_model: MakeModel) -> None:
    """And no parameter of a supported model is taken for a buffer."""
    settings = AutoConfig.from_pretrained(make_model(family))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    assert not [name for name in model.state_dict() if is_buffer(name)]
    buffers = [name for name, _ in model.named_buffers() if name not in model.state_dict()]
    assert buffers
    ignored = re.compile("|".join(model._keys_to_ignore_on_load_unexpected or ["(?!)"]))
    assert all(is_buffer(name) for name in buffers if name.endswith("inv_freq"))
    assert all(is_buffer(name) for name in buffers if ignored.search(name))


def test_verbs_take_a_checkpoint_with_buffers(
    copy_model: MakeModel, cli: Callable[..., tuple[int, str, str]], text_file: Path, tmp_path: Path
) -> None:
    folder = copy_model("llama")
    rewrite(folder, lambda state: state.update({BUFFERS[0]: torch.ones(32)}))
    data = ("--calibration", f"text:{text_file}", "--seq-len", 32)
    few = (*data, "--samples", 2)
    for verb in (
        ("quantize", folder, "--method", "rtn", "--group-size", 32, *few),
        ("prune", folder, "--ffn", 0.5, "--criterion", "magnitude", *few),
        ("prune", folder, "--sparsity", "2:4", *few),
        ("export", folder, *data),
        ("export", folder, "--format", "gguf", "--precision", "fp16", *data),
        ("bench", folder, "--perplexity", f"text:{text_file}", "--seq-len", 32, "--windows", 2),
    ):
        out = () if verb[0] == "bench" else ("--out", tmp_path / "out")
        code, _, err = cli(*verb, *out)
        assert code == 0, err
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
