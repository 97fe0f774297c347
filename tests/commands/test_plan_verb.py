"""`plan MODEL`: which precisions a device can run, what to type to get them, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

QWEN_3B = Path(__file__).parents[1] / "configs" / "qwen2.5-3b.json"
BLOCKS: dict[str, dict[str, Any]] = {
    "gptq-4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "gptq-8": {"quant_method": "gptq", "bits": 8, "group_size": 128},
    "smoothquant": {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"},
}
OWN_PRECISION = {"gptq-4": "int4", "gptq-8": "fp16", "smoothquant": "int8"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copy(QWEN_3B, tmp_path / "config.json")
    return tmp_path


def headings(out: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.startswith("┃"))
    return [text.strip() for text in line.strip("┃").split("┃")]


def test_one_precision_that_fits_is_enough(cli, model: Path) -> None:
    code, out, error = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    assert (code, error) == (0, "")
    assert "int4 runs on jetson-orin-nano-8gb" in out
    assert "fp16 runs" not in out
    assert f"edgewright quantize {model} --method gptq --out int4" in out
    assert "edgewright export int4 --precision int4 --out int4-onnx" in out
    assert "5.00 GB to give" in out  # why fp16 and int8 do not fit
    assert "with --kv-cache int8, its longest context is 32,768 tokens" in out


def test_none_that_fits_is_refused_with_3_and_every_reason(cli, model: Path) -> None:
    code, out, error = cli("plan", model, "--target", "jetson-orin-nano-4gb")
    assert code == 3
    assert "runs on" not in out
    assert "jetson-orin-nano-4gb can run this model in no precision" in error
    assert [word in error for word in ("fp16:", "int8:", "int4:")] == [True] * 3
    assert "step" not in error


def test_columns_without_a_value_are_left_out(cli, model: Path) -> None:
    _, out, _ = cli("plan", model)
    assert headings(out) == ["precision", "params M", "weights MB"]
    assert "add --target NAME (`edgewright targets` lists them) for a prediction" in out
    _, out, _ = cli("plan", model, "--target", "all")
    assert headings(out)[:2] == ["target", "precision"]
    assert "add --target" not in out


@pytest.mark.parametrize("block", BLOCKS)
def test_a_quantized_model_is_planned_as_it_can_be_exported(cli, model: Path, block: str) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": BLOCKS[block]}
    file.write_text(json.dumps(config))
    code, out, _ = cli("plan", model, "--target", "jetson-agx-orin-64gb", "--json")
    assert code == 0
    own = OWN_PRECISION[block]
    [row] = json.loads(out)["rows"]
    assert row["precision"] == own
    assert row["commands"] == [f"edgewright export {model} --precision {own} --out {own}-onnx"]


def student(folder: Path, **sizes: Any) -> Path:
    """A smaller model with the same tokens, as a directory beside the model."""
    config = json.loads(QWEN_3B.read_text()) | {"num_hidden_layers": 12} | sizes
    draft = folder / "student"
    draft.mkdir()
    (draft / "config.json").write_text(json.dumps(config))
    return draft


def test_a_draft_is_planned_for_the_engines_that_take_one(cli, model: Path) -> None:
    draft = student(model)
    device = ("--target", "jetson-agx-orin-64gb")
    code, out, _ = cli("plan", model, *device, "--draft", draft)
    assert code == 0
    assert "int4 with the draft, llama.cpp: " in out and "int4 with the draft, vllm: " in out
    assert "is an assumption" in " ".join(out.split())
    code, out, _ = cli("plan", model, *device, "--draft", draft, "--draft-tokens", "3", "--json")
    found = [entry for row in json.loads(out)["rows"] for entry in row["drafts"]]
    assert code == 0 and len(found) == 6
    assert {(entry["drafted"], entry["assumed"]) for entry in found} == {(3, True)}


def test_a_draft_that_has_no_room_is_said(cli, model: Path) -> None:
    device = ("--target", "jetson-orin-nano-8gb", "--draft-agreement", "0.8")
    _, out, _ = cli("plan", model, *device, "--draft", student(model, num_hidden_layers=30))
    assert "NO room" in out and "is an assumption" not in " ".join(out.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--draft needs one model and one device"),
        (("--target", "all"), "--draft needs one model and one device"),
        (("--target", "cpu"), "no engine that runs here takes a draft model"),
        (("--target", "jetson-orin-nx-16gb", "--draft-agreement", "70"), "is a share, 0 to 1"),
        (("--target", "jetson-orin-nx-16gb", "--draft-tokens", "0"), "must be at least 1"),
    ],
)
def test_a_draft_that_cannot_be_planned_is_one_message(
    cli, model: Path, more: tuple[str, ...], message: str
) -> None:
    code, out, error = cli("plan", model, "--draft", student(model), *more)
    assert (code, out) == (2, "") and message in error


def test_a_draft_with_other_tokens_is_refused(cli, model: Path) -> None:
    draft = student(model, vocab_size=32000)
    code, _, error = cli("plan", model, "--target", "jetson-orin-nx-16gb", "--draft", draft)
    assert code == 2 and "the draft has 32,000 tokens and the model 151,936" in error
