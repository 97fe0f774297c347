"""The compressed-tensors library reads our int8 layout, in its own environment."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from test_compat import agreement, environment

from edgewright.checkpoints.loading import dense_state, load_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.steps.context import CalibrationData, StepContext

IDS = torch.arange(40, 60).unsqueeze(0)
READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
from compressed_tensors.quantization import disable_quantization
from safetensors.torch import save_file
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
ids = torch.arange(40, 60).unsqueeze(0)
packed = sum(hasattr(m, "quantization_scheme") for m in model.modules())
with torch.no_grad():
    rounded = model(input_ids=ids).logits[0].float()
    model.apply(disable_quantization)
    plain = model(input_ids=ids).logits[0].float()
assert "edgewright" not in sys.modules
save_file({"rounded": rounded, "plain": plain}, sys.argv[2])
print(json.dumps({"packed": packed}))
"""


@pytest.mark.compat
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_compressed_tensors_reads_our_int8_layout(family, make_model, tmp_path):
    from safetensors.torch import load_file

    source, out = make_model(family), tmp_path / "int8"
    quantize(
        QuantizeOptions(method="int8"),
        source,
        out,
        StepContext(CalibrationData(samples=4, seq_len=64)),
    )
    done = subprocess.run(
        [
            str(environment("compressed_tensors")),
            "-c",
            READER,
            str(out),
            str(tmp_path / "logits.safetensors"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1])["packed"] == 3 * 7
    theirs = load_file(tmp_path / "logits.safetensors")
    model, original = load_model(out), load_model(source)
    with torch.no_grad():
        ours, exact = model(input_ids=IDS).logits[0], original(input_ids=IDS).logits[0]
        missing, _ = original.load_state_dict(dense_state(out), strict=False)
        assert all(name in (original._tied_weights_keys or ()) for name in missing)
        plain = original(input_ids=IDS).logits[0]
    # Without rounded activations the results are equal to float32 precision.
    assert (plain - theirs["plain"]).abs().max() <= 1e-4 * plain.abs().max()
    # The library's scale of a token is peak / 127.5; that of the kernels, and ours, is peak / 127.
    # So single values round differently, but the errors have the same size.
    assert (ours - theirs["rounded"]).abs().mean() <= 2 * (ours - exact).abs().mean()
    tie = float((ours - exact).abs().mean())
    assert agreement(ours, theirs["rounded"], tie) >= 0.9
    assert not torch.equal(theirs["rounded"], theirs["plain"])
