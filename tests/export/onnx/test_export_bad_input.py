"""Models that cannot be exported: one message, the documented exit code, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]
CopyModel = Callable[..., Path]


def said(text: str) -> str:
    """A message without its line breaks."""
    return " ".join(text.split())


def change(model: Path, **settings: Any) -> Path:
    """Change a checkpoint's config.json."""
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return model


@pytest.fixture
def refused(cli: Cli, text_file: Path, tmp_path: Path) -> Callable[..., str]:
    """`refused(model, *options)`: the message of an export that must end with exit code 3."""

    def export(model: Path, *options: object, out: Path = tmp_path / "made" / "out") -> str:
        out.parent.mkdir(exist_ok=True)
        calibration = ["--calibration", f"text:{text_file}", "--seq-len", 32, "--device", "cpu"]
        code, printed, err = cli("export", model, "--out", out, *calibration, *options)
        assert (code, printed) == (3, ""), err
        assert "Traceback" not in err
        assert not list(out.parent.iterdir())
        return said(err)

    return export


CODE = (
    'from pathlib import Path\nPath(__file__).with_name("ran").write_text("it did")\n'
    'raise SystemExit("custom code ran")\n'
)


def test_custom_code_is_refused_and_not_run(
    copy_model: CopyModel, refused: Callable[..., str]
) -> None:
    classes = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    model = change(
        copy_model("llama"), model_type="own", architectures=["OwnForCausalLM"], auto_map=classes
    )
    (model / "modeling_own.py").write_text(CODE)
    message = refused(model)
    assert (
        "architecture `own` is not supported" in message
        and "`auto_map`" in message
        and re.search(r"supported: .*\bllama\b", message)
    )
    assert not (model / "ran").exists()


def test_custom_code_beside_a_known_family_is_not_run(
    copy_model: CopyModel, cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    """What `from_pretrained` does with such a checkpoint unless it is told to trust it."""
    classes = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    model = change(copy_model("llama"), auto_map=classes)
    (model / "modeling_own.py").write_text(CODE)
    code, _, err = cli(
        "export",
        model,
        "--out",
        tmp_path / "out",
        "--calibration",
        f"text:{text_file}",
        "--seq-len",
        32,
    )
    assert code == 0, err
    assert not (model / "ran").exists()


@pytest.mark.parametrize("format", ["onnx", "ort", "tensorrt"])
def test_an_unsupported_family(
    copy_model: CopyModel, refused: Callable[..., str], format: str
) -> None:
    message = refused(change(copy_model("llama"), model_type="gpt_neox"), "--format", format)
    assert "architecture `gpt_neox` is not supported" in message and re.search(
        r"supported: .*\bllama\b", message
    )


def test_a_mixture_of_experts(make_model: Callable[..., Path], refused: Callable[..., str]) -> None:
    assert "a mixture of experts (`mixtral`) cannot be exported yet" in refused(
        make_model("mixtral")
    )


@pytest.mark.parametrize("format", ["onnx", "tensorrt"])
def test_an_opset_that_the_device_refuses(
    make_model: Callable[..., Path], cli: Cli, format: str
) -> None:
    """JetPack 5.1 has TensorRT 8.5, which reads up to opset 17; INT4 needs 21."""
    options = [
        "--target",
        "jetson-orin-nano-8gb",
        "--jetpack",
        "5.1",
        "--format",
        format,
        "--precision",
        "int4",
    ]
    code, _, err = cli("targets", "check", make_model("llama"), *options)
    assert code == 3
    assert "cannot run on jetson-orin-nano-8gb" in said(err)
    code, out, _ = cli("targets", "check", make_model("llama"), *options, "--json")
    (violation,) = [v for v in json.loads(out)["violations"] if v["rule"] == "opset"]
    assert violation["severity"] == "refuse"
    assert "opset 21 is newer than TensorRT is documented to read" in violation["message"]


def test_weights_that_config_does_not_know(
    copy_model: CopyModel, cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = copy_model("llama")
    state = load_file(model / "model.safetensors")
    state["model.layers.1.self_attn.q_proj.bias"] = state["model.norm.weight"].repeat(4)
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    code, _, err = cli(
        "export",
        model,
        "--out",
        tmp_path / "out",
        "--calibration",
        f"text:{text_file}",
        "--seq-len",
        32,
    )
    assert code == 2
    assert "do not match config.json: unexpected ['model.layers.1.self_attn.q_proj.bias']" in said(
        err
    )
    assert not (tmp_path / "out").exists()


def no_space(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], Path]]:
    """`disk(size, fails)`: a directory on a file system of so many KiB.

    If none can be mounted, a directory for which the function `fails` raises an error.
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


# The tiny Llama's artifact has 4.2 MB, and the logits that wait for the comparison 2.6 MB more.
@pytest.mark.parametrize(
    ("size", "fails"),
    [
        (1000, "edgewright.export.onnx.builder.GraphBuilder._append"),
        (5000, "edgewright.export.onnx.parity.Path.write_bytes"),
    ],
    ids=["weights", "logits"],
)
@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_no_space_for_external_data(
    disk: Callable[[int, str], Path],
    make_model: Callable[..., Path],
    refused: Callable[..., str],
    size: int,
    fails: str,
    format: str,
) -> None:
    message = refused(make_model("llama"), "--format", format, out=disk(size, fails) / "out")
    assert (
        "No space left on device" in message
        and "free disk space or choose another --out" in message
    )
