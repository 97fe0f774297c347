"""AutoAWQ and GPTQModel read our AWQ layout, each in its own environment."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import torch
from test_compat import READER, assert_equal_but_for_rounding, environment

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.steps.context import CalibrationData, StepContext

AUTOAWQ = """
import json, sys
import torch
import awq.models.base
# On a CPU, AutoAWQ asks for Intel's extension, which does not exist for this torch.
# Its fallback for other devices works.
awq.models.base.get_best_device = lambda: "cpu:0"
from awq import AutoAWQForCausalLM
loaded = AutoAWQForCausalLM.from_quantized(sys.argv[1], fuse_layers=False, device_map={"": "cpu"})
model = loaded.model
kinds = sorted({type(m).__name__ for m in model.modules() if hasattr(m, "qweight")})
ids = torch.arange(40, 60).unsqueeze(0)
with torch.no_grad():
    logits = model(input_ids=ids).logits[0].float()
assert "edgewright" not in sys.modules
print(json.dumps({"kinds": kinds, "logits": logits.tolist()}))
"""


@pytest.mark.compat
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(
    ("reader", "family"),
    [
        ("autoawq", "llama"),
        ("autoawq", "qwen2"),
        ("gptqmodel", "llama"),
        ("gptqmodel", "qwen2"),
        ("gptqmodel", "cohere2"),
        ("gptqmodel", "gemma2"),
        ("gptqmodel", "glm4"),
        ("gptqmodel", "granite"),
        ("gptqmodel", "olmo2"),
        ("gptqmodel", "phi3"),
        ("gptqmodel", "nemotron"),
        ("gptqmodel", "starcoder2"),
    ],
)
def test_awq_layout_is_read(reader, family, sym, make_model, tmp_path):
    out = tmp_path / "int4"
    quantize(
        QuantizeOptions(method="awq", sym=sym),
        make_model(family),
        out,
        StepContext(CalibrationData(samples=4, seq_len=64)),
    )
    done = subprocess.run(
        [str(environment(reader)), "-c", AUTOAWQ if reader == "autoawq" else READER, str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GPTQMODEL_CPU_WORKERS": "2"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["kinds"], "no packed module: the reader dequantized or ignored the weights"
    assert_equal_but_for_rounding(out, torch.tensor(answer["logits"]))
