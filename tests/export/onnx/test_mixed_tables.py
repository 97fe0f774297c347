"""A large embedding and head with rare rows in 4 bits compute what torch does with their values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_models import gptq_model, one_thread, random_model, torch_logits
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.config import read_architecture
from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.packed_tables import pack_table
from edgewright.export.onnx.precision import precision_of
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models.packed_tables import packed_table_bytes, rare_rows
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import CalibrationData, StepContext

__all__ = ["one_thread"]

VOCABULARY = 16_460
RARE = rare_rows(VOCABULARY)
BORDERS = [
    0,
    1,
    RARE.start - 1,
    RARE.start,
    RARE.start + 1,
    RARE.stop - 1,
    RARE.stop,
    RARE.stop + 1,
    VOCABULARY - 1,
]
TABLES = ("model.embed_tokens", "lm_head")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def source(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A GPTQ checkpoint with a large vocabulary, whose tables are in floating point."""
    folder = tmp_path_factory.mktemp("mixed")
    dense = random_model(
        folder / "dense",
        "qwen2",
        vocab_size=VOCABULARY,
        num_hidden_layers=1,
        tie_word_embeddings=request.param,
    )
    checkpoint = gptq_model(folder / "gptq", dense, group=64)
    state = load_file(checkpoint / "model.safetensors")
    for name in TABLES:  # small logits, as close ones of random weights would change places
        if (weight := state.get(f"{name}.weight")) is not None:
            weight *= 0.02
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(make_model("qwen2") / "tokenizer.json", checkpoint)
    return checkpoint


def dequantized(source: Path, out: Path) -> Path:
    """The checkpoint with the values that its packed tables stand for."""
    state = load_file(source / "model.safetensors")
    for name in TABLES:
        if (weight := state.get(f"{name}.weight")) is not None:
            table = pack_table(weight, name)
            assert table.rare
            rows = torch.cat([torch.arange(RARE.start), torch.arange(RARE.stop, VOCABULARY)])
            values = torch.full_like(weight, torch.nan)
            values[rows] = table.main.dequantize()
            values[RARE.start : RARE.stop] = table.rare.dequantize()
            state[f"{name}.weight"] = values
    out.mkdir()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text((source / "config.json").read_text())
    return out


@pytest.mark.parametrize(("precision", "share"), [("int4", 1e-4), ("int4-a8", 0.05)])
def test_ids_at_all_borders(source: Path, precision: str, share: float, tmp_path: Path) -> None:
    """Every logit of every id, within a share of the size of logits: the inputs of int4-a8 round.

    Each id is a row of its own, so that its logits depend on its own embedding.
    """
    tokens = np.array(BORDERS)[:, None]
    ones = np.ones_like(tokens)
    expected = torch_logits(dequantized(source, tmp_path / "expected"), tokens, ones)
    for logits in ("all", "last"):
        out = tmp_path / logits
        cut = Cut(last_logits=logits == "last")
        export_onnx(source, out, precision, format="ort", cut=cut, packs_head=True)
        ours, _ = OnnxDecoder(out, 1).forward(tokens, ones)
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() < share * np.abs(expected).max()
        exact = torch_logits(source, tokens, ones)
        assert np.abs(expected - exact).max() > 1e-3 * np.abs(exact).max()
    tokens = np.array([BORDERS, BORDERS[::-1]])
    ones = np.ones_like(tokens)
    expected = torch_logits(tmp_path / "expected", tokens, ones)
    ours, _ = OnnxDecoder(tmp_path / "all", 1).forward(tokens, ones)
    assert np.abs(ours - expected).max() < share * np.abs(expected).max()


def test_limits_of_parity_follow_the_bits() -> None:
    plain, small, large = (precision_of("int4", rows).limits for rows in (0, 512, VOCABULARY))
    assert plain.kl < small.kl < large.kl < 0.1
    assert plain.top1 > small.top1 > large.top1 > 0.8
    assert precision_of("int4-a8", VOCABULARY).limits.kl == precision_of("int4-a8").limits.kl


def test_what_an_artifact_and_its_plan_say_of_the_tables(source: Path, tmp_path: Path) -> None:
    options = ExportOptions(format="ort", precision="int4-a8")
    done = export(options, source, tmp_path / "ort", StepContext(CalibrationData()))
    assert any("rows of rare tokens (6528 to 15947) to 4" in note for note in done.notes)
    said = json.loads((tmp_path / "ort" / "edgewright.json").read_text())
    assert said["packed_tables"] is True
    graph = onnx.load(str(tmp_path / "ort" / "model.onnx"), load_external_data=True).graph
    tables = {
        tensor.name: len(tensor.raw_data)
        for tensor in graph.initializer
        if tensor.name.startswith(tuple(f"{name}.weight" for name in TABLES))
        and "blocked" not in tensor.name
    }
    model = read_architecture(source)
    declared = packed_table_bytes(model)
    assert sum(tables.values()) == declared.embedding + declared.head
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert said["low_bit_linears"] == len(products) == said["parity"]["parity/low_bit_nodes"]
    step = {"kind": "export", "format": "ort", "precision": "int4-a8"}
    recipe = Recipe.model_validate({"model": str(source), "steps": [step]})
    row = plan_recipe(recipe)[-1]
    data = (tmp_path / "ort" / "model.onnx.data").stat().st_size
    assert row["weight_bytes"] == pytest.approx(data, rel=0.1)


@pytest.mark.parametrize("target", ["cpu", "jetson-orin-nano-8gb"])
def test_a_plan_packs_tables_once(source: Path, target: str) -> None:
    """On every device, and also if the checkpoint has packed them."""
    dense = source.parent / "dense"
    totals = {}
    for head_bits, pack_head in ((None, True), (None, False), (8, True)):
        quantize_step = {"kind": "quantize", "method": "rtn", "group_size": 64}
        quantize_step |= {"head_bits": head_bits, "embedding_bits": head_bits}
        export_step = {"kind": "export", "format": "ort", "precision": "int4"}
        recipe = Recipe.model_validate(
            {
                "model": str(dense),
                "target": target,
                "steps": [quantize_step, export_step | {"pack_head": pack_head}],
            }
        )
        _, before, after = plan_recipe(recipe)
        totals[head_bits, pack_head] = (before["total_bytes"], after["total_bytes"])
    values = VOCABULARY * 128 * (1 if read_architecture(dense).tied else 2)
    packed = packed_table_bytes(read_architecture(dense))
    floats = 4 if target == "cpu" else 2
    saved = floats * values - packed.embedding - packed.head
    assert totals[None, False][1] - totals[None, True][1] == pytest.approx(saved, rel=0.25)
    assert totals[None, True][0] == totals[None, True][1]  # the device gets its export
    assert totals[8, True][0] == totals[8, True][1] > totals[None, True][1]
