"""Engines: our graphs in TensorRT for RTX (without a GPU), and trtexec's commands by version."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.export.tensorrt import rtx as tensorrt
from edgewright.export.tensorrt.engine import (
    EngineSpec,
    build_command,
    profile_shapes,
    run_command,
    version_of,
)

SPEC = EngineSpec(layers=2, kv_heads=2, head_dim=64, prompt=16, context=64, workspace_mib=300)
HERE = Path("m.onnx"), Path("m.engine"), Path("t.cache")


@pytest.fixture(scope="module")
def wide(make_model: Callable[..., Path]) -> Path:
    """One layer wide enough for its weights to outweigh an engine's code."""
    return make_model(
        "llama", num_hidden_layers=1, hidden_size=512, intermediate_size=2048, dtype="float16"
    )


@pytest.fixture(scope="module")
def packed(wide: Path, context: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "int4"
    quantize(QuantizeOptions(), wide, out, context)
    return out


def test_fp16_parses_and_builds(wide: Path, context: Any, tmp_path: Path) -> None:
    result = export(
        ExportOptions(format="tensorrt", precision="fp16"), wide, tmp_path / "out", context
    )
    assert re.search(
        r"TensorRT for RTX 1\.\d+\S* parses it and builds .* for SM86", result.notes[1]
    )
    provenance = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert provenance["format"] == "tensorrt"
    assert provenance["checked"]["tensorrt/engine_bytes"] > sum(
        file.stat().st_size for file in (tmp_path / "out").glob("model.onnx.data")
    )


def test_int4_stays_int4_in_the_engine(
    packed: Path, wide: Path, context: Any, tmp_path: Path
) -> None:
    export(ExportOptions(format="tensorrt", precision="int4"), packed, tmp_path / "int4", context)
    export(ExportOptions(format="tensorrt", precision="fp16"), wide, tmp_path / "fp16", context)
    low, full = (
        json.loads((tmp_path / name / "edgewright.json").read_text())["checked"]
        for name in ("int4", "fp16")
    )
    assert (
        low["tensorrt/engine_bytes"]
        < low["tensorrt/expanded_bytes"]
        < full["tensorrt/engine_bytes"]
    )
    assert low["tensorrt/engine_bytes"] < 0.4 * full["tensorrt/engine_bytes"]


def test_expanded_weights_would_be_noticed(
    packed: Path, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine as large as one with fp16 weights fails the export, and nothing is left."""
    from edgewright.errors import EdgewrightError

    monkeypatch.setattr(tensorrt, "EXPANDED", tensorrt.PACKED["INT4"])
    with pytest.raises(EdgewrightError, match="were expanded"):
        export(
            ExportOptions(format="tensorrt", precision="int4"), packed, tmp_path / "out", context
        )
    assert not (tmp_path / "out").exists()


def test_dynamic_int8_is_refused_with_the_parsers_reason(
    wide: Path, context: Any, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"parser refuses the graph: .*UINT8.*Cast") as caught:
        export(
            ExportOptions(format="tensorrt", precision="int8-dynamic"),
            wide,
            tmp_path / "out",
            context,
        )
    assert "int4" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_without_tensorrt_the_artifact_says_that_nothing_was_checked(
    wide: Path, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: None)
    result = export(
        ExportOptions(format="tensorrt", precision="fp16"), wide, tmp_path / "out", context
    )
    assert "not checked by TensorRT, which is not installed" in result.notes[1]
    assert "checked" not in json.loads((tmp_path / "out" / "edgewright.json").read_text())
    with pytest.raises(Refused, match="MatMulInteger"):
        export(
            ExportOptions(format="tensorrt", precision="int8-dynamic"),
            wide,
            tmp_path / "other",
            context,
        )


def test_int4_in_fp16_agrees_with_torch(packed: Path, context: Any, tmp_path: Path) -> None:
    result = export(
        ExportOptions(format="tensorrt", precision="int4"), packed, tmp_path / "out", context
    )
    assert result.details["parity"]["parity/top1_decode"] == 1
    assert result.details["parity"]["parity/low_bit_nodes"] == 7


# --- profiles and command lines ---


def test_profiles_cover_a_first_prompt_and_the_last_token() -> None:
    least, typical, most = profile_shapes(SPEC, "prefill")
    assert (least["input_ids"], typical["input_ids"], most["input_ids"]) == (
        (1, 1),
        (1, 16),
        (1, 16),
    )
    assert (least["attention_mask"], most["attention_mask"]) == ((1, 2), (1, 64))
    assert most["past_key_values.1.value"] == (1, 2, 48, 64)
    least, _, most = profile_shapes(SPEC, "decode")
    assert (least["attention_mask"], most["attention_mask"]) == ((1, 2), (1, 64))
    assert most["past_key_values.0.key"] == (1, 2, 63, 64)
    assert len(most) == 3 + 2 * SPEC.layers


@pytest.mark.parametrize(
    ("version", "typed"), [((10, 3, 0), True), ((10, 16, 1), True), ((11, 1, 0), False)]
)
def test_build_flags_by_version(version: tuple[int, ...], typed: bool) -> None:
    command = build_command("trtexec", version, SPEC, *HERE)
    assert ("--stronglyTyped" in command) == typed
    assert {
        "--onnx=m.onnx",
        "--saveEngine=m.engine",
        "--memPoolSize=workspace:300M",
        "--timingCacheFile=t.cache",
    } <= set(command)
    assert not [
        flag
        for flag in command
        if re.match(r"--(fp16|int8|int4|bf16|best|buildOnly|workspace|sparsity)\b", flag)
    ]
    places = [i for i, flag in enumerate(command) if flag.startswith("--profile=")]
    assert [[flag.split("=")[0] for flag in command[i : i + 4]] for i in places] == [
        ["--profile", "--minShapes", "--optShapes", "--maxShapes"]
    ] * 2
    assert "past_key_values.1.value:1x2x63x64" in command[-1]


def test_sparse_weights_are_announced() -> None:
    sparse = EngineSpec(**(vars(SPEC) | {"sparse": True}))
    assert "--sparsity=enable" in build_command("trtexec", (10, 3, 0), sparse, *HERE)


def test_run_flags_name_profile_shapes_and_inputs(tmp_path: Path) -> None:
    command = run_command(
        "trtexec", (10, 3, 0), SPEC, HERE[1], "decode", {"input_ids": Path("ids.bin")}, tmp_path
    )
    assert {
        "--useProfile=1",
        "--loadInputs=input_ids:ids.bin",
        f"--exportTimes={tmp_path / 'decode-times.json'}",
    } <= set(command)
    (shapes,) = [flag for flag in command if flag.startswith("--shapes=")]
    assert "input_ids:1x1,attention_mask:1x64" in shapes


@pytest.mark.parametrize("version", [(8, 5, 2), (8, 6, 1)])
def test_tensorrt_8_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match="half precision"):
        build_command("trtexec", version, SPEC, *HERE)


@pytest.mark.parametrize(("prompt", "context"), [(0, 64), (64, 64), (128, 64)])
def test_a_prompt_must_leave_room(prompt: int, context: int) -> None:
    with pytest.raises(Refused, match="context"):
        EngineSpec(2, 2, 64, prompt, context)


def test_versions_of_debian_packages() -> None:
    assert version_of("10.3.0.30-1+cuda12.5") == (10, 3, 0)
    assert version_of("8.5.2-1+cuda11.4") == (8, 5, 2)


def test_a_masked_first_position_is_an_empty_past(
    packed: Path, context: Any, tmp_path: Path
) -> None:
    """What the prefill profile relies on: logits after one masked position are those after none."""
    import numpy as np

    from edgewright.export.onnx.export import export_onnx
    from edgewright.export.onnx.runtime import OnnxDecoder

    export_onnx(packed, tmp_path / "out", "int4")
    decoder = OnnxDecoder(tmp_path / "out", 1)
    ids = torch.arange(5, 25).unsqueeze(0).numpy()
    plain = decoder.forward(ids, np.ones_like(ids))[0]
    one, nothing = np.array([[7]]), np.array([[1]])
    _, past = decoder.forward(one, nothing)
    masked = decoder.forward(ids, np.concatenate([0 * nothing, np.ones_like(ids)], 1), past=past)[0]
    assert np.abs(plain - masked).max() < 1e-4
