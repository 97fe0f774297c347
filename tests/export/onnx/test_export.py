"""ONNX export: the artifacts of every family against torch, on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
import torch
from conftest import DENSE
from onnx_models import CONFIGS, random_model, torch_logits
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.loading import load_model
from edgewright.errors import ParityFailed, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.parity import check
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.models import architecture

one_thread = onnx_models.one_thread


@pytest.fixture(scope="module", params=list(CONFIGS))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A family's checkpoint and its fp32 artifact."""
    folder = tmp_path_factory.mktemp(request.param)
    source = random_model(folder / "model", request.param)
    export_onnx(source, folder / "fp32", "fp32")
    return source, folder / "fp32"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2."""
    return random_model(tmp_path_factory.mktemp("dense") / "model", "qwen2")


def test_every_family_is_covered() -> None:
    assert set(CONFIGS) == set(DENSE)


def test_fp32_figures_and_files(exported: tuple[Path, Path]) -> None:
    _, artifact = exported
    provenance = json.loads((artifact / "edgewright.json").read_text())
    assert provenance["parity"]["parity/max_abs_diff"] < 1e-4
    assert (
        provenance["parity"]["parity/top1_prefill"]
        == provenance["parity"]["parity/top1_decode"]
        == 1.0
    )
    assert provenance["inputs"][:4] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
    ]
    assert provenance["outputs"][-1] == "present.1.value"
    assert {file.name for file in artifact.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "config.json",
        "edgewright.json",
        "generation_config.json",
        "tokenizer_config.json",
        "genai_config.json",
    }


def test_graph_is_standard_and_in_the_lowest_opset(exported: tuple[Path, Path]) -> None:
    model = onnx.load(exported[1] / "model.onnx", load_external_data=False)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (
        8,
        [("", 17)],
    )
    assert {node.domain for node in model.graph.node} == {""}
    offsets = [
        int(e.value) for t in model.graph.initializer for e in t.external_data if e.key == "offset"
    ]
    assert offsets == sorted(offsets) and not any(offset % 4096 for offset in offsets)


def test_tied_weights_are_stored_once(exported: tuple[Path, Path]) -> None:
    source, artifact = exported
    state = load_file(source / "model.safetensors")
    dense_bytes = 4 * sum(t.numel() for t in state.values())
    assert (artifact / "model.onnx.data").stat().st_size < dense_bytes + 4096 * len(state)


@pytest.mark.parametrize(("length", "split"), [(1, 0), (7, 0), (23, 11), (23, 22)])
def test_any_split_between_past_and_present(
    exported: tuple[Path, Path], length: int, split: int
) -> None:
    """Whatever part of a text is cached, and however long, its last tokens get the same logits."""
    source, artifact = exported
    tokens = np.random.default_rng(1).integers(1, 211, (2, length))
    mask = np.ones_like(tokens)
    mask[1, : length // 3] = 0
    decoder, past = OnnxDecoder(artifact, threads=1), None
    if split:
        _, past = decoder.forward(tokens[:, :split], mask[:, :split])
    logits, _ = decoder.forward(tokens[:, split:], mask, past=past)
    real = mask[:, split:].astype(bool)
    np.testing.assert_allclose(
        logits[real], torch_logits(source, tokens, mask)[:, split:][real], atol=1e-4
    )
    assert np.isfinite(logits).all()


def test_window_matters(exported: tuple[Path, Path]) -> None:
    """The sliding windows are shorter than the texts above, so that a wrong mask would show."""
    config = json.loads((exported[0] / "config.json").read_text())
    if config["model_type"] in ("mistral", "qwen3", "gemma3_text"):
        assert any(0 < layer.attention.window < 16 for layer in architecture(config).layers)


def test_parity_notices_another_checkpoint(exported: tuple[Path, Path], tmp_path: Path) -> None:
    source, artifact = exported
    other = random_model(
        tmp_path / "other", json.loads((source / "config.json").read_text())["model_type"]
    )
    state = load_file(other / "model.safetensors")
    state["model.layers.1.mlp.gate_proj.weight"] *= 1.02  # not what a norm behind it would undo
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityFailed, match="max_abs_diff"):
        check(artifact, other, [[5, 6, 7, 8, 9]], decode_steps=1)


def test_generate_matches_torch_and_stops(exported: tuple[Path, Path]) -> None:
    """A padded batch continues as in transformers; rows end one by one, then the batch ends."""
    source, artifact = exported
    tokens = np.random.default_rng(2).integers(1, 211, (3, 9))
    mask = np.ones_like(tokens)
    mask[0, :5] = 0
    decoder, model = OnnxDecoder(artifact, threads=1), load_model(source)
    free = decoder.generate(tokens, mask, 12, [])
    end = [int(free[0, 2]), int(free[1, 5]), int(free[2, 8])]
    limits = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": end[0], "eos_token_id": end}
    want = model.generate(
        torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), **limits
    )[:, 9:].numpy()
    got = decoder.generate(tokens, mask, 12, end)
    assert free.shape == (3, 12)
    np.testing.assert_array_equal(got, want)


def test_runtime_needs_no_torch(exported: tuple[Path, Path]) -> None:
    code = (
        "import sys; from edgewright.export.onnx.runtime import OnnxDecoder; import numpy as np;"
        f"one = np.ones((1, 3), np.int64); decoder = OnnxDecoder({str(exported[1])!r}, 1);"
        "print(decoder.generate(one, one, 2, []).shape);"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 2)"), done.stderr


def test_runtime_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model\.onnx"):
        OnnxDecoder(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(UsageError, match="cannot load"):
        OnnxDecoder(tmp_path)


def test_runtime_notices_a_truncated_data_file(exported: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        content = (exported[1] / name).read_bytes()
        (tmp_path / name).write_bytes(
            content[: len(content) // 2] if name.endswith("data") else content
        )
    with pytest.raises(UsageError, match="cannot load"):
        OnnxDecoder(tmp_path)
