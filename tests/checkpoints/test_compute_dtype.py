"""The dtype that answers are computed in."""

from __future__ import annotations

import pytest
import torch

from edgewright.checkpoints.compute_dtype import fast_dtype


@pytest.mark.parametrize(
    ("stored", "capabilities", "want"),
    [
        ("bfloat16", {"amx_bf16": True}, "bfloat16"),
        ("bfloat16", {"avx512_f": True}, "float32"),
        ("float16", {"amx_bf16": True}, "float32"),
        ("float32", {"amx_bf16": True}, "float32"),
    ],
)
def test_sixteen_bits_only_where_they_are_stored_and_fast(
    monkeypatch: pytest.MonkeyPatch, stored: str, capabilities: dict[str, bool], want: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fast_dtype(stored, "cpu") == want


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_a_gpu_computes_in_what_is_stored(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert fast_dtype(stored, "cuda") == stored
