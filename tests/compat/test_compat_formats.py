"""AutoGPTQ and GPTQModel read our unusual GPTQ checkpoints: 2, 3 and 8 bits, `g_idx`, rules."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.steps.context import CalibrationData, StepContext

from test_compat import READER, environment  # isort: skip

AUTOGPTQ = """
import json, sys
import torch
from auto_gptq import AutoGPTQForCausalLM
model = AutoGPTQForCausalLM.from_quantized(
    sys.argv[1], device="cpu", use_safetensors=True, inject_fused_attention=False,
    inject_fused_mlp=False, disable_exllama=True, disable_exllamav2=True, use_triton=False,
    torch_dtype=torch.float32,
)
kinds = sorted({type(m).__module__ for m in model.modules() if hasattr(m, "qweight")})
with torch.no_grad():
    logits = model(input_ids=torch.arange(40, 60).unsqueeze(0)).logits[0].float()
assert "edgewright" not in sys.modules
print(json.dumps({"kinds": kinds, "logits": logits.tolist()}))
"""
GPTQMODEL = """
import json, sys
import torch
from gptqmodel import BACKEND, GPTQModel
model = GPTQModel.load(sys.argv[1], device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
kinds = {name: int(m.bits) for name, m in model.model.named_modules() if hasattr(m, "qweight")}
with torch.no_grad():
    logits = model.model(input_ids=torch.arange(40, 60).unsqueeze(0)).logits[0].float()
assert "edgewright" not in sys.modules
print(json.dumps({"kinds": kinds, "logits": logits.tolist()}))
"""
MakeModel = Callable[..., Path]


def read_by(name: str, script: str, path: Path) -> dict[str, Any]:
    """The answer of a reader that runs in its own environment."""
    done = subprocess.run(
        [str(environment(name)), "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GPTQMODEL_CPU_WORKERS": "2"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(path: Path) -> Tensor:
    with torch.no_grad():
        return load_model(path)(input_ids=torch.arange(40, 60).unsqueeze(0)).logits[0]


def made(out: Path, source: Path, **options: Any) -> Path:
    quantize(
        QuantizeOptions.model_validate(options),
        source,
        out,
        StepContext(CalibrationData(samples=4, seq_len=64)),
    )
    return out


@pytest.mark.compat
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"act_order": "permuted", "group_size": 32}),
        ("qwen2", {"bits": 3, "sym": False, "group_size": 32}),
        ("qwen2", {"bits": 2, "group_size": 64}),
        ("llama", {"bits": 8}),
    ],
)
def test_autogptq_reads_every_kind(
    family: str, options: dict[str, Any], make_model: MakeModel, tmp_path: Path
) -> None:
    # AutoGPTQ leaves a tied head unset, and its transformers knows only head_dim = width / heads.
    source = make_model(family, dtype="float16", head_dim=16, tie_word_embeddings=False)
    out = made(tmp_path / "out", source, **options)
    answer = read_by("autogptq", AUTOGPTQ, out)
    assert answer["kinds"], "no packed module: the reader dequantized or ignored the weights"
    theirs, expected = torch.tensor(answer["logits"]), ours(out)
    assert (expected - theirs).abs().max() <= 2e-3 * expected.abs().max()  # a float16 has 11 bits
    assert torch.equal(expected.argmax(-1), theirs.argmax(-1))


@pytest.mark.compat
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3, "group_size": 32, "sym": False},
        {"act_order": "permuted", "group_size": 32},
    ],
)
def test_gptqmodel_reads_other_kinds(
    options: dict[str, Any], make_model: MakeModel, tmp_path: Path
) -> None:
    out = made(tmp_path / "out", make_model("llama"), **options)
    answer = read_by("gptqmodel", READER, out)
    assert answer["kinds"], "no packed module: the reader dequantized or ignored the weights"
    theirs, expected = torch.tensor(answer["logits"]), ours(out)
    # GPTQModel's CPU kernel computes in half precision, ours in float32.
    assert (expected - theirs).abs().max() <= 2e-2 * expected.abs().max()
    assert (expected.argmax(-1) == theirs.argmax(-1)).float().mean() >= 0.95


@pytest.mark.compat
def test_gptqmodel_reads_rules_and_a_packed_head(make_model: MakeModel, tmp_path: Path) -> None:
    """With GPTQModel's own loader; the loader of transformers ignores `dynamic`."""
    rules = [
        {"match": "model.layers.0.*", "skip": True},
        {"match": "*.down_proj", "bits": 8},
        {"match": "*.2.*", "group_size": 32},
    ]
    out = made(tmp_path / "out", make_model("llama", dtype="float16"), rules=rules, head_bits=8)
    answer = read_by("gptqmodel", GPTQMODEL, out)
    kinds = answer["kinds"]
    assert not [name for name in kinds if name.startswith("model.layers.0.")]
    assert kinds["lm_head"] == kinds["model.layers.1.mlp.down_proj"] == 8
    assert kinds["model.layers.1.mlp.up_proj"] == kinds["model.layers.2.self_attn.q_proj"] == 4
    theirs, expected = torch.tensor(answer["logits"]), ours(out)
    assert (expected - theirs).abs().max() <= 5e-3 * expected.abs().max()  # float16 throughout
    assert (expected.argmax(-1) == theirs.argmax(-1)).float().mean() >= 0.95
