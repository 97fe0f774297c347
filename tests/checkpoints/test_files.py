"""Reading checkpoints: broken ones are explained in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import rewrite
from safetensors.torch import save_file

from edgewright.checkpoints.config import read_architecture, read_config, resolve
from edgewright.checkpoints.loading import load_model, pick_device
from edgewright.checkpoints.tensors import read_state, stored_dtype
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.errors import EdgewrightError, Refused, UsageError
from edgewright.models import FAMILIES

MakeModel = Callable[..., Path]
WEIGHTS = "model.safetensors"


def fill(folder: Path, module: str, value: float) -> None:
    """Spoil one number of a weight."""
    rewrite(folder, lambda state: state[f"model.{module}.weight"].view(-1)[3].fill_(value))


def reconfigure(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None removes one."""
    config = {
        k: v
        for k, v in (read_config(folder) | changes).items()
        if k not in changes or v is not None
    }
    (folder / "config.json").write_text(json.dumps(config))


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def shard(folder: Path, lose: bool) -> None:
    """Write the weights as two files with an index, and lose one if asked to."""
    state = read_state(folder)
    (folder / WEIGHTS).unlink()
    names = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(state)}
    for file in sorted(set(names.values())):
        save_file(
            {k: v for k, v in state.items() if names[k] == file},
            folder / file,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )
    if lose:
        (folder / "model-00002-of-00002.safetensors").unlink()


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[EdgewrightError], str]] = {
    "truncated": (truncate, UsageError, r"model\.safetensors: damaged or truncated"),
    "not safetensors": (
        lambda f: (f / WEIGHTS).write_bytes(b"<html>not found</html>"),
        UsageError,
        "damaged or truncated",
    ),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), UsageError, "damaged or truncated"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), UsageError, "no .safetensors"),
    "a shard is missing": (
        lambda f: shard(f, lose=True),
        UsageError,
        r"model-00002-of-00002\.safetensors",
    ),
    "nan": (
        lambda f: fill(f, "layers.1.mlp.up_proj", float("nan")),
        UsageError,
        r"layers\.1\.mlp\.up_proj\.weight` holds NaN",
    ),
    "infinity": (
        lambda f: fill(f, "norm", float("inf")),
        UsageError,
        r"model\.norm\.weight` holds NaN or inf",
    ),
    "missing tensor": (
        lambda f: rewrite(f, lambda s: s.pop("model.layers.0.self_attn.v_proj.weight")),
        UsageError,
        r"missing \['model\.layers\.0\.self",
    ),
    "surplus tensor": (
        lambda f: rewrite(f, lambda s: s.update(extra=torch.ones(1))),
        UsageError,
        r"unexpected \['extra",
    ),
    "other width": (lambda f: reconfigure(f, intermediate_size=256), UsageError, "do not fit"),
    "more layers": (
        lambda f: reconfigure(f, num_hidden_layers=4),
        UsageError,
        r"missing \['model\.layers\.3",
    ),
    "invalid config": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama",'),
        UsageError,
        r"config\.json: not valid JSON",
    ),
    "binary config": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00{"),
        UsageError,
        r"config\.json: not valid JSON",
    ),
    "list for a config": (
        lambda f: (f / "config.json").write_text("[]"),
        UsageError,
        "not a JSON object",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), UsageError, r"config\.json: not found"),
    "no model type": (lambda f: reconfigure(f, model_type=None), UsageError, "no `model_type`"),
    "unknown architecture": (
        lambda f: reconfigure(f, model_type="mamba"),
        Refused,
        "architecture `mamba` is not supported",
    ),
    "no width": (
        lambda f: reconfigure(f, hidden_size=None),
        UsageError,
        "'hidden_size' is missing",
    ),
    "width in words": (lambda f: reconfigure(f, hidden_size="wide"), UsageError, "wide"),
    "no heads": (
        lambda f: reconfigure(f, num_attention_heads=0, head_dim=None),
        UsageError,
        "num_attention_heads must be at least 1",
    ),
    "uneven heads": (
        lambda f: reconfigure(f, num_key_value_heads=3),
        UsageError,
        "8 query heads do not divide into 3",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_broken_models_are_explained(kind: str, copy_model: MakeModel) -> None:
    damage, error, message = DAMAGE[kind]
    folder = copy_model("llama")
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load_model(folder)
    assert caught.value.exit_code == {UsageError: 2, Refused: 3}[error]
    assert str(folder) in str(caught.value)
    assert caught.value.hint


def test_only_the_files_that_transformers_reads(copy_model: MakeModel) -> None:
    """Mistral's repositories hold the weights twice, also in consolidated.safetensors."""
    whole = copy_model("mistral")
    sharded = copy_model("mistral")
    expected = read_state(whole)
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, whole / "consolidated.safetensors")
    shard(sharded, lose=False)
    for folder in (whole, sharded):
        state = read_state(folder)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[k], expected[k]) for k in expected)
        load_model(folder)


@pytest.mark.parametrize("index", ["{", '{"weight_map": []}', "[]"])
def test_broken_index(index: str, copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    shard(folder, lose=False)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UsageError, match=r"index\.json"):
        read_state(folder)


def test_tied_models_need_no_head(make_model: MakeModel) -> None:
    assert "lm_head.weight" not in read_state(make_model("qwen2"))
    model = load_model(make_model("qwen2"))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tokenizer_files_are_needed(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(EdgewrightError, match="no usable tokenizer") as caught:
        load_tokenizer(folder)
    assert caught.value.hint


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="tpu: unknown"):
        pick_device("tpu")


def test_resolve(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama")
    assert resolve(str(folder)) == folder
    for name in (str(tmp_path / "nothing"), "./nothing", "nothing", "a/b/c", "~/models/x"):
        with pytest.raises(UsageError, match="no such model directory"):
            resolve(name)
    with pytest.raises(UsageError, match=r"no config\.json"):
        resolve(tmp_path)
    with pytest.raises(UsageError, match="no such model directory"):
        resolve(folder / "config.json")


def test_hub_id_without_a_hub() -> None:
    with pytest.raises(UsageError, match="not available from the hub") as caught:
        resolve("nobody/has-this-model")  # conftest sets HF_HUB_OFFLINE
    assert str(caught.value).startswith("nobody/has-this-model: no such directory; tried as a hub")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "repository", "revision"),
    [
        ("org/model", "org/model", None),
        ("org/model@v1.0", "org/model", "v1.0"),
        ("org/model@refs/pr/1", "org/model", "refs/pr/1"),
    ],
)
def test_a_plan_fetches_no_weights(
    model: str,
    repository: str,
    revision: str | None,
    monkeypatch: pytest.MonkeyPatch,
    make_model: MakeModel,
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    snapshot = make_model("llama")
    assert resolve(model, config_only=True) == resolve(model) == snapshot
    (name, at, for_plan), (_, _, for_work) = asked
    assert (name, at) == (repository, revision)
    assert for_plan == ["config.json", "hf_quant_config.json", "adapter_config.json"]
    assert {"*.json", "*.safetensors"} <= set(for_work)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "float32"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "torch.float16"}, "float16"),
    ],
)
def test_stored_dtype(config: dict[str, str], dtype: str) -> None:
    assert stored_dtype(config) is getattr(torch, dtype)


@pytest.mark.parametrize("name", ["float7", "nn"])
def test_unknown_dtype(name: str) -> None:
    with pytest.raises(UsageError, match=f"dtype `{name}` is unknown"):
        stored_dtype({"dtype": name})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_parameters_come_from_the_config(
    name: str, bias: bool, tied: bool, make_model: MakeModel
) -> None:
    folder = make_model(
        name,
        attention_bias=bias,
        mlp_bias=bias and "mlp_bias" in FAMILIES[name].biases,
        tie_word_embeddings=tied,
    )
    assert read_architecture(folder).parameters == sum(
        t.numel() for t in read_state(folder).values()
    )


def test_gemma_is_tied_when_its_config_does_not_say(copy_model: MakeModel) -> None:
    folder = copy_model("gemma3_text")
    # Transformers 4 leaves it out, because it is the family's default.
    reconfigure(folder, tie_word_embeddings=None)
    assert read_architecture(folder).tied
    assert read_architecture(folder).parameters == load_model(folder).num_parameters()
