"""Bad input for quantize: a message with the layer and advice, exit code 2 or 3, and no output."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
NARROW = {"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1}


def stored(model: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    """Change the tensors of a model."""
    state = read_state(model)
    save_file(change(state) or state, model / "model.safetensors", metadata={"format": "pt"})


def with_value(name: str, value: float) -> Callable[[Path], None]:
    return lambda model: stored(
        model, lambda state: state[name].view(-1)[3:4].fill_(value) and None
    )


def fused_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    start = "model.layers.0.self_attn."
    qkv = torch.cat([state.pop(f"{start}{part}_proj.weight") for part in "qkv"])
    return state | {f"{start}qkv_proj.weight": qkv}


def of_type(model_type: str) -> Callable[[Path], None]:
    return lambda model: (
        (model / "config.json").write_text(
            json.dumps(read_config(model) | {"model_type": model_type})
        )
        and None
    )


CASES: dict[str, tuple[Callable[[Path], None] | None, list[object], int, tuple[str, ...]]] = {
    "nan": (
        with_value("model.layers.2.mlp.down_proj.weight", float("nan")),
        [],
        2,
        ("model.layers.2.mlp.down_proj.weight", "NaN or infinity", "restore the weights"),
    ),
    "infinite norm": (
        with_value("model.norm.weight", float("inf")),
        [],
        2,
        ("model.norm.weight", "NaN or infinity"),
    ),
    "infinite head": (
        with_value("lm_head.weight", float("-inf")),
        ["--method", "int8"],
        2,
        ("lm_head.weight", "NaN or infinity"),
    ),
    "short text": (None, ["--seq-len", 4096], 2, ("fewer than 4096 tokens", "--seq-len")),
    "group": (
        None,
        ["--group-size", 128, "--rule", "*.mlp.down_proj=4:128"],
        3,
        (
            "group size 128 does not divide",
            "model.layers.*.self_attn.q_proj (96 inputs)",
            "smaller --group-size",
        ),
    ),
    "group size": (None, ["--group-size", 48], 2, ("group size 48", "use 32, 64, 128, -1")),
    "unknown architecture": (
        of_type("falcon"),
        [],
        3,
        ("architecture `falcon` is not supported", "llama"),
    ),
    "fused architecture": (
        of_type("mpt"),
        [],
        3,
        ("architecture `mpt` is not supported", "llama"),
    ),
    "fused weights": (
        lambda model: stored(model, fused_qkv),
        [],
        2,
        ("do not match config.json", "layers.0.self_attn", "restore the"),
    ),
    "rule": (
        None,
        ["--rule", "*.mlp.donw_proj=8"],
        2,
        ("*.mlp.donw_proj", "model.layers.0.mlp.down_proj"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_left(
    case: str, copy_model: MakeModel, text_file: Path, tmp_path: Path, cli: Cli, monkeypatch: Any
) -> None:
    spoil, options, expected, words = CASES[case]
    width = {"hidden_size": 96} if case == "group" else {}
    model = copy_model("llama", **NARROW, **width)
    if spoil:
        spoil(model)
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(
        Streamed, "held", lambda *_: pytest.fail("a layer was worked on before the message came")
    )
    few = ["--calibration", f"text:{text_file}", "--samples", 4, "--seq-len", 32, "--device", "cpu"]
    code, out, err = cli("quantize", model, *few, *options, "--out", tmp_path / "out")
    message = " ".join(err.split())
    assert (code, out) == (expected, ""), err
    assert "Traceback" not in err
    for word in words:
        assert word in message
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("method", ["gptq", "rtn", "awq", "int8", "smoothquant"])
def test_channels_of_zeros_are_no_trouble(
    method: Any, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Zero weights stay zero: outputs without weights, unused inputs, groups of zeros."""
    model = copy_model("llama", **NARROW)

    def silenced(state: dict[str, Tensor]) -> None:
        start = "model.layers.1."
        state[f"{start}mlp.up_proj.weight"][:40] = 0  # outputs, and with them inputs of down_proj
        state[f"{start}post_attention_layernorm.weight"][7] = 0
        state[f"{start}self_attn.v_proj.weight"][5] = 0
        state[f"{start}self_attn.o_proj.weight"][:, :128] = 0

    stored(model, silenced)
    quantize(QuantizeOptions(method=method), model, tmp_path / "out", context)
    loaded = load_model(tmp_path / "out").state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in loaded.values())
    assert not loaded["model.layers.1.mlp.up_proj.weight"][:40].any()
    assert not loaded["model.layers.1.self_attn.v_proj.weight"][5].any()
    if method in (
        "rtn",
        "int8",
        "smoothquant",
    ):  # the others may use a zero to make up for others' errors
        assert not loaded["model.layers.1.self_attn.o_proj.weight"][:, :128].any()


def no_space(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[[int, str], Path]]:
    """`disk(size, fails)`: a directory on a file system of `size` KiB.

    If none can be mounted, it is a directory in which the function `fails` raises the error.
    """
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int, fails: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            monkeypatch.setattr(fails, no_space)
        return folder

    yield mounted
    subprocess.run(["umount", folder], check=False, capture_output=True)


def test_a_full_disk_shows_before_anything_is_computed(
    disk: Callable[[int, str], Path],
    make_model: MakeModel,
    text_file: Path,
    cli: Cli,
    monkeypatch: Any,
) -> None:
    folder = disk(300, "edgewright.checkpoints.safetensors_writer.os.posix_fallocate")
    monkeypatch.setattr(
        Streamed, "held", lambda *_: pytest.fail("a layer was worked on before the message came")
    )
    few = [
        "--calibration",
        f"text:{text_file}",
        "--samples",
        4,
        "--seq-len",
        32,
        "--device",
        "cpu",
        "--out",
        folder / "out",
    ]
    code, out, err = cli("quantize", make_model("llama", **NARROW), *few)
    assert (code, out) == (3, ""), err
    assert (
        "No space left on device" in err
        and "free disk space or choose another --out" in " ".join(err.split())
    )
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def whole(
    make_model: MakeModel, context: StepContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint that was written without any fault."""
    out = tmp_path_factory.mktemp("whole") / "out"
    quantize(QuantizeOptions(), make_model("llama", **NARROW), out, context)
    return out


def size_of(folder: Path) -> int:
    """KiB of the files in a directory."""
    return sum(file.stat().st_size for file in folder.iterdir()) // 1024


def test_a_disk_without_room_for_the_journal(
    disk: Callable[[int, str], Path],
    whole: Path,
    make_model: MakeModel,
    context: StepContext,
    capsys: Any,
) -> None:
    """If the result fits but the journal does not, the result is written, with a warning."""
    folder = disk(size_of(whole) + 120, "edgewright.compress.quantize.resume_journal.save_file")
    quantize(
        QuantizeOptions(),
        make_model("llama", **NARROW),
        folder / "out",
        replace(context, depends_on={"this": 1}),
    )
    assert "no journal is kept (No space left on device" in capsys.readouterr().err
    assert content_hash(folder / "out") == content_hash(whole)
    assert {path.name for path in folder.iterdir()} == {"out"}


def test_a_disk_without_room_for_the_calibration_states(
    disk: Callable[[int, str], Path], whole: Path, make_model: MakeModel, context: StepContext
) -> None:
    folder = disk(
        size_of(whole) + 40, "edgewright.compress.calibration.activation_buffer.os.posix_fallocate"
    )
    with pytest.raises(Refused, match="No space left on device"):
        quantize(
            QuantizeOptions(),
            make_model("llama", **NARROW),
            folder / "out",
            replace(context, activation_budget=0),
        )
    assert not list(folder.iterdir())
