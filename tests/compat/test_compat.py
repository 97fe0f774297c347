"""Packages of other projects read our files, each in an environment that `compat/NAME.txt` pins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.steps.context import CalibrationData, StepContext

ROOT = Path(__file__).parents[2]
READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
path = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(path, device_map="cpu", dtype=torch.float32)
kinds = sorted({type(m).__name__ for m in model.modules() if hasattr(m, "qweight")})
ids = torch.arange(40, 60).unsqueeze(0)
with torch.no_grad():
    logits = model(input_ids=ids).logits[0].float()
new = model.generate(ids, max_new_tokens=4, do_sample=False)
assert "edgewright" not in sys.modules
print(json.dumps({"kinds": kinds, "logits": logits.tolist(), "new": new[0, 20:].tolist()}))
"""


def environment(name: str) -> Path:
    """The python of an isolated environment with the pinned packages; kept in .compat/."""
    folder, pins = ROOT / ".compat" / name, ROOT / "compat" / f"{name}.txt"
    alone = pins.with_suffix(".no-deps.txt")  # packages whose own pins are out of date
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    wanted = pins.read_text() + (alone.read_text() if alone.exists() else "")
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(pins)], check=True
        )
        if alone.exists():
            flags = ["--quiet", "--no-deps", "--no-build-isolation"]
            subprocess.run(
                [str(python), "-m", "pip", "install", *flags, "-r", str(alone)], check=True
            )
        stamp.write_text(wanted)
    return python


def agreement(ours: torch.Tensor, theirs: torch.Tensor, tie: float) -> float:
    """How often both find the same token most probable, of logits [tokens, vocabulary].

    The logits of a random model lie close together. So a token also counts if its logit is at most
    `tie` below our best one: rounding decides between the two, on one processor otherwise than on
    another.
    """
    chosen = ours.gather(-1, theirs.argmax(-1, keepdim=True))[:, 0]
    return float((chosen >= ours.amax(-1) - tie).double().mean())


def assert_equal_but_for_rounding(path: Path, theirs: torch.Tensor) -> None:
    """Logits of tokens 40 to 59 are those of the checkpoint, as far as half precision can tell.

    The readers' CPU kernels compute in half precision, ours in float32. A misread layout would
    change logits by whole numbers. The limits are 2e-2 of the largest logit and 4e-3 in the mean;
    relu² of Nemotron loses more than that when the same weights are computed in bfloat16.
    """
    ids = torch.arange(40, 60).unsqueeze(0)
    with torch.no_grad():
        ours = load_model(path)(input_ids=ids).logits[0]
        rounded = load_model(path).bfloat16()(input_ids=ids).logits[0].float()
    largest = float(ours.abs().max())
    lost, off = (ours - rounded).abs(), (ours - theirs).abs()
    assert off.max() <= max(2e-2 * largest, float(lost.max()))
    assert off.mean() <= max(4e-3 * largest, float(lost.mean()))
    assert agreement(ours, theirs, tie=4e-3 * largest) >= 0.95


@pytest.mark.compat
@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "qwen2",
        "cohere2",
        "gemma2",
        "glm4",
        "granite",
        "nemotron",
        "olmo2",
        "phi3",
        "starcoder2",
    ],
)
def test_gptqmodel_reads_our_gptq_layout(family, make_model, tmp_path):
    out = tmp_path / "int4"
    quantize(
        QuantizeOptions(),
        make_model(family),
        out,
        StepContext(CalibrationData(samples=4, seq_len=64)),
    )
    done = subprocess.run(
        [str(environment("gptqmodel")), "-c", READER, str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GPTQMODEL_CPU_WORKERS": "2"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["kinds"], "no packed module: the reader dequantized or ignored the weights"
    assert_equal_but_for_rounding(out, torch.tensor(answer["logits"]))
