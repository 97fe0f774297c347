"""Checkpoints: broken ones are named for what they are, and what is written is written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgewright.checkpoints import files as checkpoint
from edgewright.checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    config_for_everyone,
    content_hash,
    copy_tokenizer,
    read_architecture,
    read_config,
    read_state,
    resolve,
    stored_dtype,
    weight_bytes,
    write_checkpoint,
    write_json,
)
from edgewright.checkpoints.loading import load_model, load_tokenizer, pick_device
from edgewright.errors import EdgewrightError, Refused, UsageError
from edgewright.models import FAMILIES

MakeModel = Callable[..., Path]
WEIGHTS = "model.safetensors"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a checkpoint in place."""
    state = read_state(folder)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


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
    """Mistral's repositories hold the weights twice, once under other names in consolidated.safetensors."""
    whole, sharded = copy_model("mistral"), copy_model("mistral")
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
    with pytest.raises(UsageError, match="the hub did not give it") as caught:
        resolve("nobody/has-this-model")  # conftest sets HF_HUB_OFFLINE
    assert caught.value.hint


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
        name, attention_bias=bias, mlp_bias=bias and name == "llama", tie_word_embeddings=tied
    )
    assert read_architecture(folder).parameters == sum(
        t.numel() for t in read_state(folder).values()
    )


def test_gemma_is_tied_when_its_config_does_not_say(copy_model: MakeModel) -> None:
    folder = copy_model("gemma3_text")
    reconfigure(
        folder, tie_word_embeddings=None
    )  # transformers 4 leaves it out, as it is the family's default
    assert read_architecture(folder).tied
    assert read_architecture(folder).parameters == load_model(folder).num_parameters()


# Writing


def test_directory_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_directory(out) as folder:
        (folder / PROVENANCE).write_text("{}")
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == [PROVENANCE]
    with atomic_directory(out) as folder:  # edgewright wrote it, so it may be replaced
        (folder / "other").write_text("new")
        assert (out / PROVENANCE).exists()
    assert [p.name for p in out.iterdir()] == ["other"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyboardInterrupt(), UsageError("wrong", "mend it")]
)
def test_an_exception_leaves_nothing_and_the_old_result(
    error: BaseException, tmp_path: Path
) -> None:
    def attempt() -> None:
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        attempt()
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PROVENANCE).write_text("{}")
    with pytest.raises(type(error)):
        attempt()
    assert [p.name for p in (tmp_path / "out").iterdir()] == [PROVENANCE]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_does_not_get_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "stale").write_text("stale")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_foreign_directories_are_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with atomic_directory(out) as folder:  # an empty one is nobody's
        (folder / "thesis.tex").write_text("ten years")
    with (
        pytest.raises(UsageError, match="was not written by edgewright") as caught,
        atomic_directory(out),
    ):
        pytest.fail("the block must not run")
    assert "--out" in caught.value.hint
    assert (out / "thesis.tex").read_text() == "ten years"


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere/out"])
def test_places_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EdgewrightError) as caught, atomic_directory(tmp_path / place):
        pytest.fail("the block must not run")
    assert str(tmp_path / place) in str(caught.value)
    assert caught.value.hint
    assert (tmp_path / "file").read_text() == "mine"


def no_space(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on a file system of 256 KiB; where it cannot be mounted, one where writing weights fails likewise."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder],
        capture_output=True,
        check=False,
    ).returncode:
        for module, name in ((checkpoint, "write_shards"), (checkpoint.shutil, "copyfile")):
            monkeypatch.setattr(module, name, no_space)
        yield folder
    else:
        yield folder
        subprocess.run(["umount", folder], check=True)


def test_full_disk(full_disk: Path, make_model: MakeModel) -> None:
    source = make_model("llama")
    with pytest.raises(EdgewrightError, match="No space left") as caught:
        write_checkpoint(full_disk / "out", read_state(source), read_config(source), source, {})
    assert str(full_disk / "out") in str(caught.value)
    assert "disk space" in caught.value.hint
    assert caught.value.exit_code == 3
    assert not list(full_disk.iterdir())


def test_full_disk_while_copying(full_disk: Path, make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model("llama")
    big = tmp_path / "source"
    big.mkdir()
    (big / "tokenizer.json").write_bytes(b" " * 10**6)
    with pytest.raises(EdgewrightError, match="No space left"):
        write_checkpoint(full_disk / "out", {"a": torch.ones(1)}, read_config(source), big, {})
    assert not list(full_disk.iterdir())


def test_failed_verification_leaves_nothing(make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model("llama")

    def verify(folder: Path) -> None:
        assert {p.name for p in folder.iterdir()} >= {
            WEIGHTS,
            "config.json",
            "tokenizer.json",
            PROVENANCE,
        }
        raise EdgewrightError("not the same function")

    with pytest.raises(EdgewrightError, match="not the same function"):
        write_checkpoint(
            tmp_path / "out", read_state(source), read_config(source), source, {}, verify
        )
    assert not list(tmp_path.iterdir())


def test_shards(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_model("llama")
    state = read_state(source)
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 600_000)
    write_checkpoint(tmp_path / "out", state, read_config(source), source, {"step": "test"})
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(p.stat().st_size < 700_000 for p in (tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state.values())
    assert set(index["weight_map"].values()) == set(files)
    again = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text())["step"] == "test"
    assert weight_bytes(tmp_path / "out") == sum(
        (tmp_path / "out" / f).stat().st_size for f in files
    )


def test_tokenizer_is_copied_byte_for_byte(make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model("llama")
    copy_tokenizer(source, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert all(p.read_bytes() == (source / p.name).read_bytes() for p in tmp_path.iterdir())


def test_json_is_written_in_one_piece(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


# Hashing


def test_content_hash_sees_bytes_and_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"3")
    seen = [content_hash(tmp_path)]
    assert content_hash(tmp_path) == seen[0]
    (tmp_path / "sub" / "a").write_bytes(b"13")
    seen.append(content_hash(tmp_path))
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "c")
    seen.append(content_hash(tmp_path))
    (tmp_path / "sub" / "c").rename(tmp_path / "c")
    seen.append(content_hash(tmp_path))
    (tmp_path / "empty").touch()
    seen.append(content_hash(tmp_path))
    assert len(set(seen)) == len(seen)
    assert content_hash(tmp_path, skip="empty") == seen[-2]


# config.json for transformers 4 and 5

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_default_rope_in_both_spellings() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    both = config_for_everyone(
        {
            "model_type": "qwen2",
            "rope_parameters": rope,
            "dtype": "bfloat16",
            "quantization_config": None,
        }
    )
    assert both == {
        "model_type": "qwen2",
        "rope_parameters": rope,
        "rope_theta": 1e6,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def test_llama3_scaling_in_both_spellings() -> None:
    both = config_for_everyone({"rope_parameters": LLAMA3, "torch_dtype": "float16"})
    assert both["rope_theta"] == 500000.0
    assert both["rope_scaling"] == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    assert both["rope_parameters"] == LLAMA3
    assert both["dtype"] == "float16"


def test_gemmas_two_bases_in_both_spellings() -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    both = config_for_everyone({"rope_parameters": rope})
    assert (both["rope_theta"], both["rope_local_base_freq"]) == (1e6, 1e4)
    assert both["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert "rope_scaling" not in config_for_everyone(
        {"rope_parameters": rope | {"full_attention": rope["sliding_attention"]}}
    )


def test_old_spelling_is_left_alone_but_for_null_blocks() -> None:
    old = {
        "rope_theta": 1e6,
        "rope_scaling": None,
        "quantization_config": None,
        "sliding_window": None,
    }
    assert config_for_everyone(old) == {"rope_theta": 1e6, "sliding_window": None}
    assert (
        config_for_everyone({"rope_scaling": {"type": "linear", "factor": 2.0}})["rope_scaling"][
            "factor"
        ]
        == 2.0
    )


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_old_readers_and_new_ones_get_the_same_rope(
    family: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """Whichever of the two spellings a reader drops, the logits stay."""
    rope: Any = LLAMA3
    if family == "gemma3_text":
        full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e5}
        rope = {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
        }
    source = make_model(family, rope_parameters=rope)
    state, config = read_state(source), read_config(source)
    write_checkpoint(tmp_path / "both", state, config, source, {})
    both = read_config(tmp_path / "both")
    logits = []
    for name, drop in (
        ("new", ("rope_theta", "rope_scaling", "rope_local_base_freq")),
        ("old", ("rope_parameters",)),
    ):
        write_checkpoint(tmp_path / name, state, {}, source, {})
        (tmp_path / name / "config.json").write_text(
            json.dumps({k: v for k, v in both.items() if k not in drop})
        )
        with torch.no_grad():
            logits.append(
                load_model(tmp_path / name)(input_ids=torch.arange(1, 100).view(1, -1)).logits
            )
    assert torch.equal(logits[0], logits[1])
