"""llama.cpp loads our GGUF files, also of pruned models, and gives the same tokens as torch."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.checkpoints.loading import load_model
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
CONTEXT = StepContext(CalibrationData(samples=8, seq_len=64))
READER = """
import json, sys
import numpy as np
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=128, n_threads=1, logits_all=True, verbose=False)
ids, count = json.loads(sys.argv[2]), int(sys.argv[3])
model.eval(ids)
logits = np.array(model.scores[: len(ids)]).tolist()
made = []
for _ in range(count):
    made.append(int(np.argmax(model.scores[model.n_tokens - 1])))
    model.eval([made[-1]])
text = list(model.tokenize(b"12+30=42", add_bos=False))
print(json.dumps({"logits": logits, "made": made, "text": text}))
"""


def read_by_llama_cpp(path: Path, ids: list[int], count: int) -> dict[str, Any]:
    """The logits and greedy tokens of llama.cpp for a file."""
    # Build it for any processor, and without what is not needed.
    os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF")
    python = environment("llama")
    done = subprocess.run(
        [str(python), "-c", READER, str(path), json.dumps(ids), str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@torch.no_grad()
def compare(source: Path, file: Path, ids: list[int], count: int, limit: float) -> None:
    """Check that logits are near torch's, and that greedy tokens are torch's best, or a tie."""
    model = load_model(source)
    ours = model(input_ids=torch.tensor([ids])).logits[0].float()
    found = read_by_llama_cpp(file, ids, count)
    assert (ours - torch.tensor(found["logits"])).abs().max() < limit * ours.abs().max()
    made = list(ids)
    for token in found["made"]:
        last = model(input_ids=torch.tensor([made])).logits[0, -1].float()
        assert last[token] >= last.max() - limit * last.abs().max()
        made.append(token)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_runs_a_pruned_model(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    prune(
        PruneOptions(heads=0.5, ffn=0.5, criterion="magnitude"),
        make_model(family, num_hidden_layers=2, use_sliding_window=False),
        tmp_path / "pruned",
        CONTEXT,
    )
    export(
        ExportOptions(format="gguf", precision="fp16"),
        tmp_path / "pruned",
        tmp_path / "out",
        CONTEXT,
    )
    compare(tmp_path / "pruned", tmp_path / "out" / "model.gguf", list(range(40, 60)), 16, 0.02)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_trained_reasoner_says_the_same_pruned_and_quantized(
    precision: str, tmp_path: Path
) -> None:
    """On a trained model, which is sure of its tokens, they are exactly those of torch."""
    prune(PruneOptions(heads=0.25), Path(model_path(BUILTIN_MODEL)), tmp_path / "pruned", CONTEXT)
    source = tmp_path / "pruned"
    if precision == "int4":
        quantize(QuantizeOptions(), source, tmp_path / "int4", CONTEXT)
        source = tmp_path / "int4"
    options = ExportOptions.model_validate({"format": "gguf", "precision": precision})
    export(options, source, tmp_path / "out", CONTEXT)
    from edgewright.checkpoints.loading import load_tokenizer

    tokenizer = load_tokenizer(source)
    ids = tokenizer.encode("12+30=")
    found = read_by_llama_cpp(tmp_path / "out" / "model.gguf", ids, 24)
    model, made = load_model(source), list(ids)
    with torch.no_grad():
        for _ in found["made"]:
            made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
    assert found["made"] == made[len(ids) :]
    assert found["text"] == tokenizer.encode("12+30=42")
