"""Models inside wrappers: the text model is compressed, and every other tensor stays as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import configure, rewrite
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.quantizers.quantizers_utils import should_convert_module
from wrapped_models import WRAPPED, answers, load_stock, make_wrapped, text_logits

from edgewright.checkpoints.config import end_tokens, read_architecture, read_config
from edgewright.checkpoints.loading import dense_state, load_model
from edgewright.checkpoints.writer import write_checkpoint
from edgewright.compress.distill.options import DistillOptions
from edgewright.compress.distill.runner import distill
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.models import text_config, text_name, whole_config
from edgewright.steps.context import StepContext

CUT = {"ffn": 0.25, "layers": 1}
FIXED_HEADS = "qwen2_5_vl"
ROWS = torch.randint(10, 500, (2, 24), generator=torch.Generator().manual_seed(2))
Wrapped = Callable[[str], Path]
SPELLINGS = {
    "gemma3": ("language_model.model.", "model.language_model."),
    "qwen2_5_vl": ("model.", "model.language_model."),
    "qwen3_vl": ("model.language_model.", "model.language_model."),
    "mistral3": ("language_model.model.", "model.language_model."),
}
"""How transformers 5.23 saves the names of a text model, and how the loaded model has them."""


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Wrapped:
    """A wrapper by its model type, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = make_wrapped(tmp_path_factory.mktemp(name) / name, name, tokenizer_dir)
        return made[name]

    return make


def digest(tensor: Tensor) -> str:
    """A hash of the type and the bytes of a tensor."""
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {hashlib.sha256(data).hexdigest()}"


def others(path: Path) -> dict[str, str]:
    """Hashes of all tensors beside the text model, by their names in files."""
    state = load_file(path / "model.safetensors")
    return {name: digest(tensor) for name, tensor in state.items() if text_name(name) is None}


def config_without_text(path: Path) -> dict[str, Any]:
    """config.json without the text model and what both spellings of transformers add."""
    config = json.loads((path / "config.json").read_text())
    return {
        key: value
        for key, value in config.items()
        if key not in ("text_config", "torch_dtype", "quantization_config")
    }


def as_floats(path: Path, out: Path) -> Path:
    """A packed wrapper written in floating point, so that no other package has to read it."""
    config = {k: v for k, v in read_config(path).items() if k != "quantization_config"}
    write_checkpoint(out, dense_state(path), config, path, {})
    return out


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_the_text_model_computes_as_the_whole_one(name: str, wrapped: Wrapped) -> None:
    model = load_model(wrapped(name))
    assert torch.equal(text_logits(model, ROWS), text_logits(load_stock(wrapped(name)), ROWS))


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_pruning_leaves_the_rest(
    name: str, wrapped: Wrapped, tmp_path: Path, context: StepContext
) -> None:
    source = wrapped(name)
    cut = CUT if name == FIXED_HEADS else {**CUT, "heads": 0.5}
    prune(PruneOptions.model_validate(cut), source, tmp_path / "out", context)
    assert others(source)
    assert others(tmp_path / "out") == others(source)
    assert config_without_text(tmp_path / "out") == config_without_text(source)
    for file in ("preprocessor_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (source / file).read_bytes()
    model = load_stock(tmp_path / "out")
    assert type(model) is type(load_stock(source))
    text, image = answers(model)
    assert len(text) == 17
    assert len(image) == 35
    assert read_architecture(tmp_path / "out").intermediate_size == 384
    loaded = load_model(tmp_path / "out")
    assert torch.equal(text_logits(loaded, ROWS), text_logits(model, ROWS))


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "gptq") for name in sorted(WRAPPED)] + [("qwen3_vl", "awq"), ("gemma3", "int8")],
)
def test_quantizing_leaves_the_rest(
    name: str, method: str, wrapped: Wrapped, tmp_path: Path, context: StepContext
) -> None:
    source = wrapped(name)
    options = {"method": method} if method == "int8" else {"method": method, "group_size": 32}
    quantize(QuantizeOptions.model_validate(options), source, tmp_path / "packed", context)
    assert others(tmp_path / "packed") == others(source)
    assert config_without_text(tmp_path / "packed") == config_without_text(source)
    assert AutoConfig.from_pretrained(tmp_path / "packed").quantization_config
    whole = load_stock(as_floats(tmp_path / "packed", tmp_path / "floats"))
    assert [len(tokens) for tokens in answers(whole)] == [17, 35]
    text = load_model(tmp_path / "packed")
    if method != "int8":  # which rounds inputs too
        assert torch.allclose(text_logits(text, ROWS), text_logits(whole, ROWS), atol=1e-5)
    before, after = text_logits(load_stock(source), ROWS), text_logits(whole, ROWS)
    assert not torch.equal(before, after)
    # In 4 bits a random model comes to 0.87; with weights in wrong places it would come to 0.
    assert torch.nn.functional.cosine_similarity(before, after, dim=-1).mean() > 0.8


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in sorted(WRAPPED) for method in ("gptq", "awq")),
        ("gemma3", "int8"),
        ("gemma3", "smoothquant"),
    ],
)
def test_readers_of_packed_weights_leave_the_rest_alone(
    name: str, method: str, wrapped: Wrapped, tmp_path: Path, context: StepContext
) -> None:
    """Every linear layer beside the text model is named as one in floating point."""
    options = QuantizeOptions.model_validate(
        {"method": method, "rules": [{"match": "model.layers.0.*", "skip": True}]}
    )
    quantize(options, wrapped(name), tmp_path / "out", context)
    block = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    whole = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(wrapped(name)))
    linears = [key for key, module in whole.named_modules() if isinstance(module, nn.Linear)]
    packed = [key for key in linears if _is_packed(key, block)]
    expected = [key for key in linears if ".language_model.layers." in key]
    assert packed == [key for key in expected if ".layers.0." not in key]
    assert read_config(tmp_path / "out")["quantization_config"] != block


def _is_packed(name: str, block: dict[str, Any]) -> bool:
    """Whether a reader would take a module for a packed one, by the rules of its method."""
    import fnmatch
    import re

    method = block["quant_method"]
    if method == "awq":
        return should_convert_module(name, block["modules_to_not_convert"])
    if method == "gptq":
        skipped = [key.removeprefix("-:") for key in block["dynamic"] if key.startswith("-:")]
        return name != "lm_head" and not any(re.match(pattern, name) for pattern in skipped)
    if method == "modelopt":
        return not any(fnmatch.fnmatch(name, pattern) for pattern in block["exclude_modules"])
    return not any(
        re.match(entry.removeprefix("re:"), name) if entry.startswith("re:") else entry == name
        for entry in block["ignore"]
    )


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_names_are_spelled_as_the_source_spells_them(
    name: str, wrapped: Wrapped, tmp_path: Path, tokenizer_dir: Path, context: StepContext
) -> None:
    saved, loaded = SPELLINGS[name]
    source = make_wrapped(tmp_path / "source", name, tokenizer_dir)
    state = load_file(source / "model.safetensors")
    assert f"{saved}norm.weight" in state

    def respell(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            own = text_name(key)
            other = own.replace("model.", loaded, 1) if own else key
            tensors[other] = tensors.pop(key)

    rewrite(source, respell)
    model = load_model(source)
    assert torch.equal(text_logits(model, ROWS), text_logits(load_stock(wrapped(name)), ROWS))
    for before in (wrapped(name), source):
        out = tmp_path / f"from-{before.name}"
        prune(PruneOptions.model_validate(CUT), before, out, context)
        names = load_file(before / "model.safetensors").keys()
        kept = load_file(out / "model.safetensors").keys()
        assert kept == {key for key in names if ".layers.2." not in key or not text_name(key)}


def test_a_flat_config_stays_flat(wrapped: Wrapped, tmp_path: Path, context: StepContext) -> None:
    """The published Qwen2.5-VL has no `text_config`."""
    source = make_wrapped(tmp_path / "source", "qwen2_5_vl", wrapped("qwen2_5_vl"))
    config = json.loads((source / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    old = {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    flat = {**text, **config, **old}
    (source / "config.json").write_text(json.dumps(flat))
    assert torch.equal(
        text_logits(load_model(source), ROWS), text_logits(load_stock(wrapped("qwen2_5_vl")), ROWS)
    )
    prune(PruneOptions(ffn=0.25), source, tmp_path / "out", context)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    changed = {key for key in written if written[key] != flat.get(key)}
    assert changed <= {"intermediate_size", "torch_dtype"}
    assert [len(tokens) for tokens in answers(load_stock(tmp_path / "out"))] == [17, 35]


def test_ministral3_in_its_wrapper(
    tmp_path: Path, tokenizer_dir: Path, context: StepContext
) -> None:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "llama_4_scaling_beta": 0.1,
    }
    source = make_wrapped(
        tmp_path / "source",
        "mistral3",
        tokenizer_dir,
        model_type="ministral3",
        rope_parameters=rope,
    )
    prune(PruneOptions(heads=0.5, ffn=0.25), source, tmp_path / "out", context)
    for folder in (source, tmp_path / "out"):
        assert read_architecture(folder).model_type == "ministral3"
        whole = text_logits(load_stock(folder), ROWS)
        assert torch.equal(text_logits(load_model(folder), ROWS), whole)
    assert others(tmp_path / "out") == others(source)


def test_heads_of_a_fixed_width_are_not_removed(
    wrapped: Wrapped, tmp_path: Path, context: StepContext
) -> None:
    with pytest.raises(Refused, match="head"):
        prune(PruneOptions(heads=0.5), wrapped(FIXED_HEADS), tmp_path / "out", context)
    assert not (tmp_path / "out").exists()


def test_distilling_a_wrapper(wrapped: Wrapped, tmp_path: Path, context: StepContext) -> None:
    source = wrapped("qwen3_vl")
    prune(PruneOptions(ffn=0.5), source, tmp_path / "student", context)
    options = DistillOptions.model_validate(
        {
            "teacher": str(source),
            "data": context.calibration.source,
            "seq_len": 24,
            "batch_size": 2,
            "stages": [{"loss": "logits", "steps": 2}],
        }
    )
    distill(options, tmp_path / "student", tmp_path / "out", context)
    assert others(tmp_path / "out") == others(source)
    assert len(answers(load_stock(tmp_path / "out"))) == 2


def test_numbers_of_the_tokens_are_those_of_the_text_model(
    wrapped: Wrapped, tmp_path: Path
) -> None:
    folder = make_wrapped(tmp_path / "model", "gemma3", wrapped("gemma3"))
    (folder / "generation_config.json").unlink()
    assert end_tokens(folder) == [0]


def test_another_text_model_is_refused(wrapped: Wrapped, tmp_path: Path) -> None:
    folder = make_wrapped(tmp_path / "model", "mistral3", wrapped("mistral3"))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    configure(folder, text_config={**text, "model_type": "rwkv"})
    with pytest.raises(Refused, match="text model `rwkv` in a `mistral3`"):
        read_architecture(folder)


def test_only_what_changed_is_written() -> None:
    config = {
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "quantization_config": {"quant_method": "gptq"},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 640, "eos_token_id": 1},
    }
    text = text_config(config)
    assert text["hidden_size"] == 640
    assert text["quantization_config"] == {"quant_method": "gptq"}
    del text["quantization_config"]
    whole = whole_config(config, {**text, "hidden_size": 320, "eos_token_id": 7})
    assert whole == {
        "model_type": "gemma3",
        "eos_token_id": 7,
        "text_config": {"model_type": "gemma3_text", "hidden_size": 320, "eos_token_id": 7},
    }
