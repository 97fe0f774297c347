"""Safetensors written tensor by tensor, in any order, have the same bytes as the library's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.safetensors_writer import DTYPES, Pending, write_shards

STATE = {
    "b.weight": torch.randn(3, 5),
    "a.weight": torch.randn(4, 2).bfloat16(),
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 4),
    "ü": torch.arange(7, dtype=torch.int32),
    "a.bias": torch.randn(2).half(),
    "mask": torch.tensor([True, False, True]),
    "turned": torch.randn(4, 6).T,
    **{f"of.{name}": torch.ones(3).to(dtype) for name, dtype in DTYPES.items()},
}


def specs() -> dict[str, torch.Tensor]:
    return {name: tensor.to("meta") for name, tensor in STATE.items()}


def test_the_librarys_bytes(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    write_shards(tmp_path / "ours", Pending(specs(), reversed(STATE.items())), 10**9)
    whole = {name: tensor.contiguous() for name, tensor in STATE.items()}
    save_file(whole, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["model.safetensors"]
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs.safetensors"
    ).read_bytes()


def test_shards_hold_everything_once(tmp_path: Path) -> None:
    write_shards(tmp_path, Pending(specs(), STATE.items()), 60)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    read = [load_file(file) for file in files]
    assert sum(map(len, read)) == len(STATE)
    for part in read:
        assert all(
            torch.equal(tensor.float(), STATE[name].float()) for name, tensor in part.items()
        )
        assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= 60


def test_only_what_was_announced(tmp_path: Path) -> None:
    for given, message in (
        ({"scalar": STATE["scalar"]}, "never made"),
        ({**STATE, "scalar": torch.ones(2)}, r"scalar: \(2,\)"),
        ({**STATE, "scalar": STATE["scalar"].double()}, "torch.float64, announced as"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shards(tmp_path, Pending(specs(), given.items()), 10**9)
