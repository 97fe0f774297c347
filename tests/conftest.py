"""Fixtures: a tiny model of every family with a tokenizer, a short text, and the command line.

Nothing here uses the network.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables are as wide as it says

import pytest
from family_table import SETTINGS

BASE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
"""Groups of four query heads, heads * head_dim (512) different from the width (128), and a rope
base that is not the default."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "gemma3_text": {
        "tie_word_embeddings": True,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 48,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
    },
    "mixtral": {
        "sliding_window": 16,
        "intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
        "mlp_only_layers": [1],
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 2,
    },
    "qwen3_moe": {
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 16,
    },
}
"""Windows of 16 are shorter than the rows of 32 below, so that a wrong mask changes the results.
Two of the mixtures have dense layers too."""
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
DENSE = tuple(sorted(FAMILIES.keys() - set(MIXTURES)))
SENTENCES = (
    "The kettle was put on at seven, and the cat asked for its breakfast again.",
    "Seven boats left the harbour before noon; five of them came back with the tide.",
    "12+30=42 and 42-7=35, so the answer is 35.",
    "Nobody had told the gardener that the roses were to stay where they were.",
)


def _random_weights(model: Any, seed: int) -> None:
    """Fill every tensor, norms and biases too, with values that change the logits."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * 0.1) if parameter.ndim == 1 else parameter.copy_(
                noise * parameter.shape[-1] ** -0.5
            )


def _save(folder: Path, family: str, settings: dict[str, Any], seed: int, dtype: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = deepcopy(settings)  # transformers writes into `rope_parameters`
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    _random_weights(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: for tiny matrix products, more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep text that models write away from the user's cache directory."""
    os.environ["EDGEWRIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tokenizer with its chat template, and a generation_config.json; 512 tokens."""
    from edgewright.demo.train import make_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 0,  "pad_token_id": 0}\n')
    return folder


@pytest.fixture(scope="session")
def make_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path
) -> Callable[..., Path]:
    """`make_model(family, seed=0, dtype="float32", **config)`: a model directory.

    It is made once in a session and shared. Use `copy_model` to change it.
    """
    made: dict[str, Path] = {}

    def make(family: str, *, seed: int = 0, dtype: str = "float32", **config: Any) -> Path:
        key = json.dumps([family, seed, dtype, config], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            _save(folder, family, BASE | (FAMILIES | SETTINGS)[family] | config, seed, dtype)
            shutil.copytree(tokenizer_dir, folder, dirs_exist_ok=True)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def copy_model(make_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Like `make_model`, but a copy that a test may damage."""

    def copy(family: str = "llama", **config: Any) -> Path:
        return Path(
            shutil.copytree(
                make_model(family, **config), tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
            )
        )

    return copy


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain text, enough for dozens of rows of 32 tokens."""
    file = tmp_path_factory.mktemp("text") / "story.txt"
    file.write_text("".join(f"{SENTENCES[i % 4]} {i * 37 % 101}\n" for i in range(60)))
    return file


@pytest.fixture(scope="session")
def context(text_file: Path) -> Any:
    """A step context that calibrates on 6 rows of 32 tokens of `text_file`."""
    from edgewright.steps.context import CalibrationData, StepContext

    return StepContext(CalibrationData(f"text:{text_file}", samples=6, seq_len=32))


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    from edgewright.cli import main

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgewright", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def with_loud_channels(model: Path) -> Path:
    """Multiply a few channels of every norm by a hundred, as some trained models have them."""
    from safetensors.torch import load_file, save_file

    state = load_file(model / "model.safetensors")
    for key in state:
        if key.endswith("layernorm.weight"):
            state[key][::40] *= 100
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    return model


KINDS = [
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    "namespaces",
    "landlock",
]


@pytest.fixture(params=KINDS)
def confiner(request: pytest.FixtureRequest) -> Any:
    """Every confinement of generated code, one after the other.

    Bubblewrap is for `make sandbox-test`, which installs it. The others need only the kernel.
    """
    from edgewright.benchmarks.tasks.sandbox import confiners

    found = {one.kind: one for one in confiners()}
    if request.param != "bubblewrap" and request.param not in found:
        pytest.skip(f"this kernel does not give this user what {request.param} needs")
    return found[request.param]
