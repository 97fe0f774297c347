"""What is written is written whole or not at all, and transformers 4 and 5 read it alike."""

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

from edgewright.checkpoints import writer
from edgewright.checkpoints.atomic_files import write_json
from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.directories import atomic_directory
from edgewright.checkpoints.hashing import PROVENANCE, weight_bytes
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.checkpoints.writer import config_for_everyone, copy_tokenizer, write_checkpoint
from edgewright.errors import EdgewrightError, UsageError

MakeModel = Callable[..., Path]
WEIGHTS = "model.safetensors"


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
    "error", [RuntimeError("boom"), KeyboardInterrupt(), UsageError("wrong", "fix it")]
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
    """A directory on a file system of 256 KiB; if it cannot be mounted, writing weights fails."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder],
        capture_output=True,
        check=False,
    ).returncode:
        for module, name in ((writer, "write_shards"), (writer.shutil, "copyfile")):
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
    monkeypatch.setattr(writer, "SHARD_BYTES", 600_000)
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
    state = read_state(source)
    config = read_config(source)
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


def test_longrope_as_transformers_4_wants_it() -> None:
    """Its Phi-3 takes three keys, and reads the others beside the block."""
    factors = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        **factors,
    }
    config = {"rope_parameters": rope, "original_max_position_embeddings": 4096}
    both = config_for_everyone(config)
    assert both["rope_scaling"] == {"type": "longrope", **factors}
    assert (both["rope_theta"], both["partial_rotary_factor"]) == (1e4, 0.75)
    assert both["rope_parameters"] == rope
    assert config_for_everyone(both) == both


def test_partial_rotary_is_where_transformers_4_looks() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    both = config_for_everyone({"rope_parameters": rope})
    assert both["partial_rotary_factor"] == 0.5
    assert "rope_scaling" not in both
