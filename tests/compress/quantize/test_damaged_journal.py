"""A damaged journal of an interrupted quantize is refused, and never another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from file_damage import DAMAGES, flip, flips

from edgewright.checkpoints.sealed import Damaged
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.quantize.resume_journal import Journal
from edgewright.errors import UsageError

LAYERS = 3
SHAPE = (2, 4, 8)
RESULTS = {"modules": {"q_proj": {"error": 0.125}}}
FILES = ["layer-00000.safetensors", "layer-00001.safetensors", "states-00002.bin"]


def tensors(index: int) -> dict[str, torch.Tensor]:
    """The tensors of a finished layer; bfloat16, packed and empty ones too."""
    generator = torch.Generator().manual_seed(index)
    return {
        "scales": torch.randn(4, 3, generator=generator).bfloat16(),
        "qweight": torch.randint(-(2**31), 2**31 - 1, (4, 4), generator=generator).int(),
        "bias": torch.zeros(0),
        "number": torch.tensor(float(index)),
    }


def interrupted(folder: Path) -> Path:
    """The journal of a run that finished two of three layers."""
    states = ActivationBuffer().allocate(*SHAPE)
    states[:] = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    journal = Journal(folder, LAYERS)
    for index in range(2):
        journal.put(index, tensors(index), RESULTS, states)
    journal.once("measured", lambda: {"sensitivity": [0.5, 0.25]})
    journal.close()
    return folder


def read(folder: Path) -> list[Any]:
    """Everything that a resumed run takes from a journal."""
    journal = Journal(folder, LAYERS)
    states = ActivationBuffer().allocate(*SHAPE)
    states[:] = torch.zeros(SHAPE)
    begin = journal.restore(states)
    layers = [journal.layer(index) for index in range(begin)]
    measured = journal.once("measured", lambda: {"sensitivity": "made again"})
    journal.close()
    flat = [
        (name, one.dtype, one.reshape(-1).view(torch.uint8).tolist())
        for kept, _ in layers
        for name, one in sorted(kept.items())
    ]
    return [begin, flat, [results for _, results in layers], measured, states[:].tolist()]


@pytest.mark.parametrize("name", [*FILES, "measured.json"])
def test_every_flipped_bit_is_noticed_or_changes_nothing(name: str, tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    expected = read(folder)
    assert expected[0] == 2
    file = folder / name
    good = file.read_bytes()
    noticed = 0
    for bit in flips(file, 60):
        flip(file, bit)
        try:
            assert read(folder) == expected, f"bit {bit}"
        except Damaged as error:
            noticed += 1
            assert name in str(error)
            assert "--fresh" in error.hint
        file.write_bytes(good)
    assert noticed > 40


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "measured.json"])
def test_every_damage_is_one_message(name: str, damage: str, tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    DAMAGES[damage](folder / name)
    with pytest.raises(UsageError, match="damaged") as caught:
        read(folder)
    assert name in str(caught.value)
    assert "--fresh" in caught.value.hint


def test_a_layer_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    """The checksum of the states belongs to their file, that of a layer to its tensors."""
    folder = interrupted(tmp_path)
    data = (folder / FILES[2]).read_bytes()
    (folder / FILES[2]).write_bytes(data[:-4] + data[-8:-4])
    with pytest.raises(Damaged, match=FILES[2]):
        read(folder)
