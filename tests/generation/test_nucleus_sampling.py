"""Nucleus sampling exists in torch (traces) and in numpy (devices): both draw the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewright.export.onnx.sampling import Sampling, next_tokens
from edgewright.generation.sampling import nucleus_sample

ROWS = 200
VOCAB = 50


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_torch_and_numpy_draw_the_same_tokens(temperature: float, top_p: float) -> None:
    logits = 3 * np.random.default_rng(1).standard_normal((ROWS, VOCAB)).astype(np.float32)
    sampling = Sampling(temperature, top_p, seed=5)
    # numpy draws one number for each token; torch is given the same numbers.
    uniform = torch.tensor([sampling.random(row).random() for row in range(ROWS)])
    in_numpy = next_tokens(logits, [sampling] * ROWS, [sampling.random(row) for row in range(ROWS)])
    in_torch = nucleus_sample(torch.from_numpy(logits), temperature, top_p, uniform)
    assert in_torch.tolist() == in_numpy.tolist()
    assert len(set(in_numpy.tolist())) > 10
