"""The prune step: every family and cut equals the original with the removed parts masked."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from prune_helpers import IDS, plain
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture, decoder_layers
from edgewright.steps.context import StepContext, StepResult

MakeModel = Callable[..., Path]
CUTS: dict[str, dict[str, Any]] = {
    "heads": {"heads": 0.25},
    "groups": {"kv_heads": 0.5},
    "ffn": {"ffn": 0.5},
    "layers": {"layers": 1},
    "all": {"heads": 0.5, "ffn": 0.25, "layers": 1},
}


def silence(linear: nn.Linear, columns: list[int] | slice = slice(None)) -> None:
    """Make the outputs of a linear layer independent of some of its inputs."""
    with torch.no_grad():
        linear.weight[:, columns] = 0


def kept_rows(small: Tensor, whole: Tensor) -> list[int]:
    """Which rows of `whole` are those of `small`."""
    same = (small.float().unsqueeze(1)[..., :4] == whole.float()[:, :4]).all(-1)
    assert (same.sum(1) == 1).all()
    return same.float().argmax(1).tolist()


def silenced_logits(source: Path, out: Path, result: StepResult) -> Tensor:
    """Logits of the original with the heads, neurons and layers masked that the step removed."""
    model, config = copy.deepcopy(stock_model(source)), read_config(source)
    described, small, whole = architecture(config), read_state(out), read_state(source)
    size = described.attention_sizes.head_dim
    left = architecture(read_config(out)).layers
    modules = decoder_layers(model, described)
    for index, (module, layer) in enumerate(zip(modules, described.layers, strict=True)):
        o, down = (module.get_submodule(name) for name in layer.outputs)
        if index not in result.details["kept_layers"]:
            for linear in (o, down):
                silence(linear)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            continue
        new = result.details["kept_layers"].index(index)
        assert layer.dense_ffn
        name = layer.dense_ffn.up.name
        up = kept_rows(small[left[new].key(name)], whole[layer.key(name)])
        silence(down, sorted(set(range(down.in_features)) - set(up)))
        silence(
            o,
            [
                head * size + i
                for head in result.details["pruned_heads"][index]
                for i in range(size)
            ],
        )
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@cache
def stock_model(folder: Path) -> Any:
    """The model as stock transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def assert_same_function(source: Path, out: Path, result: StepResult) -> Any:
    expected, model = silenced_logits(source, out, result), stock_model(out)
    with torch.no_grad():
        got = model(input_ids=IDS, use_cache=False).logits
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-4
    config = read_config(out)
    assert architecture(config).parameters == model.num_parameters()
    return model


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", DENSE)
def test_pruned_is_silenced(
    family: str, cut: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, out = make_model(family), tmp_path / "out"
    result = prune(plain(**CUTS[cut]), source, out, context)
    assert_same_function(source, out, result)
    before, after = read_config(source), read_config(out)
    heads = {"heads": 4 if family == "gemma3_text" else 6, "groups": 4, "all": 4}.get(
        cut, 8
    )  # Gemma refuses six heads of 128 channels
    sizes = (
        heads,
        1 if cut == "groups" else 2,
        64,
        {"ffn": 256, "all": 384}.get(cut, 512),
        2 if cut in ("layers", "all") else 3,
    )
    names = (
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "num_hidden_layers",
    )
    assert tuple(after[name] for name in names) == sizes
    assert after["rope_theta"] == 500000.0
    assert after.get("layer_types", [])[:1] == before.get("layer_types", [])[:1]
    assert len(after.get("layer_types", [])) in (0, after["num_hidden_layers"])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert result.details["max_relative_difference"] < 1e-4


@pytest.mark.parametrize("family", DENSE)
def test_biases_half_precision_and_one_kv_head(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    biases = {"attention_bias": True, "mlp_bias": family == "llama"}
    source = make_model(
        family, dtype="bfloat16", num_attention_heads=4, num_key_value_heads=1, seed=3, **biases
    )
    result = prune(
        plain(heads=0.5, ffn=0.5, layers=1, criterion="activation"),
        source,
        tmp_path / "out",
        context,
    )
    assert_same_function(source, tmp_path / "out", result)
    assert {t.dtype for t in read_state(tmp_path / "out").values()} == {torch.bfloat16}
    assert read_config(tmp_path / "out")["torch_dtype"] == "bfloat16"


OLD_SPELLING = {
    "gemma3_text": {
        "sliding_window_pattern": 2,
        "rope_theta": 500000.0,
        "rope_local_base_freq": 20000.0,
    },
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 2,
        "rope_theta": 500000.0,
        "rope_scaling": None,
    },
}


@pytest.mark.parametrize("family", OLD_SPELLING)
def test_layers_keep_their_window_where_the_config_gives_a_rule(
    family: str, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Files of transformers 4 have a rule such as "every second layer"; a cut must not shift it."""
    source = copy_model(
        family, num_hidden_layers=4, **({"layer_types": None} if family == "gemma3_text" else {})
    )
    config = json.loads((source / "config.json").read_text())
    for new in (
        "layer_types",
        "rope_parameters",
        "_sliding_window_pattern",
        "dtype",
        "tie_word_embeddings",
    ):
        config.pop(new, None)
    config |= OLD_SPELLING[family] | ({"tie_word_embeddings": True} if family == "qwen2" else {})
    (source / "config.json").write_text(json.dumps(config))
    result = prune(plain(layers=1), source, tmp_path / "out", context)
    assert_same_function(source, tmp_path / "out", result)
    removed = ({0, 1, 2, 3} - set(result.details["kept_layers"])).pop()
    types = (
        ["sliding_attention", "full_attention"] * 2
        if family == "gemma3_text"
        else ["full_attention"] * 2 + ["sliding_attention"] * 2
    )
    assert read_config(tmp_path / "out")["layer_types"] == types[:removed] + types[removed + 1 :]


def test_llama_becomes_mistral_where_its_config_would_refuse(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama")
    result = prune(plain(heads=0.25), source, tmp_path / "six", context)
    model = assert_same_function(source, tmp_path / "six", result)
    assert model.config.model_type == "mistral"
    assert model.config.sliding_window is None
    assert any("written as `mistral`" in note for note in result.notes)
    prune(PruneOptions(heads=0.5), source, tmp_path / "four", context)
    assert read_config(tmp_path / "four")["model_type"] == "llama"


def test_llama_with_biases_stays_llama(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", attention_bias=True)
    prune(PruneOptions(heads=0.25), source, tmp_path / "out", context)
    config = read_config(tmp_path / "out")
    assert (config["model_type"], config["num_attention_heads"]) == ("llama", 4)


def test_loads_and_generates_without_edgewright(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, out = make_model("qwen3"), tmp_path / "out"
    result = prune(plain(**CUTS["all"]), source, out, context)
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('out', dtype='float32')\n"
        "tokenizer = AutoTokenizer.from_pretrained('out')\n"
        "ids = tokenizer('Seven boats', return_tensors='pt').input_ids\n"
        "made = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)\n"
        f"logits = model(input_ids=torch.tensor({IDS.tolist()})).logits\n"
        "ours = 'edgewright' in sys.modules\n"
        "print(json.dumps([made.shape[1] - ids.shape[1], logits[0, -1].tolist(), ours]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    new, last, ours = json.loads(done.stdout.splitlines()[-1])
    assert (new, ours) == (8, False)
    torch.testing.assert_close(
        torch.tensor(last), silenced_logits(source, out, result)[0, -1], rtol=1e-3, atol=1e-3
    )


def test_multi_head_attention_loses_whole_heads(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", num_key_value_heads=8)
    result = prune(plain(heads=0.25), source, tmp_path / "out", context)
    assert_same_function(source, tmp_path / "out", result)
    config = read_config(tmp_path / "out")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (6, 6)


def test_nothing_to_prune_and_quantized_input(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = copy_model("llama")
    with pytest.raises(UsageError, match="nothing to prune"):
        prune(PruneOptions(), source, tmp_path / "out", context)
    config = read_config(source) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="quantized already"):
        prune(PruneOptions(ffn=0.5), source, tmp_path / "out", context)


def test_what_could_not_be_done_exactly_is_noted(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    result = prune(PruneOptions(heads=0.3, ffn=0.3), make_model("llama"), tmp_path / "out", context)
    assert any(
        "asked to remove 30% of the query heads, removed 25%" in note for note in result.notes
    )
    assert any(
        "asked to remove 30% of the FFN neurons, removed 25%" in note for note in result.notes
    )
    before, after = (
        sum(p.numel() for p in read_state(f).values())
        for f in (make_model("llama"), tmp_path / "out")
    )
    assert f"{before:,} -> {after:,} parameters" in result.notes[0]
